"""Upsamplers from outside: installed packages, modules and files; what is refused and why."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from upnas.upsamplers import (
    UPSAMPLERS,
    Bilinear,
    Carafe,
    CatalogueError,
    DySample,
    Fade,
    GuidedUpsampler,
    JointBilateralImage,
    Selector,
    Upsampler,
    build_upsampler,
    card_of,
    catalogue,
    check_contract,
    find_upsampler,
    parameters_model,
    upsampler_names,
)

EXAMPLE = Path(__file__).parents[1] / "plugin_example"

FILE = """
import torch.nn.functional as F
from upnas.upsamplers import Upsampler

class Twice(Upsampler):
    keeps_channels = True
    def __init__(self, channels, out_channels=None, *, scale_factor: int = 2, gain: float = 1.0):
        super().__init__(channels, out_channels, scale_factor=scale_factor)
        self.gain = gain
    def upsample(self, x, guide):
        return self.gain * F.interpolate(x, size=self.upsampled_size(x))
    def macs_per_pixel(self):
        return 0

class Other:
    pass
"""


@pytest.fixture
def third_parties(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[EntryPoint]]:
    entries: list[EntryPoint] = []
    monkeypatch.setattr(catalogue, "entry_points", lambda group: entries)
    caches = (catalogue._installed, catalogue._third_party, catalogue.parameters_model)
    for cache in caches:
        cache.cache_clear()
    yield entries
    for cache in caches:
        cache.cache_clear()


def entry(name: str, value: str) -> EntryPoint:
    return EntryPoint(name=name, value=value, group="upnas.upsamplers")


def test_third_parties_join_by_entry_point(third_parties: list[EntryPoint]) -> None:
    third_parties.append(entry("mine", "upnas.upsamplers.dysample:DySample"))
    assert find_upsampler("mine") is DySample
    assert set(upsampler_names()) == {*UPSAMPLERS, "mine"}


def test_third_parties_cannot_take_a_name(third_parties: list[EntryPoint]) -> None:
    third_parties.append(entry("carafe", "upnas.upsamplers.dysample:DySample"))
    with pytest.raises(CatalogueError, match=r"'carafe' = .*taken by upnas\.upsamplers\.carafe"):
        upsampler_names()


def test_third_parties_cannot_take_each_others_names(third_parties: list[EntryPoint]) -> None:
    third_parties += [entry("mine", "one:Mine"), entry("mine", "two:Mine")]
    with pytest.raises(CatalogueError, match=r"'mine' = 'two:Mine' .*taken by .*'one:Mine'"):
        upsampler_names()


def test_third_parties_must_give_an_upsampler(third_parties: list[EntryPoint]) -> None:
    third_parties += [entry("mine", "collections:OrderedDict"), entry("gone", "no_such_module:A")]
    with pytest.raises(CatalogueError, match=r"'mine' .* not a subclass"):
        find_upsampler("mine")
    with pytest.raises(
        CatalogueError, match=r"'gone' .*ModuleNotFoundError: No module named 'no_s"
    ):
        find_upsampler("gone")


def test_a_class_in_a_file(tmp_path: Path) -> None:
    (tmp_path / "ops.py").write_text(FILE)
    place = f"{tmp_path}/ops.py:Twice"
    upsampler = build_upsampler(place, 3, gain=2.0)
    x = torch.randn(1, 3, 2, 2)
    torch.testing.assert_close(upsampler(x), 2 * F.interpolate(x, scale_factor=2.0))
    assert find_upsampler(place) is type(upsampler)
    assert list(parameters_model(place).model_fields) == ["gain"]
    with pytest.raises(
        CatalogueError, match=r"has no 'Twise'\. Did you mean 'Twice'\? Its upsamplers: Twice\.$"
    ):
        find_upsampler(f"{tmp_path}/ops.py:Twise")
    with pytest.raises(CatalogueError, match="not a subclass"):
        find_upsampler(f"{tmp_path}/ops.py:Other")
    with pytest.raises(CatalogueError, match="there is no file"):
        find_upsampler(f"{tmp_path}/opps.py:Twice")
    (tmp_path / "broken.py").write_text("1 / 0")
    with pytest.raises(CatalogueError, match="ZeroDivisionError: division by zero"):
        find_upsampler(f"{tmp_path}/broken.py:Twice")
    (tmp_path / "leaves.py").write_text("import sys; sys.exit()")
    with pytest.raises(CatalogueError, match=r"leaves\.py:Twice': SystemExit\.$"):
        find_upsampler(f"{tmp_path}/leaves.py:Twice")
    with pytest.raises(CatalogueError, match=r"'ops\.py' is a file; write ops\.py:Class\."):
        find_upsampler("ops.py")


def test_classes_in_files_as_arms(tmp_path: Path) -> None:
    for folder in ("a.b", "a_b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "ops.py").write_text(FILE)
    arms = ("bilinear", f"{tmp_path}/a.b/ops.py:Twice", f"{tmp_path}/a_b/ops.py:Twice")
    selector = Selector(4, arms=arms).eval()
    assert [type(arm) for arm in selector.alternatives()] == [find_upsampler(arm) for arm in arms]
    assert selector(torch.randn(1, 4, 3, 3)).shape == (1, 4, 6, 6)
    with pytest.raises(ValueError, match=rf"arms bilinear, {tmp_path}/a\.b/ops\.py:Twice, "):
        selector.set_arm_costs((3, 3), (1.0,))


PICKY = FILE.replace("self.gain = gain", "assert channels == 36")


def test_what_a_class_raises_when_it_is_built_becomes_a_message(tmp_path: Path) -> None:
    (tmp_path / "picky.py").write_text(PICKY.replace("self.gain *", ""))
    place = f"{tmp_path}/picky.py:Twice"
    with pytest.raises(CatalogueError, match=r"picky\.py:Twice' raised AssertionError\.$"):
        build_upsampler(place, 8)
    with pytest.raises(CatalogueError, match=r"picky\.py:Twice' raised AssertionError\.$"):
        card_of(place)
    text = PICKY.replace("self.gain *", "").replace(
        "assert channels == 36", "\n        if channels != 36: raise ValueError('36 only.')"
    )
    (tmp_path / "only.py").write_text(text)
    with pytest.raises(
        CatalogueError, match=r"at 64 channels, scale_factor=2 raised ValueError: 36 only\.$"
    ):
        card_of(f"{tmp_path}/only.py:Twice")


def test_the_card_of_a_class_without_factor_2(tmp_path: Path) -> None:
    text = FILE.replace("keeps_channels = True", "keeps_channels, scales = True, frozenset({3, 4})")
    (tmp_path / "ops.py").write_text(text)
    assert card_of(f"{tmp_path}/ops.py:Twice").example_scale == 3


def test_a_class_in_a_module() -> None:
    assert find_upsampler("upnas.upsamplers.carafe:Carafe") is Carafe
    with pytest.raises(
        CatalogueError, match=r"ModuleNotFoundError: No module named 'upnas\.nothing'"
    ):
        find_upsampler("upnas.nothing:Carafe")


class Plain(Upsampler):
    """Nearest interpolation; the tests below break it."""

    def __init__(
        self, channels: int, out_channels: int | None = None, *, scale_factor: int = 2
    ) -> None:
        super().__init__(channels, out_channels, scale_factor=scale_factor)
        self.mix = nn.Conv2d(channels, self.out_channels, 1)

    def upsample(self, x: Tensor, guide: Tensor | None) -> Tensor:
        y: Tensor = F.interpolate(self.mix(x), size=self.upsampled_size(x))
        return y

    def macs_per_pixel(self) -> int:
        return self.channels * self.out_channels


class WrongSize(Plain):
    def upsample(self, x: Tensor, guide: Tensor | None) -> Tensor:
        return super().upsample(x, guide)[..., :-1]


class Double(Plain):
    def upsample(self, x: Tensor, guide: Tensor | None) -> Tensor:
        return super().upsample(x, guide).double()


class Raises(Plain):
    def upsample(self, x: Tensor, guide: Tensor | None) -> Tensor:
        raise RuntimeError("no such kernel")


class Unused(Plain):
    def __init__(
        self, channels: int, out_channels: int | None = None, *, scale_factor: int = 2
    ) -> None:
        super().__init__(channels, out_channels, scale_factor=scale_factor)
        self.spare = nn.Parameter(torch.zeros(()))


class Noisy(Plain):
    def upsample(self, x: Tensor, guide: Tensor | None) -> Tensor:
        y = super().upsample(x, guide)
        return y + torch.rand_like(y)


class AcrossTheBatch(Plain):
    def upsample(self, x: Tensor, guide: Tensor | None) -> Tensor:
        return super().upsample(x - x.mean(0, keepdim=True) * len(x), guide)


class Forgets(Plain):
    def __init__(
        self, channels: int, out_channels: int | None = None, *, scale_factor: int = 2
    ) -> None:
        super().__init__(channels, out_channels, scale_factor=scale_factor)
        self.gain = float(torch.rand(()))

    def upsample(self, x: Tensor, guide: Tensor | None) -> Tensor:
        return self.gain * super().upsample(x, guide)


class Promises(Plain):
    keeps_constants = True

    def upsample(self, x: Tensor, guide: Tensor | None) -> Tensor:
        y = super().upsample(x, guide)
        return y * torch.arange(y.shape[-1])


class Positional(Plain):
    def __init__(
        self,
        channels: int,
        out_channels: int | None = None,
        gain: int = 1,
        *,
        scale_factor: int = 2,
    ) -> None:
        super().__init__(channels, out_channels, scale_factor=scale_factor)


class Untyped(Plain):
    def __init__(self, channels, out_channels=None, *, scale_factor=2, gain=1):  # type: ignore[no-untyped-def]
        super().__init__(channels, out_channels, scale_factor=scale_factor)


class NoCost(Plain):
    macs_per_pixel = Upsampler.macs_per_pixel


class Leaves(Plain):
    def upsample(self, x: Tensor, guide: Tensor | None) -> Tensor:
        sys.exit("bye.")


class Nothing(Plain):
    def upsample(self, x: Tensor, guide: Tensor | None) -> Tensor:
        return None  # type: ignore[return-value]


class Pair(Plain):
    def upsample(self, x: Tensor, guide: Tensor | None) -> Tensor:
        y = super().upsample(x, guide)
        return y, y  # type: ignore[return-value]


class Detached(Plain):
    def upsample(self, x: Tensor, guide: Tensor | None) -> Tensor:
        return super().upsample(x, guide).detach()


class InPlace(Plain):
    def upsample(self, x: Tensor, guide: Tensor | None) -> Tensor:
        y = self.mix(x).exp()
        z = F.interpolate(y, size=self.upsampled_size(x))
        y.zero_()
        return z


class NoGuideChannels(GuidedUpsampler):
    def __init__(
        self, channels: int, out_channels: int | None = None, *, scale_factor: int = 2
    ) -> None:
        super().__init__(channels, out_channels, scale_factor=scale_factor)


class DropsGuideChannels(GuidedUpsampler):
    def __init__(
        self,
        channels: int,
        out_channels: int | None = None,
        *,
        scale_factor: int = 2,
        guide_channels: int | None = None,
    ) -> None:
        super().__init__(channels, out_channels, scale_factor=scale_factor)


def with_parameter(argument: str) -> type[Upsampler]:
    """A class with one more argument, from a module that does not evaluate its annotations."""
    source = f"""
