"""What a turn cost is kept step by step, each once, and is what the server says."""

from __future__ import annotations

import asyncio
import math
from dataclasses import replace
from pathlib import Path

import pytest

from opencode_async import OpencodeClient, TurnResult
from opencode_async.testing import ScriptedServer
from opencode_async.turns.message import message_json
from tests.conftest import OwnServer
from tests.support.hosts import QUICK, host, nowhere
from tests.support.proxy import Proxy
from tests.support.replay import assert_replay_is
from tests.turns.ended import run
from tests.turns.spending import SUBAGENT, assert_ledger_is_the_servers, paid, spending

# script, how many steps in how many sessions
LEDGERS = {
    "steps": ("SCRIPT:loop 3", 4, 1),
    "a subagent": ('SCRIPT:task {"prompt": "SCRIPT:loop 2"}', 5, 2),
    "a compaction": ("SCRIPT:overflow", 3, 1),
}


@pytest.mark.parametrize("name", LEDGERS)
async def test_the_ledger_has_each_step_once_and_equals_the_servers_sums(
    name: str, database_url: str, opencode: ScriptedServer
) -> None:
    script, steps, sessions = LEDGERS[name]
    async with host(database_url, opencode, dispatch=nowhere) as app:
        row, changes = await run(app, await app.conversation(), script)
        await assert_ledger_is_the_servers(app, row)
    ledger = TurnResult.of(row).ledger
    assert (len(ledger), len({charge.session_id for charge in ledger})) == (steps, sessions)
    assert {charge.model for charge in ledger} == {"scripted/scripted"}
    assert row.cost > 0
    assert_replay_is(changes, message_json(row))
    assert "ledger" not in message_json(row)


async def test_what_a_subagent_costs_is_stored_while_it_works(
    database_url: str, opencode: ScriptedServer
) -> None:
    async with host(database_url, opencode, dispatch=nowhere) as app:
        message = await app.agent.turns.start(await app.conversation(), SUBAGENT)
        async with spending(app, message.id) as running:
            row = await app.row(message.id)
            await app.agent.turns.cancel(message.id)
            await running
        session_id = await app.session_id(row)
    # The step that called the subagent says what it cost when the subagent is done.
    (spender,) = {charge["session_id"] for charge in row.ledger if charge["cost"]}
    assert spender != session_id
    assert row.cost == math.fsum(charge["cost"] for charge in row.ledger)


async def test_a_turn_that_changes_hands_counts_each_step_once(
    database_url: str, opencode: ScriptedServer
) -> None:
    async with host(database_url, opencode, dispatch=nowhere) as app:
        message = await app.agent.turns.start(
            await app.conversation(), 'SCRIPT:task {"prompt": "SCRIPT:loop 9"}'
        )
        for _ in range(2):
            async with spending(app, message.id) as running:
                running.cancel()
                await asyncio.wait([running])
        result = await app.agent.turns.run(message.id)
        row = await app.row(message.id)
        await assert_ledger_is_the_servers(app, row)
    assert row.epoch == 3
    assert (result.status, paid(result)) == ("completed", 12)


async def test_a_turn_whose_server_crashes_counts_each_step_once(
    database_url: str, own_opencode: OwnServer, tmp_path: Path
) -> None:
    timings = replace(QUICK, reconnect=20.0)
    async with (
        own_opencode(tmp_path) as server,
        host(database_url, server, dispatch=nowhere, timings=timings) as app,
    ):
        message = await app.agent.turns.start(await app.conversation(), "SCRIPT:loop 15")
        async with spending(app, message.id) as running, asyncio.timeout(60):
            server.process.kill()
            before = paid(TurnResult.of(await app.row(message.id)))
            await server.process.restart()
            result = await running
        await assert_ledger_is_the_servers(app, await app.row(message.id))
    assert result.status == "completed"
    # What the crash cut short costs nothing in OpenCode's books (1.18.33, measured).
    assert 0 < before < 15 <= paid(result) <= 16


async def test_what_was_counted_stays_counted_where_the_server_is_lost(
    database_url: str, opencode: ScriptedServer
) -> None:
    proxy = Proxy(opencode)
    async with proxy.running() as server, host(database_url, server, dispatch=nowhere) as app:
        message = await app.agent.turns.start(await app.conversation(), SUBAGENT)
        async with spending(app, message.id) as running:
            before = await app.row(message.id)
            proxy.go_away()
            result = await running
        session_id = await app.session_id(before)
    async with OpencodeClient(opencode) as client:
        await client.abort_tree(session_id)
    assert result.error is not None
    assert result.error.code == "unreachable"
    assert {charge["message_id"] for charge in before.ledger} <= {
        charge.message_id for charge in result.ledger
    }
    assert result.cost == math.fsum(charge.usage.cost for charge in result.ledger) >= before.cost
