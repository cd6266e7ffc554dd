"""Tool calls in words: the same in every answer and in every stream."""

from __future__ import annotations

import json
from typing import Any

import pytest

from opencode_async import Part, ToolDisplay
from opencode_async.protocol.parts import ToolPart, part_from_json
from opencode_async.testing import ScriptedServer
from tests.support.replay import replay_events
from tests.support.serving import listening
from tests.web.test_routes import chat, heard, post

CALLS = [
    {"name": "write", "args": {"filePath": "displayed.py", "content": "one = 1\n"}},
    {"name": "edit", "args": {"filePath": "displayed.py", "oldString": "1", "newString": "2"}},
    {"name": "read", "args": {"filePath": "not-there.txt"}},
    {"name": "no_such_tool", "args": {}},
    {"name": "bash", "args": {"command": "rm displayed.py", "description": "Removes it"}},
]
TITLES = [
    "Wrote displayed.py",
    "Edited displayed.py",
    "Reading not-there.txt",
    "Using no such tool",
    "Ran rm displayed.py",
]


def everything(part: Part) -> Part:
    return part


@pytest.mark.parametrize("router", [{}, {"show": everything}], ids=["all", "shown"])
async def test_every_tool_call_has_its_display_wherever_it_is_told(
    router: dict[str, Any], database_url: str, opencode: ScriptedServer
) -> None:
    async with chat(database_url, opencode, router=router) as (app, client):
        cid = (await post(client, "SCRIPT:text Hello."))["conversation_id"]
        first = (await client.get(f"/agent/conversations/{cid}")).json()["messages"][-1]
        await heard(client, first["id"])
        async with listening(client, f"/agent/conversations/{cid}/events") as events:
            mid = (await post(client, f"SCRIPT:tools {json.dumps(CALLS)}", cid))["id"]
            turn = await heard(client, mid)
            conversation = [await anext(events)]
            while conversation[-1].event != "finished":
                conversation.append(await anext(events))
        stored = (await client.get(f"/agent/messages/{mid}")).json()
        listed = (await client.get(f"/agent/conversations/{cid}")).json()["messages"][-1]
        row = await app.row(app.agent.tables.message.id.type.python_type(mid))
    assert listed == stored
    for told in (turn, [event for event in conversation if event.data["message_id"] == mid]):
        state, finished = replay_events(told)
        assert finished == stored
        assert state["parts"] == stored["parts"]
    calls = [part for part in stored["parts"] if part["type"] == "tool"]
    assert [call["display"]["title"] for call in calls] == TITLES
    assert [call["display"]["status"] for call in calls] == [
        *("completed", "completed", "error", "error", "completed"),
    ]
    assert calls[0]["display"]["diff"].endswith("@@ -0,0 +1,1 @@\n+one = 1\n")
    assert calls[1]["display"]["diff"].endswith("@@ -1,1 +1,1 @@\n-one = 1\n+one = 2\n")
    for call in calls:
        part = part_from_json(call)
        assert isinstance(part, ToolPart)
        assert call["display"] == ToolDisplay(part).to_dict()
    assert all("display" not in part for part in row.parts)  # what a later version says is its own
