"""A process that is told over stdin what to do, and says over stdout what it did, as JSON lines."""

from __future__ import annotations

import asyncio
import json
import socket
import sys
from typing import Any

import uvicorn

MOST = 2**24  # bytes of a line: a follower's is as long as its turn


def tell(**told: Any) -> None:
    print(json.dumps(told), flush=True)


async def orders() -> asyncio.StreamReader:
    """This process's stdin."""
    reader = asyncio.StreamReader(limit=MOST)
    protocol = asyncio.StreamReaderProtocol(reader)
    await asyncio.get_running_loop().connect_read_pipe(lambda: protocol, sys.stdin)
    return reader


class Listening(uvicorn.Server):
    """A server that says on which port it listens."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        tell(ready=self.servers[0].sockets[0].getsockname()[1])
