"""An app in this process as if it were behind a server: its answers arrive while it makes them.

``httpx.ASGITransport`` waits until the app has finished, so a stream that stays open never begins.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from types import TracebackType
from typing import Any, Self, cast

import httpx

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]

MOST_UNREAD = 64 << 10  # bytes of an answer that nobody has read before `send` waits, as uvicorn's
GRACE = 5.0  # s that apps have to end by themselves, once everybody has hung up
CLIENT = ("127.0.0.1", 50000)


class StreamingTransport(httpx.AsyncBaseTransport):
    """Hands requests to an ASGI app, and its answers back as the app sends them.

    ::

        async with StreamingTransport(app) as transport:
            async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
                ...

    An httpx client enters and leaves the transport that it was given, so the outer block is for
    several clients that share one: each leaving hangs up nothing before the last. Leaving the last
    hangs up: apps receive ``http.disconnect``, and what still runs 5 s later is cancelled.

    What an app raises is raised by the request, by the reading of its answer or, if it comes behind
    both, when the block is left. An app that returns in the middle of its answer breaks the
    connection, as behind uvicorn: ``httpx.RemoteProtocolError``. Closing an answer early is
    ``http.disconnect``. Of httpx's time limits the one for reading is kept. The app's lifespan is
    not run.
    """

    def __init__(self, app: App) -> None:
        self._app = app
        self._entered = 0
        self._exchanges: dict[asyncio.Task[None], Exchange] = {}
        self._failed: list[Exchange] = []

    async def __aenter__(self) -> Self:
        self._entered += 1
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None = None,
        exc_value: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None:
        self._entered -= 1
        if self._entered:
            return
        await self._hang_up()
        errors = [each.untold for each in self._failed if each.untold is not None]
        self._failed.clear()
        if errors and exc_value is None:
            raise errors[0] if len(errors) == 1 else ExceptionGroup("behind the answers", errors)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Begin to run the app and wait for the head of its answer."""
        if not self._entered:
            raise RuntimeError("a StreamingTransport is used inside `async with`")
        exchange = Exchange(request)
        task = asyncio.create_task(self._run(exchange), name=f"asgi {request.method}")
        self._exchanges[task] = exchange
        task.add_done_callback(self._ended)
        try:
            status, headers = await exchange.head()
        except BaseException:
            await exchange.aclose()
            raise
        return httpx.Response(status, headers=headers, stream=exchange)

    async def _run(self, exchange: Exchange) -> None:
        try:
            await self._app(exchange.scope(), exchange.receive, exchange.send)
        except Exception as error:
            exchange.end(error)
        finally:
            exchange.end(None)

    def _ended(self, task: asyncio.Task[None]) -> None:
        exchange = self._exchanges.pop(task)
        if exchange.untold is not None:
            self._failed.append(exchange)  # it may yet be told

    async def _hang_up(self) -> None:
        tasks = set(self._exchanges)
        for exchange in self._exchanges.values():
            exchange.hang_up()
        if not tasks:
            return
        try:
            await asyncio.wait(tasks, timeout=GRACE)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)


