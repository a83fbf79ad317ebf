"""Networks as ONNX programs."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator

import torch
from torch import Tensor, nn


def export_onnx(model: nn.Module, x: Tensor) -> bytes:
    """Export a network for inputs of one size, silently.

    Args:
        model: In eval mode, on the device and in the dtype of ``x``; it is left as it is.
        x: An example input, (B, C, H, W).

    Returns:
        The serialized ONNX model, with the weights inside.

    Raises:
        Exception: Whatever the exporter raises where it cannot; more than 2 GiB among it.
    """
    with quiet(), torch.no_grad():
        program = torch.onnx.export(model, (x,), dynamo=True, verbose=False)
        assert program is not None  # with dynamo=True it always returns one
        serialized: bytes = program.model_proto.SerializeToString()
    return serialized


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep an exporter's progress, warnings and log lines to itself; process-wide."""
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with (
            warnings.catch_warnings(action="ignore"),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            yield
    finally:
        logging.disable(disabled)
