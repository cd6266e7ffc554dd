"""An agent that swaps a file after it was found, or while it is read."""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from opencode_async.artifacts.sandbox import Sandbox
from opencode_async.artifacts.sandbox_file import CHUNK
from opencode_async.errors import SandboxFileRefused
from tests.artifacts.conftest import Race
from tests.support.sandboxes import (
    EVERYTHING,
    chunked,
    contents,
    descriptors_below,
    refused_when_read,
)

# Races between finding and reading


@pytest.mark.parametrize("back", [False, True])
async def test_a_folder_that_becomes_a_link_before_reading_leads_nowhere(
    root: Path, sandbox: Sandbox, secret: Path, back: bool
) -> None:
    (root / "folder").mkdir()
    (root / "folder" / "a.txt").write_text("mine")
    (file,) = (await sandbox.fresh(EVERYTHING)).files
    (root / "folder").rename(root / "was")
    (root / "folder").symlink_to(root / "was" if back else secret)
    assert await refused_when_read(file) == "symlink"


async def test_a_folder_of_the_same_name_is_another(
    root: Path, sandbox: Sandbox, secret: Path
) -> None:
    (root / "folder").mkdir()
    (root / "folder" / "a.txt").write_text("mine, 6"[:6])
    (file,) = (await sandbox.fresh(EVERYTHING)).files
    shutil.move(root / "folder", root / "was")
    shutil.move(secret, root / "folder")
    assert await refused_when_read(file) == "changed"


async def test_a_file_that_is_something_else_before_reading_is_refused(
    root: Path, sandbox: Sandbox, secret: Path
) -> None:
    moves: dict[str, Callable[[Path], object]] = {
        "symlink": lambda path: path.symlink_to(secret / "a.txt"),
        "hard_link": lambda path: path.hardlink_to(secret / "a.txt"),
        "not_regular": lambda path: path.mkdir(),
        "gone": lambda path: None,
        "changed": lambda path: path.write_text("others"),
    }
    for reason, move in moves.items():
        (root / reason).write_text("secret")
        file = await sandbox.file(reason)
        (root / reason).rename(root / f"was-{reason}")  # its inode stays in use
        move(root / reason)
        assert await refused_when_read(file) == reason


async def test_a_second_name_given_before_reading_is_refused(
    root: Path, sandbox: Sandbox, secret: Path
) -> None:
    (root / "a").write_text("a")
    file = await sandbox.file("a")
    (secret / "b").hardlink_to(root / "a")
    assert await refused_when_read(file) == "hard_link"


# Races while reading


def overwritten(path: Path) -> None:
    with path.open("r+b") as file:
        file.write(b"other")
    os.utime(path, ns=(10**18, 10**18))  # in case the clock has not moved on; the ctime has


def grown(path: Path) -> None:
    with path.open("ab") as file:
        file.write(bytes(10 * CHUNK))


def replaced(path: Path) -> None:
    size = path.stat().st_size
    path.unlink()
    path.write_bytes(bytes(size))


def swapped(path: Path) -> None:
    path.rename(path.parent / "b")
    path.symlink_to("b")


MOVES: dict[str, tuple[Callable[[Path], object], set[str]]] = {
    "overwritten": (overwritten, {"changed"}),
    "growing": (grown, {"changed"}),
    "truncated": (lambda path: os.truncate(path, 5), {"changed"}),
    "replaced": (replaced, {"changed"}),
    "removed": (lambda path: path.unlink(), {"gone", "changed"}),
    "linked": (lambda path: (path.parent / "b").hardlink_to(path), {"changed", "hard_link"}),
    "a link": (swapped, {"symlink", "changed"}),
}


@pytest.mark.parametrize("move", MOVES)
async def test_a_file_that_changes_between_two_chunks_is_refused(
    root: Path, sandbox: Sandbox, move: str
) -> None:
    (root / "a").write_bytes(bytes(3 * CHUNK))
    file = await sandbox.file("a")
    act, expected = MOVES[move]
    chunks = file.read()
    assert len(await anext(chunks)) == CHUNK
    act(root / "a")
    with pytest.raises(SandboxFileRefused) as raised:
        await anext(chunks)
    assert raised.value.reason in expected


@pytest.mark.parametrize("move", MOVES)
async def test_a_file_that_changes_while_its_last_chunk_is_read_is_refused(
    root: Path, sandbox: Sandbox, race: Race, move: str
) -> None:
    (root / "a").write_bytes(bytes(100))
    file = await sandbox.file("a")
    act, expected = MOVES[move]
    race("pread", lambda: act(root / "a"))
    with pytest.raises(SandboxFileRefused) as raised:
        await contents(file)
    assert raised.value.reason in expected


async def test_who_stops_reading_leaves_nothing_open(
    root: Path, sandbox: Sandbox, tmp_path: Path
) -> None:
    (root / "a").write_bytes(bytes(3 * CHUNK))
    chunks = (await sandbox.file("a")).read()
    assert len(await anext(chunks)) == CHUNK
    if sys.platform == "linux":
        assert descriptors_below(tmp_path) == []


async def test_who_is_cancelled_while_reading_leaves_nothing_open(
    root: Path, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    (root / "a").write_bytes(bytes(3 * CHUNK))
    file = await sandbox.file("a")
    reading, go_on, closed = threading.Event(), threading.Event(), threading.Event()
    pread, close = os.pread, os.close

    def slow(descriptor: int, size: int, start: int) -> bytes:
        reading.set()
        assert go_on.wait(10)
        return pread(descriptor, size, start)

    def noticed(descriptor: int) -> None:
        close(descriptor)
        if go_on.is_set() and not descriptors_below(root):
            closed.set()

    monkeypatch.setattr(os, "pread", slow)
    monkeypatch.setattr(os, "close", noticed)
    task = asyncio.create_task(contents(file))
    assert await asyncio.to_thread(reading.wait, 10)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    go_on.set()
    assert await asyncio.to_thread(closed.wait, 10)


async def test_the_event_loop_is_not_held_up(
    root: Path, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    (root / "a").write_text("a")
    loop_thread = threading.get_ident()
    held_up_by = []

    def watched(original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **named: Any) -> Any:
            if threading.get_ident() == loop_thread:
                held_up_by.append(original)
            return original(*args, **named)

        return call

    with monkeypatch.context() as patched:
        for name in ("open", "stat", "fstat", "pread", "scandir", "write", "unlink", "mkdir"):
            patched.setattr(os, name, watched(getattr(os, name)))
        (file,) = (await sandbox.fresh(EVERYTHING)).files
        assert await contents(file) == b"a"
        assert await sandbox.place("b", chunked(b"b")) == "b"
    assert held_up_by == []
