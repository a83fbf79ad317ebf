from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(scope="session", autouse=True)
def _caches(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Iterator[Path]]:
    """Keep the user's cost cache out of everything, fixtures of whole modules included."""
    folder = tmp_path_factory.mktemp("caches")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UPNAS_CACHE", str(folder / "of-fixtures"))
        yield (folder / f"of-test-{number}" for number in itertools.count())


@pytest.fixture(autouse=True)
def _own_cache(_caches: Iterator[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Give each test a cost cache of its own: it finds nothing that another one measured."""
    monkeypatch.setenv("UPNAS_CACHE", str(next(_caches)))
