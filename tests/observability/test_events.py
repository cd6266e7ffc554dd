"""The table of events is what is told, of turns of every kind, and all of it is."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import fields
from pathlib import Path
from typing import Any, get_type_hints

import pytest

from opencode_async import LeaseLost
from opencode_async.observability.events import EVENTS, Event, TurnFinished, TurnStarted
from opencode_async.observability.instrumentation import harmless, log_event
from opencode_async.testing import ScriptedServer
from tests.observability.scenarios import (
    PLAIN,
    SCENARIOS,
    SECRET,
    Scenario,
    Stage,
    a_plain_turn,
    one_that_is_given_up_and_recovered,
)
from tests.support.hosts import Reports, host, nowhere
from tests.support.parts import REPOSITORY
from tests.turns.ended import run

TABLE = {event.name: event for event in EVENTS}
RESERVED = {"event", "name", "msg", "message", "level", "exc_info", "extra", "timestamp"}


def check(event: Event, server: ScriptedServer) -> None:
    """It is a row of the table, and says what the table says, and no more."""
    assert type(event) is TABLE[event.name]
    hints = get_type_hints(type(event))
    assert event.payload.keys() == {field.name for field in fields(event)}
    for name, value in event.payload.items():
        assert isinstance(value, hints[name]), (event.name, name, value)
        assert type(value) in (str, int, float, bool, type(None)), (event.name, name)
    told = str(event)
    assert SECRET not in told
    assert str(server.password) not in told


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__)
async def test_operators_are_told_what_the_table_says(
    scenario: Scenario,
    postgres_database: str,
    opencode: ScriptedServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told: list[Event] = []
    await scenario(Stage(postgres_database, opencode, tmp_path, monkeypatch, told.append))
    for event in told:
        check(event, opencode)
    names = {event.name for event in told}
    assert SCENARIOS[scenario] - names == set()
    started = [e for e in told if e.name == "turn.started"]
    over = [e for e in told if e.name in ("turn.finished", "turn.given_up")]
    assert len(started) == len(over)
    joined = [e.payload for e in told if e.name == "follower.joined"]
    assert joined == [e.payload for e in told if e.name == "follower.left"]


def test_every_event_of_the_table_is_told_in_some_scenario() -> None:
    assert set().union(*SCENARIOS.values()) == set(TABLE)


def table() -> str:
    """The table as the README has it: of each event its name, its payload, and when it is told."""
    lines = ["| event | payload | |", "|---|---|---|"]
    for event in EVENTS:
        payload = ", ".join(f"`{field.name}`" for field in fields(event))
        said = " ".join((event.__doc__ or "").split("\n\n")[0].split()).replace("``", "`")
        lines.append(f"| `{event.name}` | {payload} | {said} |")
    return "\n".join(lines)


def test_the_readme_has_the_table() -> None:
    readme = (REPOSITORY / "README.md").read_text("utf-8")
    assert table() in readme, f"the README's table of events should be:\n{table()}"


def test_names_are_unique_and_payloads_fit_beside_what_loggers_call_theirs() -> None:
    assert len(TABLE) == len(EVENTS)
    for event in EVENTS:
        names = {field.name for field in fields(event)}
        assert names
        assert not names & RESERVED
        assert event.__doc__
        assert not event.__doc__.startswith(event.__name__), "a generated docstring"


async def test_a_turn_is_told_in_its_order(
    database_url: str, opencode: ScriptedServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[Event] = []
    await a_plain_turn(Stage(database_url, opencode, tmp_path, monkeypatch, told.append))
    order = [
        "turn.posted",
        "lease.claimed",
        "turn.started",
        "session.created",
        "stream.connected",
        "prompt.accepted",
        "turn.first_token",
        "turn.finished",
    ]
    assert [event.name for event in told if event.name in order] == order
    (finished,) = [event for event in told if isinstance(event, TurnFinished)]
    assert (finished.status, finished.finish, finished.error) == ("completed", "stop", None)
    assert finished.model == "scripted/scripted"
    assert finished.input_tokens > 0
    assert finished.output_tokens > 0
    assert 0 < finished.ran < 30
    assert 0 < finished.seconds < 30


async def test_a_turn_that_is_taken_over_has_two_starts_of_one_message(
    database_url: str, opencode: ScriptedServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[Event] = []
    stage = Stage(database_url, opencode, tmp_path, monkeypatch, told.append)
    await one_that_is_given_up_and_recovered(stage)
    started = [event for event in told if isinstance(event, TurnStarted)]
    assert [event.epoch for event in started] == [1, 2]
    assert len({event.message_id for event in started}) == 1


async def test_an_instrumentation_and_a_tracer_that_fail_are_reported_and_harm_no_turn(
    database_url: str, opencode: ScriptedServer
) -> None:
    def failing(event: Event) -> None:
        raise RuntimeError(f"cannot count {event.name}")

    class Failing:
        """Fails at every call, or later: at the beginning, in the middle, at the end."""

        def span(self, name: str, attributes: Any, *, parent: Any = None) -> Any:
            if name == "finalize":
                raise RuntimeError("span")
            return Block(name)

        def inject(self) -> Any:
            raise RuntimeError("inject")

    class Block:
        def __init__(self, name: str) -> None:
            self.name = name

        def __enter__(self) -> Any:
            if self.name == "session":
                raise RuntimeError("enter")
            return self

        def set(self, attributes: Any) -> None:
            raise RuntimeError("set")

        def __exit__(self, *error: object) -> bool:
            if self.name == "tool":
                raise RuntimeError("exit")
            return True  # says that it dealt with the error

    options: dict[str, Any] = {"instrumentation": failing, "tracer": Failing(), "dispatch": nowhere}
    async with host(database_url, opencode, **options) as app:
        row, changes = await run(app, await app.conversation(), "SCRIPT:bash")
        lost = await app.agent.turns.start(await app.conversation(), "SCRIPT:hang Half.")
        running = asyncio.create_task(app.agent.turns.run(lost.id))
        while not (await app.row(lost.id)).content:  # noqa: ASYNC110
            await asyncio.sleep(0)
        await app.lose_worker(lost.id, 600)
        with pytest.raises(LeaseLost):
            await running
    assert (row.status, changes[-1].event) == ("completed", "finished")
    reported = {str(error) for error in app.reports.errors}
    assert {"span", "inject", "enter", "set", "exit"} < reported
    assert {"cannot count turn.started", "cannot count follower.left"} < reported


def test_by_default_events_are_records_at_debug(caplog: pytest.LogCaptureFixture) -> None:
    event = TurnStarted(message_id="m", conversation_id="c", epoch=1)
    with caplog.at_level(logging.INFO, "opencode_async"):
        log_event(event)
    assert caplog.records == []
    with caplog.at_level(logging.DEBUG, "opencode_async"):
        log_event(event)
    (record,) = caplog.records
    assert record.getMessage() == "turn.started message_id=m conversation_id=c epoch=1"


def test_what_ends_a_process_is_not_held_back() -> None:
    def interrupted(event: Event) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        harmless(interrupted, Reports())(TurnStarted(message_id="m", conversation_id="c", epoch=1))


async def test_without_any_adapter_a_turn_says_nothing(
    database_url: str, opencode: ScriptedServer, caplog: pytest.LogCaptureFixture
) -> None:
    async with host(database_url, opencode, dispatch=nowhere) as app:
        await run(app, await app.conversation(), PLAIN)
    assert [r for r in caplog.records if r.name.startswith("opencode_async")] == []
