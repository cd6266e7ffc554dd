"""Tool calls for tests: of every tool that OpenCode has, and those of the recordings."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from opencode_async.protocol.parts import ToolPart, part_from_wire
from opencode_async.protocol.wire import Malformed
from tests.protocol.recording import NAMES, recording


def call(tool: str, status: Any = "completed", input: Any = None, **rest: Any) -> ToolPart:
    return ToolPart("prt_1", tool, "call_1", status, {} if input is None else input, **rest)


def recorded_calls() -> list[ToolPart]:
    """All states of all tool calls that the real server has sent or answered."""
    return [part for name in NAMES for row in recording(name).rows for part in _calls_in(row)]


def _calls_in(value: object) -> Iterator[ToolPart]:
    if isinstance(value, dict):
        if value.get("type") == "tool" and isinstance(value.get("state"), dict):
            yield _call(value)
        for item in value.values():
            yield from _calls_in(item)
    elif isinstance(value, list):
        for item in value:
            yield from _calls_in(item)


def _call(raw: dict[str, Any]) -> ToolPart:
    part = part_from_wire(raw)
    if not isinstance(part, ToolPart):
        raise Malformed(raw["id"])
    return part
