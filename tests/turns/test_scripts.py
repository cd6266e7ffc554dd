"""Whole turns on the real server: stored is what REST says, streamed is what is stored."""

from __future__ import annotations

import math
from typing import Any

import pytest

from opencode_async import Change
from opencode_async.testing import ScriptedServer
from opencode_async.turns.message import message_json
from tests.support.hosts import Host, host
from tests.support.replay import assert_replay_is

HELLO = "Hello from the scripted model. Every word is one delta."
LONG = "".join(f"w{i:06d} " for i in range(5000))

# script -> status, finish, error code, content
SCRIPTS: dict[str, tuple[str, str | None, str | None, str]] = {
    "SCRIPT:text": ("completed", "stop", None, HELLO),
    "SCRIPT:reasoning": ("completed", "stop", None, HELLO),
    "SCRIPT:bash": (
        "completed",
        "stop",
        None,
        "Step 1: calling bash. \n\nFinished bash after 1 tool result(s).",
    ),
    "SCRIPT:write": (
        "completed",
        "stop",
        None,
        "Step 1: calling write. \n\nFinished write after 1 tool result(s).",
    ),
    "SCRIPT:multi": ("completed", "stop", None, "Finished multi."),
    "SCRIPT:long 5000": ("completed", "stop", None, LONG),
    "SCRIPT:error401": ("error", None, "provider_error", ""),
    "SCRIPT:question": ("completed", "rejected", None, "Step 1: calling question. "),
}


async def rest_of(app: Host[Any, Any], row: Any) -> list[dict[str, Any]]:
    """The answers of a turn as the server lists them, read without any code under test."""
    path = f"/session/{await app.session_id(row)}/message"
    messages = (await app.agent.client.http.request("GET", path)).json()
    return [m for m in messages if m["info"].get("parentID") == row.prompt_id]


async def run(app: Host[Any, Any], conversation: Any, text: str) -> tuple[Any, list[Change]]:
    """One turn, followed from its start: its row, and all that a follower was told."""
    message = await app.agent.turns.start(conversation, text)
    async with app.agent.turns.follow(message.id) as following:
        changes = [change async for change in following]
    await app.agent.turns.run(message.id)
    return await app.row(message.id), changes


@pytest.mark.parametrize("script", SCRIPTS)
async def test_a_script_is_stored_as_rest_has_it_and_streamed_as_it_is_stored(
    script: str, database_url: str, opencode: ScriptedServer
) -> None:
    status, finish, code, content = SCRIPTS[script]
    async with host(database_url, opencode) as app:
        row, changes = await run(app, await app.conversation(), script)
        answers = await rest_of(app, row)
    assert (row.status, row.finish, row.error_code) == (status, finish, code)
    assert row.content == content
    parts = [p for m in answers for p in m["parts"] if p["type"] in ("text", "reasoning", "tool")]
    assert [p["id"] for p in row.parts] == [p["id"] for p in parts]
    for mine, theirs in zip(row.parts, parts, strict=True):
        if theirs["type"] == "tool":
            state = theirs["state"]
            assert mine["status"] == state["status"]
            assert mine["input"] == state["input"]
            assert mine.get("output") == state.get("output")
            assert mine.get("error") == state.get("error")
        else:
            assert mine["content"] == theirs["text"]
    infos = [m["info"] for m in answers]
    assert row.cost == math.fsum(info["cost"] for info in infos)
    assert row.input_tokens == sum(info["tokens"]["input"] for info in infos)
    assert row.output_tokens == sum(info["tokens"]["output"] for info in infos)
    assert row.cache_read_tokens == sum(info["tokens"]["cache"]["read"] for info in infos)
    assert row.cache_write_tokens == sum(info["tokens"]["cache"]["write"] for info in infos)
    assert row.finished_at is not None
    assert (row.lease_owner, row.epoch) == (None, 1)
    assert_replay_is(changes, message_json(row))


async def test_the_reason_of_a_provider_error_is_shown_without_its_url(
    database_url: str, opencode: ScriptedServer
) -> None:
    async with host(database_url, opencode) as app:
        row, _ = await run(app, await app.conversation(), "SCRIPT:error401")
    assert row.error_text == "scripted error 401"


async def test_a_question_nobody_can_answer_is_dismissed_at_once(
    database_url: str, opencode: ScriptedServer
) -> None:
    async with host(database_url, opencode) as app:
        row, _ = await run(app, await app.conversation(), "SCRIPT:question")
        asked = await app.agent.client.asked()
    assert row.parts[1]["error"] == "The user dismissed this question"
    assert asked == []


async def test_text_and_tool_output_with_nul_and_lone_surrogates_are_stored(
    database_url: str, opencode: ScriptedServer
) -> None:
    command = """SCRIPT:bash {"command": "printf 'a\\\\000b'"}"""
    async with host(database_url, opencode) as app:
        conversation = await app.conversation()
        said, changes = await run(app, conversation, "SCRIPT:nul")
        ran, _ = await run(app, conversation, command)
        typed, _ = await run(app, conversation, "SCRIPT:text with \x00 in it")
    assert said.status == ran.status == typed.status == "completed"
    assert "\ufffd" in said.content
    assert "\x00" not in said.content
    assert ran.parts[1]["output"] == "a\ufffdb"
    assert typed.content == "with \ufffd in it"
    assert_replay_is(changes, message_json(said))


async def test_the_turns_of_a_conversation_follow_each_other_in_one_session(
    database_url: str, opencode: ScriptedServer
) -> None:
    async with host(database_url, opencode) as app:
        conversation = await app.conversation()
        rows = [(await run(app, conversation, f"SCRIPT:text Answer {n}"))[0] for n in range(3)]
        async with app.sessions() as db:
            stored = await db.get_one(app.agent.tables.conversation, conversation)
    assert [row.content for row in rows] == ["Answer 0", "Answer 1", "Answer 2"]
    assert [row.position for row in rows] == [2, 4, 6]
    assert stored.opencode_session_id is not None


async def test_a_subagents_cost_is_counted_once(
    database_url: str, opencode: ScriptedServer
) -> None:
    async with host(database_url, opencode) as app:
        row, changes = await run(app, await app.conversation(), "SCRIPT:task")
        own = [m["info"]["cost"] for m in await rest_of(app, row)]
        child = row.parts[1]["session_id"]
        path = f"/session/{child}/message"
        messages = (await app.agent.client.http.request("GET", path)).json()
    theirs = [m["info"]["cost"] for m in messages if m["info"]["role"] == "assistant"]
    assert theirs
    assert row.cost == math.fsum(own + theirs)
    assert_replay_is(changes, message_json(row))
