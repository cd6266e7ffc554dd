"""``opencode-async``, or ``python -m opencode_async.cli``."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command; exits with 2 where its extra is not installed."""
    try:
        from opencode_async.cli.commands import app
    except ModuleNotFoundError as error:
        if error.name not in ("typer", "rich"):
            raise
        sys.exit("opencode-async needs its extra, cli: install typer and rich")
    app()


if __name__ == "__main__":
    main()
