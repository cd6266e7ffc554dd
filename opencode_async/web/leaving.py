"""Whether the server was told to go: uvicorn waits for streams, which go on unless they know."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable

from sse_starlette.sse import AppStatus

LOOK = 0.5  # s between two looks, while there are streams


class Leaving:
    """Tells the streams of an agent, once, when the server goes; ``now`` from then on."""

    def __init__(self) -> None:
        self.now = False
        self._streams: set[Callable[[], None]] = set()
        self._watching: asyncio.Task[None] | None = None

    def add(self, stream: Callable[[], None]) -> None:
        """Call the stream when the server goes, until it is discarded."""
        self._streams.add(stream)
        if self._watching is None:
            self._watching = asyncio.create_task(self._watch(), name="opencode leaving")

    def discard(self, stream: Callable[[], None]) -> None:
        """It need not be called any more."""
        self._streams.discard(stream)
        if not self._streams and self._watching is not None:
            self._watching.cancel()
            self._watching = None

    async def _watch(self) -> None:
        while not told_to_go():  # noqa: ASYNC110 - uvicorn has no event for it
            await asyncio.sleep(LOOK)
        self.now = True
        for stream in tuple(self._streams):
            stream()


def told_to_go() -> bool:
    """Whether uvicorn was told to exit, which is the owner of the handler of SIGTERM."""
    server = getattr(signal.getsignal(signal.SIGTERM), "__self__", None)
    return AppStatus.should_exit or bool(getattr(server, "should_exit", False))
