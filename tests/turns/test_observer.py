"""A host's observers: told in order, bounded, and unable to delay or break a turn."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import update

from opencode_async import Part, ReplyObserver, Server, TextPart, TurnResult
from opencode_async.observability.error_reporter import Severity
from opencode_async.protocol.changes import PartAdded, PartDelta
from opencode_async.testing import ScriptedServer
from opencode_async.turns.observer import MOST_ERRORS, ObserverFeed
from tests.support.hosts import Reports, host, nowhere
from tests.turns.ended import run

SLOW = 'SCRIPT:slow {"n": 8, "delay": 0.2}'
TICKS = "".join(f"tick{number} " for number in range(8))
METHODS = ("on_part_appended", "on_part_updated", "on_finalized", "on_error")
RESULT: Any = object()


class Watching(ReplyObserver):
    """Remembers what it was told."""

    def __init__(self) -> None:
        self.told: list[tuple[str, Any]] = []

    async def on_part_appended(self, part: Part) -> None:
        self.told.append(("appended", part))

    async def on_part_updated(self, part: Part, index: int) -> None:
        self.told.append(("updated", part))

    async def on_error(self, error: BaseException, *, severity: Severity) -> None:
        self.told.append(("error", error))

    async def on_finalized(self, result: TurnResult) -> None:
        self.told.append(("finalized", result))

    @property
    def names(self) -> list[str]:
        return [name for name, _ in self.told]


class Stuck(ReplyObserver):
    """Is told one part, and never returns; its cancellation it keeps to itself so many times."""

    def __init__(self, swallows: int = 0) -> None:
        self.swallows = swallows
        self.told = 0
        self.let = asyncio.Event()

    async def on_part_appended(self, part: Part) -> None:
        self.told += 1
        while not self.let.is_set():
            try:
                await self.let.wait()
            except asyncio.CancelledError:
                self.swallows -= 1
                if self.swallows < 0:
                    raise


class Deaf(ReplyObserver):
    """Ends when it is cancelled, as if it had done its work."""

    def __init__(self) -> None:
        self.told = 0

    async def on_part_appended(self, part: Part) -> None:
        self.told += 1
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()


def failing_at(method: str, how: Callable[..., Any]) -> Watching:
    observer = Watching()
    setattr(observer, method, how)
    return observer


async def raising(*args: Any, **kwargs: Any) -> None:
    raise RuntimeError("an observer's own mistake")


def raising_at_once(*args: Any, **kwargs: Any) -> None:
    raise RuntimeError("an observer's own mistake, and no coroutine")


async def cancelled_itself(*args: Any, **kwargs: Any) -> None:
    raise asyncio.CancelledError


def returning_nothing(*args: Any, **kwargs: Any) -> None:
    """A method that should have been a coroutine."""


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "how", [raising, raising_at_once, cancelled_itself, returning_nothing], ids=lambda h: h.__name__
)
async def test_whichever_method_fails_in_whichever_way_the_others_are_told_and_it_is_reported(
    method: str, how: Callable[..., Any]
) -> None:
    observer, reports = failing_at(method, how), Reports()
    parts: list[Part] = [TextPart("prt_1", "One.")]
    feed = ObserverFeed(observer, parts.__getitem__, reports)
    async with asyncio.timeout(5):
        feed.start()
        feed.take([PartAdded(0, parts[0])])
        await asyncio.sleep(0)  # it is told
        feed.take([PartDelta(0, "More.")])
        feed.error(ValueError("the turn goes on"), "warning")
        feed.finish(RESULT)
        await feed.drained()
    names = {"on_part_appended": "appended", "on_part_updated": "updated"}
    expected = ["appended", "updated", "error", "finalized"]
    expected.remove(names.get(method, method.removeprefix("on_")))
    assert observer.names == expected
    assert len(reports.errors) == 1


@pytest.mark.parametrize("swallows", [0, 1, 1000])
async def test_a_stuck_observer_neither_delays_the_end_nor_keeps_the_host_from_being_told(
    swallows: int, database_url: str, opencode: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("opencode_async.turns.observer.DRAIN", 0.3)
    monkeypatch.setattr("opencode_async.turns.observer.HEED", 0.2)
    observer = Stuck(swallows)
    finished: list[TurnResult] = []

    async def on_turn_finished(result: TurnResult) -> None:
        finished.append(result)

    options: dict[str, Any] = {
        "observer_factory": lambda message: observer,
        "on_turn_finished": on_turn_finished,
        "dispatch": nowhere,
    }
    async with host(database_url, opencode, **options) as app:
        row, changes = await run(app, await app.conversation(), "SCRIPT:bash")
        observer.let.set()
    assert row.status == "completed"
    assert changes[-1].event == "finished"
    assert [result.message_id for result in finished] == [row.id]
    late = ["observer not done 0.3 s after the end of its turn"]
    unheeding = ["observer goes on 0.2 s after it was cancelled"] if swallows else []
    assert [str(error) for error in app.reports.errors] == late + unheeding
    assert observer.told == 1


async def test_a_slow_observer_is_waited_for_behind_the_telling_of_the_host(
    database_url: str, opencode: ScriptedServer
) -> None:
    let, told = asyncio.Event(), list[str]()

    class Slow(ReplyObserver):
        async def on_part_appended(self, part: Part) -> None:
            await let.wait()

        async def on_finalized(self, result: TurnResult) -> None:
            told.append("observer")

    async def on_turn_finished(result: TurnResult) -> None:
        told.append("host")
        let.set()

    options: dict[str, Any] = {
        "observer_factory": lambda message: Slow(),
        "on_turn_finished": on_turn_finished,
        "dispatch": nowhere,
    }
    async with host(database_url, opencode, **options) as app:
        message = await app.agent.turns.start(await app.conversation(), "SCRIPT:text Hi.")
        await app.agent.turns.run(message.id)
        assert told == ["host", "observer"]
        row = await app.row(message.id)
    assert (row.lease_owner, row.lease_expires_at) == (None, None)
    assert app.reports.errors == []


async def test_a_turn_is_given_up_though_its_observer_swallows_that(
    database_url: str, opencode: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("opencode_async.turns.observer.HEED", 0.2)
    observer = Stuck(1000)
    options: dict[str, Any] = {"observer_factory": lambda message: observer, "dispatch": nowhere}
    async with host(database_url, opencode, **options) as app:
        message = await app.agent.turns.start(await app.conversation(), "SCRIPT:hang Half.")
        running = asyncio.create_task(app.agent.turns.run(message.id))
        await app.says_something(message.id)
        running.cancel()
        async with asyncio.timeout(5):
            with pytest.raises(asyncio.CancelledError):
                await running
        row = await app.row(message.id)
        observer.let.set()
        await app.agent.turns.cancel(message.id)
        await app.agent.turns.run(message.id)
    assert (row.status, row.lease_owner) == ("pending", None)
    assert str(app.reports.errors[0]) == "observer goes on 0.2 s after it was cancelled"


async def test_an_observer_that_returns_when_it_is_cancelled_is_told_nothing_more() -> None:
    observer, reports = Deaf(), Reports()
    parts: list[Part] = [TextPart("prt_1", "One."), TextPart("prt_2", "Two.")]
    feed = ObserverFeed(observer, parts.__getitem__, reports)
    async with asyncio.timeout(5):
        feed.start()
        feed.reset(2)
        await asyncio.sleep(0)  # it is told the first
        await feed.close()
    assert observer.told == 1
    assert reports.errors == []


async def test_behind_a_takeover_the_new_observer_is_first_told_what_is_stored(
    database_url: str, opencode: ScriptedServer
) -> None:
    observers: list[Watching] = []

    def observer_factory(message: Any) -> Watching:
        observers.append(Watching())
        return observers[-1]

    options: dict[str, Any] = {"observer_factory": observer_factory, "dispatch": nowhere}
    async with host(database_url, opencode, **options) as app:
        message = await app.agent.turns.start(await app.conversation(), SLOW)
        running = asyncio.create_task(app.agent.turns.run(message.id))
        async with app.agent.turns.follow(message.id) as changes:
            deltas = (change async for change in changes if change.event == "part.delta")
            async for _ in deltas:
                if stored := (await app.row(message.id)).content:
                    break
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        result = await app.agent.turns.run(message.id)
    first, second = observers
    assert "finalized" not in first.names
    assert second.names[0] == "appended"
    assert second.told[0][1].content.startswith(stored)
    assert second.names.count("appended") == 1
    assert second.told[-1] == ("finalized", result)
    assert result.content == TICKS


async def test_a_takeover_that_reaches_no_server_tells_what_is_stored_all_the_same(
    database_url: str, opencode: ScriptedServer
) -> None:
    observer = Watching()
    options: dict[str, Any] = {"observer_factory": lambda message: observer, "dispatch": nowhere}
    away = Server("http://127.0.0.1:9", password="nobody's")
    async with host(database_url, away, **options) as app:
        message = await app.agent.turns.start(await app.conversation(), "SCRIPT:text Hello.")
        kind = app.agent.tables.message
        part = {"id": "prt_1", "type": "text", "content": "Half of"}
        async with app.sessions.begin() as db:
            values = {"epoch": 1, "parts": [part], "content": "Half of"}
            await db.execute(update(kind).where(kind.id == message.id).values(values))
        result = await app.agent.turns.run(message.id)
    assert observer.told[0] == ("appended", TextPart("prt_1", "Half of"))
    assert observer.told[-1] == ("finalized", result)
    assert set(observer.names[1:-1]) == {"error"}
    assert result.content == "Half of"


async def test_hundreds_of_parts_that_grow_meanwhile_are_told_once_each_and_in_order() -> None:
    parts: list[Part] = []
    let = asyncio.Event()
    observer = Watching()

    async def waiting(part: Part) -> None:
        await let.wait()
        observer.told.append(("appended", part))

    observer.on_part_appended = waiting  # type: ignore[method-assign]
    reports = Reports()
    feed = ObserverFeed(observer, parts.__getitem__, reports)
    async with asyncio.timeout(10):
        feed.start()
        for index in range(500):
            parts.append(TextPart(f"prt_{index}", ""))
            feed.take([PartAdded(index, parts[index])])
            await asyncio.sleep(0)
            for word in range(20):
                parts[index] = TextPart(f"prt_{index}", f"{word}")
                feed.take([PartDelta(index, f"{word}")])
        assert feed.backlog <= 500
        let.set()
        feed.finish(RESULT)
        await feed.drained()
    appended = [part for name, part in observer.told if name == "appended"]
    assert [part.id for part in appended] == [f"prt_{index}" for index in range(500)]
    assert {part.content for part in appended[1:]} == {"19"}
    assert observer.told[-1] == ("finalized", RESULT)
    assert observer.names.count("updated") <= 1  # the one it was busy with
    assert reports.errors == []


async def test_of_the_errors_that_an_observer_is_too_slow_for_it_is_told_the_newest() -> None:
    observer = Watching()
    feed = ObserverFeed(observer, [].__getitem__, Reports())
    for number in range(1000):
        feed.error(ValueError(number), "warning")
    assert feed.backlog == MOST_ERRORS
    async with asyncio.timeout(5):
        feed.start()
        feed.finish(RESULT)
        await feed.drained()
    told = [error.args[0] for name, error in observer.told if name == "error"]
    assert told == list(range(1000 - MOST_ERRORS, 1000))
