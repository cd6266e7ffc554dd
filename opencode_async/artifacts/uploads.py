"""Files that a person sent: as they are received, as they are kept, what the agent is told."""

from __future__ import annotations

import posixpath
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import anyio

from opencode_async.artifacts.sandbox_file import CHUNK

HEADING = "Files that came with this message:"


class FileOnDisk(Protocol):
    """A file as it was received, on this machine's disk."""

    @property
    def filename(self) -> str: ...
    @property
    def path(self) -> Path: ...
    @property
    def size(self) -> int: ...
    @property
    def sha256(self) -> str: ...
    @property
    def content_type(self) -> str: ...


@dataclass(frozen=True, slots=True)
class UploadedFile:
    """A file of a person's that is in the sandbox: ``path`` there, ``filename`` as they named it.

    ``size`` in bytes, ``content_type`` told from what is in it, ``key`` its own in the store.
    """

    path: str
    filename: str
    size: int
    sha256: str
    content_type: str
    key: str


@dataclass(frozen=True, slots=True)
class UploadedFilesPrompt:
    """A prompt with the list of its files; ``folder`` is the sandbox on the agent's disk."""

    text: str
    files: Sequence[UploadedFile]
    folder: str

    def __str__(self) -> str:
        lines = [
            f"- {posixpath.join(self.folder, file.path)} ({file.content_type}, {file.size} bytes)"
            for file in self.files
        ]
        listing = "\n".join([HEADING, *lines]) if lines else ""
        return "\n\n".join(filter(None, (self.text, listing)))


def hashes(files: Sequence[UploadedFile]) -> dict[str, str]:
    """The hash of each file, by its path: how it is known again, unless it was changed."""
    return {file.path: file.sha256 for file in files}


async def of_disk(file: FileOnDisk) -> AsyncIterator[bytes]:
    """The file's bytes, from this machine's disk."""
    async with await anyio.open_file(file.path, "rb") as opened:
        while chunk := await opened.read(CHUNK):
            yield chunk
