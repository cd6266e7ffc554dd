"""A broker that several processes share: what one publishes, followers in all of them read.

Each process has logs of its own, of what it publishes and of what is followed there; a journal
carries entries from the former to the latter. A turn never waits for the journal: what it publishes
is handed over by a task, many frames at a time, and is lost where the journal fails. Followers
elsewhere then find a gap, which is an answer (``CursorExpired``): the row says what they lack.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from itertools import groupby
from typing import Any

from opencode_async.brokers.broker import Frame
from opencode_async.brokers.journal import END, Bell, Entry, Journal, Place
from opencode_async.brokers.log import Log, LogFeed
from opencode_async.observability.error_reporter import ErrorReporter

# What may wait for the journal: entries, and characters of frames; beyond that all is dropped.
WAITING, WAITING_SIZE = 10_000, 20_000_000
# A frame of more characters is not carried: followers elsewhere find a gap, and read the row.
LARGEST = 1_000_000
AGAIN = 1.0  # s between two attempts at a journal that fails
SLOW = 10.0  # s that the journal may take
LAST = 2.0  # s for what still waits when the process ends


class SharedBroker:
    """An ``EventBroker`` over a journal."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._logs: dict[str, list[Log]] = {}
        self._entries: list[Entry] = []
        self._size = 0  # of the entries' frames
        self._news: dict[str, None] = {}
        self._posted = asyncio.Event()
        self._handing_over = asyncio.Lock()
        self._bell = Bell()
        self._unread = False  # what rang could not be read
        self._agents = 0
        self._tasks: list[asyncio.Task[None]] = []

    @asynccontextmanager
    async def running(self, report: ErrorReporter) -> AsyncIterator[None]:
        if not self._agents:
            self._posted, self._handing_over, self._bell = asyncio.Event(), asyncio.Lock(), Bell()
            for topic in filter(self._mirrors, self._logs):
                self._bell.want(topic)
            self._tasks = [
                asyncio.create_task(_again_and_again(duty, during, report))
                for duty, during in (
                    (self._deliver, "publishing"),
                    (partial(self._listen, self._bell), "listening to a broker"),
                    (partial(self._read_what_rings, self._bell), "reading a broker"),
                )
            ]
        self._agents += 1
        try:
            yield
        finally:
            self._agents -= 1
            if not self._agents:
                tasks, self._tasks = self._tasks, []
                await self._stop(tasks, report)

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
            if log.epoch == epoch and not log.published:
                log.published = True
                self._leave(topic)
        carried = [frame for frame in frames if len(frame.data) <= LARGEST]
        entries = [Entry(topic, epoch, frame) for frame in carried]
        self._post(entries, None if len(carried) == len(frames) else topic)

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
        try:
            with LogFeed(log, epoch, after) as feed:
                until = feed.woken.now() + AGAIN
                while not (log.read or log.published or log.lost) and await feed.woken.wait(until):
                    pass  # it was of something else
                yield feed
        finally:
            if not (log.feeds or log.published):
                self._drop(topic, log)

    def _log(self, topic: str, epoch: int, after: int) -> Log:
        """A log that a follower from there finds all it lacks in, if anything does."""
        logs = self._logs.setdefault(topic, [])
        for log in logs:
            if log.published:
                if log.epoch >= epoch:  # else of a publisher that was replaced
                    return log
            elif log.epoch != epoch or log.begins <= after:
                return log
        log = Log(epoch, after)
        log.lost = self._is_deaf
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
        if len(self._entries) + len(self._news) > WAITING or self._size > WAITING_SIZE:
            topics = _topics(self._entries) | self._news
            self._entries, self._size = [], 0
            self._news = topics if len(topics) < WAITING // 2 else {}
        self._entries.extend(entries)
        self._size += sum(len(entry.frame.data) for entry in entries if entry.frame is not None)
        if news is not None:
            self._news[news] = None
        self._posted.set()

    async def _deliver(self) -> None:
        """Hand over what is published."""
        await self._posted.wait()
        await self._handed_over()

    async def _handed_over(self) -> None:
        async with self._handing_over:
            self._posted.clear()
            entries, news = self._entries, self._news
            self._entries, self._size, self._news = [], 0, {}
            if not (entries or news):
                return
            try:
                async with asyncio.timeout(SLOW):
                    await self._journal.append(entries, list(news))
            except Exception:
                # The row has what they held: followers are to be told that, next time.
                self._news = _topics(entries) | news | self._news
                self._posted.set()
                raise

    async def _listen(self, bell: Bell) -> None:
        """Hear what others publish; each time that fails, look for it."""
        try:
            await _until_one_ends(self._journal.listen(bell), self._be_connected(bell))
        finally:
            bell.connected.clear()
            self._tell_whether_deaf()
            bell.ring_all()

    async def _be_connected(self, bell: Bell) -> None:
        """Once what is published elsewhere is heard, followers can rely on it."""
        await bell.connected.wait()
        self._tell_whether_deaf()
        bell.ring_all()
        await asyncio.Event().wait()

    @property
    def _is_deaf(self) -> bool:
        """Whether what others publish may not arrive here just now."""
        return self._unread or not self._bell.connected.is_set()

    def _tell_whether_deaf(self) -> None:
        """The logs of others' turns are, or are no more, what followers can rely on."""
        lost = self._is_deaf
        for topic in self._logs:
            for log in self._mirrors(topic):
                if log.lost is not lost:
                    log.lost = lost
                    log.tell()

    async def _read_what_rings(self, bell: Bell) -> None:
        """Take what others have published into the logs here."""
        rung = await bell.rung()
        try:
            async with asyncio.timeout(SLOW):
                await self._read(rung)
        except Exception:
            self._unread = True  # heard of, but not read: the row is looked at meanwhile
            self._tell_whether_deaf()
            bell.ring(rung)
            raise
        if self._unread:
            self._unread = False
            self._tell_whether_deaf()

    async def _read(self, rung: Mapping[str, bool]) -> None:
        mirrors = {topic: self._mirrors(topic) for topic in rung}
        behind = {topic: min(map(_place, logs)) for topic, logs in mirrors.items() if logs}
        found = await self._journal.read(behind)
        for topic, logs in mirrors.items():
            for log in logs:
                _take(log, found.get(topic, ()), news=rung[topic])

    def _mirrors(self, topic: str) -> list[Log]:
        return [log for log in self._logs.get(topic, ()) if not log.published]

    async def _stop(self, tasks: Sequence[asyncio.Task[None]], report: ErrorReporter) -> None:
        try:
            async with asyncio.timeout(LAST):
                await self._handed_over()
        except Exception as error:
            report(error, severity="warning", context={"during": "publishing"})
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks, timeout=LAST)
            if not self._agents:  # else somebody has begun anew meanwhile
                await self._journal.close()


async def _again_and_again(
    duty: Callable[[], Awaitable[None]], during: str, report: ErrorReporter
) -> None:
    """Do it for ever. What fails is reported, not each time in an outage, and tried again."""
    now = asyncio.get_running_loop().time
    failing = False
    while True:
        began = now()
        try:
            await duty()
            failing = False
        except (Exception, asyncio.CancelledError) as error:
            task = asyncio.current_task()
            if isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling():
                raise
            if not failing or now() - began > SLOW:
                report(error, severity="warning", context={"during": during})
            failing = True
            await asyncio.sleep(AGAIN)


def _topics(entries: Sequence[Entry]) -> dict[str, None]:
    return {entry.topic: None for entry in entries}


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
    """Add what is new to a log; news is that the row is to be looked at, too."""
    new = [entry for entry in entries if entry.place > _place(log)]
    for epoch, several in groupby(new, key=lambda entry: entry.epoch):
        frames = [entry.frame for entry in several if entry.frame is not None]
        log.append(epoch, frames, stored=frames[-1].seq if frames else 0)
    if new and new[-1].frame is None:
        # An end from before a follower came is no news: it has read the row since.
        log.end(news=log.read)
    elif news:
        log.tell()
    log.read = True
    log.wake()
