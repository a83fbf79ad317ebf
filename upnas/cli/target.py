"""``upnas target``: what this machine can measure on."""

from __future__ import annotations

import json
from typing import Annotated

import typer

target_app = typer.Typer(help="Look at what costs can be measured on.", no_args_is_help=True)


@target_app.callback()
def _group() -> None:
    """Keep `show` a word of its own: typer makes the only command of a group the group itself."""


@target_app.command("show")
def target_show(
    space: Annotated[
        str | None,
        typer.Argument(
            help="A YAML file, or a shipped one: its targets. If absent: all that could be asked "
            "of this machine.",
            metavar="SPACE",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one line of JSON.")] = False,
) -> None:
    """Show what this machine serves, or a space's targets; exits with 2 if one is not served."""
    if space is None:
        _show_machine(as_json)
    else:
        _show_targets(space, as_json)


def _show_machine(as_json: bool) -> None:
    from upnas.cli.target_tables import machine_json, offers, show_machine
    from upnas.measure.environment import describe_environment

    environment, found = describe_environment(), offers()
    if as_json:
        typer.echo(json.dumps(machine_json(environment, found)))
    else:
        show_machine(environment, found)


def _show_targets(space: str, as_json: bool) -> None:
    from upnas.cli.target_tables import show_targets, targets_json
    from upnas.measure.targets import missing_for
    from upnas.space import load_space

    targets = load_space(space).targets
    missing = [missing_for(target) for target in targets]
    if as_json:
        typer.echo(json.dumps(targets_json(targets, missing)))
    else:
        show_targets(targets, missing)
    if any(missing):
        raise typer.Exit(2)
