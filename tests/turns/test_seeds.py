"""A host's files are in the agent's folder when a turn begins, whatever became of them before."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.exc import OperationalError

from opencode_async import (
    Artifact,
    ArtifactPolicy,
    DirectoryArtifactStore,
    LeaseLost,
    Permissions,
    SandboxUnreachable,
    SeedFailed,
    TurnSettings,
)
from opencode_async.testing import ScriptedServer
from opencode_async.turns.lease import Lease
from tests.support.hosts import Host, host, nowhere
from tests.turns.ended import lose_first_worker, run
from tests.turns.test_artifacts import bash, calls, kept, refusals

DATA = Artifact.of("data/table.csv", "a,b\n1,2\n")


@asynccontextmanager
async def seeding(
    url: str, server: ScriptedServer, store: Path, *seed: Artifact, **options: Any
) -> AsyncIterator[tuple[Host[Any, Any], Any, Path]]:
    """An app whose turns begin with these files, a conversation, and its sandbox."""
    policy = options.pop("policy", {})

    async def settings_for(conversation: object) -> TurnSettings:
        return TurnSettings(seed=seed, **options)

    artifacts = ArtifactPolicy(DirectoryArtifactStore(store), **policy)
    hooks: dict[str, Any] = {"settings_for": settings_for, "artifacts": artifacts}
    async with host(url, server, files=True, dispatch=nowhere, **hooks) as app:
        key = await app.conversation()
        async with app.sessions() as db:
            row = await db.get_one(app.agent.tables.conversation, key)
        yield app, key, Path(str(server.directory)) / "sandbox" / str(row.sandbox_key)


async def test_a_hosts_files_are_there_and_theirs_until_the_agent_changes_them(
    database_url: str, opencode: ScriptedServer, tmp_path: Path
) -> None:
    empty = Artifact.of("empty", "")
    async with seeding(database_url, opencode, tmp_path, DATA, empty) as (app, key, folder):
        row, _ = await run(app, key, calls(bash(f"cat {folder}/data/table.csv")))
        (call,) = [part for part in row.parts if part["type"] == "tool"]
        assert call["output"].strip() == "a,b\n1,2"
        assert await kept(app, row) == {}
        told = row.request["body"]["system"]
        assert told == f"Your folder is {folder.resolve()}."
        change = f"cd {folder} && echo 3,4 >> data/table.csv && echo new > mine.txt"
        row, _ = await run(app, key, calls(bash(change)))
        changed = {"data/table.csv": b"a,b\n1,2\n3,4\n", "mine.txt": b"new\n"}
        assert await kept(app, row) == changed
        row, _ = await run(app, key, "SCRIPT:text Nothing.")
        assert (folder / "data/table.csv").read_bytes() == b"a,b\n1,2\n"
        assert (folder / "mine.txt").exists()
        assert await kept(app, row) == {}
    assert app.reports.errors == []


async def test_a_host_without_a_table_for_files_has_seeds_too(
    database_url: str, opencode: ScriptedServer
) -> None:
    async def settings_for(conversation: object) -> TurnSettings:
        return TurnSettings(seed=[DATA], permissions=Permissions.sandboxed())

    async with host(database_url, opencode, dispatch=nowhere, settings_for=settings_for) as app:
        key = await app.conversation()
        async with app.sessions() as db:
            conversation = await db.get_one(app.agent.tables.conversation, key)
        path = Path(str(opencode.directory)) / "sandbox" / str(conversation.sandbox_key)
        read = ("read", {"filePath": str(path / "data/table.csv")})
        row, _ = await run(app, key, calls(read))
    (call,) = [part for part in row.parts if part["type"] == "tool"]
    assert (row.status, call["status"]) == ("completed", "completed")
    assert "1,2" in call["output"]
    assert app.reports.errors == []


@pytest.mark.parametrize("there", ["link", "link to a folder", "folder", "no folder"])
async def test_nothing_that_the_agent_makes_is_in_their_way(
    there: str, database_url: str, opencode: ScriptedServer, tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "table.csv").write_text("somebody else's")
    commands = {
        "link": f"mkdir data && ln -s {outside}/table.csv data/table.csv",
        "link to a folder": f"ln -s {outside} data",
        "folder": "mkdir -p data/table.csv/deep && touch data/table.csv/deep/file",
        "no folder": "echo > data",
    }
    async with seeding(database_url, opencode, tmp_path / "kept", DATA) as (app, key, folder):
        row, _ = await run(app, key, calls(bash(f"cd {folder} && rm -r * && {commands[there]}")))
        assert row.status == "completed"
        row, _ = await run(app, key, "SCRIPT:text Hi.")
        assert (folder / "data/table.csv").read_text() == "a,b\n1,2\n"
    assert row.status == "completed"
    assert (outside / "table.csv").read_text() == "somebody else's"


async def test_what_cannot_be_put_there_ends_the_turn_before_anything_is_asked(
    database_url: str, opencode: ScriptedServer, tmp_path: Path
) -> None:
    """The error is of a kind that means elsewhere that the database is away."""

    async def read() -> AsyncIterator[bytes]:
        yield b"half"
        raise ConnectionError("the host's own store is away")

    seed = Artifact("template.txt", read)
    async with seeding(database_url, opencode, tmp_path, seed) as (app, key, folder):
        row, _ = await run(app, key, "SCRIPT:text Hi.")
        assert (row.status, row.error_code, row.parts) == ("error", "internal", None)
        assert [path for path in folder.rglob("*") if path.is_file()] == []
    (error,) = app.reports.errors
    assert isinstance(error, SeedFailed)
    assert isinstance(error.__cause__, ConnectionError)


async def test_a_disk_that_is_not_seen_here_is_an_end_of_its_own(
    database_url: str, opencode: ScriptedServer, tmp_path: Path
) -> None:
    not_here: dict[str, Any] = {"policy": {"directory": tmp_path / "not here"}}
    async with seeding(database_url, opencode, tmp_path, DATA, **not_here) as (app, key, _):
        row, _ = await run(app, key, "SCRIPT:text Hi.")
    assert (row.status, row.error_code) == ("error", "sandbox_unreachable")
    assert [type(error) for error in app.reports.errors] == [SandboxUnreachable]


async def test_a_folder_of_the_same_name_on_another_machine_is_not_the_agents(
    database_url: str, opencode: ScriptedServer, tmp_path: Path
) -> None:
    elsewhere: dict[str, Any] = {"policy": {"directory": tmp_path}}
    async with seeding(database_url, opencode, tmp_path / "kept", DATA, **elsewhere) as (
        app,
        key,
        folder,
    ):
        (folder / "data").mkdir(parents=True)
        (folder / "data/table.csv").write_text("old")
        row, _ = await run(app, key, "SCRIPT:text Hi.")
        assert (folder / "data/table.csv").read_text() == "old"
        assert [path for path in (tmp_path / "sandbox").rglob("*") if path.is_file()] == []
    assert (row.status, row.error_code) == ("error", "sandbox_unreachable")


async def test_what_came_with_the_message_stays(
    database_url: str, opencode: ScriptedServer, tmp_path: Path
) -> None:
    seeds = Artifact.of("notes.txt", "the host's"), Artifact.of("notes.txt/a", "b"), DATA
    async with seeding(database_url, opencode, tmp_path, *seeds) as (app, key, folder):
        folder.mkdir(parents=True)
        (folder / "notes.txt").write_text("a person's")
        message = await app.agent.turns.start(key, "SCRIPT:text Hi.")
        async with app.sessions.begin() as db:
            row = await db.get_one(app.agent.tables.message, message.id)
            row.request = {**(row.request or {}), "uploaded": {"notes.txt": "its hash"}}
        result = await app.agent.turns.run(message.id)
        assert (folder / "notes.txt").read_text() == "a person's"
        assert (folder / "data/table.csv").exists()
    assert result.status == "completed"
    assert refusals(app) == {"notes.txt": "name", "notes.txt/a": "name"}


async def test_whoever_takes_a_turn_over_leaves_the_agents_work_alone(
    database_url: str, opencode: ScriptedServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lose_first_worker(monkeypatch)
    async with seeding(database_url, opencode, tmp_path, DATA) as (app, key, folder):
        message = await app.agent.turns.start(
            key, calls(bash(f"echo 3,4 >> {folder}/data/table.csv"))
        )
        with pytest.raises(asyncio.CancelledError):
            await app.agent.turns.run(message.id)
        result = await app.agent.turns.run(message.id)
        assert (folder / "data/table.csv").read_text() == "a,b\n1,2\n3,4\n"
        assert await kept(app, message) == {"data/table.csv": b"a,b\n1,2\n3,4\n"}
    assert result.status == "completed"


async def test_an_odd_name_is_the_hosts_to_give(
    database_url: str, opencode: ScriptedServer, tmp_path: Path
) -> None:
    """What the agent writes gets another name where it is kept, so this is compared with care."""
    secret = Artifact.of("data/.env", "SECRET=1")
    async with seeding(database_url, opencode, tmp_path, secret) as (app, key, folder):
        row, _ = await run(app, key, "SCRIPT:text Hi.")
        assert (folder / "data/.env").read_text() == "SECRET=1"
        assert await kept(app, row) == {}


async def test_a_worker_that_lost_its_turn_puts_nothing_in_the_way_of_the_other(
    database_url: str, opencode: ScriptedServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow, reading, go_on = ["first"], asyncio.Event(), asyncio.Event()

    async def read() -> AsyncIterator[bytes]:
        yield b"a,b\n"
        if slow:
            slow.pop()
            reading.set()
            await go_on.wait()
        yield b"1,2\n"

    renew = Lease.renew

    async def away(lease: Any) -> Any:
        if not go_on.is_set():
            raise OperationalError("renew", {}, ConnectionError())
        return await renew(lease)

    seed = Artifact("data/table.csv", read)
    async with seeding(database_url, opencode, tmp_path, seed) as (app, key, folder):
        message = await app.agent.turns.start(
            key, calls(bash(f"echo 3,4 >> {folder}/data/table.csv"))
        )
        first = asyncio.create_task(app.agent.turns.run(message.id))
        await reading.wait()
        monkeypatch.setattr(Lease, "renew", away)
        await app.lose_worker(message.id, -1.0)
        async with app.sessions() as db:
            row = await db.get_one(app.agent.tables.message, message.id)
            second = await app.agent._make_turn(db, row)
            monkeypatch.setattr(Lease, "renew", renew)
            assert (await second).status == "completed"
        monkeypatch.setattr(Lease, "may_be_over", True)
        go_on.set()
        with pytest.raises(LeaseLost):
            await first
        assert (folder / "data/table.csv").read_text() == "a,b\n1,2\n3,4\n"
