"""The files of one turn, stored and recorded: once each, whoever tries it and how often.

A file's key holds the hash of its content, and its bytes are stored before its row: a worker that
dies in between leaves an object that the next one finds in its place.
"""

from __future__ import annotations

import hashlib
import posixpath
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Awaitable,
    Callable,
    Iterable,
    Mapping,
    Sequence,
)
from contextlib import aclosing
from dataclasses import dataclass, replace
from types import MappingProxyType

from sqlalchemy import delete, select
from sqlalchemy.ext.asyncio import AsyncSession

from opencode_async.artifacts.artifact import Artifact
from opencode_async.artifacts.content_type import sniffed
from opencode_async.artifacts.filenames import safe_filename
from opencode_async.artifacts.policy import ArtifactPolicy, trust_of
from opencode_async.artifacts.sandbox import Sandbox
from opencode_async.artifacts.transform import Transform
from opencode_async.database import Sessions
from opencode_async.errors import LeaseLost, SandboxFileRefused
from opencode_async.models import ArtifactMixin, MessageMixin
from opencode_async.protocol.tool_artifacts import ToolArtifact

PlaceOf = Callable[[str], tuple[str, bool] | None]
HEAD = 8192  # bytes that tell what a file is


@dataclass(frozen=True, slots=True)
class Digest:
    """What there is to know of a file's bytes."""

    size: int
    sha256: str
    head: bytes


