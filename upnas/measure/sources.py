"""Digests of source text: of the measured networks, the instrument and third-party upsamplers.

A change of an operator must never meet a cost that was measured before it.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
import sys
import uuid
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Final

import upnas
from upnas.records import Candidate

_HERE: Final = Path(upnas.__file__).parent
_SOURCES: Final = ("upsamplers", "models", "measure")


@functools.cache
def own_source() -> str:
    """Return a digest of the networks and the instrument, read once per process."""
    files = [path for name in _SOURCES for path in _python_files(_HERE / name)]
    return _digest_of_files(files, _HERE)


def candidate_digest(candidate: Candidate) -> str:
    """Return the candidate's key, followed by a digest of code that is not from upnas.

    That code is, for each of its third-party upsamplers, the package that the class is in, or the
    single file, and likewise for its base classes. What these import from elsewhere and compiled
    extensions are not seen. Files are read once per process, as modules are.

    Returns:
        12 hex digits, or 24 where there are third-party upsamplers.

    Raises:
        CatalogueError: If an upsampler cannot be loaded.
    """
    # Here, so that a look at the cache does not load torch.
    from upnas.upsamplers import UPSAMPLERS, CatalogueError, upsampler_names

    names = {stage.upsampler for stage in candidate.stages} - set(UPSAMPLERS)
    sources = [f"{name} {_foreign_source(name)}" for name in sorted(names)]
    for name in sorted(_words_in_parameters(candidate) - set(UPSAMPLERS)):
        # An arm of a selector, and maybe a word that only looks like one.
        if ":" in name or name in upsampler_names():
            with suppress(CatalogueError):
                sources.append(f"{name} {_foreign_source(name)}")
    return candidate.key + (short_digest("\n".join(sources)) if sources else "")


def short_digest(text: str) -> str:
    """Return 12 hex digits."""
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _words_in_parameters(candidate: Candidate) -> set[str]:
    values = [value for stage in candidate.stages for _, value in stage.parameters]
    words = [word for value in values for word in (value if isinstance(value, tuple) else (value,))]
    return {word for word in words if isinstance(word, str)}


@functools.cache
def _foreign_source(name: str) -> str:
    """A digest of the code that a third-party upsampler consists of."""
    from upnas.upsamplers import find_upsampler

    known = {"upnas", "torch", *sys.stdlib_module_names}
    digests = []
    for kind in inspect.getmro(find_upsampler(name)):
        if kind.__module__.partition(".")[0] in known:
            continue
        try:
            file = Path(inspect.getfile(kind))
            root, files = _package_of(file)
            place = file.relative_to(root).as_posix()
            digests.append(f"{place} {kind.__qualname__} {_digest_of_files(files, root)}")
        except (OSError, TypeError):  # made in an interpreter, or inside an archive
            digests.append(uuid.uuid4().hex)  # unknown code must never meet an old cost
    return short_digest("\n".join(digests))


def _package_of(file: Path) -> tuple[Path, list[Path]]:
    """The outermost package that a file is in and its sources; for a lone file, itself."""
    root = file.parent
    if not (root / "__init__.py").is_file():
        return root, [file]
    while (root.parent / "__init__.py").is_file():
        root = root.parent
    return root, _python_files(root)


def _python_files(folder: Path) -> list[Path]:
    # Editors keep locks that look like source and are links to nowhere.
    return [path for path in folder.rglob("*.py") if path.is_file()]


def _digest_of_files(files: Iterable[Path], root: Path) -> str:
    """Of names relative to a folder, and contents."""
    digest = hashlib.sha256()
    for name, file in sorted((file.relative_to(root).as_posix(), file) for file in files):
        content = file.read_bytes()
        digest.update(f"{name} {len(content)}\n".encode() + content)
    return digest.hexdigest()[:12]
