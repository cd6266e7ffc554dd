"""Bytes that come in chunks, and what happens meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Protocol

CHUNK = 64 << 10


class Digest(Protocol):
    def update(self, data: bytes, /) -> None: ...


async def streamed(size: int, digest: Digest) -> AsyncIterator[bytes]:
    """So many bytes, no two chunks alike, that are never in memory together."""
    for start in range(0, size, CHUNK):
        chunk = start.to_bytes(8) * (CHUNK // 8)
        chunk = chunk[: size - start]
        digest.update(chunk)
        yield chunk


async def interrupted(
    data: bytes, at: int, meanwhile: Callable[[], object]
) -> AsyncIterator[bytes]:
    """These bytes, with something that happens when ``at`` of them are gone."""
    yield data[:at]
    meanwhile()
    yield data[at:]


class Stalling:
    """Chunks that come to a halt behind the given bytes; ``reached`` is set there."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.reached = asyncio.Event()

    async def chunks(self) -> AsyncIterator[bytes]:
        yield self._data
        self.reached.set()
        await asyncio.Event().wait()
