"""What `make` starts, typed into a shell as a person does, and told to end as by Ctrl-C."""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
import signal
import sys
from asyncio.subprocess import PIPE, STDOUT, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from opencode_async.client.local_server import marked_processes
from tests.support.examples import environment
from tests.support.parts import REPOSITORY, skip_without

TO_STOP = 60.0  # s for all that was started


@asynccontextmanager
async def made(typed: str, folder: Path, **variables: str) -> AsyncIterator[asyncio.StreamReader]:
    """Type it where everything is set up; what it says. It must end well, and leave nothing."""
    if shutil.which("make") is None:
        skip_without("make", "`apt-get install make`")
    mark = secrets.token_hex(16)  # in the environment of whatever it starts
    process = await asyncio.create_subprocess_shell(
        typed,
        cwd=set_up(folder),
        env=environment(None, MADE=mark, **variables),
        stdout=PIPE,
        stderr=STDOUT,
        start_new_session=True,
    )
    assert process.stdout is not None
    try:
        yield process.stdout
    finally:
        rest = await stopped(process)
    assert "Traceback" not in rest, rest
    assert marked_processes(mark.encode()) == set()


def set_up(folder: Path) -> Path:
    """A clone as `make` leaves it, with rows of its own: nothing is installed, or taken away."""
    for name in ("Makefile", "examples", "opencode_async", "pyproject.toml", "requirements.lock"):
        (folder / name).symlink_to(REPOSITORY / name)
    python = folder / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    (folder / ".venv" / "installed").touch()
    (folder / ".node").mkdir()
    for each in (REPOSITORY / ".node").glob("*"):
        (folder / ".node" / each.name).symlink_to(each)
    return folder


async def stopped(process: Process) -> str:
    """What else it says until it has ended, all that it started included."""
    if process.returncode is None:
        os.killpg(process.pid, signal.SIGTERM)
    try:
        async with asyncio.timeout(TO_STOP):
            rest, _ = await process.communicate()
    except TimeoutError:
        os.killpg(process.pid, signal.SIGKILL)
        raise
    return rest.decode()
