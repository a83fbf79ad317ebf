"""The command line: exit codes, messages and output."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest
from report.fake_study import fake_trials, make_header
from search.helpers import make_space, run

import upnas
from upnas.cli import main
from upnas.cli.tables import show_result
from upnas.front import summarise
from upnas.records import Objective
from upnas.report import ReportPaths
from upnas.store import StudyFolder
from upnas.upsamplers import UPSAMPLERS, Carafe


class Result(NamedTuple):
    code: int
    out: str
    err: str


Upnas = Callable[..., Result]


@pytest.fixture(name="upnas_")
def _upnas(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Upnas:
    """Run the command in this process, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")

    def call(*arguments: str) -> Result:
        monkeypatch.setattr(sys, "argv", ["upnas", *arguments])
        with pytest.raises(SystemExit) as caught:
            main()
        captured = capsys.readouterr()
        return Result(int(caught.value.code or 0), captured.out, captured.err)

    return call


def test_version(upnas_: Upnas) -> None:
    assert upnas_("--version") == (0, f"upnas {upnas.__version__}\n", "")


def test_unknown_space_names_the_nearest(upnas_: Upnas) -> None:
    code, out, err = upnas_("search", "--space", "unett.yaml")
    assert (code, out) == (2, "")
    assert "Did you mean 'unet.yaml'?" in err
    assert "Traceback" not in err


def test_mistake_names_file_and_line(upnas_: Upnas, tmp_path: Path) -> None:
    make_space(tmp_path)
    path = tmp_path / "small.yaml"
    path.write_text(path.read_text().replace("crop: 32", "crop: -1"))
    code, out, err = upnas_("search", "--space", "small.yaml")
    assert (code, out) == (2, "")
    assert "small.yaml:2: task.crop" in err
    assert "Traceback" not in err
    assert not (tmp_path / "runs").exists()


def test_unknown_sampler_names_the_known(upnas_: Upnas, tmp_path: Path) -> None:
    make_space(tmp_path)
    code, _, err = upnas_("search", "--space", "small.yaml", "--sampler", "nope")
    assert code == 2
    assert all(name in err for name in ("auto", "tpe", "nsga2", "gp", "random"))


def test_space_check(upnas_: Upnas, tmp_path: Path) -> None:
    make_space(tmp_path)
    (tmp_path / "bad.yaml").write_text("task: {type: nothing}\n")
    code, out, err = upnas_("space", "check", "small.yaml", "unet.yaml")
    assert (code, err) == (0, "")
    assert out.startswith("small.yaml: ok, 64 candidates\nunet.yaml: ok, ")
    code, out, err = upnas_("space", "check", "bad.yaml", "small.yaml")
    assert code == 2
    assert out == "small.yaml: ok, 64 candidates\n"
    assert "bad.yaml:1" in err
    make_space(tmp_path, upsamplers="nearest")
    assert upnas_("space", "check", "small.yaml").out == "small.yaml: ok, 1 candidate\n"


def test_space_show(upnas_: Upnas, tmp_path: Path) -> None:
    make_space(tmp_path)
    code, out, err = upnas_("space", "show", "small.yaml", "--json")
    assert (code, err) == (0, "")
    assert json.loads(out)["num_candidates"] == 64
    assert out.count("\n") == 1
    code, out, _ = upnas_("space", "show", "small.yaml")
    assert code == 0
    assert "bilinear, transposed" in out


def test_upsamplers_are_listed_with_their_properties(upnas_: Upnas) -> None:
    code, out, err = upnas_("upsamplers")
    assert (code, err) == (0, "")
    rows = {line.split()[0]: line for line in out.splitlines() if line.strip()}
    assert set(UPSAMPLERS) <= set(rows)
    assert "skip" in rows["fade"]
    assert "2-D, 3-D" in rows["transposed"]
    listed = json.loads(upnas_("upsamplers", "--json").out)
    assert [card["name"] for card in listed] == sorted(UPSAMPLERS)


@pytest.mark.parametrize("columns", ["120", "260", None])
def test_upsamplers_keep_to_columns(
    upnas_: Upnas, monkeypatch: pytest.MonkeyPatch, columns: str | None
) -> None:
    if columns is None:
        monkeypatch.delenv("COLUMNS")
    else:
        monkeypatch.setenv("COLUMNS", columns)
    widest = max(map(len, upnas_("upsamplers").out.splitlines()))
    assert widest <= int(columns or 200)
    assert widest > 120 or columns == "120"


def test_the_card_of_an_upsampler(upnas_: Upnas) -> None:
    code, out, _ = upnas_("upsamplers", "carafe")
    assert code == 0
    assert "https://arxiv.org/abs/1905.02188" in out
    assert "compressed_channels=64, kernel_size=5, encoder_kernel=3" in out
    assert all(pitfall in " ".join(out.split()) for pitfall in Carafe.pitfalls)
    card = json.loads(upnas_("upsamplers", "carafe", "--json").out)
    assert card["num_parameters"] == 64 * 64 + 64 + 64 * 9 * 100 + 100
    assert card["macs_per_pixel"] == 64 * 64 + 64 * 9 * 100 + 100 * 64


def test_an_unknown_upsampler_names_the_nearest(upnas_: Upnas) -> None:
    code, out, err = upnas_("upsamplers", "carfe")
    assert (code, out) == (2, "")
    assert "Did you mean 'carafe'?" in err
    assert "Traceback" not in err


