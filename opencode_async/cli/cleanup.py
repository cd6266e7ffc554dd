"""What is old, as an operator says it, and what has become of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import aclosing
from datetime import timedelta
from typing import Any

from opencode_async.opencode import Opencode

UNITS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def age(text: str) -> timedelta:
    """``90d``, ``12h``, ``2w``, ``30m``; raises ``ValueError`` for anything else."""
    number, unit = text[:-1], UNITS.get(text[-1:])
    if unit is None or not (number.isascii() and number.isdigit()):
        raise ValueError(f"not an age: {text!r}")
    return timedelta(**{unit: int(number)})


async def removed(agent: Opencode[Any, Any], older_than: timedelta) -> AsyncGenerator[str, None]:
    """How much is gone by now, said again and again, at least once."""
    counts: Counter[str] = Counter()
    async with agent.passive():
        yield _said(counts)
        async with aclosing(agent.cleanup(older_than=older_than)) as things:
            async for thing in things:
                counts[thing.kind] += 1
                yield _said(counts)


def _said(counts: Counter[str]) -> str:
    return f"{counts['conversation']} conversations, {counts['session']} orphaned sessions removed"
