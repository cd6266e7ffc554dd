"""Ten thousand messages: a page of them is read through the index, not sorted out of all."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import event, insert, text

from opencode_async.testing import ScriptedServer
from tests.support.hosts import Host
from tests.web.test_routes import chat, heard, post

MESSAGES, PAGE = 10_000, 200
PLAN = {"sqlite": "EXPLAIN QUERY PLAN ", "postgresql": "EXPLAIN "}


@contextmanager
def selected(app: Host[Any, Any]) -> Iterator[list[tuple[str, Any]]]:
    """The statements that read whole messages meanwhile, with their parameters."""
    statements: list[tuple[str, Any]] = []

    def note(connection: Any, cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        if "ORDER BY messages.position" in statement:
            statements.append((statement, parameters))

    event.listen(app.engine.sync_engine, "before_cursor_execute", note)
    yield statements
    event.remove(app.engine.sync_engine, "before_cursor_execute", note)


async def plan_of(app: Host[Any, Any], statement: str, parameters: Any) -> str:
    """How the database goes about it."""
    async with app.engine.connect() as connection:
        explain = PLAN[connection.dialect.name] + statement
        rows = await connection.exec_driver_sql(explain, parameters)
        return "\n".join(str(row) for row in rows)


async def fill(app: Host[Any, Any], conversation: Any) -> None:
    """Messages as years of turns leave them."""
    kind = app.agent.tables.message
    part = {"id": "prt_1", "type": "text", "content": "An answer of some length. " * 20}
    made = [
        {
            "conversation_id": conversation,
            "role": "assistant" if number % 2 else "user",
            "status": "completed",
            "position": number + 1,
            "content": f"message {number}",
            "parts": [part] if number % 2 else [],
        }
        for number in range(MESSAGES)
    ]
    async with app.sessions.begin() as db:
        await db.execute(insert(kind), made)
    async with app.engine.begin() as connection:
        await connection.execute(text("ANALYZE"))


async def test_ten_thousand_messages_are_paged_through_the_index(
    database_url: str, opencode: ScriptedServer
) -> None:
    async with chat(database_url, opencode) as (app, client):
        conversation = await app.conversation()
        await fill(app, conversation)
        path = f"/agent/conversations/{conversation}?limit={PAGE}"
        seen: list[str] = []
        took: list[float] = []
        before = ""
        with selected(app) as statements:
            while len(seen) < MESSAGES:
                began = time.perf_counter()
                page = (await client.get(path + before)).json()["messages"]
                took.append(time.perf_counter() - began)
                seen = [message["content"] for message in page] + seen
                before = f"&before={page[0]['id']}"
        plans = [await plan_of(app, *statements[index]) for index in (0, -1)]
        turn = await post(client, "SCRIPT:text Still quick.", str(conversation))
        (*_, last) = await heard(client, turn["id"])
    print(f"first page {took[0] * 1000:.0f} ms, last {took[-1] * 1000:.0f} ms of {PAGE} messages")
    assert seen == [f"message {number}" for number in range(MESSAGES)]
    for plan in plans:
        assert "messages_position" in plan
        assert "Sort" not in plan
        assert "TEMP B-TREE" not in plan
    assert last.data["message"]["content"] == "Still quick."
