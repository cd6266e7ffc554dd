"""Following a turn from any worker: the broker's frames where they reach, the row else.

A follower's state is the last snapshot and the frames behind it; one that resumes is given the
frames behind its cursor. Where some are missing (another epoch, a log cut off, no broker between
the processes) a new snapshot of the row takes their place, so being behind is never an error.
``finished`` is always read from the row, never from a publisher.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from typing import Any, Generic

from sqlalchemy import select

from opencode_async.brokers.broker import (
    CursorExpired,
    EventBroker,
    Feed,
    Frame,
    turn_topic,
)
from opencode_async.database import Sessions
from opencode_async.models import TERMINAL, ConversationT, MessageT
from opencode_async.observability.events import FollowerDropped
from opencode_async.observability.instrumentation import Instrumentation
from opencode_async.protocol.changes import Finished, Snapshot
from opencode_async.tables import Tables
from opencode_async.timings import Timings
from opencode_async.turns.beside import Beside, Besides
from opencode_async.turns.follower import Follower
from opencode_async.turns.frames import Cursor, row_frame

# Where what happens is heard of nothing is polled; this look is for who died without a word.
PATIENCE = 15.0
# s of which each look is at a multiple: those of many fall together, and one query answers them.
GRID = 0.125
# A follower that resumes may have been told more quickly than a shared log is filled.
CATCH_UP = 0.3

Batches = AsyncGenerator[Sequence[Frame], None]


class _RowIsAhead(Exception):
    """The row holds what the log, for whatever reason, was not given."""


@dataclass(frozen=True, slots=True)
class Place:
    """How far a turn's row has come, and in which status."""

    cursor: Cursor
    status: str

    @property
    def terminal(self) -> bool:
        return self.status in TERMINAL

    def is_at(self, cursor: Cursor) -> bool:
        """Whether the row holds just what a follower at that cursor has, and is to hold more."""
        return self.cursor == cursor and not self.terminal


class Following(Generic[ConversationT, MessageT]):
    """Reads turns for followers; holds no database connection while it waits."""

    def __init__(
        self,
        sessions: Sessions,
        tables: Tables[ConversationT, MessageT],
        besides: Besides,
        broker: EventBroker,
        timings: Timings,
        instrumentation: Instrumentation,
        name: str,
    ) -> None:
        self._instrumentation = instrumentation
        self._sessions = sessions
        self._kind = tables.message
        self._besides = besides
        self._broker = broker
        self._timings = timings
        self._name = name
        self._looks: dict[Any, asyncio.Future[Place | None]] = {}  # that are under way

    def follower(self, key: Any) -> Follower:
        """Whoever is to read the ``frames`` of a turn."""
        return Follower(self._instrumentation, "turn", key)

    async def frames(
        self, key: Any, after: Cursor | None = None, *, whole: bool = False
    ) -> Batches:
        """The frames of one turn from behind ``after`` until ``finished``, in batches.

        ``whole`` begins with a snapshot, also where the cursor would do. Nothing at all comes for a
        cursor at the end of a terminal message. A row that is deleted meanwhile ends it.
        """
        message_id = str(key)
        at = after if after is not None and after.message_id == message_id else None
        topic = turn_topic(self._name, message_id)
        patience = PATIENCE
        while (found := await self.row(key)) is not None:
            row, beside = found
            here = Cursor.of(row, message_id)
            if row.status in TERMINAL:
                if at != here:
                    yield [row_frame(row, Finished, beside)]
                return
            if whole or at is None or at.epoch != here.epoch:
                yield [row_frame(row, Snapshot, beside)]
                at, whole = here, False
            resumed = at.seq < here.seq
            del found, row, beside  # what they hold may be large, and the turn may be long
            async with self._broker.follow(topic, at.epoch, at.seq) as feed:
                try:
                    while frames := await self._next(key, feed, at, resumed, patience):
                        yield frames
                        at, resumed = Cursor(message_id, at.epoch, frames[-1].seq), False
                        patience = PATIENCE
                        del frames  # a snapshot may be large, and the next may be long in coming
                    patience = self._timings.poll  # what the row is to say may not be written yet
                except _RowIsAhead:
                    at = None
                except CursorExpired:
                    place = await self.place_of(key)
                    if not resumed and place is not None and place.cursor.epoch == at.epoch:
                        self._instrumentation(FollowerDropped(message_id=message_id))
                    waits = not moved(place, at)  # the row will be ahead, in a moment
                    while waits:
                        await asyncio.sleep(self._timings.poll)
                        place = await self.place_of(key)
                        waits = place is not None and place.is_at(at)
                    at = None

    async def place_of(self, key: Any) -> Place | None:
        """How far the row of a turn has come; ``None`` if there is no such row."""
        kind = self._kind
        async with self._sessions() as db:
            query = select(kind.status, kind.epoch, kind.cursor).where(kind.id == key)
            row = (await db.execute(query)).first()
        if row is None:
            return None
        status, epoch, cursor = row
        return Place(Cursor(str(key), epoch, cursor), status)

    async def glance(self, key: Any) -> Place | None:
        """Where a turn has come to, for a follower: one query answers all who ask meanwhile.

        It may have begun before one asked. Whoever waits for one that fails looks for himself.
        """
        while (look := self._looks.get(key)) is not None:
            await asyncio.wait((look,), timeout=PATIENCE)
            if not look.done():
                return await self.place_of(key)  # a connection hangs
            if not look.cancelled():
                return look.result()
        look = self._looks[key] = asyncio.get_running_loop().create_future()
        try:
            place = await self.place_of(key)
            look.set_result(place)
            return place
        finally:
            del self._looks[key]
            look.cancel()  # unless it has its result

    async def _next(
        self, key: Any, feed: Feed, at: Cursor, resumed: bool, patience: float
    ) -> Sequence[Frame]:
        """What the broker has next; none where it is the row's turn again to say what is.

        Raises ``CursorExpired`` and ``_RowIsAhead``.
        """
        poll, now = self._timings.poll, asyncio.get_running_loop().time
        while True:
            wait = on_grid(now(), patience if feed.live else poll)
            frames = await feed.batch(min(poll, CATCH_UP) if resumed else wait)
            if frames is not None:
                return frames
            if moved(await self.glance(key), at):
                raise _RowIsAhead

    async def row(self, key: Any) -> tuple[MessageT, Beside] | None:
        """A message and what stands beside it; ``None`` if there is no such row."""
        async with self._sessions() as db:
            row = await db.get(self._kind, key)
            return None if row is None else (row, await self._besides.of(db, [key]))


def on_grid(now: float, within: float) -> float:
    """The seconds from ``now`` to the last multiple of ``GRID`` before ``within`` is over.

    Shorter ones are as they are.
    """
    return within - (now + within) % GRID if within > 2 * GRID else within


def moved(place: Place | None, at: Cursor) -> bool:
    """Whether the row says more than what a follower at that cursor has."""
    if place is None or place.terminal:
        return True
    return place.cursor.epoch != at.epoch or place.cursor.seq > at.seq
