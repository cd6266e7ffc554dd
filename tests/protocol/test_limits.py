"""When a turn has gone on for too long or cost too much."""

from __future__ import annotations

import math
from dataclasses import fields, replace

import pytest

from opencode_async.protocol.asks import Permission, Question
from opencode_async.protocol.events import AskAnswered
from opencode_async.protocol.exchange import Outcome
from opencode_async.protocol.limits import BUDGET, EXCEEDED, Limits, Watchdog, stopped
from opencode_async.protocol.messages import Usage
from tests.protocol.wire_events import SESSION, answer_info, delta, message

NONE = Limits(first_event=None, silence=None)


def watchdog(now: float = 100.0, *, elapsed: float = 0.0, **limits: float) -> Watchdog:
    return Watchdog(replace(NONE, **limits), now, elapsed=elapsed)  # type: ignore[arg-type]


def test_without_limits_nothing_is_ever_exceeded() -> None:
    dog = watchdog()
    dog.answered(Usage(1e9, 10**12, 10**12), 10**6, begun=False)
    assert (dog.exceeded(1e12), dog.due()) == (None, math.inf)


def test_an_answer_that_does_not_begin_is_too_late() -> None:
    dog = watchdog(first_event=5)
    dog.take(delta("prt_1", "x"), 103.0)
    assert dog.due() == 105
    assert (dog.exceeded(104.9), dog.exceeded(105)) == (None, "limit_first_event")


def test_an_answer_that_has_begun_is_not() -> None:
    dog = watchdog(first_event=5)
    dog.answered(Usage(), 1, begun=True)
    assert (dog.exceeded(1000), dog.due()) == (None, math.inf)


def test_silence_is_counted_from_the_last_sign_of_life_of_a_subagent_too() -> None:
    dog = watchdog(silence=10)
    dog.take(message(answer_info("msg_child", session="ses_child")), 107)
    assert (dog.exceeded(116.9), dog.exceeded(117)) == (None, "limit_silence")


def test_the_total_counts_what_earlier_workers_took() -> None:
    dog = watchdog(total=60, elapsed=45)
    dog.take(delta("prt_1", "x"), 114)
    assert dog.due() == 115
    assert dog.exceeded(115) == "limit_total"


def test_what_was_asked_long_ago_may_yet_begin_where_a_worker_takes_it_over() -> None:
    dog = watchdog(first_event=5, elapsed=36_000)
    assert (dog.exceeded(104.9), dog.due()) == (None, 105)


def test_time_stands_still_while_the_agent_waits_for_a_person() -> None:
    dog = watchdog(first_event=5, silence=10, total=20)
    dog.take(Permission(SESSION, "per_1", "bash"), 102)
    dog.take(Question("ses_child", "que_1"), 103)
    assert (dog.exceeded(1e6), dog.due()) == (None, math.inf)
    dog.take(AskAnswered(SESSION, "per_1", {}), 1000)
    assert dog.exceeded(1e6) is None
    dog.take(AskAnswered("ses_child", "que_1", {}), 1002)
    assert dog.due() == 1005  # 900 s did not count
    dog.answered(Usage(), 1, begun=True)
    assert (dog.exceeded(1011.9), dog.exceeded(1012)) == (None, "limit_silence")


def test_an_ask_whose_answer_was_missed_does_not_stop_the_clock_for_ever() -> None:
    dog = watchdog(silence=10)
    dog.take(Permission(SESSION, "per_1", "bash"), 102)
    dog.open_asks(set(), 200)
    assert (dog.exceeded(209.9), dog.exceeded(210)) == (None, "limit_silence")


def test_an_answer_to_an_ask_that_was_never_heard_of_changes_nothing() -> None:
    dog = watchdog(silence=10)
    dog.take(AskAnswered(SESSION, "per_1", {}), 101)
    assert dog.due() == 111


def test_what_costs_more_than_it_may_is_out_of_its_budget() -> None:
    dog = watchdog(cost=1.0)
    dog.answered(Usage(cost=1.0), 1, begun=True)
    assert dog.exceeded(101) is None
    dog.answered(Usage(cost=1.001), 2, begun=True)
    assert dog.exceeded(102) == BUDGET


def test_tokens_are_those_in_and_out_without_the_cached_ones() -> None:
    dog = watchdog(tokens=100)
    dog.answered(Usage(0.0, 60, 40, 1000, 1000), 1, begun=True)
    assert dog.exceeded(101) is None
    dog.answered(Usage(0.0, 60, 41), 1, begun=True)
    assert dog.exceeded(101) == "limit_tokens"


@pytest.mark.parametrize(
    ("own", "left", "most"),
    [
        (None, 0.5, 0.5),
        (0.2, 0.5, 0.2),
        (0.7, 0.5, 0.5),
        (0.7, -0.1, -0.1),
        (0.7, math.inf, 0.7),
        (None, math.inf, math.inf),
    ],
)
def test_a_turn_may_cost_what_is_left_of_a_shared_budget_and_no_more_than_itself_may(
    own: float | None, left: float, most: float
) -> None:
    assert Limits(cost=own, steps=3).within(left) == Limits(cost=most, steps=3)


def test_steps_are_calls_of_the_model() -> None:
    dog = watchdog(steps=3)
    dog.answered(Usage(), 3, begun=True)
    assert dog.exceeded(101) is None
    dog.answered(Usage(), 4, begun=True)
    assert dog.exceeded(101) == "limit_steps"


def test_limits_are_stored_and_read_by_other_versions_too() -> None:
    limits = Limits(cost=0.5, steps=7)
    assert Limits.from_json(limits.to_json()) == limits
    assert Limits.from_json({"cost": 0.5, "steps": 7, "of_tomorrow": 1}) == limits


def test_every_limit_has_a_code_and_words_of_its_own() -> None:
    names = {field.name for field in fields(Limits)} - {"cost"}
    assert set(EXCEEDED) == {BUDGET} | {f"limit_{name}" for name in names}
    assert len(set(EXCEEDED.values())) == len(EXCEEDED)


@pytest.mark.parametrize("code", EXCEEDED)
def test_a_limit_is_an_error(code: str) -> None:
    outcome = stopped(code)
    assert outcome.error is not None
    assert (outcome.status, outcome.error.code) == ("error", code)


@pytest.mark.parametrize("reason", ["cancelled", "interrupted"])
def test_what_people_stop_is_none(reason: str) -> None:
    assert stopped(reason) == Outcome("cancelled", reason)
