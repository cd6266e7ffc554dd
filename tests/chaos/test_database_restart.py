"""The database goes and comes back in the middle of turns, shut down or crashed."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import httpx
import pytest
import sqlalchemy
from fastapi import FastAPI, Request, Response
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from opencode_async import Access, Timings, TurnSettings
from opencode_async.testing import ScriptedServer
from opencode_async.turns.message import message_json
from tests.chaos.scale import EVERYTHING, some
from tests.chaos.verdict import (
    assert_said_once_and_completed,
    begun,
    conversation,
    settled,
)
from tests.support.hosts import Host, host
from tests.support.postgres import PostgresServer, new_database, private_server
from tests.support.replay import replay_events
from tests.support.serving import Sse, listening, serving

QUICK = Timings(lease=3.0, accept=8.0, reconnect=5.0, look=2.0, settle=0.5, stop=3.0, snapshot=0.1)
# Where nobody but the turn itself may use the database for a while.
SELDOM = replace(QUICK, lease=30.0, poll=30.0)
POOL = 10
LONG = 'SCRIPT:slow {"n": 20, "delay": 0.2}'
SCRIPTS = (
    LONG,
    'SCRIPT:slow {"n": 6, "delay": 0.7}',
    'SCRIPT:bash {"command": "sleep 2"}',
    "SCRIPT:loop 3",
    "SCRIPT:reasoning",
    "SCRIPT:text",
    "SCRIPT:task",
    "SCRIPT:todo",
)
STARTING, TALKING = "as they start", "in mid-text"
AT_ONCE = 4


@dataclass(frozen=True)
class Case:
    """How the database goes, when in the turns, and for how many seconds.

    With ``new`` conversations it does while their sessions are made, a right held for 45 s.
    """

    crashes: bool
    goes: str
    away: float
    new: bool = False


CASES = [
    Case(crashes, goes, away)
    for away in (0.0, 1.0, 4.0)  # at once; shorter and longer than a lease
    for goes in (TALKING, STARTING)
    for crashes in (True, False)
]
NEW = [Case(crashes, STARTING, 0.0, new=True) for crashes in (True, False)]


async def everything() -> Access:
    return Access(sqlalchemy.true())


async def unavailable(request: Request, error: Exception) -> Response:
    return Response(status_code=503)


def web_of(app: Host[Any, Any]) -> FastAPI:
    web = FastAPI(exception_handlers={SQLAlchemyError: unavailable, OSError: unavailable})
    web.include_router(app.agent.router(access=everything), prefix="/agent")
    return web


@pytest.fixture
def quiet() -> Iterator[None]:
    """Without the web server's tracebacks of the streams that broke."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


class Browser:
    """Follows a turn to its end, and connects again behind its last event whenever that breaks."""

    def __init__(self, web: httpx.AsyncClient, key: object) -> None:
        self.events: list[Sse] = []
        self.connections = 0
        self._web = web
        self._path = f"/agent/messages/{key}/events"

    async def follow(self) -> None:
        while not (self.events and self.events[-1].event == "finished"):
            self.connections += 1
            last = self.events[-1].id if self.events else None
            try:
                async with listening(self._web, self._path, last_event_id=last) as events:
                    async for event in events:
                        self.events.append(event)
            except httpx.HTTPError:
                await asyncio.sleep(0.1)


async def restarted(server: PostgresServer, case: Case) -> None:
    await asyncio.to_thread(server.crash if case.crashes else server.stop)
    await asyncio.sleep(case.away)
    await asyncio.to_thread(server.start)


@dataclass(frozen=True)
class Told:
    """What one restart did: turns that were begun again, connections of browsers, errors."""

    again: int
    connections: int
    reported: Counter[str]


async def survived(case: Case, opencode: ScriptedServer) -> Told:
    """One restart in the midst of turns, all of which end as if it had not been."""
    with private_server() as (server, server_url):
        async with (
            new_database(server_url) as url,
            host(url, opencode, timings=QUICK, pool_size=POOL) as app,
            serving(web_of(app)) as web,
            asyncio.TaskGroup() as tasks,
        ):
            ids = [await (app.conversation() if case.new else conversation(app)) for _ in SCRIPTS]
            start = app.agent.turns.start
            keys = [(await start(*each)).id for each in zip(ids, SCRIPTS, strict=True)]
            browsers = [Browser(web, key) for key in keys]
            following = [tasks.create_task(browser.follow()) for browser in browsers]
            if case.goes == TALKING:
                await begun(app, keys[0])
            await restarted(server, case)
            _, waiting = await asyncio.wait(following, timeout=60)
            assert not waiting
            rows = [await settled(app, key) for key in keys]
            for row, browser in zip(rows, browsers, strict=True):
                await assert_said_once_and_completed(app, row)
                assert replay_events(browser.events)[1] == message_json(row)
            await whole(app)
            after = await start(ids[0], "SCRIPT:text Again.")
            assert (await app.agent.turns.run(after.id)).content == "Again."
            await app.holds_no_connection()
            return Told(
                sum(row.epoch > 1 for row in rows),
                sum(browser.connections for browser in browsers),
                Counter(type(error).__name__ for error in app.reports.errors),
            )


