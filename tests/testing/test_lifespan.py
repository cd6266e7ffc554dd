"""An app's lifespan is run as a server runs it, in one task of its own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest
from fastapi import FastAPI

from opencode_async.testing.lifespan import lifespan_of


def app_with(told: list[str], *, starting: Any = None, stopping: Any = None) -> FastAPI:
    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[dict[str, int]]:
        if starting:
            raise starting
        # It must be left in the task that it was entered in.
        with anyio.CancelScope():
            told.append("started")
            yield {"answer": 42}
            await asyncio.sleep(0)
            told.append("stopped")
        if stopping:
            raise stopping

    return FastAPI(lifespan=lifespan)


async def test_it_is_left_in_the_task_it_was_entered_in() -> None:
    """However the block is: a fixture is left in another task than it was entered in."""
    told: list[str] = []
    lifespan = lifespan_of(app_with(told))
    await asyncio.create_task(lifespan.__aenter__())
    assert told == ["started"]
    await asyncio.create_task(lifespan.__aexit__(None, None, None))
    assert told == ["started", "stopped"]


async def test_it_gives_a_state_to_requests() -> None:
    async with lifespan_of(app_with([])) as state:
        assert state == {"answer": 42}


async def test_what_it_raises_is_raised() -> None:
    told: list[str] = []
    with pytest.raises(ZeroDivisionError):
        async with lifespan_of(app_with(told, starting=ZeroDivisionError())):
            told.append("inside")
    assert told == []
    with pytest.raises(ZeroDivisionError):
        async with lifespan_of(app_with(told, stopping=ZeroDivisionError())):
            told.append("inside")
    assert told == ["started", "inside", "stopped"]


async def test_it_is_stopped_when_the_block_fails() -> None:
    told: list[str] = []
    with pytest.raises(KeyError):
        async with lifespan_of(app_with(told)):
            raise KeyError
    assert told == ["started", "stopped"]


async def test_a_cancelled_start_is_cancelled() -> None:
    told: list[str] = []
    starting = asyncio.Event()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        starting.set()
        try:
            await asyncio.Event().wait()
        finally:
            told.append("cancelled")
        yield

    async def start() -> None:
        async with lifespan_of(FastAPI(lifespan=lifespan)):
            told.append("inside")

    task = asyncio.create_task(start())
    await starting.wait()
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
    assert told == ["cancelled"]


async def test_an_app_that_only_says_that_it_failed_is_believed() -> None:
    async def failing(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "lifespan.startup.failed", "message": "No database."})

    async def silent(scope: Any, receive: Any, send: Any) -> None:
        await receive()

    with pytest.raises(RuntimeError, match=r"startup\.failed: No database\."):
        async with lifespan_of(failing):
            pass
    with pytest.raises(RuntimeError, match="before it had started"):
        async with lifespan_of(silent):
            pass