def test_report(upnas_: Upnas, tmp_path: Path) -> None:
    run(make_space(tmp_path), tmp_path / "run")
    code, out, err = upnas_("report", "run", "--out", "elsewhere")
    assert (code, err) == (0, "")
    assert "all-transposed" in out
    names = {"report.html", "report.md", "pareto.svg", "pareto.csv"}
    assert {path.name for path in (tmp_path / "elsewhere").iterdir()} == names


METRICS = ("dice", "iou", "cldice", "precision", "recall", "hd95", "latency_ms")


def many_metrics(folder: Path, objectives: Sequence[str]) -> None:
    """A finished study that measured seven metrics, on validation and test."""
    header = make_header(
        objectives=tuple(
            Objective(metric=name, direction="minimize" if name == "latency_ms" else "maximize")
            for name in objectives
        ),
        space=make_header().space | {"task": {"metrics": METRICS[:-1]}},
    )
    study = StudyFolder(folder)
    with study.lock():
        study.create(header)
        for trial in fake_trials():
            rungs = tuple(
                rung.model_copy(
                    update={"quality": tuple((m, rung.quality[0][1]) for m in METRICS[:-1])}
                )
                for rung in trial.rungs
            )
            test = dict.fromkeys(METRICS[:-1], 0.7) if trial.test_quality else {}
            study.append(trial.model_copy(update={"rungs": rungs, "test_quality": test}))


@pytest.mark.parametrize("objectives", [METRICS, ("dice", "iou", "cldice", "latency_ms")])
def test_the_front_of_many_metrics_is_readable(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    objectives: Sequence[str],
) -> None:
    many_metrics(tmp_path, objectives)
    study = StudyFolder(tmp_path).read_study()
    front = summarise(study.header, study.trials).front
    path = tmp_path / "report.md"
    paths = ReportPaths(html=path, svg=path, csv=path, markdown=path)
    for columns in (60, 80, 120, 230, 400):
        monkeypatch.setenv("COLUMNS", str(columns))
        show_result(study, tmp_path, paths)
        out = capsys.readouterr().out
        lines = out.splitlines()
        head = next(line for line in lines if "upsamplers, deepest first" in line)
        rows = [line for line in lines if re.match(r" *\d+ {2,}\S", line)]
        assert len(rows) >= len(front)
        assert max(map(len, rows)) <= columns
        if columns < 400:  # without intervals and remarks: whole numbers, then the upsamplers
            place = head.index("upsamplers")
            num_columns = len(re.split(r" {3,}", head.strip())) - 1
            for row in rows:
                numbers = row[:place].split()
                assert len(numbers) == num_columns
                assert all(re.fullmatch(r"\d+(\.\d{2,4})?", number) for number in numbers)
        else:
            assert "\N{PLUS-MINUS SIGN}" in out
        left_out = [line for line in lines if line.startswith("Left out for want of")]
        assert len(left_out) == (columns < 230)
        assert all("see report.md: " in line for line in left_out)


def test_report_without_a_study(upnas_: Upnas) -> None:
    code, out, err = upnas_("report", "nowhere")
    assert (code, out) == (2, "")
    assert "nowhere: no study here" in err


def test_finished_study_is_shown_without_ray(upnas_: Upnas, tmp_path: Path) -> None:
    run(make_space(tmp_path), tmp_path / "run")
    code, out, err = upnas_("search", "--space", "small.yaml", "--out", "run", "--json")
    assert code == 0
    assert json.loads(out)["num_trials"] == 8
    assert "finished before" in err
    assert not (tmp_path / "run" / "ray").exists()


def test_other_budget_in_the_yaml_is_explained(upnas_: Upnas, tmp_path: Path) -> None:
    run(make_space(tmp_path), tmp_path / "run")
    code, _, err = upnas_("search", "--space", "small.yaml", "--out", "run", "--trials", "4")
    assert code == 2
    assert "search.trials: 8 -> 4" in err
    assert "--fresh" in err


def test_fresh_moves_the_old_study_aside(upnas_: Upnas, tmp_path: Path) -> None:
    run(make_space(tmp_path), tmp_path / "run")
    old = (tmp_path / "run" / "trials.jsonl").read_bytes()
    code, _, err = upnas_(
        "search", "--space", "small.yaml", "--out", "run", "--fresh", "--address", "nonsense"
    )
    assert code == 2
    assert "not an address" in err
    (aside,) = tmp_path.glob("run.*")
    assert str(aside.name) in err
    assert (aside / "trials.jsonl").read_bytes() == old
    assert not (tmp_path / "run" / "trials.jsonl").exists()


def test_unwritable_folder(upnas_: Upnas, tmp_path: Path) -> None:
    make_space(tmp_path)
    (tmp_path / "run").write_text("a file where the folder should be")
    code, out, err = upnas_("search", "--space", "small.yaml", "--out", "run")
    assert (code, out) == (2, "")
    assert "cannot be written" in err
    assert "Traceback" not in err


def test_address_of_nothing(tmp_path: Path) -> None:
    make_space(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]  # free again after the block, and nothing answers
    command = [sys.executable, "-m", "upnas", "search", "--space", "small.yaml"]
    done = subprocess.run(
        [*command, "--address", f"127.0.0.1:{port}"],
        cwd=tmp_path,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    assert f"--address 127.0.0.1:{port}: no Ray cluster answers there" in done.stderr
    assert "ray start --head" in done.stderr
    assert "Traceback" not in done.stderr
