"""Following a conversation: the turn that runs, and what waits behind it, in one stream.

Only the frames of the turn at the head, the first whose end was not told, say how far the stream
has come. What is told meanwhile of those behind it carries the head's cursor, so that a follower
who resumes misses nothing of either; a message that waits, or its end, may then be told again.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Generic

from sqlalchemy import func, select

from opencode_async.brokers.broker import EventBroker, Feed, Frame, conversation_topic
from opencode_async.database import Sessions, parsed_key
from opencode_async.models import LIVE, QUEUED, TERMINAL, ConversationT, MessageT
from opencode_async.observability.instrumentation import Instrumentation
from opencode_async.protocol.changes import Finished, MessageAdded
from opencode_async.tables import Tables
from opencode_async.timings import Timings
from opencode_async.turns.beside import NOTHING, Beside, Besides
from opencode_async.turns.follower import Follower
from opencode_async.turns.following import PATIENCE, Batches, Following
from opencode_async.turns.frames import Cursor, row_frame
from opencode_async.turns.queue import busy


@dataclass(frozen=True, slots=True)
class Entry:
    """A message's place in its conversation."""

    key: Any
    role: str
    status: str
    position: int


class ConversationFollowing(Generic[ConversationT, MessageT]):
    """Reads conversations for followers; holds no database connection while it waits."""

    def __init__(
        self,
        turns: Following[ConversationT, MessageT],
        sessions: Sessions,
        tables: Tables[ConversationT, MessageT],
        besides: Besides,
        broker: EventBroker,
        timings: Timings,
        instrumentation: Instrumentation,
        name: str,
    ) -> None:
        self._instrumentation = instrumentation
        self._turns = turns
        self._sessions = sessions
        self._conversations = tables.conversation
        self._kind = tables.message
        self._besides = besides
        self._broker = broker
        self._timings = timings
        self._name = name

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
            oldest = select(func.min(kind.position) - 1).where(busy(kind, conversation_id))
            newest = select(func.max(kind.position)).where(mine)
            start = func.coalesce(oldest.scalar_subquery(), newest.scalar_subquery(), 0)
            return await db.scalar(select(start)) or 0

    def follower(self, conversation_id: Any) -> Follower:
        """Whoever is to read the ``frames`` of a conversation."""
        return Follower(self._instrumentation, "conversation", conversation_id)

    async def frames(
        self, conversation_id: Any, after: Cursor | None, first: int, *, whole: bool = False
    ) -> Batches:
        """The frames of every turn of a conversation until it is erased.

        It begins with the turn of ``after``, ``whole`` as with a single turn, or the first message
        behind position ``first``.
        """
        topic = conversation_topic(self._name, conversation_id)
        stream = _Stream(self, conversation_id, first)
        if after is not None:
            stream.announced.add(after.message_id)
        async with self._broker.follow(topic, 0, 0) as news:
            while (entries := await self.entries(conversation_id, stream.position)) is not None:
                head = stream.head_of(entries)
                async for frames in stream.of_those_behind(entries):
                    yield frames
                    del frames  # a snapshot may be large, and the next may be long in coming
                if head is None or head.status == QUEUED:
                    await self.news_of(news)
                    continue
                resumed = after if after and after.message_id == str(head.key) else None
                after = None
                turn = self._turns.frames(head.key, resumed, whole=whole)
                async with aclosing(stream.of_the_head(turn, news)) as batches:
                    async for frames in batches:
                        yield frames
                        del frames
                stream.is_over(head)

    async def entries(self, conversation_id: Any, behind: int) -> list[Entry] | None:
        """The messages behind a position; ``None`` if the conversation is no more."""
        conversation, kind = self._conversations, self._kind
        newer = (kind.conversation_id == conversation.id) & (kind.position > behind)
        query = (
            select(conversation.id, kind.id, kind.role, kind.status, kind.position)
            .outerjoin_from(conversation, kind, newer)
            .where(conversation.id == conversation_id)
            .order_by(kind.position)
        )
        async with self._sessions() as db:
            rows = (await db.execute(query)).all()
        return [Entry(*row[1:]) for row in rows if row[1] is not None] if rows else None

    async def rows(self, keys: Sequence[Any]) -> tuple[Sequence[MessageT], Beside]:
        """Those messages, in their order, and what stands beside them."""
        async with self._sessions() as db:
            query = select(self._kind).where(self._kind.id.in_(keys)).order_by(self._kind.position)
            return (await db.scalars(query)).all(), await self._besides.of(db, keys)

    async def news_of(self, feed: Feed) -> None:
        """Wait until the rows are to be looked at: there is news, or none may come."""
        await feed.batch(PATIENCE if feed.heard else self._timings.poll)


