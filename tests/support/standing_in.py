"""A listening socket that stands in for a real OpenCode."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import replace

from opencode_async.client.server import Server

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Coroutine[object, object, None]]


@asynccontextmanager
async def standing_in_for(server: Server, serve: Serve) -> AsyncIterator[Server]:
    """The same server at another port; whatever is still served there ends with the block."""
    connections: set[asyncio.Task[None]] = set()
    async with asyncio.TaskGroup() as tasks:

        def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            connection = tasks.create_task(serve(reader, writer))
            connections.add(connection)
            connection.add_done_callback(connections.discard)

        listening = await asyncio.start_server(accept, "127.0.0.1", 0)
        port = listening.sockets[0].getsockname()[1]
        try:
            yield replace(server, url=f"http://127.0.0.1:{port}")
        finally:
            listening.close()
            for connection in connections:
                connection.cancel()
