"""YAML file or recorded space -> :class:`SearchSpace`, with every mistake at once."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from upnas.space.choices import Stage, resolve_stages
from upnas.space.files import find_space, shipped_folder
from upnas.space.goals import constraint_mistakes, resolve_objectives, resolve_targets
from upnas.space.parse import parse_sections, resolve_model
from upnas.space.reader import read_source
from upnas.space.source import Source, plain
from upnas.space.space import SearchSpace
from upnas.tasks import TaskConfig, metrics_of, signature_of


def load_space(name: str | Path, overrides: Mapping[str, Any] | None = None) -> SearchSpace:
    """Read and check a search space.

    Args:
        name: A path, or the name of a shipped space; a path that exists wins.
        overrides: Values that replace those of the file, by dotted path: ``search.trials``.

    Raises:
        SpaceError: With a line per mistake: file, line, YAML path, value, what is allowed.
    """
    path = find_space(name)
    shown = path.name if path.parent == shipped_folder() else str(path)
    source = read_source(path, shown).override(overrides or {})
    return parse_space(source, default_name=path.stem, path=path)


def space_from_config(config: Mapping[str, Any], name: str = "study.json") -> SearchSpace:
    """Read back :meth:`SearchSpace.to_config`.

    Args:
        config: JSON values.
        name: What messages call where they came from.

    Raises:
        SpaceError: If it is not a valid search space.
    """
    data = plain(config)
    if isinstance(data.get("stages"), dict):  # keys of JSON objects are text
        stages = data["stages"].items()
        data["stages"] = {int(key) if str(key).isdecimal() else key: entry for key, entry in stages}
    return parse_space(Source(name, data), default_name="study")


def parse_space(source: Source, *, default_name: str, path: Path | None = None) -> SearchSpace:
    """Check a parsed file and resolve it against the catalogues.

    Sections are checked apart from each other as far as possible, so that one run shows the
    mistakes of all of them.
    """
    sections, mistakes = parse_sections(source)
    task: TaskConfig | None = sections.get("task")
    signature = None if task is None else signature_of(task)
    metrics = () if task is None else metrics_of(task)

    targets, wrong = resolve_targets(sections.get("targets", ()), signature)
    mistakes += wrong
    target_names = [target.name for target in targets]
    spec, infos = None, None
    if signature is not None and "model" in sections:
        spec, infos, wrong = resolve_model(sections["model"], signature)
        mistakes += wrong
    stages: tuple[Stage, ...] = ()
    if "stages" in sections:
        folder = Path() if path is None else path.parent
        stages, wrong = resolve_stages(sections["stages"], infos, folder)
        mistakes += wrong
    objectives = None
    if task is not None and {"objectives", "targets"} <= sections.keys():
        objectives, wrong = resolve_objectives(sections["objectives"], metrics, target_names)
        mistakes += wrong
    if task is not None and {"constraints", "targets"} <= sections.keys():
        mistakes += constraint_mistakes(sections["constraints"], metrics, target_names)
    if mistakes:
        raise source.error(mistakes)
    assert task is not None  # without a mistake everything is there
    assert spec is not None
    assert objectives is not None
    constraints = sections["constraints"].records()
    wanted = [goal.metric for goal in (*objectives, *constraints)]
    return SearchSpace(
        name=sections["name"] or default_name,
        task_config=task.scoring(wanted),
        task=signature_of(task),
        model=spec,
        stages=stages,
        objectives=objectives,
        constraints=constraints,
        targets=targets,
        training=sections["training"],
        search=sections["search"],
        source=path,
    )
