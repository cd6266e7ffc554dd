"""A host's file at a path of its own in an agent's folder, whatever the agent has put there."""

from __future__ import annotations

import asyncio
import os
import stat
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from opencode_async.artifacts.sandbox import Found, Sandbox
from opencode_async.errors import SandboxFileRefused
from tests.artifacts.conftest import Race
from tests.support.parts import REPOSITORY
from tests.support.sandboxes import MAX_BYTES, chunked, descriptors_below

TEMPORARY = Path(tempfile.gettempdir())


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


@pytest.mark.parametrize("there", ["folder", "link", "file", "fifo", "the root a link"])
async def test_whatever_is_in_the_way_gives_way(
    root: Path, sandbox: Sandbox, secret: Path, there: str
) -> None:
    match there:
        case "folder":
            (root / "a" / "a.txt" / "deep").mkdir(parents=True)
            (root / "a" / "a.txt" / "deep" / "link").symlink_to(secret)
        case "link":
            (root / "a").symlink_to(secret)
        case "file":
            (root / "a").write_text("a file")
        case "fifo":
            os.mkfifo(root / "a")
        case "the root a link":
            os.rmdir(root)
            os.symlink(secret, root)
    await sandbox.replace("a/a.txt", chunked(b"x"))
    assert files(root) == {"a/a.txt": "x"}
    assert (secret / "a.txt").read_text() == "secret"


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
    await sandbox.replace("a/a.txt", chunked(b"x"))
    assert files(root) == {"a/a.txt": "x"}
    assert (secret / "a.txt").read_text() == "secret"


async def test_what_is_half_written_is_not_found(root: Path, sandbox: Sandbox) -> None:
    async def looking() -> AsyncIterator[bytes]:
        yield b"half of it"
        assert len(os.listdir(root)) == 1
        assert await sandbox.fresh(0) == Found()

    await sandbox.replace("a.txt", looking())
    assert files(root) == {"a.txt": "half of it"}


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
    with pytest.raises(OSError, match="folder"):
        await sandbox.erase()
    assert (secret / "a.txt").read_text() == "secret"
    await sandbox.erase()
    assert (secret / "a.txt").read_text() == "secret"
    assert os.listdir(root.parent) == ["another"]


async def test_however_deep_folders_lie_few_descriptors_are_enough(
    root: Path, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = os.open(root, os.O_RDONLY)
    for _ in range(1500):
        os.mkdir("d", dir_fd=here)
        below = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)
    most = 0
    opened = os.open

    def counted(*args: Any, **named: Any) -> int:
        nonlocal most
        most = max(most, len(descriptors_below(root)))
        return opened(*args, **named)

    monkeypatch.setattr(os, "open", counted)
    await sandbox.erase()
    assert most <= 3
    assert os.listdir(root.parent) == []


AS_NOBODY = """
import asyncio, concurrent.futures.thread, os, sys
from pathlib import Path
from opencode_async.artifacts.sandbox import Sandbox

os.setgroups([])
os.setgid(65534)
os.setuid(65534)
root = Path(sys.argv[1])
(root / "cache" / "deep").mkdir(parents=True)
(root / "cache" / "deep" / "a.mod").touch()
(root / "cache" / "a.txt").touch()
os.chmod(root / "cache" / "deep", 0o555)
os.chmod(root / "cache", 0o555)
asyncio.run(Sandbox(root, max_bytes=0).erase())
"""


@pytest.mark.skipif(os.getuid() != 0, reason="only root may become somebody else")
async def test_folders_that_nothing_may_be_taken_out_of_are_erased_by_their_owner(
    root: Path,
) -> None:
    for folder in root.parents:
        if folder != TEMPORARY and folder.is_relative_to(TEMPORARY):  # pytest's own are closed, too
            os.chmod(folder, 0o777)  # noqa: S103
    os.rmdir(root)
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", AS_NOBODY, str(root)), env=environment, stderr=subprocess.PIPE
    )
    _, printed = await process.communicate()
    assert (process.returncode, printed) == (0, b"")
    assert os.listdir(root.parent) == []


async def test_what_cannot_be_removed_keeps_nothing_else(
    root: Path, sandbox: Sandbox, race: Race
) -> None:
    (root / "a" / "b").mkdir(parents=True)
    (root / "a" / "b" / "c.txt").touch()
    (root / "d.txt").touch()

    def refuse() -> None:
        raise PermissionError(13, "Permission denied", "a")

    race("rmdir", refuse, of="a")
    race("rmdir", refuse, of="a")
    with pytest.raises(PermissionError):
        await sandbox.erase()
    assert os.listdir(root) == ["a"]
    assert os.listdir(root / "a") == []
