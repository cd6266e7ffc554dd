"""Turns that may spend no more are stopped, or not begun, and end with the reason ``budget``."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from opencode_async import (
    Finished,
    Limits,
    OpencodeClient,
    Session,
    Turn,
    TurnResult,
    TurnSettings,
    UsageChanged,
)
from opencode_async.settings import SettingsFor
from opencode_async.testing import ScriptedServer
from opencode_async.turns.message import message_json
from tests.support.hosts import Conversation, Message, host, nowhere
from tests.support.replay import assert_replay_is
from tests.turns.ended import Json, messages_of, run
from tests.turns.spending import STEP, SUBAGENT, assert_ledger_is_the_servers, paid, spending


def settings(budget: float | None = None, limits: Limits | None = None) -> SettingsFor[Any]:
    async def settings_for(conversation: Any) -> TurnSettings:
        return TurnSettings(limits=limits or Limits(), conversation_budget=budget)

    return settings_for


def prompts_in(messages: list[Json]) -> list[Json]:
    return [message for message in messages if message["info"]["role"] == "user"]


def code_of(result: TurnResult) -> str | None:
    return result.error.code if result.error else None


# script, the steps after which more than 0.001 is spent: a step that calls a subagent says what it
# cost when that has ended (OpenCode 1.18.33, measured)
# Steps of fifty that may be begun, and paid for, until a busy machine has stopped them.
LATE = 10
CROSSINGS = {"steps": ("SCRIPT:loop 50", 12), "a subagent": (SUBAGENT, 13)}


@pytest.mark.parametrize("name", CROSSINGS)
async def test_a_turn_is_stopped_at_the_step_that_crosses_its_budget(
    name: str, database_url: str, opencode: ScriptedServer
) -> None:
    script, crossing = CROSSINGS[name]
    settings_for = settings(limits=Limits(cost=0.001))
    async with host(database_url, opencode, settings_for=settings_for, dispatch=nowhere) as app:
        async with asyncio.timeout(30):
            row, changes = await run(app, await app.conversation(), script)
        await assert_ledger_is_the_servers(app, row)
        session_id = await app.session_id(row)
        children = await app.agent.client.children(session_id)
        sessions = [session_id, *(child.session_id for child in children)]
        busy = [await app.agent.client.busy(one) for one in sessions]
    assert (row.status, row.error_code, row.stop_requested) == ("error", "budget", "budget")
    assert crossing <= paid(TurnResult.of(row)) <= crossing + LATE
    assert not any(busy)
    assert_replay_is(changes, message_json(row))


async def test_a_conversations_budget_is_shared_by_its_turns(
    database_url: str, opencode: ScriptedServer
) -> None:
    settings_for = settings(10.5 * STEP)
    async with host(database_url, opencode, settings_for=settings_for, dispatch=nowhere) as app:
        ours, other = await app.conversation(), await app.conversation()
        results = []
        for conversation, text in (
            (other, "SCRIPT:loop 8"),
            (ours, "SCRIPT:loop 3"),
            (ours, "SCRIPT:loop 50"),
            (ours, "SCRIPT:text No."),
            (other, "SCRIPT:text Yes."),
        ):
            message = await app.agent.turns.start(conversation, text)
            results.append(await app.agent.turns.run(message.id))
        upstream = [
            await messages_of(app, await app.session_id(await app.row(result.message_id)))
            for result in results
        ]
    assert [code_of(result) for result in results] == [None, None, "budget", "budget", None]
    assert 7 <= paid(results[2]) <= 7 + LATE
    assert (results[3].status, results[3].cost, results[3].ledger) == ("error", 0, ())
    assert [len(prompts_in(messages)) for messages in upstream] == [2] * 5


async def test_queued_turns_share_it_too_and_nothing_is_posted_once_it_is_used_up(
    database_url: str, opencode: ScriptedServer
) -> None:
    async with host(database_url, opencode, dispatch=nowhere) as app:
        message = await app.agent.turns.start(await app.conversation(), "SCRIPT:text Same.")
        price = (await app.agent.turns.run(message.id)).cost
    settings_for = settings(math.fsum([price, price]))
    async with host(database_url, opencode, settings_for=settings_for) as app:
        conversation = await app.conversation()
        queued = [
            await app.agent.turns.start(conversation, "SCRIPT:text Same.", on_busy="enqueue")
            for _ in range(4)
        ]
        for message in queued:
            async with app.agent.turns.follow(message.id) as changes, asyncio.timeout(20):
                assert [change async for change in changes][-1].event == "finished"
        rows = [await app.row(message.id) for message in queued]
        upstream = await messages_of(app, await app.session_id(rows[0]))
    assert [row.error_code for row in rows] == [None, None, "budget", "budget"]
    assert len(prompts_in(upstream)) == 2


async def test_a_turn_that_changes_hands_is_not_counted_against_itself(
    database_url: str, opencode: ScriptedServer
) -> None:
    settings_for = settings(15.5 * STEP)
    async with host(database_url, opencode, settings_for=settings_for, dispatch=nowhere) as app:
        conversation = await app.conversation()
        first = await app.agent.turns.start(conversation, "SCRIPT:loop 3")
        await app.agent.turns.run(first.id)
        message = await app.agent.turns.start(conversation, "SCRIPT:loop 50")
        for _ in range(2):
            async with spending(app, message.id) as running:
                running.cancel()
                await asyncio.wait([running])
        result = await app.agent.turns.run(message.id)
    assert code_of(result) == "budget"
    assert 12 <= paid(result) <= 12 + LATE


# -- the host's hook ---------------------------------------------------------------------------


class Purse:
    """A host's hook that remembers; ``says`` answers, or raises, by what was spent."""

    def __init__(self, says: Callable[[float], bool]) -> None:
        self.asked: list[float] = []
        self.conversations: set[Any] = set()
        self._says = says

    async def __call__(self, conversation: Any, spent: float) -> bool:
        self.asked.append(spent)
        self.conversations.add(conversation.id)
        return self._says(spent)


