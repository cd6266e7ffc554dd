"""What the scripted model replies, without a network."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from opencode_async.testing import ScriptedModel
from opencode_async.testing.scripted_model.request import Script, script_of
from opencode_async.testing.scripted_model.scripts import (
    Cut,
    Event,
    Finish,
    Hang,
    Reasoning,
    Text,
    ToolCall,
    Wait,
    refusal,
    reply,
)

TOOLS = [{"type": "function", "function": {"name": "bash"}}]


def asked(*messages: tuple[str, str], tools: object = TOOLS) -> dict[str, Any]:
    return {
        "messages": [{"role": role, "content": text} for role, text in messages],
        "tools": tools,
    }


def replied(*messages: tuple[str, str]) -> list[Event]:
    return list(reply(script_of(asked(*messages))))


def text_of(events: list[Event]) -> str:
    return "".join(event.text for event in events if isinstance(event, Text))


def test_the_newest_user_message_with_a_script_selects_it() -> None:
    body = asked(("user", "SCRIPT:text Old."), ("user", "SCRIPT:loop 3"), ("user", "go on"))
    assert script_of(body) == Script("loop", "3", 0, "SCRIPT:loop 3")


def test_a_message_may_have_parts() -> None:
    parts = [{"type": "text", "text": "SCRIPT:text Hi."}, {"type": "image_url"}]
    script = script_of({"messages": [{"role": "user", "content": parts}], "tools": TOOLS})
    assert (script.name, script.options()) == ("text", {"text": "Hi."})


def test_without_a_script_the_users_words_are_echoed() -> None:
    assert text_of(replied(("system", "You are."), ("user", "Hello you"))) == "You said: Hello you"


@pytest.mark.parametrize(
    ("marker", "name"), [("title generator", "title"), ("summarization", "summary")]
)
def test_opencodes_own_requests_do_not_run_the_script(marker: str, name: str) -> None:
    body = asked(("system", f"You are a {marker}."), ("user", "SCRIPT:hang"), tools=None)
    assert text_of(list(reply(script_of(body)))) == f"Scripted {name}"


@pytest.mark.parametrize(
    ("argument", "options"),
    [
        ("", {}),
        ("7", {"n": 7}),
        ('{"n": 2}', {"n": 2}),
        ("[1]", {"value": [1]}),
        ("some words", {"text": "some words"}),
    ],
)
def test_an_argument_is_json_or_a_number_or_text(argument: str, options: dict[str, Any]) -> None:
    assert Script("text", argument).options() == options


def test_a_tool_script_calls_first_and_comments_after_the_result() -> None:
    user = ("user", 'SCRIPT:bash {"command": "echo hi"}')
    first = replied(user)
    call = ToolCall("bash", json.dumps({"command": "echo hi", "description": "Runs a command"}))
    assert first[1:] == [call, Finish("tool_calls")]
    second = replied(user, ("assistant", ""), ("tool", "hi"))
    assert text_of(second) == "Finished bash after 1 tool result(s)."
    assert second[-1] == Finish("stop")


def test_tool_results_of_an_earlier_turn_do_not_count() -> None:
    script = script_of(asked(("user", "SCRIPT:bash"), ("tool", "hi"), ("user", "SCRIPT:todo")))
    assert (script.name, script.step) == ("todo", 0)


def test_a_tool_script_may_have_several_steps() -> None:
    user = ("user", "SCRIPT:edit")
    names = [
        event.name
        for results in range(3)
        for event in replied(user, *[("tool", "ok")] * results)
        if isinstance(event, ToolCall)
    ]
    assert names == ["read", "edit"]


def test_a_step_may_have_several_calls() -> None:
    calls = [event for event in replied(("user", "SCRIPT:multi")) if isinstance(event, ToolCall)]
    assert [json.loads(call.arguments)["filePath"] for call in calls] == ["a.txt", "b.txt"]


def test_bad_arguments_are_not_json() -> None:
    (call, _) = replied(("user", "SCRIPT:badargs"))
    assert isinstance(call, ToolCall)
    with pytest.raises(json.JSONDecodeError):
        json.loads(call.arguments)


def test_nul_and_a_lone_surrogate_survive_as_escapes() -> None:
    text = text_of(replied(("user", "SCRIPT:nul")))
    assert text == "before\0between\ud800after"
    assert json.dumps(text) == r'"before\u0000between\ud800after"'


def test_reasoning_comes_before_the_text() -> None:
    events = replied(("user", "SCRIPT:reasoning Done."))
    assert [type(event) for event in events] == [Reasoning, Reasoning, Reasoning, Text, Finish]


def test_slow_and_long_are_paced_as_asked() -> None:
    assert replied(("user", 'SCRIPT:slow {"n": 1, "delay": 0.5}')) == [
        Text("tick0 "),
        Wait(0.5),
        Finish("stop"),
    ]
    assert len(replied(("user", "SCRIPT:long 2000"))) == 2001


@pytest.mark.parametrize(
    ("name", "last"), [("hang", Hang()), ("cut", Cut()), ("empty", Finish("stop"))]
)
def test_how_an_answer_may_end(name: str, last: Event) -> None:
    assert replied(("user", f"SCRIPT:{name}"))[-1] == last


def test_errors_carry_their_status_and_how_often_they_come() -> None:
    error = refusal(script_of(asked(("user", 'SCRIPT:error429 {"times": 2, "after": 1}'))))
    assert error is not None
    assert (error.status, error.retry_after) == (429, "1")
    overflow = refusal(Script("overflow"))
    assert overflow is not None
    assert (overflow.status, overflow.code) == (400, "context_length_exceeded")
    assert refusal(Script("text")) is None


def test_over_http_an_error_is_given_as_often_as_asked_and_then_the_text() -> None:
    body = asked(("user", 'SCRIPT:error500 {"times": 1, "text": "At last."}'))
    with ScriptedModel() as model:
        url = f"{model.url}/v1/chat/completions"
        answers = [
            httpx.post(url, json=body, headers={"x-session-affinity": "s"}) for _ in range(2)
        ]
        assert [answer.status_code for answer in answers] == [500, 200]
        assert [asked.status for asked in model.requests] == [500, 200]
        assert answers[1].text.endswith("data: [DONE]\n\n")
        assert (model.requests[1].session_id, model.requests[1].tools) == ("s", ["bash"])


def test_leaving_the_block_ends_an_answer_that_hangs() -> None:
    body = asked(("user", "SCRIPT:hang"))
    with ScriptedModel() as model, httpx.Client() as client:
        request = client.build_request("POST", f"{model.url}/v1/chat/completions", json=body)
        answer = client.send(request, stream=True)
        assert answer.status_code == 200
        assert next(answer.iter_raw())
    assert model.requests[0].aborted
    answer.close()
