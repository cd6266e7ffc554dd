"""The library's columns, as mixins on the host's own tables.

The host owns its tables, keys and migrations: a mixin declares neither ``id`` nor a foreign key.
What it expects beside itself are mapped attributes of these names, of any type and column name:
``id`` on every class, ``conversation_id`` on a message, ``message_id`` on an artifact and an ask.
Every column is nullable or has a server default, so that a populated table can be migrated. The
library uses mapped attributes, never column names: a host may map ``content`` to a column ``body``.

Indexes are attached to the table once it is mapped, because a host's ``__table_args__`` replaces a
mixin's; ``Tables`` verifies that they are there.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar, cast

from sqlalchemy import JSON, BigInteger, DateTime, Double, Index, Integer, String, Table, Text, text
from sqlalchemy import inspect as sa_inspect
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, Mapper, mapped_column

from opencode_async.database_time import database_time

PENDING, QUEUED = "pending", "queued"
LIVE = (PENDING, QUEUED)  # of these a conversation is busy
TERMINAL = frozenset({"completed", "cancelled", "error"})

Json = JSON(none_as_null=True).with_variant(JSONB(none_as_null=True), "postgresql")
Moment = DateTime(timezone=True)
ZERO = text("0")
# Until then the session of a conversation is claimed by who erases the conversation: for good.
ERASURE = datetime(9999, 1, 1, tzinfo=UTC)


def new_sandbox_key() -> str:
    """Random, so that one conversation cannot guess where another's files are."""
    return secrets.token_urlsafe(24)


class LibraryIndex:
    """An index the library relies on: mapped attributes, unique or not, and for which rows."""

    def __init__(
        self, suffix: str, *attributes: str, unique: bool = True, status: str = ""
    ) -> None:
        self.suffix = suffix
        self.attributes = attributes
        self.unique = unique
        self.status = status

    def attach(self, cls: type) -> None:
        """Add the index to the class's table, unless a class above it did."""
        mapper: Mapper[Any] = sa_inspect(cls)
        table = cast(Table, mapper.local_table)
        name = f"{table.name}_{self.suffix}"
        if any(index.name == name for index in table.indexes):
            return
        columns = [mapper.columns[attribute] for attribute in self.attributes]
        where = mapper.columns["status"] == self.status if self.status else None
        Index(name, *columns, unique=self.unique, postgresql_where=where, sqlite_where=where)

    def is_on(self, cls: type) -> bool:
        """Whether the class's table has the index."""
        mapper: Mapper[Any] = sa_inspect(cls)
        table = cast(Table, mapper.local_table)
        return any(index.name == f"{table.name}_{self.suffix}" for index in table.indexes)


class LibraryRow:
    """What the mixins share: once a subclass is mapped, its indexes are attached."""

    expects: ClassVar[Sequence[str]] = ("id",)
    indexes: ClassVar[Sequence[LibraryIndex]] = ()

    if TYPE_CHECKING:
        id: Mapped[Any]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "__mapper__" in cls.__dict__ and not cls.missing():
            for index in cls.indexes:
                index.attach(cls)

    @classmethod
    def missing(cls) -> list[str]:
        """The mapped attributes the library expects of this class and does not find."""
        attributes = sa_inspect(cls).columns
        return [name for name in cls.expects if name not in attributes]


class ConversationMixin(LibraryRow):
    """A conversation: one OpenCode session at a time, any number of turns, one running at most."""

    indexes = (LibraryIndex("session", "opencode_session_id"),)

    title: Mapped[str | None] = mapped_column(Text)
    opencode_session_id: Mapped[str | None] = mapped_column(String(255))
    session_claimed_until: Mapped[datetime | None] = mapped_column(Moment)
    directory: Mapped[str | None] = mapped_column(Text)
    sandbox_key: Mapped[str | None] = mapped_column(String(64), default=new_sandbox_key)
    created_at: Mapped[datetime] = mapped_column(Moment, server_default=database_time())
    updated_at: Mapped[datetime] = mapped_column(Moment, server_default=database_time())

    @property
    def is_being_erased(self) -> bool:
        """Whether somebody has begun to erase it: then it has no more turns."""
        until = self.session_claimed_until
        return until is not None and until.year >= ERASURE.year


