"""One session per conversation, however many ask for it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from opencode_async import Permissions, Session, Timings, TurnSettings
from opencode_async.testing import ScriptedServer, scripted_server
from tests.support.hosts import Host, host
from tests.support.parts import REPOSITORY


async def sessions_of(app: Host[Any, Any], conversation: Any) -> list[str]:
    """The ids of the sessions upstream that were made for the conversation."""
    found = (await app.agent.client.http.request("GET", "/session")).json()
    mine = [s for s in found if s.get("metadata", {}).get("conversation_id") == str(conversation)]
    return [session["id"] for session in mine]


async def ensured(app: Host[Any, Any], conversation: Any) -> str:
    async with app.sessions() as db:
        row = await db.get_one(app.agent.tables.conversation, conversation)
        return await app.agent.session(db, row).ensure()


async def recreated(app: Host[Any, Any], conversation: Any) -> str:
    async with app.sessions() as db:
        row = await db.get_one(app.agent.tables.conversation, conversation)
        return await app.agent.session(db, row).recreate()


async def test_twenty_callers_at_once_get_the_one_session(
    database_url: str, opencode: ScriptedServer
) -> None:
    async with host(database_url, opencode) as app:
        conversation = await app.conversation(title="Ours")
        ids = await asyncio.gather(*(ensured(app, conversation) for _ in range(20)))
        left = await sessions_of(app, conversation)
    assert left == [ids[0]]
    assert set(ids) == {ids[0]}


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
async def test_three_processes_with_a_hundred_callers_get_the_one_session(
    database_url: str, opencode: ScriptedServer
) -> None:
    async with host(database_url, opencode) as app:
        conversation = await app.conversation()
        job = {
            "database": database_url,
            "url": opencode.url,
            "password": opencode.password,
            "directory": str(opencode.directory),
            "conversation": str(conversation),
        }
        workers = await asyncio.gather(*(worker({**job, "callers": n}) for n in (34, 33, 33)))
        left = await sessions_of(app, conversation)
    ids = [session_id for worker_ids in workers for session_id in worker_ids]
    print(f"{len(ids)} callers in {len(workers)} processes: {len(set(ids))} session")
    assert len(ids) == 100
    assert set(ids) == set(left)
    assert len(left) == 1


async def worker(job: dict[str, Any]) -> list[str]:
    """The ids that the callers of another process got."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.support.ensuring"),
        cwd=REPOSITORY,
        env={**os.environ, "JOB": json.dumps(job)},
        stdout=asyncio.subprocess.PIPE,
    )
    output, _ = await process.communicate()
    assert process.returncode == 0
    ids: list[str] = json.loads(output)
    return ids


async def test_twenty_callers_replace_a_session_by_one(
    database_url: str, opencode: ScriptedServer
) -> None:
    async with host(database_url, opencode) as app, AsyncExitStack() as stack:
        conversation = await app.conversation()
        sessions = []
        for _ in range(20):
            db = await stack.enter_async_context(app.sessions())
            row = await db.get_one(app.agent.tables.conversation, conversation)
            sessions.append(app.agent.session(db, row))
            await sessions[-1].ensure()
        (old,) = await sessions_of(app, conversation)
        ids = await asyncio.gather(*(session.recreate() for session in sessions))
        left = await sessions_of(app, conversation)
        created = [session for session in sessions if session.just_created]
    (new,) = set(ids)
    assert new != old
    assert sorted(left) == sorted([old, new])
    assert len(created) == 1


async def test_no_connection_is_held_while_the_server_hangs(
    database_url: str, opencode_binary: Path, tmp_path: Path
) -> None:
    """Every worker's pool would else run dry within seconds of an agent's server hanging."""
    timings = Timings(lease=60.0, snapshot=0.1)
    async with (
        scripted_server(tmp_path, binary=opencode_binary) as server,
        host(database_url, server, pool_size=2, timings=timings) as app,
    ):
        streaming = [
            await app.agent.turns.start(await app.conversation(), "SCRIPT:hang Half.")
            for _ in range(5)
        ]
        for message in streaming:
            await has_stored(app, message.id, "Half.")
        new = [await app.conversation() for _ in range(5)]
        assert server.process.pid is not None
        os.kill(server.process.pid, signal.SIGSTOP)
        try:
            waiting = [await app.agent.turns.start(key, "SCRIPT:text Late.") for key in new]
            unknown = await app.conversation()
            ensuring = asyncio.create_task(ensured(app, unknown))
            for message in streaming:
                await app.agent.turns.cancel(message.id)
            async with asyncio.timeout(10):
                while not (
                    all([await claimed(app, message.id) for message in waiting])
                    and await creating(app, unknown)
                ):
                    pass
            await app.holds_no_connection()
        finally:
            os.kill(server.process.pid, signal.SIGCONT)
        ended = [await app.agent.turns.run(message.id) for message in (*streaming, *waiting)]
        assert await ensuring
    assert [result.status for result in ended] == ["cancelled"] * 5 + ["completed"] * 5


async def claimed(app: Host[Any, Any], key: Any) -> bool:
    return (await app.row(key)).lease_owner is not None


async def creating(app: Host[Any, Any], conversation: Any) -> bool:
    """Whether somebody is creating the conversation's session."""
    async with app.sessions() as db:
        row = await db.get_one(app.agent.tables.conversation, conversation)
        return row.session_claimed_until is not None


async def has_stored(app: Host[Any, Any], key: Any, content: str) -> None:
    """Wait until the row of a running turn holds that text."""
    while (await app.row(key)).content != content:
        await app.agent.turns.following.place_of(key)


async def test_ensure_tells_whether_the_session_is_new(
    database_url: str, opencode: ScriptedServer
) -> None:
    async with host(database_url, opencode) as app, app.sessions() as db:
        row = await db.get_one(app.agent.tables.conversation, await app.conversation())
        session = Session(db, row, client=app.agent.client)
        first = await session.ensure()
        assert session.just_created
        again = Session(db, row, client=app.agent.client)
        assert await again.ensure() == first
        assert not again.just_created


async def test_recreate_replaces_the_session(database_url: str, opencode: ScriptedServer) -> None:
    async with host(database_url, opencode) as app:
        conversation = await app.conversation()
        old = await ensured(app, conversation)
        new = await recreated(app, conversation)
        assert new != old
        assert await ensured(app, conversation) == new


async def test_title_and_permissions_reach_the_session(
    database_url: str, opencode: ScriptedServer
) -> None:
    async def no_bash(conversation: Any) -> TurnSettings:
        return TurnSettings(permissions=Permissions().deny("bash"))

    async with host(database_url, opencode, settings_for=no_bash) as app:
        session_id = await ensured(app, await app.conversation(title="No bash"))
        session = (await app.agent.client.http.request("GET", f"/session/{session_id}")).json()
    assert session["title"] == "No bash"
    assert session["permission"] == [{"permission": "bash", "pattern": "*", "action": "deny"}]


async def test_a_server_that_fails_leaves_the_next_caller_free(
    database_url: str, opencode: ScriptedServer
) -> None:
    failing = True

    async def settings_for(conversation: Any) -> TurnSettings:
        if failing:
            raise LookupError
        return TurnSettings()

    async with host(database_url, opencode, settings_for=settings_for) as app:
        conversation = await app.conversation()
        results = await asyncio.gather(
            *(ensured(app, conversation) for _ in range(3)), return_exceptions=True
        )
        assert [type(result) for result in results] == [LookupError] * 3
        failing = False
        async with asyncio.timeout(5):
            assert await ensured(app, conversation)
