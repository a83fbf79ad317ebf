from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from upnas.upsamplers.functional import sampling
from upnas.upsamplers.functional.sampling import positions, sample, sample_at

LAYOUTS = [torch.contiguous_format, torch.channels_last]


def read(x: Tensor, row: float, column: float) -> Tensor:
    """Bilinear read of (C, H, W) at a position in pixels, clamped to the border."""
    h, w = x.shape[-2:]
    row, column = min(max(row, 0.0), h - 1.0), min(max(column, 0.0), w - 1.0)
    i, j = min(int(row), max(h - 2, 0)), min(int(column), max(w - 2, 0))
    a, b = row - i, column - j
    below, right = min(i + 1, h - 1), min(j + 1, w - 1)
    top = (1 - b) * x[:, i, j] + b * x[:, i, right]
    bottom = (1 - b) * x[:, below, j] + b * x[:, below, right]
    return (1 - a) * top + a * bottom


@pytest.fixture(autouse=True, params=[1, 10**6], ids=["corners", "grid_sample"])
def _way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test holds for both ways of reading, whichever the number of channels picks."""
    monkeypatch.setattr(sampling, "WIDE", request.param)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("size", [(3, 4), (1, 5), (4, 1), (1, 1)])
def test_reads_bilinearly_up_to_the_border(
    size: tuple[int, int], layout: torch.memory_format
) -> None:
    torch.manual_seed(0)
    (h, w), groups = size, 2
    x = torch.randn(2, 6, h, w, dtype=torch.float64).contiguous(memory_format=layout)
    rows, columns = (
        torch.rand(2, groups, 5, 3, dtype=torch.float64) * (side + 3) - 2 for side in size
    )
    y = sample_at(x, rows, columns)
    for n in range(2):
        for g in range(groups):
            part = slice(3 * g, 3 * g + 3)
            for i in range(5):
                for j in range(3):
                    place = rows[n, g, i, j].item(), columns[n, g, i, j].item()
                    torch.testing.assert_close(y[n, part, i, j], read(x[n, part], *place))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_keeps_dtype_and_channels_last(dtype: torch.dtype, layout: torch.memory_format) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 4, 5, 6).to(dtype).contiguous(memory_format=layout)
    offset = torch.randn(2, 2 * 2 * 4, 5, 6)
    y = sample(x, offset, None, 2, 2)
    assert y.dtype == dtype
    if layout is torch.channels_last:
        assert y.is_contiguous(memory_format=layout)
    expected = sample(x.double().contiguous(), offset.double(), None, 2, 2)
    torch.testing.assert_close(y.double(), expected, atol=0.02, rtol=0.01)


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("size", [(3, 5), (1, 4), (1, 1)])
def test_traced_graphs_sample_alike(size: tuple[int, int], groups: int) -> None:
    """A compiler or an exporter gets grid_sample, a CPU gets the sum of the corners."""

    class Module(nn.Module):
        def forward(self, x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
            return sample_at(x, rows, columns)

    torch.manual_seed(0)
    x = torch.randn(2, 4, *size, dtype=torch.float64, requires_grad=True)
    rows, columns = (
        (torch.rand(2, groups, 7, 6, dtype=torch.float64) * 8 - 2).requires_grad_()
        for _ in range(2)
    )
    arguments = (x, rows, columns)
    program = torch.export.export(Module(), arguments)
    assert any("grid_sampler" in str(node.target) for node in program.graph.nodes)
    y, expected = program.module()(*arguments), sample_at(*arguments)
    torch.testing.assert_close(y, expected)
    got = torch.autograd.grad(y.square().sum(), arguments)
    torch.testing.assert_close(got, torch.autograd.grad(expected.square().sum(), arguments))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_gradients(layout: torch.memory_format) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 4, 3, 5, dtype=torch.float64).contiguous(memory_format=layout)
    offset, scope = (torch.randn(2, 16, 3, 5, dtype=torch.float64) for _ in range(2))
    arguments = tuple(tensor.requires_grad_() for tensor in (x, offset, scope))
    assert torch.autograd.gradcheck(
        lambda x, offset, scope: sample(x, offset, scope, 2, 2), arguments, fast_mode=True
    )


def test_either_form_of_the_offsets() -> None:
    torch.manual_seed(0)
    offset, scope = torch.randn(2, 2, 2 * 3 * 4, 5, 6).unbind()
    by_phase = positions(offset, scope, 3, 2)
    shuffled = positions(F.pixel_shuffle(offset, 2), F.pixel_shuffle(scope, 2), 3, 2)
    torch.testing.assert_close(by_phase, shuffled)
    assert by_phase[0].shape == (2, 3, 10, 12)


@pytest.mark.parametrize("scoped", [False, True])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_positions_are_exact_in_half_precision(dtype: torch.dtype, scoped: bool) -> None:
    """Positions in half precision would be off by pixels at this width."""
    torch.manual_seed(0)
    offset, scope = torch.randn(2, 1, 2 * 4 * 4, 3, 500).to(dtype).unbind()
    got = positions(offset, scope if scoped else None, 4, 2)
    exact = positions(offset.double(), scope.double() if scoped else None, 4, 2)
    for a, b in zip(got, exact, strict=True):
        assert a.dtype == torch.float32
        assert (a - b).abs().max() < 0.01


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_reads_at_the_right_place(
    dtype: torch.dtype, layout: torch.memory_format
) -> None:
    """A ramp of one level per pixel returns the position itself, up to its own rounding."""
    torch.manual_seed(0)
    ramp = (torch.arange(500) % 2).to(dtype).expand(1, 4, 3, 500)
    offset = (0.1 * torch.randn(1, 8 * 4, 3, 500)).to(dtype)
    y = sample(ramp.contiguous(memory_format=layout), offset, None, 4, 2)
    _, columns = positions(offset.double(), None, 4, 2)
    columns = columns.clamp(0, 499)
    left = columns.floor()
    expected = torch.where(left % 2 == 0, columns - left, 1 - (columns - left))
    assert (y.double() - expected).abs().max() < 0.01


@pytest.mark.parametrize("layout", LAYOUTS)
def test_one_map_after_another(layout: torch.memory_format) -> None:
    """Nothing of a size, a dtype or a device is remembered."""
    torch.manual_seed(0)
    for height, width, dtype in [
        (4, 5, torch.float32),
        (5, 4, torch.float64),
        (4, 5, torch.float64),
    ]:
        x = torch.randn(1, 2, height, width, dtype=dtype).contiguous(memory_format=layout)
        y = sample(x, x.new_zeros(1, 8, height, width), None, 1, 2)
        torch.testing.assert_close(y, F.interpolate(x, scale_factor=2, mode="bilinear"))
    meta = sample(x.to("meta"), x.new_zeros(1, 8, 4, 5, device="meta"), None, 1, 2)
    assert (meta.device.type, meta.shape) == ("meta", (1, 2, 8, 10))


def test_static_and_dynamic_scope() -> None:
    offset = torch.ones(1, 2, 4, 4)
    rows, columns = positions(offset, None, 1, 2)
    centres = torch.tensor([-0.25, 0.25, 0.75, 1.25])
    torch.testing.assert_close(rows[0, 0, :, 0], centres + 0.25)
    torch.testing.assert_close(columns[0, 0, 0], centres + 0.25)
    rows, _ = positions(offset, torch.full_like(offset, 2.0), 1, 2)
    torch.testing.assert_close(rows[0, 0, :, 0], centres + 0.5 / (1 + math.exp(-2)))


def test_a_position_that_is_not_a_number_harms_no_other_pixel() -> None:
    x = torch.randn(1, 3, 6, 6)
    rows, columns = torch.zeros(1, 3, 4, 4), torch.ones(1, 3, 4, 4)
    expected = sample_at(x, rows, columns)
    rows[0, 1, 2, 3] = math.nan
    differs = sample_at(x, rows, columns) != expected  # true where it is not a number
    assert differs.nonzero().tolist() in ([], [[0, 1, 2, 3]])
