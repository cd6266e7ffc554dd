"""``LocalServer`` against the real OpenCode."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import anyio
import httpx
import pytest

from opencode_async.client.local_server import LocalServer
from opencode_async.client.server import Server
from opencode_async.errors import BinaryNotFound, OpencodeConnectionError, OpencodeTimeoutError
from opencode_async.testing import ScriptedServer, scripted_server


def http(server: Server) -> httpx.AsyncClient:
    credentials = httpx.BasicAuth(server.username, server.password or "")
    return httpx.AsyncClient(base_url=server.url, auth=credentials, trust_env=False, timeout=20)


async def prompt(server: Server, text: str) -> None:
    async with http(server) as client:
        session = (await client.post("/session", json={"title": "test"})).json()["id"]
        body = {"parts": [{"type": "text", "text": text}]}
        answer = await client.post(f"/session/{session}/prompt_async", json=body)
        assert answer.status_code == 204


async def until(condition: Callable[[], bool]) -> None:
    with anyio.fail_after(20):
        while not condition():  # noqa: ASYNC110 - it is another process's doing
            await anyio.sleep(0.05)


def is_alive(pid: int) -> bool:
    """Whether the process runs; one that ended and was not waited for does not."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def command_line(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_text()


def executable(path: Path, script: str) -> Path:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


async def sleeping_command(server: ScriptedServer) -> int:
    """Have the agent run a command that does not end; its process id."""
    pid_file = Path(str(server.directory)) / "pid"
    await prompt(server, f'SCRIPT:bash {{"command": "echo $$ > {pid_file}; exec sleep 1000"}}')
    await until(lambda: pid_file.exists() and pid_file.read_text().endswith("\n"))
    return int(pid_file.read_text())


async def test_it_answers_to_its_password_and_to_no_other(
    tmp_path: Path, opencode_binary: Path
) -> None:
    local = LocalServer(tmp_path, binary=opencode_binary, home=tmp_path / "home")
    async with local as server:
        assert server.directory == tmp_path
        async with http(server) as client:
            assert (await client.get("/global/health")).json()["healthy"] is True
            assert (await client.get("/global/health", auth=("opencode", "x"))).status_code == 401
        assert server.password
        pid = local.pid
        assert pid is not None
        assert server.password not in command_line(pid)
    assert not is_alive(pid)
    assert local.pid is None


async def test_nothing_that_the_agent_started_outlives_it(
    tmp_path: Path, opencode_binary: Path
) -> None:
    async with scripted_server(tmp_path, binary=opencode_binary) as server:
        command = await sleeping_command(server)
        pid = server.process.pid
        assert pid is not None
        assert os.getsid(command) != os.getsid(
            pid
        )  # why signalling the server's group is not enough
        assert is_alive(command)
    assert not is_alive(command)
    assert not is_alive(pid)


async def test_after_a_crash_it_starts_again_at_the_same_place_with_its_data(
    tmp_path: Path, opencode_binary: Path
) -> None:
    async with scripted_server(tmp_path, binary=opencode_binary) as server:
        async with http(server) as client:
            session = (await client.post("/session", json={"title": "kept"})).json()["id"]
        command = await sleeping_command(server)
        server.process.kill()
        assert server.process.pid is None
        assert is_alive(command)
        await server.process.restart()
        assert not is_alive(command)
        async with http(server) as client:
            assert (await client.get(f"/session/{session}")).json()["title"] == "kept"


async def test_a_missing_executable_is_named_with_its_remedy(tmp_path: Path) -> None:
    with pytest.raises(BinaryNotFound, match="npm install") as error:
        await LocalServer(tmp_path, binary="no-such-opencode").__aenter__()
    assert error.value.binary == "no-such-opencode"


async def test_a_server_that_ends_at_once_says_why(tmp_path: Path) -> None:
    binary = executable(tmp_path / "opencode", "echo no memory; exit 3")
    with pytest.raises(OpencodeConnectionError, match="no memory"):
        await LocalServer(tmp_path, binary=binary).__aenter__()


async def test_a_relative_executable_is_found_from_where_the_host_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    executable(tmp_path / "opencode", "echo found")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OpencodeConnectionError, match="found"):
        await LocalServer("/", binary="./opencode").__aenter__()


async def test_a_server_that_does_not_answer_is_ended(tmp_path: Path) -> None:
    binary = executable(tmp_path / "opencode", "echo $$ > pid; echo thinking; exec sleep 1000")
    with pytest.raises(OpencodeTimeoutError, match="thinking"):
        await LocalServer(tmp_path, binary=binary, start_timeout=0.5).__aenter__()
    assert not is_alive(int((tmp_path / "pid").read_text()))


async def test_a_server_that_ignores_sigterm_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("opencode_async.client.local_server.STOP_TIMEOUT", 0.3)
    ignoring = "trap '' TERM; echo $$ > pid; while :; do sleep 0.1; done"
    binary = executable(tmp_path / "opencode", ignoring)
    with pytest.raises(OpencodeTimeoutError):
        await LocalServer(tmp_path, binary=binary, start_timeout=0.5).__aenter__()
    assert not is_alive(int((tmp_path / "pid").read_text()))


async def test_what_it_prints_is_read_for_ever_and_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "opencode_async.client.local_server")
    lines = 20_000  # more than the 64 KiB of a pipe
    binary = executable(tmp_path / "opencode", f"seq 1 {lines}; echo done > done; exec sleep 1000")
    with pytest.raises(OpencodeTimeoutError) as error:
        await LocalServer(tmp_path, binary=binary, start_timeout=2).__aenter__()
    assert (tmp_path / "done").exists()
    counted = [line for line in caplog.messages if line.isdecimal()]  # others run servers, too
    assert counted == [str(i + 1) for i in range(lines)]
    assert str(error.value).splitlines()[1:] == [str(lines - 19 + i) for i in range(20)]


async def test_variables_of_another_opencode_are_not_inherited(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENCODE_CONFIG", "/elsewhere")
    binary = executable(tmp_path / "opencode", "env")
    with pytest.raises(OpencodeConnectionError) as error:
        await LocalServer(
            tmp_path, binary=binary, env={"PATH": os.environ["PATH"]}, config={"share": "disabled"}
        ).__aenter__()
    assert "OPENCODE_CONFIG=" not in str(error.value)
