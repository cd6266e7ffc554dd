"""A reply and what REST says: what is unknown, what is the truth, what followers are told."""

from __future__ import annotations

from opencode_async.protocol.changes import (
    PartAdded,
    PartDelta,
    PartUpdated,
    TodosChanged,
    UsageChanged,
)
from opencode_async.protocol.exchange import Exchange
from opencode_async.protocol.messages import Usage
from opencode_async.protocol.parts import TextPart, ToolPart
from tests.protocol.replies import T1, T2, answering, apply, contents, new_reply
from tests.protocol.wire_events import (
    PROMPT,
    answer_info,
    answered,
    delta,
    idle,
    part,
    prompted,
    raw_part,
    raw_text,
    raw_tool,
    replayed,
    status,
    step_start,
    stored,
    stored_prompt,
    text,
)

ONE, TWO, THREE = TextPart(T1, "One."), TextPart(T2, "Two."), TextPart("prt_3", "Three.")


def test_what_rest_knows_beyond_the_stream_is_added() -> None:
    reply = answering(text(T1), delta("On", T1))
    changes = reply.reconcile((ONE, TWO), final=False)
    assert changes == [PartDelta(0, "e."), PartAdded(1, TWO)]
    assert reply.result() == (ONE, TWO)


def test_reconciling_twice_tells_nothing_new() -> None:
    for final in (False, True):
        reply = answering()
        assert reply.reconcile((ONE, TWO), final=final) == [PartAdded(0, ONE), PartAdded(1, TWO)]
        assert reply.reconcile((ONE, TWO), final=final) == []


def test_the_last_text_in_rest_is_unknown_while_it_is_empty() -> None:
    reply = answering(text(T1), delta("Hel", T1))
    assert reply.reconcile((TextPart(T1, ""),), final=False) == []
    assert apply(reply, delta("lo", T1)) == [PartDelta(0, "lo")]
    assert contents(reply) == ["Hello"]
    assert apply(reply, step_start()) == [PartUpdated(0, TextPart(T1, ""))]


def test_the_last_text_is_unknown_also_when_a_tool_call_stands_behind_it() -> None:
    """A tool call may start before the text before it has ended."""
    reply = answering(text(T1), delta("Calling.", T1))
    tool = ToolPart(T2, "bash", "call_1", "running", {})
    assert reply.reconcile((TextPart(T1, ""), tool), final=False) == [PartAdded(1, tool)]
    assert reply.result() == (TextPart(T1, "Calling."), tool)


def test_an_empty_text_with_another_behind_it_is_the_truth() -> None:
    """The provider was asked again while the stream was down."""
    reply = answering(text(T1), delta("These words", T1))
    parts = (TextPart(T1, ""), TextPart(T2, ""))
    assert reply.reconcile(parts, final=False) == [
        PartUpdated(0, TextPart(T1, "")),
        PartAdded(1, TextPart(T2, "")),
    ]


def test_a_part_whose_beginning_the_stream_did_not_bring_stands_still_until_its_end() -> None:
    reply = answering()
    reply.reconcile((TextPart(T1, ""),), final=False)
    assert apply(reply, delta(" Hi", T1)) == []
    end = text(T1, "Oh. Hi", ended=True)
    assert apply(reply, end) == [PartUpdated(0, TextPart(T1, "Oh. Hi"))]


def test_a_part_that_rest_knew_first_goes_on_with_deltas_from_its_beginning() -> None:
    reply = answering()
    reply.reconcile((TextPart(T1, ""),), final=False)
    assert apply(reply, text(T1), delta("Hi", T1)) == [PartDelta(0, "Hi")]


def test_a_text_with_a_gap_in_it_stands_still_until_its_end() -> None:
    reply = answering(text(T1), delta("One", T1))
    reply.tear()
    assert apply(reply, delta(" three", T1)) == []
    assert apply(reply, text(T1, "One two three", ended=True)) == [PartDelta(0, " two three")]
    assert apply(reply, text(T2), delta("Two", T2)) != []


def test_events_from_before_what_rest_told_close_nothing() -> None:
    """A gap at the very start: the look at REST overtakes the events of the answer's beginning."""
    reply = new_reply(*prompted())
    answer = stored(answer_info(), raw_part("step-start", "prt_step"), raw_text(T1))
    reply.catch_up(Exchange.read(PROMPT, [stored_prompt(), answer]))
    late = (status(), answered(), step_start(), text(T1))
    assert apply(reply, *late, delta("Hi", T1)) == [PartDelta(0, "Hi")]


