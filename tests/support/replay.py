"""A follower as the contract describes one: a snapshot, and the changes behind it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from opencode_async import (
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
)
from opencode_async.protocol.tool_display import with_display
from tests.support.serving import Sse


def replay(changes: Iterable[Change]) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """The state that the changes lead to before ``finished``, and the message in ``finished``."""
    state: dict[str, Any] = {}
    finished = None
    for change in changes:
        assert finished is None, f"{change} behind finished"
        match change:
            case Snapshot(message) | MessageAdded(message):
                state = {**message, "parts": [dict(part) for part in message["parts"]]}
                for asks in ("permissions", "questions"):
                    state[asks] = list(message.get(asks, ()))  # a client's stream has none
            case StatusChanged(status):
                state["status"] = status
            case PartAdded(index, part):
                assert index == len(state["parts"])
                state["parts"].append(with_display(part.to_json()))
            case PartDelta(index, delta):
                state["parts"][index]["content"] += delta
            case PartUpdated(index, part):
                state["parts"][index] = with_display(part.to_json())
            case TodosChanged(todos):
                state["todos"] = [todo.to_json() for todo in todos]
            case UsageChanged(usage):
                state |= usage.to_json()
            case PermissionAsked(ask) | PermissionResolved(ask):
                put(state["permissions"], ask)
            case QuestionAsked(ask) | QuestionResolved(ask):
                put(state["questions"], ask)
            case ArtifactAdded(artifact):
                state["artifacts"] = [*state["artifacts"], artifact]
            case Retrying():
                pass
            case Finished(message):
                finished = dict(message)
    return state, finished


def put(asks: list[Any], ask: Any) -> None:
    """The ask takes the place of what was known of it, or a new one."""
    for index, known in enumerate(asks):
        if known["id"] == ask["id"]:
            asks[index] = ask
            return
    asks.append(ask)


def replay_events(events: Iterable[Sse]) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """The same for what a browser receives, in which parts may be hidden."""
    state: dict[str, Any] = {}
    finished = None
    for event in events:
        assert finished is None, f"{event} behind finished"
        data = event.data
        match event.event:
            case "snapshot" | "message.added":
                state = {**data["message"], "parts": [*data["message"]["parts"]]}
            case "part.added":
                assert data["index"] == len(state["parts"])
                state["parts"].append(data["part"])
            case "part.delta":
                part = state["parts"][data["index"]]
                state["parts"][data["index"]] = {**part, "content": part["content"] + data["delta"]}
            case "part.updated":
                state["parts"][data["index"]] = data["part"]
            case "finished":
                finished = data["message"]
    return state, finished


STREAMED = (
    "parts",
    "todos",
    "cost",
    "input_tokens",
    "output_tokens",
    "cache_read_tokens",
    "cache_write_tokens",
)


def assert_replay_is(changes: Sequence[Change], stored: dict[str, Any]) -> None:
    """What a follower has at the end is what is stored, before ``finished`` says it and after.

    One who came so late, on a busy machine, that the end was all there was to tell has only that.
    """
    state, finished = replay(changes)
    assert finished == stored
    if len(changes) == 2:
        return
    differing = {k: (state[k], stored[k]) for k in STREAMED if state[k] != stored[k]}
    assert not differing, [change.event for change in changes]