class MessageMixin(LibraryRow):
    """A message of a conversation: what a person wrote, or the agent's answer, which is a turn.

    ``position`` orders a conversation's messages. The columns from ``reply_to`` on are used on
    assistant rows only; ``request`` is everything needed to send the identical prompt again.
    """

    expects = ("id", "conversation_id")
    indexes = (
        LibraryIndex("one_live_turn", "conversation_id", status=PENDING),
        LibraryIndex("queue", "conversation_id", "position", unique=False, status=QUEUED),
        LibraryIndex("position", "conversation_id", "position"),
        LibraryIndex("prompt", "prompt_id"),
        LibraryIndex("idempotency", "conversation_id", "idempotency_key"),
        LibraryIndex("lease", "lease_expires_at", unique=False),
    )

    if TYPE_CHECKING:
        conversation_id: Mapped[Any]

    role: Mapped[str] = mapped_column(String(16), server_default="user")
    # A String, not an enum: adding a status is then no migration. A row that was there before the
    # library came is nobody's turn.
    status: Mapped[str] = mapped_column(String(16), server_default="completed")
    finish: Mapped[str | None] = mapped_column(String(64))
    position: Mapped[int | None] = mapped_column(Integer)
    content: Mapped[str] = mapped_column(Text, server_default="")
    reasoning: Mapped[str | None] = mapped_column(Text)
    parts: Mapped[list[dict[str, Any]] | None] = mapped_column(Json)
    todos: Mapped[list[dict[str, Any]] | None] = mapped_column(Json)
    cost: Mapped[float] = mapped_column(Double, server_default=ZERO)
    input_tokens: Mapped[int] = mapped_column(BigInteger, server_default=ZERO)
    output_tokens: Mapped[int] = mapped_column(BigInteger, server_default=ZERO)
    cache_read_tokens: Mapped[int] = mapped_column(BigInteger, server_default=ZERO)
    cache_write_tokens: Mapped[int] = mapped_column(BigInteger, server_default=ZERO)
    ledger: Mapped[list[dict[str, Any]] | None] = mapped_column(Json)
    error_code: Mapped[str | None] = mapped_column(String(64))
    error_text: Mapped[str | None] = mapped_column(Text)
    created_at: Mapped[datetime] = mapped_column(Moment, server_default=database_time())
    finished_at: Mapped[datetime | None] = mapped_column(Moment)

    reply_to: Mapped[str | None] = mapped_column(String(255))
    request: Mapped[dict[str, Any] | None] = mapped_column(Json)
    prompt_id: Mapped[str | None] = mapped_column(String(64))
    part_ids: Mapped[list[str] | None] = mapped_column(Json)
    idempotency_key: Mapped[str | None] = mapped_column(String(255))
    request_hash: Mapped[str | None] = mapped_column(String(64))
    stop_requested: Mapped[str | None] = mapped_column(String(64))
    lease_owner: Mapped[str | None] = mapped_column(String(64))
    lease_expires_at: Mapped[datetime | None] = mapped_column(Moment)
    epoch: Mapped[int] = mapped_column(Integer, server_default=ZERO)
    cursor: Mapped[int] = mapped_column(BigInteger, server_default=ZERO)


class ArtifactMixin(LibraryRow):
    """A file that a turn produced; its bytes are in the artifact store under ``key``."""

    expects = ("id", "message_id")
    indexes = (LibraryIndex("path", "message_id", "path"),)

    if TYPE_CHECKING:
        message_id: Mapped[Any]

    path: Mapped[str | None] = mapped_column(String(1024))
    filename: Mapped[str | None] = mapped_column(String(255))
    content_type: Mapped[str | None] = mapped_column(String(255))
    size: Mapped[int | None] = mapped_column(BigInteger)
    sha256: Mapped[str | None] = mapped_column(String(64))
    key: Mapped[str | None] = mapped_column(String(1024))
    signature: Mapped[str | None] = mapped_column(String(255))
    created_at: Mapped[datetime] = mapped_column(Moment, server_default=database_time())


class AskMixin(LibraryRow):
    """A permission or question the agent waits for."""

    expects = ("id", "message_id")
    indexes = (LibraryIndex("upstream", "message_id", "upstream_id"),)

    if TYPE_CHECKING:
        message_id: Mapped[Any]

    upstream_id: Mapped[str | None] = mapped_column(String(255))
    session_id: Mapped[str | None] = mapped_column(String(255))
    kind: Mapped[str | None] = mapped_column(String(16))
    request: Mapped[dict[str, Any] | None] = mapped_column(Json)
    status: Mapped[str] = mapped_column(String(16), server_default="open")
    reply: Mapped[dict[str, Any] | None] = mapped_column(Json)
    answered_by: Mapped[str | None] = mapped_column(String(255))
    deadline: Mapped[datetime | None] = mapped_column(Moment)
    created_at: Mapped[datetime] = mapped_column(Moment, server_default=database_time())


ConversationT = TypeVar("ConversationT", bound=ConversationMixin)
MessageT = TypeVar("MessageT", bound=MessageMixin)
