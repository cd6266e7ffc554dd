"""The event streams of one life of a server: one directory each, no replay."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from opencode_async.testing.impostor.clock import Clock
from opencode_async.testing.impostor.faults import Faults, frame
from opencode_async.testing.impostor.store import Ids

Json = dict[str, Any]
HEARTBEAT = 10.0  # s (OpenCode 1.18.33, measured)


class Stream:
    """One open ``GET /event``."""

    def __init__(self, directory: str) -> None:
        self.directory = directory
        self.stalled = False
        self.broken = False
        self._frames: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._late: list[bytes] = []

    def send(self, event: Json) -> None:
        """Send an event, and behind it those that were to come later."""
        if not self.stalled:
            for each in (frame(event), *self._late):
                self._frames.put_nowait(each)
            self._late.clear()

    def send_later(self, event: Json) -> None:
        """Send it behind the next."""
        self._late.append(frame(event))

    def end(self) -> None:
        """Let it end, behind what was sent."""
        self._frames.put_nowait(None)

    def cut(self) -> None:
        """Break the connection."""
        self.broken = True
        self._frames.put_nowait(None)

    async def frames(self) -> AsyncIterator[bytes]:
        """What is sent, until the connection breaks."""
        while (data := await self._frames.get()) is not None:
            yield data


class Bus:
    """Hands each event to all streams of its directory, and keeps it for tests to look at."""

    def __init__(self, ids: Ids, clock: Clock, faults: Faults) -> None:
        self._ids = ids
        self._clock = clock
        self._faults = faults
        self._streams: set[Stream] = set()
        self._silent = False

    def emit(self, directory: str, kind: str, properties: Json) -> None:
        """Send an event."""
        if self._silent:
            return
        event = {"id": self._ids.new("evt"), "type": kind, "properties": properties}
        for stream in tuple(self._streams):
            if stream.directory == directory:
                self._deliver(stream, event)

    async def listen(self, directory: str) -> Stream:
        """Open a stream; the caller closes it."""
        stream = Stream(directory)
        stream.send({"id": self._ids.new("evt"), "type": "server.connected", "properties": {}})
        self._streams.add(stream)
        return stream

    def close(self, stream: Stream) -> None:
        """Its reader is gone."""
        self._streams.discard(stream)

    def end(self, directory: str) -> None:
        """End the streams of a directory."""
        for stream in self._streams:
            if stream.directory == directory:
                stream.end()

    async def beat(self) -> None:
        """Send heartbeats for ever."""
        while True:
            await self._clock.sleep(HEARTBEAT, idly=True)
            for stream in self._streams:
                event = {"id": self._ids.new("evt"), "type": "server.heartbeat", "properties": {}}
                stream.send(event)

    def die(self) -> None:
        """Break all streams; nothing is sent any more."""
        self._silent = True
        for stream in self._streams:
            stream.cut()

    def _deliver(self, stream: Stream, event: Json) -> None:
        match self._faults.for_event(event):
            case "cut":
                stream.cut()
                self._streams.discard(stream)
            case "stall":
                stream.stalled = True
            case "duplicate":
                stream.send(event)
                stream.send(event)
            case "reorder":
                stream.send_later(event)
            case _:
                stream.send(event)
