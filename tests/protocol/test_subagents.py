"""What subagents say: whose call it belongs to, and that it stays apart from the answer's own."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import pytest

from opencode_async.protocol.changes import (
    PartAdded,
    PartDelta,
    PartUpdated,
    Retrying,
    UsageChanged,
)
from opencode_async.protocol.events import Event, event_from_wire
from opencode_async.protocol.exchange import Exchange
from opencode_async.protocol.messages import Usage
from opencode_async.protocol.parts import Part, TextPart, ToolPart
from opencode_async.protocol.reply import Reply, reply_json
from opencode_async.protocol.subagents import Subagent
from tests.protocol.recording import recording
from tests.protocol.replies import T1, answering, apply
from tests.protocol.test_golden import turns_of
from tests.protocol.wire_events import (
    PROMPT,
    SESSION,
    answer_info,
    answered,
    child,
    delta,
    idle,
    part,
    raw_child,
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

CHILD, OTHER, DEEP = "ses_child", "ses_other", "ses_deep"
C1 = "prt_c1"


def raw_call(
    id_: str = "prt_task",
    state: str = "running",
    *,
    description: str = "Look",
    link: str | None = None,
    **more: Any,
) -> dict[str, Any]:
    arguments = {"description": description, "subagent_type": "general"} if state else {}
    if link:
        more["metadata"] = {"sessionId": link}
    return raw_tool(id_, state, tool="task", input=arguments, **more)


def call(*args: Any, **more: Any) -> Event:
    return part(raw_call(*args, **more))


def says(words: str, id_: str = C1, *, session: str = CHILD, message: str = "msg_c") -> list[Event]:
    """A subagent's answer as it begins."""
    return [
        answered(message, parent="msg_cp", session=session),
        text(id_, session=session, message=message),
        delta(words, id_, session=session, message=message),
    ]


def told(parts: Sequence[Part]) -> list[tuple[str, str | None, str | None]]:
    """Each part's id, whose it is, and which subagent it started."""
    return [(p.id, p.subagent, getattr(p, "session_id", None)) for p in parts]


def test_what_a_subagent_says_is_told_behind_the_call_that_names_it() -> None:
    reply = answering(call(link=CHILD), child(CHILD))
    changes = apply(reply, *says("Half"), delta(" of it.", C1, session=CHILD, message="msg_c"))
    assert changes == [
        PartAdded(1, TextPart(C1, "", CHILD)),
        PartDelta(1, "Half"),
        PartDelta(1, " of it."),
    ]
    assert told(reply.result()) == [("prt_task", None, CHILD), (C1, CHILD, None)]


def test_it_is_no_part_of_the_answers_own_text() -> None:
    reply = answering(text(T1, "Mine.", ended=True), call(link=CHILD), child(CHILD), *says("Its."))
    assert reply_json(reply)["content"] == "Mine."
    assert [p.get("subagent") for p in reply_json(reply)["parts"]] == [None, None, CHILD]


def test_the_childs_title_tells_whose_it_is_where_the_call_does_not() -> None:
    """And nothing that comes later takes the link away."""
    reply = answering(call())
    changes = apply(reply, child(CHILD, title="Look (@general subagent)"))
    assert [(type(c), told([c.part])) for c in changes if isinstance(c, PartUpdated)] == [
        (PartUpdated, [("prt_task", None, CHILD)])
    ]
    assert apply(reply, *says("Hi."))
    apply(reply, call(title="Look"), call(state="error", error="Task cancelled"))
    first, second = reply.result()
    assert isinstance(first, ToolPart)
    assert (first.session_id, first.status, first.error) == (CHILD, "error", "Task cancelled")
    assert second == TextPart(C1, "Hi.", CHILD)


def test_what_it_does_before_its_call_is_known_is_told_when_it_is() -> None:
    reply = answering(call(state="pending", description=""))
    cost = answered("msg_c", parent="msg_cp", session=CHILD, cost=0.5)
    assert apply(reply, child(CHILD), *says("Early."), cost) == [UsageChanged(Usage(0.5))]
    changes = apply(reply, call())
    assert replayed(changes[1:], reply.result()[:1]) == reply.result()
    assert told(reply.result()) == [("prt_task", None, CHILD), (C1, CHILD, None)]
    assert reply.result()[1] == TextPart(C1, "Early.", CHILD)


