"""Writing a growing reply to its row, off the hot path.

Each write holds the whole reply, so the pause between two grows with its size: what a turn writes
in all stays proportional to its reply, not to its square. It also grows with the time that a write
takes: hundreds of turns in one process must not keep it, and the database, busy with that alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from opencode_async.errors import LeaseLost
from opencode_async.observability.error_reporter import ErrorReporter
from opencode_async.turns.frames import FramePublisher
from opencode_async.turns.lease import Lease

RESTS = 10  # times as long as a write took is rested, but at most so many intervals
PER_PAUSE = 100_000  # characters of reply that lengthen the pause by one more `snapshot` interval


async def happens(event: asyncio.Event, *, within: float | None) -> bool:
    """Wait for the event, at most so many seconds if any are given; whether it came."""
    try:
        async with asyncio.timeout(within):
            await event.wait()
    except TimeoutError:
        pass
    return event.is_set()  # it may have come in the very moment that the time was up


class SnapshotWriter:
    """Writes what ``columns`` gives when told of a change, but not more often than due."""

    def __init__(
        self,
        lease: Lease[Any],
        publisher: FramePublisher,
        columns: Callable[[], dict[str, Any]],
        *,
        interval: float,
        on_stop: Callable[[], None],
        report: ErrorReporter,
    ) -> None:
        self._lease = lease
        self._publisher = publisher
        self._columns = columns
        self._interval = interval
        self._on_stop = on_stop
        self._report = report
        self._changed = asyncio.Event()
        self._writing = asyncio.Lock()  # an older write must not land behind a newer one
        self._ended = asyncio.Event()

    def end(self) -> None:
        """Write no more; a write under way is finished, for cancelling it costs a connection."""
        self._ended.set()
        self._changed.set()

    def changed(self) -> None:
        """There is something to write."""
        self._changed.set()

    async def write(self) -> int:
        """Write now; how many characters of text. Raises ``LeaseLost``."""
        async with self._writing:
            self._changed.clear()
            try:
                columns = self._columns()
                stop = await self._lease.store(columns)
            except BaseException:
                self._changed.set()  # the next one holds this one, too
                raise
            self._publisher.stored = columns["cursor"]
        if stop is not None:
            self._on_stop()
        return len(columns["content"]) + len(columns["reasoning"])

    async def run(self) -> None:
        """Write until the end, also after a failing write. Raises ``LeaseLost``."""
        size, took = 0, 0.0
        now = asyncio.get_running_loop().time
        while not self._ended.is_set():
            await self._changed.wait()
            rest = min(took, self._interval) * RESTS
            pause = max(rest, self._interval * (1 + size / PER_PAUSE))
            if await happens(self._ended, within=pause):
                return
            began = now()
            try:
                size = await self.write()
            except LeaseLost:
                raise
            except Exception as error:  # the database is away
                self._report(error, severity="warning", context={"during": "snapshot"})
            took = now() - began
