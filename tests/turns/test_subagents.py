"""A turn that has others work for it."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import pytest

from opencode_async import Part, PartDelta, ToolPart
from opencode_async.protocol import events, messages
from opencode_async.protocol.parts import part_from_wire
from opencode_async.testing import ScriptedServer
from opencode_async.turns.message import message_json
from tests.support.hosts import host, nowhere
from tests.support.proxy import Proxy
from tests.support.replay import assert_replay_is
from tests.turns.ended import answers_in, messages_of, rest_of, run, said_by, texts

ABORT = re.compile(rb"POST /session/(ses_\w+)/abort")


def a_task(prompt: str) -> str:
    return f"SCRIPT:task {json.dumps({'prompt': prompt})}"


def delegated(prompt: str, description: str = "A small job") -> dict[str, Any]:
    """A call that has a subagent work."""
    arguments = {"description": description, "prompt": prompt, "subagent_type": "general"}
    return {"name": "task", "args": arguments}


SCRIPT = a_task("SCRIPT:hang Half of it.")
BRIEF = a_task("SCRIPT:bash")
SLOWLY = 'SCRIPT:slow {"n": 6, "delay": 0.2}'
JOBS = [
    delegated("SCRIPT:text The first one's."),
    delegated("SCRIPT:loop 2"),
    delegated(SLOWLY, "A long job"),
]
SEVERAL = f"SCRIPT:multi {json.dumps(JOBS)}"


async def test_a_stop_reaches_the_subagent_before_its_parent_and_keeps_what_both_said(
    database_url: str, opencode: ScriptedServer
) -> None:
    aborted: list[str] = []
    said = asyncio.Event()

    def asked(data: bytes) -> Iterable[bytes]:
        aborted.extend(found.decode() for found in ABORT.findall(data))
        yield data

    def edit(frame: bytes) -> Iterable[bytes]:
        if b'"message.part.delta"' in frame and b"Half of it." in frame:
            said.set()
        yield frame

    async with (
        Proxy(opencode, edit, asked).running() as server,
        host(database_url, server) as app,
    ):
        message = await app.agent.turns.start(await app.conversation(), SCRIPT)
        async with app.agent.turns.follow(message.id) as following:
            changes = [await anext(following)]
            await said.wait()
            await app.agent.turns.cancel(message.id)
            changes += [change async for change in following]
        row = await app.row(message.id)
        parent = await app.session_id(row)
        (subagent,) = await app.agent.client.children(parent)
        child = subagent.session_id
        busy = [await app.agent.client.busy(session_id) for session_id in (child, parent)]
        steps = await rest_of(app, row)
        (answer,) = answers_in(await messages_of(app, child))
    assert list(dict.fromkeys(aborted)) == [child, parent]
    assert busy == [False, False]
    assert (row.status, row.finish) == ("cancelled", "cancelled")
    # Its parent may have begun another step when its subagent had stopped.
    assert row.content.startswith("Step 1: calling task. ")
    assert said_by(None, row) == texts(steps)
    assert said_by(child, row) == texts([answer]) == ["Half of it."]
    (call,) = tools_of(None, row)
    (theirs,) = [p for step in steps for p in step["parts"] if p["id"] == call["id"]]
    assert (call["session_id"], call["status"]) == (child, "error")
    # Which of the two OpenCode says depends on what comes first.
    assert call["error"] in ("Task cancelled", "Tool execution aborted")
    assert theirs["state"]["status"] == "error"
    assert app.reports.errors == []
    assert_replay_is(changes, message_json(row))


async def test_what_subagents_do_is_told_as_it_comes_and_is_what_rest_has_of_each(
    database_url: str, opencode: ScriptedServer
) -> None:
    """Two at once, of one description, and a third that has more to do."""
    async with host(database_url, opencode, dispatch=nowhere) as app:
        row, changes = await run(app, await app.conversation(), SEVERAL)
        parent = await app.session_id(row)
        children = [child.session_id for child in await app.agent.client.children(parent)]
        theirs = {c: answers_in(await messages_of(app, c)) for c in children}
        own = await rest_of(app, row)
    assert (row.status, row.finish) == ("completed", "stop")
    assert len(children) == 3
    assert said_by(None, row) == texts(own)
    assert "\n\n".join(texts(own)) == row.content
    for child in children:
        assert said_by(child, row) == texts(theirs[child])
        assert [p["id"] for p in tools_of(child, row)] == ids_of_tools(theirs[child])
    calls = [call for call in tools_of(None, row) if call["tool"] == "task"]
    assert sorted(call["session_id"] for call in calls) == sorted(children)
    assert stands_behind_its_call(row)
    # Words came as they were said, not with the call's end; many of them at once where it is busy.
    grew = {row.parts[c.index].get("subagent") for c in changes if isinstance(c, PartDelta)}
    assert grew & {*children}
    assert_replay_is(changes, message_json(row))


@pytest.mark.parametrize("kept", [("completed",), ()])
async def test_a_subagent_is_found_where_its_call_does_not_name_it(
    kept: tuple[str, ...],
    database_url: str,
    opencode: ScriptedServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """On a busy machine OpenCode loses the name, until the call is completed or for ever."""

    def lossy(raw: Mapping[str, Any]) -> Part | None:
        part = part_from_wire(raw)
        if isinstance(part, ToolPart) and part.status not in kept:
            return replace(part, session_id=None)
        return part

    for module in (events, messages):
        monkeypatch.setattr(module, "part_from_wire", lossy)
    async with host(database_url, opencode, dispatch=nowhere) as app:
        row, changes = await run(app, await app.conversation(), BRIEF)
        parent = await app.session_id(row)
        (subagent,) = await app.agent.client.children(parent)
        child = subagent.session_id
        theirs = answers_in(await messages_of(app, child))
    (call,) = tools_of(None, row)
    assert (row.status, call["session_id"]) == ("completed", child)
    assert said_by(child, row) == texts(theirs)
    assert [p["id"] for p in tools_of(child, row)] == ids_of_tools(theirs)
    assert {charge["session_id"] for charge in row.ledger} == {parent, child}
    assert_replay_is(changes, message_json(row))


async def test_a_call_that_names_another_conversations_session_tells_nothing_of_it(
    database_url: str, opencode: ScriptedServer
) -> None:
    """OpenCode lets it: in one directory all sessions are each other's (1.18.33, measured)."""
    async with host(database_url, opencode, dispatch=nowhere) as app:
        theirs, _ = await run(app, await app.conversation(), "SCRIPT:text A secret.")
        foreign = await app.session_id(theirs)
        call = delegated("SCRIPT:text Said there.")
        call["args"]["task_id"] = foreign
        row, changes = await run(
            app, await app.conversation(), f"SCRIPT:tools {json.dumps([call])}"
        )
        said = texts(answers_in(await messages_of(app, foreign)))
    assert (row.status, said) == ("completed", ["A secret.", "Said there."])
    assert said_by(foreign, row) == []
    assert "secret" not in str([change.to_json() for change in changes])
    assert foreign not in {charge["session_id"] for charge in row.ledger}


