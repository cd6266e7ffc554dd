"""A conversation's OpenCode session: found, created once, replaced, aborted."""

from __future__ import annotations

import asyncio
from typing import Generic

from sqlalchemy import update
from sqlalchemy.ext.asyncio import AsyncSession

from opencode_async.client.client import OpencodeClient
from opencode_async.database import Sessions, key_of, locked, release, sessions_beside
from opencode_async.database_time import database_time
from opencode_async.errors import ConversationNotFound, OpencodeError
from opencode_async.models import ConversationT
from opencode_async.observability.error_reporter import ErrorReporter, log_error
from opencode_async.settings import SettingsFor, TurnSettings, default_settings

CLAIM = 45.0  # s one caller has to create the session: longer than a request may take
RETRY = 0.1  # s between looks at a session that another caller creates


class Session(Generic[ConversationT]):
    """The OpenCode session of one conversation.

    ``db`` is the caller's; it is committed before each wait on the network, so a ``db`` inside an
    explicit transaction, or with unflushed changes, is refused with ``TransactionOpen``.
    ``just_created`` tells after ``ensure()`` whether the session is new.
    """

    def __init__(
        self,
        db: AsyncSession,
        conversation: ConversationT,
        *,
        client: OpencodeClient,
        settings_for: SettingsFor[ConversationT] = default_settings,
        error_reporter: ErrorReporter = log_error,
    ) -> None:
        self.db = db
        self.conversation = conversation
        self.conversation_id = key_of(conversation)
        self.client = client
        self.error_reporter = error_reporter
        self.just_created = False
        self._session_id: str | None = None
        self._settings_for = settings_for
        self._kind: type[ConversationT] = type(conversation)
        self._sessions: Sessions = sessions_beside(db, self._kind)

    async def settings(self) -> TurnSettings:
        """What the host decides for this conversation, asked anew each time.

        The host's hook is given the row as it is stored now, detached: no connection is held while
        it runs.
        """
        return await self._settings_for(await self._row())

    async def ensure(self) -> str:
        """The session's id; creates the session if the conversation has none yet.

        However many callers ask at once, in however many processes, one session is left. Raises
        ``TransactionOpen``, ``ConversationNotFound`` and what the client raises.
        """
        await release(self.db)
        self._session_id = await self._obtain(instead_of=None)
        return self._session_id

    async def recreate(self) -> str:
        """Replace the session, which OpenCode no longer knows; the new one's id.

        What is replaced is the session that ``ensure()`` gave: callers who had the same one all get
        the one new session.
        """
        await release(self.db)
        stale = self._session_id or (await self._row()).opencode_session_id
        self._session_id = await self._obtain(instead_of=stale)
        return self._session_id

    async def abort(self) -> None:
        """Abort what the session is doing, its subagents first; with no session, nothing."""
        await release(self.db)
        session_id = (await self._row()).opencode_session_id
        if session_id is not None:
            await self.client.abort_tree(session_id)

    async def _row(self) -> ConversationT:
        async with self._sessions() as db:
            row = await db.get(self._kind, self.conversation_id)
        if row is None:
            raise ConversationNotFound(self.conversation_id)
        return row

    async def _obtain(self, *, instead_of: str | None) -> str:
        """Wait for the id, or for the claim that lets this caller create the session."""
        self.just_created = False
        while True:
            async with self._sessions.begin() as db:
                row = await locked(db, self._kind, self.conversation_id)
                if row is None:
                    raise ConversationNotFound(self.conversation_id)
                current = row.opencode_session_id
                if current is not None and current != instead_of:
                    return current
                claimed = await self._claim(db)
            if claimed and (created := await self._create(instead_of)):
                return created
            await asyncio.sleep(RETRY)

    async def _claim(self, db: AsyncSession) -> bool:
        """Claim the right to create, unless another caller's claim still holds."""
        column = self._kind.session_claimed_until
        claimed = await db.execute(
            update(self._kind)
            .where(self._kind.id == self.conversation_id)
            .where(column.is_(None) | (column < database_time()))
            .values({"session_claimed_until": database_time(CLAIM)})
            .returning(self._kind.id)
            .execution_options(synchronize_session=False)
        )
        return claimed.first() is not None

    async def _create(self, instead_of: str | None) -> str | None:
        """Create the session; ``None`` where the claim ran out and another caller was faster."""
        try:
            row = await self._row()
            settings = await self._settings_for(row)
            session_id = await self.client.create_session(
                # Without a title OpenCode spends a model call on making one.
                title=row.title or f"Conversation {self.conversation_id}",
                permissions=settings.permissions,
                # A crash between here and the next line leaves a session nobody knows of; this is
                # how clean-up finds it.
                metadata={"conversation_id": str(self.conversation_id)},
            )
        except BaseException:
            await asyncio.shield(self._store(instead_of, instead_of))
            raise
        self.just_created = await self._store(session_id, instead_of)
        if self.just_created:
            return session_id
        await self._discard(session_id)
        return None

    async def _store(self, session_id: str | None, instead_of: str | None) -> bool:
        """Compare-and-set the id, ending the claim; whether it was still the one expected."""
        async with self._sessions.begin() as db:
            stored = await db.execute(
                update(self._kind)
                .where(self._kind.id == self.conversation_id)
                .where(self._kind.opencode_session_id.is_not_distinct_from(instead_of))
                .values({"opencode_session_id": session_id, "session_claimed_until": None})
                .returning(self._kind.id)
                .execution_options(synchronize_session=False)
            )
            return stored.first() is not None

    async def _discard(self, session_id: str) -> None:
        """Delete the session of a caller that came too late."""
        try:
            await self.client.delete_session(session_id)
        except OpencodeError as error:
            context = {"during": "discarding a session", "session_id": session_id}
            self.error_reporter(error, severity="warning", context=context)
