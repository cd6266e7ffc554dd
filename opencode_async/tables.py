"""Which of the host's classes the library works with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic

from sqlalchemy import inspect as sa_inspect

from opencode_async.database import key_type
from opencode_async.errors import SchemaError
from opencode_async.models import ArtifactMixin, AskMixin, ConversationT, LibraryRow, MessageT


@dataclass(frozen=True)
class Tables(Generic[ConversationT, MessageT]):
    """The host's mapped classes. What is not mapped (artifacts, asks) has no routes.

    Raises ``SchemaError`` for a class that lacks a key the library expects, or one of its indexes
    (a class mapped by other means than ``__init_subclass__`` sees, say).
    """

    conversation: type[ConversationT]
    message: type[MessageT]
    artifact: type[ArtifactMixin] | None = None
    ask: type[AskMixin] | None = None

    def __post_init__(self) -> None:
        for kind in self.all:
            table = sa_inspect(kind).local_table
            missing = kind.missing() or [
                f"the index {table}_{index.suffix}"
                for index in kind.indexes
                if not index.is_on(kind)
            ]
            if not missing and key_type(kind) is None:
                missing = ["an id whose type tells its python_type"]
            if missing:
                raise SchemaError(str(table), missing)

    @property
    def all(self) -> list[type[LibraryRow]]:
        """The mapped classes, those that refer to others first."""
        kinds = (self.ask, self.artifact, self.message, self.conversation)
        return [kind for kind in kinds if kind is not None]
