"""The blueprint of an integration: every section of it has its effect, on the real server."""

from __future__ import annotations

import asyncio
import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any
from uuid import uuid4

import pytest

from opencode_async.testing import ScriptedServer
from tests.support.examples import environment, uvicorn
from tests.support.serving import listening, serving

NAME = "examples.fastapi_integration"
ANN, BEN = {"X-User": "ann"}, {"X-User": "ben"}


@pytest.fixture
def blueprint(
    opencode: ScriptedServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[ModuleType]:
    """The module, which reads the environment when it is imported."""
    url = f"sqlite+aiosqlite:///{tmp_path}/app.db"
    for name, value in environment(opencode, DATABASE_URL=url).items():
        monkeypatch.setenv(name, value)
    assert NAME not in sys.modules
    yield importlib.import_module(NAME)
    del sys.modules[NAME]


async def test_a_turn_with_everything_around_it(
    database_url: str, opencode: ScriptedServer
) -> None:
    async with uvicorn(f"{NAME}:app", env=environment(opencode, DATABASE_URL=database_url)) as http:
        goal = 'SCRIPT:tools [{"name": "bash", "args": {"command": "sudo id"}}, '
        goal += '{"name": "bash", "args": {"command": "echo hello from bash"}}]'
        started = await http.post(
            "/projects", json={"project": "Otters", "goal": goal}, headers=ANN
        )
        assert started.status_code == 202, started.text
        conversation, message = started.json().values()
        http.headers.update(ANN)
        heard: list[str] = []
        async with listening(http, f"/agent/messages/{message}/events") as events:
            async for each in events:
                heard.append(each.event)
                permission = each.data.get("permission")
                if each.event == "snapshot":
                    (permission,) = each.data["message"]["permissions"][-1:] or [None]
                if permission and permission["status"] == "open":
                    assert permission["metadata"]["command"] == "echo hello from bash"
                    async with asyncio.timeout(10):
                        while await board(http, conversation) != "using bash":
                            pass  # the observer is told off the turn's path
                    path = f"/agent/messages/{message}/permissions/{permission['id']}"
                    answered = await http.post(path, json={"reply": "once"})
                    assert answered.status_code == 204, answered.text
                if each.event == "finished":
                    break
        tools = [part for part in each.data["message"]["parts"] if part["type"] == "tool"]
        assert [part["status"] for part in tools] == ["error", "completed"]
        assert "There is no root here" in tools[0]["error"]
        assert "hello from bash" in tools[1]["output"]
        async with asyncio.timeout(10):
            while await board(http, conversation) is not None:
                pass

        path = f"/projects/{conversation}/report"
        day = {"day": f"SCRIPT:text {uuid4()}"}
        ordered = [await http.post(path, params=day) for _ in range(2)]
        assert {each.status_code for each in ordered} == {202}
        assert ordered[0].json() == ordered[1].json()
        assert (await http.post(path, params=day, headers=BEN)).status_code == 404
        assert (await http.get(f"/agent/messages/{message}", headers=BEN)).status_code == 404
        counted = (await http.get("/metrics")).json()
        assert counted["turn.posted"] == 2
        assert counted["ask.resolved"] == 1
        assert counted["turn.finished"] >= 1
    asked = [str(request.body["messages"]) for request in opencode.model.requests]
    assert any("You work for ann. Their project is Otters." in each for each in asked)


async def board(http: Any, conversation: str) -> str | None:
    doing: dict[str, str] = (await http.get("/board")).json()
    return doing.get(conversation)


async def test_a_job_delivered_twice_is_one_prompt(
    blueprint: ModuleType, opencode: ScriptedServer
) -> None:
    text = f'SCRIPT:slow {{"n": 8, "delay": 0.1, "of": "{uuid4()}"}}'
    async with serving(blueprint.app) as http:
        body = {"project": "Otters", "goal": text}
        message = (await http.post("/projects", json=body, headers=ANN)).json()["message_id"]
        await asyncio.gather(blueprint.answer(message), blueprint.answer(message))
        await blueprint.answer(message)
        await blueprint.answer(str(uuid4()))  # erased meanwhile
        answered = (await http.get(f"/agent/messages/{message}", headers=ANN)).json()
    assert answered["status"] == "completed"
    assert answered["content"].split() == [f"tick{n}" for n in range(8)]
    mine = [
        r for r in opencode.model.requests if (r.script.name, r.script.user_text) == ("slow", text)
    ]
    assert len(mine) == 1
