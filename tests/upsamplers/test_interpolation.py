from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from upnas.upsamplers import Bicubic, Bilinear, Nearest, NearestExact, Trilinear, Upsampler

SIZES = [(1, 1), (4, 3), (2, 7)]
MODES: dict[type[Upsampler], str] = {
    Nearest: "nearest",
    NearestExact: "nearest-exact",
    Bilinear: "bilinear",
    Trilinear: "trilinear",
    Bicubic: "bicubic",
}
#: Every mode in every number of axes that it is defined for.
PLACES = [(kind, dims) for kind in MODES for dims in sorted(kind.dims)]
ALIGNED = [Bilinear, Trilinear, Bicubic]


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def keys(distance: float, a: float = -0.75) -> float:
    """The cubic convolution kernel, Keys 1981, eq. 15 with a free."""
    d = abs(distance)
    if d <= 1:
        return (a + 2) * d**3 - (a + 3) * d**2 + 1
    if d < 2:
        return a * d**3 - 5 * a * d**2 + 8 * a * d - 4 * a
    return 0.0


def triangle(distance: float) -> float:
    return max(0.0, 1 - abs(distance))


def weights(kernel: str, size: int, scale_factor: int, align_corners: bool = False) -> Tensor:
    """The matrix of one axis, row by row from the definition; clamped at the border."""
    matrix = torch.zeros(scale_factor * size, size, dtype=torch.float64)
    for i in range(scale_factor * size):
        position = (i + 0.5) / scale_factor - 0.5
        if align_corners:
            position = i * (size - 1) / (scale_factor * size - 1)
        elif kernel == "linear":
            position = min(max(position, 0.0), size - 1.0)
        for tap in range(-3, size + 3):
            weight = (triangle if kernel == "linear" else keys)(position - tap)
            matrix[i, min(max(tap, 0), size - 1)] += weight
    return matrix


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("scale_factor", [2, 3])
@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize(("kind", "kernel"), [(Bilinear, "linear"), (Bicubic, "cubic")])
def test_is_separable_convolution(
    kind: type[Bilinear], kernel: str, align_corners: bool, scale_factor: int, size: tuple[int, int]
) -> None:
    x = torch.randn(2, 3, *size, dtype=torch.float64)
    rows, columns = (weights(kernel, side, scale_factor, align_corners) for side in size)
    expected = rows @ x @ columns.T
    y = kind(3, scale_factor=scale_factor, align_corners=align_corners)(x)
    torch.testing.assert_close(y, expected, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("align_corners", [False, True])
def test_trilinear_is_separable_with_a_factor_per_axis(align_corners: bool) -> None:
    x = torch.randn(2, 3, 2, 4, 3, dtype=torch.float64)
    factors = (1, 2, 3)
    matrices = [
        weights("linear", n, s, align_corners) for n, s in zip(x.shape[2:], factors, strict=True)
    ]
    expected = torch.einsum("bcdhw,pd,qh,rw->bcpqr", x, *matrices)
    y = Trilinear(3, scale_factor=factors, align_corners=align_corners)(x)
    torch.testing.assert_close(y, expected, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("scale_factor", [2, 3])
def test_antialiased_bicubic_is_keys_own_kernel_renormalised_at_the_border(
    scale_factor: int,
) -> None:
    size = 5
    matrix = torch.zeros(scale_factor * size, size, dtype=torch.float64)
    for i in range(scale_factor * size):
        for tap in range(size):
            matrix[i, tap] = keys((i + 0.5) / scale_factor - 0.5 - tap, a=-0.5)
    matrix /= matrix.sum(1, keepdim=True)
    x = torch.randn(2, 3, size, size, dtype=torch.float64)
    y = Bicubic(3, scale_factor=scale_factor, antialias=True)(x)
    torch.testing.assert_close(y, matrix @ x @ matrix.T, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("factors", [(2, 2), (3, 1), (1.5, 2.25), (2, 1, 3)], ids=str)
@pytest.mark.parametrize(("kind", "shift"), [(Nearest, 0.0), (NearestExact, 0.5)])
def test_nearest_copies_pixels(
    kind: type[Nearest], shift: float, factors: tuple[float, ...]
) -> None:
    x = torch.randn(2, 3, *(4, 7, 3)[: len(factors)])
    y = kind(3, scale_factor=factors, spatial_dims=len(factors))(x)
    expected = x
    for axis, s in enumerate(factors, start=2):
        places = range(math.floor(x.shape[axis] * s))
        index = torch.tensor([math.floor((i + shift) / s) for i in places])
        expected = expected.index_select(axis, index)
    assert torch.equal(y, expected)


def reference(kind: type[Upsampler], align_corners: bool, **arguments: Any) -> nn.Upsample:
    corners = align_corners if kind in ALIGNED else None
    return nn.Upsample(mode=MODES[kind], align_corners=corners, **arguments)


def parameters(
    kind: type[Upsampler], dims: int, align_corners: bool = False, **others: Any
) -> dict[str, Any]:
    corners = {"align_corners": align_corners} if kind in ALIGNED else {}
    return {"spatial_dims": dims, **corners, **others}


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("scale_factor", [1, 2, 3, 1.5, 2.3, (2, 1, 3), (1.3, 2, 2.7)], ids=str)
@pytest.mark.parametrize(("kind", "dims"), PLACES)
def test_agrees_with_torch_by_factor(
    kind: type[Upsampler], dims: int, scale_factor: Any, align_corners: bool
) -> None:
    if isinstance(scale_factor, tuple):
        scale_factor = scale_factor[:dims]
    x = torch.randn(2, 3, *(7, 5, 4)[:dims])
    upsampler = kind(3, **parameters(kind, dims, align_corners, scale_factor=scale_factor))
    theirs = reference(kind, align_corners, scale_factor=scale_factor)
    torch.testing.assert_close(upsampler(x), theirs(x), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("kind", "dims"), PLACES)
def test_agrees_with_torch_by_recomputed_factor(kind: type[Upsampler], dims: int) -> None:
    x = torch.randn(2, 3, *(7, 5, 4)[:dims])
    arguments: dict[str, Any] = {"scale_factor": 2.3, "recompute_scale_factor": True}
    y = kind(3, **parameters(kind, dims, **arguments))(x)
    assert torch.equal(y, reference(kind, False, **arguments)(x))
    assert not torch.equal(y, kind(3, **parameters(kind, dims, scale_factor=2.3))(x))


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("size", [(14, 10, 8), (13, 11, 5), (4, 9, 16), (1, 1, 1)], ids=str)
@pytest.mark.parametrize(("kind", "dims"), PLACES)
def test_resizes_to_any_size_as_torch_does(
    kind: type[Upsampler], dims: int, size: tuple[int, ...], align_corners: bool
) -> None:
    x = torch.randn(2, 3, *(7, 5, 4)[:dims])
    upsampler = kind(3, **parameters(kind, dims, align_corners, sizing="resize"))
    expected = reference(kind, align_corners, size=size[:dims])(x)
    assert torch.equal(upsampler(x, size=size[:dims]), expected)


@pytest.mark.parametrize("kind", [Bilinear, Bicubic])
@pytest.mark.parametrize("size", [(4, 9), (3, 2)], ids=str)
def test_antialias_widens_the_kernel_where_it_shrinks(
    kind: type[Bilinear], size: tuple[int, int]
) -> None:
    x = torch.randn(2, 3, 7, 5)
    y = kind(3, sizing="resize", antialias=True)(x, size=size)
    assert torch.equal(y, F.interpolate(x, size=size, mode=MODES[kind], antialias=True))
    assert not torch.allclose(y, kind(3, sizing="resize")(x, size=size), atol=0.01)


@pytest.mark.parametrize(("kind", "dims"), PLACES)
def test_resize_without_a_size_is_the_factor(kind: type[Upsampler], dims: int) -> None:
    x = torch.randn(2, 3, *(7, 5, 4)[:dims])
    resized = kind(3, **parameters(kind, dims, sizing="resize"))
    assert torch.equal(resized(x), kind(3, **parameters(kind, dims))(x))


@pytest.mark.parametrize(("kind", "dims"), PLACES)
def test_fractional_factors_round_down_and_crop(kind: type[Upsampler], dims: int) -> None:
    x = torch.randn(2, 3, *(7, 5, 4)[:dims])
    upsampler = kind(3, **parameters(kind, dims, scale_factor=1.5))
    y = upsampler(x)
    assert y.shape[2:] == (10, 7, 6)[:dims]
    cropped = upsampler(x, size=(10, 7, 5)[:dims])
    assert torch.equal(cropped, y[..., :5] if dims == 3 else y)
    with pytest.raises(ValueError, match=r"scale_factor=1.5: it needs an input of \(7, 6"):
        upsampler(x, size=(10, 8, 6)[:dims])


@pytest.mark.parametrize("kind", [Nearest, Bilinear, Bicubic])
def test_fractional_factors_export_with_symbolic_sizes(kind: type[Upsampler]) -> None:
    upsampler = kind(3, scale_factor=1.5)
    height, width = (torch.export.Dim(side, min=2, max=64) for side in ("height", "width"))
    shapes = ({2: height, 3: width},)
    program = torch.export.export(upsampler, (torch.randn(1, 3, 5, 7),), dynamic_shapes=shapes)
    x = torch.randn(1, 3, 12, 9)
    torch.testing.assert_close(program.module()(x), upsampler(x))


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"recompute_scale_factor": True}, "changes fractional factors only; scale_factor=2 is"),
        (
            {"recompute_scale_factor": True, "scale_factor": (2, 3)},
            r"changes fractional factors only; scale_factor=\(2, 3\) is",
        ),
        (
            {"recompute_scale_factor": True, "scale_factor": 1.5, "align_corners": True},
            "changes nothing with align_corners",
        ),
        ({"antialias": True}, "antialias changes nothing where bilinear interpolation enlarges"),
        (
            {"antialias": True, "align_corners": True, "sizing": "resize"},
            "antialias and align_corners exclude each other",
        ),
        ({"scale_factor": 0.5}, r"needs finite scale factors >= 1; got scale_factor=0.5"),
        ({"spatial_dims": 3}, "defined for 2-D features; got spatial_dims=3"),
    ],
    ids=str,
)
def test_what_changes_nothing_is_refused_with_the_reason(
    arguments: dict[str, Any], reason: str
) -> None:
    with pytest.raises(ValueError, match=f"^Bilinear.*{reason}"):
        Bilinear(3, **arguments)


