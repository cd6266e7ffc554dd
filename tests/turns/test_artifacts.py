"""What turns leave as files is kept, byte for byte, and nothing that an agent should not give."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from opencode_async import (
    Artifact,
    ArtifactAdded,
    ArtifactPolicy,
    ArtifactStoreError,
    DirectoryArtifactStore,
    Finished,
    Sandbox,
    SandboxFileRefused,
    Transform,
)
from opencode_async.artifacts.message_artifacts import MessageArtifacts
from opencode_async.database import locked
from opencode_async.testing import ScriptedServer
from tests.support.hosts import QUICK, File, Host, Message, host, nowhere
from tests.support.replay import replay
from tests.turns.ended import lose_first_worker, run

BINARY = bytes(range(256)) * 40


@asynccontextmanager
async def an_app(
    url: str, server: ScriptedServer, store: Path, *, old: bool = False, **policy: Any
) -> AsyncIterator[Host[Any, Any]]:
    kept = ArtifactPolicy(DirectoryArtifactStore(store), **policy)
    async with host(url, server, old=old, files=True, artifacts=kept, dispatch=nowhere) as app:
        yield app


async def sandboxed(app: Host[Any, Any], server: ScriptedServer) -> tuple[Any, Path]:
    """A conversation, and its sandbox, where the agent has put nothing yet."""
    key = await app.conversation()
    async with app.sessions() as db:
        row = await db.get_one(app.agent.tables.conversation, key)
    folder = Path(str(server.directory)) / "sandbox" / str(row.sandbox_key)
    folder.mkdir(parents=True)
    return key, folder


def calls(*calls: tuple[str, dict[str, Any]]) -> str:
    return "SCRIPT:tools " + json.dumps([{"name": name, "args": args} for name, args in calls])


def write(path: Path | str, content: str) -> tuple[str, dict[str, Any]]:
    return "write", {"filePath": str(path), "content": content}


def bash(command: str) -> tuple[str, dict[str, Any]]:
    return "bash", {"command": command, "description": "Makes files"}


async def kept(app: Host[Any, Any], row: Any) -> dict[str, bytes]:
    """The files of a message, from the store."""
    async with app.sessions() as db:
        files = (await app.agent.besides.of(db, [row.id])).artifacts
    assert app.agent.artifacts is not None
    found = {}
    for file in files:
        async with app.agent.artifacts.store.open(file.key or "") as chunks:
            found[file.path or ""] = b"".join([chunk async for chunk in chunks])
        assert file.size == len(found[file.path or ""])
    return found


def refusals(app: Host[Any, Any]) -> dict[str, str]:
    """What was not kept, and why."""
    return {e.path: e.reason for e in app.reports.errors if isinstance(e, SandboxFileRefused)}


@pytest.mark.parametrize("old", [False, True])
async def test_all_that_a_turn_writes_is_kept_and_told_before_its_end(
    old: bool, database_url: str, opencode: ScriptedServer, tmp_path: Path
) -> None:
    async with host(
        database_url,
        opencode,
        old=old,
        files=True,
        artifacts=ArtifactPolicy(DirectoryArtifactStore(tmp_path / "kept")),
        dispatch=nowhere,
    ) as app:
        conversation, folder = await sandboxed(app, opencode)
        told: dict[str, Any] = {"tenant_id": 7, "source": "test"} if old else {}
        (folder / "made.bin").write_bytes(BINARY)
        copy = f"mkdir -p {folder}/deep && cp {folder}/made.bin {folder}/deep/copy.bin"
        script = calls(
            write(f"elsewhere-{folder.name}.txt", "Wörter\n"),
            write(folder / "edited.txt", "line one\nline two\n"),
            (
                "edit",
                {
                    "filePath": str(folder / "edited.txt"),
                    "oldString": "two",
                    "newString": "2",
                },
            ),
            bash(copy),
        )
        row, changes = await run(app, conversation, script, values=told)
        files = await kept(app, row)
        assert refusals(app) == {}
    assert (row.status, row.finish) == ("completed", "stop")
    assert files == {
        "deep/copy.bin": BINARY,
        "edited.txt": b"line one\nline 2\n",
        f"elsewhere-{folder.name}.txt": "Wörter\n".encode(),
        "made.bin": BINARY,
    }
    told_files = [change for change in changes if isinstance(change, ArtifactAdded)]
    assert len(told_files) == 4
    assert isinstance(changes[-1], Finished)
    state, finished = replay(changes)
    assert finished is not None
    by_path = {each["path"]: each for each in finished["artifacts"]}
    assert {each["path"]: each for each in state["artifacts"]} == by_path
    copy_json = by_path["deep/copy.bin"]
    assert copy_json["content_type"] == "application/octet-stream"
    assert (copy_json["filename"], copy_json["size"]) == ("copy.bin", len(BINARY))
    assert (copy_json["trusted"], copy_json["url"]) == (False, f"/artifacts/{copy_json['id']}")


async def test_a_patch_and_a_subagent_leave_files_too(
    database_url: str, opencode: ScriptedServer, tmp_path: Path
) -> None:
    async with an_app(database_url, opencode, tmp_path / "kept") as app:
        conversation, folder = await sandboxed(app, opencode)
        patch = f"*** Begin Patch\n*** Add File: {folder}/patched.txt\n+one\n*** End Patch"
        script = f"SCRIPT:apply_patch {json.dumps({'patch': patch})}"
        row, _ = await run(app, conversation, script, model="scripted/gpt-5-scripted")
        assert await kept(app, row) == {"patched.txt": b"one\n"}
        work = calls(write(folder / "theirs.txt", "Theirs.\n"), write("outside.txt", "Too.\n"))
        script = f"SCRIPT:task {json.dumps({'prompt': work})}"
        row, _ = await run(app, conversation, script, model="scripted/scripted")
        assert await kept(app, row) == {"theirs.txt": b"Theirs.\n", "outside.txt": b"Too.\n"}
        row, _ = await run(app, conversation, "SCRIPT:text Nothing.")
        assert await kept(app, row) == {}
    assert refusals(app) == {}


async def test_what_several_calls_of_one_step_write_is_kept(
    database_url: str, opencode: ScriptedServer, tmp_path: Path
) -> None:
    async with an_app(database_url, opencode, tmp_path / "kept") as app:
        conversation, folder = await sandboxed(app, opencode)
        script = calls(write(folder / "a.txt", "A.\n"), write(folder / "b.txt", "B.\n"))
        row, _ = await run(app, conversation, script.replace("SCRIPT:tools", "SCRIPT:multi"))
        assert await kept(app, row) == {"a.txt": b"A.\n", "b.txt": b"B.\n"}
        (call, other) = [part for part in row.parts if part["type"] == "tool"]
        assert {call["status"], other["status"]} == {"completed"}
    assert refusals(app) == {}


async def test_a_server_elsewhere_gives_what_is_on_the_wire(
    database_url: str, opencode: ScriptedServer, tmp_path: Path
) -> None:
    """Its disk is not seen here: what ``write`` wrote is exact, of an edit nothing is known."""
    async with an_app(
        database_url, opencode, tmp_path / "kept", directory=tmp_path / "not here"
    ) as app:
        conversation, folder = await sandboxed(app, opencode)
        (folder / "edited.txt").write_text("one\n")
        edit = {"filePath": str(folder / "edited.txt"), "oldString": "one", "newString": "two"}
        read = ("read", {"filePath": str(folder / "edited.txt")})
        row, _ = await run(
            app, conversation, calls(write(folder / "new.txt", "New.\n"), read, ("edit", edit))
        )
        files = await kept(app, row)
    assert files == {"new.txt": b"New.\n"}
    assert refusals(app) == {"edited.txt": "unreadable"}


async def test_what_an_agent_should_not_give_is_not_kept_and_said(
    database_url: str, opencode: ScriptedServer, tmp_path: Path
) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_text("A secret.")
    async with an_app(database_url, opencode, tmp_path / "kept", max_bytes=1000) as app:
        conversation, folder = await sandboxed(app, opencode)
        _, theirs = await sandboxed(app, opencode)
        (theirs / "theirs.txt").write_text("Another conversation's.")
        command = " && ".join(
            [
                f"cd {folder}",
                f"ln -s {secret} link.txt",
                f"ln -s {theirs} folder",
                f"ln {theirs}/theirs.txt hard.txt",
                "mkfifo pipe",
                "truncate -s 2G sparse.bin",
                "echo fine > fine.txt",
                "printf x > $'new\\nline.txt'",
            ]
        )
        row, _ = await run(app, conversation, calls(bash(command)))
        files = await kept(app, row)
    assert (row.status, row.finish) == ("completed", "stop")
    assert files == {"fine.txt": b"fine\n", "new_line.txt": b"x"}
    assert refusals(app) == {
        "folder": "symlink",
        "hard.txt": "hard_link",
        "link.txt": "symlink",
        "pipe": "not_regular",
        "sparse.bin": "too_large",
    }


async def test_so_many_files_are_kept_and_no_more(
    database_url: str, opencode: ScriptedServer, tmp_path: Path
) -> None:
    async with an_app(database_url, opencode, tmp_path / "kept", max_files=2) as app:
        conversation, folder = await sandboxed(app, opencode)
        command = f"cd {folder} && for n in 1 2 3 4; do echo $n > $n.txt; done"
        row, _ = await run(app, conversation, calls(bash(command)))
        files = await kept(app, row)
    assert files == {"1.txt": b"1\n", "2.txt": b"2\n"}
    assert refusals(app) == {"3.txt": "too_many"}


class ToPage(Transform):
    """Renders the agent's report as a page."""

    source_filename = "report.md"
    destination_filename = "report.html"

    async def render(self, file: Artifact) -> Artifact:
        text = (await file.content()).decode()
        if "broken" in text:
            raise ValueError("it cannot be rendered")
        return Artifact.of("", f"<p>{len(text)} characters</p>", "text/html; charset=utf-8")


