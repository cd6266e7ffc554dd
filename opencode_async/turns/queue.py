"""The turns of a conversation that wait for the live one, by their ``position``.

Every decision here is made under the conversation's row lock, which each caller holds.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import ColumnElement, Select, exists, func, select, update
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import aliased

from opencode_async.database import Sessions, locked
from opencode_async.database_time import database_time
from opencode_async.errors import QueueFull
from opencode_async.models import PENDING, QUEUED, ConversationMixin, MessageMixin, MessageT
from opencode_async.protocol.limits import CANCELLED, INTERRUPTED

MOST_QUEUED = 100  # turns that may wait in one conversation


def busy(messages: type[MessageMixin], conversation_id: object) -> ColumnElement[bool]:
    """The criterion for the rows of which a conversation is busy, as its indexes have them."""
    mine = messages.conversation_id == conversation_id
    return mine & ((messages.status == PENDING) | (messages.status == QUEUED))


async def next_position(db: AsyncSession, messages: type[MessageT], conversation_id: object) -> int:
    """The next free position; the conversation's row must be locked."""
    last = await db.scalar(
        select(func.max(messages.position)).where(messages.conversation_id == conversation_id)
    )
    return (last or 0) + 1


async def promote(
    db: AsyncSession, messages: type[MessageT], conversation_id: object, seconds: float
) -> Any:
    """Make the first queued turn the live one, unless one is live; its key, if there is any.

    It counts as on its way to a worker for so many ``seconds``.
    """
    other = aliased(messages)
    mine = other.conversation_id == conversation_id
    first = select(other.id).where(mine, other.status == QUEUED).order_by(other.position).limit(1)
    return await db.scalar(
        update(messages)
        .where(messages.id == first.scalar_subquery(), messages.status == QUEUED)
        .where(~exists().where(mine, other.status == PENDING))
        .values({"status": PENDING, "lease_expires_at": database_time(seconds)})
        .returning(messages.id)
        .execution_options(synchronize_session=False)
    )


def stranded(messages: type[MessageMixin]) -> Select[Any]:
    """The conversations where turns wait behind none, the live one having been deleted, say."""
    other = aliased(messages)
    running = exists().where(
        other.conversation_id == messages.conversation_id, other.status == PENDING
    )
    waiting = select(messages.conversation_id).where(messages.status == QUEUED, ~running)
    return waiting.distinct()


async def promote_stranded(
    sessions: Sessions,
    conversations: type[ConversationMixin],
    messages: type[MessageT],
    seconds: float,
    found: Select[Any],
) -> list[Any]:
    """Promote in each conversation that is ``stranded``, as it is ``found``; the keys."""
    async with sessions() as db:
        waiting: Sequence[Any] = (await db.scalars(found)).all()
    promoted = []
    for conversation_id in waiting:
        async with sessions.begin() as db:
            await locked(db, conversations, conversation_id)
            promoted.append(await promote(db, messages, conversation_id, seconds))
    return [key for key in promoted if key is not None]


def unclaimed(messages: type[MessageMixin]) -> ColumnElement[bool]:
    """The criterion for turns that no live worker has claimed."""
    return messages.lease_owner.is_(None) | (messages.lease_expires_at < database_time())


def unstarted(messages: type[MessageMixin]) -> ColumnElement[bool]:
    """The criterion for turns that nobody has begun to run: queued ones.

    And a host's own pending row that was never given a prompt, for it is nobody's to run.
    """
    unprompted = messages.prompt_id.is_(None) & unclaimed(messages)
    return (messages.status == QUEUED) | ((messages.status == PENDING) & unprompted)


async def end_unstarted(
    db: AsyncSession, messages: type[MessageT], which: ColumnElement[bool]
) -> bool:
    """Cancel those turns if nobody has begun to run them; whether there was one.

    The lease that has run out says that the host is still to be told, the cursor that followers
    are.
    """
    ended = await db.scalars(
        update(messages)
        .where(which, unstarted(messages))
        .values(
            {
                "status": "cancelled",
                "finish": CANCELLED,
                "stop_requested": CANCELLED,
                "finished_at": database_time(),
                "lease_expires_at": database_time(),
                "cursor": messages.cursor + 1,
            }
        )
        .returning(messages.id)
        .execution_options(synchronize_session=False)
    )
    return bool(ended.all())


async def check_room(db: AsyncSession, messages: type[MessageT], conversation_id: object) -> None:
    """Raise ``QueueFull`` where no more turns may wait."""
    waiting = select(func.count(messages.id)).where(
        messages.conversation_id == conversation_id, messages.status == QUEUED
    )
    if (await db.scalar(waiting) or 0) >= MOST_QUEUED:
        raise QueueFull(conversation_id, MOST_QUEUED)


async def make_way(db: AsyncSession, messages: type[MessageT], conversation_id: object) -> int:
    """Have the live turn stopped and the queue moved back by one turn; the position left free.

    The queue's head is right behind the live turn, whatever was asked before.
    """
    mine = messages.conversation_id == conversation_id
    await db.execute(
        update(messages)
        .where(mine, messages.status == PENDING)
        .values({"stop_requested": func.coalesce(messages.stop_requested, INTERRUPTED)})
        .execution_options(synchronize_session=False)
    )
    head = select(func.min(messages.position)).where(mine, messages.status == QUEUED)
    if (first := await db.scalar(head)) is None:
        return await next_position(db, messages, conversation_id)
    place = first - 1  # what the person said who waits stands before their turn
    # In two steps, for positions are unique, and rows are moved one by one.
    for criterion, position in (
        (messages.position >= place, -messages.position - 2),
        (messages.position < 0, -messages.position),
    ):
        await db.execute(
            update(messages)
            .where(mine, criterion)
            .values({"position": position})
            .execution_options(synchronize_session=False)
        )
    return int(place)
