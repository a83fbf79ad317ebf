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
from typing import Any

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
    Upsampler,
    build_upsampler,
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
    with pytest.raises(CatalogueError, match=r"has no 'Twise'\. Did you mean 'Twice'\?"):
        find_upsampler(f"{tmp_path}/ops.py:Twise")
    with pytest.raises(CatalogueError, match="not a subclass"):
        find_upsampler(f"{tmp_path}/ops.py:Other")
    with pytest.raises(CatalogueError, match="there is no file"):
        find_upsampler(f"{tmp_path}/opps.py:Twice")
    (tmp_path / "broken.py").write_text("1 / 0")
    with pytest.raises(CatalogueError, match="ZeroDivisionError: division by zero"):
        find_upsampler(f"{tmp_path}/broken.py:Twice")


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


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        (WrongSize, r"\(2, 36, 1, 1\) became \(2, 36, 2, 1\), not \(2, 36, 2, 2\)"),
        (Double, r"a torch\.float32 input gave a torch\.float64 output"),
        (Raises, r"running it on \(2, 36, 1, 1\) raised RuntimeError: no such kernel"),
        (Unused, "no gradient reaches spare"),
        (Noisy, "two runs on one input differ"),
        (AcrossTheBatch, "the output depends on the rest of the batch"),
        (Forgets, "a copy with the same state_dict gives another output"),
        (Promises, r"a constant does not stay constant \(keeps_constants\)"),
        (Positional, "argument 'gain' of __init__ must be keyword-only"),
        (Untyped, "argument 'gain' of __init__ needs a type"),
        (NoCost, "must implement macs_per_pixel"),
    ],
)
def test_a_broken_contract_is_refused(kind: type[Upsampler], reason: str) -> None:
    with pytest.raises(CatalogueError, match=rf"{kind.__name__} breaks the contract: .*{reason}"):
        check_contract(kind)


def test_the_check_accepts_what_is_right_and_leaves_the_random_state() -> None:
    before = torch.get_rng_state()
    for kind in (Plain, Bilinear, Carafe):
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
