"""What a user installs is the wheel: it must bring everything along."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (built,) = folder.glob("*.whl")
    return built


def test_wheel_holds_data_files(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    pages = [path.name for path in (ROOT / "upnas/report/page").iterdir() if path.is_file()]
    assert pages
    assert {f"upnas/report/page/{name}" for name in pages} <= names
    spaces = [path.name for path in (ROOT / "search_spaces").glob("*.yaml")]
    assert {"unet.yaml", "sr.yaml"} <= set(spaces)
    assert {f"upnas/search_spaces/{name}" for name in spaces} <= names
    assert {"upnas/py.typed", "upnas/launch/README.md"} <= names


def test_wheel_finds_shipped_spaces_from_an_empty_folder(wheel: Path, tmp_path: Path) -> None:
    site, empty = tmp_path / "site", tmp_path / "empty"
    zipfile.ZipFile(wheel).extractall(site)
    empty.mkdir()
    script = (
        "import upnas, sys; from upnas.cli import main; print(upnas.__file__, flush=True);"
        "sys.argv = ['upnas', 'space', 'check', 'unet.yaml', 'sr']; main()"
    )
    result = subprocess.run(
        [sys.executable, "-c", script],
        cwd=empty,
        env={**os.environ, "PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    lines = result.stdout.splitlines()
    assert lines[0].startswith(str(site)), result.stderr
    assert [line.split(",")[0] for line in lines[1:]] == ["unet.yaml: ok", "sr: ok"]
