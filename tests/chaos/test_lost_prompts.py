"""One message is one prompt and one answer, whatever becomes of the POST."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

from opencode_async import OpencodeClient, ServerError
from opencode_async.testing import ScriptedServer
from opencode_async.turns.message import message_json
from tests.support import relay
from tests.support.hosts import QUICK, Host, host, nowhere
from tests.support.postgres import new_database
from tests.support.relay import Fault, Relay
from tests.support.replay import assert_replay_is
from tests.turns.ended import messages_of, run

TIMINGS = replace(QUICK, lease=3.0, accept=1.5)  # a POST may take two thirds of the lease: 2 s
FAULTS: dict[str, Sequence[Fault]] = {
    "answered late": [relay.answered_late],
    "arriving late": [relay.arriving_late],
    "answer dropped": [relay.answer_dropped],
    "dropped": [relay.dropped],
    "dropped twice": [relay.dropped, relay.dropped],
    "500 before it was taken": [relay.failed_before],
    "500 after it was taken": [relay.failed_after],
    "500 both ways": [relay.failed_before, relay.failed_after],
    "204 but not taken": [relay.forgotten],
}
SAID = 'SCRIPT:slow {"n": 30, "delay": 0.1}'
ANSWER = "".join(f"tick{n} " for n in range(30))


@asynccontextmanager
async def faulty(
    url: str, server: ScriptedServer, faults: Sequence[Fault]
) -> AsyncIterator[tuple[Host[Any, Any], Relay]]:
    """An app whose prompts meet those faults."""
    between = Relay(server, *faults)
    async with (
        between.running() as relayed,
        host(url, relayed, timings=replace(TIMINGS, lease=600.0), dispatch=nowhere) as app,
    ):
        app.agent.timings = TIMINGS  # nobody else looks for turns whose lease is renewed late
        yield app, between


async def asked_once(fault: str, postgres_url: str, opencode: ScriptedServer) -> None:
    async with (
        new_database(postgres_url) as url,
        faulty(url, opencode, FAULTS[fault]) as (app, between),
    ):
        row, changes = await run(app, await app.conversation(), SAID)
        session_id = await app.session_id(row)
        upstream = await messages_of(app, session_id)
    asked = [request for request in opencode.model.requests if request.session_id == session_id]
    prompts = [message for message in upstream if message["info"]["role"] == "user"]
    assert (row.status, row.content, row.epoch) == ("completed", ANSWER, 1), fault
    assert [m["info"]["id"] for m in prompts] == [row.prompt_id], fault
    assert [len(m["parts"]) for m in prompts] == [1], fault
    assert len(asked) == 1, fault
    assert_replay_is(changes, message_json(row))
    print(f"{fault}: {between.prompts} POSTs, 1 prompt, 1 call of the model")


async def test_a_prompt_is_asked_once_and_answered_once(
    postgres_url: str, opencode: ScriptedServer
) -> None:
    async with asyncio.TaskGroup() as tasks:
        for fault in FAULTS:
            tasks.create_task(asked_once(fault, postgres_url, opencode))


async def test_a_prompt_that_is_never_taken_ends_with_the_servers_reason(
    database_url: str, opencode: ScriptedServer
) -> None:
    async with faulty(database_url, opencode, [relay.failed_before] * 9) as (app, between):
        row, _ = await run(app, await app.conversation(), SAID)
        upstream = await messages_of(app, await app.session_id(row))
    assert (row.status, row.error_code) == ("error", "server_error")
    assert (upstream, between.prompts) == ([], 3)
    assert any(isinstance(error, ServerError) for error in app.reports.errors)


async def test_a_prompt_of_a_stopped_turn_is_not_sent_again(
    database_url: str, opencode: ScriptedServer
) -> None:
    async with faulty(database_url, opencode, [relay.answer_dropped]) as (app, between):
        message = await app.agent.turns.start(await app.conversation(), SAID)
        running = asyncio.create_task(app.agent.turns.run(message.id))
        while not between.prompts:
            await app.row(message.id)
        await app.agent.turns.cancel(message.id)
        result = await running
        assert not await app.agent.client.busy(await app.session_id(await app.row(message.id)))
    assert result.status == "cancelled"
    assert between.prompts == 1


async def test_a_stream_without_a_database_survives_it_too(opencode: ScriptedServer) -> None:
    between = Relay(opencode, relay.answer_dropped)
    async with between.running() as relayed, OpencodeClient(relayed) as client:
        session_id = await client.create_session(title="A script's")
        async with client.stream(session_id, "SCRIPT:text Once.") as changes:
            last = [change async for change in changes][-1]
    assert last.to_json()["message"]["content"] == "Once."
