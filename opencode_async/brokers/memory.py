"""A broker within one process: a log per turn."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext

from opencode_async.brokers.broker import Frame
from opencode_async.brokers.log import Log, LogFeed
from opencode_async.observability.error_reporter import ErrorReporter


class MemoryBroker:
    """The default ``EventBroker``."""

    def __init__(self) -> None:
        self._logs: dict[str, Log] = {}

    def running(self, report: ErrorReporter) -> AbstractAsyncContextManager[None]:
        return nullcontext()

    async def publish(
        self, topic: str, epoch: int, frames: Sequence[Frame], *, stored: int
    ) -> None:
        if frames:
            log = self._log(topic, epoch)
            log.published = True
            log.append(epoch, frames, stored=stored)
        elif (known := self._logs.get(topic)) is not None:
            known.tell()

    async def end(self, topic: str, epoch: int) -> None:
        log = self._logs.get(topic)
        if log is None or log.epoch > epoch:
            return
        # Those who follow it hold the log; who comes anew is told everything by the row.
        del self._logs[topic]
        log.end()

    @asynccontextmanager
    async def follow(self, topic: str, epoch: int, after: int) -> AsyncIterator[LogFeed]:
        log = self._log(topic, epoch)
        try:
            with LogFeed(log, epoch, after) as feed:
                yield feed
        finally:
            unused = not (log.frames or log.feeds)
            if unused and self._logs.get(topic) is log:
                del self._logs[topic]

    def _log(self, topic: str, epoch: int) -> Log:
        log = self._logs.get(topic)
        if log is None:
            log = self._logs[topic] = Log(epoch)
        return log
