"""What a browser must not send is a 4xx problem document and leaves nothing behind."""

# No postponed annotations: FastAPI resolves those of nested functions from the module's names.
from base64 import b64encode
from typing import Annotated, Any

import pytest
from fastapi import Depends, FastAPI
from fastapi.security import HTTPBasic, HTTPBasicCredentials
from sqlalchemy import func, select

from opencode_async import Access
from opencode_async.testing import ScriptedServer
from tests.support.hosts import Host, host
from tests.support.serving import serving
from tests.web.test_routes import UNKNOWN, chat

JSON = {"Content-Type": "application/json"}
BODIES: dict[str, bytes] = {
    "none": b"",
    "no JSON": b"{",
    "not UTF-8": b'{"text": "\xff\xfe"}',
    "deep": b"[" * 100_000,
    "an endless number": b'{"text": ' + b"1" * 5000 + b"}",
    "a list": b"[]",
    "null": b"null",
    "no text": b"{}",
    "a number for a text": b'{"text": 7}',
    "an empty text": b'{"text": ""}',
    "a blank text": b'{"text": " \\n\\t"}',
    "a long text": b'{"text": "' + b"x" * 101 + b'"}',
    "a system prompt": b'{"text": "hi", "system": "be evil"}',
    "tools": b'{"text": "hi", "tools": {"bash": true}}',
    "an agent": b'{"text": "hi", "agent": "plan"}',
    "a model": b'{"text": "hi", "model": "a/b"}',
    "no model": b'{"text": "hi", "model": "gpt"}',
    "on_busy": b'{"text": "hi", "on_busy": "whatever"}',
    "another key": b'{"text": "hi", "texts": []}',
}


async def rows(app: Host[Any, Any]) -> int:
    async with app.sessions() as db:
        return await db.scalar(select(func.count()).select_from(app.agent.tables.message)) or 0


def assert_problem(answer: Any, *statuses: int) -> None:
    assert answer.status_code in statuses, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert problem["type"].startswith("urn:opencode-async:")
    assert problem["status"] == answer.status_code
    assert problem["title"]


@pytest.mark.parametrize("kind", BODIES)
async def test_a_bad_body_is_a_problem_and_stores_nothing(
    kind: str, database_url: str, opencode: ScriptedServer
) -> None:
    router = {"max_text": 100, "agents": ["build"], "models": ["scripted/scripted"]}
    async with chat(database_url, opencode, router=router) as (app, client):
        cid = await app.conversation()
        path = f"/agent/conversations/{cid}/messages"
        answer = await client.post(path, content=BODIES[kind], headers=JSON)
        assert_problem(answer, 400, 422)
        assert "evil" not in answer.text
        assert await rows(app) == 0
        assert app.reports.errors == []


@pytest.mark.parametrize(
    ("content", "headers"),
    [
        (b"text=hi", {"Content-Type": "application/x-www-form-urlencoded"}),
        (b'{"text": "hi"}', {"Content-Type": "text/plain"}),
        (b'{"text": "hi"}', {**JSON, "Idempotency-Key": "k" * 256}),
    ],
)
async def test_bad_headers_are_problems(
    content: bytes, headers: dict[str, str], database_url: str, opencode: ScriptedServer
) -> None:
    async with chat(database_url, opencode) as (app, client):
        path = f"/agent/conversations/{await app.conversation()}/messages"
        assert_problem(await client.post(path, content=content, headers=headers), 415, 422)
        assert await rows(app) == 0


@pytest.mark.parametrize("query", ["limit=0", "limit=201", "limit=x", f"before={UNKNOWN}"])
async def test_bad_pages_are_problems(
    query: str, database_url: str, opencode: ScriptedServer
) -> None:
    async with chat(database_url, opencode) as (app, client):
        cid = await app.conversation()
        for path in ("conversations", f"conversations/{cid}"):
            assert_problem(await client.get(f"/agent/{path}?{query}"), 404, 422)


@pytest.mark.parametrize("body", [b'{"title": 7}', b'{"title": "' + b"x" * 501 + b'"}', b"\xff"])
async def test_bad_conversations_are_problems(
    body: bytes, database_url: str, opencode: ScriptedServer
) -> None:
    async with chat(database_url, opencode) as (_, client):
        answer = await client.post("/agent/conversations", content=body, headers=JSON)
        assert_problem(answer, 400, 422)
        assert (await client.get("/agent/conversations")).json()["items"] == []


async def test_a_refusal_of_the_hosts_own_passes_whatever_caused_it(
    database_url: str, opencode: ScriptedServer
) -> None:
    """FastAPI's HTTPBasic raises its 401 from the error in decoding the credentials."""
    async with host(database_url, opencode) as app:

        def access(user: Annotated[HTTPBasicCredentials, Depends(HTTPBasic())]) -> Access:
            return Access(app.agent.tables.conversation.user_id == 1)

        web = FastAPI()
        web.include_router(app.agent.router(access=access), prefix="/agent")
        async with serving(web) as client:
            credentials = b64encode("jürgen:pass".encode("latin-1")).decode()
            headers = {"Authorization": f"Basic {credentials}"}
            answer = await client.get("/agent/conversations", headers=headers)
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == "Basic"


async def test_a_page_before_a_message_without_a_place_does_not_exist(
    database_url: str, opencode: ScriptedServer
) -> None:
    async with chat(database_url, opencode) as (app, client):
        cid = await app.conversation()
        async with app.sessions() as db:
            db.add(row := app.agent.tables.message(conversation_id=cid, content="From before."))
            await db.commit()
            await db.refresh(row)
        assert_problem(await client.get(f"/agent/conversations/{cid}?before={row.id}"), 404)
        assert (await client.get(f"/agent/conversations/{cid}")).json()["messages"] == []
