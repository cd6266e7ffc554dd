"""Every recording of the real server, replayed: what was streamed is what REST says."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache

import pytest

from opencode_async.protocol.changes import PartAdded, PartDelta, PartUpdated, ReplyChange
from opencode_async.protocol.events import Event, SessionCreated, event_from_wire
from opencode_async.protocol.exchange import Exchange
from opencode_async.protocol.ledger import Charge
from opencode_async.protocol.messages import WireMessage
from opencode_async.protocol.parts import Part, TextPart, ToolPart
from opencode_async.protocol.reply import Reply
from opencode_async.protocol.subagents import child_of
from opencode_async.protocol.todos import todos_from_wire, todos_of
from tests.protocol.recording import NAMES, Store, recording
from tests.protocol.wire_events import replayed

# How each turn ended: status, finish, error code. Sessions stand in the order of their first
# message, the prompts of a session in their order.
Row = tuple[str, str | None, str | None]
STOP: Row = ("completed", "stop", None)
REJECTED: Row = ("completed", "rejected", None)
ABORTED: Row = ("cancelled", "aborted", None)
INTERRUPTED: Row = ("error", None, "interrupted")
NO_ANSWER: Row = ("error", None, "no_answer")
PROVIDER_ERROR: Row = ("error", None, "provider_error")
AGENT_ERROR: Row = ("error", None, "agent_error")

OUTCOMES: dict[str, list[Row]] = {
    "abort_bash": [ABORTED],
    "abort_text": [ABORTED, STOP],
    # The last two are a subagent's session and one of another conversation.
    "auth_and_escape": [STOP] * 7,
    # An empty prompt; one with an unknown key; one with an unknown model.
    "bad_requests": [STOP, STOP, AGENT_ERROR],
    "busy_sync_message": [STOP, STOP],
    # The second prompt waited behind the first; the abort took both.
    "busy_then_abort": [ABORTED, ABORTED],
    # The second prompt was merged into the third.
    "busy_three_prompts": [STOP, NO_ANSWER, STOP],
    "context_overflow": [STOP, STOP, STOP],
    "context_overflow_first": [STOP],
    "delete_mid_turn": [],
    "finish_length_contentfilter_empty": [
        ("completed", "length", None),
        ("error", "content_filter", "content_filter"),
        STOP,
    ],
    "generated_title": [STOP],
    "git_workspace_diff": [STOP],
    # Two prompts, then six that asked for no reply.
    "message_id": [STOP, STOP, *[NO_ANSWER] * 6],
    # The second is the first one's id in another session, which OpenCode cannot find there.
    "message_id_concurrent": [STOP, AGENT_ERROR, STOP, STOP],
    "permission_always": [STOP, STOP],
    "permission_always_scope_and_restart": [STOP, STOP, INTERRUPTED],
    "permission_once": [STOP],
    "permission_reject": [REJECTED, STOP],
    "prompt_parts": [STOP] * 10,
    "provider_error_400": [PROVIDER_ERROR],
    "provider_error_401": [PROVIDER_ERROR],
    "provider_error_429_then_ok": [STOP],
    "provider_error_500_then_ok": [STOP],
    "provider_stream_cut_then_abort": [ABORTED],
    "provider_stream_error": [INTERRUPTED],
    "question_reply_and_reject": [STOP, REJECTED],
    "server_killed_and_restarted": [STOP] * 5,
    "sse_dropped_and_reopened": [STOP],
    # Of five sessions with a `format`, each but the last went on with a plain prompt.
    "structured_output": [
        *[STOP] * 4,
        ("error", None, "structured_output"),
        *[STOP] * 4,
    ],
    "subagent_task": [STOP, STOP],
    "text_and_reasoning": [STOP, STOP],
    "tool_apply_patch": [STOP],
    "tool_bad_arguments": [STOP, STOP],
    "tool_edit": [STOP],
    "tool_todowrite": [STOP],
    "tool_write": [STOP],
    "tools_field_replaces_permission": [NO_ANSWER, STOP],
}

# Turns that the events do not show coming to rest, and why.
UNSETTLED = {
    ("bad_requests", 0): "a prompt without parts, which is never accepted",
    **{("message_id", n): "no reply was asked for, so nothing ran" for n in range(2, 8)},
    ("permission_always_scope_and_restart", 2): "the recording ends with the abort",
    ("provider_stream_error", 0): "the recording ends while the provider is asked again",
    ("structured_output", 8): "the prompt's awaited answer came before its events, and was the end",
    ("tools_field_replaces_permission", 0): "the recording begins at the end of this turn",
}
# Turns of which the events do not tell everything that REST said.
UNTOLD = {("structured_output", 8)}
# Turns that went on after they had come to rest.
RESUMED = {("message_id", 0): "its prompt was posted again after a newer one"}
# Answers that hold what no event told.
UNHEARD = {("server_killed_and_restarted", 88): "the server was killed before it sent the event"}

CASES = [(name, n) for name, rows in OUTCOMES.items() for n in range(len(rows))]
each_turn = pytest.mark.parametrize(("name", "n"), CASES)
each_recording = pytest.mark.parametrize("name", NAMES)


@dataclass(frozen=True)
class Turn:
    """One prompt of a recording and what the server held of it in the end."""

    session_id: str
    prompt_id: str
    exchange: Exchange


@cache
def turns_of(name: str) -> list[Turn]:
    """The turns of a recording; what compaction puts in a prompt's place is none of its own."""
    truth = recording(name).truth()
    return [
        Turn(session_id, prompt.info.id, exchange(name, session_id, prompt.info.id, truth))
        for session_id, messages in truth.items()
        for prompt in prompts(messages)
    ]


