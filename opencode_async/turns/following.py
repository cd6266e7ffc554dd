"""Following a turn, or a conversation, from any worker: the broker's frames where they reach, the
row else.

A follower's state is the last snapshot and the frames behind it. Where frames are missing (another
epoch, a log cut off, no broker between the processes) a new snapshot of the row takes their place,
so being behind is never an error. ``finished`` is always read from the row, never from a publisher.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Generic

from sqlalchemy import func, select

from opencode_async.brokers.broker import (
    CursorExpired,
    EventBroker,
    Feed,
    Frame,
    conversation_topic,
    turn_topic,
)
from opencode_async.database import Sessions, parsed_key
from opencode_async.models import LIVE, TERMINAL, ConversationT, MessageT
from opencode_async.protocol.changes import Finished, MessageAdded, Snapshot
from opencode_async.tables import Tables
from opencode_async.timings import Timings
from opencode_async.turns.frames import Cursor, row_frame

# A live log needs no polling; this look is for a publisher that died without a word.
PATIENCE = 15.0

Batches = AsyncGenerator[Sequence[Frame], None]


@dataclass(frozen=True, slots=True)
class Place:
    """How far a turn's row has come, and whether that is the end."""

    cursor: Cursor
    terminal: bool


class Following(Generic[ConversationT, MessageT]):
    """Reads turns for followers; holds no database connection while it waits."""

    def __init__(
        self,
        sessions: Sessions,
        tables: Tables[ConversationT, MessageT],
        broker: EventBroker,
        timings: Timings,
        name: str,
    ) -> None:
        self._sessions = sessions
        self._conversations = tables.conversation
        self._kind = tables.message
        self._broker = broker
        self._timings = timings
        self._name = name

    async def turn(self, key: Any, after: Cursor | None = None, *, whole: bool = False) -> Batches:
        """The frames of one turn from behind ``after`` until ``finished``, in batches.

        ``whole`` begins with a snapshot, also where the cursor would do. Nothing at all comes for a
        cursor at the end of a terminal message. A row that is deleted meanwhile ends it.
        """
        message_id = str(key)
        at = after if after is not None and after.message_id == message_id else None
        while (row := await self._row(key)) is not None:
            here = Cursor.of(row, message_id)
            if row.status in TERMINAL:
                if at != here:
                    yield [row_frame(row, Finished)]
                return
            if whole or at is None or at.epoch != here.epoch or at.seq < here.seq:
                yield [row_frame(row, Snapshot)]
                at, whole = here, False
            topic = turn_topic(self._name, message_id)
            async with (
                self._broker.follow(topic, at.epoch, at.seq) as feed,
                aclosing(self._frames(key, feed, at)) as batches,
            ):
                try:
                    async for frames in batches:
                        yield frames
                        at = Cursor(message_id, at.epoch, frames[-1].seq)
                except CursorExpired:
                    if not await self._moved(key, at):  # the row will be, in a moment
                        await asyncio.sleep(self._timings.poll)
                    at = None

    async def conversation(
        self, conversation_id: Any, after: Cursor | None, first: int, *, whole: bool = False
    ) -> Batches:
        """The frames of every turn of a conversation, one after the other, until it is erased.

        It begins with the turn of ``after``, ``whole`` as with a single turn, or the first message
        behind position ``first``.
        """
        position = first
        topic = conversation_topic(self._name, conversation_id)
        while True:
            async with self._broker.follow(topic, 0, 0) as news:
                newest = await self._newest(conversation_id)
                if newest is None:
                    return
                rows = await self._rows(conversation_id, position) if newest > position else []
                for row in rows:
                    key = row.id
                    resumed = after is not None and after.message_id == str(key)
                    if not resumed:
                        yield [row_frame(row, MessageAdded)]
                    if row.role == "assistant":
                        turn = self.turn(key, after if resumed else None, whole=whole)
                        async with aclosing(turn) as batches:
                            async for frames in batches:
                                yield frames
                    position = row.position or position
                    after = None
                if rows:
                    continue
                try:
                    async with asyncio.timeout(self._timings.poll):
                        await news.batch()
                except TimeoutError:
                    pass

    async def place_of(self, key: Any) -> Place | None:
        """How far the row of a turn has come; ``None`` if there is no such row."""
        kind = self._kind
        async with self._sessions() as db:
            query = select(kind.status, kind.epoch, kind.cursor).where(kind.id == key)
            row = (await db.execute(query)).first()
        if row is None:
            return None
        status, epoch, cursor = row
        return Place(Cursor(str(key), epoch, cursor), terminal=status in TERMINAL)

    async def start_of(self, conversation_id: Any, after: Cursor | None) -> int:
        """Where a follower of a conversation begins, as the position before it.

        With a cursor that is the message it is of, so that this one is resumed; else the oldest
        message that is not done yet, or what comes next.
        """
        kind = self._kind
        mine = kind.conversation_id == conversation_id
        async with self._sessions() as db:
            if after is not None and (key := parsed_key(kind, after.message_id)) is not None:
                query = select(kind.position).where(mine, kind.id == key)
                if (position := await db.scalar(query)) is not None:
                    return position - 1
            # In one statement: a turn that starts between two would be in neither.
            oldest_live = func.min(kind.position).filter(kind.status.in_(LIVE)) - 1
            start = func.coalesce(oldest_live, func.max(kind.position), 0)
            return await db.scalar(select(start).where(mine)) or 0

    async def _frames(self, key: Any, feed: Feed, at: Cursor) -> Batches:
        """What the broker has, until it is the row's turn again to say what is."""
        while True:
            try:
                async with asyncio.timeout(PATIENCE if feed.live else self._timings.poll):
                    frames = await feed.batch()
            except TimeoutError:
                if await self._moved(key, at):
                    return
                continue
            if not frames:
                return
            yield frames
            at = Cursor(at.message_id, at.epoch, frames[-1].seq)

    async def _newest(self, conversation_id: Any) -> int | None:
        """The position of the newest message; ``None`` if the conversation is no more."""
        conversation, kind = self._conversations.id, self._kind
        newest = select(func.max(kind.position)).where(kind.conversation_id == conversation_id)
        async with self._sessions() as db:
            query = select(newest.scalar_subquery()).where(conversation == conversation_id)
            row = (await db.execute(query)).first()
        return None if row is None else row[0] or 0

    async def _moved(self, key: Any, at: Cursor) -> bool:
        """Whether the row says more than what a follower at that place has."""
        place = await self.place_of(key)
        if place is None or place.terminal:
            return True
        return place.cursor.epoch != at.epoch or place.cursor.seq > at.seq

    async def _row(self, key: Any) -> MessageT | None:
        async with self._sessions() as db:
            return await db.get(self._kind, key)

    async def _rows(self, conversation_id: Any, behind: int) -> Sequence[MessageT]:
        async with self._sessions() as db:
            query = (
                select(self._kind)
                .where(self._kind.conversation_id == conversation_id)
                .where(self._kind.position > behind)
                .order_by(self._kind.position)
            )
            return (await db.scalars(query)).all()
