"""Two host applications: one made for the library, one that had its tables before."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Generic
from uuid import UUID, uuid4

from sqlalchemy import BigInteger, ForeignKey, Index, Integer, Text, event, text, update
from sqlalchemy.ext.asyncio import (
    AsyncEngine,
    AsyncSession,
    async_sessionmaker,
    create_async_engine,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from opencode_async import (
    ArtifactMixin,
    ArtifactPolicy,
    AskMixin,
    ConversationMixin,
    DirectoryArtifactStore,
    MessageMixin,
    Opencode,
    Server,
    Tables,
    Timings,
)
from opencode_async.database_time import database_time
from opencode_async.models import ConversationT, MessageT
from opencode_async.observability.error_reporter import Severity
from tests.support.fast import FAST
from tests.support.inline_sqlite import inline_connection

# Short enough for tests to see what happens at their end, long enough for a busy machine.
QUICK = Timings(lease=9.0, accept=8.0, reconnect=1.5, look=3.0, settle=0.5, stop=3.0, snapshot=0.1)
Key = BigInteger().with_variant(Integer, "sqlite")  # SQLite counts up only INTEGER keys


class Base(DeclarativeBase):
    pass


class Conversation(ConversationMixin, Base):
    __tablename__ = "conversations"
    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid4)
    user_id: Mapped[int] = mapped_column(default=1)


class Message(MessageMixin, Base):
    __tablename__ = "messages"
    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid4)
    conversation_id: Mapped[UUID] = mapped_column(ForeignKey("conversations.id"))


class Ask(AskMixin, Base):
    __tablename__ = "asks"
    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid4)
    message_id: Mapped[UUID] = mapped_column(ForeignKey("messages.id"))


class File(ArtifactMixin, Base):
    __tablename__ = "files"
    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid4)
    message_id: Mapped[UUID] = mapped_column(ForeignKey("messages.id"))


class OldBase(DeclarativeBase):
    pass


class Thread(ConversationMixin, OldBase):
    __tablename__ = "threads"
    id: Mapped[int] = mapped_column(Key, primary_key=True)
    tenant_id: Mapped[int] = mapped_column(BigInteger)


class Entry(MessageMixin, OldBase):
    __tablename__ = "entries"
    id: Mapped[int] = mapped_column(Key, primary_key=True)
    conversation_id: Mapped[int] = mapped_column("thread_id", ForeignKey("threads.id"))
    content: Mapped[str] = mapped_column("body", Text, server_default="")
    tenant_id: Mapped[int] = mapped_column(BigInteger)
    source: Mapped[str]
    owner: Mapped[str | None]  # named as if the library wrote it
    new_cursor: Mapped[int | None]
    __table_args__ = (Index("ix_entries_tenant", "tenant_id"),)


class Request(AskMixin, OldBase):
    __tablename__ = "requests"
    id: Mapped[int] = mapped_column(Key, primary_key=True)
    message_id: Mapped[int] = mapped_column("entry_id", ForeignKey("entries.id"))


class Attachment(ArtifactMixin, OldBase):
    __tablename__ = "attachments"
    id: Mapped[int] = mapped_column(Key, primary_key=True)
    message_id: Mapped[int] = mapped_column("entry_id", ForeignKey("entries.id"))


class Reports:
    """An ``ErrorReporter`` that remembers."""

    def __init__(self) -> None:
        self.errors: list[BaseException] = []

    def __call__(
        self, error: BaseException, *, severity: Severity, context: dict[str, str]
    ) -> None:
        self.errors.append(error)


async def nowhere(message: Any) -> None:
    """A dispatch to a queue that nobody works on."""


@dataclass
class Host(Generic[ConversationT, MessageT]):
    """An app's database and its agent, running."""

    agent: Opencode[ConversationT, MessageT]
    engine: AsyncEngine
    sessions: async_sessionmaker[AsyncSession]
    reports: Reports
    conversation_values: dict[str, Any]

    async def conversation(self, **values: Any) -> Any:
        """The id of a new conversation."""
        row = self.agent.tables.conversation(**{**self.conversation_values, **values})
        async with self.sessions() as db:
            db.add(row)
            await db.commit()
            await db.refresh(row)
            return row.id

    async def row(self, key: object) -> MessageT:
        """A message as it is stored."""
        async with self.sessions() as db:
            return await db.get_one(self.agent.tables.message, key)

    async def session_id(self, row: MessageT) -> str:
        """The OpenCode session of a message's conversation."""
        async with self.sessions() as db:
            conversation = await db.get_one(self.agent.tables.conversation, row.conversation_id)
        assert conversation.opencode_session_id is not None
        return conversation.opencode_session_id

    async def lose_worker(self, key: object, seconds: float) -> None:
        """Leave the row as a killed worker does, its lease running out in so many seconds."""
        kind = self.agent.tables.message
        values = {"lease_owner": "dead", "lease_expires_at": database_time(seconds)}
        async with self.sessions.begin() as db:
            await db.execute(update(kind).where(kind.id == key).values(values))

    async def says_something(self, key: object) -> None:
        """Wait until a follower is told the first words of a turn."""
        async with self.agent.turns.follow(key) as changes:
            async for change in changes:
                if change.event == "part.delta":
                    break

    async def holds_no_connection(self) -> None:
        """Wait until none of the pool is in use: a lease is renewed now and then, for a moment.

        Raises ``TimeoutError`` where one is held.
        """
        async with asyncio.timeout(10):
            while self.engine.pool.checkedout():  # type: ignore[attr-defined]
                async with self.sessions() as db:
                    await db.execute(text("SELECT 1"))


