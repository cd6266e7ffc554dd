"""Which messages are one turn's, and how they say it ended."""

from __future__ import annotations

from typing import Any

import pytest

from opencode_async.protocol.exchange import (
    ERROR_CODES,
    INTERRUPTED,
    ORPHANED,
    Exchange,
    Outcome,
    TurnError,
)
from opencode_async.protocol.messages import UpstreamError, Usage, WireMessage
from opencode_async.protocol.parts import TextPart, ToolPart
from tests.protocol.wire_events import (
    PROMPT,
    answer_info,
    raw_part,
    raw_text,
    raw_tool,
    stored,
    stored_compaction,
    stored_prompt,
    user_info,
)


def answer(
    id_: str = "msg_answer", content: str = "Hi.", *, parent: str = PROMPT, **info: Any
) -> WireMessage:
    """A completed answer with one text part."""
    text = raw_text(f"prt_{id_}", content, ended=True, message=id_)
    return stored(answer_info(id_, parent=parent, completed=True, **info), text)


def exchange(*messages: WireMessage) -> Exchange:
    return Exchange.read(PROMPT, messages)


def texts(turn: Exchange) -> list[str]:
    return [part.content for part in turn.parts if isinstance(part, TextPart)]


def ended(**info: Any) -> Outcome:
    return exchange(stored_prompt(), stored(answer_info(**info))).outcome()


def failure(name: str, message: str = "Went wrong.") -> dict[str, Any]:
    return {"name": name, "data": {"message": message}}


# -- how a turn ends ---------------------------------------------------------------------------


def test_success_is_completed() -> None:
    assert ended(completed=True, finish="stop") == Outcome("completed", "stop")


def test_an_answer_cut_off_at_the_token_limit_is_completed_and_says_so() -> None:
    assert ended(completed=True, finish="length") == Outcome("completed", "length")


def test_a_finish_reason_that_is_not_known_is_passed_on_in_snake_case() -> None:
    assert ended(completed=True, finish="some-thing") == Outcome("completed", "some_thing")


@pytest.mark.parametrize("error", [failure("ContentFilterError"), None])
def test_a_filtered_answer_is_an_error(error: dict[str, Any] | None) -> None:
    outcome = ended(completed=True, finish="content-filter", error=error)
    assert (outcome.status, outcome.finish) == ("error", "content_filter")
    assert outcome.error is not None
    assert outcome.error.code == "content_filter"


@pytest.mark.parametrize(("name", "code"), [*ERROR_CODES.items(), ("NewError", "agent_error")])
def test_an_error_of_the_answer_is_the_turns(name: str, code: str) -> None:
    outcome = ended(completed=True, error=failure(name))
    assert outcome.status == "error"
    assert outcome.error == TurnError(code, "Went wrong.")


def test_an_error_without_a_reason_shows_its_name() -> None:
    outcome = ended(completed=True, error={"name": "APIError"})
    assert outcome.error == TurnError("provider_error", "APIError")


def test_an_error_counts_before_the_answer_is_completed() -> None:
    outcome = ended(error=failure("APIError"))
    assert outcome.error == TurnError("provider_error", "Went wrong.")


def test_an_abort_is_cancelled_with_or_without_a_completed_answer() -> None:
    aborted = failure("MessageAbortedError", "Aborted")
    assert ended(completed=True, error=aborted) == Outcome("cancelled", "aborted")
    assert ended(error=aborted) == Outcome("cancelled", "aborted")


def test_an_abort_while_the_provider_is_awaited_leaves_neither_error_nor_finish() -> None:
    assert ended(completed=True) == Outcome("cancelled", "aborted")


@pytest.mark.parametrize(
    "error",
    [
        "The user rejected permission to use this specific tool call.",
        "The user dismissed this question",
    ],
)
def test_a_rejected_permission_or_question_ends_with_the_tool_calls(error: str) -> None:
    declined = raw_tool("prt_1", "error", error=error)
    step = answer_info(completed=True, finish="tool-calls")
    turn = exchange(stored_prompt(), stored(step, declined))
    assert not turn.stranded
    assert turn.outcome() == Outcome("completed", "rejected")


