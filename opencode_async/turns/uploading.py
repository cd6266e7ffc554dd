"""A person's message with files: into sandbox and store first, then with it into the database.

What does not become a message leaves nothing behind.
"""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, Generic

from sqlalchemy.ext.asyncio import AsyncSession

from opencode_async.artifacts.artifact import object_key
from opencode_async.artifacts.filenames import free, safe_filename
from opencode_async.artifacts.images import is_showable
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
from opencode_async.protocol.prompt import Image
from opencode_async.session import Session
from opencode_async.turns.posting import Uploads
from opencode_async.turns.prompt import STORED
from opencode_async.turns.sandboxes import SharedSandbox

Insert = Callable[[AsyncSession, Uploads], Awaitable[tuple[MessageT, bool]]]


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
        """The turn that ``insert`` gives, called with a ``db`` and what there is to tell the agent.

        The files are in the sandbox then, and are recorded in the same transaction, with the
        person's message. Raises ``SandboxUnreachable`` where the agent's disk is not seen here,
        unless the model is shown all of them, ``ArtifactStoreError``, and what the client and
        ``insert`` raise. Then, and where the turn is one that was started before, neither sandbox
        nor store have any of it.
        """
        most = self._policy.inline_images
        showable = [await is_showable(file, most) for file in received]
        try:
            shared = await SharedSandbox.of(session, self._policy)
        except SandboxUnreachable:
            if not all(showable):
                raise
            shared = None
        except OSError as error:
            raise ArtifactStoreError("sandbox", "is not there") from error
        owners = session.conversation_id, uuid.uuid4().hex
        sandbox = None if shared is None else shared.sandbox
        upload = Upload(sandbox, self._policy.store, owners)
        kept = False
        try:
            for file in received:
                await upload.take(file)
            images = [
                Image(f"{STORED}{file.key}", file.content_type, file.path)
                for file, shown in zip(upload.files, showable, strict=True)
                if shown
            ]
            if shared is not None:
                text = str(UploadedFilesPrompt(text, upload.files, shared.folder))
            uploads = Uploads(text, upload.files, images)
            async with self._sessions() as db:
                message, new = await insert(db, uploads)
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


class Upload:
    """The files of one message, in the sandbox, if there is one, and in the store; nobody's yet."""

    def __init__(
        self, sandbox: Sandbox | None, store: ArtifactStore, owners: tuple[Any, str]
    ) -> None:
        self.files: list[UploadedFile] = []
        self._sandbox = sandbox
        self._store = store
        self._owners = owners

    async def take(self, file: FileOnDisk) -> None:
        """Put a file into both. Raises ``ArtifactStoreError``, also for a disk that is full."""
        path = await self._placed(file)
        size, sha256, content_type = file.size, file.sha256, file.content_type
        key = object_key(*self._owners, path=path, sha256=sha256)
        self.files.append(UploadedFile(path, file.filename, size, sha256, content_type, key))
        await self._store.put(key, of_disk(file), size=size, content_type=content_type)

    async def _placed(self, file: FileOnDisk) -> str:
        if self._sandbox is None:
            return free(safe_filename(file.filename), {each.path for each in self.files})
        try:
            return await self._sandbox.place(file.filename, of_disk(file))
        except OSError as error:
            raise ArtifactStoreError("sandbox", "did not take a file") from error

    def rows(self, kind: type[ArtifactMixin], message_id: Any) -> list[ArtifactMixin]:
        """The rows of the files, for that message."""
        rows = []
        for file in self.files:
            row = kind()
            row.message_id = message_id
            row.path = row.filename = file.path
            row.size, row.sha256, row.content_type = file.size, file.sha256, file.content_type
            row.key = file.key
            rows.append(row)
        return rows

    async def undone(self, report: ErrorReporter) -> None:
        """Take them out of both again; what cannot be is reported."""
        for file in self.files:
            removals = [partial(self._store.delete, file.key)]
            if self._sandbox is not None:
                removals.append(partial(self._sandbox.remove, file.path))
            for remove in removals:
                try:
                    await remove()
                except Exception as error:
                    report(error, severity="warning", context={"during": "undoing an upload"})
