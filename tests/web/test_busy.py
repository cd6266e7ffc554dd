"""What a browser sees of messages that are sent while the agent is answering."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from opencode_async.testing import ScriptedServer
from opencode_async.turns import queue
from tests.support.serving import Sse, listening
from tests.web.test_routes import chat

HANG = "SCRIPT:hang Half of it."


async def say(
    client: httpx.AsyncClient, cid: object, text: str, on_busy: str = "enqueue"
) -> dict[str, Any]:
    body = {"text": text, "on_busy": on_busy}
    posted = await client.post(f"/agent/conversations/{cid}/messages", json=body)
    assert posted.status_code == 202, posted.text
    message: dict[str, Any] = posted.json()
    return message


async def until(events: AsyncIterator[Sse], kind: str, mid: str, **message: Any) -> list[Sse]:
    """What comes up to that event of that message, with such values in its ``message``."""
    seen: list[Sse] = []
    async with asyncio.timeout(30):
        async for event in events:
            seen.append(event)
            if (event.event, event.data["message_id"]) == (kind, mid) and (
                message.items() <= event.data.get("message", {}).items()
            ):
                return seen
    raise AssertionError([event.event for event in seen])


async def test_a_tab_is_told_at_once_of_what_waits_and_of_what_becomes_of_it(
    database_url: str, opencode: ScriptedServer
) -> None:
    async with chat(database_url, opencode) as (app, client):
        cid = await app.conversation()
        path = f"/agent/conversations/{cid}/events"
        running = await say(client, cid, HANG)
        async with listening(client, path) as events:
            seen = await until(events, "part.delta", running["id"])
            waiting = await say(client, cid, "SCRIPT:text Waits.")
            dropped = await say(client, cid, "SCRIPT:text Dropped.")
            assert [running["status"], waiting["status"]] == ["pending", "queued"]
            seen += await until(events, "message.added", waiting["id"], status="queued")
            seen += await until(events, "message.added", dropped["id"], status="queued")
            cancelled = await client.post(f"/agent/messages/{dropped['id']}/cancel")
            seen += await until(events, "finished", dropped["id"], status="cancelled")
            assert {e.id.partition(".")[0] for e in seen[-3:]} == {running["id"]}
            urgent = await say(client, cid, "SCRIPT:text Urgent.", "interrupt")
            seen += await until(events, "finished", running["id"], finish="interrupted")
            seen += await until(events, "finished", urgent["id"], content="Urgent.")
            seen += await until(events, "finished", waiting["id"], content="Waits.")
        answer = (await client.get(f"/agent/conversations/{cid}")).json()
    assert (cancelled.status_code, cancelled.json()["status"]) == (202, "cancelled")
    assert [(m["role"], m["content"]) for m in answer["messages"] if m["role"] == "assistant"] == [
        ("assistant", "Half of it."),
        ("assistant", "Urgent."),
        ("assistant", "Waits."),
        ("assistant", ""),
    ]
    assert not answer["busy"]
    added = [e.data["message_id"] for e in seen if e.event == "message.added"]
    assert len(added) == len(set(added))
    finished = [e.data["message_id"] for e in seen if e.event == "finished"]
    assert finished == [dropped["id"], running["id"], urgent["id"], waiting["id"]]


async def test_a_tab_that_comes_back_misses_neither_what_ran_nor_what_waited(
    database_url: str, opencode: ScriptedServer
) -> None:
    async with chat(database_url, opencode) as (app, client):
        cid = await app.conversation()
        path = f"/agent/conversations/{cid}/events"
        running = await say(client, cid, HANG)
        async with listening(client, path) as events:
            seen = await until(events, "part.delta", running["id"])
            waiting = await say(client, cid, "SCRIPT:text Waits.")
            dropped = await say(client, cid, "SCRIPT:text Dropped.")
            seen += await until(events, "message.added", dropped["id"])
        last = seen[-1].id
        # While nobody looks: one that waited is gone, one came, and what ran has ended.
        await client.post(f"/agent/messages/{dropped['id']}/cancel")
        later = await say(client, cid, "SCRIPT:text Later.")
        await client.post(f"/agent/messages/{running['id']}/cancel")
        async with listening(client, path, last_event_id=last) as events:
            again = await until(events, "finished", later["id"])
    told = {e.data["message_id"]: e.data["message"] for e in again if e.event == "finished"}
    assert [m["status"] for m in told.values()].count("completed") == 2
    assert told.keys() == {running["id"], waiting["id"], dropped["id"], later["id"]}
    assert told[running["id"]]["content"] == "Half of it."
    assert told[dropped["id"]]["status"] == "cancelled"
    words = [e.data["delta"] for e in again if e.event == "part.delta"]
    assert "Half of it." not in words


async def test_a_full_queue_is_a_problem_of_its_own(
    database_url: str, opencode: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queue, "MOST_QUEUED", 1)
    async with chat(database_url, opencode) as (app, client):
        cid = await app.conversation()
        await say(client, cid, HANG)
        await say(client, cid, "SCRIPT:text Waits.")
        body = {"text": "No room.", "on_busy": "enqueue"}
        full = await client.post(f"/agent/conversations/{cid}/messages", json=body)
        rejected = await client.post(f"/agent/conversations/{cid}/messages", json={"text": "No."})
        await client.delete(f"/agent/conversations/{cid}")
    assert (full.status_code, full.json()["type"]) == (409, "urn:opencode-async:queue-full")
    assert rejected.json()["type"] == "urn:opencode-async:conversation-busy"


async def test_the_same_key_for_another_policy_is_another_request(
    database_url: str, opencode: ScriptedServer
) -> None:
    async with chat(database_url, opencode) as (app, client):
        cid = await app.conversation()
        path, key = f"/agent/conversations/{cid}/messages", {"Idempotency-Key": "k1"}
        await say(client, cid, HANG)
        body = {"text": "SCRIPT:text Waits.", "on_busy": "enqueue"}
        first, again = [await client.post(path, json=body, headers=key) for _ in range(2)]
        other = await client.post(path, json={**body, "on_busy": "interrupt"}, headers=key)
        await client.delete(f"/agent/conversations/{cid}")
    assert first.json()["id"] == again.json()["id"]
    assert other.status_code == 422
