"""The time an Impostor goes by: the real one, faster, or one that only moves when it is told to."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import time
from typing import Protocol

START = 1_800_000_000.0  # s since 1970: where a virtual time begins, the same in every run


class Clock(Protocol):
    """What an Impostor's delays, time stamps and heartbeats are measured with."""

    def now(self) -> float:
        """Seconds since 1970."""

    async def sleep(self, seconds: float, *, idly: bool = False) -> None:
        """Wait so long; ``idly`` as a heartbeat does, for which alone no time need pass."""


class RealClock:
    """Time as it passes; with ``speed`` so many times as fast: at 50 a wait of 10 s takes 0.2 s.

    Heartbeats keep to real time, or a fast clock would do little else.
    """

    def __init__(self, speed: float = 1.0) -> None:
        self._speed = speed
        self._began = time.time()

    def now(self) -> float:
        """See ``Clock``."""
        return self._began + (time.time() - self._began) * self._speed

    async def sleep(self, seconds: float, *, idly: bool = False) -> None:
        """See ``Clock``."""
        await asyncio.sleep(seconds if idly else seconds / self._speed)


class VirtualClock:
    """No wait takes any time: the clock jumps to where the next one ends.

    Those that wait are woken in the order of their times. ``manual``: it does not jump, and they
    wait until ``advance`` has moved it far enough; so a test can act in the middle of a wait, such
    as that for a provider's retry. Heartbeats never make it jump.
    """

    def __init__(self, *, manual: bool = False) -> None:
        self._now = START
        self._manual = manual
        self._order = itertools.count()
        self._waiting: list[tuple[float, int, bool, asyncio.Future[None]]] = []

    def now(self) -> float:
        """See ``Clock``."""
        return self._now

    async def sleep(self, seconds: float, *, idly: bool = False) -> None:
        """See ``Clock``."""
        loop = asyncio.get_running_loop()
        woken: asyncio.Future[None] = loop.create_future()
        heapq.heappush(self._waiting, (self._now + seconds, next(self._order), idly, woken))
        if not (self._manual or idly):
            loop.call_soon(self._jump)
        await woken

    def advance(self, seconds: float) -> None:
        """Let so much time pass; who waited for that is woken when the event loop runs."""
        until = self._now + seconds
        while self._waiting and self._waiting[0][0] <= until:
            self._wake()
        self._now = until

    def _jump(self) -> None:
        """Move on to the end of the next wait that is not idle."""
        while any(not (idly or woken.done()) for _, _, idly, woken in self._waiting):
            if not self._wake():
                return

    def _wake(self) -> bool:
        """Wake the first that waits; whether that was an idle one, or one that had given up."""
        self._now, _, idly, woken = heapq.heappop(self._waiting)
        if woken.done():
            return True
        woken.set_result(None)
        return idly