def test_calls_of_one_description_take_their_subagents_in_turn() -> None:
    reply = answering(
        child(CHILD), child(OTHER), call("prt_a"), call("prt_b"), call("prt_c", description="No")
    )
    assert told(reply.result()) == [
        ("prt_a", None, CHILD),
        ("prt_b", None, OTHER),
        ("prt_c", None, None),
    ]


def test_the_call_itself_knows_better_than_a_title() -> None:
    reply = answering(child(CHILD), child(OTHER), call("prt_a"), call("prt_b"))
    apply(reply, call("prt_a", link=OTHER), call("prt_b", link=CHILD))
    assert told(reply.result()) == [("prt_a", None, OTHER), ("prt_b", None, CHILD)]


def test_a_subagents_subagent_stands_behind_its_own_call() -> None:
    deep = raw_call("prt_deep", session=CHILD, message="msg_c")
    reply = answering(call(link=CHILD), child(CHILD), *says("I ask."))
    apply(reply, child(DEEP, CHILD), *says("Deep.", "prt_d", session=DEEP, message="msg_d"))
    apply(reply, part(deep))
    assert told(reply.result()) == [
        ("prt_task", None, CHILD),
        (C1, CHILD, None),
        ("prt_deep", CHILD, DEEP),
        ("prt_d", DEEP, None),
    ]


def test_steps_and_retries_empty_only_what_is_of_their_own_session() -> None:
    reply = answering(text(T1), delta("Mine.", T1), call(link=CHILD), child(CHILD), *says("Its."))
    again = part(raw_part("step-start", "prt_s", message="msg_c", session=CHILD))
    assert apply(reply, again) == [PartUpdated(2, TextPart(C1, "", CHILD))]
    apply(reply, delta("Anew.", C1, session=CHILD, message="msg_c"))
    assert apply(reply, step_start()) == [PartUpdated(0, TextPart(T1, ""))]
    retrying = status("retry", CHILD, attempt=1, message="Busy", next=5)
    assert apply(reply, retrying) == [
        PartUpdated(2, TextPart(C1, "", CHILD)),
        Retrying(1, "Busy", 5),
    ]


def test_its_rest_its_todos_and_its_error_are_not_the_answers() -> None:
    todos = raw_tool(
        "prt_t",
        "completed",
        tool="todowrite",
        input={"todos": [{"content": "Its own"}]},
        session=CHILD,
        message="msg_c",
    )
    reply = answering(call(link=CHILD), child(CHILD), *says("Its."), part(todos), idle(CHILD))
    assert (reply.idle, reply.todos, reply.error, reply.steps) == (False, (), None, 1)


def test_a_takeover_goes_on_with_the_stored_parts() -> None:
    before = answering(call(link=CHILD), child(CHILD), *says("Half"))
    after = Reply(SESSION, PROMPT, before.result())
    after.accept()
    whole = exchange(
        [raw_call(link=CHILD)], {CHILD: [answer_of(CHILD, raw_text(C1, "", session=CHILD))]}
    )
    assert after.catch_up(whole) == []
    end = text(C1, "Half of it.", ended=True, session=CHILD, message=f"msg_{CHILD}")
    assert apply(after, end) == [PartDelta(1, " of it.")]


def test_a_subagent_that_rest_has_otherwise_needs_a_snapshot() -> None:
    reply = answering(call(link=CHILD), child(CHILD), *says("Gone."))
    truth = exchange(
        [raw_call(link=CHILD)], {CHILD: [answer_of(CHILD, raw_text("prt_c2", "There."))]}
    )
    assert reply.reconcile(truth.parts, final=True) is None
    assert reply.result() == truth.parts


def test_a_part_that_turns_out_to_be_a_subagents_is_told_whole() -> None:
    reply = answering(call(link=CHILD), child(CHILD), text(C1, "Half"), *says("")[:1])
    moved = text(C1, "Half of it.", ended=True, session=CHILD, message="msg_c")
    assert apply(reply, moved) == [PartUpdated(1, TextPart(C1, "Half of it.", CHILD))]


@pytest.mark.parametrize("final", [True, False])
def test_what_was_held_of_a_subagent_is_not_told_out_of_rests_order(final: bool) -> None:
    """The stream lost its beginning and nobody noticed: of REST's parts it holds the second."""
    held = says("Two.", "prt_c2")
    reply = answering(call(state="pending", description=""), child(CHILD), *held)
    first, second = (raw_text(id_, "Said.", session=CHILD) for id_ in (C1, "prt_c2"))
    truth = exchange([raw_call(link=CHILD)], {CHILD: [answer_of(CHILD, first, second)]})
    state = reply.result()
    changes = reply.reconcile(truth.parts, final=final)
    assert changes is not None
    assert reply.result() == replayed(changes, state) == truth.parts