def test_a_crash_between_two_steps_is_none_although_the_step_is_complete() -> None:
    step = stored(answer_info(completed=True, finish="tool-calls"), raw_tool("prt_1", "completed"))
    turn = exchange(stored_prompt(), step)
    assert turn.stranded
    assert turn.outcome().error == INTERRUPTED.error


def test_a_crash_behind_a_permission_refused_with_words_is_no_end() -> None:
    error = (
        "The user rejected permission to use this specific tool call with the following feedback: "
        "use another command"
    )
    step = answer_info(completed=True, finish="tool-calls")
    turn = exchange(stored_prompt(), stored(step, raw_tool("prt_1", "error", error=error)))
    assert turn.stranded


def test_a_crash_behind_a_compaction_leaves_an_orphan() -> None:
    turn = exchange(
        stored_prompt(),
        *compacted(stored_prompt("msg_copy", created=2300), at=2200),
        stored(answer_info("msg_2", parent="msg_copy")),
    )
    assert (turn.stranded, turn.newest) == (True, False)
    assert turn.outcome() == ORPHANED


def test_a_structured_result_is_a_success_although_it_is_a_tool_call() -> None:
    outcome = ended(completed=True, finish="tool-calls", structured={"n": 1})
    assert outcome == Outcome("completed", "stop")


def test_a_structured_result_that_never_came_is_an_error() -> None:
    outcome = ended(completed=True, finish="stop", error=failure("StructuredOutputError"))
    assert outcome.error == TurnError("structured_output", "Went wrong.")


def test_an_answer_that_was_never_completed_is_interrupted() -> None:
    outcome = ended()
    assert outcome.status == "error"
    assert outcome.error is not None
    assert outcome.error.code == "interrupted"


def test_a_failed_model_call_takes_its_reason_from_the_stream() -> None:
    turn = exchange(stored_prompt(), stored(answer_info(completed=True, finish="error")))
    told = turn.outcome(UpstreamError("APIError", "No."))
    assert told == Outcome("error", None, TurnError("provider_error", "No."))
    untold = turn.outcome().error
    assert untold is not None
    assert untold.code == "agent_error"


def test_a_turn_that_left_no_answer_takes_its_error_from_the_stream() -> None:
    for turn in (exchange(), exchange(stored_prompt())):
        told = turn.outcome(UpstreamError("UnknownError", "Model not found."))
        assert told == Outcome("error", None, TurnError("agent_error", "Model not found."))
        assert turn.outcome(UpstreamError("MessageAbortedError", "Aborted")).status == "cancelled"
        untold = turn.outcome()
        assert untold.error is not None
        assert (untold.status, untold.error.code) == ("error", "no_answer")


def test_an_error_on_the_stream_does_not_outweigh_a_finished_answer() -> None:
    """Automatic compaction reports one and goes on."""
    turn = exchange(stored_prompt(), answer(finish="stop"))
    overflow = UpstreamError("ContextOverflowError", "Too long.")
    assert turn.outcome(overflow) == Outcome("completed", "stop")


def test_the_last_answer_decides() -> None:
    turn = exchange(
        stored_prompt(),
        answer("msg_1", finish="tool-calls"),
        answer("msg_2", finish="stop"),
    )
    assert turn.outcome() == Outcome("completed", "stop")
    dead = exchange(stored_prompt(), answer("msg_1", finish="stop"), stored(answer_info("msg_2")))
    assert dead.outcome().status == "error"
    assert not dead.complete


# -- which messages are the turn's -------------------------------------------------------------


def test_only_the_answers_to_our_prompt_are_ours() -> None:
    turn = exchange(
        stored_prompt("msg_before", created=900),
        answer("msg_1", "Before.", parent="msg_before"),
        stored_prompt(),
        answer("msg_2", "One."),
        answer("msg_3", "Two."),
        stored_prompt("msg_after", created=2000),
        answer("msg_4", "After.", parent="msg_after"),
    )
    assert texts(turn) == ["One.", "Two."]
    assert (turn.accepted, turn.newest, turn.complete) == (True, False, True)


def test_the_newest_prompt_knows_that_it_is() -> None:
    assert exchange(stored_prompt("msg_before", created=900), stored_prompt()).newest
    assert not exchange(stored_prompt("msg_before", created=900)).newest
    assert exchange(stored_prompt(), answer()).newest


