"""The README's commands and code do what it says."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from upnas.space.load import parse_space
from upnas.space.reader import parse_source
from upnas.upsamplers import UPSAMPLERS

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, flags=re.DOTALL | re.MULTILINE)


def run(command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        shlex.split(command),
        cwd=folder,
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_commands_work_in_their_order(tmp_path: Path) -> None:
    main = blocks("sh")[0].strip().rpartition("&& .venv/bin/")[2]
    listed = [line for line in blocks("sh")[2].splitlines() if line.startswith("upnas ")]
    assert main.startswith("upnas search ")
    assert len(listed) >= 5
    for command in [main, *listed]:
        if " search " in command:  # as it stands, but for the budget
            command += " --trials 4"
        result = run(command, tmp_path)
        assert result.returncode == 0, f"{command}\n{result.stdout}\n{result.stderr}"
    for study in ("unet", "sr"):
        assert (tmp_path / "runs" / study / "report.html").stat().st_size > 1e6
        assert list((tmp_path / "runs" / study).glob("events.out.tfevents.*"))


def test_yaml_is_a_valid_space() -> None:
    (text,) = blocks("yaml")
    space = parse_space(parse_source(text, "README.md"), default_name="readme")
    assert len(space.stages) == 4


def test_python_runs() -> None:
    (code,) = blocks("python")
    names: dict[str, object] = {}
    exec(code, names)
    assert [tuple(names[name].shape) for name in "yzwv"] == [  # type: ignore[attr-defined]
        (1, 64, 64, 64),
        (1, 64, 63, 64),
        (1, 64, 63, 64),
        (1, 32, 8, 64, 64),
    ]


def test_every_upsampler_is_in_the_list() -> None:
    listed = README.partition("## The upsamplers")[2].partition("\n## ")[0]
    assert set(UPSAMPLERS) <= set(re.findall(r"`(\w+)`", listed))


def test_links_lead_somewhere() -> None:
    links = re.findall(r"\]\((?!https?:)([^)#]+)\)", README)
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_pip_commands_name_extras_that_exist() -> None:
    pyproject = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    for extra in re.findall(r"\[(\w+)\]'", README):
        assert f"\n{extra} = [" in pyproject
