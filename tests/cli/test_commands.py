"""The commands as an operator types them, on an app whose agent runs in another process."""

from __future__ import annotations

import json
from pathlib import Path
from uuid import uuid4

from opencode_async.testing import ScriptedServer
from tests.cli.apps import App
from tests.support.hosts import host, nowhere

APP = ("--app", "host:agent")


async def test_the_doctor_finds_nothing_wrong(
    database_url: str, opencode: ScriptedServer, tmp_path: Path
) -> None:
    async with host(database_url, opencode, asks=True, files=True):
        app = App.written(tmp_path / "app", database_url, opencode, scope=', scope="function"')
        code, printed = await app.command("doctor", *APP)
    assert code == 0, printed
    for part in ("server", "database", "files", "routes"):
        assert f"\n{part}\n" in f"\n{printed}"
    assert "→" not in printed


async def test_the_doctor_says_what_is_wrong_and_what_to_do(
    opencode: ScriptedServer, tmp_path: Path
) -> None:
    database = f"sqlite+aiosqlite:///{tmp_path}/empty.db"
    app = App.written(tmp_path / "app", database, opencode)
    code, printed = await app.command("doctor", *APP)
    assert code == 1, printed
    assert "there is no table messages" in printed
    assert "alembic revision --autogenerate" in printed
    assert "get_db stays open for a whole request" in printed
    assert 'Depends(get_db, scope="function")' in printed


async def test_turns_are_listed_shown_and_cancelled(
    database_url: str, opencode: ScriptedServer, tmp_path: Path
) -> None:
    async with host(database_url, opencode, asks=True, files=True) as running:
        app = App.written(tmp_path / "app", database_url, opencode)
        message = await running.agent.turns.start(
            await running.conversation(), "SCRIPT:hang Some secret words."
        )
        async with running.agent.turns.follow(message.id) as changes:
            async for change in changes:
                if "secret" in repr(change):
                    break
        code, printed = await app.command("turns", "ls", *APP, "--status", "pending")
        assert code == 0, printed
        assert str(message.id) in printed
        code, printed = await app.command("turns", "show", *APP, str(message.id))
        assert code == 0, printed
        assert "status pending" in printed
        assert "secret" not in printed
        code, printed = await app.command("turns", "cancel", *APP, str(message.id))
        assert (code, "asked to stop" in printed) == (0, True), printed
        result = await running.agent.turns.run(message.id)
        assert result.status == "cancelled"
        code, printed = await app.command("turns", "cancel", *APP, str(message.id))
        assert (code, printed.strip()) == (0, "It has ended: cancelled.")
        code, printed = await app.command("turns", "ls", *APP, "--status", "pending")
        assert str(message.id) not in printed


async def test_what_nobody_runs_is_taken_up_and_waited_for(
    database_url: str, opencode: ScriptedServer, tmp_path: Path
) -> None:
    async with host(database_url, opencode, asks=True, files=True, dispatch=nowhere) as app:
        message = await app.agent.turns.start(await app.conversation(), "SCRIPT:text Hi.")
    cli = App.written(tmp_path / "app", database_url, opencode)
    await app.lose_worker(message.id, -1.0)
    code, printed = await cli.command("turns", "recover", *APP)
    assert (code, printed.split()) == (0, [str(message.id), "completed"]), printed
    row = await app.row(message.id)
    assert (row.status, row.content) == ("completed", "Hi.")
    code, printed = await cli.command("turns", "recover", *APP)
    assert (code, printed.strip()) == (0, "Every turn has its worker.")
    await app.engine.dispose()


async def test_what_is_old_is_removed(
    database_url: str, opencode: ScriptedServer, tmp_path: Path
) -> None:
    async with host(database_url, opencode, asks=True, files=True) as running:
        for _ in range(2):
            await running.conversation()
        app = App.written(tmp_path / "app", database_url, opencode)
        for age, count in (("1d", 0), ("0m", 2)):
            code, printed = await app.command("cleanup", *APP, "--older-than", age)
            assert code == 0, printed
            said = f"{count} conversations, 0 orphaned sessions removed"
            assert printed.strip() == said
        code, printed = await app.command("cleanup", *APP, "--older-than", "soon")
        assert (code, "not an age" in printed, "Traceback" in printed) == (2, True, False), printed


async def test_mistakes_are_told_in_a_line(
    database_url: str, opencode: ScriptedServer, tmp_path: Path
) -> None:
    async with host(database_url, opencode, asks=True, files=True):
        app = App.written(tmp_path / "app", database_url, opencode)
        for name, reason in (
            ("host", "module:attribute"),
            ("nothing:agent", "no module 'nothing' here"),
            ("host:nobody", "no 'nobody'"),
            ("host:engine", "is a AsyncEngine, not an Opencode"),
        ):
            code, printed = await app.command("doctor", "--app", name)
            assert code == 2, printed
            assert reason in printed
            assert "Traceback" not in printed
        for unknown in (str(uuid4()), "no id"):
            code, printed = await app.command("turns", "show", *APP, unknown)
            assert (code, "Traceback" in printed, unknown in printed) == (1, False, True), printed


async def test_a_turn_is_followed_from_another_process(
    database_url: str, opencode: ScriptedServer, tmp_path: Path
) -> None:
    async with host(database_url, opencode, asks=True, files=True) as running:
        app = App.written(tmp_path / "app", database_url, opencode)
        clear = {"command": r"printf '\033[2J'", "description": "Clears the screen"}
        calls = json.dumps([{"name": "bash", "args": clear}])
        message = await running.agent.turns.start(
            await running.conversation(), f"SCRIPT:tools {calls}"
        )
        code, printed = await app.command("tail", *APP, str(message.id))
        assert code == 0, printed
        assert "✓ Ran" in printed
        assert "completed (stop)" in printed
        assert "\x1b" not in printed
        message = await running.agent.turns.start(await running.conversation(), "SCRIPT:error401")
        code, printed = await app.command("tail", *APP, str(message.id))
        assert (code, "error" in printed) == (1, True), printed
        code, printed = await app.command("tail", *APP, str(uuid4()))
        assert (code, "Traceback" in printed) == (1, False), printed
