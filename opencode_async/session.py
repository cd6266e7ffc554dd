"""A conversation's OpenCode session: found, created once, replaced, aborted."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from dataclasses import replace
from typing import Any, Generic

from sqlalchemy import func, true, update
from sqlalchemy.ext.asyncio import AsyncSession

from opencode_async.client.client import OpencodeClient
from opencode_async.database import (
    Sessions,
    despite_cancellation,
    key_of,
    release,
    sessions_beside,
)
from opencode_async.database_time import database_time
from opencode_async.errors import (
    ConversationNotFound,
    NotFoundError,
    OpencodeError,
    SessionMoved,
    UsageError,
)
from opencode_async.models import ERASURE, ConversationT, new_sandbox_key
from opencode_async.observability.error_reporter import ErrorReporter, log_error
from opencode_async.observability.events import (
    SessionCreated,
    SessionDiscarded,
    SessionRecreated,
)
from opencode_async.observability.instrumentation import Instrumentation, harmless, log_event
from opencode_async.protocol.listed import metadata_of
from opencode_async.protocol.permissions import Permissions, Rule
from opencode_async.protocol.session_rules import handed_down, has_leftovers, missing
from opencode_async.settings import SettingsFor, TurnSettings, default_settings

# s one caller has to create the session, and the server has of it: one that is stored later could
# have been taken for a crash's.
CLAIM, CREATION = 45.0, 35.0
FOLDER = "Your folder is {}."
FENCED = "Your folder is {}: read and write files only there."
RETRY = 0.1  # s between looks at a session that another caller creates
ClientOf = Callable[[ConversationT], Awaitable[OpencodeClient]]


class Session(Generic[ConversationT]):
    """The OpenCode session of one conversation.

    ``db`` is the caller's; it is committed before each wait on the network, so a ``db`` inside an
    explicit transaction, or with unflushed changes, is refused with ``TransactionOpen``.
    ``just_created`` tells after ``ensure()`` whether the session is new. ``client`` may also be an
    async function of the conversation, which is called once, when first needed.
    """

    def __init__(
        self,
        db: AsyncSession,
        conversation: ConversationT,
        *,
        client: OpencodeClient | ClientOf[ConversationT],
        settings_for: SettingsFor[ConversationT] = default_settings,
        error_reporter: ErrorReporter = log_error,
        instrumentation: Instrumentation = log_event,
    ) -> None:
        self.db = db
        self.conversation = conversation
        self.conversation_id = key_of(conversation)
        self.error_reporter = error_reporter
        self.just_created = False
        self._instrumentation = harmless(instrumentation, error_reporter)
        self._client = client
        self._session_id: str | None = None
        self._directory: str | None = None
        self._settings_for = settings_for
        self._kind: type[ConversationT] = type(conversation)
        self._sessions: Sessions = sessions_beside(db, self._kind)

    @property
    def client(self) -> OpencodeClient:
        """The client of the conversation's server; raises ``UsageError`` before it is found."""
        if not isinstance(self._client, OpencodeClient):
            raise UsageError("which client this session has is not known: await find_client()")
        return self._client

    async def find_client(self) -> OpencodeClient:
        """The client of the conversation's server; asked for once, with the row as it is stored."""
        if not isinstance(self._client, OpencodeClient):
            self._client = await self._client(await self.row())
        return self._client

    async def settings(self) -> TurnSettings:
        """What the host decides for this conversation, asked anew each time.

        The host's hook is given the row as it is stored now, detached: no connection is held while
        it runs. Where its permissions are about the conversation's sandbox, they come back with its
        path; of that the agent is told behind the host's ``system``, also where the host has files
        for it. Raises what the client raises.
        """
        row = await self.row()
        settings = await self._settings_for(row)
        permissions = settings.permissions
        if not (permissions.fenced or settings.seed):
            return settings
        paths = await (await self.find_client()).paths()
        folder = paths.sandbox(row.sandbox_key or await self.sandbox_key())
        told = (FENCED if permissions.fenced else FOLDER).format(folder)
        system = "\n\n".join(filter(None, (settings.system, told)))
        if permissions.fenced:
            permissions = permissions.inside(paths.pattern(folder))
        return replace(settings, system=system, permissions=permissions)

    async def ensure(self) -> str:
        """The session's id; creates the session if the conversation has none yet.

        However many callers ask at once, in however many processes, one session is left. Raises
        ``TransactionOpen``, ``ConversationNotFound`` and what the client raises.
        """
        await release(self.db)
        self._session_id = await self._obtain(instead_of=None)
        return self._session_id

    async def check_directory(self) -> None:
        """Raise ``SessionMoved`` if what ``ensure()`` gave is of another directory than the client.

        A session stays where it was created, whatever a request says (OpenCode 1.18.33, measured):
        the agent would go on working there, and what happens to it would not be heard here.
        """
        directory = (await (await self.find_client()).paths()).directory
        if self._directory not in (None, directory):
            raise SessionMoved(self._session_id, self._directory, directory)

    async def recreate(self) -> str:
        """Replace the session, which OpenCode no longer knows; the new one's id.

        What is replaced is the session that ``ensure()`` gave: callers who had the same one all get
        the one new session.
        """
        await release(self.db)
        stale = self._session_id or (await self.row()).opencode_session_id
        self._session_id = await self._obtain(instead_of=stale)
        return self._session_id

    async def permit(self, session_id: str, permissions: Permissions, agent: str | None) -> None:
        """Make these the rules of the session for its next turn, by that agent of OpenCode's.

        Nothing is sent where they are in force. None can be taken away: where an earlier set had
        others, the agent's own rules come before the new ones and are the last that match, as if
        the earlier ones were not there. A subagent is handed every ``deny`` all the same, also
        those of earlier sets, and one that is resumed keeps those it was started with (OpenCode
        1.18.33, measured), so it is given the new ones here. Raises what the client raises.
        """
        stored, wanted = await self.client.session_rules(session_id), permissions.sent
        handed = handed_down(wanted)
        if has_leftovers(stored, wanted):
            wanted = await self.client.agent_rules(agent) + wanted
        if new := missing(stored, wanted):
            # The session's own come last: until they are there all of this is done again.
            await self._hand_down(session_id, handed)
            await self.client.add_rules(session_id, new)

    async def _hand_down(self, session_id: str, rules: list[Rule]) -> None:
        """Give the subagents that are there the rules that new ones will be started with."""
        for child in await self.client.children(session_id):
            with suppress(NotFoundError):
                await self._hand_down(child.session_id, rules)
                stored = await self.client.session_rules(child.session_id)
                if new := missing(stored, rules):
                    await self.client.add_rules(child.session_id, new)

    async def abort(self) -> None:
        """Abort what the session is doing, its subagents first; with no session, nothing."""
        await release(self.db)
        session_id = (await self.row()).opencode_session_id
        if session_id is not None:
            await (await self.find_client()).abort_tree(session_id)

    async def row(self) -> ConversationT:
        """The conversation as it is stored now, detached. Raises ``ConversationNotFound``."""
        async with self._sessions() as db:
            row = await db.get(self._kind, self.conversation_id)
        if row is None:
            raise ConversationNotFound(self.conversation_id)
        return row

    async def sandbox_key(self) -> str:
        """The name of the conversation's folder; a row from before the library is given one."""
        if key := (await self.row()).sandbox_key:
            return key
        column = self._kind.sandbox_key
        async with self._sessions.begin() as db:
            key = await db.scalar(
                update(self._kind)
                .where(self._kind.id == self.conversation_id)
                .values({"sandbox_key": func.coalesce(column, new_sandbox_key())})
                .returning(column)
                .execution_options(synchronize_session=False)
            )
        if key is None:
            raise ConversationNotFound(self.conversation_id)
        return key

    async def _obtain(self, *, instead_of: str | None) -> str:
        """Wait for the id, or for the claim that lets this caller create the session."""
        self.just_created = False
        while True:
            row = await self.row()
            current = row.opencode_session_id
            if current is not None and current != instead_of:
                self._directory = row.directory
                return current
            if row.is_being_erased:
                raise ConversationNotFound(self.conversation_id)
            self._directory = (await (await self.find_client()).paths()).directory
            if await self._claim(instead_of) and (created := await self._create(instead_of)):
                return created
            await asyncio.sleep(RETRY)

    async def _claim(self, instead_of: str | None) -> bool:
        """Claim the right to create, unless it was done or another caller's claim still holds."""
        column = self._kind.session_claimed_until
        async with self._sessions.begin() as db:
            claimed = await db.scalar(
                update(self._kind)
                .where(self._kind.id == self.conversation_id)
                .where(self._kind.opencode_session_id.is_not_distinct_from(instead_of))
                .where(column.is_(None) | (column < database_time()))
                .values({"session_claimed_until": database_time(CLAIM)})
                .returning(self._kind.id)
                .execution_options(synchronize_session=False)
            )
        return claimed is not None

    async def _create(self, instead_of: str | None) -> str | None:
        """Create the session; ``None`` where the claim ran out and another caller was faster."""
        try:
            row = await self.row()
            settings = await self.settings()
            client = await self.find_client()
            session_id = await client.create_session(
                # Without a title OpenCode spends a model call on making one.
                title=row.title or f"Conversation {self.conversation_id}",
                permissions=settings.permissions,
                # A crash between here and the next line leaves a session nobody knows of; this is
                # how clean-up finds it.
                metadata=metadata_of(
                    self.conversation_id, row.sandbox_key or await self.sandbox_key()
                ),
                within=CREATION,
            )
        except BaseException:
            await self._finally(self._store(instead_of, instead_of))
            raise
        stored = self._store(session_id, instead_of, directory=self._directory)
        self.just_created = await self._finally(stored)
        if self.just_created:
            about = {"conversation_id": str(self.conversation_id), "session_id": session_id}
            if instead_of is None:
                self._instrumentation(SessionCreated(**about))
            else:
                self._instrumentation(SessionRecreated(**about, stale=instead_of))
            return session_id
        await self._discard(client, session_id)
        return None

    async def _store(
        self, session_id: str | None, instead_of: str | None, **where: str | None
    ) -> bool:
        """Compare-and-set the id, ending the claim; whether it was still the one expected.

        A new one is stored under a claim alone: without, clean-up takes it for a crash's.
        """
        until = self._kind.session_claimed_until
        held = true() if session_id == instead_of else until > database_time()
        async with self._sessions.begin() as db:
            stored = await db.execute(
                update(self._kind)
                .where(self._kind.id == self.conversation_id)
                .where(self._kind.opencode_session_id.is_not_distinct_from(instead_of))
                .where(until.is_distinct_from(ERASURE), held)
                .values({"opencode_session_id": session_id, "session_claimed_until": None, **where})
                .returning(self._kind.id)
                .execution_options(synchronize_session=False)
            )
            return stored.first() is not None

    async def _finally(self, store: Coroutine[Any, Any, bool]) -> bool:
        """End the claim also where the caller is cancelled: others wait for that."""
        return await despite_cancellation(store, self.error_reporter)

    async def _discard(self, client: OpencodeClient, session_id: str) -> None:
        """Delete the session of a caller that came too late."""
        self._instrumentation(
            SessionDiscarded(conversation_id=str(self.conversation_id), session_id=session_id)
        )
        try:
            await client.delete_session(session_id)
        except OpencodeError as error:
            context = {"during": "discarding a session", "session_id": session_id}
            self.error_reporter(error, severity="warning", context=context)
