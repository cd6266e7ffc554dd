"""A broker within one process: a log per turn."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import Self

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

    def follow(self, topic: str, epoch: int, after: int) -> MemoryFeed:
        return MemoryFeed(self, topic, self._log(topic, epoch), epoch, after)

    def forget(self, topic: str, log: Log) -> None:
        """Drop the log if it holds nothing and nobody follows it."""
        if not (log.frames or log.feeds) and self._logs.get(topic) is log:
            del self._logs[topic]

    def _log(self, topic: str, epoch: int) -> Log:
        log = self._logs.get(topic)
        if log is None:
            log = self._logs[topic] = Log(epoch)
        return log


class MemoryFeed(LogFeed):
    """A feed that is a context of its own: there are as many as there are followers."""

    __slots__ = ("_broker", "_topic")

    def __init__(self, broker: MemoryBroker, topic: str, log: Log, epoch: int, after: int) -> None:
        super().__init__(log, epoch, after)
        self._broker = broker
        self._topic = topic

    async def __aenter__(self) -> Self:
        return self.__enter__()

    async def __aexit__(self, *_: object) -> None:
        self.__exit__()
        self._broker.forget(self._topic, self._log)
