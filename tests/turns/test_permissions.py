"""Rules on the real server: in force from their turn on, and nothing is waited for in vain."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable
from typing import Any

from opencode_async import Permissions, TurnSettings
from opencode_async.testing import ScriptedServer
from opencode_async.turns.lease import Lease
from opencode_async.turns.message import message_json
from tests.support.hosts import Host, Message, host, nowhere
from tests.support.proxy import Proxy
from tests.support.replay import assert_replay_is
from tests.turns.asking import a_turn, an_app, rows_of, tools
from tests.turns.ended import run

ECHO = {"name": "bash", "args": {"command": "echo same", "description": "Says it"}}


class Rules:
    """A host's settings that it changes from turn to turn."""

    def __init__(self, permissions: Permissions) -> None:
        self.permissions = permissions

    async def __call__(self, conversation: Any) -> TurnSettings:
        return TurnSettings(permissions=self.permissions)


def ends(row: Any) -> list[str]:
    """How its calls ended; one of a tool that is denied altogether is of a tool named invalid."""
    return [f"{tool['tool']} {tool['status']}" for tool in tools(row)]


async def bash_in(app: Host[Any, Any], conversation: Any) -> str:
    """How a bash call ends."""
    row, _ = await run(app, conversation, "SCRIPT:bash")
    (end,) = ends(row)
    return end


async def test_rules_that_change_are_in_force_in_the_next_turn_and_sent_once(
    database_url: str, opencode: ScriptedServer
) -> None:
    patches = 0

    def asked(data: bytes) -> Iterable[bytes]:
        nonlocal patches
        patches += data.startswith(b"PATCH ")
        yield data

    rules = Rules(Permissions().deny("bash"))
    async with (
        Proxy(opencode, asked=asked).running() as server,
        host(database_url, server, dispatch=nowhere, settings_for=rules) as app,
    ):
        conversation = await app.conversation()
        assert await bash_in(app, conversation) != "bash completed"
        assert await bash_in(app, conversation) != "bash completed"
        assert patches == 0  # the session was created with them
        rules.permissions = Permissions().allow("bash")
        assert await bash_in(app, conversation) == "bash completed"
        assert await bash_in(app, conversation) == "bash completed"
        assert patches == 1
        rules.permissions = Permissions().deny("bash")
        assert await bash_in(app, conversation) != "bash completed"
        assert patches == 2
        rules.permissions = Permissions()  # what was denied before is not denied any more
        assert await bash_in(app, conversation) == "bash completed"
        assert await bash_in(app, conversation) == "bash completed"
        assert patches == 3


async def test_who_takes_a_turn_over_before_its_prompt_holds_it_to_its_own_rules(
    database_url: str, opencode: ScriptedServer
) -> None:
    rules = Rules(Permissions())
    async with host(database_url, opencode, dispatch=nowhere, settings_for=rules) as app:
        conversation = await app.conversation()
        assert await bash_in(app, conversation) == "bash completed"
        rules.permissions = Permissions().deny("bash")
        message = await app.agent.turns.start(conversation, "SCRIPT:bash")
        await Lease.claim(app.sessions, Message, message.id, -1)  # by a worker that then is killed
        await app.agent.turns.run(message.id)
        row = await app.row(message.id)
    assert row.epoch == 2
    assert ends(row) == ["invalid completed"]


async def test_a_subagent_that_is_resumed_is_held_to_the_rules_of_now(
    database_url: str, opencode: ScriptedServer
) -> None:
    def script(prompt: str, **more: str) -> str:
        args = {"description": "A job", "prompt": prompt, "subagent_type": "general", **more}
        return f"SCRIPT:tools {json.dumps([{'name': 'task', 'args': args}])}"

    rules = Rules(Permissions())
    async with host(database_url, opencode, dispatch=nowhere, settings_for=rules) as app:
        conversation = await app.conversation()
        row, _ = await run(app, conversation, script("SCRIPT:bash"))
        assert ends(row) == ["task completed", "bash completed"]
        child = tools(row)[0]["session_id"]
        rules.permissions = Permissions().deny("bash")
        row, changes = await run(app, conversation, script("SCRIPT:bash", task_id=child))
        assert ends(row) == ["task completed", "invalid completed"]
        assert tools(row)[0]["session_id"] == child
        assert_replay_is(changes, message_json(row))
        rules.permissions = Permissions()
        row, _ = await run(app, conversation, script("SCRIPT:text Again.", task_id=child))
    assert "Again." in [part.get("content") for part in row.parts if part.get("subagent") == child]


async def test_an_unattended_agent_waits_for_nobody(
    database_url: str, opencode: ScriptedServer
) -> None:
    assert opencode.directory is not None
    calls = [
        {"name": "write", "args": {"filePath": "secret.env", "content": "PASSWORD=1"}},
        {"name": "read", "args": {"filePath": "secret.env"}},
        {"name": "read", "args": {"filePath": "/etc/hostname"}},
        *[ECHO] * 5,
        {"name": "question", "args": {"questions": []}},
    ]
    script = f"SCRIPT:tools {json.dumps(calls)}"
    async with an_app(database_url, opencode, Rules(Permissions.unattended())) as app:
        async with asyncio.timeout(40), a_turn(app, script) as turn:
            row = await turn.row()
            asked = await rows_of(app, turn.id)
        session_id = await app.session_id(row)
        listed = [ask for ask in await app.agent.client.asked() if ask.session_id == session_id]
    assert (row.status, row.finish) == ("completed", "stop")
    assert asked == listed == []
    assert ends(row)[:3] == ["write completed", "read error", "read error"]
    assert not any("PASSWORD" in str(tool.get("output")) for tool in tools(row)[1:])


async def test_with_bash_to_be_asked_no_subagent_runs_it_unasked(
    database_url: str, opencode: ScriptedServer
) -> None:
    script = f"SCRIPT:task {json.dumps({'prompt': 'SCRIPT:bash'})}"
    async with an_app(database_url, opencode, Rules(Permissions().ask("bash"))) as app:
        async with a_turn(app, script) as turn:
            row = await turn.row()
        session_id = await app.session_id(row)
        children = await app.agent.client.children(session_id)
    assert (row.status, children) == ("completed", [])
    assert not [
        tool for tool in tools(row) if tool["tool"] == "task" and tool["status"] == "completed"
    ]
