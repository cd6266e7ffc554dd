"""Files of the host's in an agent's folder: whole or not at all, and nowhere else."""

from __future__ import annotations

import asyncio
import os
import stat
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import pytest

from opencode_async.artifacts.sandbox import Sandbox
from opencode_async.errors import SandboxFileRefused
from tests.artifacts.conftest import Race
from tests.support.sandboxes import (
    MAX_BYTES,
    chunked,
    contents,
)


async def test_a_file_is_placed(root: Path, sandbox: Sandbox) -> None:
    assert await sandbox.place("data.csv", chunked(b"a,", b"", b"b\n")) == "data.csv"
    assert (root / "data.csv").read_bytes() == b"a,b\n"
    assert await contents(await sandbox.file("data.csv")) == b"a,b\n"


async def test_a_placed_file_can_be_read_by_all_whatever_the_umask(tmp_path: Path) -> None:
    sandbox = Sandbox(tmp_path / "not" / "yet", max_bytes=MAX_BYTES)
    before = os.umask(0o077)
    try:
        await sandbox.place("a", chunked())
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "not" / "yet" / "a").stat().st_mode) == 0o644


@pytest.mark.parametrize(
    ("filename", "placed"),
    [
        ("../../escape.txt", "escape.txt"),
        ("/etc/cron.d/evil", "evil"),
        ("..\\..\\evil.exe", "evil.exe"),
        ("..", "file"),
        ("", "file"),
        (".git", "git"),
        ("a\nb\0c.txt", "a_b_c.txt"),
        ("invoice\u202efdp.exe", "invoice_fdp.exe"),
        ("bad\udcff\ud800", "bad__"),
        ("漢" * 300 + ".pdf", "漢" * 83 + ".pdf"),
    ],
)
async def test_a_hostile_name_stays_in_the_sandbox(
    root: Path, sandbox: Sandbox, filename: str, placed: str
) -> None:
    assert await sandbox.place(filename, chunked(b"x")) == placed
    assert os.listdir(root) == [placed]
    assert os.listdir(root.parent) == ["conversation"]


async def test_what_is_there_is_not_written_to(root: Path, sandbox: Sandbox, secret: Path) -> None:
    (root / "a.txt").symlink_to(secret / "a.txt")
    (root / "a-2.txt").symlink_to(secret / "new.txt")
    (root / "a-3.txt").hardlink_to(secret / "a.txt")
    os.mkfifo(root / "a-4.txt")
    (root / "a-5.txt").mkdir()
    assert await sandbox.place("a.txt", chunked(b"mine")) == "a-6.txt"
    assert (secret / "a.txt").read_text() == "secret"
    assert os.listdir(secret) == ["a.txt"]


async def test_a_name_that_is_taken_too_often_is_refused(root: Path, sandbox: Sandbox) -> None:
    for number in range(1001):
        (root / (f"a-{number}.txt" if number > 1 else "a.txt")).touch()
    with pytest.raises(SandboxFileRefused, match="too_many"):
        await sandbox.place("a.txt", chunked(b"a"))


async def test_files_of_one_name_placed_at_once_are_all_kept(root: Path, sandbox: Sandbox) -> None:
    contents = [bytes([number]) * 10 for number in range(8)]
    names = await asyncio.gather(*(sandbox.place("a.txt", chunked(each)) for each in contents))
    assert sorted(names) == sorted(["a.txt", *(f"a-{number}.txt" for number in range(2, 9))])
    assert [(root / name).read_bytes() for name in names] == contents


async def test_a_failure_leaves_nothing(root: Path, sandbox: Sandbox) -> None:
    async def failing() -> AsyncIterator[bytes]:
        yield b"half of it"
        raise ConnectionError("the user went away")

    with pytest.raises(ConnectionError):
        await sandbox.place("a.txt", failing())
    assert os.listdir(root) == []


async def test_a_full_disk_leaves_nothing(root: Path, sandbox: Sandbox, race: Race) -> None:
    def full() -> None:
        raise OSError(28, "No space left on device")

    race("write", full)
    with pytest.raises(OSError, match="No space left"):
        await sandbox.place("a.txt", chunked(b"a"))
    assert os.listdir(root) == []


async def test_a_failure_leaves_alone_what_the_agent_put_in_its_place(
    root: Path, sandbox: Sandbox
) -> None:
    async def failing() -> AsyncIterator[bytes]:
        yield b"half of it"
        (root / "a.txt").rename(root / "stolen")
        (root / "a.txt").write_text("the agent's")
        raise ConnectionError

    with pytest.raises(ConnectionError):
        await sandbox.place("a.txt", failing())
    assert (root / "a.txt").read_text() == "the agent's"


async def test_a_sandbox_that_is_swapped_while_placing_is_still_the_one_written_to(
    root: Path, sandbox: Sandbox, secret: Path
) -> None:
    def swap() -> None:
        root.rename(root.parent / "was")
        root.symlink_to(secret)

    async def swapping() -> AsyncIterator[bytes]:
        yield b"a"
        swap()
        yield b"b"

    assert await sandbox.place("a.txt", swapping()) == "a.txt"
    assert (root.parent / "was" / "a.txt").read_bytes() == b"ab"
    assert (secret / "a.txt").read_text() == "secret"


async def test_a_placing_that_is_cancelled_leaves_nothing(root: Path, sandbox: Sandbox) -> None:
    waiting = asyncio.Event()

    async def endless() -> AsyncIterator[bytes]:
        yield b"half of it"
        waiting.set()
        await asyncio.Event().wait()

    task = asyncio.create_task(sandbox.place("a.txt", endless()))
    await waiting.wait()
    assert os.listdir(root) == ["a.txt"]
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert os.listdir(root) == []


@pytest.mark.parametrize("call", ["open", "mkdir", "fchmod", "write", "close", "unlink"])
@pytest.mark.parametrize("by", ["asyncio", "anyio"])
async def test_a_placing_that_is_cancelled_within_a_step_leaves_nothing(
    root: Path, sandbox: Sandbox, race: Race, call: str, by: str
) -> None:
    reached, go_on = asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()

    def hold() -> None:
        loop.call_soon_threadsafe(reached.set)
        assert go_on.wait(10)

    async def given() -> AsyncIterator[bytes]:
        yield b"a"
        if call == "unlink":
            raise ConnectionError  # what is undone is held up

    async def place(scope: anyio.CancelScope) -> None:
        with scope:
            await sandbox.place("a.txt", given())

    race(call, hold)
    scope = anyio.CancelScope()
    task = asyncio.create_task(place(scope))
    await reached.wait()
    for _ in range(3):  # the impatient cancel again
        if by == "asyncio":
            task.cancel()
        else:
            scope.cancel()
        await asyncio.sleep(0)
    assert not task.done()
    go_on.set()
    if by == "asyncio":
        with pytest.raises(asyncio.CancelledError):
            await task
    else:
        await task
        assert scope.cancelled_caught
    assert os.listdir(root) == []
