"""Checkerboard that the weights promise: the gain of each output phase for a constant input.

A phase is the place of an output pixel within its block of s x s. Sugawara et al., 2018,
https://arxiv.org/abs/1806.02658, section 3: an upsampler makes no checkerboard in steady state if
and only if all phases have the same gain.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Final, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from upnas.upsamplers import Upsampler

#: PyTorch's own, whose gains are read off the weights.
TransposedConvolution: TypeAlias = nn.ConvTranspose2d | nn.ConvTranspose3d

#: Side of the probed maps. Their centre is 4 pixels from the border, beyond the reach of every
#: kernel of the catalogue, so no padding is seen.
PROBE_SIDE: Final = 9
#: The largest spread that is told, for gains that cancel: records hold finite numbers only.
MAX_SPREAD: Final = 1000.0
_PROBES_AT_ONCE: Final = 64


def dc_gains(upsampler: Upsampler | TransposedConvolution) -> Tensor:
    """The gains D_p of every phase p, from each input channel to each output channel.

    Measured in double precision in eval mode: the response to a constant 1 in one channel minus
    the response to zero, away from the border. For a linear operator these are the sums of the
    kernel's taps in phase p; the bias drops out. An operator with an activation is measured by its
    answer to this step from zero.

    A content-aware operator (CARAFE, DySample, ...) predicts its kernel from the constant map. A
    guided one sees a guide of ones, without an edge to follow. Kernels whose weights sum to one
    then give equal gains whatever was learned: on flat regions they cannot make a checkerboard.
    An upsampler that picks by resolution is measured as what it is pinned to; see
    :func:`upnas.upsamplers.pin`.

    PyTorch's transposed convolutions have those sums, too, with their stride as the factor and
    whatever their padding, dilation and groups.

    Each input channel is a forward pass over 9 x 9 pixels: well below a second up to C = 128, some
    seconds at 512.

    Args:
        upsampler: One of ``upnas``, or a transposed convolution; on any device, not changed.

    Returns:
        (C, C_out, number of phases), on the CPU.

    Raises:
        ValueError: If a factor is no integer: there are no phases then.
    """
    if isinstance(upsampler, TransposedConvolution):
        return _tap_sums(upsampler)
    if not all(isinstance(s, int) for s in upsampler.factors):
        raise ValueError(f"phases need integer scale factors; got {upsampler.factors}.")
    probe = copy.deepcopy(upsampler).cpu().double().eval()
    sides = (PROBE_SIDE,) * upsampler.spatial_dims
    full = [PROBE_SIDE * s for s in upsampler.factors]

    def centre(levels: Tensor) -> Tensor:
        """The block of the central pixel (N, C_out, phases), for constant inputs (N, C)."""
        x = levels[(...,) + (None,) * len(sides)].expand(*levels.shape, *sides)
        guide = None
        if probe.guided:
            guide = x.new_ones(len(x), probe.guide_channels, *full)
        y: Tensor = probe(x, guide=guide)
        for axis, s in enumerate(upsampler.factors, start=2):
            y = y.narrow(axis, PROBE_SIDE // 2 * s, s)
        return y.flatten(2)

    with torch.no_grad():
        units = torch.eye(upsampler.channels, dtype=torch.float64)
        silence = centre(torch.zeros_like(units[:1]))
        return torch.cat([centre(some) - silence for some in torch.split(units, _PROBES_AT_ONCE)])


def dc_gain_spread(upsampler: Upsampler | TransposedConvolution) -> float:
    """Standard deviation of the phases' gains over their mean; 0 means no checkerboard.

    sqrt(mean_p ||D_p - D||^2) / ||D|| with D = mean_p D_p and Frobenius norms over the channels,
    see :func:`dc_gains`. Weights only: it needs no data. It does not see a bias that differs by
    phase (sub-pixel convolutions have one) nor what a non-constant input excites; the lattice
    energy ratio of outputs does.

    Args:
        upsampler: One of ``upnas``, or a transposed convolution; on any device, not changed.

    Returns:
        At least 0 and at most :data:`MAX_SPREAD`, which a mean gain of 0 has, too; 0 for an
        operator that ignores its input.

    Raises:
        ValueError: If a factor is no integer.
    """
    gains = dc_gains(upsampler)
    mean = gains.mean(2, keepdim=True)
    spread = float((gains - mean).square().sum((0, 1)).mean().sqrt())
    size = float(torch.linalg.vector_norm(mean))
    if size == 0:
        return MAX_SPREAD if spread else 0.0
    return min(spread / size, MAX_SPREAD)


def network_dc_gain_spread(network: nn.Module) -> float:
    """The largest :func:`dc_gain_spread` of a network's upsamplers and transposed convolutions.

    An upsampler inside another one (the arm of a selector) counts as a part of it. Seen are those
    of ``upnas`` and modules ``nn.ConvTranspose2d`` and ``3d``. A network without any has 0, which
    says nothing then: what else it enlarges with (``nn.PixelShuffle``, a function) is not measured.
    """
    return max([dc_gain_spread(upsampler) for upsampler in _upsamplers(network)], default=0.0)


def _tap_sums(convolution: TransposedConvolution) -> Tensor:
    """The gains (C, C_out, number of phases) of a transposed convolution: sums of its taps."""
    gains = convolution.weight.detach().cpu().double()  # (C, C_out / groups, *kernel)
    for axis, s in enumerate(convolution.stride):
        taps = convolution.dilation[axis] * torch.arange(convolution.kernel_size[axis])
        # A tap of input i goes to output s i - padding + (dilated) tap.
        phases = F.one_hot((taps - int(convolution.padding[axis])) % s, s).double()
        gains = torch.tensordot(gains, phases, dims=([2], [0]))  # phases to the end, in order
    blocks = torch.stack(gains.flatten(2).chunk(convolution.groups))
    # A group has no part in the outputs of another one.
    dense = torch.einsum("gcop,gh->gchop", blocks, torch.eye(len(blocks), dtype=gains.dtype))
    return dense.flatten(2, 3).flatten(0, 1)


def _upsamplers(module: nn.Module) -> Iterator[Upsampler | TransposedConvolution]:
    if isinstance(module, Upsampler | TransposedConvolution):
        yield module
        return
    for child in module.children():
        yield from _upsamplers(child)
