"""The README's commands, typed into a shell: the demo, and the command for operators."""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
from asyncio.subprocess import PIPE, STDOUT
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest

from examples.server import BINARY
from opencode_async.client.local_server import free_port
from opencode_async.testing import ScriptedServer
from tests.support.examples import environment, uvicorn
from tests.support.made import made
from tests.support.parts import REPOSITORY
from tests.support.readme import DATABASE, PYTHON, SERVER, command, commands
from tests.support.serving import Sse, listening

NOT_RUN = {
    "make test": "it is the run that this test is part of",
}
ELSEWHERE = {
    'pip install ".[sqlite]" uvicorn': "tests/test_wheel.py",
    "make scaled": "tests/examples/test_scaled.py",
}
OWN_SERVER = "OPENCODE_BASE_URL=http://127.0.0.1:4096 OPENCODE_SERVER_PASSWORD=secret make demo"
TURNS = {"turns ls", "turns show", "turns cancel", "turns recover"}
OPERATING = {"doctor", "tail", "cleanup", *TURNS}


def test_each_command_is_run_by_a_test_or_there_is_a_reason() -> None:
    operating = {command(f"opencode-async {name} --app app:agent") for name in OPERATING}
    assert set(commands()) == {"make demo", OWN_SERVER, *operating, *ELSEWHERE, *NOT_RUN}


# The demo


@asynccontextmanager
async def demo(typed: str, folder: Path, **variables: str) -> AsyncIterator[tuple[str, str]]:
    """Type it where everything is set up; what it says when it is there, and where its chat is."""
    port = str(free_port())
    async with made(typed, folder, PORT=port, **variables) as output:
        said = b""
        while b"Chat" not in said and (line := await output.readline()):
            said = line  # before that, make says what it runs
        yield said.decode(), f"http://127.0.0.1:{port}"


async def chats(url: str) -> str:
    """What is answered to one who opens the chat and says something."""
    async with httpx.AsyncClient(base_url=url, trust_env=False, timeout=30) as http:
        (await http.get("/")).raise_for_status()
        conversation = (await http.post("/agent/conversations")).json()["id"]
        finished = await turn(http, conversation, "SCRIPT:text Welcome.")
    return str(finished.data["message"]["content"])


async def turn(http: httpx.AsyncClient, conversation: str, text: str) -> Sse:
    """Post it; the end of its turn."""
    path = f"/agent/conversations/{conversation}"
    async with listening(http, f"{path}/events") as events:
        posted = await http.post(f"{path}/messages", json={"text": text})
        assert posted.status_code == 202, posted.text
        return await anext(event async for event in events if event.event == "finished")


async def test_the_demo_with_a_server_of_its_own(tmp_path: Path) -> None:
    installed = shutil.which(REPOSITORY / BINARY) is not None
    whose = "an OpenCode server of its own" if installed else "a stand-in for OpenCode"
    async with demo("make demo", tmp_path) as (said, url):
        assert said.startswith(f"Chat and {whose}"), said
        assert said.rstrip().endswith(url)
        assert await chats(url) == "Welcome."
    assert (tmp_path / ".demo" / "chat.db").exists()


async def test_the_demo_on_a_server_that_is_there(opencode: ScriptedServer, tmp_path: Path) -> None:
    typed = command("OPENCODE_BASE_URL=").replace("http://127.0.0.1:4096", opencode.url)
    typed = typed.replace("=secret", f"={opencode.password}")
    url = f"sqlite+aiosqlite:///{tmp_path}/other.db"
    async with demo(typed, tmp_path, DATABASE_URL=url) as (said, url):
        assert said == f"Chat with {opencode.url} on {url}\n"
        assert await chats(url) == "Welcome."
    assert (tmp_path / "other.db").exists()


# The command for operators


@pytest.mark.timeout(120)  # it starts eight programs
async def test_what_operators_type_beside_the_app_of_the_quickstart(
    postgres_database: str, opencode: ScriptedServer, tmp_path: Path
) -> None:
    database = postgres_database
    app = PYTHON["quickstart"].replace(SERVER, "Server.from_env()").replace(DATABASE, database)
    (tmp_path / "app.py").write_text(f"from opencode_async import Server\n{app}")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    env = environment(opencode, PYTHONPATH=str(REPOSITORY), PATH=path, TERM="dumb")

    async def typed(name: str, message_id: str = "") -> tuple[int | None, str]:
        text = command(f"opencode-async {name}").replace("MESSAGE_ID", message_id)
        process = await asyncio.create_subprocess_shell(
            text, cwd=tmp_path, env=env, stdout=PIPE, stderr=STDOUT
        )
        printed, _ = await process.communicate()
        return process.returncode, printed.decode()

    async with uvicorn("app:app", env=env, folder=tmp_path) as http:
        code, said = await typed("doctor")
        assert (code, "✗" in said) == (0, False), said
        conversation = (await http.post("/agent/conversations")).json()["id"]
        path = f"/agent/conversations/{conversation}/messages"
        first = (await http.post(path, json={"text": "SCRIPT:hang Half."})).json()["id"]
        code, said = await typed("turns ls")
        assert (code, first in said) == (0, True), said
        code, said = await typed("turns show", first)
        assert (code, "status pending" in said) == (0, True), said
        code, said = await typed("turns cancel", first)
        assert (code, "asked to stop" in said) == (0, True), said
        code, said = await typed("turns recover")
        assert (code, said.strip()) == (0, "Every turn has its worker."), said
        second = await turn(http, conversation, "SCRIPT:text Hello.")
        code, said = await typed("tail", second.data["message_id"])
        assert (code, "Hello." in said) == (0, True), said
        code, said = await typed("cleanup")
        assert (code, said.split()[:2]) == (0, ["0", "conversations,"]), said