def test_a_prompt_is_accepted_only_with_its_parts() -> None:
    """OpenCode writes the message before the parts."""
    assert not exchange().accepted
    assert not exchange(stored(user_info())).accepted
    assert exchange(stored_prompt()).accepted
    assert not exchange(stored_prompt(), stored(user_info("msg_other", created=2000))).newest


def test_a_prompt_of_files_alone_is_accepted() -> None:
    file = raw_part("file", "prt_file", message=PROMPT, mime="image/png", url="data:,")
    assert exchange(stored(user_info(), file)).accepted


def test_with_no_answer_yet_nothing_is_complete() -> None:
    turn = exchange(stored_prompt())
    assert (turn.complete, turn.parts, turn.usage) == (False, (), Usage())


@pytest.mark.parametrize(
    ("info", "concluded"),
    [
        ({"completed": False, "finish": "stop"}, False),
        ({"completed": True}, False),
        ({"completed": True, "finish": "tool-calls"}, False),
        ({"completed": True, "finish": "stop"}, True),
        ({"completed": True, "finish": "length"}, True),
        ({"completed": True, "error": failure("APIError")}, True),
    ],
)
def test_a_step_does_not_say_that_it_is_the_last(info: dict[str, Any], concluded: bool) -> None:
    made = exchange(stored_prompt(), stored(answer_info(**info)))
    assert made.concluded is concluded


def test_a_prompt_posted_again_keeps_the_answers_made_before() -> None:
    """Posting again moves the message's time, not its place."""
    turn = exchange(
        stored_prompt(created=5000),
        stored(answer_info("msg_1", created=1100), raw_text("prt_1", "", message="msg_1")),
        answer("msg_2", "Again.", created=5100, finish="stop"),
    )
    assert texts(turn) == ["", "Again."]
    assert turn.outcome() == Outcome("completed", "stop")


# -- compaction --------------------------------------------------------------------------------


def compacted(copy: WireMessage, *, at: float = 1200, n: int = 1) -> list[WireMessage]:
    """What one overflow adds: the answer without anything, the compaction, its summary, a copy."""
    return [
        stored_compaction(f"msg_c{n}", created=at),
        answer(f"msg_s{n}", "Summary.", parent=f"msg_c{n}", summary=True, cost=0.5),
        copy,
    ]


def test_the_answer_to_the_copy_made_by_a_compaction_is_ours() -> None:
    turn = exchange(
        stored_prompt(),
        stored(answer_info("msg_1", completed=True, cost=0.125)),
        *compacted(stored_prompt("msg_copy", created=1300)),
        answer("msg_2", "At last.", parent="msg_copy", cost=0.25, finish="stop"),
    )
    assert texts(turn) == ["At last."]
    assert turn.outcome() == Outcome("completed", "stop")


def test_a_summarys_cost_counts_but_its_text_is_not_shown() -> None:
    turn = exchange(
        stored_prompt(),
        stored(answer_info("msg_1", completed=True, cost=0.125)),
        *compacted(stored_prompt("msg_copy", created=1300)),
        answer("msg_2", "At last.", parent="msg_copy", cost=0.25),
    )
    assert "Summary." not in texts(turn)
    assert [message.info.id for message in turn.answers] == ["msg_1", "msg_2"]
    assert turn.usage.cost == 0.875


def test_a_message_of_opencodes_own_making_may_take_the_prompts_place() -> None:
    own = raw_text("prt_own", "Go on.", message="msg_own") | {"synthetic": True}
    turn = exchange(
        stored_prompt(),
        *compacted(stored(user_info("msg_own", created=1300), own)),
        answer("msg_2", "At last.", parent="msg_own"),
    )
    assert texts(turn) == ["At last."]


def test_a_turn_may_be_compacted_twice() -> None:
    turn = exchange(
        stored_prompt(),
        *compacted(stored_prompt("msg_copy1", created=1300)),
        answer("msg_1", "Some.", parent="msg_copy1"),
        *compacted(stored_prompt("msg_copy2", created=1500), at=1400, n=2),
        answer("msg_2", "More.", parent="msg_copy2"),
        stored_prompt("msg_next", created=1600),
        answer("msg_3", "Next.", parent="msg_next"),
    )
    assert texts(turn) == ["Some.", "More."]


