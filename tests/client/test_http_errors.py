"""Every way in which a request can fail, as an error of ours."""

from __future__ import annotations

import asyncio
import base64
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace

import httpx
import pytest

from opencode_async.client import http
from opencode_async.client.client import OpencodeClient
from opencode_async.client.local_server import free_port
from opencode_async.client.server import Server
from opencode_async.errors import (
    AuthenticationError,
    BadRequestError,
    IdleStreamError,
    NotFoundError,
    OpencodeConnectionError,
    OpencodeError,
    OpencodeTimeoutError,
    ProtocolError,
    ServerError,
    SessionNotFoundError,
)
from opencode_async.protocol.asks import Permission, Question
from opencode_async.protocol.wire import mapping
from opencode_async.testing import ScriptedServer

Call = Callable[[OpencodeClient], Awaitable[object]]
UNKNOWN = "ses_0000000000000000000000000000"
PASSWORD = "open-sesame-7f3a"


@asynccontextmanager
async def raw_server(answer: bytes | None, *, stays: bool = False) -> AsyncIterator[Server]:
    """A server that gives one answer to everything, or none at all, and hangs up."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readuntil(b"\r\n\r\n")
            if answer is not None:
                writer.write(answer)
                await writer.drain()
            if answer is None or stays:
                await reader.read()  # until the client goes
        finally:
            writer.close()

    async with await asyncio.start_server(handle, "127.0.0.1", 0) as listening:
        port = listening.sockets[0].getsockname()[1]
        yield Server(f"http://127.0.0.1:{port}", password=PASSWORD)


def answer(
    body: bytes, *, status: str = "200 OK", kind: str = "application/json", length: int = 0
) -> bytes:
    head = f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\n"
    return f"{head}Content-Length: {length or len(body)}\r\n\r\n".encode() + body


async def failure(server: Server, call: Call) -> OpencodeError:
    """What the call raises; neither it nor anything printed of it gives the password away."""
    async with OpencodeClient(server) as client:
        with pytest.raises(OpencodeError) as caught:
            await call(client)
    error = caught.value
    printed = "".join(traceback.format_exception(error))
    credentials = f"{server.username}:{server.password}".encode()
    for secret in (server.password or PASSWORD, base64.b64encode(credentials).decode()):
        assert secret not in f"{error!s} {error!r} {vars(error)} {printed}"
    return error


async def first_frame(client: OpencodeClient) -> str:
    async with client.http.events("/event") as frames:
        return await anext(frames)


SESSION_CALLS: dict[str, Call] = {
    "prompt": lambda client: client.prompt(UNKNOWN, {"parts": []}),
    "messages": lambda client: client.messages(UNKNOWN),
    "children": lambda client: client.children(UNKNOWN),
    "exchange": lambda client: client.exchange(UNKNOWN, "msg_1"),
}


@pytest.mark.parametrize("name", SESSION_CALLS)
async def test_an_unknown_session_is_named(opencode: ScriptedServer, name: str) -> None:
    error = await failure(opencode, SESSION_CALLS[name])
    assert isinstance(error, SessionNotFoundError)
    assert (error.status, error.name, error.code) == (404, "NotFoundError", "session_not_found")
    assert error.message == f"Session not found: {UNKNOWN}"
    assert error.path.startswith(f"/session/{UNKNOWN}/")


async def test_an_unknown_message_is_none(opencode: ScriptedServer) -> None:
    async with OpencodeClient(opencode) as client:
        session_id = await client.create_session(title="test")
        assert await client.message(session_id, "msg_unknown") is None
        assert await client.message(UNKNOWN, "msg_unknown") is None
        assert await client.message(session_id, "msg_" + "x" * 300) is None


async def test_permissions_of_another_shape_are_a_bad_request(opencode: ScriptedServer) -> None:
    body = {"permission": {"bash": "allow"}}
    error = await failure(
        opencode, lambda client: client.http.request("POST", "/session", body=body)
    )
    assert isinstance(error, BadRequestError)
    assert (error.status, error.name, error.message) == (400, "BadRequest", "")


async def test_a_bad_request_says_what_is_missing(opencode: ScriptedServer) -> None:
    async with OpencodeClient(opencode) as client:
        session_id = await client.create_session(title="test")
    error = await failure(opencode, lambda client: client.prompt(session_id, {}))
    assert isinstance(error, BadRequestError)
    assert "Missing key" in error.message
    assert (error.method, error.path) == ("POST", f"/session/{session_id}/prompt_async")


@pytest.mark.parametrize("password", [PASSWORD, None])
async def test_another_password_is_an_authentication_error(
    opencode: ScriptedServer, password: str | None
) -> None:
    stranger = replace(opencode, password=password)
    for call in (OpencodeClient.version, OpencodeClient.asked, first_frame):
        error = await failure(stranger, call)
        assert isinstance(error, AuthenticationError)
        assert (error.status, error.code) == (401, "unauthorized")
        assert error.message == "wrong or missing password"


async def test_subscribing_raises_what_connecting_does(opencode: ScriptedServer) -> None:
    async def subscribe(client: OpencodeClient) -> None:
        async with client.hub.subscribe(UNKNOWN):
            pytest.fail("there is no stream")

    stranger = replace(opencode, password=PASSWORD)
    assert isinstance(await failure(stranger, subscribe), AuthenticationError)
    absent = Server(f"http://127.0.0.1:{free_port()}")
    assert type(await failure(absent, subscribe)) is OpencodeConnectionError


async def test_an_id_that_is_no_sessions_is_a_server_error(opencode: ScriptedServer) -> None:
    error = await failure(opencode, lambda client: client.prompt("bogus", {"parts": []}))
    assert type(error) is ServerError
    assert (error.status, error.name, error.code) == (500, "UnknownError", "server_error")


async def test_an_ask_that_is_gone_cannot_be_answered_and_is_dismissed_all_the_same(
    opencode: ScriptedServer,
) -> None:
    async with OpencodeClient(opencode) as client:
        for kind, id_, reply in (
            ("permission", "per_unknown", {"reply": "once"}),
            ("question", "que_unknown", {"answers": [["Red"]]}),
            ("question", "que_unknown", {"reject": True}),
        ):
            with pytest.raises(NotFoundError):
                await client.reply(id_, kind, reply)
        await client.dismiss(Permission("ses_1", "per_unknown", "bash"))
        await client.dismiss(Question("ses_1", "que_unknown"))


async def test_errors_with_a_tag_keep_it_as_their_name(opencode: ScriptedServer) -> None:
    path = "/permission/per_unknown/reply"
    body = {"reply": "reject"}
    error = await failure(opencode, lambda client: client.http.request("POST", path, body=body))
    assert type(error) is NotFoundError
    assert error.name == "PermissionNotFoundError"
    assert "per_unknown" in error.message


async def test_a_page_instead_of_json_is_a_protocol_error(opencode: ScriptedServer) -> None:
    error = await failure(opencode, lambda client: client.http.read(mapping, "GET", "/no-api"))
    assert isinstance(error, ProtocolError)
    assert (error.status, error.code, error.path) == (200, "protocol", "/no-api")


async def test_a_page_instead_of_the_stream_is_a_protocol_error(opencode: ScriptedServer) -> None:
    async def read(client: OpencodeClient) -> None:
        async with client.http.events("/no-api") as frames:
            await anext(frames)

    error = await failure(opencode, read)
    assert isinstance(error, ProtocolError)
    assert "text/html" in error.message


@pytest.mark.parametrize(
    "body", [b'{"version": "1.', b"[]", b"null", b'{"version": 1}', b"\xff", b""]
)
async def test_json_that_is_not_what_was_asked_for_is_a_protocol_error(body: bytes) -> None:
    async with raw_server(answer(body)) as server:
        error = await failure(server, OpencodeClient.version)
    assert isinstance(error, ProtocolError)


@pytest.mark.parametrize(
    "body", [b"", b"no json", b"[]", b"null", b'{"name": 7, "data": []}', b'{"data": {}}']
)
async def test_an_error_with_any_body_has_its_status(body: bytes) -> None:
    async with raw_server(answer(body, status="418 I'm a teapot")) as server:
        error = await failure(server, OpencodeClient.version)
    assert type(error) is ServerError
    assert (error.status, error.name, error.message) == (418, "UnknownError", "")


async def test_a_redirection_is_not_followed(opencode: ScriptedServer) -> None:
    location = f"302 Found\r\nLocation: {opencode.url}/global/health"
    async with raw_server(answer(b"", status=location)) as server:
        error = await failure(server, OpencodeClient.version)
    assert type(error) is ServerError
    assert error.status == 302


async def test_a_server_that_is_absent_is_unreachable() -> None:
    absent = Server(f"http://127.0.0.1:{free_port()}", password=PASSWORD)
    for call in (OpencodeClient.version, first_frame):
        error = await failure(absent, call)
        assert type(error) is OpencodeConnectionError
        assert error.code == "unreachable"


@pytest.mark.parametrize(
    "sent", [b"", b"HTTP/1.1 200 OK\r\nConte", b"SSH-2.0-x\r\n", answer(b"{", length=9)]
)
async def test_a_server_that_hangs_up_in_mid_sentence_is_unreachable(sent: bytes) -> None:
    async with raw_server(sent) as server:
        error = await failure(server, OpencodeClient.version)
    assert type(error) is OpencodeConnectionError


async def test_a_server_that_never_answers_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "REST_TIMEOUT", httpx.Timeout(0.05))
    async with raw_server(None) as server:
        error = await failure(server, OpencodeClient.version)
    assert isinstance(error, OpencodeTimeoutError)
    assert error.code == "timeout"
    assert "GET /global/health" in str(error)


@pytest.mark.parametrize("sent", [None, answer(b": \n\n", kind="text/event-stream", length=99)])
async def test_a_stream_without_heartbeats_is_given_up(
    monkeypatch: pytest.MonkeyPatch, sent: bytes | None
) -> None:
    monkeypatch.setattr(http, "HEARTBEAT_TIMEOUT", 0.05)
    async with raw_server(sent, stays=True) as server:
        error = await failure(server, first_frame)
    assert isinstance(error, IdleStreamError)
    assert "silent" in str(error)


async def test_a_stream_that_breaks_off_is_unreachable() -> None:
    frames = b"id: 0\n\n: a comment\n\ndata: 1\n\ndata: brok"
    sent = answer(frames, kind="text/event-stream", length=99)

    async def read(client: OpencodeClient) -> None:
        async with client.http.events("/event") as frames:
            assert await anext(frames) == "1"
            await anext(frames)

    async with raw_server(sent) as server:
        assert type(await failure(server, read)) is OpencodeConnectionError


async def test_waiting_for_a_connection_in_vain_is_a_timeout() -> None:
    def unanswered(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectTimeout("", request=request)

    async def read(client: OpencodeClient) -> None:
        streams = httpx.AsyncClient(
            transport=httpx.MockTransport(unanswered), base_url=client.server.url
        )
        client.http._streams = streams
        async with streams:
            await first_frame(client)

    error = await failure(Server("http://127.0.0.1:9"), read)
    assert type(error) is OpencodeTimeoutError


async def test_a_password_is_not_in_what_a_server_prints_as(opencode: ScriptedServer) -> None:
    assert opencode.password
    for server in (opencode, Server("http://127.0.0.1:9", password=PASSWORD)):
        assert str(server.password) not in f"{server} {server!r}"
