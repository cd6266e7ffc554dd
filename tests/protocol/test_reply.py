"""The reply as it grows: whose event it is, what followers are told, when the turn seems over."""

from __future__ import annotations

import pytest

from opencode_async.protocol.changes import (
    PartAdded,
    PartDelta,
    PartUpdated,
    Retrying,
    TodosChanged,
    UsageChanged,
)
from opencode_async.protocol.events import Event, event_from_wire
from opencode_async.protocol.messages import UpstreamError, Usage
from opencode_async.protocol.parts import ReasoningPart, TextPart, ToolPart
from opencode_async.protocol.reply import MOST_EARLY
from opencode_async.protocol.todos import Todo
from opencode_async.protocol.wire import loads
from tests.protocol.replies import T1, T2, answering, apply, contents, new_reply
from tests.protocol.wire_events import (
    SESSION,
    answered,
    child,
    compaction,
    delta,
    error,
    idle,
    message,
    parsed,
    part,
    prompted,
    raw_tool,
    replayed,
    status,
    step_start,
    text,
    user_info,
)

# -- acceptance and rest -----------------------------------------------------------------------


def test_an_answer_may_say_that_it_is_the_last_before_it_is_completed() -> None:
    reply = answering(answered(finish="tool-calls"))
    assert not reply.concluded
    apply(reply, answered("msg_2", finish="stop"))
    assert reply.concluded


def test_a_new_reply_is_neither_accepted_nor_settled() -> None:
    reply = new_reply()
    assert (reply.accepted, reply.idle, reply.settled, reply.result()) == (False, False, False, ())


def test_a_prompt_is_accepted_when_its_part_is_there() -> None:
    first, second = prompted()
    reply = new_reply(first)
    assert not reply.accepted
    assert reply.apply(second) == []
    assert reply.accepted


def test_an_idle_of_an_earlier_turn_does_not_settle_ours() -> None:
    reply = new_reply(status("idle"), idle(), *prompted())
    assert (reply.accepted, reply.idle, reply.settled) == (True, False, False)


def test_a_whole_earlier_turn_is_not_ours() -> None:
    earlier = [
        *prompted("msg_before", created=900),
        answered("msg_old", parent="msg_before", completed=True, cost=1.0),
        text(T1, "Old.", ended=True, message="msg_old"),
        delta("More.", T1, message="msg_old"),
        idle(),
    ]
    reply = new_reply()
    assert apply(reply, *earlier) == []
    assert (reply.result(), reply.usage, reply.settled) == ((), Usage(), False)


@pytest.mark.parametrize("end", [idle(), status("idle")])
def test_an_idle_after_a_completed_answer_settles(end: Event) -> None:
    reply = answering(text(T1, "Hi.", ended=True), answered(completed=True))
    assert not reply.settled
    reply.apply(end)
    assert reply.settled


def test_an_idle_before_the_last_update_settles_only_with_it() -> None:
    reply = answering(idle())
    assert (reply.idle, reply.settled) == (True, False)
    reply.apply(answered(completed=True))
    assert reply.settled


def test_a_second_idle_changes_nothing() -> None:
    reply = answering(idle(), answered(completed=True))
    before = reply.result()
    assert apply(reply, status("idle"), idle()) == []
    assert reply.settled
    assert reply.result() == before


def test_an_idle_without_any_answer_settles() -> None:
    """An unknown model is reported after the prompt was stored."""
    assert new_reply(*prompted(), error("UnknownError"), idle()).settled


def test_being_busy_again_unsettles() -> None:
    reply = answering(answered(completed=True), idle())
    reply.apply(status("busy"))
    assert not reply.settled
    assert apply(reply, idle()) == []
    assert reply.settled


def test_a_retry_unsettles() -> None:
    reply = answering(answered(completed=True), idle(), status("retry", attempt=1))
    assert not reply.settled


def test_a_later_answer_that_is_not_completed_unsettles() -> None:
    reply = answering(answered(completed=True), idle(), answered("msg_2"))
    assert not reply.settled


