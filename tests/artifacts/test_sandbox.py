"""An agent that lies and races, and what of its files is found all the same."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import stat
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from opencode_async.artifacts.filenames import safe_filename
from opencode_async.artifacts.sandbox import Found, Sandbox
from opencode_async.artifacts.sandbox_file import CHUNK
from opencode_async.errors import SandboxFileRefused
from tests.artifacts.conftest import Race
from tests.support.sandboxes import (
    EVERYTHING,
    MAX_BYTES,
    chunked,
    contents,
    paths,
    reasons,
    refusal,
    refused_when_read,
)

# What an honest agent does


async def test_files_are_found_by_path_and_read(root: Path, sandbox: Sandbox) -> None:
    (root / "b" / "c").mkdir(parents=True)
    (root / "b" / "c" / "deep.txt").write_text("deep")
    (root / "b.txt").write_text("b")
    (root / "empty").touch()
    found = await sandbox.fresh(EVERYTHING)
    assert paths(found) == ["b.txt", "b/c/deep.txt", "empty"]
    assert not found.refused
    assert [await contents(file) for file in found.files] == [b"b", b"deep", b""]
    assert found == await sandbox.fresh(EVERYTHING)
    assert found.files[1] == await sandbox.file("b/c/deep.txt")
    assert found.files[0].size == 1
    assert found.files[0].modified == (root / "b.txt").stat().st_ctime


async def test_a_large_file_comes_in_chunks(root: Path, sandbox: Sandbox) -> None:
    data = os.urandom(2 * CHUNK + 7)
    (root / "large").write_bytes(data)
    file = await sandbox.file("large")
    chunks = [chunk async for chunk in file.read()]
    assert [len(chunk) for chunk in chunks] == [CHUNK, CHUNK, 7]
    assert b"".join(chunks) == data


async def test_a_sandbox_that_is_not_there_is_empty(tmp_path: Path) -> None:
    sandbox = Sandbox(tmp_path / "none" / "at-all", max_bytes=MAX_BYTES)
    assert await sandbox.fresh(EVERYTHING) == Found()
    assert await refusal(sandbox, "a.txt") == "gone"


async def test_what_another_conversation_wrote_is_not_found(
    root: Path, sandbox: Sandbox, secret: Path
) -> None:
    (root / "mine.txt").write_text("mine")
    assert paths(await sandbox.fresh(EVERYTHING)) == ["mine.txt"]
    assert await refusal(sandbox, "../another/a.txt") == "name"
    assert await refusal(sandbox, str(secret / "a.txt")) == "name"


# When files were written


async def test_only_what_changed_since_is_fresh(root: Path, sandbox: Sandbox) -> None:
    (root / "a.txt").write_text("a")
    changed = (root / "a.txt").stat().st_ctime
    assert paths(await sandbox.fresh(changed + 1)) == ["a.txt"]
    assert paths(await sandbox.fresh(changed + 3)) == []
    assert paths(await sandbox.fresh(changed + 3, slack=5)) == ["a.txt"]


async def test_a_date_in_the_future_makes_no_file_fresh(root: Path, sandbox: Sandbox) -> None:
    (root / "a.txt").write_text("a")
    os.utime(root / "a.txt", (time.time() + 10**6,) * 2)
    assert await sandbox.fresh(time.time() + 3600) == Found()


async def test_a_date_in_the_past_hides_no_file(root: Path, sandbox: Sandbox) -> None:
    (root / "a.txt").write_text("a")
    os.utime(root / "a.txt", (1, 1))
    (file,) = (await sandbox.fresh(time.time())).files
    assert await contents(file) == b"a"
    assert file.modified > 10**9


async def test_what_is_refused_is_not_reported_again_in_later_turns(
    root: Path, sandbox: Sandbox
) -> None:
    (root / "link").symlink_to("nowhere")
    os.mkfifo(root / "fifo")
    assert reasons(await sandbox.fresh(time.time())) == {"fifo": "not_regular", "link": "symlink"}
    assert await sandbox.fresh(time.time() + 3600) == Found()


# What is no file of the agent's own


async def test_a_link_to_a_file_is_refused(root: Path, sandbox: Sandbox) -> None:
    (root / "passwd").symlink_to("/etc/passwd")
    assert await sandbox.fresh(EVERYTHING) != Found()
    assert reasons(await sandbox.fresh(EVERYTHING)) == {"passwd": "symlink"}
    assert await refusal(sandbox, "passwd") == "symlink"


async def test_a_link_to_a_folder_is_not_entered(
    root: Path, sandbox: Sandbox, secret: Path
) -> None:
    (root / "etc").symlink_to("/etc")
    (root / "other").symlink_to(secret)
    (root / "loop").symlink_to(".")
    found = await sandbox.fresh(EVERYTHING)
    assert paths(found) == []
    assert reasons(found) == {"etc": "symlink", "loop": "symlink", "other": "symlink"}
    assert await refusal(sandbox, "etc/passwd") == "symlink"
    assert await refusal(sandbox, "other/a.txt") == "symlink"


async def test_a_second_name_of_another_file_is_refused(
    root: Path, sandbox: Sandbox, secret: Path
) -> None:
    (root / "mine.txt").hardlink_to(secret / "a.txt")
    assert reasons(await sandbox.fresh(EVERYTHING)) == {"mine.txt": "hard_link"}
    assert await refusal(sandbox, "mine.txt") == "hard_link"


async def test_a_fifo_is_not_waited_for(root: Path, sandbox: Sandbox) -> None:
    (root / "a").write_text("a")
    file = await sandbox.file("a")
    (root / "a").unlink()
    os.mkfifo(root / "a")
    async with asyncio.timeout(5):
        assert reasons(await sandbox.fresh(EVERYTHING)) == {"a": "not_regular"}
        assert await refusal(sandbox, "a") == "not_regular"
        assert await refused_when_read(file) == "not_regular"


async def test_a_socket_is_refused(
    root: Path, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    (root / "a").write_text("a")
    file = await sandbox.file("a")
    (root / "a").unlink()
    monkeypatch.chdir(root)  # the path of a socket is short
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind("a")
        assert reasons(await sandbox.fresh(EVERYTHING)) == {"a": "not_regular"}
        assert await refused_when_read(file) == "not_regular"


async def test_a_device_is_refused(root: Path, sandbox: Sandbox) -> None:
    try:
        os.mknod(root / "zero", stat.S_IFCHR | 0o666, os.makedev(1, 5))
    except PermissionError:
        pytest.skip("devices: only root makes them")
    assert reasons(await sandbox.fresh(EVERYTHING)) == {"zero": "not_regular"}
    assert await refusal(sandbox, "zero") == "not_regular"


async def test_a_folder_is_no_file(root: Path, sandbox: Sandbox) -> None:
    (root / "folder").mkdir()
    (root / "file").touch()
    assert await refusal(sandbox, "folder") == "not_regular"
    assert await refusal(sandbox, "file/below") == "not_regular"
    assert await refusal(sandbox, "absent/below") == "gone"


async def test_a_sandbox_that_is_a_link_is_not_read_and_gives_way_to_a_folder(
    tmp_path: Path, secret: Path
) -> None:
    root = tmp_path / "root"
    root.symlink_to(secret)
    sandbox = Sandbox(root, max_bytes=MAX_BYTES)
    found = await sandbox.fresh(EVERYTHING)
    assert paths(found) == []
    assert reasons(found) == {".": "symlink"}
    assert await refusal(sandbox, "a.txt") == "symlink"
    await sandbox.place("b.txt", chunked(b"b"))
    assert (os.listdir(root), os.listdir(secret)) == (["b.txt"], ["a.txt"])


async def test_a_sandbox_that_is_a_file_is_not_read_and_gives_way_to_a_folder(
    tmp_path: Path,
) -> None:
    root = tmp_path / "root"
    root.touch()
    sandbox = Sandbox(root, max_bytes=MAX_BYTES)
    assert reasons(await sandbox.fresh(EVERYTHING)) == {".": "not_regular"}
    await sandbox.place("b.txt", chunked(b"b"))
    assert os.listdir(root) == ["b.txt"]


async def test_what_must_not_be_read_is_reported(root: Path, sandbox: Sandbox, race: Race) -> None:
    (root / "folder").mkdir()
    (root / "file").write_text("a")

    def deny() -> None:
        raise PermissionError(errno.EACCES, "as to anybody but root")

    race("open", deny, of="folder")
    assert reasons(await sandbox.fresh(EVERYTHING)) == {"folder": "unreadable"}
    race("open", deny, of="file")
    assert await refusal(sandbox, "file") == "unreadable"


# How much


async def test_a_sparse_file_is_as_large_as_it_says(root: Path, sandbox: Sandbox) -> None:
    with (root / "sparse").open("wb") as file:
        file.truncate(2 * 1024**3)
    began = time.perf_counter()
    assert reasons(await sandbox.fresh(EVERYTHING)) == {"sparse": "too_large"}
    assert await refusal(sandbox, "sparse") == "too_large"
    assert time.perf_counter() - began < 1


async def test_a_file_may_be_just_as_large_as_allowed(root: Path, sandbox: Sandbox) -> None:
    (root / "most").write_bytes(bytes(MAX_BYTES))
    (root / "more").write_bytes(bytes(MAX_BYTES + 1))
    found = await sandbox.fresh(EVERYTHING)
    assert paths(found) == ["most"]
    assert len(await contents(found.files[0])) == MAX_BYTES
    assert reasons(found) == {"more": "too_large"}


async def test_of_ten_thousand_files_a_thousand_are_looked_at(root: Path, sandbox: Sandbox) -> None:
    (root / "folder").mkdir()
    for number in range(10_000):
        os.close(os.open(root / "folder" / f"{number}", os.O_CREAT))
    (root / "report.txt").touch()
    began = time.perf_counter()
    found = await sandbox.fresh(EVERYTHING)
    assert time.perf_counter() - began < 2
    assert len(found.files) == 999  # and the folder
    assert "report.txt" in paths(found)  # what is above comes first
    assert reasons(found) == {".": "too_many"}


async def test_as_many_files_as_allowed_are_not_too_many(root: Path) -> None:
    for name in ("a", "b", "c"):
        (root / name).touch()
    found = await Sandbox(root, max_bytes=1, max_files=3).fresh(EVERYTHING)
    assert paths(found) == ["a", "b", "c"]
    assert not found.refused


async def test_what_lies_too_deep_is_reported_once(root: Path) -> None:
    (root / "1" / "2" / "3" / "4").mkdir(parents=True)
    (root / "1" / "2" / "too").mkdir()
    for folder in ("1", "1/2", "1/2/3"):
        (root / folder / "file").touch()
    found = await Sandbox(root, max_bytes=1, max_depth=3).fresh(EVERYTHING)
    assert paths(found) == ["1/2/file", "1/file"]
    assert reasons(found) == {"1/2/3": "too_deep"}


async def test_a_hundred_folders_deep_is_deep_enough(root: Path, sandbox: Sandbox) -> None:
    root.joinpath(*"d" * 100).mkdir(parents=True)
    assert reasons(await sandbox.fresh(EVERYTHING)) == {"/".join("d" * 16): "too_deep"}


# Names


async def test_a_name_that_is_no_text_is_refused(root: Path, sandbox: Sandbox) -> None:
    try:
        (root / "bad\udcff.txt").touch()
        (root / "folder\udcfe").mkdir()
    except OSError:
        pytest.skip("undecodable names: this file system has none")
    found = await sandbox.fresh(EVERYTHING)
    assert paths(found) == []
    assert reasons(found) == {"bad\ufffd.txt": "name", "folder\ufffd": "name"}
    assert await sandbox.fresh(time.time() + 3600) == Found()
    assert await refusal(sandbox, "bad\udcff.txt") == "name"
    assert await refusal(sandbox, "bad\ud800.txt") == "name"


async def test_a_path_that_is_too_long_is_refused(root: Path, sandbox: Sandbox) -> None:
    long = "d" * 200
    folder = root.joinpath(*[long] * 5)
    folder.mkdir(parents=True)
    (folder / "just-fits").touch()
    (folder / "does-not-fit-any-more").touch()
    found = await sandbox.fresh(EVERYTHING)
    assert paths(found) == ["/".join([*[long] * 5, "just-fits"])]
    (refused,) = found.refused
    assert (refused.reason, len(refused.path)) == ("name", 1024)
    assert await refusal(sandbox, "a" * 300) == "name"
    assert await refusal(sandbox, "a/" * 600 + "a") == "name"


async def test_odd_names_are_names(root: Path, sandbox: Sandbox) -> None:
    odd = ["a\nb.txt", "invoice\u202efdp.exe", " ", "...", "a\\b", "-rf", "CON", "caf\u00e9"]
    for name in odd:
        (root / name).write_text(name)
    found = await sandbox.fresh(EVERYTHING)
    assert paths(found) == sorted(odd)
    assert [(await contents(file)).decode() for file in found.files] == sorted(odd)
    assert not {"\n", "\u202e", "/", "\\"} & set("".join(map(safe_filename, paths(found))))


@pytest.mark.parametrize(
    "path",
    [
        "",
        ".",
        "..",
        "/etc/passwd",
        "/",
        "a/../b",
        "../a",
        "a/..",
        "a//b",
        "a/",
        "./a",
        "a\0b",
        "\0",
    ],
)
async def test_a_path_that_may_lead_elsewhere_is_refused(sandbox: Sandbox, path: str) -> None:
    assert await refusal(sandbox, path) == "name"


# Races while walking


async def test_a_folder_that_becomes_a_link_while_walking_leads_nowhere(
    root: Path, sandbox: Sandbox, secret: Path, race: Race
) -> None:
    (root / "folder").mkdir()
    (root / "folder" / "a.txt").write_text("mine")

    def swap() -> None:
        (root / "folder").rename(root / "was")
        (root / "folder").symlink_to(secret)

    race("open", swap, of="folder")
    found = await sandbox.fresh(EVERYTHING)
    assert paths(found) == []
    assert reasons(found) == {"folder": "symlink"}


async def test_a_folder_that_is_swapped_once_open_shows_what_it_had(
    root: Path, sandbox: Sandbox, secret: Path, race: Race
) -> None:
    (root / "folder").mkdir()
    (root / "folder" / "a.txt").write_text("mine, of that size")

    def swap() -> None:
        (root / "folder").rename(root / "was")
        (root / "folder").symlink_to(secret)

    race("stat", swap, of="a.txt")
    (file,) = (await sandbox.fresh(EVERYTHING)).files
    assert (file.path, file.size) == ("folder/a.txt", 18)  # not those of the other a.txt
    assert await refused_when_read(file) == "symlink"


async def test_what_goes_while_walking_is_not_there(
    root: Path, sandbox: Sandbox, race: Race
) -> None:
    (root / "folder").mkdir()
    (root / "file").touch()
    race("stat", (root / "file").unlink, of="file")
    race("open", (root / "folder").rmdir, of="folder")
    assert await sandbox.fresh(EVERYTHING) == Found()


async def test_the_folder_that_sandboxes_are_in_is_no_link_either(tmp_path: Path) -> None:
    """With bash an agent can move its server's folders: no file of the host's goes elsewhere."""
    elsewhere = tmp_path / "elsewhere" / "key"
    elsewhere.mkdir(parents=True)
    (elsewhere / "theirs.txt").write_text("Theirs.")
    (tmp_path / "sandbox").symlink_to(tmp_path / "elsewhere")
    sandbox = Sandbox(tmp_path / "sandbox" / "key", max_bytes=1000)

    async def chunks() -> AsyncIterator[bytes]:
        yield b"Ours."

    found = await sandbox.fresh(0)
    assert (found.files, [(r.path, r.reason) for r in found.refused]) == ((), [(".", "symlink")])
    for refused in (sandbox.file("theirs.txt"), sandbox.place("ours.txt", chunks())):
        with pytest.raises(SandboxFileRefused, match="symlink"):
            await refused
    assert [path.name for path in elsewhere.iterdir()] == ["theirs.txt"]