@pytest.mark.parametrize("scale_factor", [2, 1.5, (2, 3)], ids=str)
def test_the_reasons_for_refusing_are_true(scale_factor: Any) -> None:
    """Antialiased bilinear enlarges as the plain one; antialiased corners are not aligned."""
    x = torch.randn(2, 3, 7, 5, dtype=torch.float64)
    plain, smooth = (
        F.interpolate(x, scale_factor=scale_factor, mode="bilinear", antialias=antialias)
        for antialias in (False, True)
    )
    torch.testing.assert_close(plain, smooth)
    for mode in ("bilinear", "bicubic"):
        aligned = F.interpolate(
            x, scale_factor=scale_factor, mode=mode, align_corners=True, antialias=True
        )
        assert not torch.allclose(aligned[..., -1, -1], x[..., -1, -1], atol=0.01)


def test_area_doubles_as_nearest_does() -> None:
    x = torch.randn(2, 3, 7, 5)
    assert torch.equal(F.interpolate(x, scale_factor=2, mode="area"), Nearest(3)(x))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    "upsampler",
    [Bicubic(8), Bicubic(8, antialias=True), Nearest(8, spatial_dims=3), Trilinear(8)],
    ids=str,
)
def test_keeps_channels_last_in_every_precision(upsampler: Upsampler, dtype: torch.dtype) -> None:
    dims = upsampler.spatial_dims
    layout = torch.channels_last if dims == 2 else torch.channels_last_3d
    x = torch.randn(2, 8, *(7, 5, 4)[:dims])
    y = copy.deepcopy(upsampler).to(dtype)(x.to(dtype).to(memory_format=layout))
    assert y.dtype == dtype
    assert y.is_contiguous(memory_format=layout)
    torch.testing.assert_close(y.float(), upsampler(x), atol=0.05, rtol=0.01)


