"""Servers of a benchmark, each a process of its own that is told over stdin what to do."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import uvicorn
from starlette.types import ASGIApp

from tests.support.parts import REPOSITORY
from tests.support.piped import MOST, Listening, orders, tell

Json = dict[str, Any]
Commands = Mapping[str, Callable[..., Awaitable[Json]]]
START = 60.0  # s


class Child:
    """A server in another process, seen from the benchmark."""

    def __init__(self, process: Process) -> None:
        self.url = ""
        self._process = process

    async def ask(self, command: str, **arguments: Any) -> Json:
        """Have it do something; what it answers."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps([command, arguments]).encode() + b"\n")
        return await self.told()

    async def told(self) -> Json:
        """The next line it says. Raises ``EOFError`` where it has ended."""
        assert self._process.stdout is not None
        line = await self._process.stdout.readline()
        if not line:
            raise EOFError("a server of the benchmark has ended")
        told: Json = json.loads(line)
        return told

    async def cpu(self) -> float:
        """The seconds of CPU time it has taken so far."""
        return float((await self.ask("usage"))["cpu"])


@asynccontextmanager
async def child(module: str, *arguments: str) -> AsyncIterator[Child]:
    """``tests.benchmarks.<module>`` as a process, which listens; with the block it is gone."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", f"tests.benchmarks.{module}", *arguments),
        cwd=REPOSITORY,
        stdin=PIPE,
        stdout=PIPE,
        limit=MOST,
    )
    one = Child(process)
    try:
        async with asyncio.timeout(START):
            one.url = f"http://127.0.0.1:{(await one.told())['ready']}"
        yield one
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


def serve(app: ASGIApp, commands: Commands) -> None:
    """Serve the app on a free port and obey stdin until it is closed."""
    asyncio.run(_serve(app, {"usage": usage, **commands}))


async def usage() -> Json:
    """What this process has taken: CPU time in seconds, resident memory in bytes."""
    return {"cpu": time.process_time(), "memory": resident()}


def resident() -> int:
    """The bytes of memory that this process has."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


async def _serve(app: ASGIApp, commands: Commands) -> None:
    config = uvicorn.Config(app, port=0, backlog=4096, log_level="warning", access_log=False)
    server = Listening(config)
    serving = asyncio.create_task(server.serve())
    given = await orders()
    while line := await given.readline():
        command, arguments = json.loads(line)
        tell(**await commands[command](**arguments))
    server.should_exit = server.force_exit = True
    await serving
