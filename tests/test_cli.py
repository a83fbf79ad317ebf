"""The command line: exit codes, messages and output."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
from search.helpers import make_space, run

import upnas
from upnas.cli import main
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
