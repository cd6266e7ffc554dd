"""Every way a turn ends on the real server: stored is what REST says, streamed what is stored."""

from __future__ import annotations

import asyncio
import json
import math
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from opencode_async import PartDelta, PartUpdated, Retrying, Snapshot
from opencode_async.testing import ScriptedServer
from opencode_async.turns.message import message_json
from tests.support.databases import DATABASES, empty_database
from tests.support.hosts import host
from tests.support.replay import assert_replay_is
from tests.turns.ended import PATIENT, Ended, Json, all_ended, rest_of

# The provider is asked again five times, 74 s in all; every other turn runs beside those.
pytestmark = pytest.mark.timeout(180)

HELLO = "Hello from the scripted model. Every word is one delta."
LONG = "".join(f"w{i:06d} " for i in range(5000))
# With no earlier turn to go back to, OpenCode asks in words of its own, which the model repeats.
COMPACTED = (
    "You said: The previous request exceeded the provider's size limit due to large media "
    "attachments. The conversation was compacted and media files were removed from context. If "
    "the user was asking about attached "
)
LOOP = [f"Step {n}: calling bash. " for n in range(1, 6)]

# script -> status, finish, error code, content
ENDINGS: dict[str, tuple[str, str | None, str | None, str]] = {
    "text": ("completed", "stop", None, HELLO),
    "reasoning": ("completed", "stop", None, HELLO),
    "long 5000": ("completed", "stop", None, LONG),
    "bash": (
        "completed",
        "stop",
        None,
        "Step 1: calling bash. \n\nFinished bash after 1 tool result(s).",
    ),
    "write": (
        "completed",
        "stop",
        None,
        "Step 1: calling write. \n\nFinished write after 1 tool result(s).",
    ),
    "edit": (
        "completed",
        "stop",
        None,
        "Step 1: calling read. \n\nStep 2: calling edit. \n\nFinished edit after 2 tool result(s).",
    ),
    "apply_patch": (
        "completed",
        "stop",
        None,
        "Step 1: calling apply_patch. \n\nFinished apply_patch after 1 tool result(s).",
    ),
    "todo": (
        "completed",
        "stop",
        None,
        "Step 1: calling todowrite. \n\nStep 2: calling todowrite. \n\n"
        "Finished todo after 2 tool result(s).",
    ),
    "multi": ("completed", "stop", None, "Finished multi."),
    "loop 5": (
        "completed",
        "stop",
        None,
        "\n\n".join([*LOOP, "Finished loop after 5 tool result(s)."]),
    ),
    "task": (
        "completed",
        "stop",
        None,
        "Step 1: calling task. \n\nFinished task after 1 tool result(s).",
    ),
    "question": ("completed", "rejected", None, "Step 1: calling question. "),
    "length": ("completed", "length", None, "This answer is too long to fit"),
    "contentfilter": ("error", "content_filter", "content_filter", "This answer was filtered"),
    "empty": ("completed", "stop", None, ""),
    "badargs": ("completed", "stop", None, "Finished badargs."),
    "unknowntool": (
        "completed",
        "stop",
        None,
        "Step 1: calling no_such_tool. \n\nFinished unknowntool after 1 tool result(s).",
    ),
    "overflow": ("completed", "stop", None, COMPACTED),
    "error400": ("error", None, "provider_error", ""),
    "error401": ("error", None, "provider_error", ""),
    'error429 {"times": 1}': ("completed", "stop", None, HELLO),
    'error500 {"times": 2}': ("completed", "stop", None, HELLO),
    'streamerror {"times": 2}': ("completed", "stop", None, HELLO),
    'cut {"times": 2}': ("completed", "stop", None, HELLO),
    "error500": ("error", None, "provider_error", ""),
    # Of attempts that fail for good the last one's words are kept.
    "streamerror": ("error", None, "agent_error", "These words arrive and then "),
    "cut": ("error", None, "provider_error", "These words arrive and then the connection "),
}
TOOLS = {
    "bash": ["bash"],
    "write": ["write"],
    "edit": ["read", "edit"],
    "apply_patch": ["apply_patch"],
    "todo": ["todowrite", "todowrite"],
    "multi": ["write", "write"],
    "loop 5": ["bash"] * 5,
    "task": ["task"],
    "question": ["question"],
    "badargs": ["invalid"],
    "unknowntool": ["invalid"],
}
FAILING = ("error500", "streamerror", "cut")
RETRIED = [script for script in ENDINGS if "times" in script or script in FAILING]
KINDS = ("text", "reasoning", "tool")
Turns = dict[tuple[str, str], Ended]


