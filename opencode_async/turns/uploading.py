"""A person's message with files: into sandbox and store first, then with it into the database.

What does not become a message leaves nothing behind.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, Generic

from sqlalchemy.ext.asyncio import AsyncSession

from opencode_async.artifacts.artifact import object_key
from opencode_async.artifacts.policy import ArtifactPolicy
from opencode_async.artifacts.sandbox import Sandbox
from opencode_async.artifacts.stores.store import ArtifactStore
from opencode_async.artifacts.uploads import (
    FileOnDisk,
    UploadedFile,
    UploadedFilesPrompt,
    of_disk,
)
from opencode_async.database import Sessions, as_key, despite_cancellation
from opencode_async.errors import ArtifactStoreError, SandboxUnreachable
from opencode_async.models import ArtifactMixin, ConversationT, MessageT
from opencode_async.observability.error_reporter import ErrorReporter
from opencode_async.session import Session

Insert = Callable[[AsyncSession, str, Sequence[UploadedFile]], Awaitable[tuple[MessageT, bool]]]


class Uploading(Generic[ConversationT, MessageT]):
    """Starts turns that come with files."""

    def __init__(
        self,
        kind: type[ArtifactMixin],
        policy: ArtifactPolicy,
        sessions: Sessions,
        messages: type[MessageT],
        report: ErrorReporter,
    ) -> None:
        self._kind = kind
        self._policy = policy
        self._sessions = sessions
        self._messages = messages
        self._report = report

    async def start(
        self,
        session: Session[ConversationT],
        text: str,
        received: Sequence[FileOnDisk],
        insert: Insert[MessageT],
    ) -> MessageT:
        """The turn that ``insert`` gives, called with a ``db``, the prompt and the files.

        These are in the sandbox then, and are recorded in the same transaction, with the person's
        message. Raises ``SandboxUnreachable`` where the agent's disk is not seen here,
        ``ArtifactStoreError``, and what the client and ``insert`` raise. Then, and where the turn
        is one that was started before, neither sandbox nor store have any of it.
        """
        folder, sandbox = await self._sandbox(session)
        owners = session.conversation_id, uuid.uuid4().hex
        upload = Upload(sandbox, self._policy.store, owners)
        kept = False
        try:
            for file in received:
                await upload.take(file)
            await self._check_seen(session, folder, upload.files)
            prompt = str(UploadedFilesPrompt(text, upload.files, folder))
            async with self._sessions() as db:
                message, new = await insert(db, prompt, upload.files)
                if new:
                    db.add_all(upload.rows(self._kind, as_key(self._messages, message.reply_to)))
                    await db.flush()
                try:
                    await db.commit()
                    kept = new
                except BaseException:
                    # It may have been committed all the same: what has rows is not taken away.
                    kept = await despite_cancellation(self._is_there(message.id), self._report)
                    raise
                await db.refresh(message)
        finally:
            if not kept:
                await despite_cancellation(upload.undone(self._report), self._report)
        return message

    async def _is_there(self, key: Any) -> bool:
        try:
            async with self._sessions() as db:
                return await db.get(self._messages, key) is not None
        except Exception as error:
            self._report(error, severity="warning", context={"during": "an upload"})
            return True

    async def _check_seen(
        self, session: Session[ConversationT], folder: str, files: Sequence[UploadedFile]
    ) -> None:
        """Raise ``SandboxUnreachable`` where the agent does not see what was placed.

        Another machine may have a folder of that name.
        """
        if files and files[0].path not in await session.client.names_in(folder):
            raise SandboxUnreachable(folder)

    async def _sandbox(self, session: Session[ConversationT]) -> tuple[str, Sandbox]:
        """The conversation's folder as the agent's server calls it, and as it is seen here."""
        paths = await (await session.find_client()).paths()
        key = await session.sandbox_key()
        sandbox = self._policy.sandbox(paths.directory, key)
        if sandbox is None or not await asyncio.to_thread(sandbox.root.parents[1].is_dir):
            raise SandboxUnreachable(paths.directory)
        return paths.sandbox(key), sandbox


class Upload:
    """The files of one message, in the sandbox and in the store; not yet anybody's."""

    def __init__(self, sandbox: Sandbox, store: ArtifactStore, owners: tuple[Any, str]) -> None:
        self.files: list[UploadedFile] = []
        self._sandbox = sandbox
        self._store = store
        self._owners = owners

    async def take(self, file: FileOnDisk) -> None:
        """Put a file into both. Raises ``ArtifactStoreError``, also for a disk that is full."""
        try:
            path = await self._sandbox.place(file.filename, of_disk(file))
        except OSError as error:
            raise ArtifactStoreError("sandbox", "did not take a file") from error
        at = UploadedFile(path, file.filename, file.size, file.sha256, file.content_type)
        self.files.append(at)
        await self._store.put(
            self._key(at), of_disk(file), size=at.size, content_type=at.content_type
        )

    def rows(self, kind: type[ArtifactMixin], message_id: Any) -> list[ArtifactMixin]:
        """The rows of the files, for that message."""
        rows = []
        for file in self.files:
            row = kind()
            row.message_id = message_id
            row.path = row.filename = file.path
            row.size, row.sha256, row.content_type = file.size, file.sha256, file.content_type
            row.key = self._key(file)
            rows.append(row)
        return rows

    async def undone(self, report: ErrorReporter) -> None:
        """Take them out of both again; what cannot be is reported."""
        for file in self.files:
            removals = (
                partial(self._sandbox.remove, file.path),
                partial(self._store.delete, self._key(file)),
            )
            for remove in removals:
                try:
                    await remove()
                except Exception as error:
                    report(error, severity="warning", context={"during": "undoing an upload"})

    def _key(self, file: UploadedFile) -> str:
        return object_key(*self._owners, path=file.path, sha256=file.sha256)
