"""A sandbox on a disk that this process does not see, as the agent's server tells of it.

Nothing says when a file was written or how large it is, and only what is binary comes as it is:
text does not (OpenCode 1.18.33, measured), so it is left out. No link is told of, or followed that
leads out of the server's directory; within it the agent could as well have made a copy.
"""

from __future__ import annotations

import posixpath
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from dataclasses import dataclass

from opencode_async.artifacts.artifact import Artifact
from opencode_async.artifacts.sandbox_file import checked_path
from opencode_async.errors import OpencodeError, SandboxFileRefused, ServerError

MOST_ENTRIES = 200  # files and folders that are looked at: each is a request
MOST_DEPTH = 16  # folders, the root being the first
MOST_BYTES = 16 * 1024 * 1024  # of all files of a turn: they are in memory


@dataclass(frozen=True, slots=True)
class DistantSandbox:
    """The folder ``root`` on the server's disk, and the server's answers about it.

    ``entries_of`` gives the names in a folder, each ``file`` or ``directory``, ``None`` where it
    cannot be listed; ``binary`` a file, empty for text, ``None`` for one of more bytes than so
    many. ``max_bytes`` is of one file.
    """

    root: str
    entries_of: Callable[[str], Awaitable[Mapping[str, str] | None]]
    binary: Callable[[str, int], Awaitable[bytes | None]]
    max_bytes: int

    async def files(self, failed: Callable[[Exception], None]) -> AsyncGenerator[Artifact, None]:
        """The binary files, by their paths in the sandbox; ``failed`` is told why others are not.

        Never raises for what is there, or for a server that is not.
        """
        left = MOST_BYTES
        try:
            async for path in self._paths(failed):
                try:
                    most = min(left, self.max_bytes)
                    content = await self.binary(posixpath.join(self.root, path), most)
                except ServerError as error:
                    failed(error)
                    continue
                if content is None:
                    failed(SandboxFileRefused(path, "too_large"))
                elif content:
                    left -= len(content)
                    yield Artifact.of(path, content)
        except OpencodeError as error:
            failed(error)

    async def _paths(self, failed: Callable[[Exception], None]) -> AsyncGenerator[str, None]:
        """The paths of files, those that lie less deep first."""
        entries, folders = 0, [("", 1)]
        for folder, depth in folders:  # which grows meanwhile
            listed = await self.entries_of(posixpath.join(self.root, folder))
            if listed is None and folder:  # else there is no sandbox
                failed(SandboxFileRefused(folder, "unreadable"))
            for name, kind in sorted((listed or {}).items()):
                entries += 1
                if entries > MOST_ENTRIES:
                    raise SandboxFileRefused(".", "too_many")
                try:
                    path = checked_path(posixpath.join(folder, name))
                except SandboxFileRefused as refusal:
                    failed(refusal)
                    continue
                if kind != "directory":
                    yield path
                elif depth < MOST_DEPTH:
                    folders.append((path, depth + 1))
                else:
                    failed(SandboxFileRefused(path, "too_deep"))
