from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from upnas.errors import SpaceError
from upnas.space import SearchSpace, load_space

MINIMAL = """\
task: {type: segmentation}
model:
  encoder: {name: resnet18, depth: 3}
  decoder: unet
stages:
  default: {upsampler: bilinear}
"""

Load = Callable[[str], SearchSpace]
Refuse = Callable[[str], list[str]]


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Load:
    """Load YAML text as the file ``my.yaml`` of the current folder."""
    monkeypatch.chdir(tmp_path)

    def _load(text: str) -> SearchSpace:
        Path("my.yaml").write_text(text, encoding="utf-8")
        return load_space("my.yaml")

    return _load


@pytest.fixture
def refuse(load: Load) -> Refuse:
    """Load YAML text that is wrong; return the lines of the message."""

    def _refuse(text: str) -> list[str]:
        with pytest.raises(SpaceError) as caught:
            load(text)
        return str(caught.value).splitlines()

    return _refuse
