"""Starts workers as processes, tells them what to do, stops, kills and always reaps them."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from opencode_async import Change, Server, Timings
from opencode_async.protocol.changes import change_from_json
from tests.support.brokers import Job
from tests.support.parts import REPOSITORY
from tests.support.piped import MOST

Json = dict[str, Any]
START = 30.0  # s a process has to be ready: many start beside each other


class Worker:
    """A worker's process and all that it said."""

    def __init__(self, process: Process) -> None:
        self.said: list[Json] = []
        self._process = process
        self._news = asyncio.Event()
        self._reading = asyncio.create_task(self._read())
        self._reading.add_done_callback(lambda _: self._tell())

    @property
    def application(self) -> str:
        """What PostgreSQL calls its connections."""
        return f"worker {self._process.pid}"

    async def says(self, what: str, key: object = None, *, within: float = 60.0) -> Json:
        """The first line that tells that, of that turn. Raises ``TimeoutError``, ``EOFError``."""
        async with asyncio.timeout(within):
            while True:
                for line in self.said:
                    if what in line and (key is None or line[what] == str(key)):
                        return line
                if self._reading.done():
                    raise EOFError(f"the worker ended without saying {what}: {self.said}")
                await self._news.wait()

    @property
    def status(self) -> int | None:
        """How its process ended, as ``Process.returncode`` says it."""
        return self._process.returncode

    @property
    def complaints(self) -> list[Json]:
        """The errors it reported; of requests that are answered late, to a paused one, it warns."""
        reported = (line for line in self.said if "reported" in line)
        return [line for line in reported if line["severity"] == "error"]

    def claims(self, key: object) -> list[int]:
        """The epochs of a turn that it began."""
        return [line["epoch"] for line in self.said if line.get("claimed") == str(key)]

    async def heard(self, key: object) -> list[Change]:
        """All that a follower in this worker was told of a turn."""
        line = await self.says("heard", key)
        return [change_from_json(event, data) for event, data in line["changes"]]

    def run(self, key: object) -> None:
        """Have it run a turn."""
        self._order(run=str(key))

    def follow(self, key: object) -> None:
        """Have it follow a turn; it says so once it has something of it."""
        self._order(follow=str(key))

    def kill(self) -> None:
        """End it as a crash or a lack of memory does."""
        self._signal(signal.SIGKILL)

    def terminate(self) -> None:
        """Tell it to go, as a deploy does."""
        self._signal(signal.SIGTERM)

    def stop(self) -> None:
        """Let it stand still, as a machine that is suspended does."""
        self._signal(signal.SIGSTOP)

    def go_on(self) -> None:
        self._signal(signal.SIGCONT)

    async def ends(self, *, within: float) -> bool:
        """Whether the process is gone, and all it said was taken in, after so long at most."""
        await asyncio.wait([self._reading], timeout=within)
        return self._reading.done()

    async def reaped(self) -> None:
        """End it, whatever it does, and wait until it is gone."""
        self.kill()  # ends one that is stopped, too
        assert self._process.stdin is not None
        self._process.stdin.close()
        await self._reading

    def _order(self, **order: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(order).encode() + b"\n")

    def _signal(self, number: signal.Signals) -> None:
        if self._process.returncode is None:
            self._process.send_signal(number)

    async def _read(self) -> None:
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            self.said.append(json.loads(line))
            self._tell()
        await self._process.wait()

    def _tell(self) -> None:
        self._news.set()
        self._news = asyncio.Event()


@asynccontextmanager
async def worker(
    database: str,
    server: Server,
    timings: Timings,
    *,
    turns: Sequence[object] = (),
    recovers_every: float | None = None,
    asking: Sequence[str] = (),
    files: Path | None = None,
) -> AsyncIterator[Worker]:
    """A worker that is ready and runs these turns; with the block it is gone.

    It looks for lost turns as often as half its lease says, or as ``recovers_every`` does. For the
    permissions of ``asking`` a person is asked; if there are none nobody is asked anything. In
    ``files`` it keeps what turns produce.
    """
    orders = {
        "recovers_every": timings.lease / 2 if recovers_every is None else recovers_every,
        "turns": [str(key) for key in turns],
        "asking": list(asking),
        "files": None if files is None else str(files),
    }
    async with _process("worker", database, server, timings, orders) as one:
        yield one


@asynccontextmanager
async def deployed(
    database: str, server: Server, timings: Timings, broker: Job = None
) -> AsyncIterator[tuple[Worker, str]]:
    """A worker behind uvicorn that is ready, and its URL; with the block it is gone."""
    async with _process("deployed", database, server, timings, {"broker": broker}) as one:
        yield one, f"http://127.0.0.1:{(await one.says('ready'))['ready']}"


@asynccontextmanager
async def _process(
    module: str, database: str, server: Server, timings: Timings, orders: Json
) -> AsyncIterator[Worker]:
    job = {
        "database": database,
        "url": server.url,
        "password": server.password,
        "directory": str(server.directory) if server.directory is not None else None,
        "timings": asdict(timings),
        **orders,
    }
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", f"tests.support.{module}"),
        cwd=REPOSITORY,
        env={**os.environ, "JOB": json.dumps(job)},
        stdin=PIPE,
        stdout=PIPE,
        limit=MOST,
    )
    one = Worker(process)
    try:
        await one.says("ready", within=START)
        yield one
    finally:
        await one.reaped()