async def test_the_host_is_asked_before_the_prompt_and_at_each_step(
    database_url: str, opencode: ScriptedServer
) -> None:
    purse = Purse(lambda spent: True)
    step = {"name": "bash", "args": {"command": "sleep 0.3", "description": "Sleeps"}}
    script = f"SCRIPT:tools {json.dumps([step] * 3)}"
    async with host(database_url, opencode, may_spend=purse, dispatch=nowhere) as app:
        conversation = await app.conversation()
        row, _ = await run(app, conversation, script)
    result = TurnResult.of(row)
    costs = [charge.usage.cost for charge in result.ledger]
    assert (result.status, len(costs)) == ("completed", 4)
    # Not about the last step, for behind it there is nothing to stop, nor about the one before it
    # where the last is over before anybody could be asked.
    assert purse.asked == [math.fsum(costs[:n]) for n in range(len(purse.asked))]
    assert 3 <= len(purse.asked) <= 4
    assert purse.conversations == {conversation}


@pytest.mark.parametrize("old", [False, True], ids=["uuid", "bigint"])
async def test_a_host_that_says_no_stops_the_turn(
    old: bool, database_url: str, opencode: ScriptedServer
) -> None:
    purse = Purse(lambda spent: spent < 4.5 * STEP)
    values = {"tenant_id": 7, "source": "chat"} if old else {}
    async with host(database_url, opencode, old=old, may_spend=purse, dispatch=nowhere) as app:
        async with asyncio.timeout(30):
            row, changes = await run(app, await app.conversation(), "SCRIPT:loop 50", values=values)
        await assert_ledger_is_the_servers(app, row)
    assert (row.status, row.error_code, row.stop_requested) == ("error", "budget", "budget")
    assert 5 <= paid(TurnResult.of(row)) <= 5 + LATE
    assert_replay_is(changes, message_json(row))


async def test_a_host_that_says_no_at_once_has_nothing_posted(
    database_url: str, opencode: ScriptedServer
) -> None:
    purse = Purse(lambda spent: False)
    async with host(database_url, opencode, may_spend=purse, dispatch=nowhere) as app:
        row, changes = await run(app, await app.conversation(), "SCRIPT:text No.")
        upstream = await messages_of(app, await app.session_id(row))
    assert (row.status, row.error_code) == ("error", "budget")
    assert row.error_text == "The budget is used up."
    assert (upstream, row.parts, row.ledger, purse.asked) == ([], [], [], [0.0])
    assert_replay_is(changes, message_json(row))


async def test_a_hook_that_raises_is_reported_and_asked_again_at_the_next_step(
    database_url: str, opencode: ScriptedServer
) -> None:
    def says(spent: float) -> bool:
        if spent < 2.5 * STEP:
            raise LookupError("the host's own mistake")
        return False

    purse = Purse(says)
    async with host(database_url, opencode, may_spend=purse, dispatch=nowhere) as app:
        async with asyncio.timeout(30):
            row, _ = await run(app, await app.conversation(), "SCRIPT:loop 50")
        failures = [error for error in app.reports.errors if isinstance(error, LookupError)]
    assert row.error_code == "budget"
    assert len(failures) == len(purse.asked) - 1 >= 1
    assert 3 <= paid(TurnResult.of(row)) <= 3 + LATE