def requests(database: str) -> dict[str, dict[str, Any]]:
    """What is said for each script; no two databases' turns touch one file."""
    patch = f"*** Begin Patch\n*** Add File: {database}-patched.txt\n+one\n*** End Patch"
    said = {script: {"text": f"SCRIPT:{script}"} for script in ENDINGS}
    said["edit"] = {"text": f"SCRIPT:edit {json.dumps({'path': f'{database}.txt'})}"}
    said["apply_patch"] = {
        "text": f"SCRIPT:apply_patch {json.dumps({'patch': patch})}",
        "model": "scripted/gpt-5-scripted",
    }
    return said


async def every_turn(server: ScriptedServer, urls: dict[str, str]) -> Turns:
    ended: Turns = {}

    async def on(database: str, url: str) -> None:
        assert server.directory is not None
        (Path(server.directory) / f"{database}.txt").write_text("line one\nline two\n")
        for script, turn in (await all_ended(url, server, requests(database))).items():
            ended[database, script] = turn

    async with asyncio.TaskGroup() as tasks:
        for database, url in urls.items():
            tasks.create_task(on(database, url))
    return ended


@pytest.fixture(scope="module")
def turns(
    request: pytest.FixtureRequest,
    opencode: ScriptedServer,
    tmp_path_factory: pytest.TempPathFactory,
) -> Turns:
    """All scripts on all databases, run to their ends beside each other."""
    folder = tmp_path_factory.mktemp("endings")

    async def run() -> Turns:
        async with AsyncExitStack() as stack:
            urls = {
                kind: await stack.enter_async_context(empty_database(kind, request, folder))
                for kind in DATABASES
            }
            return await every_turn(opencode, urls)

    # By the real clock also in the fast run: so many turns at once keep a processor busy.
    return asyncio.run(run())


def parts_in(answers: list[Json]) -> list[Json]:
    """What a list of messages holds that is shown; a compaction's own summary is not."""
    shown = [answer for answer in answers if not answer["info"].get("summary")]
    return [part for answer in shown for part in answer["parts"] if part["type"] in KINDS]


@pytest.mark.parametrize("database", DATABASES)
@pytest.mark.parametrize("script", ENDINGS)
def test_a_turn_ends_as_rest_says_and_streams_as_it_is_stored(
    script: str, database: str, turns: Turns
) -> None:
    turn = turns[database, script]
    row = turn.row
    assert (row.status, row.finish, row.error_code, row.content) == ENDINGS[script]
    own = [part for part in row.parts if "subagent" not in part]
    theirs = parts_in(turn.answers)
    assert [part["id"] for part in own] == [part["id"] for part in theirs]
    below = [part["id"] for part in row.parts if "subagent" in part]
    assert below == [part["id"] for part in parts_in(turn.children)]
    assert bool(below) == (script == "task")
    for mine, part in zip(own, theirs, strict=True):
        if part["type"] == "tool":
            state = part["state"]
            for field in ("status", "input", "output", "error", "title"):
                assert mine.get(field) == (state.get(field) or None) or field == "input"
            assert mine["input"] == state["input"]
        else:
            assert mine["content"] == part["text"]
    assert [p["tool"] for p in row.parts if p["type"] == "tool"] == TOOLS.get(script, [])
    infos = [answer["info"] for answer in (*turn.answers, *turn.children)]
    assert row.cost == math.fsum(info["cost"] for info in infos)
    tokens = [info["tokens"] for info in infos]
    assert row.input_tokens == sum(count["input"] for count in tokens)
    assert row.output_tokens == sum(count["output"] for count in tokens)
    assert row.cache_read_tokens == sum(count["cache"]["read"] for count in tokens)
    assert row.cache_write_tokens == sum(count["cache"]["write"] for count in tokens)
    assert row.finished_at is not None
    assert (row.lease_owner, row.epoch) == (None, 1)
    assert_replay_is(turn.changes, message_json(row))