class Typed(Plain):
    def __init__(self, channels, out_channels=None, *, scale_factor: int = 2, {argument}):
        super().__init__(channels, out_channels, scale_factor=scale_factor)
"""
    names: dict[str, Any] = {"Plain": Plain, "nn": nn, "Literal": Literal}
    exec("from __future__ import annotations\n" + source, names)
    kind: type[Upsampler] = names["Typed"]
    return kind


@pytest.mark.parametrize(
    ("argument", "reason"),
    [
        ("k: int | None = None", "default None of argument 'k' of __init__ must be a bool, a num"),
        ("k: dict = {}", r"default \{\} of argument 'k' of __init__ must be a bool"),
        ("k: list[int] = [1]", r"default \[1\] of argument 'k' .*; use tuple\[\.\.\.\]"),
        ("k: list[int] = (1,)", r"does not fit its type: .* valid list; use tuple\[\.\.\.\]"),
        ("k: tuple[tuple[int, ...], ...] = ((1,),)", "must be a bool, a number, a str or a tuple"),
        ("k: Literal['a', 'b'] = 'c'", "default 'c' .* does not fit its type: .*'a' or 'b'"),
        ("k: int = '3'", "default '3' .* does not fit its type: Input should be a valid integer"),
        ("k: Litteral['a'] = 'a'", "types of its parameters raised NameError: name 'Litteral' is"),
        ("k: nn.Module = 1", "the type of an argument of __init__ is none that a YAML can hold"),
        ("_k: int = 1", "argument '_k' of __init__ cannot be searched; give it another name"),
        ("**kw", r"\*\*kw cannot be searched: name every argument of __init__"),
    ],
)
def test_a_parameter_that_cannot_be_searched_is_refused(argument: str, reason: str) -> None:
    with pytest.raises(CatalogueError, match=rf"Typed breaks the contract: .*{reason}") as caught:
        check_contract(with_parameter(argument))
    assert not str(caught.value).endswith("..")


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        (Leaves, r"running it on \(2, 36, 1, 1\) raised SystemExit: bye\.$"),
        (Nothing, r"upsample\(\) returned NoneType, not a Tensor"),
        (Pair, r"upsample\(\) returned tuple, not a Tensor"),
        (Detached, "no gradient reaches the input"),
        (InPlace, "its backward raised RuntimeError: one of the variables needed for gradient"),
        (NoGuideChannels, "a guided upsampler needs a keyword-only guide_channels=None"),
        (DropsGuideChannels, "guide_channels of __init__ does not become the attribute"),
        (WrongSize, r"\(2, 36, 1, 1\) became \(2, 36, 2, 1\), not \(2, 36, 2, 2\)"),
        (Double, r"a torch\.float32 input gave a torch\.float64 output"),
        (Raises, r"running it on \(2, 36, 1, 1\) raised RuntimeError: no such kernel\.$"),
        (Unused, "no gradient reaches spare"),
        (Noisy, "two runs on one input differ"),
        (AcrossTheBatch, "the output depends on the rest of the batch"),
        (Forgets, "a copy with the same state_dict gives another output"),
        (Promises, r"a constant does not stay constant \(keeps_constants\)"),
        (Positional, "argument 'gain' of __init__ must be keyword-only"),
        (Untyped, "argument 'gain' of __init__ needs a type"),
        (NoCost, r"must implement macs_per_pixel\(\)\.$"),
    ],
)
def test_a_broken_contract_is_refused(kind: type[Upsampler], reason: str) -> None:
    with pytest.raises(CatalogueError, match=rf"{kind.__name__} breaks the contract: .*{reason}"):
        check_contract(kind)


def test_the_check_accepts_what_is_right_and_leaves_the_random_state() -> None:
    before = torch.get_rng_state()
    for kind in (Plain, Bilinear, Carafe, Fade, JointBilateralImage):
        check_contract(kind)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the worked example is installed, from a wheel that was built on its own."""
    folder = tmp_path_factory.mktemp("plugin")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, cwd=EXAMPLE, check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(folder / "site")
    return folder / "site"


