"""Work on a disk, in a thread, that a cancellation waits for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

import anyio
import anyio.lowlevel

T = TypeVar("T")


async def to_its_end(step: Callable[[], T]) -> T:
    """Run a step in a thread; who is cancelled meanwhile learns of it when the step is over.

    Else what a step opens, or writes, may come after it was undone.
    """
    cancelled: asyncio.CancelledError | None = None
    with anyio.CancelScope(shield=True):  # an anyio scope would cancel again and again
        running = asyncio.get_running_loop().run_in_executor(None, step)
        while not running.done():
            try:
                await asyncio.wait([running])
            except asyncio.CancelledError as error:
                cancelled = error
    if cancelled is not None:
        running.exception()  # looked at, or asyncio complains
        raise cancelled
    result = running.result()
    await anyio.lowlevel.checkpoint_if_cancelled()
    return result
