"""What a person says becomes two rows: theirs, and the assistant's that is to answer it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from sqlalchemy import select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from opencode_async.artifacts.uploads import UploadedFile, hashes
from opencode_async.database import locked
from opencode_async.database_time import database_time
from opencode_async.errors import ConversationBusy, ConversationNotFound, IdempotencyMismatch
from opencode_async.models import PENDING, QUEUED, ConversationMixin, MessageT
from opencode_async.protocol.prompt import Image, check_model
from opencode_async.protocol.wire import clean
from opencode_async.turns.prompt import prompt_columns
from opencode_async.turns.queue import busy, check_room, end_unstarted, make_way, next_position

OnBusy = Literal["reject", "enqueue", "interrupt"]


@dataclass(frozen=True)
class Uploads:
    """Files that came with a message: the ``prompt`` that tells of them, ``images`` to show."""

    prompt: str
    files: Sequence[UploadedFile]
    images: Sequence[Image]


NO_UPLOADS = Uploads("", (), ())


@dataclass(frozen=True)
class Post:
    """What is said, what it asks for, and ``values`` for the host's own columns of both rows.

    ``trace`` is that of whoever says it.
    """

    text: str
    agent: str | None = None
    model: str | None = None
    on_busy: OnBusy = "reject"
    idempotency_key: str | None = None
    values: Mapping[str, Any] = field(default_factory=dict)
    uploads: Uploads = NO_UPLOADS
    trace: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_model(self.model)
        if self.on_busy not in get_args(OnBusy):
            raise ValueError(f"on_busy is one of {get_args(OnBusy)}, not {self.on_busy!r}")

    @property
    def request_hash(self) -> str:
        """SHA-256 of what the key stands for."""
        request = [self.text, self.agent, self.model, self.on_busy]
        request += [f"{file.sha256} {file.filename}" for file in self.uploads.files]
        return hashlib.sha256(json.dumps(request).encode()).hexdigest()


async def insert(
    db: AsyncSession,
    conversations: type[ConversationMixin],
    messages: type[MessageT],
    conversation_id: Any,
    post: Post,
) -> tuple[MessageT, bool]:
    """Store a post under the conversation's row lock; the assistant's row, and whether it is new.

    Raises ``ConversationNotFound``, ``ConversationBusy``, ``QueueFull`` and
    ``IdempotencyMismatch``.
    """
    conversation = await locked(db, conversations, conversation_id)
    if conversation is None or conversation.is_being_erased:
        raise ConversationNotFound(conversation_id)
    if earlier := await _earlier(db, messages, conversation_id, post):
        return earlier, False
    try:
        async with db.begin_nested():
            message = await _insert_in_turn(db, messages, conversation_id, post)
    except IntegrityError:
        # A writer that takes no lock may have put a pending row there since we looked; any other
        # violation is of the host's own constraints.
        if not await _is_busy(db, messages, conversation_id):
            raise
        message = await _insert_in_turn(db, messages, conversation_id, post)
    await db.execute(
        update(conversations)
        .where(conversations.id == conversation_id)
        .values({"updated_at": database_time()})
        .execution_options(synchronize_session=False)
    )
    return message, True


async def _insert_in_turn(
    db: AsyncSession, messages: type[MessageT], conversation_id: Any, post: Post
) -> MessageT:
    """Insert both rows: the live turn, or one that waits, as ``on_busy`` says."""
    if post.on_busy == "interrupt":
        pending = (messages.conversation_id == conversation_id) & (messages.status == PENDING)
        await end_unstarted(db, messages, pending)
    if not await _is_busy(db, messages, conversation_id):
        position = await next_position(db, messages, conversation_id)
        return await _insert_both(db, messages, conversation_id, post, PENDING, position)
    if post.on_busy == "reject":
        raise ConversationBusy(conversation_id)
    await check_room(db, messages, conversation_id)
    if post.on_busy == "interrupt":
        position = await make_way(db, messages, conversation_id)
    else:
        position = await next_position(db, messages, conversation_id)
    return await _insert_both(db, messages, conversation_id, post, QUEUED, position)


async def _earlier(
    db: AsyncSession, messages: type[MessageT], conversation_id: Any, post: Post
) -> MessageT | None:
    """The row that an earlier delivery of the same post made."""
    if post.idempotency_key is None:
        return None
    row = await db.scalar(
        select(messages).where(
            messages.conversation_id == conversation_id,
            messages.idempotency_key == post.idempotency_key,
        )
    )
    if row is not None and row.request_hash != post.request_hash:
        raise IdempotencyMismatch(post.idempotency_key)
    return row


async def _insert_both(
    db: AsyncSession,
    messages: type[MessageT],
    conversation_id: Any,
    post: Post,
    status: str,
    position: int,
) -> MessageT:
    new: Callable[..., MessageT] = messages  # a mapped class takes its attributes as keywords
    common = {**post.values, "conversation_id": conversation_id}
    said = new(
        **common, role="user", status="completed", content=clean(post.text), position=position
    )
    db.add(said)
    await db.flush()
    message = new(
        **common,
        role="assistant",
        status=status,
        position=position + 1,
        reply_to=str(said.id),
        idempotency_key=post.idempotency_key,
        request_hash=post.request_hash if post.idempotency_key else None,
        **prompt_columns(
            post.uploads.prompt or post.text,
            agent=post.agent,
            model=post.model,
            uploaded=hashes(post.uploads.files),
            images=post.uploads.images,
            trace=post.trace,
        ),
    )
    db.add(message)
    await db.flush()
    return message


async def _is_busy(db: AsyncSession, messages: type[MessageT], conversation_id: Any) -> bool:
    found = select(messages.id).where(busy(messages, conversation_id)).limit(1)
    return await db.scalar(found) is not None
