"""The HTTP boundary: httpx errors and unsuccessful answers become errors of ours, only here."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from typing import Any, TypeVar

import httpx

from opencode_async.client.frames import Frames
from opencode_async.client.server import Server
from opencode_async.errors import (
    AuthenticationError,
    BadRequestError,
    IdleStreamError,
    NotFoundError,
    OpencodeConnectionError,
    OpencodeTimeoutError,
    ProtocolError,
    ServerError,
    SessionNotFoundError,
)
from opencode_async.protocol.wire import Malformed, loads, optional_text

Read = TypeVar("Read")

# A busy server answers in 10-700 ms (OpenCode 1.18.33, measured); its first use of a directory
# takes seconds. One that is starting may never answer what it is asked too early.
REST_TIMEOUT = httpx.Timeout(30.0, connect=5.0, read=15.0)
# The server sends a heartbeat every 10 s: two missing ones mean that the connection is dead.
HEARTBEAT_TIMEOUT = 25.0
EVENT_STREAM = {"Accept": "text/event-stream", "Cache-Control": "no-store"}
# One stream per directory, and as many requests at once as turns may start or end together.
REST_LIMITS = httpx.Limits(max_connections=100, max_keepalive_connections=20)


class HttpConnection:
    """Requests and the event stream of one OpenCode server, each with limits of its own.

    Two httpx clients, so that streams which stay open never take a request's place in the pool.
    """

    def __init__(self, server: Server) -> None:
        auth = httpx.BasicAuth(server.username, server.password) if server.password else None
        # One for both, and none where nothing is encrypted: to make one takes 25 ms and 0.75 MB.
        encrypted = server.url.startswith("https:")
        verify = httpx.create_ssl_context(trust_env=False) if encrypted else False
        # Not the environment: a proxy or a .netrc entry there was not meant for this server.
        self._rest = httpx.AsyncClient(
            base_url=server.url,
            auth=auth,
            verify=verify,
            transport=server.transport and Lent(server.transport),
            trust_env=False,
            timeout=REST_TIMEOUT,
            limits=REST_LIMITS,
        )
        self._streams = httpx.AsyncClient(
            base_url=server.url,
            auth=auth,
            verify=verify,
            transport=server.transport and Lent(server.transport),
            trust_env=False,
            timeout=httpx.Timeout(5.0, read=HEARTBEAT_TIMEOUT),
            limits=httpx.Limits(max_connections=None),
        )
        self._scope: dict[str, str] = {}
        if server.directory is not None:
            # OpenCode decodes it twice: a folder called `%2e%2e` would be the one above (1.18.33,
            # measured).
            self._scope = {"directory": str(server.directory).replace("%", "%25")}

    async def aclose(self) -> None:
        """Close both connection pools."""
        await self._rest.aclose()
        await self._streams.aclose()

    async def request(
        self,
        method: str,
        path: str,
        *,
        body: object = None,
        query: Mapping[str, Any] | None = None,
        within: float | None = None,
    ) -> httpx.Response:
        """Send one request; the answer is a success. Nothing is ever sent twice.

        ``within`` bounds the whole of it, in seconds; unless given, each step has its own time.

        Raises ``OpencodeConnectionError`` (or a kind of it) and ``ServerError`` (or a kind of it).
        """
        with self._translated(method, path):
            async with asyncio.timeout(within):
                response = await self._rest.request(
                    method, path, json=body, params=self._query(query or {})
                )
        if not response.is_success:
            raise error_from(response)
        return response

    async def read_up_to(
        self, most: int, parse: Callable[[Any], Read], path: str, *, query: Mapping[str, Any]
    ) -> Read | None:
        """What ``read`` does with ``GET``; ``None`` for more bytes, which are not read."""
        received = bytearray()
        # To compress what is sent within a machine takes ten times longer than to send it.
        plain = {"Accept-Encoding": "identity"}
        with self._translated("GET", path):
            async with self._rest.stream(
                "GET", path, params=self._query(query), headers=plain
            ) as response:
                if not response.is_success:
                    await response.aread()
                    raise error_from(response)
                async for chunk in response.aiter_bytes():
                    received += chunk
                    if len(received) > most:
                        return None
        return await asyncio.to_thread(parsed, response, parse, bytes(received))

    @contextmanager
    def _translated(self, method: str, path: str) -> Iterator[None]:
        try:
            yield
        except (httpx.TimeoutException, TimeoutError) as error:
            raise OpencodeTimeoutError(f"{method} {path}: no answer in time") from error
        except httpx.HTTPError as error:
            where = f"{method} {self._rest.base_url.join(path)}"
            raise OpencodeConnectionError(f"{where}: {_reason(error)}") from error

    async def read(
        self,
        parse: Callable[[Any], Read],
        method: str,
        path: str,
        *,
        body: object = None,
        within: float | None = None,
    ) -> Read:
        """A success's JSON, parsed; raises what ``request`` does and ``ProtocolError``."""
        return parsed(await self.request(method, path, body=body, within=within), parse)

    @asynccontextmanager
    async def events(self, path: str) -> AsyncIterator[AsyncIterator[str]]:
        """The data of each frame of an event stream; iterating raises what ``request`` does."""
        try:
            async with self._streams.stream(
                "GET", path, params=self._query({}), headers=EVENT_STREAM
            ) as response:
                if not response.is_success:
                    await response.aread()
                    raise error_from(response)
                kind = response.headers.get("Content-Type", "")
                if not kind.startswith(EVENT_STREAM["Accept"]):
                    raise _malformed(response, ValueError(f"not an event stream: {kind!r}"))
                yield _frames(response)
        except httpx.ReadTimeout as error:
            raise IdleStreamError(f"GET {path}: silent for {HEARTBEAT_TIMEOUT:.0f} s") from error
        except httpx.TimeoutException as error:
            raise OpencodeTimeoutError(f"GET {path}: no connection in time") from error
        except httpx.HTTPError as error:
            raise OpencodeConnectionError(f"GET {path}: {_reason(error)}") from error

    def _query(self, query: Mapping[str, Any]) -> dict[str, Any]:
        return {**self._scope, **{key: value for key, value in query.items() if value is not None}}


