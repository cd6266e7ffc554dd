"""What one turn asks, as the worker that runs it reads and writes it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import ColumnElement, Update, exists, select, update

from opencode_async.database import Sessions
from opencode_async.database_time import database_time
from opencode_async.models import AskMixin, MessageMixin
from opencode_async.protocol.asks import (
    PERMISSION,
    Ask,
    AskPolicy,
    Permission,
    granted,
    kind_of,
)
from opencode_async.turns.asks import ANSWERING, DEADLINE, OPEN, PENDING_ASKS
from opencode_async.turns.lease import Lease


class AskRows:
    """The rows of one turn's asks; a worker that lost its lease adds none."""

    def __init__(
        self, kind: type[AskMixin], row: MessageMixin, lease: Lease[Any], sessions: Sessions
    ) -> None:
        self._kind = kind
        self._mine = kind.message_id == row.id
        self._messages = type(row)
        self._row = row
        self._lease = lease
        self._sessions = sessions

    async def all(self) -> Sequence[AskMixin]:
        """All of them."""
        return await self._found(self._mine)

    async def pending(self) -> Sequence[AskMixin]:
        """Those that are not at their end."""
        return await self._found(self._mine, self._kind.status.in_(PENDING_ASKS))

    async def grant(self, ask: Permission) -> bool:
        """Whether a person said ``always`` to such a permission in this conversation."""
        always = self._kind.reply["reply"].as_string() == "always"
        rows = await self._found(self._in_conversation(), self._kind.kind == PERMISSION, always)
        return any(
            granted(ask, r["permission"], r["always"]) for r in (row.request for row in rows) if r
        )

    async def add(
        self, ask: Ask, reply: dict[str, Any] | None, by: str | None, *, within: float | None
    ) -> AskMixin | None:
        """Store an ask, once; ``None`` for one that an earlier turn asked. Raises ``LeaseLost``."""
        async with self._sessions.begin() as db:
            await self._lease.locked_row(db)
            query = select(self._kind).where(self._in_conversation())
            known = await db.scalar(query.where(self._kind.upstream_id == ask.id))
            if known is not None:
                return known if known.message_id == self._row.id else None
            row = self._kind()
            row.message_id = self._row.id
            row.upstream_id, row.session_id = ask.id, ask.session_id
            row.kind, row.request = kind_of(ask), ask.to_json()
            row.status = OPEN if reply is None else ANSWERING
            row.reply, row.answered_by = reply, by
            db.add(row)
            await db.flush()
            if within is not None:
                await db.execute(
                    self._update(self._kind.id == row.id, deadline=database_time(within))
                )
            await db.refresh(row)
        return row

    async def expire(self, policy: AskPolicy) -> None:
        """Reply for those who did not answer in time."""
        # Looked for before anything is written: this is asked again and again, and rarely so.
        overdue = self._kind.deadline < database_time()
        for row in await self._found(self._mine, self._kind.status == OPEN, overdue):
            reply = policy.reply_to(row.kind or "")
            await self.set(row, status=ANSWERING, reply=reply, answered_by=DEADLINE)

    async def set(self, row: AskMixin, **values: Any) -> AskMixin | None:
        """Write to a row, unless its status has changed since it was read; as it then is."""
        async with self._sessions.begin() as db:
            unchanged = self._kind.status == row.status
            written = await db.scalar(
                self._update(self._kind.id == row.id, unchanged, **values).returning(self._kind.id)
            )
            return None if written is None else await db.get_one(self._kind, written)

    def _in_conversation(self) -> ColumnElement[bool]:
        messages = self._messages
        return exists().where(
            messages.id == self._kind.message_id,
            messages.conversation_id == self._row.conversation_id,
        )

    def _update(self, *which: ColumnElement[bool], **values: Any) -> Update:
        changed = update(self._kind).where(*which).values(values)
        return changed.execution_options(synchronize_session=False)

    async def _found(self, *which: ColumnElement[bool]) -> Sequence[AskMixin]:
        async with self._sessions() as db:
            return (await db.scalars(select(self._kind).where(*which))).all()