async def test_only_the_host_makes_files_of_a_transforms_name(
    database_url: str, opencode: ScriptedServer, tmp_path: Path
) -> None:
    policy: dict[str, Any] = {"transforms": [ToPage()], "secret": "for tests"}
    async with an_app(database_url, opencode, tmp_path / "kept", **policy) as app:
        conversation, folder = await sandboxed(app, opencode)
        lie = write(folder / "REPORT.html", "<script>alert(1)</script>")
        true = write(folder / "report.md", "Seven.\n")
        row, changes = await run(app, conversation, calls(lie, true))
        files = await kept(app, row)
        assert files == {"report.md": b"Seven.\n", "report.html": b"<p>7 characters</p>"}
        assert refusals(app) == {"REPORT.html": "name"}
        finished = replay(changes)[1] or {}
        trusted = {each["path"]: each["trusted"] for each in finished["artifacts"]}
        assert trusted == {"report.md": False, "report.html": True}
        (page,) = [each for each in finished["artifacts"] if each["trusted"]]
        assert page["content_type"] == "text/html; charset=utf-8"
        broken = write(folder / "report.md", "broken")
        row, _ = await run(
            app, conversation, calls(("read", {"filePath": broken[1]["filePath"]}), broken)
        )
        assert await kept(app, row) == {"report.md": b"broken"}
    assert "it cannot be rendered" in map(str, app.reports.errors)


