"""Which files a turn's calls say they left, by the recordings of the real server and by hand."""

from __future__ import annotations

from typing import Any

from opencode_async.protocol.parts import Part, TextPart, ToolPart, part_from_wire
from opencode_async.protocol.paths import Paths
from opencode_async.protocol.tool_artifacts import ToolArtifact, tool_artifacts
from tests.protocol.recording import recording


def recorded(name: str) -> list[Part]:
    """The tool calls of a recording, in their last state."""
    parts: dict[str, Part] = {}
    for row in recording(name).rows:
        data = row.get("data") or {}
        if row.get("src") == "event" and data.get("type") == "message.part.updated":
            raw = data["properties"]["part"]
            part = part_from_wire(raw)
            if isinstance(part, ToolPart):
                parts[raw["id"]] = part
    return list(parts.values())


def call(tool: str, metadata: dict[str, Any], **given: Any) -> ToolPart:
    return ToolPart("prt", tool, "call", "completed", given, metadata=metadata)


def write(path: str, content: str) -> ToolPart:
    return call("write", {"filepath": path}, filePath="as it was said", content=content)


def test_what_the_real_server_sends_of_each_tool() -> None:
    assert tool_artifacts(recorded("tool_write")) == (
        ToolArtifact("/workspace/notes.txt", "line one\nline two\n"),
    )
    assert tool_artifacts(recorded("tool_edit")) == (ToolArtifact("/workspace/notes.txt", None),)
    assert tool_artifacts(recorded("tool_apply_patch")) == (
        ToolArtifact("/workspace/patched.txt", None),
    )


def test_the_last_call_decides_what_is_known_of_a_file() -> None:
    edit = call("edit", {"filediff": {"file": "/w/a"}})
    first = write("/w/a", "one")
    assert tool_artifacts([first, write("/w/b", "b"), write("/w/a", "two")]) == (
        ToolArtifact("/w/a", "two"),
        ToolArtifact("/w/b", "b"),
    )
    assert tool_artifacts([first, edit]) == (ToolArtifact("/w/a", None),)
    assert tool_artifacts([edit, first]) == (ToolArtifact("/w/a", "one"),)


def test_what_a_patch_takes_away_is_not_there() -> None:
    files = [
        {"filePath": "/w/a", "type": "delete"},
        {"filePath": "/w/b", "type": "move", "movePath": "/w/c"},
        {"filePath": 7},
        "no file",
    ]
    patch = call("apply_patch", {"files": files})
    found = tool_artifacts([write("/w/a", "a"), write("/w/b", "b"), patch])
    assert found == (ToolArtifact("/w/c", None),)


def test_only_calls_that_succeeded_and_say_where_count() -> None:
    failed = ToolPart(
        "prt", "write", "call", "error", {"content": "x"}, metadata={"filepath": "/a"}
    )
    nowhere = call("write", {}, filePath="/a", content="x")
    strange = call("write", {"filepath": "/b"}, content=["x"])
    other = call("bash", {"filepath": "/c"}, content="x")
    found = tool_artifacts([failed, nowhere, strange, other, TextPart("prt", "/d")])
    assert found == (ToolArtifact("/b", None),)


def test_where_a_file_of_the_servers_stands() -> None:
    paths = Paths("/srv/agent", "/")
    mine = paths.sandbox("key")
    places = {
        "/srv/agent/sandbox/key/a/b.txt": ("a/b.txt", True),
        "/srv/agent/sandbox/key/../key/b.txt": ("b.txt", True),
        "/srv/agent/notes.txt": ("notes.txt", False),
        "/srv/agent/sandbox/other/b.txt": None,
        "/srv/agent/sandbox/key": None,
        "/srv/agent/../other/b.txt": None,
        "/srv/agents/b.txt": None,
        "/etc/passwd": None,
        "notes.txt": None,
    }
    assert {path: paths.place_of(path, mine) for path in places} == places
    assert Paths("/", "/").place_of("/etc/hosts", "/sandbox/key") == ("etc/hosts", False)
