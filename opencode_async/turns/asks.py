"""What an agent asks becomes rows that people answer; the turn's worker passes the answers on.

A row is ``open`` until somebody, in whichever process, sets its reply: then it is ``answering``,
and so it stays until the worker that runs the turn has told OpenCode, also where that worker died
meanwhile and another took over. It ends ``answered``, ``expired`` (its deadline replied) or
``gone`` (the agent waits no more).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from sqlalchemy import Update, update

from opencode_async.database import Sessions, locked
from opencode_async.errors import (
    AlreadyAnswered,
    AskGone,
    AskNotFound,
    InvalidReply,
)
from opencode_async.models import AskMixin
from opencode_async.protocol.asks import (
    PERMISSION,
    QUESTION,
    Ask,
    Decision,
    PermissionReply,
    QuestionReply,
    inquiries,
)

OPEN, ANSWERING, ANSWERED, EXPIRED, GONE = "open", "answering", "answered", "expired", "gone"
PENDING_ASKS = (OPEN, ANSWERING)
# What `answered_by` says of a reply that no person gave.
DEADLINE, DECIDED, ALWAYS = "deadline", "decide", "always"

Reply = PermissionReply | QuestionReply
Decide = Callable[[Ask, Any], Awaitable[Decision]]


def is_public(row: AskMixin) -> bool:
    """Whether people see it: not what a hook, or an earlier ``always``, decided without them."""
    return row.answered_by not in (DECIDED, ALWAYS)


async def answer(
    sessions: Sessions,
    kind: type[AskMixin],
    message_id: Any,
    ask_id: Any,
    reply: Reply,
    by: str | None,
) -> None:
    """Store a reply, once: whoever comes second is told so.

    Raises ``AskNotFound``, ``InvalidReply``, ``AlreadyAnswered`` and ``AskGone``.
    """
    wanted = PERMISSION if isinstance(reply, PermissionReply) else QUESTION
    async with sessions.begin() as db:
        row = await locked(db, kind, ask_id) if ask_id is not None else None
        if row is None or row.message_id != message_id or row.kind != wanted:
            raise AskNotFound(ask_id)
        if row.status == GONE:
            raise AskGone(ask_id)
        stored = checked(row, reply)
        if row.status != OPEN:
            raise AlreadyAnswered(ask_id)
        row.reply, row.answered_by, row.status = stored, by, ANSWERING


def checked(row: AskMixin, reply: Reply) -> dict[str, Any]:
    """The reply as the row stores it; raises ``InvalidReply``."""
    if isinstance(reply, QuestionReply):
        return reply.checked(inquiries((row.request or {}).get("questions")))
    if reply.message and reply.reply != "reject":
        raise InvalidReply("a message goes with reject")
    return reply.to_json()


def close_asks(kind: type[AskMixin], message_id: Any) -> Update:
    """The statement that ends what a turn that is over still asks."""
    return (
        update(kind)
        .where(kind.message_id == message_id, kind.status.in_(PENDING_ASKS))
        .values({"status": GONE})
        .execution_options(synchronize_session=False)
    )