async def test_nothing_is_kept_but_what_transforms_render_where_a_host_says_so(
    database_url: str, opencode: ScriptedServer, tmp_path: Path
) -> None:
    policy: dict[str, Any] = {"transforms": [ToPage()], "secret": "for tests"}
    policy["default_attach"] = "none"
    async with an_app(database_url, opencode, tmp_path / "kept", **policy) as app:
        conversation, folder = await sandboxed(app, opencode)
        script = calls(write(folder / "report.md", "Seven.\n"), write("notes.txt", "No.\n"))
        row, _ = await run(app, conversation, script)
        assert await kept(app, row) == {"report.html": b"<p>7 characters</p>"}


class FailingStore(DirectoryArtifactStore):
    """One that does not take everything."""

    async def put(self, key: str, chunks: AsyncIterator[bytes], **more: Any) -> bool:
        if more["size"] == 4:
            raise ArtifactStoreError(key, "is full")
        return await super().put(key, chunks, **more)


async def test_a_file_that_cannot_be_stored_fails_neither_the_others_nor_the_turn(
    database_url: str, opencode: ScriptedServer, tmp_path: Path
) -> None:
    policy = ArtifactPolicy(FailingStore(tmp_path / "kept"))
    async with host(database_url, opencode, files=True, artifacts=policy, dispatch=nowhere) as app:
        conversation, folder = await sandboxed(app, opencode)
        command = f"cd {folder} && echo one > a.txt && echo three > b.txt"
        row, _ = await run(app, conversation, calls(bash(command)))
        assert await kept(app, row) == {"b.txt": b"three\n"}
    assert (row.status, row.finish) == ("completed", "stop")
    assert [type(error) for error in app.reports.errors] == [ArtifactStoreError]


