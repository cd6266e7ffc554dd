"""What a stream holds while it is open, and how it says goodbye."""

# No postponed annotations: FastAPI resolves those of nested functions from the module's names.
import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack
from typing import Annotated, Any

import anyio
import pytest
from fastapi import Depends, FastAPI
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from opencode_async import Access, Timings
from opencode_async.brokers.broker import Frame
from opencode_async.testing import ScriptedServer
from opencode_async.web import streams
from opencode_async.web.sse import PIECE
from opencode_async.web.streams import TOGETHER, Streams
from tests.support.hosts import Host, host
from tests.support.serving import listening, sent_of, serving

FOLLOWERS = 50


def app_with_db(app: Host[Any, Any]) -> FastAPI:
    """An app as many are: its access needs a db, from a dependency that closes it late."""

    async def get_db() -> AsyncIterator[AsyncSession]:
        async with app.sessions() as db:
            yield db

    async def access(db: Annotated[AsyncSession, Depends(get_db)]) -> Access:
        await db.execute(text("SELECT 1"))
        return Access(app.agent.tables.conversation.user_id == 1)

    web = FastAPI()
    web.include_router(app.agent.router(access=access), prefix="/agent")
    return web


async def stored(app: Host[Any, Any], key: Any, content: str) -> None:
    """Wait until the row of a running turn holds that text: another process would see it so."""
    async for frames in app.agent.turns.following.frames(key):
        if any(content in frame.data for frame in frames):
            break
    while (await app.row(key)).content != content:
        await app.agent.turns.following.place_of(key)


async def test_fifty_open_streams_hold_no_database_connection(
    database_url: str, opencode: ScriptedServer
) -> None:
    async with host(database_url, opencode, pool_size=5) as app, serving(app_with_db(app)) as web:
        message = await app.agent.turns.start(await app.conversation(), "SCRIPT:hang Wait.")
        path = f"/agent/messages/{message.id}/events"
        async with AsyncExitStack() as stack:
            streams = [
                await stack.enter_async_context(listening(web, path)) for _ in range(FOLLOWERS)
            ]
            for stream in streams:
                async for event in stream:
                    if "Wait." in str(event.data):
                        break
            # The turn is silent now, so its last snapshot is the last use of a connection.
            await stored(app, message.id, "Wait.")
            await app.holds_no_connection()
            await app.agent.turns.cancel(message.id)
            ends = [[e.event async for e in stream][-1] for stream in streams]
        assert ends == ["finished"] * FOLLOWERS
        await app.holds_no_connection()


async def test_many_streams_that_open_at_once_do_not_wait_for_each_others_connections(
    database_url: str, opencode: ScriptedServer
) -> None:
    """Each request's ``access`` has one of the pool's, and the route needs one."""
    async with host(database_url, opencode, pool_size=5) as app, serving(app_with_db(app)) as web:
        message = await app.agent.turns.start(await app.conversation(), "SCRIPT:hang Wait.")
        paths = [
            f"/agent/messages/{message.id}/events",
            f"/agent/conversations/{message.conversation_id}/events",
        ]

        async def first(path: str) -> str:
            async with listening(web, path) as events:
                return (await anext(events)).event

        async with asyncio.timeout(20):
            firsts = await asyncio.gather(*(first(path) for path in paths * 10))
        await app.agent.turns.stop(message.id, within=5)
    assert {*firsts} <= {"snapshot", "message.added"}


async def test_a_stream_is_not_buffered_and_says_when_to_come_back(
    database_url: str, opencode: ScriptedServer
) -> None:
    async with host(database_url, opencode) as app, serving(app_with_db(app)) as web:
        message = await app.agent.turns.start(await app.conversation(), "SCRIPT:text Hi.")
        async with web.stream("GET", f"/agent/messages/{message.id}/events") as response:
            body = "".join([chunk async for chunk in response.aiter_text()])
    assert response.headers["content-type"].startswith("text/event-stream")
    assert response.headers["x-accel-buffering"] == "no"
    first = body.split("\n\n", 1)[0]
    retry = next(line for line in first.split("\n") if line.startswith("retry: "))
    assert 500 <= int(retry.removeprefix("retry: ")) <= 2500


