"""The tool for commands: a real shell, in the session's directory and with this user's rights."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
from asyncio.subprocess import DEVNULL, PIPE, STDOUT, Process
from contextlib import suppress
from typing import TYPE_CHECKING, Any, cast

from opencode_async.testing.impostor.outcome import Result

if TYPE_CHECKING:
    from opencode_async.testing.impostor.calls import Call

Json = dict[str, Any]
BETWEEN = re.compile(r"&&|\|\||[;|&\n]")
QUOTED = re.compile(r"'[^']*'|\"(?:\\.|[^\"\\])*\"")
TIMEOUT = 120_000  # ms
LENIENCE = 100  # ms that a command may take longer
# As OpenCode 1.18.33 has it, its code.
OUT_OF_TIME = (
    "shell tool terminated command after exceeding timeout {} ms. If this command is expected to "
    "take longer and is not waiting for interactive input, retry with a larger timeout value in "
    "milliseconds."
)
PATIENCE = 1.0  # s for the pipe of a command that was killed: another process may hold it open
MOST_OUTPUT = 51_200  # bytes that the model is told


async def bash(call: Call, arguments: Json) -> Result:
    """Runs a command and tells its output as it comes."""
    command: str = arguments["command"]
    call.tell()
    await call.ask("bash", commands(command), {"command": command})
    call.progress({"output": ""})
    process = await asyncio.create_subprocess_exec(
        shutil.which("bash") or "sh",
        "-c",
        command,
        cwd=call.directory,
        stdin=DEVNULL,
        stdout=PIPE,
        stderr=STDOUT,
        start_new_session=True,
    )
    stdout = cast(asyncio.StreamReader, process.stdout)
    output = ""
    code: int | None = None
    notes: list[str] = []
    given = arguments.get("timeout")
    timeout = TIMEOUT if given is None else int(given)
    try:
        async with asyncio.timeout((timeout + LENIENCE) / 1000):
            while data := await stdout.read(65536):
                output += data.decode("utf-8", "replace")
                call.progress({"output": output[-MOST_OUTPUT:]})
                call.aborting = ended(command, output, None, ["User aborted the command"])
            code = await process.wait()
    except TimeoutError:
        notes.append(OUT_OF_TIME.format(timeout))
    finally:
        await kill(process)
    return ended(command, output, code, notes)


def ended(command: str, output: str, code: int | None, notes: list[str]) -> Result:
    """What is told of a command that has ended, ``code`` ``None`` if not by itself."""
    told = output[-MOST_OUTPUT:]
    text = told or "(no output)"
    if notes:
        text += "\n\n<shell_metadata>\n" + "\n".join(notes) + "\n</shell_metadata>"
    metadata = {"output": told or text, "exit": code}
    return Result(text, command, metadata, truncated=len(output) > MOST_OUTPUT)


def commands(line: str) -> list[str]:
    """The simple commands in a line, in which quoted separators are none."""
    quoted: list[str] = []

    def away(match: re.Match[str]) -> str:
        quoted.append(match[0])
        return f"\0{len(quoted) - 1}\0"

    def back(text: str) -> str:
        return re.sub(r"\0(\d+)\0", lambda match: quoted[int(match[1])], text)

    pieces = BETWEEN.split(QUOTED.sub(away, line))
    return [back(piece).strip() for piece in pieces if piece.strip()]


async def kill(process: Process) -> None:
    """End a command and what it started, if they still run."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    with suppress(TimeoutError):
        async with asyncio.timeout(PATIENCE):
            await process.communicate()  # to the end, so that its pipe is closed