def test_a_prompt_found_by_a_look_up_is_accepted_and_its_answers_are_ours() -> None:
    reply = new_reply()
    reply.accept()
    changes = apply(reply, answered(), text(T1), delta("Hi.", T1), answered(completed=True), idle())
    assert contents(reply) == ["Hi."]
    assert replayed(changes) == reply.result()
    assert reply.settled


# -- whose events ------------------------------------------------------------------------------


def test_events_of_other_sessions_are_ignored() -> None:
    reply = answering(text(T1), delta("Hi.", T1))
    other = "ses_other"
    before = reply.result()
    foreign = [
        *prompted(session=other),
        answered("msg_2", session=other),
        text(T2, "No.", session=other, message="msg_2"),
        text(T1, "No.", session=other),
        delta("No.", T1, session=other),
        status("retry", session=other, attempt=1),
        error("APIError", session=other),
        parsed("todo.updated", sessionID=other, todos=[{"content": "No."}]),
        answered(completed=True, session=other),
        idle(other),
    ]
    assert apply(reply, *foreign) == []
    assert (reply.result(), reply.error, reply.todos) == (before, None, ())
    assert (reply.idle, reply.settled) == (False, False)


def test_a_childs_rest_is_not_ours() -> None:
    reply = answering(child("ses_child"), child("ses_grandchild", "ses_child"))
    apply(reply, child("ses_stranger", "ses_elsewhere"), idle("ses_child"), idle("ses_grandchild"))
    assert not reply.idle


def test_events_that_are_no_sessions_are_ignored() -> None:
    reply = answering()
    assert apply(reply, parsed("server.connected"), parsed("server.heartbeat")) == []


def test_an_answer_to_another_prompt_is_not_ours() -> None:
    reply = answering(*prompted("msg_other", created=2000))
    other = [
        answered("msg_2", parent="msg_other", cost=1.0),
        text(T2, "No.", message="msg_2"),
        delta("No.", T2, message="msg_2"),
    ]
    assert apply(reply, *other) == []
    assert (reply.result(), reply.usage) == ((), Usage())


# -- text --------------------------------------------------------------------------------------


def test_deltas_append_to_their_part() -> None:
    reply = answering()
    changes = apply(reply, text(T1), delta("Hel", T1), delta("", T1), delta("lo", T1))
    assert changes == [PartAdded(0, TextPart(T1, "")), PartDelta(0, "Hel"), PartDelta(0, "lo")]
    assert reply.result() == (TextPart(T1, "Hello"),)
    assert reply.part(0) == TextPart(T1, "Hello")


def test_the_end_of_a_part_whose_text_is_known_tells_nothing() -> None:
    reply = answering(text(T1), delta("Hello", T1))
    assert apply(reply, text(T1, "Hello", ended=True), text(T1, "Hello", ended=True)) == []


def test_a_longer_text_is_told_as_what_is_new() -> None:
    reply = answering(text(T1), delta("Hel", T1))
    assert apply(reply, text(T1, "Hello", ended=True)) == [PartDelta(0, "lo")]
    assert contents(reply) == ["Hello"]


@pytest.mark.parametrize("new", ["Jello", "Hel", ""])
def test_another_text_replaces_what_was_there(new: str) -> None:
    reply = answering(text(T1), delta("Hello", T1))
    assert apply(reply, text(T1, new, ended=True)) == [PartUpdated(0, TextPart(T1, new))]
    assert contents(reply) == [new]


def test_a_repeated_beginning_of_a_part_keeps_its_text() -> None:
    reply = answering(text(T1), delta("Hello", T1))
    assert apply(reply, text(T1, "")) == []
    assert contents(reply) == ["Hello"]


def test_deltas_go_on_after_the_result_was_asked_for() -> None:
    reply = answering(text(T1))
    expected = ""
    for word in ("a ", "b ", "c "):
        expected += word
        apply(reply, delta(word, T1))
        assert contents(reply) == [expected]