class Exchange(httpx.AsyncByteStream):
    """One request and its answer, whose body it is, between the app's task and whoever asked."""

    def __init__(self, request: httpx.Request) -> None:
        self._request = request
        self._upload = aiter(cast(httpx.AsyncByteStream, request.stream))
        self._uploading: asyncio.Future[bytes | None] | None = None
        self._uploaded = False
        self._read_limit: float | None = request.extensions.get("timeout", {}).get("read")
        self._head: tuple[int, list[tuple[bytes, bytes]]] | None = None
        self._chunks: deque[bytes] = deque()
        self._unread = 0  # bytes
        self._complete = self._returned = False
        self._error: Exception | None = None
        self._told = False
        self._arrived, self._room, self._gone = asyncio.Event(), asyncio.Event(), asyncio.Event()

    def scope(self) -> dict[str, Any]:
        """The ASGI scope of the request."""
        url = self._request.url
        return {
            "type": "http",
            # As uvicorn's: who sends behind a disconnect is not told.
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": self._request.method,
            "headers": [(name.lower(), value) for name, value in self._request.headers.raw],
            "scheme": url.scheme,
            "path": url.path,
            "raw_path": url.raw_path.partition(b"?")[0],
            "query_string": url.query,
            "server": (url.host, url.port),
            "client": CLIENT,
            "root_path": "",
            "state": {},
        }

    async def receive(self) -> Message:
        """ASGI's ``receive``: the chunks of the request, then the end of the connection."""
        if not self._uploaded and not self._gone.is_set():
            chunk = await self._next_upload()
            if not self._gone.is_set():
                self._uploaded = chunk is None
                return {
                    "type": "http.request",
                    "body": chunk or b"",
                    "more_body": chunk is not None,
                }
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def _next_upload(self) -> bytes | None:
        """The next chunk, ``None`` behind the last or when whoever asked is gone."""
        self._uploading = asyncio.ensure_future(anext(self._upload, None))
        try:
            await asyncio.wait([self._uploading])
        finally:
            self._uploading.cancel()
        return None if self._uploading.cancelled() else self._uploading.result()

    async def send(self, message: Message) -> None:
        """ASGI's ``send``; waits while too much is unread, drops what nobody reads any more."""
        while self._unread >= MOST_UNREAD and not self._gone.is_set():
            self._room.clear()
            await self._room.wait()
        if self._gone.is_set() and not self._complete:
            return
        kind = message["type"]
        if self._head is None and kind == "http.response.start":
            self._head = (message["status"], list(message.get("headers", ())))
        elif self._head is not None and not self._complete and kind == "http.response.body":
            if (body := message.get("body", b"")) and self._request.method != "HEAD":
                self._chunks.append(body)
                self._unread += len(body)
            if not message.get("more_body", False):
                self._complete = True
                self._gone.set()
        else:
            raise RuntimeError(f"an app must not send {kind!r} here")
        self._arrived.set()

    def end(self, error: Exception | None) -> None:
        """The app has returned, or raised."""
        self._returned = True
        self._error = self._error or error
        self._arrived.set()

    def hang_up(self) -> None:
        """Whoever asked is gone."""
        self._chunks.clear()
        self._unread = 0
        self._gone.set()
        self._room.set()
        if self._uploading is not None:
            self._uploading.cancel()

    async def aclose(self) -> None:
        """Hang up, if the answer is not complete."""
        self.hang_up()

    @property
    def untold(self) -> Exception | None:
        """What the app raised, if nobody was there any more to be told."""
        return None if self._told else self._error

    async def head(self) -> tuple[int, list[tuple[bytes, bytes]]]:
        """Status and headers; raises what the app does before it sends them."""
        while self._head is None:
            await self._more()
        return self._head

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """The body; raises what the app does before or as soon as it is complete."""
        while True:
            while self._chunks:
                chunk = self._chunks.popleft()
                self._unread -= len(chunk)
                if self._unread < MOST_UNREAD:
                    self._room.set()
                yield chunk
            if self._complete:
                self._raise_error()
                return
            await self._more()

    async def _more(self) -> None:
        """Wait until the app sends something or ends; raises where nothing can follow."""
        if not self._arrived.is_set() and not self._returned:
            try:
                async with asyncio.timeout(self._read_limit):
                    await self._arrived.wait()
            except TimeoutError as error:
                raise httpx.ReadTimeout("", request=self._request) from error
        elif self._returned:
            self._raise_error()
            raise httpx.RemoteProtocolError(
                "the app returned without completing its answer", request=self._request
            )
        self._arrived.clear()

    def _raise_error(self) -> None:
        if self._error is not None and not self._told:
            self._told = True
            raise self._error
