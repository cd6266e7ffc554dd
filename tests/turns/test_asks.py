"""What the agent asks is a row: answered once, from anywhere, and never waited for in vain."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import select, update
from sqlalchemy.exc import OperationalError

from opencode_async import (
    AlreadyAnswered,
    AskGone,
    AskNotFound,
    AskPolicy,
    Decision,
    InvalidReply,
    Limits,
    OpencodeClient,
    PermissionReply,
    QuestionReply,
)
from opencode_async.testing import ScriptedServer
from opencode_async.turns.ask_rows import AskRows
from opencode_async.turns.beside import Beside
from opencode_async.turns.message import message_json
from tests.support.hosts import Ask, Host, nowhere
from tests.support.replay import assert_replay_is
from tests.turns.asking import (
    BASH,
    ONCE,
    REJECT,
    TIMINGS,
    Followed,
    a_turn,
    an_app,
    asking,
    rows_of,
    tools,
)


@pytest.mark.parametrize("old", [False, True])
async def test_a_permission_is_a_row_with_what_is_asked_and_goes_on_when_it_is_given(
    old: bool, database_url: str, opencode: ScriptedServer
) -> None:
    values: dict[str, Any] = {"tenant_id": 7, "source": "test"} if old else {}
    async with (
        an_app(database_url, opencode, old=old) as app,
        a_turn(app, BASH, **values) as turn,
    ):
        (ask,) = await turn.asks()
        assert (ask["permission"], ask["patterns"]) == ("bash", ["echo hello", "uname"])
        assert ask["metadata"] == {"command": "echo hello && uname"}
        assert ask["display"]["command"] == "echo hello && uname"
        assert ask["always"] == ["echo *", "uname *"]
        assert ask["deadline"]
        await app.agent.turns.answer(turn.id, ask["id"], ONCE, by="ann")
        row = await turn.row()
        (stored,) = await rows_of(app, turn.id)
    assert (row.status, row.finish) == ("completed", "stop")
    assert tools(row)[0]["output"].startswith("hello")
    assert (stored.status, stored.reply, stored.answered_by) == (
        "answered",
        {"reply": "once"},
        "ann",
    )
    events = [change.event for change in turn.changes if change.event.startswith("permission")]
    assert events == ["permission.asked", "permission.resolved"]


async def test_a_permission_refused_without_words_ends_the_turn(
    database_url: str, opencode: ScriptedServer
) -> None:
    async with an_app(database_url, opencode) as app, a_turn(app, BASH) as turn:
        (ask,) = await turn.asks()
        await app.agent.turns.answer(turn.id, ask["id"], REJECT)
        row = await turn.row()
    assert (row.status, row.finish) == ("completed", "rejected")
    assert tools(row)[0]["status"] == "error"


async def test_with_words_the_agent_hears_them_and_goes_on(
    database_url: str, opencode: ScriptedServer
) -> None:
    async with an_app(database_url, opencode) as app, a_turn(app, BASH) as turn:
        (ask,) = await turn.asks()
        reply = PermissionReply("reject", "Not on\0 Mondays.")
        await app.agent.turns.answer(turn.id, ask["id"], reply)
        row = await turn.row()
    assert (row.status, row.finish) == ("completed", "stop")
    assert "Not on\ufffd Mondays." in tools(row)[0]["error"]


async def test_always_is_always_in_this_conversation_and_nothing_in_another(
    database_url: str, opencode: ScriptedServer
) -> None:
    async with an_app(database_url, opencode) as app:
        here = await app.conversation()
        async with a_turn(app, 'SCRIPT:bash {"command": "echo one"}', here) as turn:
            (ask,) = await turn.asks()
            await app.agent.turns.answer(turn.id, ask["id"], PermissionReply("always"))
            await turn.row()
        async with a_turn(app, "SCRIPT:loop 3", here) as turn:
            row = await turn.row()
            asked = await rows_of(app, turn.id)
        assert (row.status, row.finish) == ("completed", "stop")
        assert [(a.status, a.reply, a.answered_by) for a in asked] == [
            ("answered", {"reply": "once"}, "always")
        ] * 3
        async with a_turn(app, 'SCRIPT:bash {"command": "echo two && uname"}', here) as turn:
            (ask,) = await turn.asks()  # more than what was granted
            await app.agent.turns.answer(turn.id, ask["id"], ONCE)
        async with a_turn(app, 'SCRIPT:bash {"command": "echo one"}') as turn:
            (ask,) = await turn.asks()
            await app.agent.turns.answer(turn.id, ask["id"], ONCE)
            await turn.row()


async def test_of_two_that_wait_the_refusal_of_one_refuses_both(
    database_url: str, opencode: ScriptedServer
) -> None:
    async with (
        an_app(database_url, opencode, asking("edit")) as app,
        a_turn(app, "SCRIPT:multi") as turn,
    ):
        first, second = await turn.asks(2)
        assert first["metadata"]["diff"]
        await app.agent.turns.answer(turn.id, first["id"], REJECT)
        row = await turn.row()
        asked = await rows_of(app, turn.id)
        with pytest.raises((AlreadyAnswered, AskGone)):
            await app.agent.turns.answer(turn.id, second["id"], ONCE)
    assert (row.status, row.finish) == ("completed", "rejected")
    assert {tool["status"] for tool in tools(row)} == {"error"}
    assert {a.status for a in asked} <= {"answered", "gone"}


async def test_a_question_is_answered_with_labels_and_with_words_of_ones_own(
    database_url: str, opencode: ScriptedServer
) -> None:
    script = 'SCRIPT:question {"n": 2, "multiple": true}'
    async with an_app(database_url, opencode) as app, a_turn(app, script) as turn:
        (ask,) = await turn.asks()
        assert [q["header"] for q in ask["questions"]] == ["Colour", "Colour"]
        assert [o["label"] for o in ask["questions"][0]["options"]] == ["Red", "Blue"]
        reply = QuestionReply([["Red", "Blue"], []], [None, "Something like green"])
        await app.agent.turns.answer(turn.id, ask["id"], reply)
        row = await turn.row()
    assert (row.status, row.finish) == ("completed", "stop")
    output = tools(row)[0]["output"]
    assert "Red" in output
    assert "Something like green" in output
    (shown,) = turn.state["questions"]
    assert shown["answers"] == [["Red", "Blue"], ["Something like green"]]


async def test_a_dismissed_question_ends_the_turn(
    database_url: str, opencode: ScriptedServer
) -> None:
    async with an_app(database_url, opencode) as app, a_turn(app, "SCRIPT:question") as turn:
        (ask,) = await turn.asks()
        await app.agent.turns.answer(turn.id, ask["id"], QuestionReply())
        row = await turn.row()
        (stored,) = await rows_of(app, turn.id)
    assert (row.status, row.finish) == ("completed", "rejected")
    assert (stored.status, stored.reply) == ("answered", {"reject": True})


WRONG: list[PermissionReply | QuestionReply] = [
    QuestionReply([]),
    QuestionReply([["Red"], ["Blue"]]),
    QuestionReply([["Green"]]),
    QuestionReply([["Red", "Blue"]]),
    QuestionReply([["Red"]], ["and more"]),
    QuestionReply([["Red"]], [None, None]),
    QuestionReply([["Red", "Red"]]),
]


async def test_what_does_not_answer_a_question_is_refused_and_leaves_it_open(
    database_url: str, opencode: ScriptedServer
) -> None:
    async with an_app(database_url, opencode) as app, a_turn(app, "SCRIPT:question") as turn:
        (ask,) = await turn.asks()
        for reply in WRONG:
            with pytest.raises(InvalidReply):
                await app.agent.turns.answer(turn.id, ask["id"], reply)
        with pytest.raises(AskNotFound):
            await app.agent.turns.answer(turn.id, ask["id"], ONCE)
        (stored,) = await rows_of(app, turn.id)
        assert (stored.status, stored.reply) == ("open", None)
        await app.agent.turns.answer(turn.id, ask["id"], QuestionReply([["Red"]]))
        assert (await turn.row()).finish == "stop"


async def test_of_twenty_answers_at_once_one_is_taken(
    database_url: str, opencode: ScriptedServer
) -> None:
    async with (
        an_app(database_url, opencode, inline=False) as app,
        an_app(database_url, opencode, dispatch=nowhere, inline=False) as other,
        a_turn(app, BASH) as turn,
    ):
        (ask,) = await turn.asks()
        answers = [
            each.agent.turns.answer(turn.id, ask["id"], PermissionReply("once"), by=str(n))
            for n, each in enumerate([app, other] * 10)
        ]
        became = Counter(type(e) for e in await asyncio.gather(*answers, return_exceptions=True))
        row = await turn.row()
        with pytest.raises(AlreadyAnswered):
            await app.agent.turns.answer(turn.id, ask["id"], REJECT)
    assert became == {type(None): 1, AlreadyAnswered: 19}
    assert row.finish == "stop"


async def test_an_answer_from_another_worker_reaches_the_one_that_runs_the_turn(
    database_url: str, opencode: ScriptedServer
) -> None:
    async with (
        an_app(database_url, opencode) as app,
        an_app(database_url, opencode, dispatch=nowhere) as other,
        a_turn(app, BASH) as turn,
    ):
        follower = Followed(other, await other.row(turn.id))
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(follower.follow())
            (ask,) = await follower.asks()
            await other.agent.turns.answer(turn.id, ask["id"], ONCE)
            row = await follower.row()
        assert_replay_is(turn.changes, message_json(row, Beside(await rows_of(app, turn.id))))
    assert row.finish == "stop"


async def test_who_does_not_answer_in_time_has_refused(
    database_url: str, opencode: ScriptedServer
) -> None:
    policy = AskPolicy(within=0.5, default=Decision.reject("Nobody was there."))
    settings = asking("bash", asks=policy)
    async with an_app(database_url, opencode, settings) as app:
        async with a_turn(app, BASH) as turn:
            row = await turn.row()
            (stored,) = await rows_of(app, turn.id)
            with pytest.raises(AlreadyAnswered):
                await app.agent.turns.answer(turn.id, stored.id, ONCE)
        async with a_turn(app, "SCRIPT:question") as turn:
            dismissed = await turn.row()
    assert (row.status, row.finish) == ("completed", "stop")
    assert "Nobody was there." in tools(row)[0]["error"]
    assert (stored.status, stored.answered_by) == ("expired", "deadline")
    assert dismissed.finish == "rejected"


async def test_limits_stand_still_while_a_person_is_asked(
    database_url: str, opencode: ScriptedServer
) -> None:
    settings = asking("bash", limits=Limits(total=3, silence=2))
    async with an_app(database_url, opencode, settings) as app, a_turn(app, BASH) as turn:
        (ask,) = await turn.asks()
        await asyncio.sleep(4)  # longer than the limits, which is what is tested
        await app.agent.turns.answer(turn.id, ask["id"], ONCE)
        row = await turn.row()
    assert (row.status, row.error_code) == ("completed", None)


async def test_a_stopped_turn_asks_nothing_any_more_and_neither_does_the_next(
    database_url: str, opencode: ScriptedServer
) -> None:
    async with an_app(database_url, opencode) as app:
        conversation = await app.conversation()
        async with a_turn(app, BASH, conversation) as turn:
            (ask,) = await turn.asks()
            await app.agent.turns.cancel(turn.id)
            row = await turn.row()
            with pytest.raises(AskGone):
                await app.agent.turns.answer(turn.id, ask["id"], ONCE)
        assert row.status == "cancelled"
        listed = [one.id for one in await app.agent.client.asked()]
        (stored,) = await rows_of(app, turn.id)
        assert stored.upstream_id in listed  # OpenCode itself forgets nothing
        async with a_turn(app, 'SCRIPT:slow {"n": 8, "delay": 0.5}', conversation) as turn:
            row = await turn.row()
            assert await rows_of(app, turn.id) == []
    assert (row.status, row.finish) == ("completed", "stop")


@asynccontextmanager
async def given_up(
    url: str, server: ScriptedServer
) -> AsyncIterator[tuple[Host[Any, Any], Followed, dict[str, Any]]]:
    """A turn whose worker went while it asked that; nobody takes it over by itself."""
    never = replace(TIMINGS, lease=600.0)
    async with an_app(url, server, dispatch=nowhere, timings=never) as app:
        message = await app.agent.turns.start(await app.conversation(), BASH)
        running = asyncio.create_task(app.agent.turns.run(message.id))
        turn = Followed(app, message)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(turn.follow())
            (ask,) = await turn.asks()
            running.cancel()
            await asyncio.wait([running])
            yield app, turn, ask


async def test_an_answer_is_passed_on_by_whoever_takes_the_turn_over(
    database_url: str, opencode: ScriptedServer
) -> None:
    async with given_up(database_url, opencode) as (app, turn, ask):
        await app.agent.turns.answer(turn.id, ask["id"], ONCE)
        (stored,) = await rows_of(app, turn.id)
        assert stored.status == "answering"
        await app.agent.turns.run(turn.id)
        row = await turn.row()
        (stored,) = await rows_of(app, turn.id)
    assert (row.finish, row.epoch, stored.status) == ("stop", 2, "answered")


async def test_an_answer_that_was_said_to_be_given_but_never_was_is_given_again(
    database_url: str, opencode: ScriptedServer
) -> None:
    async with given_up(database_url, opencode) as (app, turn, _):
        async with app.sessions.begin() as db:
            kind = app.agent.tables.ask
            assert kind is not None
            stored = (await db.scalars(select(kind))).one()
            stored.status, stored.reply = "answered", {"reply": "once"}
        await app.agent.turns.run(turn.id)
        row = await turn.row()
    assert (row.finish, row.epoch) == ("stop", 2)


async def test_what_is_answered_past_the_library_is_answered_here_too(
    database_url: str, opencode: ScriptedServer
) -> None:
    async with (
        an_app(database_url, opencode) as app,
        OpencodeClient(opencode) as terminal,
        a_turn(app, BASH) as turn,
    ):
        await turn.asks()
        (stored,) = await rows_of(app, turn.id)
        await terminal.reply(stored.upstream_id or "", "permission", {"reply": "once"})
        row = await turn.row()
        (stored,) = await rows_of(app, turn.id)
    assert row.finish == "stop"
    assert (stored.status, stored.reply) == ("answered", {"reply": "once"})


async def test_a_turn_goes_on_where_its_asks_cannot_be_read(
    database_url: str, opencode: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, failures, back = AskRows.all, 2, asyncio.Event()

    async def failing(rows: AskRows) -> Any:
        nonlocal failures
        if failures:
            failures -= 1
            raise OperationalError("SELECT", None, OSError("the database is restarting"))
        back.set()
        return await read(rows)

    monkeypatch.setattr(AskRows, "all", failing)
    timings = replace(TIMINGS, look=0.3)
    async with an_app(database_url, opencode, timings=timings) as app, a_turn(app, BASH) as turn:
        (ask,) = await turn.asks()
        async with asyncio.timeout(20):
            await back.wait()
        await app.agent.turns.answer(turn.id, ask["id"], ONCE)
        row = await turn.row()
    assert (row.status, row.finish, row.epoch) == ("completed", "stop", 1)


async def test_an_ask_that_was_thought_to_be_gone_is_open_again(
    database_url: str, opencode: ScriptedServer
) -> None:
    timings = replace(TIMINGS, look=0.3)
    async with an_app(database_url, opencode, timings=timings) as app, a_turn(app, BASH) as turn:
        await turn.asks()
        async with app.sessions.begin() as db:
            await db.execute(update(Ask).values(status="gone"))
        await turn.until(lambda _: len([c for c in turn.changes if "asked" in c.event]) == 2)
        (ask,) = await turn.asks()
        await app.agent.turns.answer(turn.id, ask["id"], ONCE)
        row = await turn.row()
    assert (row.status, row.finish) == ("completed", "stop")


async def test_a_subagents_permission_is_asked_in_the_parents_turn(
    database_url: str, opencode: ScriptedServer
) -> None:
    reading = 'SCRIPT:read {"path": "/etc/hostname"}'
    script = f"SCRIPT:task {json.dumps({'prompt': reading})}"
    async with an_app(database_url, opencode, asking()) as app, a_turn(app, script) as turn:
        (ask,) = await turn.asks()
        assert ask["permission"] == "external_directory"
        assert ask["session_id"] != await app.session_id(await app.row(turn.id))
        await app.agent.turns.answer(
            turn.id, ask["id"], PermissionReply("reject", "Not that file.")
        )
        row = await turn.row()
    assert (row.status, row.finish) == ("completed", "stop")