async def test_another_worker_goes_on_with_what_a_subagent_says(
    database_url: str, opencode: ScriptedServer
) -> None:
    script = a_task('SCRIPT:slow {"n": 12, "delay": 0.25}')
    async with host(database_url, opencode, dispatch=nowhere) as app:
        message = await app.agent.turns.start(await app.conversation(), script)
        async with app.agent.turns.follow(message.id) as following, asyncio.TaskGroup() as tasks:
            first = tasks.create_task(app.agent.turns.run(message.id))
            changes = []
            async for change in following:
                changes.append(change)
                deltas = sum(isinstance(c, PartDelta) for c in changes)
                if deltas >= 3 and not first.done():
                    first.cancel()
                    await asyncio.wait([first])
                    tasks.create_task(app.agent.turns.run(message.id))
        row = await app.row(message.id)
        (subagent,) = await app.agent.client.children(await app.session_id(row))
        child = subagent.session_id
        theirs = answers_in(await messages_of(app, child))
    assert first.cancelled()
    assert (row.status, row.epoch) == ("completed", 2)
    assert said_by(child, row) == texts(theirs)
    assert len(tools_of(None, row)) == 1
    assert_replay_is(changes, message_json(row))


def tools_of(subagent: str | None, row: Any) -> list[dict[str, Any]]:
    return [p for p in row.parts if p.get("subagent") == subagent and p["type"] == "tool"]


def ids_of_tools(answers: list[dict[str, Any]]) -> list[str]:
    return [part["id"] for one in answers for part in one["parts"] if part["type"] == "tool"]


def stands_behind_its_call(row: Any) -> bool:
    """Whether each part of a subagent's comes after the call that started it."""
    started: set[str | None] = {None}
    for part in row.parts:
        if part.get("subagent") not in started:
            return False
        started.add(part.get("session_id"))
    return True
