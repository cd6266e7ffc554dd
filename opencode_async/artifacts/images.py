"""Which images a model is shown as such, and not only told of."""

from __future__ import annotations

import asyncio
from pathlib import Path

import imagesize

from opencode_async.artifacts.uploads import FileOnDisk

CONTENT_TYPES = {"image/png", "image/jpeg", "image/gif", "image/webp"}  # what models take
# px of the longer side. OpenCode makes larger ones smaller itself, and answers nothing meanwhile:
# 5 s for a photograph of 12 MP, 30 s for a blank picture of 64 MP and 190 kB (1.18.33, measured).
MOST_SIDE = 2000


async def is_showable(file: FileOnDisk, most_bytes: int) -> bool:
    """Whether it is of a kind and of a size that a model is shown."""
    if file.content_type not in CONTENT_TYPES or file.size > most_bytes:
        return False
    return await asyncio.to_thread(_longer_side, file.path) in range(1, MOST_SIDE + 1)


def _longer_side(path: Path) -> int:
    """In pixels, by what the file says of itself; less than 1 where it says nothing."""
    try:
        width, height = imagesize.get(path)
        return int(max(width, height))
    except Exception:
        return -1  # a stranger's file: there is nothing that its header cannot be
