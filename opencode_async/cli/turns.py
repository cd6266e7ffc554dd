"""Turns as an operator sees and moves them: ids, states and numbers, never what was said."""

from __future__ import annotations

from typing import Any

from sqlalchemy import select

from opencode_async.database import as_key
from opencode_async.errors import LeaseHeld, MessageNotFound, TurnQueued
from opencode_async.models import MessageMixin
from opencode_async.opencode import Opencode

Agent = Opencode[Any, Any]
NUMBERS = ("cost", "input_tokens", "output_tokens", "cache_read_tokens", "cache_write_tokens")
STATES = (
    *("conversation_id", "status", "finish", "error_code", "stop_requested"),
    *("position", "created_at", "finished_at", "prompt_id", "epoch", "cursor"),
    *("lease_owner", "lease_expires_at", *NUMBERS),
)


async def listed(agent: Agent, status: str | None, limit: int) -> list[list[str]]:
    """The newest turns: message, conversation, status, beginning, cost, worker, what to know."""
    kind = agent.tables.message
    query = select(kind).where(kind.role == "assistant", kind.prompt_id.is_not(None))
    if status is not None:
        query = query.where(kind.status == status)
    async with agent.sessions() as db:
        rows = await db.scalars(query.order_by(kind.created_at.desc(), kind.id).limit(limit))
        return [_line(row) for row in rows]


def _line(row: MessageMixin) -> list[str]:
    held = (row.lease_owner or "")[:8]
    note = row.error_code or (f"stop: {row.stop_requested}" if row.stop_requested else "")
    began = row.created_at.strftime("%Y-%m-%d %H:%M:%S")
    numbers = (f"{row.cost:.4f}", held, note)
    return [str(row.id), str(row.conversation_id), row.status, began, *numbers]


async def shown(agent: Agent, message_id: str) -> dict[str, Any]:
    """The state of one turn. Raises ``MessageNotFound``."""
    key = as_key(agent.tables.message, message_id)
    async with agent.sessions() as db:
        row = await db.get(agent.tables.message, key) if key is not None else None
        if row is None:
            raise MessageNotFound(message_id)
        beside = await agent.besides.of(db, [row.id])
    state = {name: getattr(row, name) for name in STATES}
    state["parts"] = ", ".join(
        " ".join(filter(None, (part["type"], part.get("tool"), part.get("status"))))
        for part in row.parts or ()
    )
    state["asks"] = ", ".join(f"{ask.kind} {ask.status}" for ask in beside.asks)
    state["files"] = len(beside.artifacts)
    return {name: value for name, value in state.items() if value not in (None, "")}


async def cancelled(agent: Agent, message_id: str) -> str:
    """What became of the wish to stop it. Raises ``MessageNotFound``."""
    async with agent.attached() as turns:
        row = await turns.cancel(message_id)
    if row.status == "pending":
        return "It is asked to stop; whoever runs it does so within a second or so."
    return f"It has ended: {row.status}."


async def recovered(agent: Agent) -> list[tuple[str, str]]:
    """The turns that had nobody, and how each ended, or who has it now.

    With a ``dispatch`` of the host's they are on its queue, and are not run here.
    """
    async with agent.passive():
        keys = await agent.turns.recover()
        if agent.dispatches:
            return [(str(key), "dispatched") for key in keys]
        return [(str(key), await _outcome(agent, key)) for key in keys]


async def _outcome(agent: Agent, key: Any) -> str:
    try:
        result = await agent.turns.run(key)
    except LeaseHeld:
        return "another worker runs it"
    except TurnQueued:
        return "it waits its turn"
    return str(result.status)
