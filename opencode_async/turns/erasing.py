"""Erasing a conversation, here and upstream."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import delete, select

from opencode_async.artifacts.policy import ArtifactPolicy, sandbox_here
from opencode_async.database import Sessions, locked
from opencode_async.errors import ArtifactStoreError, ConversationNotFound, OpencodeError
from opencode_async.models import ConversationT, MessageT
from opencode_async.observability.error_reporter import ErrorReporter
from opencode_async.session import ClientOf
from opencode_async.tables import Tables
from opencode_async.timings import Timings
from opencode_async.turns.queue import busy
from opencode_async.turns.turns import Turns


async def erase(
    turns: Turns[ConversationT, MessageT],
    client_of: ClientOf[ConversationT],
    sessions: Sessions,
    tables: Tables[ConversationT, MessageT],
    conversation_id: Any,
    policy: ArtifactPolicy | None,
    timings: Timings,
    report: ErrorReporter,
) -> None:
    """See ``Opencode.erase``."""
    messages, conversations = tables.message, tables.conversation
    async with sessions() as db:
        conversation = await db.get(conversations, conversation_id)
        found = await db.scalars(
            select(messages.id)
            .where(busy(messages, conversation_id))
            # Those that wait first: none of them is to have its turn.
            .order_by(messages.position.desc())
        )
        keys = found.all()
    if conversation is None:
        raise ConversationNotFound(conversation_id)
    for key in keys:
        await turns.stop(key, within=timings.stop)
    context = {"during": "erasing a session", "conversation_id": str(conversation_id)}
    client = None
    try:
        client = await client_of(conversation)  # while the host can still look up what refers to it
    except Exception as error:
        report(error, severity="warning", context=context)
    async with sessions.begin() as db:
        row = await locked(db, conversations, conversation_id)
        if row is None:
            raise ConversationNotFound(conversation_id)
        session_id, key, directories = row.opencode_session_id, row.sandbox_key, {row.directory}
        mine = select(messages.id).where(messages.conversation_id == conversation_id)
        # A worker that keeps a file of a turn holds its row meanwhile.
        await db.execute(mine.with_for_update())
        if (ask := tables.ask) is not None:
            await db.execute(delete(ask).where(ask.message_id.in_(mine)))
        objects: Sequence[str | None] = ()
        if (file := tables.artifact) is not None:
            theirs = delete(file).where(file.message_id.in_(mine)).returning(file.key)
            objects = (await db.scalars(theirs)).all()
        await db.execute(delete(messages).where(messages.conversation_id == conversation_id))
        await db.execute(delete(conversations).where(conversations.id == conversation_id))
    await turns.tell_followers(conversation_id)
    if policy is not None:
        for each in filter(None, objects):
            try:
                await policy.store.delete(each)
            except ArtifactStoreError as error:
                report(error, severity="warning", context={**context, "during": "erasing a file"})
    try:
        if client is not None:
            directories.add((await client.paths()).directory)
            if session_id is not None:
                # A deleted session's turn goes on until it fails on its own database: abort it
                # before.
                await client.abort_tree(session_id)
                await client.delete_session(session_id)
    except OpencodeError as error:
        report(error, severity="warning", context={**context, "session_id": str(session_id)})
    # The host may have moved the conversation to another server since its session was created.
    for directory in filter(None, directories):
        sandbox = sandbox_here(policy, directory, key) if key else None
        try:
            if sandbox is not None:
                await sandbox.erase()
        except (OSError, ValueError) as error:
            report(error, severity="warning", context={**context, "during": "erasing a sandbox"})
