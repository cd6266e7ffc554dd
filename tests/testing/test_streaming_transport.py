"""An app behind ``StreamingTransport`` answers as it does behind a server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import httpx
import pytest
from fastapi import FastAPI, Request
from fastapi.responses import StreamingResponse
from starlette.background import BackgroundTask

from opencode_async.testing import streaming_transport
from opencode_async.testing.streaming_transport import MOST_UNREAD, StreamingTransport

START = {"type": "http.response.start", "status": 200, "headers": []}


def client(transport: StreamingTransport, **options: Any) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=transport, base_url="http://test", **options)


def part(body: bytes, *, more: bool) -> dict[str, Any]:
    return {"type": "http.response.body", "body": body, "more_body": more}


async def test_each_chunk_arrives_when_it_is_sent() -> None:
    go_on = asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({**START, "headers": [(b"x-kind", b"stream")]})
        for number in range(3):
            await send(part(b"%d" % number, more=True))
            await go_on.wait()
            go_on.clear()
        await send(part(b"end", more=False))

    seen = []
    async with (
        StreamingTransport(app) as transport,
        client(transport) as http,
        http.stream("GET", "/") as answer,
    ):
        assert answer.headers["x-kind"] == "stream"
        async for chunk in answer.aiter_raw():
            seen.append(chunk)
            go_on.set()
    assert seen == [b"0", b"1", b"2", b"end"]


async def test_a_request_reaches_the_app_whole() -> None:
    app = FastAPI()

    @app.post("/a b/{name}")
    async def echo(request: Request, name: str, q: str) -> dict[str, Any]:
        return {
            "name": name,
            "q": q,
            "body": (await request.body()).decode(),
            "header": request.headers["X-Some"],
            "host": request.url.hostname,
        }

    async def chunks() -> AsyncIterator[bytes]:
        yield b"one "
        yield b""
        yield b"two"

    async with StreamingTransport(app) as transport, client(transport) as http:
        answer = await http.post(
            "/a%20b/%C3%B6", params={"q": "1&2"}, content=chunks(), headers={"X-Some": "yes"}
        )
    assert answer.json() == {
        "name": "ö",
        "q": "1&2",
        "body": "one two",
        "header": "yes",
        "host": "test",
    }


async def test_closing_an_answer_disconnects_the_app() -> None:
    ended = asyncio.Event()
    app = FastAPI()

    @app.get("/ticks")
    async def ticks() -> StreamingResponse:
        async def forever() -> AsyncIterator[bytes]:
            try:
                yield b"tick"
                await asyncio.Event().wait()
            finally:
                ended.set()

        return StreamingResponse(forever())

    async with StreamingTransport(app) as transport, client(transport) as http:
        async with http.stream("GET", "/ticks") as answer:
            assert await anext(answer.aiter_raw()) == b"tick"
            assert not ended.is_set()
        await ended.wait()


async def test_giving_up_a_request_disconnects_the_app() -> None:
    began, received = asyncio.Event(), asyncio.Queue[str]()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        began.set()
        received.put_nowait((await receive())["type"])

    async with StreamingTransport(app) as transport, client(transport) as http:
        asking = asyncio.create_task(http.get("/"))
        await began.wait()
        asking.cancel()
        assert await received.get() == "http.disconnect"
        with pytest.raises(asyncio.CancelledError):
            await asking


async def test_giving_up_an_upload_disconnects_the_app() -> None:
    received = asyncio.Queue[tuple[str, bytes]]()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        while (message := await receive())["type"] != "http.disconnect":
            received.put_nowait((message["type"], message["body"]))
        received.put_nowait((message["type"], b""))

    async def stalling() -> AsyncIterator[bytes]:
        yield b"some"
        await asyncio.Event().wait()

    async with StreamingTransport(app) as transport, client(transport) as http:
        asking = asyncio.create_task(http.post("/", content=stalling()))
        assert await received.get() == ("http.request", b"some")
        asking.cancel()
        assert await received.get() == ("http.disconnect", b"")
        with pytest.raises(asyncio.CancelledError):
            await asking


async def test_leaving_the_block_disconnects_everybody_and_waits_for_the_apps() -> None:
    ends: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        await send(part(b"open", more=True))
        while (await receive())["type"] != "http.disconnect":
            pass
        await asyncio.sleep(0)
        ends.append(scope["path"])
        await send(part(b"for nobody", more=True))

    async with StreamingTransport(app) as transport:
        # Left open, as by somebody who forgot it.
        asked = [
            await client(transport).send(httpx.Request("GET", f"http://test/{name}"), stream=True)
            for name in "ab"
        ]
        assert ends == []
    assert sorted(ends) == ["/a", "/b"]
    assert [answer.status_code for answer in asked] == [200, 200]


async def test_an_app_that_heeds_no_disconnect_is_cancelled(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(streaming_transport, "GRACE", 0.01)
    cancelled = asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        await send(part(b"", more=False))
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise

    async with StreamingTransport(app) as transport, client(transport) as http:
        assert (await http.get("/")).status_code == 200
    assert cancelled.is_set()


async def test_what_runs_behind_an_answer_is_waited_for() -> None:
    ran, answered = asyncio.Event(), asyncio.Event()
    app = FastAPI()

    async def later() -> None:
        await answered.wait()
        ran.set()

    @app.get("/")
    async def root() -> StreamingResponse:
        return StreamingResponse(iter([b"done"]), background=BackgroundTask(later))

    async with StreamingTransport(app) as transport, client(transport) as http:
        assert (await http.get("/")).text == "done"
        assert not ran.is_set()
        answered.set()
    assert ran.is_set()


class Broken(Exception):
    pass


async def test_what_the_app_raises_before_its_answer_is_raised_by_the_request() -> None:
    app = FastAPI()

    @app.get("/")
    async def root() -> None:
        raise Broken

    async with StreamingTransport(app) as transport, client(transport) as http:
        with pytest.raises(Broken):
            await http.get("/")


async def test_what_the_app_raises_in_its_answer_is_raised_where_it_is_read() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        await send(part(b"some", more=True))
        raise Broken

    async with (
        StreamingTransport(app) as transport,
        client(transport) as http,
        http.stream("GET", "/") as answer,
    ):
        chunks = answer.aiter_raw()
        assert await anext(chunks) == b"some"
        with pytest.raises(Broken):
            await anext(chunks)


async def test_what_the_app_raises_behind_its_answer_is_raised_by_the_block() -> None:
    answered = asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        await send(part(b"fine", more=False))
        await answered.wait()
        raise Broken

    async def ask(times: int) -> None:
        answered.clear()
        async with StreamingTransport(app) as transport:
            for _ in range(times):
                async with client(transport) as http:
                    assert (await http.get("/")).text == "fine"
            answered.set()

    with pytest.raises(Broken):
        await ask(1)
    with pytest.raises(ExceptionGroup) as raised:
        await ask(2)
    assert [type(error) for error in raised.value.exceptions] == [Broken, Broken]


@pytest.mark.parametrize("sent", [0, 1, 2])
async def test_an_app_that_returns_too_early_breaks_the_connection(sent: int) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        for message in [START, part(b"some", more=True)][:sent]:
            await send(message)

    async with StreamingTransport(app) as transport, client(transport) as http:
        with pytest.raises(httpx.RemoteProtocolError):
            await http.get("/")


async def test_a_silent_app_is_a_read_timeout() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        await send(part(b"some", more=True))
        while (await receive())["type"] != "http.disconnect":
            pass

    async with StreamingTransport(app) as transport, client(transport, timeout=0.01) as http:
        with pytest.raises(httpx.ReadTimeout):
            await http.get("/")


async def test_an_app_waits_for_a_reader_that_lags_behind() -> None:
    sent = 0
    full = asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        nonlocal sent
        await send(START)
        for _ in range(10):
            await send(part(bytes(MOST_UNREAD // 2), more=True))
            sent += 1
            if sent == 2:
                full.set()
        await send(part(b"", more=False))

    async with StreamingTransport(app) as transport, client(transport) as http:
        async with http.stream("GET", "/") as answer:
            await full.wait()
            with suppress(TimeoutError):
                async with asyncio.timeout(0.05):
                    await asyncio.Event().wait()
            assert sent == 2
            assert len(await answer.aread()) == 5 * MOST_UNREAD
        async with http.stream("GET", "/"):
            pass  # one that waits for room is let go when its reader leaves
    assert sent == 20


async def test_head_has_no_body_and_several_cookies_are_several() -> None:
    app = FastAPI()

    @app.head("/")
    @app.get("/")
    async def root() -> StreamingResponse:
        response = StreamingResponse(iter([b"body"]))
        response.set_cookie("a", "1")
        response.set_cookie("b", "2")
        return response

    async with StreamingTransport(app) as transport, client(transport) as http:
        head = await http.head("/")
        assert head.content == b""
        assert len(head.headers.get_list("set-cookie")) == 2


async def test_several_clients_share_one_and_it_is_refused_outside_its_block() -> None:
    app = FastAPI()

    @app.get("/")
    async def root() -> str:
        return "yes"

    transport = StreamingTransport(app)
    async with transport:
        for _ in range(2):
            async with client(transport) as http:
                assert (await http.get("/")).json() == "yes"
        assert (await client(transport).get("/")).json() == "yes"
    with pytest.raises(RuntimeError, match="async with"):
        await client(transport).get("/")
