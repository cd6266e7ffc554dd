"""What the model and the tools write is untrusted: any JSON may stand anywhere in a tool call."""

from __future__ import annotations

import json
import time
import unicodedata
from itertools import product
from typing import Any, cast, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from opencode_async import ToolDisplay, ToolPart
from opencode_async.protocol.parts import ToolStatus
from opencode_async.protocol.tool_display import with_display
from opencode_async.protocol.tool_names import TOOLS, ToolKind
from tests.protocol.tool_calls import call

ARGUMENTS = [
    *("command", "code", "filePath", "pattern", "operation", "url", "query", "description", "name"),
    *("questions", "todos", "patchText", "content", "tool", "error", "path", "q"),
]
METADATA = ["diff", "exists", "output", "display", "files", "text", "sessionId"]
UNSEEN = {"Cc", "Cf", "Cs", "Zl", "Zp"}
SEEN = {"\t", "\n", "\u200c", "\u200d", *map(chr, range(0x600, 0x606)), "\u06dd", "\u070f"}
SEEN |= {"\u0890", "\u0891", "\u08e2", "\U000110bd", "\U000110cd"}

texts = st.text(max_size=300) | st.sampled_from(
    [
        "<script>alert(1)</script>",
        "\u202etxt.exe",
        "\x1b]0;",
        "\x1b[2J",
        "/" * 400,
        "*** Add File: ",
    ]
)
scalars = st.none() | st.booleans() | st.integers() | st.floats() | texts
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from([*ARGUMENTS, *METADATA, "question"]) | texts, inner)
    ),
    max_leaves=12,
)
inputs = st.dictionaries(st.sampled_from(ARGUMENTS) | texts, values, max_size=8) | values
tools = st.sampled_from([*TOOLS, "invalid", "some_tool", "weather"]) | texts
calls = st.builds(
    ToolPart,
    id=texts,
    tool=tools,
    call_id=texts,
    status=st.sampled_from(get_args(ToolStatus)),
    input=inputs,
    output=cast(Any, values),
    title=cast(Any, values),
    error=cast(Any, values),
    metadata=st.dictionaries(st.sampled_from(METADATA), values) | cast(Any, values),
)


@settings(max_examples=200, deadline=None)
@given(calls)
def test_no_call_makes_it_raise_and_all_it_says_is_plain_text(part: ToolPart) -> None:
    display = ToolDisplay(part)
    shown = display.to_dict()
    assert shown["kind"] in get_args(ToolKind)
    for key in ("gerund", "past", "icon", "title"):
        assert shown[key], key
    lines = [shown["gerund"], shown["past"], shown["icon"], display.tool]
    lines += [line for line in (shown["target"], shown["language"]) if line is not None]
    assert all(len(line) <= 140 and "\n" not in line and "\t" not in line for line in lines)
    assert len(shown["title"]) <= 280
    texts = [text for text in (display.output, display.diff, display.error) if text is not None]
    texts += [text for todo in display.todos for text in (todo.content, todo.status, todo.priority)]
    for text in (*lines, shown["title"], *texts):
        bad = {each for each in text if unicodedata.category(each) in UNSEEN} - SEEN
        assert not bad, text
    json.dumps(shown, allow_nan=False).encode()
    assert with_display(part.to_json())["display"] == shown


@pytest.mark.parametrize("tool", [*TOOLS, "invalid", "some_tool"])
def test_any_type_may_stand_at_any_place(tool: str) -> None:
    odd: list[Any] = [None, True, 0, -1.5, "", " \n", [], {}, [None], [[]], [{}], {"a": []}]
    odd += [[{"question": 1}], [{"content": [], "filePath": {}}], {"text": 1}, {"text": "x"}]
    for status, value in product(("running", "completed", "error"), odd):
        for arguments in (value, *({key: value} for key in ARGUMENTS)):
            said(call(tool, status, arguments))
        for told in (value, *({key: value} for key in METADATA)):
            said(call(tool, status, metadata=told, output=value, title=value, error=value))


def said(part: ToolPart) -> None:
    """Ask it all that it can be asked."""
    display = ToolDisplay(part)
    json.dumps([display.to_dict(), display.output, display.diff, display.tool])
    assert isinstance(display.todos, tuple)


@pytest.mark.parametrize("tool", TOOLS)
def test_a_huge_call_costs_little(tool: str) -> None:
    """It is displayed on the event loop, whenever it changes."""
    huge = "*** Add File: a\n/b" * 60_000  # a megabyte
    arguments = dict.fromkeys(ARGUMENTS, huge) | {"todos": [{"content": "x"}] * 10_000}
    metadata = {"diff": huge, "display": {"text": huge}, "files": [{"filePath": huge}] * 1000}
    part = call(tool, "completed", arguments, title=huge, error=huge, metadata=metadata)
    began = time.perf_counter()
    ToolDisplay(part).to_dict()
    assert time.perf_counter() - began < 1