class Compiled(dict[Any, Any]):
    """Statements, compiled once for all engines of a kind: a test has an engine of its own."""

    def get(self, key: Any, default: Any = None) -> Any:
        dialect, *rest = key
        return super().get((dialect.name, *rest), default)

    def __setitem__(self, key: Any, compiled: Any) -> None:
        dialect, *rest = key
        super().__setitem__((dialect.name, *rest), compiled)


COMPILED = Compiled()


def engine_for(url: str, **options: Any) -> AsyncEngine:
    """An engine as an app would have it: SQLite with a write-ahead log and patience."""
    engine = create_async_engine(url, execution_options={"compiled_cache": COMPILED}, **options)
    if engine.dialect.name == "sqlite":

        @event.listens_for(engine.sync_engine, "connect")
        def pragmas(connection: Any, record: object) -> None:
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=NORMAL")
            connection.execute("PRAGMA busy_timeout=10000")

    return engine


@asynccontextmanager
async def host(
    url: str,
    server: Server | str,
    *,
    old: bool = False,
    asks: bool = False,
    files: bool = False,
    expire_on_commit: bool = False,
    pool_size: int = 10,
    pool_timeout: float = 30.0,
    application: str | None = None,
    inline: bool = FAST,
    **options: Any,
) -> AsyncIterator[Host[Any, Any]]:
    """An app on that database with an agent on that server; ``old`` has the older tables.

    With ``asks`` people are asked, else what the agent asks is refused. With ``files`` those that
    turns produce are kept.

    ``application`` is what PostgreSQL calls its connections. With ``inline`` SQLite has one, and no
    thread for it: not where a test needs two at once.
    """
    base: type[DeclarativeBase] = OldBase if old else Base
    kinds = (Thread, Entry, Request, Attachment) if old else (Conversation, Message, Ask, File)
    conversation, message, ask, file = kinds
    tables: Tables[Any, Any] = Tables(
        conversation, message, file if files else None, ask if asks else None
    )
    arguments: dict[str, Any] = {}
    if application:
        arguments["server_settings"] = {"application_name": application}
    if inline:
        arguments["async_creator_fn"], pool_size = inline_connection, 1
    engine = engine_for(
        url,
        pool_size=pool_size,
        pool_timeout=pool_timeout,
        max_overflow=0,
        connect_args=arguments,
    )
    reports = Reports()
    async with engine.begin() as connection:
        await connection.run_sync(base.metadata.create_all)
    sessions = async_sessionmaker(engine, expire_on_commit=expire_on_commit)
    with tempfile.TemporaryDirectory() as kept:
        if files:
            options = {"artifacts": ArtifactPolicy(DirectoryArtifactStore(kept)), **options}
        agent: Opencode[Any, Any] = Opencode(
            server, sessions, tables, **{"error_reporter": reports, "timings": QUICK, **options}
        )
        values = {"tenant_id": 7} if old else {"user_id": 1}
        try:
            async with agent:
                yield Host(agent, engine, sessions, reports, values)
        finally:
            await engine.dispose()
