"""What followers are told survives the way through a broker."""

from __future__ import annotations

import json
from typing import get_args

import pytest

from opencode_async.protocol.changes import (
    READERS,
    ArtifactAdded,
    Change,
    Finished,
    MessageAdded,
    PartAdded,
    PartDelta,
    PartUpdated,
    PermissionAsked,
    PermissionResolved,
    QuestionAsked,
    QuestionResolved,
    Retrying,
    Snapshot,
    StatusChanged,
    TodosChanged,
    UsageChanged,
    change_from_json,
)
from opencode_async.protocol.messages import Usage
from opencode_async.protocol.parts import ReasoningPart, TextPart, ToolPart
from opencode_async.protocol.todos import Todo
from opencode_async.protocol.tool_display import ToolDisplay

MESSAGE = {"id": "1", "status": "pending", "parts": [{"id": "p", "type": "text", "content": "Hi"}]}
TODOS = (Todo("A", "pending", "low"), Todo("B", "cancelled", "high"))

ASK = {"id": "1", "status": "open"}

CHANGES: list[tuple[Change, str]] = [
    (Snapshot(MESSAGE), "snapshot"),
    (MessageAdded(MESSAGE), "message.added"),
    (StatusChanged("pending"), "status"),
    (PartAdded(0, TextPart("p", "")), "part.added"),
    (PartAdded(1, ToolPart("p", "task", "c", "running", {"a": 1}, session_id="s")), "part.added"),
    (PartDelta(2, "Hello é 漢 \U0001f600\n"), "part.delta"),
    (PartUpdated(3, ReasoningPart("p", "Hm.")), "part.updated"),
    (PartUpdated(0, TextPart("p", "")), "part.updated"),
    (TodosChanged(TODOS), "todos"),
    (TodosChanged(()), "todos"),
    (Retrying(2, "No.", 1795343616264.5), "retrying"),
    (UsageChanged(Usage(0.25, 1, 2, 3, 4)), "usage"),
    (ArtifactAdded({"id": "1", "filename": "a.txt"}), "artifact"),
    (PermissionAsked(ASK), "permission.asked"),
    (PermissionResolved(ASK), "permission.resolved"),
    (QuestionAsked(ASK), "question.asked"),
    (QuestionResolved(ASK), "question.resolved"),
    (Finished(MESSAGE), "finished"),
]


@pytest.mark.parametrize(("change", "event"), CHANGES)
def test_a_change_comes_back_from_json_as_it_was(change: Change, event: str) -> None:
    assert change.event == event
    assert change_from_json(event, json.loads(json.dumps(change.to_json()))) == change


@pytest.mark.parametrize("kind", [PartAdded, PartUpdated])
def test_a_tool_call_is_told_with_its_display(kind: type[PartAdded] | type[PartUpdated]) -> None:
    call = ToolPart("p", "bash", "c", "running", {"command": "ls"})
    told = kind(0, call).to_json()["part"]
    assert told == {**call.to_json(), "display": ToolDisplay(call).to_dict()}


def test_every_type_of_change_is_tested() -> None:
    assert {type(change) for change, _ in CHANGES} == set(get_args(Change))
    assert {event for _, event in CHANGES} == set(READERS)


def test_an_unknown_event_is_refused() -> None:
    with pytest.raises(KeyError):
        change_from_json("part.removed", {})


def test_usage_has_the_names_that_a_message_has_for_it() -> None:
    assert UsageChanged(Usage(0.25, 1, 2, 3, 4)).to_json() == {
        "cost": 0.25,
        "input_tokens": 1,
        "output_tokens": 2,
        "cache_read_tokens": 3,
        "cache_write_tokens": 4,
    }