def upnas(site: Path, cwd: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "upnas", *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )


def test_an_installed_plugin_is_in_the_list_and_in_the_space(site: Path, tmp_path: Path) -> None:
    listed = upnas(site, tmp_path, "upsamplers", "--json")
    assert listed.returncode == 0, listed.stderr
    card: dict[str, Any] = {card["name"]: card for card in json.loads(listed.stdout)}["lanczos"]
    assert card["summary"] == "Interpolation by a windowed sinc."
    assert card["parameters"] == {"lobes": 3}
    assert card["num_parameters"] == 0
    assert card["macs_per_pixel"] == 2 * 3 * (2 + 4) * 64
    unet = EXAMPLE.parents[1] / "search_spaces" / "unet.yaml"
    text = unet.read_text().replace("upsampler: [", "upsampler: [lanczos, ", 1)
    (tmp_path / "mine.yaml").write_text(text)
    checked = upnas(site, tmp_path, "space", "check", "mine.yaml")
    assert checked.returncode == 0, checked.stderr


def test_the_example_interpolates_as_its_formula_says(
    site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(site))
    kind = find_upsampler("upnas_lanczos:Lanczos")
    x = torch.randn(1, 1, 9, 8, dtype=torch.float64)
    y = kind(1, scale_factor=3)(x)

    def sinc(d: float) -> float:
        return 1.0 if d == 0 else math.sin(math.pi * d) / (math.pi * d)

    def weights(i: int, length: int) -> list[float]:
        position = (i + 0.5) / 3 - 0.5
        row = [0.0] * length
        taps = {j: position - j for j in range(-9, length + 9) if abs(position - j) < 3}
        total = sum(sinc(d) * sinc(d / 3) for d in taps.values())
        for j, d in taps.items():
            row[min(max(j, 0), length - 1)] += sinc(d) * sinc(d / 3) / total
        return row

    rows = torch.tensor([weights(i, 9) for i in range(27)], dtype=torch.float64)
    columns = torch.tensor([weights(i, 8) for i in range(24)], dtype=torch.float64)
    torch.testing.assert_close(y[0, 0], rows @ x[0, 0] @ columns.T, atol=1e-6, rtol=1e-6)


