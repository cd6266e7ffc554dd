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
)
from contextlib import aclosing
from dataclasses import dataclass, replace
from types import MappingProxyType

from sqlalchemy import delete, select
from sqlalchemy.ext.asyncio import AsyncSession

from opencode_async.artifacts.artifact import Artifact, object_key
from opencode_async.artifacts.candidates import Candidate, PlaceOf, candidates
from opencode_async.artifacts.content_type import HEAD, sniffed
from opencode_async.artifacts.distant import DistantSandbox
from opencode_async.artifacts.filenames import free, safe_filename
from opencode_async.artifacts.policy import ArtifactPolicy, trust_of
from opencode_async.artifacts.sandbox import Sandbox
from opencode_async.artifacts.sandbox_file import MOST_OF_A_PATH
from opencode_async.artifacts.transform import Transform
from opencode_async.database import Sessions, is_away
from opencode_async.errors import LeaseLost, SandboxFileRefused
from opencode_async.models import ArtifactMixin, MessageMixin
from opencode_async.protocol.tool_artifacts import ToolArtifact


@dataclass(frozen=True, slots=True)
class Earlier:
    """The files of a conversation's other messages, as path and hash: people's, and turns'."""

    uploads: set[tuple[str | None, str | None]]
    files: set[tuple[str | None, str | None]]


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
        holds: Callable[[AsyncSession], Awaitable[object]],
        failed: Callable[[Exception], None],
    ) -> None:
        self._kind = kind
        self._message = message
        self._sessions = sessions
        self._policy = policy
        self._trust = trust_of(policy)
        self._holds = holds
        self._failed = failed

    async def attach_from(
        self,
        written: Iterable[ToolArtifact],
        sandbox: Sandbox | DistantSandbox | None,
        place_of: PlaceOf,
        cutoff: float,
        uploaded: Mapping[str, str] = MappingProxyType({}),
    ) -> AsyncGenerator[ArtifactMixin, None]:
        """Keep what the turn produced; each file's row, once it is there.

        For ``written``, ``sandbox``, ``place_of`` and ``cutoff`` see ``candidates``. ``uploaded``
        are the hashes of files that were put into the sandbox, by path: unchanged, they are not the
        turn's. Raises what ``holds`` does, and where the database is away.
        """
        found = await candidates(written, sandbox, place_of, cutoff, self._failed)
        if not found:
            return
        earlier = await self._earlier()
        earlier.uploads.update((safe_path(path), sha256) for path, sha256 in uploaded.items())
        taken: set[str] = set()
        # What the host renders first: nothing an agent adds is to crowd it out.
        rendered = [(candidate, self._renderers(candidate.file)) for candidate in found]
        for candidate, renderers in sorted(rendered, key=lambda each: not each[1]):
            async with aclosing(self._versions(candidate, renderers, earlier)) as versions:
                async for file, digest, trusted in versions:
                    if len(taken) >= self._policy.max_files:
                        self._failed(SandboxFileRefused(file.path, "too_many"))
                        return
                    path = free(safe_path(file.path), taken)
                    taken.add(path)
                    row = self._row(replace(file, path=path), digest, trusted=trusted)
                    if await self._is_stored(row, file, digest):
                        recorded = await self._recorded(row)
                        if recorded is not None:
                            yield recorded

    async def _earlier(self) -> Earlier:
        """The files that the conversation's other messages have."""
        kind, message = self._kind, type(self._message)
        query = (
            select(message.role, kind.path, kind.sha256)
            .join(kind, kind.message_id == message.id)
            .where(message.conversation_id == self._message.conversation_id)
            .where(message.id != self._message.id)
        )
        earlier = Earlier(set(), set())
        async with self._sessions() as db:
            for role, path, sha256 in await db.execute(query):
                (earlier.uploads if role == "user" else earlier.files).add((path, sha256))
        return earlier

    async def _versions(
        self, candidate: Candidate, renderers: Iterable[Transform], earlier: Earlier
    ) -> AsyncGenerator[tuple[Artifact, Digest, bool], None]:
        """What is kept of a file, and whether that is the host's own: its renderings, and itself.

        Nothing is where it is not the turn's, or has a name that only the host may give.
        """
        file = candidate.file
        try:
            digest = await self._digest(file)
        except Exception as error:
            self._failed(error)
            return
        if candidate.inside:
            same_file = (safe_path(file.path), digest.sha256)
            doubtful = candidate.doubtful and same_file in earlier.files
            if doubtful or same_file in earlier.uploads:
                return
        name = safe_filename(file.filename)
        if any(transform.owns(name) for transform in self._policy.transforms):
            self._failed(SandboxFileRefused(file.path, "name"))
            return
        for transform in renderers:
            try:
                rendered = await transform.render(file)
                path = posixpath.join(posixpath.dirname(file.path), transform.destination_filename)
                rendered = replace(rendered, path=path)
                made = rendered, await self._digest(rendered), True
            except Exception as error:
                self._failed(error)
                continue
            same_rendering = (safe_path(path), made[1].sha256)
            if not (candidate.doubtful and same_rendering in earlier.files):
                yield made
        if self._policy.default_attach == "all":
            yield file, digest, False

    def _renderers(self, file: Artifact) -> list[Transform]:
        try:
            return [each for each in self._policy.transforms if each.applies_to(file)]
        except Exception as error:
            self._failed(error)
            return []

    async def _digest(self, file: Artifact) -> Digest:
        size, sha256, head = 0, hashlib.sha256(), b""
        async for chunk in file.read():
            size += len(chunk)
            if size > self._policy.max_bytes:
                raise SandboxFileRefused(file.path, "too_large")
            sha256.update(chunk)
            head += chunk[: HEAD - len(head)]
        return Digest(size, sha256.hexdigest(), head)

    def _row(self, file: Artifact, digest: Digest, *, trusted: bool) -> ArtifactMixin:
        row = self._kind()
        row.message_id = self._message.id
        row.path, row.filename = file.path, file.filename
        row.size, row.sha256 = digest.size, digest.sha256
        row.content_type = file.content_type if trusted else None
        row.content_type = row.content_type or sniffed(digest.head)
        row.signature = self._trust.sign(row) if trusted else None
        owners = (self._message.conversation_id, self._message.id)
        row.key = object_key(*owners, path=file.path, sha256=digest.sha256)
        return row

    async def _is_stored(self, row: ArtifactMixin, file: Artifact, digest: Digest) -> bool:
        """Store the bytes; whether they are there now."""
        key, content_type = row.key or "", row.content_type or ""
        try:
            if len(row.path or "") > MOST_OF_A_PATH:
                raise SandboxFileRefused(file.path, "name")
            chunks = same(file, digest)
            await self._policy.store.put(key, chunks, size=digest.size, content_type=content_type)
        except Exception as error:
            self._failed(error)
            return False
        return True

    async def _recorded(self, row: ArtifactMixin) -> ArtifactMixin | None:
        """Add the row, unless there is one; an untrusted one gives way to a trusted one."""
        kind = self._kind
        same_path = (kind.message_id == row.message_id, kind.path == row.path)
        try:
            async with self._sessions.begin() as db:
                await self._holds(db)
                known = await db.scalar(select(kind).where(*same_path))
                stays = known is not None and (row.signature is None or self._trust.holds(known))
                if not stays:
                    await db.execute(delete(kind).where(*same_path))
                    db.add(row)
                    await db.flush()
                    await db.refresh(row)
        except Exception as error:
            if is_away(error):
                raise
            if not isinstance(error, LeaseLost):
                self._failed(error)  # the host's own constraint, say
                await self._forget(row.key)
                return None
            if await self._is_erased():
                await self._forget(row.key)  # else it is the other worker's, too
            raise
        if known is not None and known.key != row.key:
            # One object has no row now: that of the file which does not count.
            await self._forget(row.key if stays else known.key)
        return None if stays else row

    async def _is_erased(self) -> bool:
        async with self._sessions() as db:
            return await db.get(type(self._message), self._message.id) is None

    async def _forget(self, key: str | None) -> None:
        try:
            await self._policy.store.delete(key or "")
        except Exception as error:
            self._failed(error)


def safe_path(path: str) -> str:
    """The path with each of its names made safe."""
    return "/".join(map(safe_filename, path.split("/")))


async def same(file: Artifact, digest: Digest) -> AsyncIterator[bytes]:
    """The file's chunks, which are those that were looked at; raises ``SandboxFileRefused``."""
    sha256 = hashlib.sha256()
    async for chunk in file.read():
        sha256.update(chunk)
        yield chunk
    if sha256.hexdigest() != digest.sha256:
        raise SandboxFileRefused(file.path, "changed")
