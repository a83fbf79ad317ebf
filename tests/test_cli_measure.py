"""``upnas measure``: what it measures, prints and writes, and how it answers mistakes."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pytest
from torch import nn

from upnas.cli import main
from upnas.cli.candidates import chosen_candidates, chosen_target
from upnas.cli.measure import load_network, parse_input
from upnas.errors import TargetError
from upnas.measure.environment import available_cpus
from upnas.measure.timing.latency import LatencySettings
from upnas.records import Survey
from upnas.report.words import target_words
from upnas.space import SearchSpace, default_choice, load_space
from upnas.trial import survey as survey_module

SPACE = """\
name: tiny
task: {type: segmentation, data: {type: filaments}, crop: 32}
model: {decoder: unet, encoder: {name: mobilenetv3_small_050, depth: 2}}
stages: {default: {upsampler: [nearest, bilinear, transposed]}}
targets:
  - {name: small, input: [3, 32, 32]}
  - {name: wide, input: [3, 32, 48]}
"""
NETWORKS = """\
import sys
import torch
from torch import nn

class Doubled(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, 5, 3, padding=1)

    def forward(self, x):
        return nn.functional.interpolate(self.conv(x), scale_factor=2.0)

def broken():
    raise KeyError("weights.pt")

def leaving():
    sys.exit("no weights")

def sequence():
    return [Doubled()]

def pair():
    class Pair(Doubled):
        def forward(self, x):
            return super().forward(x), x
    return Pair()
"""


class Result(NamedTuple):
    code: int
    out: str
    err: str


Measure = Callable[..., Result]


@pytest.fixture(name="folder")
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a space and a module of networks, to work in; with gates of its own."""
    (tmp_path / "tiny.yaml").write_text(SPACE)
    (tmp_path / "my_networks.py").write_text(NETWORKS)
    (tmp_path / "tmp").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    monkeypatch.setattr(tempfile, "tempdir", None)
    return tmp_path


@pytest.fixture(name="space")
def _space(folder: Path) -> SearchSpace:
    return load_space(folder / "tiny.yaml")


@pytest.fixture(name="measure")
def _measure(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Measure]:
    """Run the command in this process, with less effort than it takes for a number to be good."""
    quick = partial(LatencySettings, budget_s=0.05, max_retries=0, max_warmup=3)
    monkeypatch.setattr(survey_module, "LatencySettings", quick)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setenv("COLUMNS", "200")

    def call(*arguments: str) -> Result:
        monkeypatch.setattr(sys, "argv", ["upnas", "measure", *arguments])
        with pytest.raises(SystemExit) as caught:
            main()
        captured = capsys.readouterr()
        return Result(int(caught.value.code or 0), captured.out, captured.err)

    yield call
    sys.modules.pop("my_networks", None)


