"""A worker that is told to go says goodbye to its followers and gives its turns to the next."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx

from opencode_async.client.local_server import free_port
from opencode_async.testing import ScriptedServer
from tests.support.parts import REPOSITORY


@asynccontextmanager
async def worker(database: Path, server: ScriptedServer) -> AsyncIterator[tuple[Process, str]]:
    """The chat in a process of its own, as one deploys it; the process and its URL."""
    port = free_port()
    environment = {
        **os.environ,
        "DATABASE_URL": f"sqlite+aiosqlite:///{database}",
        "OPENCODE_BASE_URL": server.url,
        "OPENCODE_SERVER_PASSWORD": server.password or "",
    }
    arguments = ["-m", "uvicorn", "--factory", "examples.chat.app:create_app"]
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, *arguments, "--port", str(port)),
        cwd=REPOSITORY,
        env=environment,
        stderr=PIPE,
    )
    assert process.stderr is not None
    try:
        async for line in process.stderr:
            if b"Uvicorn running" in line:
                break
        yield process, f"http://127.0.0.1:{port}"
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def test_sigterm_says_farewell_and_the_next_worker_goes_on(
    tmp_path: Path, opencode: ScriptedServer
) -> None:
    database = tmp_path / "chat.db"
    visitor = {"visitor": "me"}
    text = 'SCRIPT:slow {"n": 12, "delay": 0.3}'
    async with (
        worker(database, opencode) as (process, url),
        httpx.AsyncClient(base_url=url, cookies=visitor, trust_env=False, timeout=20) as client,
    ):
        cid = (await client.post("/agent/conversations")).json()["id"]
        path = f"/agent/conversations/{cid}/messages"
        mid = (await client.post(path, json={"text": text})).json()["id"]
        received = ""
        async with client.stream("GET", f"/agent/messages/{mid}/events") as response:
            async for chunk in response.aiter_text():
                received += chunk
                if "tick2" in received and process.returncode is None:
                    process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(10):
            await process.wait()
    farewell = received[received.index(": the server is shutting down") :]
    assert "retry: " in farewell
    assert "event: finished" not in received
    last = [line for line in received.splitlines() if line.startswith("id: ")][-1][4:]
    async with (
        worker(database, opencode) as (_, url),
        httpx.AsyncClient(base_url=url, cookies=visitor, trust_env=False, timeout=20) as client,
    ):
        path = f"/agent/messages/{mid}/events"
        headers = {"Last-Event-ID": last}
        async with client.stream("GET", path, headers=headers) as response:
            rest = "".join([chunk async for chunk in response.aiter_text()])
        message = (await client.get(f"/agent/messages/{mid}")).json()
    assert "event: finished" in rest
    assert message["content"] == "".join(f"tick{n} " for n in range(12))
    assert message["status"] == "completed"