@pytest.mark.parametrize(
    ("upsampler", "expected"),
    [
        (Nearest(8), 0),
        (Bilinear(8, scale_factor=3), 4 * 9 * 8),
        (Bilinear(8, scale_factor=(1, 2)), 4 * 2 * 8),
        (Bilinear(8, scale_factor=1.5), 72),
        (Trilinear(8), 8 * 8 * 8),
        (Bicubic(8), 16 * 4 * 8),
    ],
    ids=str,
)
def test_counts_its_multiplications(upsampler: Upsampler, expected: int) -> None:
    assert upsampler.macs_per_pixel() == expected


def test_shows_what_differs_from_the_default() -> None:
    assert repr(Bilinear(3)) == "Bilinear(3, 3, scale_factor=2)"
    shown = repr(Bicubic(3, scale_factor=1.5, antialias=True, recompute_scale_factor=True))
    assert "scale_factor=1.5, antialias=True, recompute_scale_factor=True" in shown
    assert "spatial_dims=3, align_corners=True, sizing=resize" in repr(
        Trilinear(3, align_corners=True, sizing="resize")
    )


def test_bicubic_overshoots_a_step_by_about_a_tenth() -> None:
    step = torch.cat([torch.zeros(1, 1, 8, 8), torch.ones(1, 1, 8, 8)], dim=-1)
    y = Bicubic(1)(step)
    assert y.max().item() == pytest.approx(1.105, abs=0.005)
    assert y.min().item() == pytest.approx(-0.105, abs=0.005)


@pytest.mark.parametrize("factor", [1.1, 1.3, 1.4, 1.7, 2.3, 2.6])
def test_a_fractional_factor_accepts_the_size_that_it_makes(factor: float) -> None:
    upsampler = Bilinear(1, scale_factor=factor)
    for side in range(1, 60):
        x = torch.randn(1, 1, side, 3)
        y = upsampler(x)
        torch.testing.assert_close(upsampler(x, size=y.shape[2:]), y)
