"""What the stores of this library check alike before they keep anything."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, AsyncIterator

KEY = re.compile(r"[A-Za-z0-9._/-]{1,512}", re.ASCII)


def check_key(key: str) -> None:
    """Raise ``ValueError`` for a key of other letters, or that could lead out of its folder."""
    if not KEY.fullmatch(key) or not {"", ".", ".."}.isdisjoint(key.split("/")):
        raise ValueError(f"{key!r} is not a key of an artifact store")


def check_range(start: int, end: int | None) -> None:
    """Raise ``ValueError`` for a range that begins before the bytes, or ends before its start."""
    if start < 0 or (end is not None and end < start):
        raise ValueError(f"there are no bytes {start} to {end}")


async def blocks(
    chunks: AsyncIterator[bytes], size: int, least: int
) -> AsyncGenerator[bytes, None]:
    """The same bytes in blocks of at least ``least``, but for the last; there is no empty one.

    Raises ``ValueError`` as soon as they are more than ``size``, and in the end if they are fewer.
    """
    got, gathered = 0, bytearray()
    async for chunk in chunks:
        got += len(chunk)
        if got > size:
            raise ValueError(f"these are more than {size} bytes")
        gathered += chunk
        if len(gathered) >= least:
            block = bytes(gathered)
            gathered.clear()
            yield block
            del block
    if got < size:
        raise ValueError(f"these are {got} bytes, not {size}")
    if gathered:
        yield bytes(gathered)
