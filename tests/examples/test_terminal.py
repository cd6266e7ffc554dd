"""The terminal example as a person has it: a program in a terminal, and Ctrl-C."""

from __future__ import annotations

import asyncio
import os
import pty
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from rich.console import Console
from rich.text import Text

from opencode_async import OpencodeClient, PartAdded, PartDelta, Retrying, TextPart, ToolPart
from opencode_async.cli.answer import Answer, part_text, safe
from opencode_async.testing import ScriptedServer
from tests.support.parts import REPOSITORY


def heed_ctrl_c() -> None:
    """As in a terminal: what a shell runs in the background, tests say, ignores it, and so on."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@asynccontextmanager
async def terminal(
    server: ScriptedServer, text: str
) -> AsyncIterator[tuple[asyncio.subprocess.Process, asyncio.StreamReader]]:
    """The program and what appears on its screen."""
    ours, its = pty.openpty()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "examples.terminal", text),
        cwd=REPOSITORY,
        env={
            **os.environ,
            "OPENCODE_BASE_URL": server.url,
            "OPENCODE_SERVER_PASSWORD": server.password or "",
            "COLUMNS": "200",
            "TERM": "xterm",
        },
        stdin=its,
        stdout=its,
        stderr=its,
        preexec_fn=heed_ctrl_c,
    )
    os.close(its)
    screen = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    transport, _ = await loop.connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(screen), os.fdopen(ours, "rb", buffering=0)
    )
    try:
        yield process, screen
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
        transport.close()


async def rest(screen: asyncio.StreamReader) -> str:
    """What else appears until the program ends; a terminal then ends with an error."""
    seen = b""
    try:
        while more := await screen.read(4096):
            seen += more
    except OSError:
        pass
    return seen.decode()


async def at_work(opencode: ScriptedServer) -> set[str]:
    """The sessions that are at work, other tests' among them."""
    async with OpencodeClient(opencode) as client:
        return set((await client.http.request("GET", "/session/status")).json())


async def test_text_tools_and_the_cost_are_shown(opencode: ScriptedServer) -> None:
    async with terminal(opencode, "SCRIPT:bash") as (process, screen):
        shown = await rest(screen)
        assert await process.wait() == 0
    whole = shown.rpartition("Step 1: calling bash.")[2]
    assert "echo hello from bash" in whole
    assert "Finished bash after 1 tool result(s)." in whole
    assert "completed" in whole
    assert "160 tokens in, 8 out · $0.0002" in whole


async def test_ctrl_c_stops_the_agent_and_keeps_the_words(opencode: ScriptedServer) -> None:
    before = await at_work(opencode)
    async with terminal(opencode, "SCRIPT:hang Half of it.") as (process, screen):
        await screen.readuntil(b"Half of it.")
        process.send_signal(signal.SIGINT)
        shown = await rest(screen)
        assert await process.wait() == 130
    assert "Half of it." in shown
    assert shown.rstrip().endswith("Stopped.")
    assert await at_work(opencode) <= before


async def test_an_error_is_said_and_is_the_exit_code(opencode: ScriptedServer) -> None:
    async with terminal(opencode, "SCRIPT:error401") as (process, screen):
        assert "scripted error 401" in await rest(screen)
        assert await process.wait() == 1


async def test_what_a_subagent_does_stands_below_its_call(opencode: ScriptedServer) -> None:
    async with terminal(opencode, "SCRIPT:task") as (process, screen):
        shown = await rest(screen)
        assert await process.wait() == 0
    whole = shown.rpartition("Step 1: calling task.")[2].splitlines()
    lines = [Text.from_ansi(line).plain.rstrip() for line in whole if line.strip()]
    assert lines[:3] == [
        "✓ Delegated A small job",
        "  Answer from the subagent.",
        "Finished task after 1 tool result(s).",
    ]


def test_what_an_agent_writes_cannot_command_the_terminal() -> None:
    hostile = {"id": "p", "type": "text", "content": "\x1b]0;owned\x07[red]\x9b2J"}
    assert part_text(hostile).plain == "�]0;owned�[red]�2J\n"
    call = ToolPart(
        "p", "bash", "c", "error", {"command": "ls\x1b[2J\n\x9b"}, error="\x1b]0;a\x07b"
    )
    answer = Answer()
    answer.take(PartAdded(0, call))
    assert part_text(answer.parts[0]).plain == "✗ Running ls �\n  b"
    harmless = "12\u00a0000\u202f€ \u3000 👩\u200d💻\t日本\n"
    assert safe(harmless) == harmless


@pytest.mark.parametrize("height", [5, 12])
def test_only_the_last_lines_are_live(height: int) -> None:
    answer = Answer()
    answer.take(PartAdded(0, TextPart("p", "")))
    for line in range(50):
        answer.take(PartDelta(0, f"line {line}\n"))
    console = Console(width=40, height=height, record=True, force_terminal=True)
    console.print(answer)
    shown = console.export_text().rstrip().splitlines()
    assert len(shown) <= height
    assert "line 49" in shown


async def test_what_a_provider_says_is_not_markup() -> None:
    answer, console = Answer(), Console(width=80, record=True)
    answer.take(Retrying(1, "see [/docs/limits] [link=http://evil.invalid]here[/link]", 0.0))
    console.print(answer)
    assert "[/docs/limits] [link=http://evil.invalid]here[/link]" in console.export_text()
