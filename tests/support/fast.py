"""The fast run (``make fast``, FAST=1): on the Impostor and SQLite, in seconds that are short.

The library, the tests and the Impostor wait by their event loops' clocks; where these go faster,
each wait keeps its length beside every other. Leases, which go by the database's clock, and the
commands of the bash tool take the time they take.
"""

from __future__ import annotations

import asyncio
import os
import selectors

FAST = os.environ.get("FAST") == "1"
SPEED = 2.0 if FAST else 1.0  # seconds of an event loop in one that passes


class FastSelector(selectors.DefaultSelector):
    """Waits so much shorter."""

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """See ``selectors``."""
        return super().select(None if timeout is None else timeout / SPEED)


class FastLoop(asyncio.SelectorEventLoop):
    """An event loop whose seconds are short."""

    def __init__(self) -> None:
        super().__init__(FastSelector())

    def time(self) -> float:
        """See ``asyncio``."""
        return super().time() * SPEED


new_event_loop = FastLoop if FAST else asyncio.new_event_loop
