"""The two routes by which people answer what the agent asks."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest

from opencode_async.testing import ScriptedServer
from tests.support.hosts import host
from tests.support.serving import listening
from tests.turns.asking import ASKING_FOR_BASH, BASH, TIMINGS
from tests.web.test_routes import UNKNOWN, app_with_router, chat, post

OPTIONS: dict[str, Any] = {"asks": True, "settings_for": ASKING_FOR_BASH, "timings": TIMINGS}


async def asked(client: httpx.AsyncClient, text: str) -> tuple[str, dict[str, Any]]:
    """A turn that asks: the path of its message, and the ask as the stream has it."""
    message = await post(client, text)
    path = f"/agent/messages/{message['id']}"
    async with asyncio.timeout(20), listening(client, f"{path}/events") as events:
        async for event in events:
            if event.event.endswith(".asked"):
                return path, event.data
    raise AssertionError("nothing was asked")


async def ended(client: httpx.AsyncClient, path: str) -> dict[str, Any]:
    async with asyncio.timeout(20), listening(client, f"{path}/events") as events:
        last = [event async for event in events][-1]
    assert last.event == "finished"
    stored: dict[str, Any] = (await client.get(path)).json()
    assert last.data["message"] == stored
    return stored


async def test_a_permission_is_answered_once_and_stays_in_the_message(
    database_url: str, opencode: ScriptedServer
) -> None:
    async with chat(database_url, opencode, **OPTIONS) as (_, client):
        path, told = await asked(client, BASH)
        permission = told["permission"]
        assert (await client.get(path)).json()["permissions"] == [permission]  # as on a reload
        answer = f"{path}/permissions/{permission['id']}"
        for body, status in (
            ({"reply": "perhaps"}, 422),
            ({"reply": "once", "message": "with words"}, 422),
            ({"reply": "once", "more": 1}, 422),
            ({"reply": "once"}, 204),
            ({"reply": "once"}, 409),
            ({"reply": "reject"}, 409),
        ):
            response = await client.post(answer, json=body)
            assert response.status_code == status, (body, response.text)
        assert response.json()["type"] == "urn:opencode-async:already-answered"
        message = await ended(client, path)
    assert (message["status"], message["finish"]) == ("completed", "stop")
    (stored,) = message["permissions"]
    assert (stored["status"], stored["reply"]) == ("answered", "once")


async def test_a_question_is_answered_with_its_labels_or_words_of_ones_own(
    database_url: str, opencode: ScriptedServer
) -> None:
    async with chat(database_url, opencode, **OPTIONS) as (_, client):
        path, told = await asked(client, "SCRIPT:question")
        answer = f"{path}/questions/{told['question']['id']}"
        for body, status in (
            ({}, 422),
            ({"answers": [["Red"]], "reject": True}, 422),
            ({"answers": []}, 422),
            ({"answers": [["Green"]]}, 422),
            ({"answers": [[]], "custom": ["Like the sea"]}, 204),
            ({"reject": True}, 409),
        ):
            response = await client.post(answer, json=body)
            assert response.status_code == status, (body, response.text)
        message = await ended(client, path)
    (stored,) = message["questions"]
    assert (stored["status"], stored["answers"]) == ("answered", [["Like the sea"]])


async def test_what_a_stopped_turn_asked_is_gone(
    database_url: str, opencode: ScriptedServer
) -> None:
    async with chat(database_url, opencode, **OPTIONS) as (_, client):
        path, told = await asked(client, BASH)
        await client.post(f"{path}/cancel")
        message = await ended(client, path)
        answer = f"{path}/permissions/{told['permission']['id']}"
        response = await client.post(answer, json={"reply": "once"})
    assert message["permissions"][0]["status"] == "gone"
    assert (response.status_code, response.json()["type"]) == (410, "urn:opencode-async:ask-gone")


async def test_nobody_answers_for_others_or_without_leave_to_write(
    database_url: str, opencode: ScriptedServer
) -> None:
    async with chat(database_url, opencode, **OPTIONS) as (_, client):
        path, told = await asked(client, BASH)
        key = told["permission"]["id"]
        other, _ = await asked(client, BASH)
        body = {"reply": "once"}
        for url, headers, status in (
            (f"{path}/permissions/{key}", {"x-user": "2"}, 404),
            (f"{path}/permissions/{key}", {"x-role": "reader"}, 403),
            (f"{path}/permissions/{UNKNOWN}", {}, 404),
            (f"{path}/permissions/no-key", {}, 404),
            (f"{other}/permissions/{key}", {}, 404),
            (f"{path}/permissions/{key}", {}, 204),
        ):
            response = await client.post(url, json=body, headers=headers)
            assert response.status_code == status, (url, headers, response.text)
        for each in (path, other):
            await client.post(f"{each}/cancel")
            await ended(client, each)


@pytest.mark.parametrize("asks", [True, False])
async def test_the_routes_are_there_if_the_table_is(
    asks: bool, database_url: str, opencode: ScriptedServer
) -> None:
    async with host(database_url, opencode, asks=asks) as app:
        paths = app_with_router(app).openapi()["paths"]
    found = {path for path in paths if "questions" in path or "permissions" in path}
    assert len(found) == (2 if asks else 0)
