"""One conversation and many who want to say something in it at once."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import pytest
from sqlalchemy import select

from opencode_async import QueueFull
from opencode_async.testing import ScriptedServer
from opencode_async.turns import queue
from tests.chaos.scale import EVERYTHING
from tests.support.hosts import QUICK, Host, host, nowhere
from tests.support.posting import posted
from tests.support.workers import worker
from tests.turns.ended import messages_of

POSTS, PROCESSES = 50, 3
TEXTS = [f"SCRIPT:text Answer {n}." for n in range(POSTS)]
# Whose agent looks for lost turns seldom: nobody runs what these tests did not dispatch.
IDLE = replace(QUICK, lease=600.0)
# Turns that a worker ends before it is killed, and how many wait then: all that may.
DONE, WAITING = 4, queue.MOST_QUEUED if EVERYTHING else 12


async def turns_of(app: Host[Any, Any], conversation: Any) -> list[Any]:
    """The assistant's rows in their order."""
    kind = app.agent.tables.message
    mine = select(kind).where(kind.conversation_id == conversation, kind.role == "assistant")
    async with app.sessions() as db:
        return list((await db.scalars(mine.order_by(kind.position))).all())


async def all_over(app: Host[Any, Any], conversation: Any) -> list[Any]:
    """The same, when none is live any more: each is followed to its end."""
    for row in await turns_of(app, conversation):
        async with app.agent.turns.follow(row.id) as changes:
            async for _ in changes:
                pass
    return await turns_of(app, conversation)


async def test_of_many_posts_at_once_one_is_answered_and_the_others_are_told_so(
    database_url: str, opencode: ScriptedServer
) -> None:
    async with host(database_url, opencode, timings=IDLE, dispatch=nowhere) as app:
        conversation = await app.conversation()
        became = await posted(TEXTS, PROCESSES, conversation, "reject", database_url, opencode)
        (row,) = await turns_of(app, conversation)
    print(f"{POSTS} posts from {PROCESSES} processes: {dict(became)}")
    assert became == {"pending": 1, "rejected": POSTS - 1}
    assert row.status == "pending"


@pytest.mark.timeout(120)
async def test_all_that_are_enqueued_at_once_are_answered_one_after_the_other(
    database_url: str, opencode: ScriptedServer
) -> None:
    async with host(database_url, opencode, timings=IDLE, dispatch=nowhere) as app:
        conversation = await app.conversation()
        became = await posted(TEXTS, PROCESSES, conversation, "enqueue", database_url, opencode)
        assert became == {"pending": 1, "queued": POSTS - 1}
        waiting = await turns_of(app, conversation)
        async with (
            host(database_url, opencode) as one_worker,
            host(database_url, opencode) as other_worker,
        ):
            await one_worker.agent.turns.dispatch(waiting[0].id)
            rows = await all_over(app, conversation)
            reports = one_worker.reports.errors + other_worker.reports.errors
        upstream = await messages_of(app, await app.session_id(rows[0]))
    print(f"{len(rows)} turns in order, one live at a time")
    assert [row.id for row in rows] == [row.id for row in waiting]
    assert {row.status for row in rows} == {"completed"}
    assert [f"SCRIPT:text {row.content}" for row in rows] == [
        row.request["text"] for row in waiting
    ]
    prompts = [m["info"]["id"] for m in upstream if m["info"]["role"] == "user"]
    assert prompts == [row.prompt_id for row in rows]
    ends = [row.finished_at for row in rows]
    assert ends == sorted(ends)
    assert reports == []


@pytest.mark.timeout(300)
async def test_a_worker_killed_while_the_queue_is_full_leaves_it_to_the_next_one(
    database_url: str, opencode: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queue, "MOST_QUEUED", WAITING)
    texts = [f"SCRIPT:text Answer {n}." for n in range(DONE + 1 + WAITING)]
    texts[DONE] = 'SCRIPT:slow {"n": 4, "delay": 1.0}'  # its worker is killed before its end
    answers = [text.removeprefix("SCRIPT:text ") for text in texts]
    answers[DONE] = "tick0 tick1 tick2 tick3 "
    async with host(database_url, opencode, timings=IDLE, dispatch=nowhere) as app:
        conversation = await app.conversation()
        start = partial(app.agent.turns.start, conversation, on_busy="enqueue")
        for text in texts[: 1 + WAITING]:
            await start(text)
        async with worker(database_url, opencode, QUICK) as first:
            waiting = await turns_of(app, conversation)
            first.run(waiting[0].id)
            await first.says("claimed", waiting[DONE].id)
            for text in texts[1 + WAITING :]:
                await start(text)
            with pytest.raises(QueueFull):
                await start("one too many")
            first.kill()
        async with worker(database_url, opencode, QUICK) as second:
            rows = await all_over(app, conversation)
        upstream = await messages_of(app, await app.session_id(rows[0]))
    print(f"{WAITING} turns waited for the one whose worker was killed")
    assert {row.status for row in rows} == {"completed"}
    assert [row.content for row in rows] == answers
    assert [row.epoch for row in rows] == [*[1] * DONE, 2, *[1] * WAITING]
    prompts = [m["info"]["id"] for m in upstream if m["info"]["role"] == "user"]
    assert prompts == [row.prompt_id for row in rows]
    assert [line["claimed"] for line in second.said if "claimed" in line] == [
        str(row.id) for row in rows[DONE:]
    ]


@pytest.mark.timeout(120)
async def test_a_chain_of_interruptions_answers_the_last_and_ends_every_other(
    database_url: str, opencode: ScriptedServer
) -> None:
    long = [f'SCRIPT:slow {{"n": 300, "delay": 0.1, "number": {n}}}' for n in range(12)]
    async with host(database_url, opencode) as app:
        conversation = await app.conversation()
        first = await app.agent.turns.start(conversation, long[0])
        async with app.agent.turns.follow(first.id) as changes:
            async for change in changes:
                if change.event == "part.delta":
                    break
        became = await posted(
            long[1:], PROCESSES, conversation, "interrupt", database_url, opencode
        )
        # One may have had its turn, and its end, before its process saw what became of it.
        assert became.total() == len(long) - 1
        assert not became["rejected"]
        last = await app.agent.turns.start(conversation, "SCRIPT:text Last.", on_busy="interrupt")
        async with app.agent.turns.follow(last.id) as changes:
            async for _ in changes:
                pass
        for row in reversed(await turns_of(app, conversation)):
            await app.agent.turns.cancel(row.id)
        rows = await all_over(app, conversation)
        upstream = await messages_of(app, await app.session_id(first))
        busy = await app.agent.client.busy(await app.session_id(first))
    print(f"{len(rows)} turns: {[row.finish for row in rows]}")
    by_key = {row.id: row for row in rows}
    assert (by_key[first.id].status, by_key[first.id].finish) == ("cancelled", "interrupted")
    assert by_key[first.id].content.startswith("tick0 ")
    assert (by_key[last.id].status, by_key[last.id].content) == ("completed", "Last.")
    others = [row for key, row in by_key.items() if key not in (first.id, last.id)]
    assert {row.status for row in others} == {"cancelled"}
    assert not busy
    prompts = [m["info"]["id"] for m in upstream if m["info"]["role"] == "user"]
    assert len(prompts) == len(set(prompts))
    assert set(prompts) <= {row.prompt_id for row in rows}