async def test_a_quiet_stream_is_pinged_with_comments(
    database_url: str, opencode: ScriptedServer
) -> None:
    timings = Timings(ping=0.05, settle=0.5, stop=3.0)
    async with (
        host(database_url, opencode, timings=timings) as app,
        serving(app_with_db(app)) as web,
    ):
        message = await app.agent.turns.start(await app.conversation(), "SCRIPT:hang Wait.")
        pings = 0
        async with web.stream("GET", f"/agent/messages/{message.id}/events") as response:
            async for line in response.aiter_lines():
                pings += line == ": ping"
                if pings == 3:
                    break
        await app.agent.turns.stop(message.id, within=5)
    assert pings == 3


async def test_followers_that_vanish_leave_nothing_behind(
    database_url: str, opencode: ScriptedServer
) -> None:
    async with host(database_url, opencode) as app, serving(app_with_db(app)) as web:
        message = await app.agent.turns.start(await app.conversation(), "SCRIPT:hang Wait.")
        path = f"/agent/messages/{message.id}/events"
        for _ in range(20):
            async with listening(web, path) as events:
                await anext(events)
        await app.agent.turns.stop(message.id, within=5)
        async with listening(web, path) as events:
            (only,) = [event async for event in events]
    assert only.event == "finished"
    await app.holds_no_connection()


async def test_nothing_is_left_of_the_stream_of_somebody_who_vanished() -> None:
    reading, leaving, closed = asyncio.Event(), asyncio.Event(), asyncio.Event()
    left = []

    async def batches() -> AsyncGenerator[Any, None]:
        try:
            reading.set()
            await asyncio.Event().wait()
            yield []
        finally:
            leaving.set()
            await closed.wait()  # a connection is closed gracefully, say
            left.append("the database")

    async def close() -> None:
        await leaving.wait()
        for _ in range(10):
            await asyncio.sleep(0)
        closed.set()

    closing = asyncio.create_task(close())
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(sent_of, batches())
        await reading.wait()
        tasks.cancel_scope.cancel()  # which cancels at every wait, until the block is left
    assert left == ["the database"]
    await closing


class Going(Streams):
    """The streams of a server that goes when it is told to."""

    are_to_end = False


async def test_a_farewell_ends_no_half_event() -> None:
    """Its empty line would make an event of it, and its cursor the browser's."""
    streams = Going(ping=15)

    async def batches() -> AsyncGenerator[Any, None]:
        yield [Frame("m.1.1", 1, "snapshot", "x" * 3 * PIECE)]

    async def slowly(chunk: bytes) -> None:
        if len(chunk) == PIECE:
            streams.are_to_end = True
            await asyncio.Event().wait()

    connected, piece, end = await sent_of(batches(), streams, slowly)
    assert connected.startswith(b": connected")
    assert b"\n\n" not in piece
    assert end == b""


async def test_a_time_out_of_a_middlewares_ends_the_stream() -> None:
    async def batches() -> AsyncGenerator[Any, None]:
        await asyncio.Event().wait()
        yield []

    async def receive() -> Any:
        raise TimeoutError

    with pytest.raises(TimeoutError):
        await sent_of(batches(), receive=receive)


async def test_streams_that_are_due_together_leave_the_loop_to_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(streams, "LOOK", 0)
    rounds, roused, all_were = 0, Counter[int](), asyncio.Event()

    class Due:
        is_due = True

        def rouse(self) -> None:
            roused[rounds] += 1
            if roused.total() == 3 * TOGETHER:
                all_were.set()

    together, open_streams = Streams(15), [Due() for _ in range(3 * TOGETHER)]
    for stream in open_streams:
        together.add(stream)
    while not all_were.is_set():
        rounds += 1
        await asyncio.sleep(0)
    for stream in open_streams:
        together.discard(stream)
    assert max(roused.values()) == TOGETHER
