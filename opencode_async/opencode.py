"""An agent behind an app: everything wired together, running inside one ``async with``."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, nullcontext
from dataclasses import replace
from datetime import timedelta
from enum import Enum
from functools import partial
from typing import Any, Generic, Self

from fastapi import APIRouter, Request, Response, params
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from opencode_async.artifacts.policy import ArtifactPolicy, trust_of
from opencode_async.artifacts.stores.directory import DirectoryArtifactStore
from opencode_async.brokers.broker import EventBroker
from opencode_async.brokers.memory import MemoryBroker
from opencode_async.client.client import OpencodeClient
from opencode_async.client.pool import ClientPool
from opencode_async.client.server import Server, as_server
from opencode_async.database import (
    Sessions,
    as_key,
    engine_of,
    is_away,
    key_of,
    release,
    sessions_of,
)
from opencode_async.errors import ConversationNotFound, NotRunning, OpencodeConnectionError
from opencode_async.models import ConversationT, MessageT
from opencode_async.observability.error_reporter import ErrorReporter, guarded, log_error
from opencode_async.observability.instrumentation import Instrumentation, harmless, log_event
from opencode_async.observability.tracer import HarmlessTracer, NoTracer, Tracer
from opencode_async.session import Session
from opencode_async.settings import SettingsFor, default_settings
from opencode_async.tables import Tables
from opencode_async.timings import Timings
from opencode_async.turns.asks import Decide
from opencode_async.turns.audience import ObserverFactory, OnTurnFinished
from opencode_async.turns.beside import Besides
from opencode_async.turns.cleaning import Cleanup, Removed
from opencode_async.turns.erasing import Eraser
from opencode_async.turns.message import TurnResult
from opencode_async.turns.spending import MaySpend
from opencode_async.turns.turn import Turn
from opencode_async.turns.turns import Dispatch, Turns
from opencode_async.turns.uploading import Uploading
from opencode_async.web.access import AccessDependency
from opencode_async.web.followers import FollowerLimits, Followers
from opencode_async.web.multipart import UploadLimits
from opencode_async.web.router import RouterOptions, build_router
from opencode_async.web.schemas import PostRules
from opencode_async.web.shown import Show, Shown
from opencode_async.web.sse import turn_response
from opencode_async.web.streams import Streams

ClientFor = Callable[[ConversationT], Awaitable[str | Server]]


class Opencode(Generic[ConversationT, MessageT]):
    """An OpenCode agent behind a host's app and tables.

    ``server`` is a URL or a ``Server``; ``sessionmaker`` makes the host's database sessions;
    ``name`` tells several agents in one app apart. All else is optional:

    * ``settings_for``: ``async (conversation) -> TurnSettings``, asked once for every turn (and for
      its ``permissions`` when the session is created), by whichever worker runs it;
    * ``client_for``: ``async (conversation) -> str | Server``, the server that a conversation's
      agent is on, asked by whichever worker needs it (default: ``server`` for all). If ``server``
      has a directory, the other's is that or below; there is one client, and so one event stream,
      for each server and directory;
    * ``dispatch``: ``async (message) -> None``, hands a pending turn to a job queue, whose job
      calls ``turns.run(message.id)``; without it a task of this process runs the turn;
    * ``observer_factory``: ``(message) -> ReplyObserver``, one per turn;
    * ``on_turn_finished``: ``async (result) -> None``, behind the commit, at least once;
    * ``decide``: ``async (ask, conversation) -> Decision``, answers what the agent asks instead of
      a person, or leaves it to one; what it decided is in the ask's row;
    * ``may_spend``: ``async (conversation, spent) -> bool``, whether a turn may go on (a budget of
      a user or a day, say), asked before its prompt is posted and whenever it has cost more, which
      is known at the end of each step; ``spent`` is what this turn has cost so far. ``False`` stops
      it (``error``, ``budget``). Steps go on meanwhile, and if it raises, which is reported;
    * ``artifacts``: an ``ArtifactPolicy``, where the files that turns produce are kept, and which
      (default, where ``tables`` has a class for them: all, in the folder ``artifacts``);
    * ``error_reporter``, ``instrumentation``, ``tracer``: adapters for errors, events and spans
      (default: errors are logged, events at DEBUG, spans not at all);
    * ``broker``: an ``EventBroker``, which says how far followers hear a turn live (default: within
      this process; elsewhere they read the row);
    * ``timings``: see ``Timings``.
    """

    def __init__(
        self,
        server: str | Server,
        sessionmaker: async_sessionmaker[AsyncSession],
        tables: Tables[ConversationT, MessageT],
        *,
        name: str = "opencode",
        settings_for: SettingsFor[ConversationT] = default_settings,
        client_for: ClientFor[ConversationT] | None = None,
        dispatch: Dispatch[MessageT] | None = None,
        observer_factory: ObserverFactory[MessageT] | None = None,
        on_turn_finished: OnTurnFinished | None = None,
        may_spend: MaySpend[ConversationT] | None = None,
        error_reporter: ErrorReporter = log_error,
        instrumentation: Instrumentation = log_event,
        tracer: Tracer | None = None,
        decide: Decide | None = None,
        artifacts: ArtifactPolicy | None = None,
        broker: EventBroker | None = None,
        timings: Timings | None = None,
    ) -> None:
        self.name = name
        self.sessionmaker = sessionmaker
        self.tables = tables
        self.timings = timings or Timings()
        self.broker = broker or MemoryBroker()
        self.routers: list[APIRouter] = []
        self.streams = Streams(self.timings.ping)
        self.error_reporter = guarded(error_reporter)
        self.server = as_server(server)
        self._instrumentation = harmless(instrumentation, self.error_reporter)
        self._tracer = HarmlessTracer(tracer or NoTracer(), self.error_reporter)
        self._settings_for = settings_for
        self._client_for = client_for
        self._dispatch = dispatch
        self._observer_factory = observer_factory
        self._on_turn_finished = on_turn_finished
        self._decide = decide
        if tables.artifact is not None and artifacts is None:
            artifacts = ArtifactPolicy(DirectoryArtifactStore("artifacts"))
        if artifacts is not None and self.server.directory is not None:
            artifacts = replace(artifacts, root=str(self.server.directory))
        self.artifacts = artifacts
        self.besides = Besides(tables.ask, tables.artifact, trust_of(artifacts))
        self.uploading: Uploading[ConversationT, MessageT] | None = None
        if tables.artifact is not None and artifacts is not None:
            self.uploading = Uploading(
                tables.artifact, artifacts, self.sessions, tables.message, self.error_reporter
            )
        self._may_spend = may_spend
        self._pool: ClientPool | None = None
        self._client: OpencodeClient | None = None
        self._turns: Turns[ConversationT, MessageT] | None = None
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        """Start; raises ``SharedConnection`` for a sessionmaker that turns cannot run beside."""
        await self._start(recovering=True)
        return self

    async def _start(self, *, recovering: bool) -> None:
        for kind in self.tables.all:
            engine_of(self.sessionmaker(), kind)
        async with AsyncExitStack() as stack:
            pool = ClientPool(self.server, self.error_reporter, self._instrumentation)
            self._pool = await stack.enter_async_context(pool)
            self._client = await self._pool.client(self.server)
            if self.artifacts is not None:
                await stack.enter_async_context(self.artifacts.store)
            await stack.enter_async_context(self.broker.running(self.error_reporter))
            tasks = await stack.enter_async_context(asyncio.TaskGroup())
            self._turns = self._turns_in(tasks, self._dispatch)
            stack.callback(self._turns.close)
            duties = [self._turns.heed_stops]
            if recovering:
                duties.append(self._turns.watch)
            for duty in duties:
                task = tasks.create_task(duty(), name=f"{self.name} {duty.__name__}")
                stack.callback(task.cancel)
            self._stack = stack.pop_all()

    @asynccontextmanager
    async def passive(self) -> AsyncIterator[Self]:
        """Like ``async with agent``, but it looks for no lost turns: it runs what it is told to."""
        await self._start(recovering=False)
        try:
            yield self
        finally:
            await self.__aexit__()

    @asynccontextmanager
    async def attached(self) -> AsyncIterator[Turns[ConversationT, MessageT]]:
        """The ``turns`` of an agent that runs elsewhere, for tools: follow and cancel them.

        Nothing is run or recovered here, and no OpenCode server is connected to; whoever runs this
        agent does both, also what a cancelled turn made way for.
        """

        async def leave(message: MessageT) -> None:
            """Those that run the agent look for such turns."""

        stack = AsyncExitStack()
        await stack.enter_async_context(self.broker.running(self.error_reporter))
        turns = self._turns_in(await stack.enter_async_context(asyncio.TaskGroup()), leave)
        try:
            yield turns
        finally:
            turns.close()
            await stack.aclose()  # not given the block's error: it would be wrapped in a group

    def _turns_in(
        self, tasks: asyncio.TaskGroup, dispatch: Dispatch[MessageT] | None
    ) -> Turns[ConversationT, MessageT]:
        return Turns(
            self.sessions,
            self.tables,
            self.besides,
            self.broker,
            tasks,
            make=self._make_turn,
            dispatch=dispatch,
            timings=self.timings,
            report=self.error_reporter,
            instrumentation=self._instrumentation,
            tracer=self._tracer,
            name=self.name,
        )

    async def __aexit__(self, *error: object) -> None:
        # Not given the block's error: a task group would wrap it in a group.
        await self._stack.aclose()
        self._turns = self._client = self._pool = None

    @asynccontextmanager
    async def lifespan(self, app: object) -> AsyncIterator[None]:
        """A FastAPI lifespan, for an app that has none of its own."""
        async with self:
            yield

    @property
    def client(self) -> OpencodeClient:
        """The client of the agent's own server; raises ``NotRunning`` outside the block."""
        if self._client is None:
            raise NotRunning("agent")
        return self._client

    @property
    def turns(self) -> Turns[ConversationT, MessageT]:
        """Start, follow, cancel and run turns; raises ``NotRunning`` outside the block."""
        if self._turns is None:
            raise NotRunning("agent")
        return self._turns

    @property
    def dispatches(self) -> bool:
        """Whether turns are handed to the host's ``dispatch``, instead of run where they start."""
        return self._dispatch is not None

    @property
    def sessions(self) -> Sessions:
        """The host's database sessions as the library uses them: short ones of its own."""
        return sessions_of(self.sessionmaker)

    def session(self, db: AsyncSession, conversation: ConversationT) -> Session[ConversationT]:
        """The ``Session`` of a conversation, with this agent's wiring filled in."""
        return Session(
            db,
            conversation,
            client=self.client if self._client_for is None else self._client_of,
            settings_for=self._settings_for,
            error_reporter=self.error_reporter,
            instrumentation=self._instrumentation,
        )

    async def turn(
        self, db: AsyncSession, message: MessageT, *, text: str | None = None
    ) -> TurnResult:
        """Run the turn of an assistant row: a ``Turn`` with this agent's wiring, awaited."""
        turn = await self._make_turn(db, message, text)
        return await self.turns.attend(key_of(message), turn)

    def router(
        self,
        *,
        access: AccessDependency,
        tags: Sequence[str | Enum] | None = None,
        dependencies: Sequence[params.Depends] = (),
        responses: dict[int | str, dict[str, Any]] | None = None,
        include_in_schema: bool = True,
        agents: Sequence[str] = (),
        models: Sequence[str] = (),
        max_text: int = 100_000,
        max_files: int = 10,
        max_upload: int = 50_000_000,
        upload_types: Sequence[str] = (),
        show: Show | None = None,
        followers: FollowerLimits | None = None,
    ) -> APIRouter:
        """The routes of this agent, to include in an app.

        ``access`` is a FastAPI dependency that returns the ``Access`` of whoever asks. ``tags`` are
        the agent's ``name`` unless given, which begins every operation id, too. ``agents``
        and ``models`` (``provider/model``) are what a browser may ask for, nothing unless listed.
        ``max_text`` limits a message, in characters. With it come at most ``max_files`` files of
        ``max_upload`` bytes each, of ``upload_types`` (such as ``image/*``) if there are any, told
        by what is in them. ``show`` is given each part and returns what
        end users may see of it: the part, one with less in it, or ``None``; it must depend on the
        part alone. ``followers`` limits the streams that are open at once.
        """
        uploads = UploadLimits(
            max_files=max_files,
            max_bytes=max_upload,
            max_total=max_files * max_upload,
            max_text=max_text,
            content_types=tuple(upload_types),
        )
        rules = PostRules(tuple(agents), tuple(models), max_text, uploads)
        options = RouterOptions(
            [self.name] if tags is None else list(tags),
            list(dependencies),
            responses,
            include_in_schema,
        )
        counted = Followers(followers or FollowerLimits())
        router = build_router(self, access, rules, self._shown(show), counted, options)
        self.routers.append(router)
        return router

    async def sse(self, message_id: Any, request: Request, *, show: Show | None = None) -> Response:
        """A turn's event stream for a host's own route, which has checked the access itself.

        Resumes from the request's ``Last-Event-ID`` or ``?after=``; ``show`` is as in ``router``.
        Raises a 404 ``HTTPException`` for an unknown message.
        """
        key = as_key(self.tables.message, message_id)
        shown = self._shown(show)
        following = self.turns.following
        return await turn_response(following, key, request, shown, self.streams, nullcontext())

    async def erase(self, conversation_id: Any) -> None:
        """Erase a conversation: its turn is stopped, its OpenCode session, files and rows deleted.

        From the beginning nobody can post to it any more. What OpenCode or the store does not do is
        reported, not raised: the rows are gone either way. Raises ``ConversationNotFound``.
        """
        key = as_key(self.tables.conversation, conversation_id)
        await self._eraser.erase(key, self.turns, self.timings)

    def cleanup(self, *, older_than: timedelta) -> AsyncGenerator[Removed, None]:
        """Remove conversations that are untouched for so long, and what crashes left of others.

        ``async for removed in agent.cleanup(older_than=timedelta(days=90))`` removes one thing at a
        time and tells of it: iterating is the progress, leaving the loop stops it. A conversation
        goes as with ``erase``, but only if all of it does: what fails is reported, and tried again
        by the next run, as is what a crash interrupts. One with a live turn stays, and one whose
        host is still to be told of a turn's end. Also removed are sessions of crashed creations, on
        each server that the run comes to: the agent's own, or with ``client_for`` those of the
        conversations that it removes. What a server keeps in memory for a directory is disposed of
        once there is no session in it. Several workers may do this at once. Raises ``ValueError``
        for less than no time, ``NotRunning``, and what the database does.
        """
        if older_than < timedelta():
            raise ValueError(f"older_than is how long ago, not {older_than}")
        own = self.client  # raises where the agent does not run
        run = Cleanup(self._eraser, older_than.total_seconds(), self.turns.tell_followers)
        return run.run(own if self._client_for is None else None)

    @property
    def _eraser(self) -> Eraser[ConversationT, MessageT]:
        return Eraser(
            self.sessions, self.tables, self._client_of, self.artifacts, self.error_reporter
        )

    async def _client_of(self, conversation: ConversationT) -> OpencodeClient:
        """The client of the server that the host says this conversation's agent is on."""
        if self._pool is None:
            raise NotRunning("agent")
        if self._client_for is None:
            return self.client
        try:
            server = await self._client_for(conversation)
        except Exception as error:
            if is_away(error):  # not our database: the server could not be found, for now
                reason = f"client_for: {type(error).__name__}"
                raise OpencodeConnectionError(reason) from error
            raise
        return await self._pool.client(as_server(server))

    def _shown(self, show: Show | None) -> Shown | None:
        return None if show is None else Shown(show, self.error_reporter)

    async def _make_turn(
        self, db: AsyncSession, message: MessageT, text: str | None = None
    ) -> Turn[ConversationT, MessageT]:
        await release(db)
        await db.refresh(message)
        conversation = await db.get(self.tables.conversation, message.conversation_id)
        if conversation is None:
            raise ConversationNotFound(message.conversation_id)
        return Turn(
            db,
            message,
            session=self.session(db, conversation),
            text=text,
            broker=self.broker,
            observer_factory=self._observer_factory,
            on_turn_finished=self._on_turn_finished,
            may_spend=self._may_spend,
            promoted=partial(self.turns.promoted, after=key_of(message)),
            error_reporter=self.error_reporter,
            instrumentation=self._instrumentation,
            tracer=self._tracer,
            timings=self.timings,
            name=self.name,
            asks=self.tables.ask,
            artifacts=self.tables.artifact,
            artifact_policy=self.artifacts,
            decide=self._decide,
        )
