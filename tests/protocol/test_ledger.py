"""What each step cost: read from OpenCode, counted once, stored."""

from __future__ import annotations

import json
from typing import Any

import pytest

from opencode_async.protocol.changes import UsageChanged
from opencode_async.protocol.exchange import Exchange
from opencode_async.protocol.ledger import Charge
from opencode_async.protocol.messages import MessageInfo, Usage
from opencode_async.protocol.reply import Reply
from tests.protocol.replies import answering, apply
from tests.protocol.wire_events import (
    ANSWER,
    PROMPT,
    SESSION,
    answer_info,
    answered,
    child,
    message,
    part,
    raw_tool,
    stored,
    stored_compaction,
    stored_prompt,
    user_info,
)

MODEL: dict[str, Any] = {"providerID": "anthropic", "modelID": "claude/5"}
CHILD = Charge("msg_child", "ses_child", None, Usage(0.6))


def by_child(cost: float = 0.6, session: str = "ses_child") -> Any:
    return message(answer_info("msg_child", session=session, cost=cost))


def test_a_step_names_its_model_as_settings_do() -> None:
    info = MessageInfo.from_wire(answer_info(cost=0.25, **MODEL))
    assert Charge.of(info) == Charge(ANSWER, SESSION, "anthropic/claude/5", Usage(0.25))


@pytest.mark.parametrize("lacking", ["providerID", "modelID"])
def test_half_a_model_is_none(lacking: str) -> None:
    half = {name: value for name, value in MODEL.items() if name != lacking}
    assert MessageInfo.from_wire(answer_info(**half)).model is None


@pytest.mark.parametrize("model", ["p/m", None])
def test_a_charge_is_stored_exactly(model: str | None) -> None:
    charge = Charge(ANSWER, SESSION, model, Usage(0.1 + 0.2, 1, 2, 3, 4))
    assert Charge.from_json(json.loads(json.dumps(charge.to_json()))) == charge


def test_a_compaction_is_a_step_that_costs_too() -> None:
    messages = [
        stored_prompt(),
        stored(answer_info(cost=0.5)),
        stored_compaction("msg_c", created=1200),
        stored(answer_info("msg_summary", parent="msg_c", created=1300, summary=True, cost=0.25)),
    ]
    ledger = Exchange.read(PROMPT, messages).ledger
    assert [(c.message_id, c.usage.cost) for c in ledger] == [(ANSWER, 0.5), ("msg_summary", 0.25)]


def test_what_a_subagent_costs_is_told_and_counted_once() -> None:
    reply = answering(answered(cost=0.25), child("ses_child"))
    assert apply(reply, by_child(), by_child()) == [UsageChanged(Usage(0.85))]
    assert reply.ledger == (Charge(ANSWER, SESSION, None, Usage(0.25)), CHILD)


def test_a_subagent_of_a_subagent_and_one_that_was_there_before_are_ours_too() -> None:
    reply = answering(child("ses_child"), child("ses_grandchild", "ses_child"))
    apply(reply, by_child(session="ses_grandchild"))
    assert reply.usage.cost == 0.6
    running = raw_tool("prt_tool", "running", tool="task", metadata={"sessionId": "ses_child"})
    for update in (part(running),), (part(raw_tool("prt_tool")), part(running)):
        assert apply(answering(*update), by_child()) == [UsageChanged(Usage(0.6))]


def test_what_a_strangers_session_costs_is_not_ours() -> None:
    reply = answering(child("ses_child"))
    assert apply(reply, by_child(session="ses_stranger")) == []


def test_what_a_subagent_is_told_is_no_step() -> None:
    reply = answering(child("ses_child"))
    apply(reply, message(user_info("msg_task", session="ses_child")))
    assert [charge.message_id for charge in reply.ledger] == [ANSWER]


def test_an_update_from_before_a_steps_end_takes_nothing_back() -> None:
    reply = answering(child("ses_child"), by_child())
    assert apply(reply, by_child(cost=0.0)) == []
    assert reply.ledger[-1] == CHILD


def test_rest_adds_what_the_stream_did_not_bring_and_takes_nothing_back() -> None:
    reply = answering(answered(cost=0.25))
    assert reply.charge([CHILD]) == [UsageChanged(Usage(0.85))]
    lagging = Exchange.read(PROMPT, [stored_prompt(), stored(answer_info())])
    assert reply.catch_up(lagging) == []
    assert reply.usage.cost == 0.85


def test_a_step_that_has_cost_nothing_yet_is_a_step() -> None:
    assert answering().ledger == (Charge(ANSWER, SESSION, None, Usage()),)


def test_a_worker_goes_on_with_what_the_one_before_it_counted() -> None:
    before = answering(answered(cost=0.25), child("ses_child"), by_child())
    after = Reply(SESSION, PROMPT, before.result(), before.ledger)
    assert (after.usage, after.ledger) == (before.usage, before.ledger)
    assert after.charge(before.ledger) == []
