"""The examples as a person runs them: programs of their own, told by the environment."""

from __future__ import annotations

import asyncio
import os
import sys
from asyncio.subprocess import PIPE, STDOUT
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx

from opencode_async import Server
from opencode_async.client.local_server import free_port
from tests.support.parts import REPOSITORY

TO_STOP = 10.0  # s a program has to end by itself


def environment(server: Server | None = None, **variables: str) -> dict[str, str]:
    """This process's, and where the OpenCode server is."""
    of_server = {}
    if server is not None:
        of_server = {
            "OPENCODE_BASE_URL": server.url,
            "OPENCODE_SERVER_USERNAME": server.username,
            "OPENCODE_SERVER_PASSWORD": server.password or "",
        }
    return {**os.environ, **of_server, **variables}


async def run_program(*arguments: str, env: dict[str, str]) -> str:
    """What a Python program printed; raises ``AssertionError`` with it unless it ended well."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, *arguments), cwd=REPOSITORY, env=env, stdout=PIPE, stderr=STDOUT
    )
    try:
        output, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    printed = output.decode()
    assert process.returncode == 0, printed
    return printed


@asynccontextmanager
async def uvicorn(
    app: str, *, env: dict[str, str], folder: Path = REPOSITORY
) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the app that ``uvicorn module:app`` serves; it must end well when told to."""
    port = free_port()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-W", "error", "-m", "uvicorn", app, "--port", str(port)),
        *("--timeout-graceful-shutdown", "5"),
        cwd=folder,
        env=env,
        stdout=PIPE,
        stderr=STDOUT,
    )
    assert process.stdout is not None
    printed = bytearray()
    running = asyncio.Event()

    async def read(stream: asyncio.StreamReader) -> None:
        async for line in stream:
            printed.extend(line)
            if b"Uvicorn running on" in line:
                running.set()
        running.set()

    reading = asyncio.create_task(read(process.stdout))
    try:
        await running.wait()
        assert process.returncode is None, printed.decode()
        async with httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=30
        ) as http:
            yield http
        process.terminate()
        async with asyncio.timeout(TO_STOP):
            await process.wait()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
        await reading
    assert b"Traceback" not in printed, printed.decode()
