"""How many streams a process serves, and what middlewares of a host do to them."""

# No postponed annotations: FastAPI resolves those of nested functions from the module's names.
import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Annotated, Any

import httpx
import pytest
from fastapi import FastAPI, Header, Request, Response
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.middleware.gzip import GZipMiddleware

from opencode_async import Access, FollowerLimits
from opencode_async.testing import ScriptedServer
from tests.support.hosts import Host, host
from tests.support.replay import replay_events
from tests.support.serving import Sse, listening, serving

HANG = "SCRIPT:hang Wait."
LIMITS = FollowerLimits(process=6, conversation=4, caller=3)


def web_of(app: Host[Any, Any], limits: FollowerLimits | None = None) -> FastAPI:
    def access(user: Annotated[str | None, Header()] = None) -> Access:
        return Access(app.agent.tables.conversation.user_id == 1, by=user)

    web = FastAPI()
    web.include_router(app.agent.router(access=access, followers=limits), prefix="/agent")
    return web


@asynccontextmanager
async def streaming(web: httpx.AsyncClient, path: str, user: str = "") -> AsyncIterator[int]:
    """The status of a stream, which stays open for the block."""
    headers = {"user": user} if user else {}
    async with web.stream("GET", path, headers=headers) as response:
        received = response.aiter_bytes()
        await anext(received)
        yield response.status_code
        await received.aclose()  # type: ignore[attr-defined]


async def test_one_stream_too_many_is_told_when_to_come_back(
    database_url: str, opencode: ScriptedServer
) -> None:
    async with host(database_url, opencode) as app, serving(web_of(app, LIMITS)) as web:
        first, second, third = [await app.conversation() for _ in range(3)]
        message = await app.agent.turns.start(first, HANG)
        turn = f"/agent/messages/{message.id}/events"
        paths = [f"/agent/conversations/{cid}/events" for cid in (first, second, third)]
        async with AsyncExitStack() as stack:

            async def opens(path: str, user: str = "") -> bool:
                status = await stack.enter_async_context(streaming(web, path, user))
                assert status in (200, 429)
                return status == 200

            assert [await opens(paths[0], "ann") for _ in range(3)] == [True] * 3
            assert not await opens(paths[1], "ann")  # the caller's own limit
            assert await opens(turn, "bob")  # a turn's stream is its conversation's
            assert not await opens(turn, "cleo")
            assert not await opens(paths[0])
            assert [await opens(paths[1]) for _ in range(2)] == [True] * 2
            assert not await opens(paths[2])  # the process's
            refused = await web.get(paths[2])
        assert refused.headers["content-type"] == "application/problem+json"
        assert refused.headers["retry-after"] == "5"
        assert refused.json() == {
            "type": "urn:opencode-async:too-many-followers",
            "title": "Too many streams are open.",
            "status": 429,
            "detail": "6 streams of this process are open already",
        }
        async with asyncio.timeout(20):  # the server sees a browser leave a moment later
            while (await status_of(web, paths[2])) == 429:  # noqa: ASYNC110
                await asyncio.sleep(0)
        await app.agent.turns.cancel(message.id)


async def status_of(web: httpx.AsyncClient, path: str) -> int:
    async with streaming(web, path) as status:
        return status


async def test_an_ended_stream_makes_room(database_url: str, opencode: ScriptedServer) -> None:
    limits = FollowerLimits(process=1, conversation=1, caller=1)
    async with host(database_url, opencode) as app, serving(web_of(app, limits)) as web:
        for _ in range(3):
            message = await app.agent.turns.start(await app.conversation(), "SCRIPT:text Hello.")
            events = await followed(web, f"/agent/messages/{message.id}/events")
            assert events[-1].event == "finished"


async def followed(web: httpx.AsyncClient, path: str) -> list[Sse]:
    async with listening(web, path) as events:
        return [event async for event in events]


class Timed(BaseHTTPMiddleware):
    """As many hosts have one."""

    async def dispatch(
        self, request: Request, call_next: Callable[[Request], Awaitable[Response]]
    ) -> Response:
        response = await call_next(request)
        response.headers["x-timed"] = "yes"
        return response


@pytest.mark.parametrize("middlewares", [[GZipMiddleware], [Timed], [Timed, GZipMiddleware]])
async def test_a_hosts_middlewares_hold_nothing_back(
    database_url: str, opencode: ScriptedServer, middlewares: list[Any]
) -> None:
    async with host(database_url, opencode) as app:
        web = web_of(app)
        for middleware in middlewares:
            web.add_middleware(middleware)
        async with serving(web) as client:
            cid = await app.conversation()
            message = await app.agent.turns.start(cid, HANG)
            path = f"/agent/messages/{message.id}/events"
            received: list[Sse] = []
            async with listening(client, path) as events:
                async for event in events:
                    received.append(event)
                    if "Wait." in str(event.data):  # while the turn still runs
                        break
                await app.agent.turns.cancel(message.id)
                received += [event async for event in events]
            finished = replay_events(received)[1]
            assert finished is not None
            assert finished["status"] == "cancelled"
            assert finished == (await client.get(f"/agent/messages/{message.id}")).json()
            assert app.reports.errors == []
        await app.holds_no_connection()


async def test_browsers_that_leave_under_a_middleware_hold_nothing(
    database_url: str, opencode: ScriptedServer
) -> None:
    async with host(database_url, opencode, pool_size=5) as app:
        web = web_of(app)
        web.add_middleware(Timed)
        async with serving(web) as client:
            message = await app.agent.turns.start(await app.conversation(), HANG)
            path = f"/agent/messages/{message.id}/events"
            for _ in range(20):
                assert await status_of(client, path) == 200
            await app.holds_no_connection()
            await app.agent.turns.cancel(message.id)