def exchange(
    name: str, session_id: str, prompt_id: str, held: Mapping[str, list[WireMessage]]
) -> Exchange:
    """The turn of a prompt among the messages that a server held, its subagents' included."""
    turn = Exchange.read(prompt_id, held.get(session_id, []))
    if not turn.delegates:
        return turn
    created = [e.subagent for e in recording(name).events() if isinstance(e, SessionCreated)]
    began = turn.answers[0].info.created
    children = [child for child in created if child and child.created >= began]
    theirs = {
        child.session_id: [m for m in held[child.session_id] if m.info.role == "assistant"]
        for child in children
        if child.session_id in held
    }
    return Exchange.read(prompt_id, held[session_id], children, theirs)


def by_session(parts: Iterable[Part]) -> dict[str | None, list[Part]]:
    """The parts of each session in their order: a gap may change the order between sessions."""
    found: dict[str | None, list[Part]] = {}
    for part in parts:
        found.setdefault(part.subagent, []).append(part)
    return found


def prompts(messages: list[WireMessage]) -> Iterator[WireMessage]:
    after_compaction = False
    for message in messages:
        if message.info.role == "user":
            if not message.compaction and not after_compaction:
                yield message
            after_compaction = message.compaction


def applied(reply: Reply, events: list[Event]) -> list[ReplyChange]:
    return [change for event in events for change in reply.apply(event)]


def own_charges(session_id: str, ledger: Iterable[Charge]) -> list[Charge]:
    """Those of the session itself: what its other turns' subagents cost is in the events, too."""
    return [charge for charge in ledger if charge.session_id == session_id]


def is_charged(reply: Reply, exchange: Exchange) -> bool:
    told, truth = (own_charges(reply.session_id, one.ledger) for one in (reply, exchange))
    return told == truth and {*exchange.ledger} <= {*reply.ledger}


def test_every_recording_is_classified() -> None:
    assert sorted(OUTCOMES) == NAMES
    assert {name: len(turns_of(name)) for name in NAMES} == {
        name: len(rows) for name, rows in OUTCOMES.items()
    }


@each_recording
def test_the_events_of_a_recording_tell_what_rest_answers(name: str) -> None:
    """This is what lets a recording in which REST was not asked be compared at all."""
    for answer in recording(name).answers():
        if answer.awaited or (name, answer.row) in UNHEARD:
            continue
        store = Store()
        for frame in recording(name).frames(answer.row):
            store.apply(frame)
        said = [WireMessage.from_wire(raw) for raw in answer.messages]
        ids = {message.info.id for message in said}
        held = store.messages(answer.session_id)
        assert said == (held if answer.complete else [m for m in held if m.info.id in ids])


@each_turn
def test_the_reply_built_from_events_is_what_rest_holds(name: str, n: int) -> None:
    turn = turns_of(name)[n]
    reply = Reply(turn.session_id, turn.prompt_id)
    changes = applied(reply, list(recording(name).events()))
    assert replayed(changes) == reply.result()
    assert reply.settled is ((name, n) not in UNSETTLED)
    assert (reply.result() == turn.exchange.parts) is ((name, n) not in UNTOLD)
    assert is_charged(reply, turn.exchange) is ((name, n) not in UNTOLD)


