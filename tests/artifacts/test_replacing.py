"""A host's file at a path of its own in an agent's folder, whatever the agent has put there."""

from __future__ import annotations

import asyncio
import os
import stat
import subprocess
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import pytest

from opencode_async.artifacts.sandbox import Sandbox
from opencode_async.errors import SandboxFileRefused
from tests.artifacts.conftest import Race
from tests.support.sandboxes import MAX_BYTES, chunked


def files(root: Path) -> dict[str, str]:
    return {str(p.relative_to(root)): p.read_text() for p in root.rglob("*") if p.is_file()}


async def test_a_file_and_its_folders_are_made(tmp_path: Path) -> None:
    root = tmp_path / "not" / "yet"
    sandbox = Sandbox(root, max_bytes=MAX_BYTES)
    await sandbox.replace("a/b/c.txt", chunked(b"o", b"", b"ne"))
    assert files(root) == {"a/b/c.txt": "one"}
    assert stat.S_IMODE((root / "a/b/c.txt").stat().st_mode) == 0o644


async def test_what_is_there_gives_way_whole(root: Path, sandbox: Sandbox) -> None:
    (root / "a.txt").write_text("the agent's, longer")
    with (root / "a.txt").open() as reading:
        await sandbox.replace("a.txt", chunked(b"the host's"))
        assert reading.read() == "the agent's, longer"
    assert files(root) == {"a.txt": "the host's"}


async def test_a_link_gives_way_and_what_it_leads_to_stays(
    root: Path, sandbox: Sandbox, secret: Path
) -> None:
    (root / "a.txt").symlink_to(secret / "a.txt")
    os.link(secret / "a.txt", root / "b.txt")
    await sandbox.replace("a.txt", chunked(b"x"))
    await sandbox.replace("b.txt", chunked(b"y"))
    assert files(root) == {"a.txt": "x", "b.txt": "y"}
    assert not (root / "a.txt").is_symlink()
    assert (secret / "a.txt").read_text() == "secret"


@pytest.mark.parametrize("path", ["", ".", "..", "/a", "a/../../b", "a//b", "a\0b", "x" * 300])
async def test_a_path_that_may_lead_elsewhere_is_refused(
    root: Path, sandbox: Sandbox, path: str
) -> None:
    with pytest.raises(SandboxFileRefused) as refused:
        await sandbox.replace(path, chunked(b"x"))
    assert refused.value.reason == "name"
    assert os.listdir(root) == []


@pytest.mark.parametrize(
    ("there", "reason"), [("folder", "not_regular"), ("link", "symlink"), ("file", "not_regular")]
)
async def test_nothing_is_written_through_what_is_no_folder_or_over_one(
    root: Path, sandbox: Sandbox, secret: Path, there: str, reason: str
) -> None:
    path = "a/a.txt"
    if there == "folder":
        (root / path).mkdir(parents=True)
    elif there == "link":
        (root / "a").symlink_to(secret)
    else:
        (root / "a").write_text("a file")
    with pytest.raises(SandboxFileRefused) as refused:
        await sandbox.replace(path, chunked(b"x"))
    assert (refused.value.path, refused.value.reason) == (path, reason)
    assert (secret / "a.txt").read_text() == "secret"
    assert not [name for name in os.listdir(root) if name != "a"]


async def test_a_folder_that_becomes_a_link_meanwhile_is_still_the_one_written_to(
    root: Path, sandbox: Sandbox, secret: Path
) -> None:
    async def swapping() -> AsyncIterator[bytes]:
        yield b"x"
        (root / "a").rename(root / "was")
        (root / "a").symlink_to(secret)

    await sandbox.replace("a/a.txt", swapping())
    assert (root / "was/a.txt").read_text() == "x"
    assert (secret / "a.txt").read_text() == "secret"


async def test_a_folder_that_becomes_a_link_before_it_is_opened_leads_nowhere(
    root: Path, sandbox: Sandbox, secret: Path, race: Race
) -> None:
    (root / "a").mkdir()

    def swap() -> None:
        (root / "a").rmdir()
        (root / "a").symlink_to(secret)

    race("open", swap, of="a")
    with pytest.raises(SandboxFileRefused, match="symlink"):
        await sandbox.replace("a/a.txt", chunked(b"x"))
    assert (secret / "a.txt").read_text() == "secret"


async def test_a_failure_leaves_what_was_there(root: Path, sandbox: Sandbox) -> None:
    (root / "a.txt").write_text("was")

    async def failing() -> AsyncIterator[bytes]:
        yield b"half of it"
        raise ConnectionError

    with pytest.raises(ConnectionError):
        await sandbox.replace("a.txt", failing())
    assert files(root) == {"a.txt": "was"}


async def test_one_that_is_cancelled_leaves_what_was_there(root: Path, sandbox: Sandbox) -> None:
    (root / "a.txt").write_text("was")
    waiting = asyncio.Event()

    async def endless() -> AsyncIterator[bytes]:
        yield b"half of it"
        waiting.set()
        await asyncio.Event().wait()

    task = asyncio.create_task(sandbox.replace("a.txt", endless()))
    await waiting.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert files(root) == {"a.txt": "was"}


# Erasing


async def test_a_sandbox_is_erased_with_all_that_is_in_it(root: Path, sandbox: Sandbox) -> None:
    (root / "a" / "b").mkdir(parents=True)
    (root / "a" / "b" / "c.txt").touch()
    (root / "read only").mkdir(mode=0o500)
    os.mkfifo(root / "fifo")
    await sandbox.erase()
    assert os.listdir(root.parent) in ([], ["another"])
    await sandbox.erase()


async def test_what_links_lead_to_is_not_erased(root: Path, sandbox: Sandbox, secret: Path) -> None:
    (root / "file").symlink_to(secret / "a.txt")
    (root / "folder").symlink_to(secret)
    await sandbox.erase()
    assert os.listdir(root.parent) in ([], ["another"])
    assert (secret / "a.txt").read_text() == "secret"


async def test_of_a_sandbox_that_is_a_link_the_link_is_erased(
    root: Path, sandbox: Sandbox, secret: Path
) -> None:
    os.rmdir(root)
    os.symlink(secret, root)
    await sandbox.erase()
    assert os.listdir(root.parent) in ([], ["another"])
    assert (secret / "a.txt").read_text() == "secret"


async def test_a_folder_of_sandboxes_that_is_a_link_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "elsewhere" / "key").mkdir(parents=True)
    (tmp_path / "sandbox").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="sandbox"):
        await Sandbox(tmp_path / "sandbox" / "key", max_bytes=MAX_BYTES).erase()
    assert (tmp_path / "elsewhere" / "key").exists()


async def test_a_folder_that_is_swapped_while_erasing_leads_nowhere(
    root: Path, sandbox: Sandbox, secret: Path, race: Race
) -> None:
    (root / "folder").mkdir()

    def swap() -> None:
        (root / "folder").rmdir()
        (root / "folder").symlink_to(secret)

    race("open", swap, of="folder")
    with pytest.raises(OSError, match="symbolic link"):
        await sandbox.erase()
    assert (secret / "a.txt").read_text() == "secret"


def test_what_is_too_deep_to_be_gone_through_is_an_error_of_the_disk(
    root: Path, sandbox: Sandbox
) -> None:
    """Python 3.13 can go through it."""
    here = os.open(root, os.O_RDONLY)
    for _ in range(1200):
        os.mkdir("d", dir_fd=here)
        below = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)
    try:
        with suppress(OSError):
            asyncio.run(sandbox.erase())
    finally:
        subprocess.run(["/bin/rm", "-rf", root], check=True)
