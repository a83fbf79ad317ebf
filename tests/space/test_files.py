"""Where a search space is found."""

from __future__ import annotations

from pathlib import Path

import pytest

import upnas
from upnas.errors import SpaceError
from upnas.space import find_space, shipped_folder, shipped_spaces


@pytest.fixture(autouse=True)
def in_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_shipped_spaces_are_found_by_name_with_and_without_ending() -> None:
    assert {"unet", "sr"} <= set(shipped_spaces())
    assert find_space("unet") == find_space("unet.yaml") == shipped_folder() / "unet.yaml"


def test_path_that_exists_wins_over_a_shipped_name() -> None:
    Path("unet.yaml").write_text("a: 1\n")
    assert find_space("unet.yaml") == Path("unet.yaml")
    assert find_space("unet") == shipped_folder() / "unet.yaml"


def test_shipped_name_in_another_folder_is_no_shipped_space() -> None:
    with pytest.raises(SpaceError, match=r"elsewhere/unet\.yaml: no such file"):
        find_space("elsewhere/unet.yaml")


@pytest.mark.parametrize(
    ("name", "near"), [("unett.yaml", "unet.yaml"), ("unte", "unet"), ("mine.yml", "mine.yaml")]
)
def test_missing_file_names_the_nearest(name: str, near: str) -> None:
    Path("mine.yaml").write_text("a: 1\n")
    with pytest.raises(SpaceError) as caught:
        find_space(name)
    shipped = ", ".join(shipped_spaces())
    assert str(caught.value) == (
        f"{name}: no such file, and no shipped search space has this name. "
        f"Did you mean {near!r}? Shipped: {shipped}."
    )


def test_nearest_file_of_another_folder() -> None:
    Path("spaces").mkdir()
    Path("spaces/decoder.yaml").write_text("a: 1\n")
    with pytest.raises(SpaceError, match=r"Did you mean 'spaces/decoder\.yaml'\?"):
        find_space("spaces/decoders.yaml")


def test_folder_is_no_space() -> None:
    Path("spaces").mkdir()
    with pytest.raises(SpaceError, match="spaces is a folder; name a YAML file in it"):
        find_space("spaces")


def test_installed_spaces_lie_inside_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "site" / "upnas" / "search_spaces"
    folder.mkdir(parents=True)
    (folder / "only.yaml").write_text("a: 1\n")
    monkeypatch.setattr(upnas, "__file__", str(folder.parent / "__init__.py"))
    assert shipped_spaces() == ["only"]
    assert find_space("only") == folder / "only.yaml"
