"""One part is the same value from an event, from REST and from a stored row."""

from __future__ import annotations

import json

import pytest

from opencode_async.protocol.parts import (
    Part,
    ReasoningPart,
    TextPart,
    ToolPart,
    interrupted,
    joined,
    part_from_json,
    part_from_wire,
)
from opencode_async.protocol.todos import Todo, todos_of
from opencode_async.protocol.wire import Malformed
from tests.protocol.recording import NAMES, recording
from tests.protocol.wire_events import raw_part, raw_text, raw_tool

PARTS: list[Part] = [
    TextPart("prt_1", ""),
    TextPart("prt_1", "Hello\n"),
    ReasoningPart("prt_1", "Hm."),
    ToolPart("prt_1", "bash", "call_1", "pending", {}),
    ToolPart("prt_1", "bash", "call_1", "running", {"a": [1]}, title="Run", metadata={"x": {}}),
    ToolPart("prt_1", "bash", "", "completed", {}, output="", title="", metadata={}),
    ToolPart("prt_1", "task", "c", "completed", {}, output="Done.", session_id="ses_child"),
    ToolPart("prt_1", "bash", "call_1", "error", {}, error="interrupted"),
]


@pytest.mark.parametrize("part", PARTS)
def test_a_part_comes_back_from_json_as_it_was(part: Part) -> None:
    assert part_from_json(json.loads(json.dumps(part.to_json()))) == part


def test_every_part_of_the_recordings_comes_back_from_json_as_it_was() -> None:
    read = [
        part
        for name in NAMES
        for frame in recording(name).frames()
        if frame["type"] == "message.part.updated"
        and (part := part_from_wire(frame["properties"]["part"])) is not None
    ]
    assert {part.to_json()["type"] for part in read} == {"text", "reasoning", "tool"}
    assert [part_from_json(json.loads(json.dumps(part.to_json()))) for part in read] == read


def test_reading_a_stored_part_leaves_the_row_as_it_is() -> None:
    stored = {"id": "prt_1", "type": "text", "content": "Hi"}
    part_from_json(stored)
    assert stored == {"id": "prt_1", "type": "text", "content": "Hi"}


def test_what_a_tool_call_does_not_have_is_not_in_its_json() -> None:
    assert ToolPart("p", "bash", "c", "pending", {}).to_json() == {
        "id": "p",
        "type": "tool",
        "tool": "bash",
        "call_id": "c",
        "status": "pending",
        "input": {},
    }


def test_an_empty_output_is_told_from_none() -> None:
    assert ToolPart("p", "bash", "c", "completed", {}, output="").to_json()["output"] == ""


@pytest.mark.parametrize("kind", ["step-start", "step-finish", "file", "patch", "compaction", "?"])
def test_kinds_that_are_not_shown_are_no_parts(kind: str) -> None:
    assert part_from_wire(raw_part(kind, "prt_1")) is None


def test_a_tool_call_that_is_incomplete_still_is_one() -> None:
    raw = raw_tool("prt_1", "running") | {"callID": 3}
    raw["state"] = {"status": "running", "input": "raw", "metadata": [], "output": None, "title": 1}
    assert part_from_wire(raw) == ToolPart("prt_1", "bash", "", "running", {})


def test_only_a_task_has_a_session_of_its_own() -> None:
    def session_id(tool: str, metadata: object) -> str | None:
        part = part_from_wire(raw_tool(tool=tool, metadata=metadata))
        assert isinstance(part, ToolPart)
        return part.session_id

    assert session_id("task", {"sessionId": "ses_child"}) == "ses_child"
    assert session_id("bash", {"sessionId": "ses_child"}) is None
    assert session_id("task", {"sessionId": 4}) is None
    assert session_id("task", None) is None


def test_a_part_without_an_id_or_text_is_malformed() -> None:
    for key in ("id", "text"):
        raw = raw_text()
        del raw[key]
        with pytest.raises(Malformed, match=key):
            part_from_wire(raw)


def test_a_call_that_will_never_end_is_stored_as_an_error() -> None:
    for part in PARTS:
        ended = interrupted(part)
        if isinstance(part, ToolPart) and part.status in ("pending", "running"):
            assert ended.to_json() == part.to_json() | {"status": "error", "error": "interrupted"}
        else:
            assert ended is part


def test_contents_are_joined_by_a_blank_line_and_empty_ones_left_out() -> None:
    parts: list[Part] = [
        ReasoningPart("r1", "Hm."),
        TextPart("t1", "One."),
        TextPart("t2", ""),
        ToolPart("c1", "bash", "c", "completed", {}, output="x"),
        TextPart("t3", "Two.\n"),
        ReasoningPart("r2", "So."),
    ]
    assert joined(parts, TextPart) == "One.\n\nTwo.\n"
    assert joined(parts, ReasoningPart) == "Hm.\n\nSo."
    assert joined([TextPart("t", "")], TextPart) == joined([], TextPart) == ""


def test_the_todos_are_those_of_the_last_call_that_succeeded() -> None:
    def call(status: str, content: str) -> Part:
        list_ = {"todos": [{"content": content}]}
        part = part_from_wire(raw_tool(f"prt_{content}", status, tool="todowrite", input=list_))
        assert part is not None
        return part

    calls = [("completed", "A"), ("completed", "B"), ("error", "C"), ("running", "D")]
    parts = [call(status, content) for status, content in calls]
    assert todos_of(parts, final=True) == (Todo("B", "pending", "medium"),)
    assert todos_of(parts, final=False) is None  # D is on its way, and may be told already
    assert todos_of(parts[:2], final=False) == (Todo("B", "pending", "medium"),)
    assert todos_of(parts[2:], final=True) is None
    assert todos_of([], final=True) is None
