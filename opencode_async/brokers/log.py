"""The frames of a topic as one process has them, which followers read at their own pace.

A follower holds a position in the shared log, not a queue of its own: a slow one costs nothing, and
finds itself behind the log's beginning one day, which is an answer (``CursorExpired``).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

from opencode_async.brokers.broker import CursorExpired, Frame
from opencode_async.timed_event import TimedEvent

# What is kept although the row has it, for followers that are slow or reconnect: so many frames, of
# so many characters, which are in memory twice once a follower was sent them.
RETAINED, RETAINED_SIZE = 2000, 2_000_000
# A follower that is slow holds on to what it was given: characters of frames, or a larger one.
BATCH_SIZE = 256_000


class Log:
    """The frames of one epoch of a topic, without a gap, from behind frame ``begins``.

    A log that is ``published`` in this process has all there is; one that is ``read`` from what
    another one publishes may lag behind what a follower was told there, or be ``lost`` for a while.
    """

    def __init__(self, epoch: int, begins: int = 0) -> None:
        self.epoch = epoch
        self.begins = begins
        self.frames: list[Frame] = []
        self.size = 0  # of the frames' data, in characters
        self.published = False
        self.read = False
        self.ended = False
        self.lost = False
        self.news = 0
        self.feeds: set[LogFeed] = set()

    @property
    def last(self) -> int:
        """The number of the newest frame."""
        return self.frames[-1].seq if self.frames else self.begins

    @property
    def live(self) -> bool:
        """Whether it is being written to."""
        return bool(self.frames) and not self.ended and (self.published or not self.lost)

    def append(self, epoch: int, frames: Sequence[Frame], *, stored: int) -> None:
        """Take what is new of these. An older epoch is not heard, a newer one replaces the log."""
        if epoch < self.epoch:
            return  # of a publisher that was replaced and does not know it yet
        if epoch > self.epoch:
            self.epoch, self.begins, self.ended = epoch, 0, False
            self._clear()
        new = [frame for frame in frames if frame.seq > self.last]
        if new and new[-1].seq - new[0].seq != len(new) - 1:
            gaps = (n for n in range(1, len(new)) if new[n].seq != new[n - 1].seq + 1)
            new = new[max(gaps) :]
        if new and self.frames and new[0].seq > self.last + 1:
            self._clear()  # what lies between was lost: followers are to see that
        self.frames.extend(new)
        self.size += sum(len(frame.data) for frame in new)
        if len(self.frames) > 2 * RETAINED or self.size > 2 * RETAINED_SIZE:
            self._drop(stored)
        if self.frames:
            self.begins = self.frames[0].seq - 1
        self.wake()

    def _clear(self) -> None:
        self.frames.clear()
        self.size = 0

    def _drop(self, stored: int) -> None:
        """Drop the oldest frames that the row has; never the newest, by which a gap is seen."""
        in_row = min(stored - self.frames[0].seq + 1, len(self.frames) - 1)
        spare, size = 0, self.size
        while spare < in_row and (len(self.frames) - spare > RETAINED or size > RETAINED_SIZE):
            size -= len(self.frames[spare].data)
            spare += 1
        del self.frames[:spare]
        self.size = size

    def end(self, *, news: bool = True) -> None:
        """Nothing more comes in this epoch; where that is news, have followers look at the row."""
        self.ended = True
        if news:
            self.tell()

    def tell(self) -> None:
        """Have the followers look at the row, which is news to them."""
        self.news += 1
        self.wake()

    def wake(self) -> None:
        """Have the followers look at the log."""
        for feed in self.feeds:
            feed.woken.set()


class LogFeed:
    """One follower's position in a log, which it follows while the block lasts."""

    __slots__ = ("_after", "_epoch", "_log", "_news", "woken")

    def __init__(self, log: Log, epoch: int, after: int) -> None:
        self._log = log
        self._epoch = epoch
        self._after = after
        self._news = log.news
        self.woken = TimedEvent()

    def __enter__(self) -> Self:
        self._log.feeds.add(self)
        return self

    def __exit__(self, *_: object) -> None:
        self._log.feeds.discard(self)
        self.woken.close()

    @property
    def live(self) -> bool:
        return self._log.live

    @property
    def heard(self) -> bool:
        return self._log.read and not self._log.lost

    async def batch(self, within: float) -> Sequence[Frame] | None:
        log, until = self._log, self.woken.now() + within
        while True:
            if log.epoch > self._epoch:
                raise CursorExpired
            frames = self._next() if log.epoch == self._epoch else []
            if frames:
                return frames
            if log.news != self._news:
                self._news = log.news
                return []
            if not await self.woken.wait(until):
                return None

    def _next(self) -> list[Frame]:
        frames = self._log.frames
        if frames and frames[-1].seq < self._after and self._log.published:
            raise CursorExpired  # nobody was ever sent that
        if not frames or frames[-1].seq <= self._after:
            return []
        first = self._after + 1 - frames[0].seq
        if first < 0:
            raise CursorExpired
        found = frames[first:] if self._log.size <= BATCH_SIZE else some_of(frames, first)
        self._after = found[-1].seq
        return found


def some_of(frames: Sequence[Frame], first: int) -> list[Frame]:
    """The frames from the ``first`` on until they make a batch."""
    end, size = first, 0
    while end < len(frames) and size < BATCH_SIZE:
        size += len(frames[end].data)
        end += 1
    return list(frames[first:end])