async def test_a_stop_is_heeded_while_files_are_being_kept(
    database_url: str, opencode: ScriptedServer, tmp_path: Path
) -> None:
    keeping = asyncio.Event()

    class Stuck(DirectoryArtifactStore):
        async def put(self, key: str, chunks: AsyncIterator[bytes], **more: Any) -> bool:
            keeping.set()
            await asyncio.Event().wait()
            return False

    policy = ArtifactPolicy(Stuck(tmp_path / "kept"))
    timings = replace(QUICK, stop=0.5)
    async with host(
        database_url, opencode, files=True, artifacts=policy, timings=timings, dispatch=nowhere
    ) as app:
        conversation, folder = await sandboxed(app, opencode)
        script = calls(bash(f"echo one > {folder}/a.txt"))
        message = await app.agent.turns.start(conversation, script)
        running = asyncio.create_task(app.agent.turns.run(message.id))
        async with asyncio.timeout(20):
            await keeping.wait()
            await app.agent.turns.cancel(message.id)
            result = await running
    assert (result.status, result.finish) == ("cancelled", "cancelled")
    assert [type(error) for error in app.reports.errors] == [TimeoutError]


async def test_whoever_takes_a_turn_over_keeps_nothing_twice_and_misses_nothing(
    database_url: str,
    opencode: ScriptedServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The first worker goes between the files and the end of its turn."""
    lose_first_worker(monkeypatch)
    async with an_app(database_url, opencode, tmp_path / "kept") as app:
        conversation, folder = await sandboxed(app, opencode)
        command = f"cd {folder} && echo one > a.txt && echo two > b.txt"
        message = await app.agent.turns.start(conversation, calls(bash(command)))
        with pytest.raises(asyncio.CancelledError):
            await app.agent.turns.run(message.id)
        first = await kept(app, message)
        (folder / "a.txt").write_text("changed since\n")
        result = await app.agent.turns.run(message.id)
        assert await kept(app, message) == first == {"a.txt": b"one\n", "b.txt": b"two\n"}
    assert (result.status, result.finish) == ("completed", "stop")
    objects = [path for path in (tmp_path / "kept").rglob("*") if path.is_file()]
    assert len(objects) == 2


async def test_of_fifty_who_attach_at_once_one_does(
    database_url: str, opencode: ScriptedServer, tmp_path: Path
) -> None:
    async with an_app(database_url, opencode, tmp_path / "kept") as app:
        conversation, folder = await sandboxed(app, opencode)
        message = await app.agent.turns.start(conversation, "SCRIPT:text Nothing.")
        (folder / "a.txt").write_text("one\n")
        row = await app.row(message.id)
        assert app.agent.artifacts is not None
        failed: list[Exception] = []

        async def holds(db: Any) -> None:
            await locked(db, Message, row.id)

        files = MessageArtifacts(
            File, row, app.sessions, app.agent.artifacts, holds=holds, failed=failed.append
        )
        sandbox = Sandbox(folder, max_bytes=1000)

        async def attach() -> int:
            found = files.attach_from([], sandbox, lambda path: None, cutoff=0)
            return len([each async for each in found])

        counts = await asyncio.gather(*(attach() for _ in range(50)))
        assert await kept(app, row) == {"a.txt": b"one\n"}
    assert sum(counts) == 1
    assert failed == []
    assert len([path for path in (tmp_path / "kept").rglob("*") if path.is_file()]) == 1


async def test_erasing_a_conversation_erases_its_files(
    database_url: str, opencode: ScriptedServer, tmp_path: Path
) -> None:
    async with an_app(database_url, opencode, tmp_path / "kept") as app:
        conversation, folder = await sandboxed(app, opencode)
        row, _ = await run(app, conversation, calls(bash(f"echo one > {folder}/a.txt")))
        assert len(await kept(app, row)) == 1
        await app.agent.erase(conversation)
        assert not folder.exists()
        assert folder.parent.exists()
    assert not [path for path in (tmp_path / "kept").rglob("*") if path.is_file()]
    assert app.reports.errors == []
