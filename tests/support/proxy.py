"""A proxy in front of a real OpenCode that counts, cuts and edits its event streams."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from urllib.parse import urlsplit

from opencode_async.client.server import Server

Edit = Callable[[bytes], Iterable[bytes]]


def unchanged(frame: bytes) -> Iterable[bytes]:
    yield frame


class Proxy:
    """Passes bytes on; of the event streams each frame as ``edit`` has it, which may be several."""

    def __init__(self, server: Server, edit: Edit = unchanged) -> None:
        self.streams = 0
        self.away = False
        self.refused = asyncio.Event()
        self._server = server
        self._edit = edit
        self._open: list[asyncio.StreamWriter] = []
        self._connections: set[asyncio.StreamWriter] = set()

    def cut(self) -> None:
        """Break every event stream off, as a lost line does."""
        for writer in self._open:
            writer.transport.abort()
        self._open.clear()

    def go_away(self) -> None:
        """Break everything off and refuse what comes, as a server that is being restarted."""
        self.away = True
        for writer in self._connections:
            writer.transport.abort()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Server]:
        async with asyncio.TaskGroup() as serving:

            def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                serving.create_task(self._serve(reader, writer))

            listening = await asyncio.start_server(accept, "127.0.0.1", 0)
            port = listening.sockets[0].getsockname()[1]
            try:
                yield Server(
                    f"http://127.0.0.1:{port}",
                    password=self._server.password,
                    directory=self._server.directory,
                )
            finally:
                listening.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection; the end of either side is the end of both."""
        if self.away:
            self.refused.set()
            writer.transport.abort()
            return
        self._connections.add(writer)
        url = urlsplit(self._server.url)
        first = await reader.read(65536)
        back = pass_on
        if first.startswith(b"GET /event?"):
            self.streams += 1
            self._open.append(writer)
            back = self._pass_frames
        upstream_reader, upstream_writer = await asyncio.open_connection(url.hostname, url.port)
        upstream_writer.write(first)
        ways = [
            asyncio.create_task(pass_on(reader, upstream_writer)),
            asyncio.create_task(back(upstream_reader, writer)),
        ]
        await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        for way in ways:
            way.cancel()
        await asyncio.wait(ways)
        self._connections.discard(writer)
        for side in (writer, upstream_writer):
            side.close()
            with suppress(ConnectionError):
                await side.wait_closed()

    async def _pass_frames(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            writer.write(await reader.readuntil(b"\r\n\r\n"))
            rest = b""
            while size := int(await reader.readline() or b"0", 16):
                rest += await reader.readexactly(size)
                await reader.readexactly(2)
                *frames, rest = rest.split(b"\n\n")
                for edited in (edited for frame in frames for edited in self._edit(frame)):
                    writer.write(b"%x\r\n%s\n\n\r\n" % (len(edited) + 2, edited))
                await writer.drain()


async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(ConnectionError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
