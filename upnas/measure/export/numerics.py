"""How far what a runtime computes is from what the network means."""

from __future__ import annotations

import torch
from torch import Tensor


def output_error(actual: Tensor, expected: Tensor) -> float:
    """Return the relative L2 error ||actual - expected|| / ||expected||, computed in float64.

    Args:
        actual: Any shape, dtype and device.
        expected: The same shape.

    Returns:
        A finite number >= 0; 0 for equal tensors, zeros and empty ones among them.

    Raises:
        ValueError: If the shapes differ, either tensor has values that are not finite, or only the
            expected values are all zero: no relative error says how far that is.
    """
    if actual.shape != expected.shape:
        raise ValueError(
            f"The output has the shape {tuple(actual.shape)} instead of {tuple(expected.shape)}."
        )
    a, e = (tensor.detach().to("cpu", torch.float64) for tensor in (actual, expected))
    for tensor, what in ((a, "The output"), (e, "The expected output")):
        if num_bad := int((~tensor.isfinite()).sum()):
            raise ValueError(
                f"{what} has {num_bad} of {tensor.numel()} values that are not finite (NaN or "
                "infinite)."
            )
    error = torch.linalg.vector_norm(a - e).item()
    if error == 0:
        return 0.0
    if not e.any():
        raise ValueError(f"The output should be zero everywhere; its L2 norm is {error:.2g}.")
    return float(error / torch.linalg.vector_norm(e).item())
