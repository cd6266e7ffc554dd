"""A message row in the shapes others see it in: the HTTP contract's JSON, and ``TurnResult``."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from opencode_async.database import key_of
from opencode_async.errors import TurnFailed
from opencode_async.models import MessageMixin
from opencode_async.protocol.exchange import TurnError
from opencode_async.protocol.parts import Part, part_from_json
from opencode_async.protocol.todos import Todo, todos_from_wire


@dataclass(frozen=True)
class TurnResult:
    """How a turn ended, as it is stored.

    ``status`` is completed, cancelled or error; ``finish`` says why the answer stopped (``stop``,
    ``length``, ``content_filter``, ``rejected``, …). ``cost`` is in the currency of the model's
    prices, subagents included.
    """

    message_id: Any
    conversation_id: Any
    status: str
    finish: str | None
    content: str
    reasoning: str
    parts: tuple[Part, ...]
    todos: tuple[Todo, ...]
    error: TurnError | None
    cost: float
    input_tokens: int
    output_tokens: int
    cache_read_tokens: int
    cache_write_tokens: int

    @classmethod
    def of(cls, row: MessageMixin) -> TurnResult:
        """The result in a terminal row."""
        return cls(
            message_id=key_of(row),
            conversation_id=row.conversation_id,
            status=row.status,
            finish=row.finish,
            content=row.content or "",
            reasoning=row.reasoning or "",
            parts=tuple(part_from_json(part) for part in row.parts or ()),
            todos=todos_from_wire(row.todos),
            error=TurnError(row.error_code, row.error_text or "") if row.error_code else None,
            cost=row.cost,
            input_tokens=row.input_tokens,
            output_tokens=row.output_tokens,
            cache_read_tokens=row.cache_read_tokens,
            cache_write_tokens=row.cache_write_tokens,
        )

    def raise_for_error(self) -> None:
        """Raise ``TurnFailed`` unless the turn completed."""
        if self.status != "completed":
            error = self.error or TurnError(self.status, "")
            raise TurnFailed(self.message_id, self.status, error.code, error.message)


def message_json(row: MessageMixin) -> dict[str, Any]:
    """The message as the HTTP contract shows it; ids are strings whatever the column's type."""
    error = {"code": row.error_code, "message": row.error_text} if row.error_code else None
    return {
        "id": str(key_of(row)),
        "conversation_id": str(row.conversation_id),
        "reply_to": row.reply_to,
        "role": row.role,
        "status": row.status,
        "finish": row.finish,
        "content": row.content or "",
        "reasoning": row.reasoning or "",
        "parts": row.parts or [],
        "todos": row.todos or [],
        "error": error,
        "cost": row.cost,
        "input_tokens": row.input_tokens,
        "output_tokens": row.output_tokens,
        "cache_read_tokens": row.cache_read_tokens,
        "cache_write_tokens": row.cache_write_tokens,
        "questions": [],
        "permissions": [],
        "artifacts": [],
        "created_at": isoformat(row.created_at),
        "finished_at": isoformat(row.finished_at),
    }


def isoformat(moment: datetime | None) -> str | None:
    """RFC 3339 in UTC; SQLite gives times back without a zone, which are UTC."""
    if moment is None:
        return None
    aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return aware.astimezone(UTC).isoformat()
