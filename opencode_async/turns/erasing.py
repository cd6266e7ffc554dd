"""Erasing a conversation, here and upstream, in steps each of which may be taken again.

It is claimed first, for good: from then on nothing new begins in it. Its rows go last, for they say
what else there is of it: where a worker dies on the way, whoever erases it again goes on.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Generic

from sqlalchemy import ColumnElement, Select, delete, select, true, update

from opencode_async.artifacts.policy import ArtifactPolicy, sandbox_here
from opencode_async.client.client import OpencodeClient
from opencode_async.database import Sessions, locked
from opencode_async.errors import ArtifactStoreError, ConversationNotFound, OpencodeError
from opencode_async.models import ERASURE, ArtifactMixin, ConversationT, MessageT
from opencode_async.observability.error_reporter import ErrorReporter
from opencode_async.session import ClientOf
from opencode_async.tables import Tables
from opencode_async.timings import Timings
from opencode_async.turns.queue import busy
from opencode_async.turns.turns import Turns


class Eraser(Generic[ConversationT, MessageT]):
    """The steps, of which each reports what it cannot do."""

    def __init__(
        self,
        sessions: Sessions,
        tables: Tables[ConversationT, MessageT],
        client_of: ClientOf[ConversationT],
        policy: ArtifactPolicy | None,
        report: ErrorReporter,
    ) -> None:
        self.sessions = sessions
        self.tables = tables
        self._client_of = client_of
        self._policy = policy
        self._report = report

    async def erase(
        self, key: Any, turns: Turns[ConversationT, MessageT], timings: Timings
    ) -> None:
        """Take all of them, whatever becomes of each. Raises ``ConversationNotFound``."""
        row = await self.claim(key)
        if row is None:
            raise ConversationNotFound(key)
        messages = self.tables.message
        async with self.sessions() as db:
            found = await db.scalars(
                select(messages.id)
                .where(busy(messages, row.id))
                # Those that wait first: none of them is to have its turn.
                .order_by(messages.position.desc())
            )
            live = found.all()
        for each in live:
            await turns.stop(each, within=timings.stop)
        client = await self.client_of(row.id)
        if client is not None and not await self.end_session(row, client):
            client = None
        await self.delete_files(row, client)
        await self.delete_rows(row.id)
        await turns.tell_followers(row.id)

    async def claim(
        self, key: Any, which: ColumnElement[bool] | None = None
    ) -> ConversationT | None:
        """Claim the conversation, if it is one of ``which``; its row, detached."""
        kind = self.tables.conversation
        async with self.sessions.begin() as db:
            row = await locked(db, kind, key)
            claimed = await db.scalar(
                update(kind)
                .where(kind.id == key, true() if which is None else which)
                .values({"session_claimed_until": ERASURE})
                .returning(kind.id)
                .execution_options(synchronize_session=False)
            )
        return None if claimed is None else row

    async def client_of(self, key: Any) -> OpencodeClient | None:
        """The client of its server, if the host can say which: its own rows are to be there yet."""
        async with self.sessions() as db:
            row = await db.get(self.tables.conversation, key)
        try:
            return None if row is None else await self._client_of(row)
        except Exception as error:
            self.failed(error, "finding a server", conversation_id=key)
            return None

    async def end_session(self, row: ConversationT, client: OpencodeClient) -> bool:
        """Delete its OpenCode session, if it has one; whether there is none now."""
        session_id = row.opencode_session_id
        try:
            await client.paths()
            if session_id is not None:
                await client.end_session(session_id)
        except OpencodeError as error:
            about = {"conversation_id": row.id, "session_id": session_id}
            self.failed(error, "erasing a session", **about)
            return False
        return True

    async def delete_files(self, row: ConversationT, client: OpencodeClient | None) -> bool:
        """Delete its sandbox, as far as that is seen here, and the files that were kept of it.

        Whether none is left, but for a sandbox that no attempt would find. ``client`` is one that
        has answered.
        """
        # The host may have moved the conversation to another server since its session was created.
        directories = {row.directory, None if client is None else (await client.paths()).directory}
        gone = True
        for directory in filter(None, directories if row.sandbox_key else ()):
            try:
                sandbox = sandbox_here(self._policy, directory, row.sandbox_key or "")
                if sandbox is not None:
                    await sandbox.erase()
            except (OSError, ValueError) as error:
                self.failed(error, "erasing a sandbox", conversation_id=row.id)
                gone &= isinstance(error, ValueError)
        file = self.tables.artifact
        if file is None:
            return gone
        async with self.sessions() as db:
            found = select(file.id, file.key).where(file.message_id.in_(self._messages_of(row.id)))
            kept = (await db.execute(found)).all()
        deleted = [await self._delete_file(file, *each) for each in kept]
        return gone and all(deleted)

    async def delete_rows(self, key: Any) -> bool:
        """Delete its rows; whether there still was one of the conversation."""
        tables, mine = self.tables, self._messages_of(key)
        messages, conversations = tables.message, tables.conversation
        late: Sequence[str | None] = ()
        async with self.sessions.begin() as db:
            await locked(db, conversations, key)
            # A worker that keeps a file of a turn holds its row meanwhile.
            await db.execute(mine.with_for_update())
            if (ask := tables.ask) is not None:
                await db.execute(delete(ask).where(ask.message_id.in_(mine)))
            if (file := tables.artifact) is not None:
                theirs = delete(file).where(file.message_id.in_(mine)).returning(file.key)
                late = (await db.scalars(theirs)).all()
            await db.execute(delete(messages).where(messages.conversation_id == key))
            gone = delete(conversations).where(conversations.id == key).returning(conversations.id)
            deleted = await db.scalar(gone) is not None
        for each in late:
            await self._delete_object(each)
        return deleted

    def failed(self, error: Exception, during: str, **about: object) -> None:
        """Report what one of the steps could not do."""
        named = {name: str(value) for name, value in about.items()}
        self._report(error, severity="warning", context={"during": during, **named})

    async def _delete_file(self, kind: type[ArtifactMixin], key: Any, kept_as: str | None) -> bool:
        if not await self._delete_object(kept_as):
            return False
        async with self.sessions.begin() as db:
            await db.execute(delete(kind).where(kind.id == key))
        return True

    async def _delete_object(self, kept_as: str | None) -> bool:
        try:
            if self._policy is not None and kept_as is not None:
                await self._policy.store.delete(kept_as)
        except ArtifactStoreError as error:
            self.failed(error, "erasing a file", key=kept_as)
            return False
        return True

    def _messages_of(self, key: Any) -> Select[Any]:
        messages = self.tables.message
        return select(messages.id).where(messages.conversation_id == key)