@each_turn
def test_what_subagents_cost_is_what_rest_says_of_each_of_their_answers(name: str, n: int) -> None:
    turn = turns_of(name)[n]
    reply = Reply(turn.session_id, turn.prompt_id)
    applied(reply, list(recording(name).events()))
    started = [e.subagent for e in recording(name).events() if isinstance(e, SessionCreated)]
    children = [s.session_id for s in started if s and s.parent_id == turn.session_id]
    theirs = [m.info for c in children for m in recording(name).truth().get(c, [])]
    expected = {Charge.of(info) for info in theirs if info.role == "assistant"}
    assert {c for c in reply.ledger if c.session_id != turn.session_id} == expected
    assert {c.model for c in reply.ledger} <= {"scripted/scripted", "scripted/gpt-5-scripted"}


@each_turn
def test_after_the_final_reconciliation_nothing_differs(name: str, n: int) -> None:
    turn = turns_of(name)[n]
    reply = Reply(turn.session_id, turn.prompt_id)
    changes = applied(reply, list(recording(name).events()))
    last = reply.reconcile(turn.exchange.final_parts, final=True)
    assert last is not None
    assert reply.result() == turn.exchange.final_parts
    assert replayed([*changes, *last]) == reply.result()
    assert reply.reconcile(turn.exchange.final_parts, final=True) == []


@each_turn
def test_a_turn_ends_as_the_table_says(name: str, n: int) -> None:
    turn = turns_of(name)[n]
    reply = Reply(turn.session_id, turn.prompt_id)
    applied(reply, list(recording(name).events()))
    outcome = turn.exchange.outcome(reply.error)
    code = outcome.error.code if outcome.error else None
    assert (outcome.status, outcome.finish, code) == OUTCOMES[name][n]


@each_turn
def test_a_reply_is_not_settled_before_it_is_whole(name: str, n: int) -> None:
    turn = turns_of(name)[n]
    reply = Reply(turn.session_id, turn.prompt_id)
    for event in recording(name).events():
        reply.apply(event)
        if reply.settled:
            whole = reply.result() == turn.exchange.parts
            assert (whole and is_charged(reply, turn.exchange)) is ((name, n) not in RESUMED)
            break
    else:
        assert (name, n) in UNSETTLED


@each_turn
def test_the_children_of_a_turn_are_known_from_its_events(name: str, n: int) -> None:
    turn = turns_of(name)[n]
    reply = Reply(turn.session_id, turn.prompt_id)
    applied(reply, list(recording(name).events()))
    assert {child_of(part) for part in reply.result()} - {None} == {*turn.exchange.children}


@pytest.mark.parametrize("takeover", [False, True])
@each_recording
def test_a_gap_anywhere_still_ends_in_what_rest_holds(name: str, takeover: bool) -> None:
    """What is missed is caught up with over REST; the final parts are exact, and followers agree.

    With a takeover another worker's reply goes on from the parts stored by then.
    """
    source = recording(name)
    events = [event_from_wire(frame) for frame in source.frames()]
    store, held = Store(), [dict[str, list[WireMessage]]()]
    for frame in source.frames():
        store.apply(frame)
        held.append({session: store.messages(session) for session in store.sessions()})
    for turn in turns_of(name):
        for start in range(0, len(events), 3):
            for missed in (0, 2, 13):
                end = min(start + missed, len(events))
                reply = Reply(turn.session_id, turn.prompt_id)
                state = replayed(applied(reply, heard(events[:start])))
                if takeover:
                    reply = Reply(turn.session_id, turn.prompt_id, state)
                now = exchange(name, turn.session_id, turn.prompt_id, held[end])
                state = followed(reply, now.parts, state, final=False)
                if now.accepted:
                    reply.accept()
                state = replayed(applied(reply, heard(events[end:])), state)
                assert reply.result() == state
                state = followed(reply, turn.exchange.final_parts, state, final=True)
                assert reply.result() == state
                assert by_session(state) == by_session(turn.exchange.final_parts)


def heard(events: list[Event | None]) -> list[Event]:
    return [event for event in events if event is not None]


def followed(
    reply: Reply, parts: tuple[Part, ...], state: tuple[Part, ...], *, final: bool
) -> tuple[Part, ...]:
    """A follower's state after a reconciliation; with no changes it is given a snapshot."""
    changes = reply.reconcile(parts, final=final)
    return reply.result() if changes is None else replayed(changes, state)


def test_the_changes_of_a_turn_without_trouble_only_add_text() -> None:
    turn = turns_of("text_and_reasoning")[1]
    reply = Reply(turn.session_id, turn.prompt_id)
    changes = applied(reply, list(recording("text_and_reasoning").events()))
    shown = [c for c in changes if isinstance(c, (PartAdded, PartDelta, PartUpdated))]
    assert {type(change) for change in shown} == {PartAdded, PartDelta}
    assert [part.to_json()["type"] for part in reply.result()] == ["reasoning", "text"]


