"""An Impostor on a port."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from asyncio.subprocess import PIPE
from pathlib import Path

import pytest

from opencode_async import OpencodeClient, Server
from opencode_async.testing import Impostor
from opencode_async.testing.impostor.serving import serving
from tests.testing.impostor.saying import answered


async def test_both_ways_lead_to_the_same_server(tmp_path: Path) -> None:
    async with (
        Impostor(tmp_path) as impostor,
        serving(impostor) as server,
        OpencodeClient(server) as far,
        OpencodeClient(impostor.server) as near,
    ):
        session = await far.create_session(title="from afar")
        assert await near.session_rules(session) == []
        message, _ = await answered(far, "SCRIPT:bash")
        assert message["status"] == "completed"


async def test_it_runs_as_a_program(tmp_path: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "opencode_async.testing.impostor", "--port", "0"),
        *("--directory", str(tmp_path)),
        env={**os.environ, "OPENCODE_SERVER_PASSWORD": "secret"},
        stdout=PIPE,
    )
    assert process.stdout is not None
    try:
        url = (await process.stdout.readline()).decode().strip()
        async with OpencodeClient(Server(url, password="secret")) as client:
            assert await client.version() == "1.18.33"
            assert (await client.paths()).directory == str(tmp_path)
            message, _ = await answered(client, "hello")
            assert message["content"] == "You said: hello"
    finally:
        process.terminate()
        await process.wait()


async def test_a_port_that_is_taken_is_said_in_a_line(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "opencode_async.testing.impostor", "--port", port),
            *("--directory", str(tmp_path)),
            stdout=PIPE,
            stderr=PIPE,
        )
        said, complained = await process.communicate()
    assert (process.returncode, said) == (1, b"")
    (line,) = complained.decode().splitlines()
    assert line.startswith(f"port {port} cannot be had: ")
    assert "in use" in line


async def test_an_error_of_the_block_comes_out_as_it_is(tmp_path: Path) -> None:
    with pytest.raises(LookupError):
        async with Impostor(tmp_path) as impostor, serving(impostor):
            raise LookupError