class MessageArtifacts:
    """Attaches files to the message of a turn that a worker still holds.

    ``holds`` is called in each transaction that writes, and raises where the turn is another
    worker's. ``failed`` is told of each file that is not kept, and why; the others are.
    """

    def __init__(
        self,
        kind: type[ArtifactMixin],
        message: MessageMixin,
        sessions: Sessions,
        policy: ArtifactPolicy,
        *,
        holds: Callable[[AsyncSession], Awaitable[None]],
        failed: Callable[[Exception], None],
    ) -> None:
        self._kind = kind
        self._message = message
        self._sessions = sessions
        self._policy = policy
        self._trust = trust_of(policy)
        self._holds = holds
        self._failed = failed
        self._doubtful: set[str] = set()

    async def attach_from(
        self,
        written: Iterable[ToolArtifact],
        sandbox: Sandbox | None,
        place_of: PlaceOf,
        cutoff: float,
        uploaded: Mapping[str, str] = MappingProxyType({}),
    ) -> AsyncGenerator[ArtifactMixin, None]:
        """Keep what the turn produced; each file's row, once it is there.

        ``written`` is what tool calls say they left, ``sandbox`` is where this process can see
        files itself: of these, those since ``cutoff`` (s since 1970). ``place_of`` says where a
        path of the server's is. ``uploaded`` are the hashes of files that were put into the
        sandbox, by path: unchanged, they are not the turn's.
        """
        found = await self._found(written, sandbox, place_of, cutoff)
        async with aclosing(self._kept(found)) as kept:
            async for artifact, trusted in kept:
                try:
                    row = await self._attached(artifact, uploaded, trusted=trusted)
                except LeaseLost:
                    raise
                except Exception as error:
                    self._failed(error)
                else:
                    if row is not None:
                        yield row

    async def _found(
        self,
        written: Iterable[ToolArtifact],
        sandbox: Sandbox | None,
        place_of: PlaceOf,
        cutoff: float,
    ) -> list[Artifact]:
        """The agent's files, by their paths in the sandbox, or else in the server's directory."""
        found: dict[str, Artifact] = {}
        if sandbox is not None:
            fresh = await sandbox.fresh(cutoff)
            found = {file.path: Artifact(file.path, file.read) for file in fresh.files}
            # The clocks of two machines differ: the turn before may have left these.
            self._doubtful = {file.path for file in fresh.files if file.modified < cutoff}
            for refused in fresh.refused:
                self._failed(refused)
        for file in written:
            place = place_of(file.path)
            if place is None:
                continue
            path, inside = place
            if inside and sandbox is not None:
                continue  # seen with own eyes, as it is by now
            if file.content is not None:
                found.setdefault(path, Artifact.of(path, file.content))
            elif inside:
                self._failed(SandboxFileRefused(path, "unreadable"))
        return list(found.values())

    async def _kept(self, files: Sequence[Artifact]) -> AsyncGenerator[tuple[Artifact, bool], None]:
        """Which files are kept, and whether they are the host's own."""
        transforms, count = self._policy.transforms, 0
        for file in files:
            if any(transform.owns(safe_filename(file.filename)) for transform in transforms):
                self._failed(SandboxFileRefused(file.path, "name"))
                continue
            for transform in transforms:
                if transform.applies_to(file):
                    try:
                        yield await self._rendered(transform, file), True
                    except LeaseLost:
                        raise
                    except Exception as error:
                        self._failed(error)
            if self._policy.default_attach == "none":
                continue
            count += 1
            if count > self._policy.max_files:
                self._failed(SandboxFileRefused(file.path, "too_many"))
                return
            yield file, False

    async def _rendered(self, transform: Transform, file: Artifact) -> Artifact:
        rendered = await transform.render(file)
        path = posixpath.join(posixpath.dirname(file.path), transform.destination_filename)
        return replace(rendered, path=path)

    async def _attached(
        self, file: Artifact, uploaded: Mapping[str, str], *, trusted: bool
    ) -> ArtifactMixin | None:
        """The file's row; ``None`` where it is there, or the file was uploaded."""
        digest = await self._digest(file)
        if uploaded.get(file.path) == digest.sha256:
            return None
        row = self._kind()
        row.message_id = self._message.id
        row.path = "/".join(map(safe_filename, file.path.split("/")))
        row.filename = safe_filename(file.filename)
        row.size, row.sha256 = digest.size, digest.sha256
        row.content_type = file.content_type if trusted else None
        row.content_type = row.content_type or sniffed(digest.head)
        row.signature = self._trust.sign(row) if trusted else None
        place = hashlib.sha256(row.path.encode()).hexdigest()[:16]
        owner = f"{self._message.conversation_id}/{self._message.id}"
        row.key = f"{owner}/{place}-{digest.sha256}"
        if file.path in self._doubtful and await self._is_kept(row):
            return None
        chunks = same(file, digest)
        await self._policy.store.put(
            row.key, chunks, size=digest.size, content_type=row.content_type
        )
        return await self._recorded(row)

    async def _is_kept(self, row: ArtifactMixin) -> bool:
        """Whether another message of the conversation has the very same file."""
        kind, message = self._kind, type(self._message)
        same_file = (kind.path == row.path, kind.sha256 == row.sha256)
        others = select(message.id).where(
            message.conversation_id == self._message.conversation_id,
            message.id != self._message.id,
        )
        query = select(kind.id).where(*same_file, kind.message_id.in_(others)).limit(1)
        async with self._sessions() as db:
            return await db.scalar(query) is not None

    async def _digest(self, file: Artifact) -> Digest:
        size, sha256, head = 0, hashlib.sha256(), b""
        async for chunk in file.read():
            size += len(chunk)
            if size > self._policy.max_bytes:
                raise SandboxFileRefused(file.path, "too_large")
            sha256.update(chunk)
            head += chunk[: HEAD - len(head)]
        return Digest(size, sha256.hexdigest(), head)

    async def _recorded(self, row: ArtifactMixin) -> ArtifactMixin | None:
        """Add the row, unless there is one; an untrusted one gives way to a trusted one."""
        kind = self._kind
        same_path = (kind.message_id == row.message_id, kind.path == row.path)
        async with self._sessions.begin() as db:
            await self._holds(db)
            known = await db.scalar(select(kind).where(*same_path))
            stays = known is not None and (row.signature is None or self._trust.holds(known))
            if not stays:
                await db.execute(delete(kind).where(*same_path))
                db.add(row)
                await db.flush()
                await db.refresh(row)
        if known is not None and known.key != row.key:
            # One object has no row now: that of the file which does not count.
            await self._policy.store.delete((row.key if stays else known.key) or "")
        return None if stays else row


async def same(file: Artifact, digest: Digest) -> AsyncIterator[bytes]:
    """The file's chunks, which are those that were looked at; raises ``SandboxFileRefused``."""
    sha256 = hashlib.sha256()
    async for chunk in file.read():
        sha256.update(chunk)
        yield chunk
    if sha256.hexdigest() != digest.sha256:
        raise SandboxFileRefused(file.path, "changed")