async def test_a_slow_hook_holds_nothing_up_and_goes_with_its_turn(
    database_url: str, opencode: ScriptedServer
) -> None:
    given_up = []

    async def may_spend(conversation: Any, spent: float) -> bool:
        if spent > 0:
            try:
                await asyncio.Event().wait()
            finally:
                given_up.append(spent)
        return True

    async with host(database_url, opencode, may_spend=may_spend, dispatch=nowhere) as app:
        async with asyncio.timeout(20):
            row, changes = await run(app, await app.conversation(), "SCRIPT:loop 5")
        await app.holds_no_connection()
    assert (row.status, len(row.ledger)) == ("completed", 6)
    assert given_up == [STEP]  # one question at a time
    assert len([change for change in changes if change.event == "usage"]) > 1


async def test_a_hook_that_never_answers_lets_the_turn_begin_after_a_while(
    opencode: ScriptedServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def may_spend(conversation: Any, spent: float) -> bool:
        await asyncio.Event().wait()
        return True

    monkeypatch.setattr("opencode_async.turns.spending.ANSWER", 0.2)
    url = f"sqlite+aiosqlite:///{tmp_path}/test.db"
    async with host(url, opencode, may_spend=may_spend, dispatch=nowhere) as app:
        async with asyncio.timeout(20):
            row, _ = await run(app, await app.conversation(), "SCRIPT:text Hello.")
    assert (row.status, row.content) == ("completed", "Hello.")
    assert TimeoutError in [type(error) for error in app.reports.errors]


async def test_a_host_that_says_no_when_the_answer_is_done_lets_people_have_it(
    database_url: str, opencode: ScriptedServer
) -> None:
    done, said = asyncio.Event(), []

    async def may_spend(conversation: Any, spent: float) -> bool:
        if spent > 0:
            await done.wait()
            said.append(spent)
        return spent == 0

    async with host(database_url, opencode, may_spend=may_spend, dispatch=nowhere) as app:
        message = await app.agent.turns.start(await app.conversation(), "SCRIPT:loop 2")
        async with app.agent.turns.follow(message.id) as changes, asyncio.timeout(20):
            running = asyncio.create_task(app.agent.turns.run(message.id))
            async for change in changes:
                if isinstance(change, UsageChanged) and change.usage.cost > 2.5 * STEP:
                    done.set()
            result = await running
    assert (result.status, said[0]) == ("completed", STEP)


async def test_a_turn_on_its_own_asks_its_host_too(
    database_url: str, opencode: ScriptedServer
) -> None:
    purse = Purse(lambda spent: False)
    async with host(database_url, opencode, dispatch=nowhere) as app:
        message = await app.agent.turns.start(await app.conversation(), "SCRIPT:text No.")
        async with app.sessions() as db:
            conversation = await db.get_one(Conversation, message.conversation_id)
            row = await db.get_one(Message, message.id)
            session = Session(db, conversation, client=app.agent.client)
            result = await Turn(db, row, session=session, may_spend=purse)
    assert (code_of(result), purse.asked) == ("budget", [0.0])


async def test_a_stream_without_a_database_has_a_budget_too(opencode: ScriptedServer) -> None:
    async with OpencodeClient(opencode) as client:
        session_id = await client.create_session(title="limited")
        limits = Limits(cost=0.001)
        async with (
            client.stream(session_id, SUBAGENT, limits=limits) as changes,
            asyncio.timeout(30),
        ):
            last = [change async for change in changes][-1]
    assert isinstance(last, Finished)
    assert last.message["error"]["code"] == "budget"
    assert 0.001 < last.message["cost"] <= 20 * STEP  # of fifty steps; a busy reader is told late


async def test_who_waits_for_a_slow_hook_can_be_stopped(
    database_url: str, opencode: ScriptedServer
) -> None:
    asked = asyncio.Event()

    async def may_spend(conversation: Any, spent: float) -> bool:
        asked.set()
        await asyncio.Event().wait()
        return True

    async with host(database_url, opencode, may_spend=may_spend) as app:
        message = await app.agent.turns.start(await app.conversation(), "SCRIPT:text No.")
        async with asyncio.timeout(20):
            await asked.wait()
            await app.holds_no_connection()
            await app.agent.turns.cancel(message.id)
            result = await app.agent.turns.run(message.id)
        upstream = await messages_of(app, await app.session_id(message))
    assert (result.status, result.finish, upstream) == ("cancelled", "cancelled", [])


async def test_who_takes_a_turn_over_asks_the_host_at_once(
    database_url: str, opencode: ScriptedServer
) -> None:
    purse = Purse(lambda spent: False)
    async with host(database_url, opencode, dispatch=nowhere) as app:
        message = await app.agent.turns.start(await app.conversation(), SUBAGENT)
        async with spending(app, message.id) as running:
            running.cancel()
            await asyncio.wait([running])
        before = (await app.row(message.id)).cost
    async with host(database_url, opencode, may_spend=purse, dispatch=nowhere) as app:
        async with asyncio.timeout(20):
            result = await app.agent.turns.run(message.id)
    assert code_of(result) == "budget"
    assert purse.asked == [before]
    assert before > 0