def test_reasoning_and_text_grow_side_by_side() -> None:
    reply = answering()
    changes = apply(
        reply,
        text(T1, kind="reasoning"),
        text(T2),
        delta("Hm.", T1),
        delta("Hi.", T2),
        delta("..", T1),
    )
    assert reply.result() == (ReasoningPart(T1, "Hm..."), TextPart(T2, "Hi."))
    assert replayed(changes) == reply.result()


def test_a_character_cut_in_two_by_deltas_is_whole_when_the_part_ends() -> None:
    def sent(type_: str, properties: str) -> Event:
        event = event_from_wire(loads(f'{{"type": "{type_}", "properties": {properties}}}'))
        assert event is not None
        return event

    where = f'"sessionID": "{SESSION}", "messageID": "msg_answer"'
    halves = [
        sent(
            "message.part.delta",
            f'{{{where}, "partID": "{T1}", "field": "text", "delta": "{half}"}}',
        )
        for half in (r"\ud83d", r"\ude00")
    ]
    whole = (
        rf'{{"id": "{T1}", "type": "text", "text": "\ud83d\ude00", "time": {{"end": 1}}, {where}}}'
    )
    reply = answering(text(T1), *halves)
    assert contents(reply) == ["\ufffd\ufffd"]
    ended = sent("message.part.updated", f'{{"part": {whole}}}')
    assert apply(reply, ended) == [PartUpdated(0, TextPart(T1, "\U0001f600"))]


# -- tools, todos, usage, errors ---------------------------------------------------------------


def test_a_tool_call_is_replaced_as_it_goes_on() -> None:
    reply = answering()
    states = [
        raw_tool(T1, "pending", input={}),
        raw_tool(T1, "running"),
        raw_tool(T1, "running"),
        raw_tool(T1, "completed", output="Done."),
    ]
    changes = apply(reply, *map(part, states))
    assert [type(change) for change in changes] == [PartAdded, PartUpdated, PartUpdated]
    (tool,) = reply.result()
    assert isinstance(tool, ToolPart)
    assert (tool.status, tool.output) == ("completed", "Done.")
    assert replayed(changes) == (tool,)


def test_text_for_a_tool_call_is_no_text() -> None:
    reply = answering(part(raw_tool(T1, "running")))
    before = reply.result()
    assert apply(reply, delta("Hello", T1)) == []
    assert reply.result() == before


def test_todos_are_told_when_they_change() -> None:
    event = parsed("todo.updated", sessionID=SESSION, todos=[{"content": "A"}])
    reply = answering()
    todos = (Todo("A", "pending", "medium"),)
    assert apply(reply, event, event) == [TodosChanged(todos)]
    assert reply.todos == todos


def test_usage_is_told_when_it_changes_and_counts_each_answer_once() -> None:
    reply = answering()
    tokens = {"input": 80, "output": 2, "cache": {"read": 20, "write": 0}}
    first = answered(cost=0.25, tokens=tokens, completed=True)
    assert apply(reply, first, first) == [UsageChanged(Usage(0.25, 80, 2, 20, 0))]
    second = answered("msg_2", cost=0.5, tokens=tokens)
    assert apply(reply, second) == [UsageChanged(Usage(0.75, 160, 4, 40, 0))]
    assert reply.usage == Usage(0.75, 160, 4, 40, 0)


def test_the_first_error_is_kept_until_the_session_is_busy_again() -> None:
    reply = answering(error("ContextOverflowError"), error("UnknownError", "Trace."))
    assert reply.error == UpstreamError("ContextOverflowError", "Went wrong.")
    apply(reply, status("busy"))
    assert reply.error is None


def test_an_abort_before_our_prompt_is_an_earlier_turns() -> None:
    reply = new_reply(error("MessageAbortedError"))
    assert reply.error is None
    apply(reply, *prompted(), error("MessageAbortedError"))
    assert reply.error == UpstreamError("MessageAbortedError", "Went wrong.")


