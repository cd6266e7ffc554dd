"""A relay in front of a real OpenCode that tampers with the prompts on their way."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, closing, suppress
from urllib.parse import urlsplit

from opencode_async.client.server import Server
from tests.support.standing_in import standing_in_for

Forward = Callable[[], Awaitable[bytes]]
# Given a way to pass the request on, what the client gets: an answer, or nothing at all.
Fault = Callable[[Forward], Awaitable[bytes | None]]

NO_CONTENT = b"HTTP/1.1 204 No Content\r\n\r\n"
FAILED = b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n\r\n"
LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)


class Relay:
    """Passes requests on, one a connection; the first prompts meet the ``faults``, in order."""

    def __init__(self, server: Server, *faults: Fault) -> None:
        self.prompts = 0
        self._server = server
        self._faults = list(faults)

    def running(self) -> AbstractAsyncContextManager[Server]:
        return standing_in_for(self._server, self._serve)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with closing(writer), suppress(ConnectionError, asyncio.IncompleteReadError):
            request = await reader.readuntil(b"\r\n\r\n")
            if length := LENGTH.search(request):
                request += await reader.readexactly(int(length[1]))
            if b"/prompt_async" in request.split(b"\r\n", 1)[0]:
                self.prompts += 1
                fault = self._faults.pop(0) if self._faults else passed_on
                answer = await fault(lambda: self._whole_answer(request))
                if answer is not None:
                    writer.write(closed_behind(answer))
            else:
                await self._pass_back(request, reader, writer)

    async def _whole_answer(self, request: bytes) -> bytes:
        reader, writer = await self._upstream(request)
        with closing(writer):
            return await reader.read()

    async def _pass_back(
        self, request: bytes, gone: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """Pass the answer back as it comes, until either side is gone."""
        reader, upstream = await self._upstream(request)
        sides = [asyncio.create_task(pass_answer(reader, writer)), asyncio.create_task(gone.read())]
        with closing(upstream):
            try:
                await asyncio.wait(sides, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for side in sides:
                    side.cancel()

    async def _upstream(self, request: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        url = urlsplit(self._server.url)
        reader, writer = await asyncio.open_connection(url.hostname, url.port)
        once = re.sub(rb"\r\nconnection: [^\r]*", b"", request, count=1, flags=re.IGNORECASE)
        writer.write(closed_behind(once))
        return reader, writer


def closed_behind(message: bytes) -> bytes:
    """The message, saying that its connection ends with it."""
    first, rest = message.split(b"\r\n", 1)
    return b"\r\n".join([first, b"Connection: close", rest])


async def pass_answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(ConnectionError, asyncio.IncompleteReadError):
        writer.write(closed_behind(await reader.readuntil(b"\r\n")))
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()


async def passed_on(forward: Forward) -> bytes | None:
    return await forward()


async def answered_late(forward: Forward) -> bytes | None:
    """Taken at once, answered when nobody waits for it any more."""
    answer = await forward()
    await asyncio.sleep(4)
    return answer


async def arriving_late(forward: Forward) -> bytes | None:
    """Passed on when the client has given it up."""
    await asyncio.sleep(4)
    return await forward()


async def answer_dropped(forward: Forward) -> bytes | None:
    """Taken, but the line breaks before the answer."""
    await forward()
    return None


async def dropped(forward: Forward) -> bytes | None:
    """Lost on its way."""
    return None


async def failed_before(forward: Forward) -> bytes | None:
    """Refused with a 500 and not taken."""
    return FAILED


async def failed_after(forward: Forward) -> bytes | None:
    """Taken, and a 500 all the same."""
    await forward()
    return FAILED


async def forgotten(forward: Forward) -> bytes | None:
    """A 204, as for a prompt that was taken."""
    return NO_CONTENT
