"""What importing costs, and that the types are shipped."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import upnas

HEAVY = ("torch", "timm", "ray", "optuna", "matplotlib", "plotly")


def loaded_after(code: str) -> list[str]:
    """Heavy packages that a fresh interpreter has loaded after some code."""
    program = f"{code}\nimport sys\nprint(*(set(sys.modules) & set({HEAVY!r})), sep='\\n')"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
    )
    marker = done.stdout.split("<<end of help>>\n")[-1]
    return sorted(marker.split())


HELP = """
import sys
sys.argv = ["upnas", *{arguments!r}]
from upnas.cli import main
try:
    main()
except SystemExit as stop:
    assert not stop.code, stop.code
print("<<end of help>>")
"""
# A mistake that needs no torch to be seen is answered as fast as help.
MISTAKE = HELP.replace("not stop.code", "stop.code == 2")


@pytest.mark.parametrize(
    "code",
    [
        "import upnas",
        HELP.format(arguments=["--help"]),
        HELP.format(arguments=["measure", "--help"]),
        HELP.format(arguments=["bench", "--help"]),
        HELP.format(arguments=["bench", "measure", "--help"]),
        MISTAKE.format(arguments=["measure"]),
    ],
    ids=["import", "help", "measure", "bench", "bench measure", "mistake"],
)
def test_importing_and_help_load_nothing_heavy(code: str) -> None:
    assert loaded_after(code) == []


def test_trials_load_torch_but_neither_ray_nor_optuna() -> None:
    loaded = loaded_after("import upnas.trial")
    assert "torch" in loaded
    assert not {"ray", "optuna"} & set(loaded)


def test_types_are_shipped() -> None:
    assert (Path(upnas.__file__).parent / "py.typed").is_file()