def test_a_refusal_is_an_error_without_acceptance() -> None:
    reply = new_reply(error("UnknownError", "Agent not found."), idle())
    assert reply.error == UpstreamError("UnknownError", "Agent not found.")
    assert (reply.accepted, reply.settled) == (False, False)


# -- failed attempts ---------------------------------------------------------------------------

WITHDRAWN = PartUpdated(0, TextPart(T1, ""))


@pytest.mark.parametrize("next_", [step_start(), answered("msg_2")])
def test_what_follows_a_failed_attempt_withdraws_its_text(next_: Event) -> None:
    reply = answering(text(T1), delta("These words", T1))
    assert apply(reply, next_) == [WITHDRAWN]
    assert apply(reply, step_start()) == []
    assert contents(reply) == [""]


def test_a_retry_withdraws_the_text_and_says_when_it_comes() -> None:
    reply = answering(text(T1), delta("These words", T1))
    retry = status("retry", attempt=3, message="Reset.", next=17.0)
    assert apply(reply, retry) == [WITHDRAWN, Retrying(3, "Reset.", 17.0)]
    assert apply(reply, retry) == [Retrying(3, "Reset.", 17.0)]


def test_all_that_was_open_is_withdrawn_in_the_order_of_the_parts() -> None:
    reply = answering(text(T1, kind="reasoning"), text(T2), delta("Hi", T2), delta("Hm", T1))
    assert apply(reply, step_start()) == [
        PartUpdated(0, ReasoningPart(T1, "")),
        PartUpdated(1, TextPart(T2, "")),
    ]


def test_text_that_has_ended_and_tools_are_not_withdrawn() -> None:
    reply = answering(text(T1, "Whole.", ended=True), part(raw_tool(T2, "running")))
    assert apply(reply, step_start(), answered("msg_2")) == []
    assert apply(reply, status("retry", attempt=1)) == [Retrying(1, "", 0)]
    first, second = reply.result()
    assert first == TextPart(T1, "Whole.")
    assert isinstance(second, ToolPart)
    assert second.status == "running"


def test_an_update_of_a_known_answer_withdraws_nothing() -> None:
    reply = answering(text(T1), delta("Hi", T1))
    assert apply(reply, answered(), answered(completed=True)) == []
    assert contents(reply) == ["Hi"]


def test_text_that_was_withdrawn_may_come_back_whole() -> None:
    """An abort while the provider is awaited stores the text of the last attempt after all."""
    reply = answering(text(T1), delta("These", T1), status("retry", attempt=1))
    assert apply(reply, text(T1, "These", ended=True)) == [PartUpdated(0, TextPart(T1, "These"))]
    assert contents(reply) == ["These"]


# -- events out of order -----------------------------------------------------------------------


def test_events_before_their_message_are_kept_for_it() -> None:
    reply = new_reply(*prompted())
    assert apply(reply, text(T1), delta("Hel", T1), delta("lo", T1)) == []
    changes = apply(reply, answered())
    assert changes == [PartAdded(0, TextPart(T1, "")), PartDelta(0, "Hel"), PartDelta(0, "lo")]
    assert apply(reply, answered(completed=True)) == []
    assert contents(reply) == ["Hello"]


def test_events_of_a_message_that_turns_out_to_be_foreign_are_dropped() -> None:
    reply = answering(text(T2, "No.", message="msg_2"), delta("No.", T2, message="msg_2"))
    apply(reply, answered("msg_2", parent="msg_elsewhere"))
    assert apply(reply, answered("msg_2")) == []
    assert reply.result() == ()


def test_only_so_many_events_are_kept_and_a_gap_in_them_is_left_to_rest() -> None:
    reply = new_reply(*prompted())
    apply(reply, text(T1), *[delta("x", T1)] * (MOST_EARLY + 100))
    apply(reply, answered())
    assert contents(reply) == [""]
    assert apply(reply, delta("behind the hole", T1)) == []
    whole = TextPart(T1, "x" * 1100)
    assert apply(reply, text(T1, whole.content, ended=True)) == [PartUpdated(0, whole)]