@contextmanager
def busy_processors() -> Iterator[None]:
    """One process per processor that only computes."""
    program = [sys.executable, "-c", "print(flush=True)\nwhile True: pass"]
    processes = [subprocess.Popen(program, stdout=subprocess.PIPE) for _ in range(available_cpus())]
    try:
        for process in processes:
            assert process.stdout is not None
            process.stdout.readline()
        yield
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def test_everything_about_a_space_in_one_process(folder: Path) -> None:
    (folder / "mine.json").write_text('["transposed", "nearest"]')
    arguments = ["--space", "tiny.yaml", "--candidate", "all-bilinear", "--candidate", "mine.json"]
    arguments += ["--target", "wide", "--export", "torch_export", "--predict", "--json"]
    files = ["--plot", "new/samples.svg", "--out", "new/costs.csv"]
    done = subprocess.run(
        [sys.executable, "-m", "upnas", "measure", *arguments, *files],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("\n") == 1
    assert "upnas: [2/2] transposed | nearest: " in done.stderr
    assert "new/costs.csv: 9 of 9 candidates" in done.stderr

    found = json.loads(done.stdout)
    assert found["target"]["name"] == "wide"
    assert found["command"] == f"upnas measure {' '.join([*arguments, *files])}"
    assert [entry["label"] for entry in found["entries"]] == [
        *("all-bilinear", "transposed | nearest")
    ]
    for entry in found["entries"]:
        assert entry["latency_ms"] == pytest.approx(
            entry["ratio"] * found["reference"]["latency_ms"]
        )
        low, high = entry["interval_ms"]
        assert 0 < low <= entry["latency_ms"] <= high
        assert entry["costs"]["exportable"] == {"torch_export": "ok"}
        assert entry["costs"]["training_peak_memory_mib"] > entry["costs"]["peak_memory_mib"] > 0
        latency = entry["costs"]["latency"]
        assert len(latency["samples_ms"]) == len(latency["reference_samples_ms"]) >= 6
        assert latency["conditions"]["foreign_cpus"] is not None
        words = ("stable", "rejected", "unsteady")
        assert entry["verdict"].startswith(words)
        for derived in ("latency_ms", "interval_ms", "ratio", "verdict"):
            del entry[derived]
    assert Survey.model_validate(found).stage_table is not None  # and nothing else was added

    assert ElementTree.parse(folder / "new" / "samples.svg").getroot().tag.endswith("}svg")
    head, *rows = csv.reader((folder / "new" / "costs.csv").read_text().splitlines())
    assert head[:3] == ["stage1", "stage2", "latency_ms"]
    assert len({(row[0], row[1]) for row in rows}) == len(rows) == 9
    for row in rows:
        median, low, high, peak, parameters = map(float, row[2:])
        assert 0 < low < median < high
        assert peak > 0
        assert parameters > 0


def test_the_baselines_are_measured_where_nothing_is_named(
    measure: Measure, space: SearchSpace
) -> None:
    code, out, err = measure("--space", "tiny.yaml")
    assert code == 0, err
    names = [name for name, _ in space.baselines()]
    assert len(names) > 1
    lines = out.splitlines()
    assert any(line.startswith("reference all-bilinear: ") for line in lines)
    assert f"Costs on small: {target_words(space.targets[0])}" in " ".join(out.split())
    for number, name in enumerate(names, start=1):
        assert f"upnas: [{number}/{len(names)}] {name}: " in err
        (verdict,) = (line for line in lines if line.startswith(f"{name}: "))
        assert "\N{PLUS-MINUS SIGN}" in verdict
    assert "process RSS" not in out  # an eager network is no exported one
    assert "alone" not in out  # without --predict no stages


def test_stages_are_shown_with_predict(measure: Measure) -> None:
    code, out, err = measure(
        *("--space", "tiny.yaml", "--candidate", "all-bilinear", "--candidate", "3 random"),
        "--predict",
    )
    assert code == 0, err
    assert "One upsampler alone, as a share of all-bilinear" in out
    assert "Prediction of whole networks: held-out error" in out


def test_a_network_of_the_current_folder(measure: Measure) -> None:
    code, out, err = measure(
        *("--model", "my_networks:Doubled", "--input", "2,16,24", "--batch", "3", "--json"),
        *("--memory-format", "channels_last"),
    )
    assert code == 0, err
    found = json.loads(out)
    assert found["reference_label"] == "upnas standard"
    target = found["target"]
    assert (target["batch"], target["input"]) == (3, [2, 16, 24])
    assert target["memory_format"] == "channels_last"
    (entry,) = found["entries"]
    assert (entry["label"], entry["candidate"]) == ("my_networks:Doubled", None)
    assert entry["costs"]["num_parameters"] == 5 * 2 * 9 + 5
    assert entry["latency_ms"] > 0


def test_numbers_are_printed_although_a_file_cannot_be_written(
    measure: Measure, folder: Path
) -> None:
    (folder / "file").write_text("no folder")
    code, out, err = measure(
        *("--model", "my_networks:Doubled", "--input", "2,16,16", "--plot", "file/a.svg")
    )
    assert code == 2
    assert "my_networks:Doubled: " in out
    assert "file/a.svg: cannot be written" in err


def test_strict_refuses_while_others_compute(measure: Measure) -> None:
    network = ("--model", "my_networks:Doubled", "--input", "2,16,16")
    with busy_processors():
        code, out, err = measure(*network, "--strict")
        assert (code, out) == (2, "")
        assert "CPUs busy while cpu was to be timed" in err
        assert "leave --strict out" in err
        code, out, err = measure(*network)
    assert code == 0, err
    assert "other programs used " in out


OF_MODEL = ("--model", "my_networks:Doubled", "--input", "2,16,16")
OF_SPACE = ("--space", "tiny.yaml")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "give --space SPACE or --model PLACE"),
        ((*OF_SPACE, *OF_MODEL), "give --space SPACE or --model PLACE"),
        ((*OF_SPACE, "--input", "3,8,8"), "--input is for --model"),
        ((*OF_SPACE, "--memory-format", "contiguous"), "--memory-format is for --model"),
        ((*OF_SPACE, "--out", "a.csv"), "give --predict as well"),
        ((*OF_SPACE, "--target", "smal"), "Did you mean 'small'?"),
        ((*OF_SPACE, "--candidate", "all-bilinaer"), "Did you mean 'all-bilinear'?"),
        ((*OF_SPACE, "--candidate", "mistake.json"), "mistake.json: "),
        ((*OF_SPACE, "--candidate", "all-bilinear", "--export", "onx"), "Did you mean 'onnx'?"),
        (("--space", "tinny.yaml"), "tinny.yaml"),
        (OF_MODEL[:2], "--model needs --input"),
        ((*OF_MODEL, "--predict"), "goes without --candidate, --target and --predict"),
        ((*OF_MODEL, "--candidate", "all-bilinear"), "goes without --candidate"),
        ((*OF_MODEL, "--target", "small"), "goes without --candidate"),
        ((*OF_MODEL[:3], "2,16"), "--input 2,16: not an input"),
        ((*OF_MODEL, "--runtime", "cuda_graph"), "does not run on device 'cpu'"),
        ((*OF_MODEL, "--threads", "4096"), "Set `threads` to 1.."),
        ((*OF_MODEL[:3], "7,16,16"), "does not run on an input of (1, 7, 16, 16)"),
        (("--model", "my_networks:pair", *OF_MODEL[2:]), "returned tuple"),
        (("--model", "my_networks", *OF_MODEL[2:]), "my_networks: not a place"),
    ],
)
def test_mistakes_get_one_message(
    arguments: tuple[str, ...], message: str, measure: Measure, folder: Path
) -> None:
    (folder / "mistake.json").write_text('[{"upsampler": "transposed", "parameters": {"k": 2}}, 3]')
    code, out, err = measure(*arguments)
    assert (code, out) == (2, "")
    assert err.startswith("upnas: error: ")
    assert err.count("upnas: ") - err.count("upnas: [") <= 1 + err.count("upnas: error: upnas ")
    assert message in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("my_networks", "not a place"),
        (":factory", "not a place"),
        ("nowhere.at.all:factory", "ModuleNotFoundError: No module named 'nowhere'"),
        ("my_networks:Single", "no attribute 'Single'"),
        ("my_networks:broken", "calling it raised KeyError: 'weights.pt'"),
        ("my_networks:leaving", "calling it raised SystemExit: no weights"),
        ("my_networks:sequence", "returned list"),
        ("my_networks:nn", "calling it raised TypeError"),
    ],
)
def test_places_of_no_network(place: str, message: str, measure: Measure) -> None:
    with pytest.raises(TargetError) as caught:
        load_network(place)
    assert str(caught.value).startswith(f"--model {place}: ")
    assert message in str(caught.value)


