"""A file of a turn, before it is stored."""

from __future__ import annotations

import hashlib
import posixpath
import re
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Self

Reading = Callable[[], AsyncIterator[bytes]]


@dataclass(frozen=True, slots=True)
class Artifact:
    """A file, of a turn or of the host's: ``path`` is relative, ``read`` gives its bytes in chunks.

    It may be read more than once. ``content_type`` is the host's word; what an agent wrote has
    none, for its type is told from its bytes.
    """

    path: str
    read: Reading
    content_type: str | None = None

    @classmethod
    def of(cls, path: str, content: str | bytes, content_type: str | None = None) -> Self:
        """A file whose content is in memory; text becomes UTF-8."""
        data = content if isinstance(content, bytes) else content.encode("utf-8", "replace")

        async def read() -> AsyncIterator[bytes]:
            if data:
                yield data

        return cls(path, read, content_type)

    @property
    def filename(self) -> str:
        """The last component of its path."""
        return posixpath.basename(self.path)

    async def content(self) -> bytes:
        """All of its bytes, in memory."""
        return b"".join([chunk async for chunk in self.read()])


def object_key(*owners: object, path: str, sha256: str) -> str:
    """The key that a file is stored under: whose it is, where it stands, what is in it."""
    folders = [
        name if re.fullmatch(r"[A-Za-z0-9_-]{1,64}", name) else short_hash(name)
        for name in map(str, owners)
    ]
    return "/".join([*folders, f"{short_hash(path)}-{sha256}"])


def short_hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:32]
