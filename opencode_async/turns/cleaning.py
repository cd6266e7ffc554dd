"""Retention: removing conversations that nobody has touched for long, and what crashes left.

One thing at a time: turns are to have the servers and the database nearly to themselves. A run
passes once over the conversations in the order of their keys, with a batch of keys in memory, and
holds no connection while it waits for anything else. What it cannot remove is reported, and left
for the next run.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Generic, Literal

from sqlalchemy import ColumnElement, exists, select
from sqlalchemy.exc import IntegrityError

from opencode_async.client.client import OpencodeClient
from opencode_async.database import as_key
from opencode_async.database_time import database_time
from opencode_async.errors import OpencodeError, SessionNotFoundError
from opencode_async.models import ERASURE, LIVE, ConversationMixin, ConversationT, MessageT
from opencode_async.protocol.listed import ListedSession
from opencode_async.tables import Tables
from opencode_async.turns.erasing import Eraser

BATCH = 500  # keys that are looked up at a time
PATIENCE = 30.0  # s for a busy server to say that it is there


@dataclass(frozen=True, slots=True)
class Removed:
    """One thing that is gone: ``id`` is a conversation's key, a session's id or a directory.

    A ``session`` is one that a crash had left without a conversation; an ``instance`` is what a
    server had in memory for a directory in which there is no session any more.
    """

    kind: Literal["conversation", "session", "instance"]
    id: Any


class Cleanup(Generic[ConversationT, MessageT]):
    """One run; ``seconds`` is how long a conversation is to be untouched."""

    def __init__(
        self,
        eraser: Eraser[ConversationT, MessageT],
        seconds: float,
        tell_followers: Callable[[Any], Awaitable[None]],
    ) -> None:
        self._eraser = eraser
        self._tell_followers = tell_followers
        self._sessions = eraser.sessions
        self._kind = eraser.tables.conversation
        self._stale = stale(eraser.tables, seconds)
        self._answers: dict[OpencodeClient, bool] = {}  # whether it does, of each that was met
        self._emptied: set[OpencodeClient] = set()  # a little, at least

    async def run(self, own: OpencodeClient | None) -> AsyncGenerator[Removed, None]:
        """Remove, and tell of each thing that is gone; ``own`` is a client to begin with."""
        if own is not None:
            async with aclosing(self._meet(own)) as orphans:
                async for removed in orphans:
                    yield removed
        last: Any = None
        while keys := await self._stale_keys(last):
            for last in keys:
                if (client := await self._eraser.client_of(last)) is None:
                    continue
                async with aclosing(self._meet(client)) as orphans:
                    async for removed in orphans:
                        yield removed
                if self._answers[client] and await self._remove(last, client):
                    self._emptied.add(client)
                    yield Removed("conversation", last)
        for client in self._emptied:
            if (directory := await self._disposed(client)) is not None:
                yield Removed("instance", directory)

    async def _stale_keys(self, behind: Any) -> Sequence[Any]:
        query = select(self._kind.id).where(self._stale).order_by(self._kind.id).limit(BATCH)
        if behind is not None:
            query = query.where(self._kind.id > behind)
        async with self._sessions() as db:
            return (await db.scalars(query)).all()

    async def _remove(self, key: Any, client: OpencodeClient) -> bool:
        """Remove a conversation, if it is still to be; whether this run did."""
        row = await self._eraser.claim(key, self._stale)
        if row is None:
            return False
        if not await self._eraser.end_session(row, client):
            await self._probe(client)  # where it is gone, so are those of the others
            return False
        try:
            if not await self._eraser.delete_files(row, client):
                return False
            deleted = await self._eraser.delete_rows(key)
        except IntegrityError as error:  # a row of the host's refers to one of these
            self._eraser.failed(error, "deleting rows", conversation_id=key)
            return False
        await self._tell_followers(key)
        return deleted

    async def _meet(self, client: OpencodeClient) -> AsyncGenerator[Removed, None]:
        """The first time a client is met, remove what crashes have left there.

        A server that does not answer is reported once, and its conversations are left as they are.
        """
        if client in self._answers or not await self._probe(client):
            return
        try:
            async with aclosing(client.sessions()) as pages:
                async for page in pages:
                    for session_id in await self._orphans(page):
                        if await self._ended(session_id, client):
                            yield Removed("session", session_id)
        except OpencodeError as error:
            self._eraser.failed(error, "looking for orphaned sessions", server=client.server.url)

    async def _probe(self, client: OpencodeClient) -> bool:
        try:
            await client.version(within=PATIENCE)
        except OpencodeError as error:
            self._eraser.failed(error, "cleaning up", server=client.server.url)
            self._answers[client] = False
        else:
            self._answers[client] = True
        return self._answers[client]

    async def _orphans(self, page: Sequence[ListedSession]) -> list[str]:
        """The sessions that are provably a conversation's of ours, which has another or none.

        The page was read before: who creates a session has claimed its conversation before it asks
        for one, until its id is stored. So where no claim holds now, none of these will be.
        """
        kind = self._kind
        said = [(as_key(kind, each.conversation_id), each) for each in page]
        keys = {key for key, _ in said if key is not None}
        query = select(kind.id, kind.sandbox_key, kind.opencode_session_id)
        async with self._sessions() as db:
            rows = (await db.execute(query.where(kind.id.in_(keys), unclaimed(kind)))).all()
        known = {row[0]: row for row in rows}
        return [
            each.session_id
            for key, each in said
            if (row := known.get(key)) and each.is_of(*row[:2]) and each.session_id != row[2]
        ]

    async def _ended(self, session_id: str, client: OpencodeClient) -> bool:
        try:
            # Of one whose creation crashed nobody knew, so that nothing was said in it. A fork of
            # the conversation's own is somebody's, and has the same metadata (OpenCode 1.18.33,
            # measured).
            if (await client.messages(session_id, limit=1)).messages:
                return False
            await client.end_session(session_id)
        except SessionNotFoundError:
            return False
        except OpencodeError as error:
            self._eraser.failed(error, "removing an orphaned session", session_id=session_id)
            return False
        self._emptied.add(client)
        return True

    async def _disposed(self, client: OpencodeClient) -> str | None:
        """The directory, if it has no session any more, so that nothing can run there."""
        try:
            directory = (await client.paths()).directory
            async with aclosing(client.sessions()) as pages:
                if await anext(pages):
                    return None
            if await self._begins():
                return None
            await client.dispose()
        except OpencodeError as error:
            self._eraser.failed(error, "disposing of an instance", server=client.server.url)
            return None
        return directory

    async def _begins(self) -> bool:
        """Whether a session is being created, or a turn may be about to have one created."""
        kind, messages = self._kind, self._eraser.tables.message
        claimed, live = exists().where(~unclaimed(kind)), exists().where(messages.status.in_(LIVE))
        async with self._sessions() as db:
            return bool(await db.scalar(select(claimed | live)))


def stale(tables: Tables[ConversationT, MessageT], seconds: float) -> ColumnElement[bool]:
    """The criterion for conversations that may go: untouched for so long, or begun to be erased.

    Touched is one that was posted to, to which a host added a message, or whose answer ended. Never
    one that has a live turn, or one of whose end the host is still to be told, or a session that is
    being created.
    """
    kind, messages = tables.conversation, tables.message
    mine = messages.conversation_id == kind.id
    unfinished = messages.status.in_(LIVE) | messages.lease_expires_at.is_not(None)
    since = database_time(-seconds)
    touched = (messages.finished_at >= since) | (messages.created_at >= since)
    old = (kind.updated_at < since) & ~exists().where(mine, touched)
    begun = kind.session_claimed_until == ERASURE
    return ~exists().where(mine, unfinished) & (begun | old) & unclaimed(kind)


def unclaimed(kind: type[ConversationMixin]) -> ColumnElement[bool]:
    """The criterion for conversations whose session nobody is creating just now."""
    until = kind.session_claimed_until
    return until.is_(None) | (until < database_time()) | (until == ERASURE)
