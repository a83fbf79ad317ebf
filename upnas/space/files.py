"""Where search spaces are found: a path that exists, else a shipped name."""

from __future__ import annotations

from pathlib import Path

import upnas
from upnas.errors import SpaceError, suggest_name


def shipped_folder() -> Path:
    """The folder of shipped search spaces: inside the wheel, or at the top of a source checkout."""
    package = Path(upnas.__file__).parent
    inside = package / "search_spaces"
    return inside if inside.is_dir() else package.parent / "search_spaces"


def shipped_spaces() -> list[str]:
    """The names of the shipped search spaces, sorted."""
    return sorted(path.stem for path in shipped_folder().glob("*.yaml"))


def find_space(name: str | Path) -> Path:
    """Resolve what a user typed to a file.

    Args:
        name: A path, or the name of a shipped space with or without ``.yaml``. A path that
            exists wins over a shipped name.

    Raises:
        SpaceError: If there is neither; names the nearest existing one.
    """
    path = Path(name)
    if path.is_file():
        return path
    shipped = shipped_spaces()
    if path.parent == Path() and path.name.removesuffix(".yaml") in shipped:
        return shipped_folder() / f"{path.name.removesuffix('.yaml')}.yaml"
    if path.is_dir():
        raise SpaceError(f"{name} is a folder; name a YAML file in it.")
    neighbours = [str(p) for p in sorted(path.parent.glob("*.y*ml"))]
    known = [*neighbours, *(f"{s}.yaml" for s in shipped), *shipped]
    raise SpaceError(
        f"{name}: no such file, and no shipped search space has this name."
        f"{suggest_name(str(name), known)} Shipped: {', '.join(shipped)}."
    )
