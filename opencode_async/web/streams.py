"""What the open streams of an agent share: how often they are pinged, and when the server goes.

uvicorn waits for streams at its exit, and they go on unless they know.
"""

from __future__ import annotations

import asyncio
import contextvars
import signal
from typing import Protocol

from sse_starlette.sse import AppStatus

LOOK = 0.5  # s between two looks at the streams and at whether the server goes
TOGETHER = 50  # streams at most that are roused in one round of the event loop


class Stream(Protocol):
    """An open stream, as the others know it."""

    @property
    def is_due(self) -> bool:
        """Whether its browser was told nothing for long, or takes nothing."""

    def rouse(self) -> None:
        """Have it see to its browser, and whether the server goes."""


class Streams:
    """Looks after open streams, without a timer for each, and tells them when the server goes.

    ``ping`` is the silence in seconds between two pings.
    """

    def __init__(self, ping: float) -> None:
        self.ping = ping
        self._streams: set[Stream] = set()
        self._watching: asyncio.Task[None] | None = None

    @property
    def are_to_end(self) -> bool:
        """Whether uvicorn, whose handler of SIGTERM this is, or the host was told to exit."""
        if AppStatus.should_exit:
            return True
        server = getattr(signal.getsignal(signal.SIGTERM), "__self__", None)
        told = bool(getattr(server, "should_exit", False))
        return told and AppStatus.enable_automatic_graceful_drain

    def add(self, stream: Stream) -> None:
        """Look after the stream until it is discarded."""
        self._streams.add(stream)
        if self._watching is None or self._watching.done():
            # Not in the context of this one's request: it is for the others, too.
            self._watching = asyncio.create_task(
                self._watch(), name="opencode streams", context=contextvars.Context()
            )

    def discard(self, stream: Stream) -> None:
        """It needs no looking after any more."""
        self._streams.discard(stream)
        if not self._streams and self._watching is not None:
            self._watching.cancel()
            self._watching = None

    async def _watch(self) -> None:
        going = False
        while not going:
            await asyncio.sleep(LOOK)
            going = self.are_to_end
            roused = 0
            for stream in tuple(self._streams):
                if going or stream.is_due:
                    stream.rouse()
                    roused += 1
                    # Thousands that came back together, as after a deploy, are due together.
                    if roused % TOGETHER == 0:
                        await asyncio.sleep(0)
