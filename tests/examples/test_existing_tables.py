"""A populated help desk gains an agent, on both databases: migrated, checked, answered, undone."""

from __future__ import annotations

from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

from opencode_async.testing import ScriptedServer
from tests.support.examples import environment, run_program, uvicorn
from tests.support.serving import listening

ALEMBIC = ("-m", "alembic", "-c", "examples/existing_tables/alembic.ini")
TICKETS = "INSERT INTO tickets (customer, subject) VALUES (:customer, :subject)"
COMMENTS = """INSERT INTO comments (ticket_id, author, body, written_at)
              VALUES (:ticket, :author, :body, {now})"""
ANN = {"X-Customer": "ann"}


async def execute(url: str, *statements: tuple[str, Any]) -> list[tuple[Any, ...]]:
    """The rows that the last of the statements has."""
    engine = create_async_engine(url)
    async with engine.begin() as connection:
        for statement, parameters in statements:
            result = await connection.execute(text(statement), parameters)
        rows = [tuple(row) for row in result] if result.returns_rows else []
    await engine.dispose()
    return rows


async def populate(url: str) -> None:
    """Two customers' tickets, and comments that were not written in the order of their keys."""
    tickets = [
        {"customer": "ann", "subject": "It is broken"},
        {"customer": "ben", "subject": None},
    ]
    now = "CURRENT_TIMESTAMP"
    early = "'2019-01-01 00:00:00'" if url.startswith("sqlite") else "now() - interval '1 year'"
    late = [
        {"ticket": 1, "author": "bot", "body": "Have you tried?"},
        {"ticket": 2, "author": "ben", "body": "Help"},
        {"ticket": 1, "author": "ann", "body": "Yes."},
    ]
    await execute(
        url,
        (TICKETS, tickets),
        (COMMENTS.format(now=now), late),
        (COMMENTS.format(now=early), {"ticket": 1, "author": "ann", "body": "The first."}),
    )


async def test_populated_tables_are_migrated_and_a_turn_runs_on_them(
    database_url: str, opencode: ScriptedServer
) -> None:
    env = environment(opencode, DATABASE_URL=database_url)
    await run_program(*ALEMBIC, "upgrade", "help_desk", env=env)
    await populate(database_url)
    await run_program(*ALEMBIC, "upgrade", "head", env=env)
    # What the models say is what is there, nothing more and nothing less.
    assert "No new upgrade operations" in await run_program(*ALEMBIC, "check", env=env)

    async with uvicorn("examples.existing_tables.app:app", env=env) as http:
        http.headers.update(ANN)
        (ticket,) = (await http.get("/agent/conversations")).json()["items"]
        assert ticket["title"] == "It is broken"
        here = f"/agent/conversations/{ticket['id']}"
        async with listening(http, f"{here}/events") as events:
            posted = await http.post(f"{here}/messages", json={"text": "SCRIPT:text Fixed."})
            assert posted.status_code == 202, posted.text
            finished = [e async for e in until_finished(events)][-1].data["message"]
        assert (finished["status"], finished["content"]) == ("completed", "Fixed.")
        comments = (await http.get(here)).json()["messages"]
    assert [(m["role"], m["content"]) for m in comments] == [
        ("user", "The first."),
        ("assistant", "Have you tried?"),
        ("user", "Yes."),
        ("user", "SCRIPT:text Fixed."),
        ("assistant", "Fixed."),
    ]
    asked = [str(request.body["messages"]) for request in opencode.model.requests]
    assert any("You answer ann, a customer, about: It is broken." in each for each in asked)


async def until_finished(events: Any) -> Any:
    async for each in events:
        yield each
        if each.event == "finished":
            return


async def test_the_migration_can_be_undone(database_url: str) -> None:
    env = environment(DATABASE_URL=database_url)
    await run_program(*ALEMBIC, "upgrade", "help_desk", env=env)
    await populate(database_url)
    before = await execute(database_url, ("SELECT * FROM comments ORDER BY id", {}))
    await run_program(*ALEMBIC, "upgrade", "head", env=env)
    await run_program(*ALEMBIC, "downgrade", "help_desk", env=env)
    assert await execute(database_url, ("SELECT * FROM comments ORDER BY id", {})) == before
