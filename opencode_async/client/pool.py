"""The clients of one agent: one for each server and directory, so one event stream for each."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import Self

from opencode_async.client.client import OpencodeClient
from opencode_async.client.server import Server
from opencode_async.errors import NotRunning
from opencode_async.observability.error_reporter import ErrorReporter
from opencode_async.observability.instrumentation import Instrumentation, log_event


class ClientPool:
    """Opens a client when one first asks for its server, and closes all of them with its block.

    ``root`` is the agent's own server: where it has a directory, every other's is below.
    """

    def __init__(
        self, root: Server, report: ErrorReporter, instrumentation: Instrumentation = log_event
    ) -> None:
        self._root = root
        self._report = report
        self._instrumentation = instrumentation
        self._clients: dict[Server, asyncio.Future[OpencodeClient]] = {}
        self._closing = asyncio.Event()
        self._tasks = asyncio.TaskGroup()
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        await self._stack.enter_async_context(self._tasks)
        self._stack.callback(self._closing.set)
        return self

    async def __aexit__(self, *error: object) -> None:
        # Not given the block's error: a task group would wrap it in a group.
        await self._stack.aclose()

    async def client(self, server: Server) -> OpencodeClient:
        """The client of that server and directory, the same for all who ask.

        Raises ``OutsideRoot``, ``UnprotectedServer`` and, when the block was left, ``NotRunning``.
        """
        if self._closing.is_set():
            raise NotRunning("agent")
        server.check_inside(self._root)  # each time: what the path leads to may change
        key = plain(server)
        if key not in self._clients:
            opened = self._clients[key] = asyncio.get_running_loop().create_future()
            # A client's own task group is to be left by the task that entered it.
            task = self._tasks.create_task(self._keep_open(server, opened), name="opencode client")
            task.add_done_callback(lambda _: opened.cancel())
        return await asyncio.shield(self._clients[key])

    async def _keep_open(self, server: Server, opened: asyncio.Future[OpencodeClient]) -> None:
        try:
            async with OpencodeClient(
                server, error_reporter=self._report, instrumentation=self._instrumentation
            ) as client:
                opened.set_result(client)
                await self._closing.wait()
        except Exception as error:
            if opened.done():
                raise
            del self._clients[plain(server)]
            opened.set_exception(error)


def plain(server: Server) -> Server:
    """The server by its values alone: two that differ in their spelling or kind are one."""
    directory = None if server.directory is None else str(server.directory)
    return Server(
        server.url.rstrip("/"),
        server.username,
        server.password,
        directory,
        unprotected=server.unprotected,
    )
