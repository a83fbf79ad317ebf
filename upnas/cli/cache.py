"""``upnas cache``: the costs that were measured before."""

from __future__ import annotations

import json
from typing import Annotated

import typer

cache_app = typer.Typer(
    help="Look at the costs that were measured before, or forget them.", no_args_is_help=True
)

JsonOption = Annotated[bool, typer.Option("--json", help="Print one line of JSON.")]


@cache_app.command("show")
def cache_show(as_json: JsonOption = False) -> None:
    """Show where the cost cache is and how much it holds."""
    from upnas.measure.cache import CostCache

    info = CostCache().describe()
    if as_json:
        typer.echo(info.model_dump_json())
    else:
        size = f"{info.num_bytes / 2**20:.1f} MiB"
        typer.echo(f"{_entries(info.num_entries)}, {size}, in {info.folder}")


@cache_app.command("clear")
def cache_clear(as_json: JsonOption = False) -> None:
    """Forget all measured costs; searches measure them again."""
    from upnas.measure.cache import CostCache

    cache = CostCache()
    num_removed = cache.clear()
    if as_json:
        typer.echo(json.dumps({"num_removed": num_removed, "folder": str(cache.folder)}))
    else:
        typer.echo(f"removed {_entries(num_removed)} from {cache.folder}")


def _entries(count: int) -> str:
    return f"{count:,} {'entry' if count == 1 else 'entries'}"