def test_what_was_held_of_a_subagent_that_rest_does_not_know_is_not_told_in_the_end() -> None:
    reply = answering(call(state="pending", description=""), child(CHILD), *says("Held."))
    truth = exchange([raw_call()], {})
    assert reply.reconcile(truth.parts, final=True) is not None
    assert told(reply.result()) == [("prt_task", None, CHILD)]


# -- the same from REST ------------------------------------------------------------------------


def answer_of(session: str, *parts: dict[str, Any]) -> Any:
    return stored(answer_info(f"msg_{session}", parent="msg_x", session=session), *parts)


def exchange(
    calls: Sequence[dict[str, Any]], theirs: dict[str, Any], *children: dict[str, Any]
) -> Exchange:
    return Exchange.read(
        PROMPT,
        [stored_prompt(), stored(answer_info(), *calls)],
        [Subagent.from_wire(raw) for raw in children],
        theirs,
    )


def test_rest_has_a_subagents_parts_behind_its_call_at_any_depth() -> None:
    turn = exchange(
        [raw_call(link=CHILD), raw_text(T1, "Mine.")],
        {
            CHILD: [answer_of(CHILD, raw_text(C1, "Its."), raw_call("prt_deep", link=DEEP))],
            DEEP: [answer_of(DEEP, raw_text("prt_d", "Deep."))],
            OTHER: [answer_of(OTHER, raw_text("prt_o", "Nobody's."))],
        },
    )
    assert told(turn.parts) == [
        ("prt_task", None, CHILD),
        (C1, CHILD, None),
        ("prt_deep", CHILD, DEEP),
        ("prt_d", DEEP, None),
        (T1, None, None),
    ]
    assert turn.children == (CHILD, DEEP)
    assert len(turn.ledger) == 4  # what nobody's subagent cost was paid for all the same


def test_a_call_that_lost_its_subagent_finds_it_by_its_title() -> None:
    lost = raw_call("prt_a", "error", error="Task cancelled")
    turn = exchange(
        [lost, raw_call("prt_b", link=CHILD), raw_call("prt_c")],
        {OTHER: [answer_of(OTHER, raw_text(C1, "Its."))]},
        raw_child(CHILD),
        raw_child("ses_stranger", parent="ses_elsewhere"),
        raw_child("ses_unlike", title="Another (@general subagent)"),
        raw_child(OTHER),
    )
    assert told(turn.parts) == [
        ("prt_a", None, OTHER),
        (C1, OTHER, None),
        ("prt_b", None, CHILD),
        ("prt_c", None, None),
    ]


def test_a_call_that_still_runs_in_a_subagent_is_interrupted_too() -> None:
    running = raw_tool("prt_bash", "running")
    turn = exchange([raw_call(link=CHILD)], {CHILD: [answer_of(CHILD, running)]})
    assert [getattr(p, "error", None) for p in turn.final_parts] == ["interrupted"] * 2


# -- the recordings, as if OpenCode had lost the link -------------------------------------------


@pytest.mark.parametrize("also", [(), ("completed",)])
@pytest.mark.parametrize(("name", "n"), [("subagent_task", 0), ("auth_and_escape", 0)])
def test_the_parts_are_the_same_where_calls_do_not_name_their_subagents(
    name: str, n: int, also: tuple[str, ...]
) -> None:
    turn = turns_of(name)[n]
    reply = Reply(turn.session_id, turn.prompt_id)
    dropped = 0
    for frame in recording(name).frames():
        frame = deepcopy(frame)
        state = frame["properties"].get("part", {}).get("state", {})
        if state.get("status") in ("running", "error", *also) and "metadata" in state:
            dropped += state["metadata"].pop("sessionId", None) is not None
        if (event := event_from_wire(frame)) is not None:
            reply.apply(event)
    assert dropped
    assert [p.subagent for p in reply.result()].count(None) < len(reply.result())
    assert [without_metadata(p) for p in reply.result()] == [
        without_metadata(p) for p in turn.exchange.parts
    ]


def without_metadata(part: Part) -> dict[str, Any]:
    return {key: value for key, value in part.to_json().items() if key != "metadata"}