def test_a_compaction_that_replaces_a_broken_one_is_followed_too() -> None:
    """The server died while it summarized; the prompt, posted again, overflowed again."""
    turn = exchange(
        stored_prompt(created=5000),
        stored_compaction("msg_c1", created=1200),
        stored(answer_info("msg_s1", parent="msg_c1", summary=True)),
        *compacted(stored_prompt("msg_copy", created=5300), at=5200, n=2),
        answer("msg_2", "At last.", parent="msg_copy"),
    )
    assert texts(turn) == ["At last."]


def test_a_compaction_of_a_later_turn_is_not_ours() -> None:
    turn = exchange(
        stored_prompt(),
        answer("msg_1", "Ours."),
        stored_prompt("msg_next", created=2000),
        *compacted(stored_prompt("msg_copy", created=2300), at=2200),
        answer("msg_2", "Theirs.", parent="msg_copy"),
    )
    assert texts(turn) == ["Ours."]
    assert turn.usage.cost == 0


def test_a_compaction_of_an_earlier_turn_is_not_ours() -> None:
    turn = exchange(
        stored_prompt("msg_before", created=100),
        *compacted(stored_prompt("msg_copy", created=300), at=200),
        answer("msg_1", "Theirs.", parent="msg_copy"),
        stored_prompt(),
        answer("msg_2", "Ours."),
    )
    assert texts(turn) == ["Ours."]


# -- cost, children, tools ---------------------------------------------------------------------


def test_the_usage_of_answers_and_of_children_is_counted_once_each() -> None:
    tokens = {"input": 10, "output": 1, "cache": {"read": 2, "write": 3}}
    messages = [
        stored_prompt(),
        answer("msg_1", cost=0.25, tokens=tokens),
        answer("msg_2", cost=0.5, tokens=tokens),
    ]
    assert Exchange.read(PROMPT, messages).usage == Usage(0.75, 20, 2, 4, 6)
    theirs = [
        answer("msg_a", cost=1.0, tokens=tokens, session="ses_child"),
        answer("msg_b", cost=2.0, tokens=tokens, session="ses_child"),
    ]
    turn = Exchange.read(PROMPT, messages, theirs={"ses_child": theirs})
    assert turn.usage == Usage(3.75, 40, 4, 8, 12)
    assert [charge.message_id for charge in turn.ledger[-2:]] == ["msg_a", "msg_b"]
    assert len({charge.message_id for charge in turn.ledger}) == 4


def test_each_child_is_named_once_in_the_order_of_the_calls() -> None:
    def task(id_: str, session_id: str | None) -> dict[str, Any]:
        return raw_tool(id_, "completed", tool="task", metadata={"sessionId": session_id})

    turn = exchange(
        stored_prompt(),
        stored(
            answer_info(completed=True),
            task("prt_1", "ses_b"),
            task("prt_2", "ses_a"),
            task("prt_3", "ses_b"),
            task("prt_4", None),
        ),
    )
    assert turn.children == ("ses_b", "ses_a")


def test_a_tool_that_still_runs_when_the_turn_is_over_is_interrupted() -> None:
    running, done = raw_tool("prt_1", "running"), raw_tool("prt_2", "completed", output="Done.")
    turn = exchange(stored_prompt(), stored(answer_info(), running, done))
    tools = [part for part in turn.final_parts if isinstance(part, ToolPart)]
    assert [(t.status, t.error, t.output) for t in tools] == [
        ("error", "interrupted", None),
        ("completed", None, "Done."),
    ]
    assert [t.status for t in turn.parts if isinstance(t, ToolPart)] == ["running", "completed"]


def test_steps_and_other_parts_that_are_not_shown_are_left_out() -> None:
    turn = exchange(
        stored_prompt(),
        stored(
            answer_info(completed=True),
            raw_part("step-start", "prt_1"),
            raw_text("prt_2", "Hi."),
            raw_part("step-finish", "prt_3"),
        ),
    )
    assert turn.parts == (TextPart("prt_2", "Hi."),)
