"""What happens to a message while the agent is answering another."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import select, update

from opencode_async import ConversationBusy, QueueFull, TurnQueued, TurnResult
from opencode_async.testing import ScriptedServer
from opencode_async.turns import queue
from tests.support.hosts import QUICK, Host, host, nowhere
from tests.turns.ended import messages_of

HANG = "SCRIPT:hang Half of it."
UNWATCHED = replace(QUICK, lease=120.0)


async def begun(app: Host[Any, Any], conversation: Any, text: str = HANG) -> Any:
    """A turn that is running: its first words are there."""
    message = await app.agent.turns.start(conversation, text)
    async with app.agent.turns.follow(message.id) as changes:
        async for change in changes:
            if change.event == "part.delta":
                return message
    raise AssertionError("it ended")


async def end_of(app: Host[Any, Any], key: Any) -> Any:
    """The row of a turn at its end, whoever runs it."""
    async with asyncio.timeout(30), app.agent.turns.follow(key) as changes:
        async for _ in changes:
            pass
    return await app.row(key)


async def positions(app: Host[Any, Any], conversation: Any) -> list[tuple[int, str, str, str]]:
    kind = app.agent.tables.message
    async with app.sessions() as db:
        query = select(kind).where(kind.conversation_id == conversation).order_by(kind.position)
        rows = (await db.scalars(query)).all()
    return [(row.position, row.role, row.status, row.content) for row in rows]


async def test_what_is_enqueued_is_answered_in_its_order(
    database_url: str, opencode: ScriptedServer
) -> None:
    async with host(database_url, opencode) as app:
        conversation = await app.conversation()
        texts = [f"SCRIPT:text Number {n}." for n in range(4)]
        messages = [
            await app.agent.turns.start(conversation, text, on_busy="enqueue") for text in texts
        ]
        assert [m.status for m in messages] == ["pending", *["queued"] * 3]
        rows = [await end_of(app, message.id) for message in messages]
        upstream = await messages_of(app, await app.session_id(rows[0]))
    assert [row.content for row in rows] == [f"Number {n}." for n in range(4)]
    assert [m["info"]["id"] for m in upstream if m["info"]["role"] == "user"] == [
        row.prompt_id for row in rows
    ]
    ended = [row.finished_at for row in rows]
    assert ended == sorted(ended)


async def test_rejected_while_another_waits(database_url: str, opencode: ScriptedServer) -> None:
    async with host(database_url, opencode, dispatch=nowhere) as app:
        conversation = await app.conversation()
        await app.agent.turns.start(conversation, "SCRIPT:text One.")
        waiting = await app.agent.turns.start(conversation, "SCRIPT:text Two.", on_busy="enqueue")
        with pytest.raises(ConversationBusy):
            await app.agent.turns.start(conversation, "SCRIPT:text Three.")
        with pytest.raises(TurnQueued):
            await app.agent.turns.run(waiting.id)
    assert waiting.status == "queued"


async def test_an_interrupting_message_stops_the_answer_and_goes_before_those_that_wait(
    database_url: str, opencode: ScriptedServer
) -> None:
    async with host(database_url, opencode) as app:
        conversation = await app.conversation()
        first = await begun(app, conversation)
        last = await app.agent.turns.start(conversation, "SCRIPT:text Last.", on_busy="enqueue")
        urgent = await app.agent.turns.start(
            conversation, "SCRIPT:text Urgent.", on_busy="interrupt"
        )
        assert urgent.status == "queued"
        rows = [await end_of(app, m.id) for m in (first, urgent, last)]
        order = await positions(app, conversation)
    assert [(r.status, r.finish, r.content) for r in rows] == [
        ("cancelled", "interrupted", "Half of it."),
        ("completed", "stop", "Urgent."),
        ("completed", "stop", "Last."),
    ]
    assert rows[1].finished_at <= rows[2].finished_at
    assert [place for place, *_ in order] == list(range(1, 7))
    assert [content for *_, content in order] == [
        *(HANG, "Half of it."),
        *("SCRIPT:text Urgent.", "Urgent."),
        *("SCRIPT:text Last.", "Last."),
    ]


async def test_interruptions_of_interruptions_all_stand_before_what_waited(
    database_url: str, opencode: ScriptedServer
) -> None:
    async with host(database_url, opencode, dispatch=nowhere, timings=UNWATCHED) as app:
        conversation = await app.conversation()
        start = app.agent.turns.start
        await start(conversation, "one")
        await start(conversation, "two", on_busy="enqueue")
        for text in ("three", "four", "five"):
            await start(conversation, text, on_busy="interrupt")
        order = await positions(app, conversation)
    assert [content for _, role, _, content in order if role == "user"] == [
        *("one", "five", "four", "three", "two"),
    ]
    assert [place for place, *_ in order] == list(range(1, 11))
    assert [status for _, role, status, _ in order if role == "assistant"] == [
        *("pending", *["queued"] * 4),
    ]


async def test_with_nothing_to_interrupt_a_message_is_answered_at_once(
    database_url: str, opencode: ScriptedServer
) -> None:
    async with host(database_url, opencode) as app:
        conversation = await app.conversation()
        message = await app.agent.turns.start(conversation, "SCRIPT:text Now.", on_busy="interrupt")
        assert message.status == "pending"
        assert (await app.agent.turns.run(message.id)).content == "Now."


async def test_a_queued_turn_is_cancelled_at_once_and_its_host_is_told(
    database_url: str, opencode: ScriptedServer
) -> None:
    told: asyncio.Queue[TurnResult] = asyncio.Queue()

    async with host(database_url, opencode, on_turn_finished=told.put) as app:
        conversation = await app.conversation()
        running = await begun(app, conversation)
        waiting = await app.agent.turns.start(
            conversation, "SCRIPT:text Never said.", on_busy="enqueue"
        )
        async with app.agent.turns.follow(waiting.id) as changes:
            cancelled = await app.agent.turns.cancel(waiting.id)
            heard = [change.event async for change in changes]
        async with asyncio.timeout(10):
            first = await told.get()
        assert (await app.row(running.id)).status == "pending"
        await app.agent.turns.cancel(running.id)
        async with asyncio.timeout(10):
            second = await told.get()
    assert (cancelled.status, cancelled.finish, cancelled.epoch) == ("cancelled", "cancelled", 0)
    assert heard[-1] == "finished"
    assert [first.message_id, second.message_id] == [waiting.id, running.id]
    assert told.empty()
    assert not any("Never said." in str(request.body) for request in opencode.model.requests)


async def test_a_queue_without_a_live_turn_goes_on_when_somebody_looks(
    database_url: str, opencode: ScriptedServer
) -> None:
    dispatched: asyncio.Queue[Any] = asyncio.Queue()

    async def dispatch(message: Any) -> None:
        dispatched.put_nowait(message.id)

    async with host(database_url, opencode, dispatch=dispatch, timings=UNWATCHED) as app:
        conversation = await app.conversation()
        first = await app.agent.turns.start(conversation, "SCRIPT:text One.")
        assert await dispatched.get() == first.id
        second = await app.agent.turns.start(conversation, "SCRIPT:text Two.", on_busy="enqueue")
        kind = app.agent.tables.message
        async with app.sessions.begin() as db:  # a host that ends a row by itself, say
            await db.execute(update(kind).where(kind.id == first.id).values(status="error"))
        # Beside these the agent itself looks once, in the beginning.
        await asyncio.gather(*(app.agent.turns.recover() for _ in range(5)))
        async with asyncio.timeout(10):
            assert await dispatched.get() == second.id
        assert dispatched.empty()
        assert (await app.agent.turns.run(second.id)).content == "Two."


async def test_a_queue_has_an_end(
    database_url: str, opencode: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queue, "MOST_QUEUED", 2)
    async with host(database_url, opencode, dispatch=nowhere) as app:
        conversation = await app.conversation()
        for text in ("one", "two", "three"):
            await app.agent.turns.start(conversation, text, on_busy="enqueue")
        for policy in ("enqueue", "interrupt"):
            with pytest.raises(QueueFull):
                await app.agent.turns.start(conversation, "four", on_busy=policy)
        order = await positions(app, conversation)
    assert len(order) == 6


async def test_erasing_a_conversation_starts_none_of_those_that_wait(
    database_url: str, opencode: ScriptedServer
) -> None:
    async with host(database_url, opencode) as app:
        conversation = await app.conversation()
        await begun(app, conversation)
        for n in range(3):
            text = f"SCRIPT:text Erased {n}."
            await app.agent.turns.start(conversation, text, on_busy="enqueue")
        await app.agent.erase(conversation)
        assert await positions(app, conversation) == []
    assert not any("Erased" in str(request.body) for request in opencode.model.requests)