async def whole(app: Host[Any, Any]) -> None:
    """Every connection of the pool can be had at once, and works."""

    async def one(everybody: asyncio.Barrier) -> None:
        async with app.engine.connect() as connection:
            await connection.execute(text("SELECT 1"))
            await everybody.wait()

    everybody = asyncio.Barrier(POOL)
    async with asyncio.timeout(10), asyncio.TaskGroup() as tasks:
        for _ in range(POOL):
            tasks.create_task(one(everybody))


@pytest.mark.timeout(300)
async def test_turns_outlive_a_restart_of_the_database(
    opencode: ScriptedServer, quiet: None
) -> None:
    began = time.monotonic()
    cases = some(CASES, 3) + (NEW if EVERYTHING else [])
    told: list[Told] = []
    for first in range(0, len(cases), AT_ONCE):
        async with asyncio.TaskGroup() as tasks:
            each = [
                tasks.create_task(survived(case, opencode), name=str(case))
                for case in cases[first : first + AT_ONCE]
            ]
        told += [task.result() for task in each]
    turns, again = len(cases) * len(SCRIPTS), sum(one.again for one in told)
    connections = sum(one.connections for one in told)
    print(
        f"{len(cases)} restarts, {turns} turns, {again} of them begun again, {connections}"
        f" connections of {turns} browsers, in {time.monotonic() - began:.0f} s"
    )
    print(f"reported: {dict(sum((one.reported for one in told), Counter()))}")


ONCE = """
CREATE FUNCTION go() RETURNS trigger LANGUAGE plpgsql AS
'BEGIN
  IF nextval(''gone'') = 1 THEN PERFORM pg_terminate_backend(pg_backend_pid()); END IF;
  RETURN NEW;
END'
"""
AT_THE_END = """
CREATE TRIGGER go BEFORE UPDATE ON messages FOR EACH ROW
WHEN (NEW.status = 'completed' AND OLD.status = 'pending') EXECUTE FUNCTION go()
"""


async def test_a_connection_that_is_lost_as_the_end_is_stored_fails_no_turn(
    postgres_url: str, opencode: ScriptedServer
) -> None:
    async with new_database(postgres_url) as url, host(url, opencode, timings=QUICK) as app:
        async with app.engine.begin() as connection:
            for statement in ("CREATE SEQUENCE gone", ONCE, AT_THE_END):
                await connection.execute(text(statement))
        message = await app.agent.turns.start(await app.conversation(), "SCRIPT:bash")
        row = await settled(app, message.id)
        await assert_said_once_and_completed(app, row)
    assert row.epoch == 2
    assert any("terminating connection" in str(error) for error in app.reports.errors)


async def test_connections_that_are_lost_before_the_prompt_is_sent_fail_no_turn(
    opencode: ScriptedServer,
) -> None:
    """The database restarts while the host's own hook runs: its pool holds dead connections."""
    back = asyncio.Event()
    with private_server() as (server, server_url):

        async def settings_for(conversation: Any) -> TurnSettings:
            if not back.is_set():
                await asyncio.to_thread(server.stop)
                await asyncio.to_thread(server.start)
                back.set()
            return TurnSettings()

        async with (
            new_database(server_url) as url,
            host(url, opencode, timings=SELDOM, settings_for=settings_for) as app,
        ):
            place = await app.conversation()
            async with app.sessions() as db:
                row = await db.get_one(app.agent.tables.conversation, place)
                row.opencode_session_id = await app.agent.client.create_session(title="Made")
                await db.commit()
            message = await app.agent.turns.start(place, "SCRIPT:bash")
            await back.wait()
            row = await settled(app, message.id)
            await assert_said_once_and_completed(app, row)
    assert row.epoch == 2
