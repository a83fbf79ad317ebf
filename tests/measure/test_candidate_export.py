"""Export probes of candidates, part by part."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable
from types import MappingProxyType

import pytest
from models.helpers import SEGMENTATION, sr, sr_signature, unet
from torch import Tensor, nn

from upnas.errors import TargetError
from upnas.measure.export import probe as export
from upnas.measure.export.exporters import EXPORTERS
from upnas.measure.export.families import family
from upnas.measure.export.probe import NEEDED_PACKAGES, probe_candidate, probe_export
from upnas.models import build_model
from upnas.upsamplers import (
    Bilinear,
    Deferred,
    GuidedUpsampler,
    JointBilateral,
    Nearest,
    Projected,
    Upsampler,
    upsampler_names,
)

needs_onnx = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in NEEDED_PACKAGES["onnx"]),
    reason="needs onnx, onnxscript and onnxruntime (pip install upnas[onnx])",
)
SHAPE = (1, 4, 6, 5)
FORMATS = ("torch_export", "compile")


class ReadsValues(Upsampler):
    """Exports nowhere."""

    def upsample(self, x: Tensor, guide: Tensor | None) -> Tensor:
        y = x.repeat_interleave(2, 2).repeat_interleave(2, 3)
        return y * 2 if y.sum().item() > 0 else y


class ReadsGuide(GuidedUpsampler):
    """Exports nowhere because of what it does with its guide."""

    def upsample(self, x: Tensor, guide: Tensor | None) -> Tensor:
        assert guide is not None
        y = x.repeat_interleave(2, 2).repeat_interleave(2, 3)
        return y + guide.mean() if guide.sum().item() > 0 else y


class Cond(Upsampler):
    """Exports, unless it is wider than it was."""

    def upsample(self, x: Tensor, guide: Tensor | None) -> Tensor:
        y = x.repeat_interleave(2, 2).repeat_interleave(2, 3)
        return y * 2 if self.channels > 4 and y.sum().item() > 0 else y


class Net(nn.Module):
    """Upsamplers in the order in which they are given; they run in another one, if told so."""

    def __init__(self, *upsamplers: Upsampler, is_reversed: bool = False):
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, padding=1)
        self.stages = nn.ModuleList(upsamplers)
        self.is_reversed = is_reversed
        self.num_forwards = [0]

    def forward(self, x: Tensor) -> Tensor:
        self.num_forwards[0] += 1
        y: Tensor = self.conv(x)
        for stage in reversed(self.stages) if self.is_reversed else self.stages:
            assert isinstance(stage, Upsampler)
            height, width = y.shape[2:]
            if stage.deferred:
                continue
            guide = y.new_ones(y.shape[0], stage.guide_channels, 2 * height - 1, 2 * width)
            y = stage(y, size=(2 * height - 1, 2 * width), guide=guide if stage.guided else None)
        return y


class BreaksItself(Net):
    """Its upsamplers are not to blame."""

    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        return y * 2 if y.sum().item() > 0 else y


@pytest.fixture(autouse=True)
def _nothing_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export, "_outcomes", {})


@pytest.fixture
def probed(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str, tuple[int, ...]]]:
    """What was exported: (format, class, shape of the input); it really is."""
    calls: list[tuple[str, str, tuple[int, ...]]] = []

    def counting(format: str) -> Callable[[nn.Module, Tensor], Tensor]:
        def run(model: nn.Module, x: Tensor) -> Tensor:
            calls.append((format, type(getattr(model, "upsampler", model)).__name__, (*x.shape,)))
            return EXPORTERS[format](model, x)

        return run

    fakes = MappingProxyType({format: counting(format) for format in EXPORTERS})
    monkeypatch.setattr(export, "EXPORTERS", fakes)
    return calls


def bilinear_net(num_stages: int = 2) -> Net:
    return Net(*(Bilinear(4) for _ in range(num_stages)))


def test_a_candidate_that_exports() -> None:
    model = Net(Nearest(4), JointBilateral(4))
    outcomes = probe_candidate(model, SHAPE, FORMATS, reference=bilinear_net())
    assert outcomes == {"torch_export": "ok", "compile": "ok"}


def test_the_upsampler_that_does_not_export_is_named_with_its_stage() -> None:
    model = Net(Bilinear(4), ReadsValues(4), ReadsValues(4))
    outcomes = probe_candidate(model, SHAPE, FORMATS, reference=bilinear_net(3))
    assert list(outcomes) == list(FORMATS)
    for outcome in outcomes.values():
        assert outcome.startswith("stage 2 (ReadsValues): ")
        assert re.search(r"Could not guard on data-dependent expression|Tensor\.item", outcome)


def test_stages_are_counted_as_they_run() -> None:
    model = Net(ReadsValues(4), Bilinear(4), Bilinear(4), is_reversed=True)
    reference = Net(*(Bilinear(4) for _ in range(3)), is_reversed=True)
    outcomes = probe_candidate(model, SHAPE, ["torch_export"], reference=reference)
    assert outcomes["torch_export"].startswith("stage 3 (ReadsValues): ")


def test_stages_that_are_deferred_are_counted_as_well() -> None:
    model = Net(Bilinear(4), Deferred(4), ReadsValues(4))
    outcomes = probe_candidate(model, SHAPE, ["torch_export"], reference=bilinear_net(3))
    assert outcomes["torch_export"].startswith("stage 3 (ReadsValues): ")


def test_what_an_upsampler_does_with_its_guide_is_probed() -> None:
    model = Net(Bilinear(4), ReadsGuide(4, guide_channels=2))
    outcomes = probe_candidate(model, SHAPE, FORMATS, reference=bilinear_net())
    assert all(outcome.startswith("stage 2 (ReadsGuide): ") for outcome in outcomes.values())


def test_an_upsampler_inside_another_one_is_probed_as_a_part_of_it(
    probed: list[tuple[str, str, tuple[int, ...]]],
) -> None:
    model = Net(Projected(4, ReadsValues(4)), Bilinear(4))
    outcomes = probe_candidate(model, SHAPE, ["torch_export"], reference=bilinear_net())
    assert outcomes["torch_export"].startswith("stage 1 (Projected): ")
    assert [name for _, name, _ in probed] == ["Projected"]


def test_what_is_around_the_upsamplers_is_named() -> None:
    model, reference = (BreaksItself(Bilinear(4), Nearest(4)) for _ in range(2))
    outcomes = probe_candidate(model, SHAPE, FORMATS, reference=reference)
    assert all(outcome.startswith("the network itself: ") for outcome in outcomes.values())


def test_each_family_is_probed_once_as_it_is_first_seen(
    probed: list[tuple[str, str, tuple[int, ...]]],
) -> None:
    reference = bilinear_net()
    probe_candidate(Net(Nearest(4), Bilinear(4)), SHAPE, ["torch_export"], reference=reference)
    assert probed == [
        ("torch_export", "Nearest", (1, 4, 6, 5)),
        ("torch_export", "Bilinear", (1, 4, 11, 10)),
        ("torch_export", "Net", (1, 4, 6, 5)),
    ]
    probed.clear()
    # Other places, sizes and weights, and another reference of the same kind.
    candidate = Net(Bilinear(4), Nearest(4))
    outcomes = probe_candidate(candidate, (2, 4, 9, 9), FORMATS[:1], reference=bilinear_net())
    assert outcomes == {"torch_export": "ok"}
    assert probed == []
    probe_candidate(candidate, SHAPE, ["compile"], reference=reference)
    assert [(format, name) for format, name, _ in probed] == [
        ("compile", "Bilinear"),
        ("compile", "Nearest"),
        ("compile", "Net"),
    ]


def test_failures_are_remembered_too(probed: list[tuple[str, str, tuple[int, ...]]]) -> None:
    reference = bilinear_net()
    probe_candidate(Net(ReadsValues(4), Bilinear(4)), SHAPE, FORMATS[:1], reference=reference)
    model = Net(Bilinear(4), ReadsValues(4))
    outcomes = probe_candidate(model, SHAPE, FORMATS[:1], reference=reference)
    assert outcomes["torch_export"].startswith("stage 2 (ReadsValues): ")
    assert [name for _, name, _ in probed] == ["ReadsValues", "Bilinear"]


def test_a_candidate_of_known_families_does_not_even_run() -> None:
    model = Net(Nearest(4), Bilinear(4))
    probe_candidate(model, SHAPE, FORMATS, reference=bilinear_net())
    assert model.num_forwards == [0]  # a copy ran
    known = Net(Nearest(4), Bilinear(4))
    calls: list[Tensor] = []
    hook = nn.modules.module.register_module_forward_pre_hook(lambda _, args: calls.append(args[0]))
    try:
        probe_candidate(known, SHAPE, FORMATS, reference=bilinear_net())
    finally:
        hook.remove()
    assert calls == []


def test_a_candidate_is_left_as_it_was() -> None:
    model = Net(Nearest(4), Bilinear(4)).train()
    probe_candidate(model, SHAPE, ["torch_export"], reference=bilinear_net())
    assert all(module.training for module in model.modules())
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_without_formats_nothing_happens() -> None:
    class Never(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            raise AssertionError

    assert probe_candidate(Never(), SHAPE, (), reference=Never()) == {}


def test_other_widths_are_another_family() -> None:
    for channels, expected in ((4, True), (8, False)):
        model, reference = Net(Cond(channels)), Net(Bilinear(channels))
        for network in (model, reference):
            network.conv = nn.Conv2d(4, channels, 1)
        (outcome,) = probe_candidate(model, SHAPE, ["compile"], reference=reference).values()
        assert (outcome == "ok") is expected


def test_a_network_without_upsamplers_is_probed_whole(
    probed: list[tuple[str, str, tuple[int, ...]]],
) -> None:
    model = nn.Sequential(nn.Conv2d(4, 4, 1), nn.PixelShuffle(2))
    assert probe_candidate(model, SHAPE, ["compile"], reference=bilinear_net()) == {"compile": "ok"}
    assert probed == [("compile", "Sequential", SHAPE)]


def test_a_network_that_the_reference_says_nothing_about_is_probed_whole(
    probed: list[tuple[str, str, tuple[int, ...]]],
) -> None:
    model = BreaksItself(Bilinear(4))
    (outcome,) = probe_candidate(model, SHAPE, ["compile"], reference=bilinear_net(1)).values()
    assert outcome.startswith("the network itself: ")
    assert probed == [("compile", "BreaksItself", SHAPE)]


def test_unknown_formats_are_refused_before_anything_is_probed(
    probed: list[tuple[str, str, tuple[int, ...]]],
) -> None:
    with pytest.raises(TargetError, match="Did you mean 'compile'"):
        probe_candidate(bilinear_net(), SHAPE, ["torch_export", "compil"], reference=bilinear_net())
    assert probed == []


@pytest.mark.parametrize("name", sorted(set(upsampler_names()) - {"trilinear"}))
def test_every_upsampler_leaves_the_network_around_it_alone(name: str) -> None:
    """Else every candidate would be probed whole."""
    for candidate, reference, signature in (
        (unet(name, "bilinear"), unet("bilinear", "bilinear"), SEGMENTATION),
        (sr(name), sr("bilinear"), sr_signature(2)),
    ):
        try:
            model = build_model(candidate, signature)
        except ValueError:
            assert candidate.model.decoder == "sr"  # has no guide
            continue
        around, of_reference = (
            family(net, without=(Upsampler,)) for net in (model, build_model(reference, signature))
        )
        assert around == of_reference


@pytest.mark.slow
@needs_onnx
def test_real_candidates_in_all_formats() -> None:
    reference = build_model(unet("bilinear", "bilinear"), SEGMENTATION)
    shape = (1, 3, 30, 34)
    formats = tuple(NEEDED_PACKAGES)
    for candidate in (unet("dysample", "fade"), unet("jbu_image", "deferred")):
        model = build_model(candidate, SEGMENTATION).eval()
        outcomes = probe_candidate(model, shape, formats, reference=reference)
        assert outcomes == dict.fromkeys(formats, "ok")
        # Part by part is what the whole says.
        assert {format: probe_export(model, shape, format) for format in formats} == outcomes
