"""What is kept of an agent's files where its disk is not seen: what its server gives exactly."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from opencode_async import Artifact, OpencodeClient, SandboxFileRefused, Transform
from opencode_async.artifacts import distant
from opencode_async.artifacts.distant import DistantSandbox
from opencode_async.testing import ScriptedServer
from tests.turns.ended import run
from tests.turns.test_artifacts import an_app, bash, calls, kept, refusals, sandboxed, write

BINARY = bytes(range(256)) * 40


async def test_binary_files_are_kept_once_and_text_is_not_guessed_at(
    database_url: str, opencode: ScriptedServer, tmp_path: Path
) -> None:
    store, elsewhere = tmp_path / "kept", tmp_path / "not here"
    async with an_app(database_url, opencode, store, directory=elsewhere) as app:
        conversation, folder = await sandboxed(app, opencode)
        (folder / "made.bin").write_bytes(BINARY)
        command = (
            f"cd {folder} && mkdir deep && cp made.bin deep/copy.bin && echo ' text ' > a.txt"
            " && ln -s /usr/bin/true link && ln -s deep links && mkfifo fifo"
        )
        script = calls(write(folder / "said.txt", " exact \n"), bash(command))
        row, _ = await run(app, conversation, script)
        made = {"made.bin": BINARY, "deep/copy.bin": BINARY, "said.txt": b" exact \n"}
        assert await kept(app, row) == made
        row, _ = await run(app, conversation, "SCRIPT:text Nothing.")
        assert await kept(app, row) == {}
        row, _ = await run(app, conversation, calls(bash(f"printf '\\0' >> {folder}/made.bin")))
        assert await kept(app, row) == {"made.bin": BINARY + b"\0"}
    assert refusals(app) == {}
    assert app.reports.errors == []


@pytest.fixture
async def client(opencode: ScriptedServer) -> Any:
    async with OpencodeClient(opencode) as client:
        yield client


def told(
    client: OpencodeClient, folder: Path, max_bytes: int = 1_000_000
) -> tuple[DistantSandbox, list[Exception]]:
    return DistantSandbox(str(folder), client.entries_of, client.binary, max_bytes), []


async def found(sandbox: DistantSandbox, failed: list[Exception]) -> dict[str, bytes]:
    files: list[Artifact] = [file async for file in sandbox.files(failed.append)]
    return {file.path: await file.content() for file in files}


@pytest.fixture
def folder(opencode: ScriptedServer, tmp_path: Path) -> Path:
    folder = Path(str(opencode.directory)) / "sandbox" / f"distant-{os.urandom(8).hex()}"
    folder.mkdir(parents=True)
    return folder


async def test_a_folder_that_is_not_there_is_empty(client: OpencodeClient, folder: Path) -> None:
    sandbox, failed = told(client, folder / "not" / "there")
    assert await found(sandbox, failed) == {}
    assert failed == []


async def test_no_link_leads_out_of_the_servers_directory(
    client: OpencodeClient, folder: Path
) -> None:
    (folder / "true").symlink_to("/usr/bin/true")
    (folder / "bin").symlink_to("/usr/bin")
    sandbox, failed = told(client, folder)
    assert await found(sandbox, failed) == {}
    for path in ("true", "bin/true", "../../../../../../../usr/bin/true"):
        with pytest.raises(Exception, match="500"):
            await client.binary(str(folder / path), 1_000_000)


async def test_what_is_neither_text_nor_binary_is_reported_and_costs_nothing_else(
    client: OpencodeClient, folder: Path
) -> None:
    (folder / "a.latin").write_bytes("Wörter".encode("latin-1"))
    (folder / "b.bin").write_bytes(BINARY)
    sandbox, failed = told(client, folder)
    assert await found(sandbox, failed) == {"b.bin": BINARY}
    assert len(failed) == 1


async def test_bytes_beyond_what_may_be_held_are_not_read(
    client: OpencodeClient, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(distant, "MOST_BYTES", 20_000)
    (folder / "a.bin").write_bytes(BINARY)
    (folder / "b.bin").write_bytes(BINARY)
    (folder / "c.bin").write_bytes(bytes(2_000_000))
    sandbox, failed = told(client, folder)
    assert await found(sandbox, failed) == {"a.bin": BINARY}
    assert [(e.path, e.reason) for e in failed if isinstance(e, SandboxFileRefused)] == [
        ("b.bin", "too_large"),
        ("c.bin", "too_large"),
    ]
    sandbox, failed = told(client, folder, max_bytes=1000)
    assert await found(sandbox, failed) == {}
    assert len(failed) == 3


async def test_so_many_entries_are_looked_at_and_so_deep(
    client: OpencodeClient, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(distant, "MOST_DEPTH", 2)
    (folder / "one" / "two").mkdir(parents=True)
    (folder / "one" / "two" / "a.bin").write_bytes(BINARY)
    (folder / "one" / "a.bin").write_bytes(BINARY)
    sandbox, failed = told(client, folder)
    assert await found(sandbox, failed) == {"one/a.bin": BINARY}
    monkeypatch.setattr(distant, "MOST_ENTRIES", 1)
    assert await found(sandbox, failed) == {}
    assert [(e.path, e.reason) for e in failed if isinstance(e, SandboxFileRefused)] == [
        ("one/two", "too_deep"),
        (".", "too_many"),
    ]


async def test_a_folder_that_cannot_be_listed_is_reported() -> None:
    async def entries_of(folder: str) -> dict[str, str] | None:
        return {"a": "directory", "b.bin": "file"} if folder == "/sandbox/" else None

    async def binary(path: str, most: int) -> bytes:
        return BINARY

    failed: list[Exception] = []
    sandbox = DistantSandbox("/sandbox", entries_of, binary, 1_000_000)
    assert await found(sandbox, failed) == {"b.bin": BINARY}
    assert [(e.path, e.reason) for e in failed if isinstance(e, SandboxFileRefused)] == [
        ("a", "unreadable")
    ]


async def test_what_a_transform_renders_of_an_old_file_is_no_new_one(
    database_url: str, opencode: ScriptedServer, tmp_path: Path
) -> None:
    policy: dict[str, Any] = {
        "directory": tmp_path / "not here",
        "default_attach": "none",
        "transforms": [Counted()],
        "secret": "secret",
    }
    async with an_app(database_url, opencode, tmp_path / "kept", **policy) as app:
        conversation, folder = await sandboxed(app, opencode)
        (folder / "data.bin").write_bytes(BINARY)
        row, _ = await run(app, conversation, "SCRIPT:text One.")
        assert await kept(app, row) == {"data.txt": b"10240"}
        row, _ = await run(app, conversation, "SCRIPT:text Two.")
        assert await kept(app, row) == {}


class Counted(Transform):
    source_filename, destination_filename = "data.bin", "data.txt"

    async def render(self, file: Artifact) -> Artifact:
        return Artifact.of("", str(len(await file.content())))


async def test_names_from_a_server_that_lies_are_refused() -> None:
    async def entries_of(folder: str) -> dict[str, str]:
        names = {"../../other/a.bin", "..", "", "/etc/passwd", "a\0b", "fine.bin"}
        return dict.fromkeys(names, "file")

    async def binary(path: str, most: int) -> bytes:
        return json.dumps(path).encode()

    failed: list[Exception] = []
    sandbox = DistantSandbox("/sandbox", entries_of, binary, 1000)
    assert await found(sandbox, failed) == {"fine.bin": b'"/sandbox/fine.bin"'}
    assert {e.reason for e in failed if isinstance(e, SandboxFileRefused)} == {"name"}
    assert len(failed) == 5
