"""A broker within one process: a log per turn, which followers read at their own pace.

A follower holds a position in the shared log, not a queue of its own: a slow one costs nothing, and
finds itself behind the log's beginning one day, which is an answer (``CursorExpired``).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from opencode_async.brokers.broker import CursorExpired, Frame

RETAINED = 2000  # frames kept although the row has them, for followers that reconnect


class _Log:
    def __init__(self, epoch: int) -> None:
        self.epoch = epoch
        self.frames: list[Frame] = []
        self.ended = False
        self.followers = 0
        self.news = 0
        self.changed = asyncio.Event()

    def wake(self, *, news: bool) -> None:
        self.news += news
        self.changed.set()
        self.changed = asyncio.Event()


class MemoryFeed:
    """One follower's position in a log."""

    def __init__(self, log: _Log, epoch: int, after: int) -> None:
        self._log = log
        self._epoch = epoch
        self._after = after
        self._news = log.news

    @property
    def live(self) -> bool:
        return bool(self._log.frames) and not self._log.ended

    async def batch(self) -> Sequence[Frame]:
        log = self._log
        while True:
            if log.epoch > self._epoch:
                raise CursorExpired
            frames = self._next() if log.epoch == self._epoch else []
            if frames or log.ended or log.news != self._news:
                self._news = log.news
                return frames
            await log.changed.wait()

    def _next(self) -> list[Frame]:
        frames = self._log.frames
        if frames and frames[-1].seq < self._after:
            raise CursorExpired  # nobody was ever sent that
        if not frames or frames[-1].seq == self._after:
            return []
        missed = frames[0].seq - self._after - 1
        if missed > 0:
            raise CursorExpired
        found = frames[-missed:] if missed else frames[:]
        self._after = found[-1].seq
        return found


class MemoryBroker:
    """The default ``EventBroker``."""

    def __init__(self) -> None:
        self._logs: dict[str, _Log] = {}

    async def publish(
        self, topic: str, epoch: int, frames: Sequence[Frame], *, stored: int
    ) -> None:
        if not frames and topic not in self._logs:
            return  # nobody to wake
        log = self._log(topic, epoch)
        if epoch < log.epoch:
            return  # a publisher that was replaced and does not know it yet
        if epoch > log.epoch:
            log.epoch = epoch
            log.frames.clear()
        log.frames.extend(frames)
        if len(log.frames) > 2 * RETAINED:
            spare = len(log.frames) - RETAINED
            in_row = stored - log.frames[0].seq + 1
            del log.frames[: max(0, min(spare, in_row))]
        log.wake(news=not frames)

    async def end(self, topic: str, epoch: int) -> None:
        log = self._logs.get(topic)
        if log is None or log.epoch > epoch:
            return
        # Those who follow it hold the log; who comes anew is told everything by the row.
        del self._logs[topic]
        log.ended = True
        log.wake(news=True)

    @asynccontextmanager
    async def follow(self, topic: str, epoch: int, after: int) -> AsyncIterator[MemoryFeed]:
        log = self._log(topic, epoch)
        log.followers += 1
        try:
            yield MemoryFeed(log, epoch, after)
        finally:
            log.followers -= 1
            unused = not (log.frames or log.followers)
            if unused and self._logs.get(topic) is log:
                del self._logs[topic]

    def _log(self, topic: str, epoch: int) -> _Log:
        return self._logs.setdefault(topic, _Log(epoch))