def test_the_room_for_early_events_is_free_again_when_their_message_came() -> None:
    reply = new_reply(*prompted())
    for n in range(4):
        id_ = f"msg_{n}"
        early = [text(f"prt_{n}", message=id_), *[delta("x", f"prt_{n}", message=id_)] * 400]
        assert apply(reply, *early) == []
        told = apply(reply, answered(id_))
        assert told.count(PartDelta(n, "x")) == 400


def test_nothing_is_kept_before_the_prompt_is_there() -> None:
    reply = new_reply(text(T1), delta("Hi", T1), *prompted())
    assert apply(reply, answered()) == []


def test_a_delta_of_a_part_that_was_missed_is_left_to_rest() -> None:
    reply = answering()
    assert apply(reply, delta("lo", T1)) == []
    assert apply(reply, text(T1, "Hello", ended=True)) == [PartAdded(0, TextPart(T1, "Hello"))]


# -- compaction --------------------------------------------------------------------------------


def compacted(copy: str = "msg_copy", *, at: float = 1200, n: int = 1) -> list[Event]:
    compacting, summary = f"msg_c{n}", f"msg_s{n}"
    return [
        message(user_info(compacting, created=at)),
        compaction(compacting),
        answered(summary, parent=compacting, summary=True),
        text(f"prt_{summary}", message=summary),
        delta("Summary.", f"prt_{summary}", message=summary),
        text(f"prt_{summary}", "Summary.", ended=True, message=summary),
        answered(summary, parent=compacting, summary=True, completed=True, cost=0.5),
        *prompted(copy, created=at + 100),
    ]


def test_the_answer_to_the_copy_of_our_prompt_is_ours() -> None:
    reply = answering(error("ContextOverflowError"), answered(completed=True))
    assert apply(reply, *compacted()) == [UsageChanged(Usage(0.5))]
    assert not reply.settled
    apply(reply, status(), answered("msg_2", parent="msg_copy"), text(T1, message="msg_2"))
    apply(reply, delta("At last.", T1, message="msg_2"))
    assert contents(reply) == ["At last."]
    apply(reply, answered("msg_2", parent="msg_copy", completed=True), idle())
    assert reply.settled
    assert reply.error is None


def test_a_turn_may_be_compacted_twice() -> None:
    reply = answering(*compacted("msg_copy1"), *compacted("msg_copy2", at=1400, n=2))
    apply(reply, answered("msg_2", parent="msg_copy2"), text(T1, "Hi.", message="msg_2"))
    assert contents(reply) == ["Hi."]


def test_a_compaction_told_twice_makes_no_second_copy() -> None:
    reply = answering(*compacted(), compaction("msg_c1"), *prompted("msg_next", created=2000))
    apply(reply, answered("msg_2", parent="msg_next"), text(T1, "No.", message="msg_2"))
    assert reply.result() == ()


def test_a_late_update_of_an_earlier_prompt_is_not_taken_for_the_copy() -> None:
    """An earlier turn's diff is added to its user message after that turn's end."""
    late = message(user_info("msg_before", created=500))
    events = compacted()
    reply = answering(late, *events[:2], message(user_info("msg_still", created=600)), *events[2:])
    apply(reply, answered("msg_2", parent="msg_copy"), text(T1, "Hi.", message="msg_2"))
    assert contents(reply) == ["Hi."]


def test_a_compaction_of_a_later_prompt_is_not_ours() -> None:
    reply = answering(*prompted("msg_next", created=1150), *compacted())
    apply(reply, answered("msg_2", parent="msg_copy"), text(T1, "No.", message="msg_2"))
    assert (reply.result(), reply.usage) == ((), Usage())


def test_a_compaction_before_our_prompt_is_not_ours() -> None:
    reply = new_reply(*prompted("msg_before", created=100), *compacted(at=200), *prompted())
    apply(reply, answered("msg_2", parent="msg_copy"), text(T1, "No.", message="msg_2"))
    assert reply.result() == ()
    apply(reply, answered(), text(T2, "Yes."))
    assert contents(reply) == ["Yes."]