def test_a_tool_that_rest_knew_first_goes_on_behind_late_events() -> None:
    reply = answering()
    reply.reconcile((ToolPart(T1, "bash", "call_1", "running", {}),), final=False)
    further = raw_tool(T1, "running", metadata={"output": "half"})
    (update,) = apply(reply, step_start(), part(further))
    assert isinstance(update, PartUpdated)


def test_a_rest_that_lags_behind_the_stream_takes_nothing_away() -> None:
    reply = answering(text(T1, "One.", ended=True), text(T2), delta("Tw", T2))
    for lagging in ((), (ONE,), (TextPart(T1, ""),)):
        assert reply.reconcile(lagging, final=False) == []
        assert contents(reply) == ["One.", "Tw"]
    assert apply(reply, delta("o.", T2)) == [PartDelta(1, "o.")]


def test_a_part_missing_in_the_middle_needs_a_snapshot() -> None:
    reply = answering(text(T1, "One.", ended=True), text("prt_3"), delta("Thr", "prt_3"))
    lagging = TextPart("prt_3", "")
    assert reply.reconcile((ONE, TWO, lagging), final=False) is None
    assert reply.result() == (ONE, TWO, TextPart("prt_3", "Thr"))
    assert apply(reply, delta("ee.", "prt_3")) == [PartDelta(2, "ee.")]
    assert reply.reconcile((ONE, TWO, THREE), final=True) == []


def test_a_snapshot_keeps_no_text_of_a_failed_attempt() -> None:
    reply = answering(text(T1), delta("Dead", T1), text("prt_3"), delta("Thr", "prt_3"))
    parts = (TextPart(T1, ""), TWO, TextPart("prt_3", ""))
    assert reply.reconcile(parts, final=False) is None
    assert contents(reply) == ["", "Two.", "Thr"]


def test_in_the_end_rest_is_the_truth_for_every_text() -> None:
    reply = answering(text(T1), delta("Dead", T1), text(T2), delta("Tw", T2))
    assert reply.reconcile((TextPart(T1, ""), TextPart(T2, "")), final=True) == [
        PartUpdated(0, TextPart(T1, "")),
        PartUpdated(1, TextPart(T2, "")),
    ]
    assert contents(reply) == ["", ""]


def test_in_the_end_a_part_that_rest_lacks_is_gone() -> None:
    reply = answering(text(T1, "One.", ended=True), text(T2, "Two.", ended=True))
    assert reply.reconcile((ONE,), final=True) is None
    assert reply.result() == (ONE,)


def test_a_takeover_goes_on_behind_the_stored_parts() -> None:
    stored = (ONE, TextPart(T2, "Tw"))
    reply = new_reply(parts=stored)
    assert reply.result() == stored
    assert reply.reconcile((ONE, TextPart(T2, "")), final=False) == []
    reply.accept()
    assert apply(reply, delta("?", T2)) == []
    assert contents(reply) == ["One.", "Tw"]
    changes = apply(reply, text(T2, "Two.", ended=True), answered(completed=True), idle())
    assert replayed(changes, stored) == reply.result() == (ONE, TWO)
    assert reply.settled


def test_a_takeover_withdraws_what_a_dead_attempt_left() -> None:
    reply = new_reply(parts=(TextPart(T1, "Dead"),))
    reply.reconcile((TextPart(T1, ""),), final=False)
    reply.accept()
    assert apply(reply, answered("msg_2")) == [PartUpdated(0, TextPart(T1, ""))]


def test_what_rest_says_was_spent_and_planned_is_told() -> None:
    reply = answering()
    todos = [{"content": "first", "status": "pending"}]
    planned = raw_tool(T1, "completed", tool="todowrite", input={"todos": todos})
    spent = answer_info(completed=True, cost=0.5, tokens={"input": 7, "output": 2})
    exchange = Exchange.read(PROMPT, [stored_prompt(), stored(spent, planned)])
    changes = reply.catch_up(exchange)
    assert changes is not None
    _, todos_changed, usage_changed = changes
    assert isinstance(todos_changed, TodosChanged)
    assert [todo.content for todo in reply.todos] == ["first"]
    assert usage_changed == UsageChanged(Usage(0.5, 7, 2))
    assert reply.catch_up(exchange) == []


def test_a_late_update_takes_nothing_back_of_an_answer_that_rest_completed() -> None:
    reply = answering()
    done = answer_info(completed=True, finish="stop", cost=0.5)
    reply.catch_up(Exchange.read(PROMPT, [stored_prompt(), stored(done)]))
    assert apply(reply, answered()) == []
    assert reply.usage.cost == 0.5