@pytest.mark.parametrize("database", DATABASES)
def test_a_subagents_cost_is_counted_once(database: str, turns: Turns) -> None:
    turn = turns[database, "task"]
    own = math.fsum(answer["info"]["cost"] for answer in turn.answers)
    theirs = math.fsum(answer["info"]["cost"] for answer in turn.children)
    assert theirs > 0
    assert turn.row.cost == pytest.approx(own + theirs)


@pytest.mark.parametrize("database", DATABASES)
@pytest.mark.parametrize("script", RETRIED)
def test_followers_are_told_of_every_attempt_and_none_of_a_dead_ones_text_remains(
    script: str, database: str, turns: Turns
) -> None:
    turn = turns[database, script]
    retries = [change.attempt for change in turn.changes if isinstance(change, Retrying)]
    times = json.loads(script.partition(" ")[2] or '{"times": 5}')["times"]
    emptied = {
        change.index
        for change in turn.changes
        if isinstance(change, PartUpdated) and change.part.to_json().get("content") == ""
    }
    heard = {change.index for change in turn.changes if isinstance(change, PartDelta)}
    *dead, _ = turn.row.parts or [None]
    assert [part["content"] for part in dead] == [""] * len(dead)
    # A follower that a busy machine left behind was sent the whole instead of what it missed.
    _, *caught_up = (change for change in turn.changes if isinstance(change, Snapshot))
    assert retries == list(range(1, times + 1)) or (caught_up and set(retries) < {*range(6)})
    assert heard & {*range(len(dead))} <= emptied or caught_up
    # HTTP errors come without a word; a busy server may notice a cut before the words it is behind.
    assert not dead or "cut" in script or "streamerror" in script


@pytest.mark.parametrize("database", DATABASES)
def test_a_todo_list_is_streamed_and_stored(database: str, turns: Turns) -> None:
    turn = turns[database, "todo"]
    assert [(t["content"], t["status"]) for t in turn.row.todos] == [
        ("first task", "completed"),
        ("second task", "in_progress"),
    ]
    # A follower that a busy machine left behind finds it in what it was sent instead.
    told = [
        c
        for c in turn.changes
        if c.event == "todos" or (isinstance(c, Snapshot) and c.message["todos"])
    ]
    assert told


@pytest.mark.parametrize("database", DATABASES)
def test_the_reason_of_a_provider_error_is_shown_without_its_url(
    database: str, turns: Turns
) -> None:
    assert turns[database, "error401"].row.error_text == "scripted error 401"


@pytest.mark.parametrize("database", DATABASES)
def test_a_question_nobody_can_answer_is_dismissed_at_once(database: str, turns: Turns) -> None:
    (tool,) = [part for part in turns[database, "question"].row.parts if part["type"] == "tool"]
    assert tool["error"] == "The user dismissed this question"


async def test_stopping_while_it_streams_keeps_what_rest_kept(
    database_url: str, opencode: ScriptedServer
) -> None:
    async with host(database_url, opencode, timings=PATIENT) as app:
        script = 'SCRIPT:slow {"n": 100, "delay": 0.1}'
        message = await app.agent.turns.start(await app.conversation(), script)
        async with app.agent.turns.follow(message.id) as following:
            changes = []
            async for change in following:
                changes.append(change)
                if "tick2" in str(change.to_json()):
                    await app.agent.turns.cancel(message.id)
        row = await app.row(message.id)
        (answer,) = await rest_of(app, row)
    assert (row.status, row.finish) == ("cancelled", "cancelled")
    assert [row.content] == [p["text"] for p in answer["parts"] if p["type"] == "text"]
    assert row.content.startswith("tick0 tick1 tick2")
    assert row.cost == answer["info"]["cost"]
    assert answer["info"]["error"]["name"] == "MessageAbortedError"
    assert_replay_is(changes, message_json(row))


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
        states = [p["state"] for m in await rest_of(app, row) for p in m["parts"] if "state" in p]
    assert row.status == "cancelled"
    (tool,) = [part for part in row.parts if part["type"] == "tool"]
    assert [(tool["status"], tool.get("output"))] == [
        (s["status"], s.get("output")) for s in states
    ]
    assert "before" in tool["output"]
    assert_replay_is(changes, message_json(row))
