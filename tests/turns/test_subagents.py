"""A turn that has others work for it."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterable

from opencode_async.testing import ScriptedServer
from opencode_async.turns.message import message_json
from tests.support.hosts import host
from tests.support.proxy import Proxy
from tests.support.replay import assert_replay_is
from tests.turns.ended import answers_in, messages_of, rest_of, texts

ABORT = re.compile(rb"POST /session/(ses_\w+)/abort")
SCRIPT = f"SCRIPT:task {json.dumps({'prompt': 'SCRIPT:hang Half of it.'})}"


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
    assert [part["content"] for part in row.parts if "content" in part] == texts(steps)
    assert texts([answer]) == ["Half of it."]
    (call,) = [part for part in row.parts if part["type"] == "tool"]
    (theirs,) = [p for step in steps for p in step["parts"] if p["id"] == call["id"]]
    assert (call["session_id"], call["status"], call["error"]) == (child, "error", "Task cancelled")
    assert theirs["state"]["status"] == "error"
    assert app.reports.errors == []
    assert_replay_is(changes, message_json(row))
