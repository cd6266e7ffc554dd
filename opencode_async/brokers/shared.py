"""A broker that several processes share: what one publishes, followers in all of them read.

Each process has logs of its own, of what it publishes and of what is followed there; a journal
carries entries from the former to the latter. A turn never waits for the journal: what it publishes
is handed over by a task, many frames at a time, and is lost where the journal fails. Followers
elsewhere then find a gap, which is an answer (``CursorExpired``): the row says what they lack.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from itertools import groupby
from typing import Any

from opencode_async.brokers.broker import Frame
from opencode_async.brokers.journal import END, Bell, Entry, Journal, Place
from opencode_async.brokers.log import Log, LogFeed
from opencode_async.observability.error_reporter import ErrorReporter

WAITING = 10_000  # entries that may wait for the journal; beyond that all of them are dropped
AGAIN = 1.0  # s between two attempts at a journal that fails
SLOW = 10.0  # s that the journal may take
LAST = 2.0  # s for what still waits when the process ends


class SharedBroker:
    """An ``EventBroker`` over a journal."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._logs: dict[str, list[Log]] = {}
        self._entries: list[Entry] = []
        self._news: dict[str, None] = {}
        self._posted = asyncio.Event()
        self._handing_over = asyncio.Lock()
        self._bell = Bell()
        self._agents = 0
        self._tasks: list[asyncio.Task[None]] = []

    @asynccontextmanager
    async def running(self, report: ErrorReporter) -> AsyncIterator[None]:
        if not self._agents:
            self._posted, self._handing_over, self._bell = asyncio.Event(), asyncio.Lock(), Bell()
            duties = (self._deliver(report), self._listen(report), self._read_what_rings(report))
            self._tasks = [asyncio.create_task(duty) for duty in duties]
        self._agents += 1
        try:
            yield
        finally:
            self._agents -= 1
            if not self._agents:
                await self._stop(report)

    async def publish(
        self, topic: str, epoch: int, frames: Sequence[Frame], *, stored: int
    ) -> None:
        logs = self._logs.get(topic, [])
        if not frames:
            for log in logs:
                log.tell()
            self._post([], topic)
            return
        if not logs:
            logs = self._logs[topic] = [Log(epoch)]
        for log in logs:
            log.append(epoch, frames, stored=stored)
            log.published = log.epoch == epoch
        self._leave(topic)
        self._post([Entry(topic, epoch, frame) for frame in frames])

    async def end(self, topic: str, epoch: int) -> None:
        logs = self._logs.get(topic, [])
        for log in [log for log in logs if log.epoch <= epoch]:
            # Those who follow it hold the log; who comes anew is told by the row.
            self._drop(topic, log)
            log.end()
        self._post([Entry(topic, epoch, None)])

    @asynccontextmanager
    async def follow(self, topic: str, epoch: int, after: int) -> AsyncIterator[LogFeed]:
        log = self._log(topic, epoch, after)
        log.followers += 1
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(AGAIN):
                    while not (log.read or log.published or log.lost):
                        await log.changed.wait()
            yield LogFeed(log, epoch, after)
        finally:
            log.followers -= 1
            if not (log.followers or log.published):
                self._drop(topic, log)

    def _log(self, topic: str, epoch: int, after: int) -> Log:
        """A log that a follower from there finds all it lacks in, if anything does."""
        logs = self._logs.setdefault(topic, [])
        for log in logs:
            if log.published or log.epoch != epoch or log.begins <= after:
                return log
        log = Log(epoch, after)
        log.lost = not self._bell.connected.is_set()
        logs.append(log)
        self._bell.want(topic)
        return log

    def _drop(self, topic: str, log: Log) -> None:
        logs = self._logs.get(topic, [])
        if log in logs:
            logs.remove(log)
        if not logs:
            self._logs.pop(topic, None)
        self._leave(topic)

    def _leave(self, topic: str) -> None:
        """Hear no more of a topic that nobody follows here, or that is published here."""
        if not self._mirrors(topic):
            self._bell.leave(topic)

    def _post(self, entries: Sequence[Entry], news: str | None = None) -> None:
        if len(self._entries) + len(self._news) > WAITING:
            self._entries.clear()
            self._news.clear()
        self._entries.extend(entries)
        if news is not None:
            self._news[news] = None
        self._posted.set()

    async def _deliver(self, report: ErrorReporter) -> None:
        """Hand over what is published, for ever."""
        failing = False
        while True:
            await self._posted.wait()
            try:
                await self._handed_over()
                failing = False
            except Exception as error:
                if not failing:  # once, not every second of an outage
                    report(error, severity="warning", context={"during": "publishing"})
                failing = True
                await asyncio.sleep(AGAIN)

    async def _handed_over(self) -> None:
        async with self._handing_over:
            self._posted.clear()
            entries, news = self._entries, self._news
            self._entries, self._news = [], {}
            if entries or news:
                async with asyncio.timeout(SLOW):
                    await self._journal.append(entries, list(news))

    async def _listen(self, report: ErrorReporter) -> None:
        """Hear what others publish, for ever; where that fails, look for it now and then."""
        failing = False
        while True:
            try:
                await _until_one_ends(self._journal.listen(self._bell), self._be_connected())
            except Exception as error:
                failing = failing and not self._bell.connected.is_set()
                if not failing:
                    report(error, severity="warning", context={"during": "listening to a broker"})
                failing = True
            finally:
                self._bell.connected.clear()
                self._are_lost(True)
            await asyncio.sleep(AGAIN)
            self._bell.ring_all()

    async def _be_connected(self) -> None:
        """Once what is published elsewhere is heard, followers can rely on it."""
        await self._bell.connected.wait()
        self._are_lost(False)
        self._bell.ring_all()
        await asyncio.Event().wait()

    def _are_lost(self, lost: bool) -> None:
        """The logs of others' turns are, or are no more, what followers can rely on."""
        for logs in self._logs.values():
            for log in logs:
                if not log.published and log.lost is not lost:
                    log.lost = lost
                    log.tell()

    async def _read_what_rings(self, report: ErrorReporter) -> None:
        """Take what others have published into the logs here, for ever."""
        failing = False
        while True:
            rung = await self._bell.rung()
            try:
                async with asyncio.timeout(SLOW):
                    await self._read(rung)
                failing = False
            except Exception as error:
                if not failing:
                    report(error, severity="warning", context={"during": "reading a broker"})
                failing = True
                await asyncio.sleep(AGAIN)
                self._bell.ring(rung)

    async def _read(self, rung: Mapping[str, bool]) -> None:
        mirrors = {topic: self._mirrors(topic) for topic in rung}
        behind = {topic: min(map(_place, logs)) for topic, logs in mirrors.items() if logs}
        found = await self._journal.read(behind)
        for topic, logs in mirrors.items():
            for log in logs:
                _take(log, found.get(topic, ()), news=rung[topic])

    def _mirrors(self, topic: str) -> list[Log]:
        return [log for log in self._logs.get(topic, ()) if not log.published]

    async def _stop(self, report: ErrorReporter) -> None:
        try:
            async with asyncio.timeout(LAST):
                await self._handed_over()
        except Exception as error:
            report(error, severity="warning", context={"during": "publishing"})
        for task in self._tasks:
            task.cancel()
        await asyncio.wait(self._tasks)
        await self._journal.close()


async def _until_one_ends(*duties: Coroutine[Any, Any, None]) -> None:
    """Run these beside each other until the first ends, and cancel the rest; raises what it did."""
    tasks = [asyncio.create_task(duty) for duty in duties]
    try:
        ended, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in ended:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


def _place(log: Log) -> Place:
    return log.epoch, END if log.ended else log.last


def _take(log: Log, entries: Sequence[Entry], *, news: bool) -> None:
    """Add what is new to a log; without any, news is that the row is to be looked at."""
    new = [entry for entry in entries if entry.place > _place(log)]
    for epoch, several in groupby(new, key=lambda entry: entry.epoch):
        frames = [entry.frame for entry in several if entry.frame is not None]
        log.append(epoch, frames, stored=frames[-1].seq if frames else 0)
    if new and new[-1].frame is None:
        # An end from before a follower came is no news: it has read the row since.
        log.end(news=log.read)
    elif news and not new:
        log.tell()
    log.read = True
    log.wake()