class Lent(httpx.AsyncBaseTransport):
    """A transport that its user may close as often as it likes."""

    def __init__(self, transport: httpx.AsyncBaseTransport) -> None:
        self._transport = transport

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        return await self._transport.handle_async_request(request)


async def _frames(response: httpx.Response) -> AsyncIterator[str]:
    frames = Frames()
    async for text in response.aiter_text():
        for data in frames.feed(text):
            yield data


def parsed(
    response: httpx.Response, parse: Callable[[Any], Read], content: bytes | None = None
) -> Read:
    """The answer's JSON, parsed; raises ``ProtocolError`` where it is something else."""
    try:
        return parse(loads(response.content if content is None else content))
    except Malformed as error:
        raise _malformed(response, error) from error


def error_from(response: httpx.Response) -> ServerError:
    """The error in an answer, whose body has one of three shapes or, with 401, is empty.

    ``{"name", "data": {"message"}}``, ``{"_tag", "message"}``, ``{"_tag"}`` (OpenCode 1.18.33,
    measured).
    """
    try:
        body = loads(response.content)
    except Malformed:
        body = None
    body = body if isinstance(body, Mapping) else {}
    data = body.get("data")
    name = optional_text(body, "name") or optional_text(body, "_tag") or "UnknownError"
    message = optional_text(data if isinstance(data, Mapping) else body, "message") or ""
    match response.status_code:
        case 401:
            kind: type[ServerError] = AuthenticationError
            name, message = "Unauthorized", message or "wrong or missing password"
        case 400:
            kind = BadRequestError
        case 404 if message.startswith("Session not found"):
            kind = SessionNotFoundError
        case 404:
            kind = NotFoundError
        case _:
            kind = ServerError
    return _server_error(kind, response, name, message)


def _malformed(response: httpx.Response, error: Exception) -> ServerError:
    return _server_error(ProtocolError, response, "Malformed", str(error))


def _server_error(
    kind: type[ServerError], response: httpx.Response, name: str, message: str
) -> ServerError:
    request = response.request
    path = request.url.path
    return kind(response.status_code, name, message, method=request.method, path=path)


def _reason(error: Exception) -> str:
    return str(error) or type(error).__name__
