"""Every way a turn ends on the real server, as REST says it ended."""

from __future__ import annotations

import math
from typing import Any

import pytest

from opencode_async import Retrying, Timings, TurnSettings
from opencode_async.testing import ScriptedServer
from opencode_async.turns.message import message_json
from tests.support.hosts import Host, host
from tests.support.replay import assert_replay_is
from tests.turns.test_scripts import rest_of, run

# Long enough for the provider's first retry (2 s) and for a tool that is slow on a busy machine.
PATIENT = Timings(lease=9.0, look=8.0, settle=0.5, stop=5.0, snapshot=0.1)

# script -> status, finish, error code
ENDINGS: dict[str, tuple[str, str | None, str | None]] = {
    "SCRIPT:edit": ("completed", "stop", None),
    "SCRIPT:todo": ("completed", "stop", None),
    "SCRIPT:loop 5": ("completed", "stop", None),
    "SCRIPT:task": ("completed", "stop", None),
    "SCRIPT:length": ("completed", "length", None),
    "SCRIPT:contentfilter": ("error", "content_filter", "content_filter"),
    "SCRIPT:empty": ("completed", "stop", None),
    "SCRIPT:badargs": ("completed", "stop", None),
    "SCRIPT:unknowntool": ("completed", "stop", None),
    'SCRIPT:error429 {"times": 1}': ("completed", "stop", None),
    'SCRIPT:error500 {"times": 1}': ("completed", "stop", None),
    "SCRIPT:error400": ("error", None, "provider_error"),
    "SCRIPT:overflow": ("completed", "stop", None),
}


async def children_of(app: Host[Any, Any], row: Any) -> list[dict[str, Any]]:
    """The assistant messages of a turn's subagents, as the server lists them."""
    found = []
    for part in row.parts:
        if part.get("session_id"):
            path = f"/session/{part['session_id']}/message"
            messages = (await app.agent.client.http.request("GET", path)).json()
            found += [m for m in messages if m["info"]["role"] == "assistant"]
    return found


@pytest.mark.parametrize("script", ENDINGS)
async def test_a_turn_ends_as_rest_says(
    script: str, database_url: str, opencode: ScriptedServer
) -> None:
    async with host(database_url, opencode, timings=PATIENT) as app:
        conversation = await app.conversation()
        if "edit" in script:
            await run(app, conversation, "SCRIPT:write")
        row, changes = await run(app, conversation, script)
        answers = await rest_of(app, row)
        children = await children_of(app, row)
        path = f"/session/{await app.session_id(row)}/message"
        everything = (await app.agent.client.http.request("GET", path)).json()
    assert (row.status, row.finish, row.error_code) == ENDINGS[script]
    if script == "SCRIPT:overflow":  # the answer is to OpenCode's own copy of the prompt
        last = [m for m in everything if m["info"]["role"] == "assistant"][-1:]
        assert [p["id"] for p in row.parts] == [
            p["id"] for m in last for p in m["parts"] if p["type"] in ("text", "reasoning", "tool")
        ]
    else:
        parts = [p for m in answers for p in m["parts"] if p["type"] in KINDS]
        assert [p["id"] for p in row.parts] == [p["id"] for p in parts]
        assert [p["content"] for p in row.parts if "content" in p] == [
            p["text"] for p in parts if p["type"] != "tool"
        ]
        own = [m["info"]["cost"] for m in answers]
        assert row.cost == math.fsum([*own, *(m["info"]["cost"] for m in children)])
        tokens = [m["info"]["tokens"] for m in [*answers, *children]]
        assert row.input_tokens == sum(t["input"] for t in tokens)
        assert row.output_tokens == sum(t["output"] for t in tokens)
    assert ("retrying" in [c.event for c in changes]) == ("times" in script)
    assert_replay_is(changes, message_json(row))


KINDS = ("text", "reasoning", "tool")


async def test_apply_patch_is_a_tool_like_any_other(
    database_url: str, opencode: ScriptedServer
) -> None:
    async def settings_for(conversation: Any) -> TurnSettings:
        return TurnSettings(model="scripted/gpt-5-scripted")

    async with host(database_url, opencode, settings_for=settings_for) as app:
        row, changes = await run(app, await app.conversation(), "SCRIPT:apply_patch")
    assert row.status == "completed"
    assert [p["tool"] for p in row.parts if p["type"] == "tool"] == ["apply_patch"]
    assert row.parts[1]["status"] == "completed"
    assert_replay_is(changes, message_json(row))


async def test_a_todo_list_is_streamed_and_stored(
    database_url: str, opencode: ScriptedServer
) -> None:
    async with host(database_url, opencode) as app:
        row, changes = await run(app, await app.conversation(), "SCRIPT:todo")
    assert [(t["content"], t["status"]) for t in row.todos] == [
        ("first task", "completed"),
        ("second task", "in_progress"),
    ]
    assert "todos" in [change.event for change in changes]


async def test_stopping_while_the_provider_is_retried_ends_the_turn(
    database_url: str, opencode: ScriptedServer
) -> None:
    async with host(database_url, opencode, timings=PATIENT) as app:
        message = await app.agent.turns.start(await app.conversation(), "SCRIPT:cut")
        async with app.agent.turns.follow(message.id) as following:
            changes = []
            async for change in following:
                changes.append(change)
                if isinstance(change, Retrying):
                    await app.agent.turns.cancel(message.id)
        row = await app.row(message.id)
        told = [p["text"] for m in await rest_of(app, row) for p in m["parts"] if "text" in p]
    assert (row.status, row.finish) == ("cancelled", "cancelled")
    # The words of the attempt that was cut were streamed, and withdrawn again.
    assert any(change.event == "part.delta" for change in changes)
    assert row.content == "\n\n".join(text for text in told if text)
    assert_replay_is(changes, message_json(row))


async def test_stopping_in_a_tool_keeps_what_it_said(
    database_url: str, opencode: ScriptedServer
) -> None:
    script = 'SCRIPT:bash {"command": "echo before; sleep 30"}'
    async with host(database_url, opencode, timings=PATIENT) as app:
        message = await app.agent.turns.start(await app.conversation(), script)
        async with app.agent.turns.follow(message.id) as following:
            changes = []
            async for change in following:
                changes.append(change)
                if "before\\n" in str(change.to_json()) and "running" in str(change.to_json()):
                    await app.agent.turns.cancel(message.id)
        row = await app.row(message.id)
    assert row.status == "cancelled"
    assert row.parts[1]["status"] in ("completed", "error")
    assert_replay_is(changes, message_json(row))
