"""What a browser must not send is a 4xx problem document and leaves nothing behind."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import func, select

from opencode_async.testing import ScriptedServer
from tests.support.hosts import Host
from tests.web.test_routes import UNKNOWN, chat

JSON = {"Content-Type": "application/json"}
BODIES: dict[str, bytes] = {
    "none": b"",
    "no JSON": b"{",
    "not UTF-8": b'{"text": "\xff\xfe"}',
    "deep": b"[" * 100_000,
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
