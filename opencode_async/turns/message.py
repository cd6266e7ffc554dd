"""A message row in the shapes others see it in: the HTTP contract's JSON, and ``TurnResult``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from opencode_async.artifacts.transform import Trust
from opencode_async.database import key_of
from opencode_async.errors import TurnFailed
from opencode_async.models import ArtifactMixin, AskMixin, MessageMixin
from opencode_async.protocol.asks import PERMISSION, QUESTION
from opencode_async.protocol.exchange import TurnError
from opencode_async.protocol.ledger import Charge
from opencode_async.protocol.parts import Part, part_from_json
from opencode_async.protocol.permission_display import permission_display
from opencode_async.protocol.reply import Reply, reply_json
from opencode_async.protocol.todos import Todo, todos_from_wire
from opencode_async.protocol.tool_display import with_display
from opencode_async.turns.asks import is_public
from opencode_async.turns.beside import NOTHING, Beside


@dataclass(frozen=True)
class TurnResult:
    """How a turn ended, as it is stored.

    ``status`` is completed, cancelled or error; ``finish`` says why the answer stopped (``stop``,
    ``length``, ``content_filter``, ``rejected``, …). ``cost`` is in the currency of the model's
    prices, subagents included: the exact sum of the ``ledger``, which has each step once.
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
    ledger: tuple[Charge, ...]

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
            ledger=ledger_of(row),
        )

    def raise_for_error(self) -> None:
        """Raise ``TurnFailed`` unless the turn completed."""
        if self.status != "completed":
            error = self.error or TurnError(self.status, "")
            raise TurnFailed(self.message_id, self.status, error.code, error.message)


def ledger_of(row: MessageMixin) -> tuple[Charge, ...]:
    """What is stored of what the turn's steps cost."""
    return tuple(Charge.from_json(charge) for charge in row.ledger or ())


def reply_columns(reply: Reply) -> dict[str, Any]:
    """A reply as its row has it."""
    return {**reply_json(reply), "ledger": [charge.to_json() for charge in reply.ledger]}


def message_json(row: MessageMixin, beside: Beside = NOTHING) -> dict[str, Any]:
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
        "parts": [with_display(part) for part in row.parts or ()],
        "todos": row.todos or [],
        "error": error,
        "cost": row.cost,
        "input_tokens": row.input_tokens,
        "output_tokens": row.output_tokens,
        "cache_read_tokens": row.cache_read_tokens,
        "cache_write_tokens": row.cache_write_tokens,
        **asks_json(beside.asks, key_of(row)),
        "artifacts": [
            artifact_json(artifact, beside.trust)
            for artifact in beside.artifacts
            if artifact.message_id == key_of(row)
        ],
        "created_at": isoformat(row.created_at),
        "finished_at": isoformat(row.finished_at),
    }


def ask_json(row: AskMixin) -> dict[str, Any]:
    """A permission or a question as the HTTP contract shows it."""
    request = row.request or {}
    shown = {"display": permission_display(request)} if row.kind == PERMISSION else {}
    return {
        "id": str(row.id),
        "status": row.status,
        "session_id": row.session_id,
        "deadline": isoformat(row.deadline),
        **request,
        **shown,
        **(row.reply or {}),
    }


def artifact_json(row: ArtifactMixin, trust: Trust) -> dict[str, Any]:
    """A file as the HTTP contract shows it; ``url`` is below the router's prefix."""
    return {
        "id": str(row.id),
        "filename": row.filename,
        "path": row.path,
        "content_type": row.content_type,
        "size": row.size,
        "sha256": row.sha256,
        "trusted": trust.holds(row),
        "url": f"/artifacts/{row.id}",
    }


def asks_json(rows: Sequence[AskMixin], message_id: Any) -> dict[str, list[dict[str, Any]]]:
    """Those of the asks that are the message's and people's, in the contract's two fields."""
    return {
        name: [
            ask_json(row)
            for row in rows
            if row.kind == kind and row.message_id == message_id and is_public(row)
        ]
        for name, kind in (("questions", QUESTION), ("permissions", PERMISSION))
    }


def isoformat(moment: datetime | None) -> str | None:
    """RFC 3339 in UTC; SQLite gives times back without a zone, which are UTC."""
    if moment is None:
        return None
    aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return aware.astimezone(UTC).isoformat()