def test_a_class_is_a_factory_too(measure: Measure) -> None:
    assert isinstance(load_network("my_networks:Doubled"), nn.Module)


def test_inputs_are_three_positive_numbers() -> None:
    assert parse_input("3,512, 256") == (3, 512, 256)
    for text in ("", "3,512", "3,512,512,1", "3,0,8", "3,-4,8", "3,8.5,8", "3x8x8", "a,b,c"):
        with pytest.raises(TargetError, match="--input 3,512,512"):
            parse_input(text)


def test_the_first_target_unless_one_is_named(space: SearchSpace) -> None:
    assert chosen_target(space, None).name == "small"
    assert chosen_target(space, "wide").input == (3, 32, 48)


def test_random_candidates_are_distinct_and_follow_the_seed(space: SearchSpace) -> None:
    drawn = chosen_candidates(space, ["5 random"], seed=1)
    assert len({candidate.key for _, candidate in drawn}) == 5
    assert drawn == chosen_candidates(space, ["5"], seed=1)
    assert drawn != chosen_candidates(space, ["5 random"], seed=2)
    every = chosen_candidates(space, ["1000 random"], seed=0)
    assert {candidate.key for _, candidate in every} == {c.key for c in space.candidates()}


def test_forms_of_candidate_files(space: SearchSpace, folder: Path) -> None:
    path = folder / "candidates.json"

    def read(content: object) -> list[str]:
        path.write_text(json.dumps(content))
        found = chosen_candidates(space, [str(path)], seed=0)
        assert all(candidate.model == space.model for _, candidate in found)
        return [label for label, _ in found]

    kernel = {"upsampler": "transposed", "parameters": {"kernel_size": 2}}
    assert read(["nearest", "bilinear"]) == ["nearest | bilinear"]
    assert read(["nearest", kernel]) == ["nearest | transposed(kernel_size=2)"]
    assert read({"stages": ["nearest", "bilinear"], "dice": 0.7}) == ["nearest | bilinear"]
    several = [{"stages": ["nearest", "nearest"]}, {"stages": [kernel, "bilinear"]}]
    assert read(several) == ["nearest | nearest", "transposed(kernel_size=2) | bilinear"]

    path.write_text(json.dumps(["nearest", {"upsampler": "bilinear"}]))
    ((_, candidate),) = chosen_candidates(space, [str(path)], seed=0)
    assert candidate.stages == (default_choice("nearest"), default_choice("bilinear"))
    assert candidate.key in {known.key for known in space.candidates()}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('["nearest", ', "mistake.json: is no list of stages: Expecting value"),
        ("5", "mistake.json: is no list of stages: 5 has no stages"),
        ('["nearest", 5]', "no list of stages: 'nearest' has no stages"),
        ('{"stage": ["nearest", "nearest"]}', "mistake.json: is no list of stages: stages: Field"),
        ('["nearest"]', "mistake.json: names 1 upsamplers, but tiny has 2 stages"),
        ("[]", "mistake.json: names 0 upsamplers, but tiny has 2 stages"),
        ('["nearest", "bilinaer"]', "Did you mean 'bilinear'?"),
        ('["nearest", {"upsampler": "bilinear", "parameter": {}}]', "stages.1.parameter: Extra"),
        ('["nearest", {"upsampler": "bilinear", "parameters": 7}]', "mistake.json: is no list"),
        (
            '["nearest", {"upsampler": "transposed", "parameters": {"kernel_size": -1}}]',
            "nearest | transposed(kernel_size=-1): Upsampler 'transposed': kernel_size=-1: ",
        ),
        (
            '["nearest", {"upsampler": "bilinear", "parameters": {"mode": "area"}}]',
            "nearest | bilinear(mode=area): Upsampler 'bilinear': unknown parameter 'mode'",
        ),
    ],
)
def test_mistakes_in_candidate_files(
    content: str, message: str, measure: Measure, folder: Path
) -> None:
    (folder / "mistake.json").write_text(content)
    code, out, err = measure("--space", "tiny.yaml", "--candidate", "mistake.json")
    assert (code, out) == (2, "")
    assert err.startswith("upnas: error: ")
    assert message in err
    assert "Traceback" not in err