class _Stream:
    """What one follower of a conversation was told."""

    def __init__(
        self, following: ConversationFollowing[Any, Any], conversation_id: Any, position: int
    ) -> None:
        self.position = position  # everything before it is over
        self.announced: set[str] = set()
        self._following = following
        self._conversation_id = conversation_id
        self._waiting: set[str] = set()  # told of as queued
        self._over: set[str] = set()
        self._head: str | None = None
        self._cursor: str | None = None  # of the head

    def head_of(self, entries: Sequence[Entry]) -> Entry | None:
        """The first turn whose end was not told yet; from now on it is the head."""
        turns = (e for e in entries if e.role == "assistant" and str(e.key) not in self._over)
        head = next(turns, None)
        self._head = self._cursor = None
        if head is not None:
            self._head = str(head.key)
            self._cursor = str(Cursor(self._head, 0, 0))
        return head

    def is_over(self, head: Entry) -> None:
        """The follower was told the end of the head."""
        self.position = head.position
        self._over.add(str(head.key))

    async def of_those_behind(self, entries: Sequence[Entry]) -> Batches:
        """New messages up to the head; behind one that is live, those that wait, and their ends."""
        told, behind = [], set()
        past_head = False
        for entry in entries:
            name = str(entry.key)
            ended = name in self._waiting - self._over and entry.status in TERMINAL
            if name not in self.announced or (ended and name != self._head):
                told.append(entry.key)
            if past_head:
                behind.add(name)
            past_head = past_head or name == self._head
            if name == self._head and entry.status not in LIVE:
                break  # what comes behind it is told when its end was
        rows, beside = await self._following.rows(told) if told else ((), NOTHING)
        for row in rows:
            name = str(row.id)
            cursor = self._cursor if name in behind else None
            if name not in self.announced:
                self.announced.add(name)
                yield [_placed(row_frame(row, MessageAdded, beside), cursor)]
            elif row.status in TERMINAL:
                self._over.add(name)
                yield [_placed(row_frame(row, Finished, beside), cursor)]
            if row.status == QUEUED:
                self._waiting.add(name)

    async def of_the_head(self, turn: Batches, news: Feed) -> AsyncGenerator[Sequence[Frame], None]:
        """The head's frames, and meanwhile those of the turns that wait."""
        coming = asyncio.ensure_future(next_batch(turn))
        looking = asyncio.ensure_future(self._following.news_of(news))
        try:
            while True:
                await asyncio.wait((coming, looking), return_when=asyncio.FIRST_COMPLETED)
                if coming.done():
                    frames = coming.result()
                    if frames is None:
                        return
                    self._cursor = frames[-1].id
                    yield frames
                    del frames
                    coming = asyncio.ensure_future(next_batch(turn))
                if looking.done():
                    looking.result()
                    entries = await self._following.entries(self._conversation_id, self.position)
                    async for frames in self.of_those_behind(entries or []):
                        yield frames
                        del frames
                    looking = asyncio.ensure_future(self._following.news_of(news))
        finally:
            for task in (coming, looking):
                task.cancel()
            await asyncio.wait((coming, looking))
            await turn.aclose()


def _placed(frame: Frame, cursor: str | None) -> Frame:
    """The frame at that place, unless it has one of its own."""
    return frame if cursor is None else Frame(cursor, frame.seq, frame.event, frame.data)


async def next_batch(batches: Batches) -> Sequence[Frame] | None:
    """The next frames; ``None`` when there are no more."""
    return await anext(batches, None)
