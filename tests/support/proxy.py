"""A proxy in front of a real OpenCode that counts, cuts, holds back and edits its event streams."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable
from contextlib import AbstractAsyncContextManager, suppress
from enum import Enum, auto
from urllib.parse import urlsplit

from opencode_async.client.server import Server
from tests.support.standing_in import standing_in_for

HEARTBEAT = b'"type":"server.heartbeat"'


class Fate(Enum):
    """What becomes of an event stream at one of its frames; the next connection is whole again."""

    PASSED = auto()
    LAST = auto()
    """It arrives as all before it did, and then the connection is closed: an end, not a reset."""
    HELD = auto()
    """It waits ``hold`` seconds, and all behind it waits, too."""
    SILENCED = auto()
    """From here on nothing is passed but heartbeats."""


Edit = Callable[[bytes], Iterable[bytes]]
Way = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Coroutine[object, object, None]]


def unchanged(frame: bytes) -> Iterable[bytes]:
    yield frame


def passed(frame: bytes) -> Fate:
    return Fate.PASSED


class Proxy:
    """Passes bytes on; of the event streams each frame as ``edit`` has it, which may be several.

    ``fate`` is asked about each frame of the server's and says what becomes of the stream there.
    What the other side asks goes through ``asked`` likewise, in the pieces it is sent in.
    """

    def __init__(self, server: Server, edit: Edit = unchanged, asked: Edit = unchanged) -> None:
        self.fate: Callable[[bytes], Fate] = passed
        self.hold = 0.3
        self.streams = 0
        self.away = False
        self.refused = asyncio.Event()
        self._server = server
        self._edit = edit
        self._asked = asked
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

    def running(self) -> AbstractAsyncContextManager[Server]:
        return standing_in_for(self._server, self._serve)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection; the end of either side is the end of both."""
        if self.away:
            self.refused.set()
            writer.transport.abort()
            return
        self._connections.add(writer)
        sides = [writer]
        ways: list[asyncio.Task[None]] = []
        try:
            url = urlsplit(self._server.url)
            first = await reader.read(65536)
            back: Way = pass_on
            if first.startswith(b"GET /event?"):
                self.streams += 1
                self._open.append(writer)
                back = self._pass_frames
            upstream_reader, upstream_writer = await asyncio.open_connection(url.hostname, url.port)
            sides.append(upstream_writer)
            for edited in self._asked(first):
                upstream_writer.write(edited)
            ways = [
                asyncio.create_task(pass_on(reader, upstream_writer, self._asked)),
                asyncio.create_task(back(upstream_reader, writer)),
            ]
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._connections.discard(writer)
            if writer in self._open:
                self._open.remove(writer)
            for way in ways:
                way.cancel()
            for side in sides:
                side.close()
            with suppress(ConnectionError):
                await asyncio.gather(*(side.wait_closed() for side in sides))

    async def _pass_frames(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            writer.write(await reader.readuntil(b"\r\n\r\n"))
            rest, silenced = b"", False
            while size := int(await reader.readline() or b"0", 16):
                rest += await reader.readexactly(size)
                await reader.readexactly(2)
                *frames, rest = rest.split(b"\n\n")
                for frame in frames:
                    fate = self.fate(frame)
                    if fate is Fate.HELD:
                        await asyncio.sleep(self.hold)
                    silenced = silenced or fate is Fate.SILENCED
                    if not silenced or HEARTBEAT in frame:
                        for edited in self._edit(frame):
                            writer.write(b"%x\r\n%s\n\n\r\n" % (len(edited) + 2, edited))
                    if fate is Fate.LAST:
                        return
                await writer.drain()


async def pass_on(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, edit: Edit = unchanged
) -> None:
    with suppress(ConnectionError):
        while data := await reader.read(65536):
            for edited in edit(data):
                writer.write(edited)
            await writer.drain()
