"""The command line. Commands import what they need when they run: help answers at once."""

from __future__ import annotations

import logging
import sys


def main() -> None:
    """Entry point of the ``upnas`` script."""
    from upnas.cli.app import app
    from upnas.errors import UpnasError

    logging.basicConfig(level=logging.WARNING, format="upnas: %(message)s", stream=sys.stderr)
    try:
        app()
    except UpnasError as error:
        print(f"upnas: error: {error}", file=sys.stderr)  # noqa: T201
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        print("upnas: stopped; the same command resumes", file=sys.stderr)  # noqa: T201
        raise SystemExit(130) from None
