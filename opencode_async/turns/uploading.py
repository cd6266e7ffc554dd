"""A person's message with files: into sandbox and store first, then with it into the database.

What does not become a message leaves nothing behind.
"""

from __future__ import annotations

import asyncio
import hashlib
import uuid
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, Generic

from sqlalchemy.ext.asyncio import AsyncSession

from opencode_async.artifacts.policy import ArtifactPolicy
from opencode_async.artifacts.sandbox import Sandbox
from opencode_async.artifacts.stores.store import ArtifactStore
from opencode_async.artifacts.uploads import (
    FileOnDisk,
    UploadedFile,
    UploadedFilesPrompt,
    hashes,
    of_disk,
)
from opencode_async.database import Sessions, as_key, despite_cancellation
from opencode_async.errors import OpencodeError, SandboxUnreachable
from opencode_async.models import ArtifactMixin, ConversationT, MessageT
from opencode_async.observability.error_reporter import ErrorReporter
from opencode_async.session import Session


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
        start: Callable[[AsyncSession, str, Sequence[UploadedFile]], Awaitable[MessageT]],
    ) -> MessageT:
        """What ``start`` gives, called with a ``db``, the prompt and the files in the sandbox.

        They are recorded in the same transaction, with the person's message. Raises
        ``SandboxUnreachable`` where the agent's disk is not seen here, ``ArtifactStoreError``, and
        what the client and ``start`` raise. Then, and where the turn is one that was started
        before, neither sandbox nor store have any of it.
        """
        folder, sandbox = await self._sandbox(session)
        upload = Upload(
            sandbox, self._policy.store, f"{session.conversation_id}/{uuid.uuid4().hex}"
        )
        kept = False
        try:
            for file in received:
                await upload.take(file)
            prompt = str(UploadedFilesPrompt(text, upload.files, folder))
            async with self._sessions() as db:
                message = await start(db, prompt, upload.files)
                kept = (message.request or {}).get("uploaded") == hashes(upload.files)
                if kept:
                    said = as_key(self._messages, message.reply_to)
                    db.add_all(upload.rows(self._kind, said))
                await db.commit()
                await db.refresh(message)
        except BaseException:
            kept = False
            raise
        finally:
            if not kept:
                await despite_cancellation(upload.undone(self._report), self._report)
        return message

    async def _sandbox(self, session: Session[ConversationT]) -> tuple[str, Sandbox]:
        """The conversation's folder as the agent's server calls it, and as it is seen here."""
        paths = await (await session.find_client()).paths()
        key = await session.sandbox_key()
        directory = self._policy.directory or Path(paths.directory)
        if not await asyncio.to_thread(directory.is_dir):
            raise SandboxUnreachable(paths.directory)
        root = directory / "sandbox" / key
        return paths.sandbox(key), Sandbox(root, max_bytes=self._policy.max_bytes)


class Upload:
    """The files of one message, in the sandbox and in the store; not yet anybody's."""

    def __init__(self, sandbox: Sandbox, store: ArtifactStore, prefix: str) -> None:
        self.files: list[UploadedFile] = []
        self._sandbox = sandbox
        self._store = store
        self._prefix = prefix

    async def take(self, file: FileOnDisk) -> None:
        """Put a file into both."""
        path = await self._sandbox.place(file.filename, of_disk(file))
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
        """Take them out of both again."""
        for file in self.files:
            for removal in (self._sandbox.remove(file.path), self._store.delete(self._key(file))):
                try:
                    await removal
                except OpencodeError as error:
                    report(error, severity="warning", context={"during": "undoing an upload"})

    def _key(self, file: UploadedFile) -> str:
        place = hashlib.sha256(file.path.encode()).hexdigest()[:16]
        return f"{self._prefix}/{place}-{file.sha256}"
