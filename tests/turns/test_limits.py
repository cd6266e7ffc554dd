"""Turns that exceed a limit are stopped and end with its reason."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from typing import Any

import pytest

from opencode_async import Finished, Limits, OpencodeClient, TurnSettings
from opencode_async.settings import SettingsFor
from opencode_async.testing import ScriptedServer
from opencode_async.turns.message import message_json
from tests.support.hosts import QUICK, host, nowhere
from tests.support.replay import assert_replay_is
from tests.turns.ended import run


def limited(limits: Limits) -> SettingsFor[Any]:
    async def settings_for(conversation: Any) -> TurnSettings:
        return TurnSettings(limits=limits)

    return settings_for


# script, limits, the text that is left
CASES = {
    "limit_first_event": ("SCRIPT:hang " + '{"text": ""}', Limits(first_event=1.0), ""),
    "limit_silence": ("SCRIPT:hang Then nothing.", Limits(silence=3.0), "Then nothing."),
    "limit_total": ('SCRIPT:slow {"n": 90, "delay": 0.1}', Limits(total=4.0), "tick0 "),
    "budget": ("SCRIPT:loop 9", Limits(cost=1e-6), "Step 1: calling bash. "),
    "limit_tokens": ("SCRIPT:loop 9", Limits(tokens=1), "Step 1: calling bash. "),
    "limit_steps": ("SCRIPT:loop 9", Limits(steps=2), "Step 1: calling bash. "),
}


@pytest.mark.parametrize("code", CASES)
async def test_a_turn_beyond_a_limit_is_stopped_and_says_which(
    code: str, database_url: str, opencode: ScriptedServer
) -> None:
    script, limits, begins = CASES[code]
    async with host(database_url, opencode, settings_for=limited(limits), dispatch=nowhere) as app:
        async with asyncio.timeout(20):
            row, changes = await run(app, await app.conversation(), script)
        session_id = await app.session_id(row)
        busy = await app.agent.client.busy(session_id)
    async with host(database_url, opencode, dispatch=nowhere) as app:  # without limits
        after = await app.agent.turns.start(row.conversation_id, "SCRIPT:text Next.")
        next_one = await app.agent.turns.run(after.id)
    assert (row.status, row.finish, row.error_code, row.stop_requested) == (
        "error",
        None,
        code,
        code,
    )
    assert row.content.startswith(begins)
    assert "tick89" not in row.content
    assert "Finished" not in row.content
    assert not busy
    assert next_one.content == "Next."
    assert_replay_is(changes, message_json(row))


async def test_the_last_step_may_cost_what_it_costs(
    database_url: str, opencode: ScriptedServer
) -> None:
    """What is at its end anyway is not stopped: it is paid for, and people may as well have it."""
    settings_for = limited(Limits(cost=1e-6, tokens=1))
    async with host(database_url, opencode, settings_for=settings_for) as app:
        message = await app.agent.turns.start(await app.conversation(), "SCRIPT:text Paid.")
        result = await app.agent.turns.run(message.id)
    assert (result.status, result.content) == ("completed", "Paid.")
    assert result.cost > 1e-6


async def test_a_limit_of_time_holds_across_workers(
    database_url: str, opencode: ScriptedServer
) -> None:
    options: dict[str, Any] = {
        "settings_for": limited(Limits(total=9.0)),
        "timings": replace(QUICK, lease=60.0),
    }
    step = {"name": "bash", "args": {"command": "sleep 0.6", "description": "Sleeps"}}
    script = f"SCRIPT:tools {json.dumps([step] * 40)}"
    async with host(database_url, opencode, dispatch=nowhere, **options) as app:
        message = await app.agent.turns.start(await app.conversation(), script)
        for _ in range(3):
            running = asyncio.create_task(app.agent.turns.run(message.id))
            async with app.agent.turns.follow(message.id) as changes:
                added = 0
                async for change in changes:
                    added += change.event == "part.added"
                    if added == 4:  # two steps of the twelve that are possible in time
                        break
            running.cancel()
            await asyncio.wait([running])
        result = await app.agent.turns.run(message.id)
        row = await app.row(message.id)
    assert row.epoch == 4
    assert result.error is not None
    assert result.error.code == "limit_total"
    assert len(result.parts) < 30


async def test_a_stream_without_a_database_has_limits_too(opencode: ScriptedServer) -> None:
    async with OpencodeClient(opencode) as client:
        session_id = await client.create_session(title="limited")
        limits = Limits(silence=3.0)
        async with client.stream(session_id, "SCRIPT:hang Half.", limits=limits) as changes:
            last = [change async for change in changes][-1]
    assert isinstance(last, Finished)
    assert (last.message["status"], last.message["content"]) == ("error", "Half.")
    assert last.message["error"]["code"] == "limit_silence"