SEARCH = """
name: plugged
task: {{type: segmentation, data: {{type: filaments}}, crop: 32}}
model: {{decoder: unet, encoder: {{name: mobilenetv3_small_050, depth: 2}}}}
stages:
  default: {{upsampler: [bilinear, {place}], "{place}": {{gain: [0.5, 1.0]}}}}
objectives: [{{metric: dice}}, {{metric: latency_ms}}]
targets: [{{name: laptop, input: [3, 32, 32]}}]
training: {{steps_per_epoch: 2}}
search: {{trials: 5, rungs: [1], seeds: 1, sampler: random}}
"""


@pytest.mark.slow
def test_workers_find_a_file_next_to_the_yaml(tmp_path: Path) -> None:
    """Ray's workers run in folders of their own."""
    (tmp_path / "spaces").mkdir()
    (tmp_path / "spaces" / "ops.py").write_text(FILE)
    (tmp_path / "spaces" / "mine.yaml").write_text(SEARCH.format(place="ops.py:Twice"))
    result = upnas(tmp_path, tmp_path, "search", "--space", "spaces/mine.yaml", "--json")
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["num_trials"] == 5  # two candidates and three baselines
    lines = (tmp_path / "runs/plugged/trials.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines if "ops.py:Twice" in line]
    assert {record["state"] for record in records} == {"running", "complete"}
