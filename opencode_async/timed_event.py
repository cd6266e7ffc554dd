"""An event that is waited for again and again, each time until some moment at most."""

from __future__ import annotations

import asyncio
import math


class TimedEvent:
    """Wakes its one waiter when it is set, or when the time is up.

    ``asyncio.timeout`` makes a timer for each wait, and takes it away when the event comes first,
    as it does here nearly always. This one's timer stays, and looks when it rings whether it is to
    ring later by now.
    """

    __slots__ = ("__weakref__", "_is_set", "_loop", "_timer", "_until", "_waiter")

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._is_set = False
        self._waiter: asyncio.Future[None] | None = None
        self._until = math.inf
        self._timer: asyncio.TimerHandle | None = None

    def now(self) -> float:
        """The time of the loop's clock."""
        return self._loop.time()

    def set(self) -> None:
        """Wake the waiter, or whoever waits next."""
        self._is_set = True
        self._wake()

    async def wait(self, until: float) -> bool:
        """Wait until it is set, or until that time of the loop's clock; whether it was.

        Then it is no more.
        """
        if not self._is_set:
            if until <= self.now():
                return False
            self._until = until
            if self._timer is None or self._timer.when() > until:
                self.close()
                self._timer = self._loop.call_at(until, self._ring)
            self._waiter = self._loop.create_future()
            try:
                await self._waiter
            finally:
                self._waiter, self._until = None, math.inf
        was_set, self._is_set = self._is_set, False
        return was_set

    def close(self) -> None:
        """Nobody waits any more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _ring(self) -> None:
        self._timer = None
        if self._until <= self.now():
            self._wake()
        elif self._until < math.inf:
            self._timer = self._loop.call_at(self._until, self._ring)

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
