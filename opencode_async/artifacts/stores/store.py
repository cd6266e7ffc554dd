"""What an artifact store does; one of the host's own does these six things."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from typing import Protocol, Self


class ArtifactStore(Protocol):
    """Keeps bytes under keys: text of letters, digits and ``-_./``, 512 characters at most.

    An object appears under its key whole or not at all, and never changes. Every method raises
    ``ArtifactStoreError`` where the store fails. One store is entered once for a process, and used
    by all its turns at once.
    """

    async def __aenter__(self) -> Self:
        """Make ready: open connections, make folders."""

    async def __aexit__(self, *raised: object) -> None:
        """Close what was opened."""

    async def put(
        self, key: str, chunks: AsyncIterator[bytes], *, size: int, content_type: str
    ) -> bool:
        """Keep these bytes, ``size`` in all; ``False`` where the key is taken already.

        Where ``chunks`` raises, or gives another number of bytes (``ValueError``), nothing is kept.
        Memory does not grow with the size.
        """

    def open(
        self, key: str, start: int = 0, end: int | None = None
    ) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        """The bytes from ``start`` up to ``end``, exclusive; raises ``ArtifactMissing``."""

    async def delete(self, key: str) -> None:
        """Forget a key; one that is not there is no error."""

    async def url(self, key: str, *, filename: str, content_type: str) -> str | None:
        """A URL that lets whoever has it download the object for a while, as an attachment.

        ``None`` where there is no such thing: then the app itself hands the bytes out.
        """
