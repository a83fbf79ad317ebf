"""``python -m upnas``."""

from upnas.cli import main

main()
