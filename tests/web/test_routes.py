"""The HTTP contract, over a real socket and the real server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

import httpx
import pytest
from fastapi import FastAPI, Header, HTTPException
from sqlalchemy import func, select

from opencode_async import Access
from opencode_async.testing import ScriptedServer
from opencode_async.turns.message import message_json
from tests.support.hosts import Host, host
from tests.support.serving import Sse, listening, serving

UNKNOWN = "5bd1a3a4-26fd-4f5d-8d5b-1f2f7ad0a3c1"


@asynccontextmanager
async def chat(url: str, server: Any, **options: Any) -> AsyncIterator[tuple[Any, Any]]:
    """An app with the routes under /agent; who asks is in a header, user 1 unless said."""
    router: dict[str, Any] = options.pop("router", {})
    async with host(url, server, **options) as app:
        web = app_with_router(app, **router)
        async with serving(web) as client:
            yield app, client


def app_with_router(app: Host[Any, Any], **options: Any) -> FastAPI:
    conversation = app.agent.tables.conversation
    owner = "tenant_id" if hasattr(conversation, "tenant_id") else "user_id"

    def access(
        x_user: Annotated[int, Header()] = 1, x_role: Annotated[str, Header()] = "writer"
    ) -> Access:
        if x_user < 0:
            raise HTTPException(401, "the host's own words", {"WWW-Authenticate": "Cookie"})
        values = {"tenant_id": x_user, "source": "chat"} if owner == "tenant_id" else {}
        return Access(
            getattr(conversation, owner) == x_user,
            conversation={owner: x_user},
            message=values,
            may_write=x_role == "writer",
        )

    web = FastAPI()
    web.include_router(app.agent.router(access=access, **options), prefix="/agent")
    return web


async def post(client: httpx.AsyncClient, text: str, cid: str | None = None) -> dict[str, Any]:
    """Say something in a new conversation, or in that one."""
    if cid is None:
        created = await client.post("/agent/conversations", json={"title": "A chat"})
        assert created.status_code == 201
        cid = created.json()["id"]
    posted = await client.post(f"/agent/conversations/{cid}/messages", json={"text": text})
    assert posted.status_code == 202, posted.text
    message: dict[str, Any] = posted.json()
    return message


async def heard(client: httpx.AsyncClient, mid: str, after: str | None = None) -> list[Sse]:
    """All events of a turn until its stream ends."""
    async with listening(client, f"/agent/messages/{mid}/events", last_event_id=after) as events:
        return [event async for event in events]


@pytest.mark.parametrize("old", [False, True], ids=["uuid", "bigint"])
async def test_a_chat_over_http_from_its_first_message_to_its_deletion(
    old: bool, database_url: str, opencode: ScriptedServer
) -> None:
    async with chat(database_url, opencode, old=old) as (app, client):
        message = await post(client, "SCRIPT:text Hello.")
        assert (message["status"], message["role"]) == ("pending", "assistant")
        events = await heard(client, message["id"])
        assert events[-1].event == "finished"
        stored = (await client.get(f"/agent/messages/{message['id']}")).json()
        assert events[-1].data == {"message_id": message["id"], "message": stored}
        assert stored["content"] == "Hello."
        cid = message["conversation_id"]
        whole = (await client.get(f"/agent/conversations/{cid}")).json()
        assert [m["role"] for m in whole["messages"]] == ["user", "assistant"]
        assert whole["messages"][0]["content"] == "SCRIPT:text Hello."
        assert whole["messages"][1] == stored
        assert stored["reply_to"] == whole["messages"][0]["id"]
        keys = (stored["id"], stored["conversation_id"], stored["reply_to"], whole["id"])
        assert all(isinstance(key, str) for key in keys)
        assert (whole["busy"], whole["title"]) == (False, "A chat")
        listed = (await client.get("/agent/conversations")).json()
        assert [item["id"] for item in listed["items"]] == [cid]
        tables = app.agent.tables
        async with app.sessions() as db:
            row = (await db.scalars(select(tables.conversation))).one()
            session_id = row.opencode_session_id
        assert (await client.delete(f"/agent/conversations/{cid}")).status_code == 204
        assert (await client.get(f"/agent/conversations/{cid}")).status_code == 404
        async with app.sessions() as db:
            assert await db.scalar(select(func.count()).select_from(tables.message)) == 0
        sessions = (await app.agent.client.http.request("GET", "/session")).json()
        assert session_id not in [session["id"] for session in sessions]


async def test_a_conversation_deleted_in_mid_turn_is_gone_everywhere(
    database_url: str, opencode: ScriptedServer
) -> None:
    async with chat(database_url, opencode) as (app, client):
        message = await post(client, "SCRIPT:hang Here")
        path = f"/agent/messages/{message['id']}/events"
        async with listening(client, path) as events:
            async for event in events:
                if event.event == "part.delta":
                    break
            cid = message["conversation_id"]
            assert (await client.delete(f"/agent/conversations/{cid}")).status_code == 204
            rest = [event async for event in events]
        assert [e.event for e in rest if e.event == "finished"] in ([], ["finished"])
        assert (await client.get(f"/agent/messages/{message['id']}")).status_code == 404
        assert app.reports.errors == []


async def test_the_conversation_stream_carries_every_turn(
    database_url: str, opencode: ScriptedServer
) -> None:
    async with chat(database_url, opencode) as (_, client):
        first = await post(client, "SCRIPT:text One.")
        cid = first["conversation_id"]
        await heard(client, first["id"])
        path = f"/agent/conversations/{cid}/events"
        async with listening(client, path) as events:
            second = await post(client, "SCRIPT:text Two.", cid)
            seen = [await anext(events)]
            while seen[-1].event != "finished":
                seen.append(await anext(events))
            third = await post(client, "SCRIPT:text Three.", cid)
            while len([e for e in seen if e.event == "finished"]) < 2:
                seen.append(await anext(events))
        added = [e.data["message"] for e in seen if e.event == "message.added"]
        assert [m["role"] for m in added] == ["user", "assistant", "user", "assistant"]
        assert [added[1]["id"], added[3]["id"]] == [second["id"], third["id"]]
        finished = [e.data["message"]["content"] for e in seen if e.event == "finished"]
        assert finished == ["Two.", "Three."]
        # From the end of the second turn on: only what came behind it.
        end = next(e.id for e in seen if e.event == "finished")
        async with listening(client, path, last_event_id=end) as events:
            again = [await anext(events)]
            while again[-1].event != "finished":
                again.append(await anext(events))
        added_again = [e for e in again if e.event == "message.added"]
        assert [e.data["message"]["role"] for e in added_again] == ["user", "assistant"]
        assert again[-1].data["message"]["content"] == "Three."


async def test_a_reconnect_goes_on_behind_the_last_event_without_gap_or_repeat(
    database_url: str, opencode: ScriptedServer
) -> None:
    async with chat(database_url, opencode) as (app, client):
        message = await post(client, 'SCRIPT:slow {"n": 10, "delay": 0.1}')
        path = f"/agent/messages/{message['id']}/events"
        seen: list[Sse] = []
        while not (seen and seen[-1].event == "finished"):
            last = seen[-1].id if seen else None
            async with listening(client, path, last_event_id=last) as events:
                for _ in range(3):
                    seen.append(await anext(events))
                    if seen[-1].event == "finished":
                        break
        deltas = "".join(e.data["delta"] for e in seen if e.event == "part.delta")
        snapshots = [e for e in seen if e.event == "snapshot"]
        row = await app.row(app.agent.tables.message.id.type.python_type(message["id"]))
    assert deltas == row.content == "".join(f"tick{i} " for i in range(10))
    assert [e.id.rsplit(".", 2)[1] for e in snapshots] in (["0", "1"], ["1"])
    assert seen[-1].data["message"] == message_json(row)


async def test_a_cursor_at_the_end_of_a_terminal_message_is_answered_204(
    database_url: str, opencode: ScriptedServer
) -> None:
    async with chat(database_url, opencode) as (_, client):
        message = await post(client, "SCRIPT:text Short.")
        path = f"/agent/messages/{message['id']}/events"
        events = await heard(client, message["id"])
        at_end = await client.get(path, headers={"Last-Event-ID": events[-1].id})
        asked = await client.get(path, params={"after": events[-1].id})
        assert (at_end.status_code, asked.status_code) == (204, 204)
        for stale in (f"{message['id']}.7.3", "nonsense", f"{message['id']}.1.0"):
            (only,) = await heard(client, message["id"], after=stale)
            assert only.event == "finished"


async def test_cancel_is_202_while_it_runs_and_200_when_it_has_ended(
    database_url: str, opencode: ScriptedServer
) -> None:
    async with chat(database_url, opencode) as (_, client):
        message = await post(client, "SCRIPT:hang Partial")
        path = f"/agent/messages/{message['id']}"
        busy = await client.post(
            f"/agent/conversations/{message['conversation_id']}/messages", json={"text": "More"}
        )
        assert busy.status_code == 409
        assert busy.headers["content-type"] == "application/problem+json"
        assert busy.json()["type"] == "urn:opencode-async:conversation-busy"
        async with listening(client, f"{path}/events") as events:
            async for event in events:
                if event.event == "part.delta":
                    assert (await client.post(f"{path}/cancel")).status_code == 202
        assert event.event == "finished"
        assert event.data["message"]["status"] == "cancelled"
        assert event.data["message"]["content"] == "Partial"
        assert (await client.post(f"{path}/cancel")).status_code == 200


async def test_what_is_foreign_or_unknown_does_not_exist(
    database_url: str, opencode: ScriptedServer
) -> None:
    async with chat(database_url, opencode) as (_, client):
        message = await post(client, "SCRIPT:text Mine.")
        await heard(client, message["id"])
        cid, mid = message["conversation_id"], message["id"]
        stranger = {"x-user": "2"}
        for conversation, turn in ((cid, mid), (UNKNOWN, UNKNOWN), ("x", "x"), ("1", "1")):
            for method, path in (
                ("GET", f"conversations/{conversation}"),
                ("DELETE", f"conversations/{conversation}"),
                ("GET", f"conversations/{conversation}/events"),
                ("GET", f"messages/{turn}"),
                ("GET", f"messages/{turn}/events"),
                ("POST", f"messages/{turn}/cancel"),
            ):
                answer = await client.request(method, f"/agent/{path}", headers=stranger)
                assert answer.status_code == 404, (method, path)
                assert answer.json()["status"] == 404
            posted = await client.post(
                f"/agent/conversations/{conversation}/messages",
                json={"text": "hi"},
                headers=stranger,
            )
            assert posted.status_code == 404
        assert (await client.get("/agent/conversations", headers=stranger)).json()["items"] == []


async def test_a_reader_may_not_write_and_the_hosts_own_refusal_passes_as_it_is(
    database_url: str, opencode: ScriptedServer
) -> None:
    async with chat(database_url, opencode) as (_, client):
        created = await client.post("/agent/conversations", headers={"x-role": "reader"})
        assert created.status_code == 403
        assert created.json()["type"] == "urn:opencode-async:read-only"
        refused = await client.get("/agent/conversations", headers={"x-user": "-1"})
        assert refused.status_code == 401
        assert refused.json() == {"detail": "the host's own words"}
        assert refused.headers["www-authenticate"] == "Cookie"


async def test_agents_and_models_on_offer_reach_the_server(
    database_url: str, opencode: ScriptedServer
) -> None:
    router = {"agents": ["plan"], "models": ["scripted/gpt-5-scripted"]}
    async with chat(database_url, opencode, router=router) as (app, client):
        cid = await app.conversation()
        posted = await client.post(
            f"/agent/conversations/{cid}/messages",
            json={"text": "SCRIPT:text Hi.", "agent": "plan", "model": "scripted/gpt-5-scripted"},
        )
        await heard(client, posted.json()["id"])
        key = app.agent.tables.message.id.type.python_type(posted.json()["id"])
        row = await app.row(key)
        session = await app.agent.client.messages(await app.session_id(row))
    assert row.request["body"]["agent"] == "plan"
    assert row.request["body"]["model"] == {"providerID": "scripted", "modelID": "gpt-5-scripted"}
    assert row.status == "completed"
    assert len(session.messages) == 2


async def test_a_cursor_that_nobody_was_sent_is_answered_with_a_snapshot(
    database_url: str, opencode: ScriptedServer
) -> None:
    async with chat(database_url, opencode) as (_, client):
        message = await post(client, "SCRIPT:hang Waiting.")
        path = f"/agent/messages/{message['id']}/events"
        async with listening(client, path) as events:
            async for event in events:
                if "Waiting." in str(event.data):
                    break
        first: list[str] = []
        for unknown in (f"{UNKNOWN}.1.500", f"{message['id']}.1.999999", f"{message['id']}.9.1"):
            async with listening(client, path, last_event_id=unknown) as events:
                first.append((await anext(events)).event)
        await client.post(f"/agent/messages/{message['id']}/cancel")
        await heard(client, message["id"])
    assert first == ["snapshot"] * 3


@pytest.mark.parametrize("key", ["3000000000", "9" * 30, "%00", "-5", "0"])
async def test_what_no_database_key_can_be_does_not_exist(
    key: str, database_url: str, opencode: ScriptedServer
) -> None:
    async with chat(database_url, opencode, old=True) as (_, client):
        for path in (f"conversations/{key}", f"messages/{key}", f"messages/{key}/events"):
            assert (await client.get(f"/agent/{path}")).status_code == 404
        assert (await client.get(f"/agent/conversations?before={key}")).status_code == 404


async def test_a_title_and_a_cursor_that_no_database_takes_are_no_server_errors(
    database_url: str, opencode: ScriptedServer
) -> None:
    async with chat(database_url, opencode) as (_, client):
        created = await client.post("/agent/conversations", json={"title": "a\u0000b"})
        assert created.json()["title"] == "a\ufffdb"
        message = await post(client, "SCRIPT:text Done.")
        await heard(client, message["id"])
        (only,) = await heard(client, message["id"], after=f"{message['id']}.1.{'9' * 5000}")
        assert only.event == "finished"


async def test_a_repeated_idempotency_key_is_the_same_message(
    database_url: str, opencode: ScriptedServer
) -> None:
    async with chat(database_url, opencode) as (app, client):
        cid = await app.conversation()
        path, key = f"/agent/conversations/{cid}/messages", {"Idempotency-Key": "k1"}
        body = {"text": "SCRIPT:text Once."}
        answers = await asyncio.gather(
            *(client.post(path, json=body, headers=key) for _ in range(5))
        )
        assert [answer.status_code for answer in answers] == [202] * 5
        (mid,) = {answer.json()["id"] for answer in answers}
        await heard(client, mid)
        again = await client.post(path, json=body, headers=key)
        assert (again.status_code, again.json()["id"]) == (202, mid)
        other = await client.post(path, json={"text": "Something else"}, headers=key)
        assert other.status_code == 422
        assert other.json()["type"] == "urn:opencode-async:idempotency-mismatch"
        async with app.sessions() as db:
            count = select(func.count()).select_from(app.agent.tables.message)
            assert await db.scalar(count) == 2


async def test_lists_are_paged(database_url: str, opencode: ScriptedServer) -> None:
    async with chat(database_url, opencode) as (app, client):
        made = [str(await app.conversation()) for _ in range(5)]
        seen: list[str] = []
        path: str | None = "/agent/conversations?limit=2"
        while path:
            page = (await client.get(path)).json()
            seen += [item["id"] for item in page["items"]]
            path = f"/agent/conversations?limit=2&before={page['next']}" if page["next"] else None
        assert sorted(seen) == sorted(made)
        assert seen == list(reversed(made))
        cid = made[0]
        for n in range(2):
            await heard(client, (await post(client, f"SCRIPT:text Turn {n}", cid))["id"])
        newest = (await client.get(f"/agent/conversations/{cid}?limit=3")).json()["messages"]
        assert [m["content"] for m in newest] == ["Turn 0", "SCRIPT:text Turn 1", "Turn 1"]
        older = f"/agent/conversations/{cid}?limit=3&before={newest[0]['id']}"
        (oldest,) = (await client.get(older)).json()["messages"]
        unknown = await client.get(f"/agent/conversations/{made[1]}?before={newest[0]['id']}")
        assert unknown.status_code == 404
        assert oldest["content"] == "SCRIPT:text Turn 0"


async def test_openapi_names_are_the_agents_own(tmp_path: Any, opencode: ScriptedServer) -> None:
    url = f"sqlite+aiosqlite:///{tmp_path}/api.db"
    async with host(url, opencode, name="helper") as app:
        schema = app_with_router(app).openapi()
    names = set(schema["components"]["schemas"]) - {"HTTPValidationError", "ValidationError"}
    assert names
    assert all(name.startswith("Agent") for name in names)
    operations = [op["operationId"] for path in schema["paths"].values() for op in path.values()]
    assert all(operation.startswith("helper_") for operation in operations)
    assert len(set(operations)) == len(operations) == 9