def test_the_text_of_each_failed_attempt_is_withdrawn_when_the_provider_is_asked_again() -> None:
    turn = turns_of("provider_stream_error")[0]
    reply = Reply(turn.session_id, turn.prompt_id)
    changes = applied(reply, list(recording("provider_stream_error").events()))
    withdrawn = [c for c in changes if isinstance(c, PartUpdated)]
    assert [(c.index, c.part.to_json()["content"]) for c in withdrawn] == [
        (index, "") for index in range(4)
    ]


def test_the_text_of_a_killed_server_is_withdrawn_when_the_answer_starts_again() -> None:
    turn = turns_of("server_killed_and_restarted")[1]
    reply = Reply(turn.session_id, turn.prompt_id)
    changes = applied(reply, list(recording("server_killed_and_restarted").events()))
    assert "".join(c.delta for c in changes if isinstance(c, PartDelta) and c.index == 0) == (
        "tick0 tick1 tick2 tick3 tick4 tick5 tick6 tick7 tick8 "
    )
    first, second = reply.result()
    assert PartUpdated(0, first) in changes
    assert (first.to_json()["content"], second.to_json()["content"]) == ("", "tick0 tick1 ")


def test_a_tool_that_a_killed_server_left_running_ends_as_an_error() -> None:
    exchange = turns_of("server_killed_and_restarted")[2].exchange
    tools = [p for p in exchange.parts if isinstance(p, ToolPart)]
    final = [p for p in exchange.final_parts if isinstance(p, ToolPart)]
    assert [(t.status, t.error) for t in tools] == [("running", None)]
    assert [(t.status, t.error) for t in final] == [("error", "interrupted")]


def test_a_later_turns_compaction_adds_nothing_to_the_turn_before_it() -> None:
    before, overflown, after = (turn.exchange for turn in turns_of("context_overflow"))
    texts = [[p.content for p in e.parts if isinstance(p, TextPart)] for e in (before, after)]
    assert texts == [["Before it."], ["After it."]]
    assert len(overflown.answers) == 2
    assert overflown.usage.cost > sum(m.info.usage.cost for m in overflown.answers)


def test_the_answer_after_a_compaction_with_nothing_before_it_is_ours() -> None:
    (turn,) = turns_of("context_overflow_first")
    (text,) = turn.exchange.parts
    assert isinstance(text, TextPart)
    assert text.content.startswith("You said: The previous request exceeded")


def test_prompts_refused_before_they_start_leave_an_error_and_nothing_else() -> None:
    source = recording("prompt_parts")
    refused = [a.session_id for a in source.answers() if a.complete and not a.messages]
    assert len(refused) == 3
    for session_id in refused:
        reply = Reply(session_id, "msg_never_stored")
        assert applied(reply, list(source.events())) == []
        assert reply.error is not None
        assert not reply.accepted
        assert not reply.settled


def test_a_deleted_sessions_turn_is_emptied_by_the_reconciliation() -> None:
    source = recording("delete_mid_turn")
    session_id = source.rows[1]["answer"]["id"]
    prompt_id = next(f for f in source.frames() if f["type"] == "message.updated")
    reply = Reply(session_id, prompt_id["properties"]["info"]["id"])
    applied(reply, list(source.events()))
    assert any(isinstance(p, TextPart) and p.content for p in reply.result())
    assert reply.error is not None
    gone = Exchange.read(reply.prompt_id, source.truth().get(session_id, []))
    assert (gone.accepted, gone.parts) == (False, ())
    assert reply.reconcile(gone.parts, final=True) is None
    assert reply.result() == ()


def test_the_todo_list_is_that_of_the_last_call() -> None:
    source = recording("tool_todowrite")
    (turn,) = turns_of("tool_todowrite")
    reply = Reply(turn.session_id, turn.prompt_id)
    applied(reply, list(source.events()))
    (answer,) = (row["answer"] for row in source.rows if row.get("req", "").endswith("/todo"))
    assert len(answer) == 2
    assert reply.todos == todos_of(turn.exchange.parts, final=True) == todos_from_wire(answer)


def test_types_that_no_turn_uses_are_read_over() -> None:
    frames = [frame for name in NAMES for frame in recording(name).frames()]
    unused = {frame["type"] for frame in frames if event_from_wire(frame) is None}
    assert {"plugin.added", "session.updated", "session.diff", "session.compacted"} <= unused
    assert not unused & {"session.idle", "message.updated", "message.part.updated"}
