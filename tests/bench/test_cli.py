"""``upnas bench upsamplers`` as a user runs it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from upnas.bench.records import Benchmark
from upnas.cli import main
from upnas.cli.bench import _command


def upnas(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "upnas", "bench", "upsamplers", *arguments],
        cwd=cwd,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )


def test_quick_run(tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = upnas("--quick", "nearest", "carafe", "--out", str(out), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "quartiles" in done.stdout
    assert re.search(r"8 groups; about \d+\.\d min left", done.stderr)
    assert "[8/8]" in done.stderr

    result = Benchmark.model_validate_json((out / "upsamplers-cpu.json").read_text())
    assert result.is_complete
    assert result.command == "upnas bench upsamplers --quick nearest carafe"
    assert [group.shape.name for group in result.groups[::2]] == [
        *("quick", "quick-odd", "tutorial-4", "tutorial-8")
    ]
    for group in result.groups[:4]:
        names = {str(found.entry): found for found in group.measurements}
        assert set(names) == {"nearest", "carafe"}
        assert names["carafe"].naive is not None
        assert group.floor_percent(names["nearest"]) > 0
        assert len(group.copy_ms) >= max(len(m.lean.samples_ms) for m in group.measurements)

    markdown = (out / "upsamplers-cpu.md").read_text()
    carafe = re.findall(r"^\| carafe \|.*\|$", markdown, re.MULTILINE)
    assert len(carafe) == 4
    assert all(float(cell) > 0 for cell in carafe[0].split("|")[8:11:2])  # the two ratios
    for path in out.iterdir():  # nothing of this machine's folders
        assert str(tmp_path) not in path.read_text()
    assert (out / "upsamplers-cpu.svg").read_text().count("<svg") == 1


def test_json_is_one_line(tmp_path: Path) -> None:
    done = upnas(
        *("nearest", "--shape", "1x2x3x4", "--mode", "forward", "--budget", "0.001", "--json"),
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("\n") == 1
    (group,) = json.loads(done.stdout)["groups"]
    assert (group["mode"], group["shape"]["channels"]) == ("forward", 2)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["caraffe"], "Did you mean 'carafe'?"),
        (["--shape", "papr"], "Did you mean 'paper'?"),
        (["--threads", "4096"], "Set `threads` to 1.."),
    ],
    ids=["name", "shape", "threads"],
)
def test_mistakes_exit_with_2(
    arguments: list[str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "argv", ["upnas", "bench", "upsamplers", *arguments])
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert message in captured.err


@pytest.mark.parametrize("arguments", [["--out", "/home/me/x"], ["--out=/home/me/x"]])
def test_command_without_the_folder(arguments: list[str]) -> None:
    command = _command(["bench", "upsamplers", "a b", *arguments, "--quick"])
    assert command == "upnas bench upsamplers 'a b' --quick"
