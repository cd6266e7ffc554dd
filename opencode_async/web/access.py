"""Who may see and write what: the host says it once, every query of every route obeys."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic

from sqlalchemy import ColumnElement, Select, select

from opencode_async.database import parsed_key
from opencode_async.errors import ArtifactNotFound, ConversationNotFound, MessageNotFound
from opencode_async.models import ArtifactMixin, ConversationT, MessageT
from opencode_async.tables import Tables


@dataclass(frozen=True)
class Access:
    """What one caller may do.

    ``where`` is an SQL criterion on the host's conversation class: what it excludes does not exist
    for this caller. ``conversation`` and ``message`` fill the host's own columns of new rows.
    ``may_write`` off leaves the reading routes. ``by`` is who it is, for the record of what they
    answer to the agent.
    """

    where: ColumnElement[bool]
    conversation: Mapping[str, Any] = field(default_factory=dict)
    message: Mapping[str, Any] = field(default_factory=dict)
    may_write: bool = True
    by: str | None = None


AccessDependency = Callable[..., Access | Awaitable[Access]]


class Visible(Generic[ConversationT, MessageT]):
    """The rows one caller may see, as queries; keys come as the strings of a URL."""

    def __init__(self, tables: Tables[ConversationT, MessageT], access: Access) -> None:
        self._conversation = tables.conversation
        self._message = tables.message
        self._artifact = tables.artifact
        self._where = access.where

    def conversations(self) -> Select[ConversationT]:
        """All conversations."""
        return select(self._conversation).where(self._where)

    def conversation(self, key: str) -> Select[ConversationT]:
        """One conversation; raises ``ConversationNotFound`` for what cannot be a key."""
        parsed = parsed_key(self._conversation, key)
        if parsed is None:
            raise ConversationNotFound(key)
        return self.conversations().where(self._conversation.id == parsed)

    def message(self, key: str) -> Select[MessageT]:
        """One message; raises ``MessageNotFound`` for what cannot be a key."""
        parsed = parsed_key(self._message, key)
        if parsed is None:
            raise MessageNotFound(key)
        return self._messages().where(self._message.id == parsed)

    def artifact(self, key: str) -> Select[ArtifactMixin]:
        """One artifact; raises ``ArtifactNotFound`` for what cannot be a key."""
        kind = self._artifact
        parsed = None if kind is None else parsed_key(kind, key)
        if kind is None or parsed is None:
            raise ArtifactNotFound(key)
        mine = self._messages().with_only_columns(self._message.id)
        return select(kind).where(kind.id == parsed, kind.message_id.in_(mine))

    def _messages(self) -> Select[MessageT]:
        mine = select(self._conversation.id).where(self._where)
        return select(self._message).where(self._message.conversation_id.in_(mine))
