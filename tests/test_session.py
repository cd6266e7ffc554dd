"""One session per conversation, however many ask for it."""

from __future__ import annotations

import asyncio
from typing import Any

from opencode_async import PermissionRule, Session, TurnSettings
from opencode_async.testing import ScriptedServer
from tests.support.hosts import Host, host


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
        return TurnSettings(permissions=[PermissionRule("bash", "*", "deny")])

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
