"""What a person reads who is to decide: all of it, and nothing that is not seen."""

from __future__ import annotations

from typing import Any

import pytest

from opencode_async.protocol.asks import Permission
from opencode_async.protocol.permission_display import permission_display

FILE = "/srv/tenants/acme/sandbox/x1/notes.txt"
DIFF = f"""Index: {FILE}
===================================================================
--- {FILE}
+++ {FILE}
@@ -1,1 +1,1 @@
-one
+two
"""


def display(metadata: dict[str, Any] | None = None, *patterns: str) -> dict[str, Any]:
    return permission_display(Permission("ses_1", "per_1", "edit", patterns, metadata).to_json())


def test_a_change_is_shown_as_that_of_a_tool_call_is() -> None:
    shown = display({"filepath": FILE, "diff": DIFF}, "srv/tenants/acme/sandbox/x1/notes.txt")
    head = "…/sandbox/x1/notes.txt"
    assert shown == {
        "command": None,
        "diff": f"--- {head}\n+++ {head}\n@@ -1,1 +1,1 @@\n-one\n+two\n",
        "patterns": ["srv/tenants/acme/sandbox/x1/notes.txt"],
    }


@pytest.mark.parametrize(
    ("command", "shown"),
    [
        ("echo a\nrm b\t'c'", "echo a\nrm b\t'c'"),
        ("<b>ls</b>", "<b>ls</b>"),
        ("ls \x1b]0; rm -rf ~\x07", "ls \ufffd]0; rm -rf ~\ufffd"),  # which a shell runs
        ("ls \x1b[2K\rrm", "ls \ufffd[2K\ufffdrm"),
        ("rm \u202ecod.a", "rm \ufffdcod.a"),
        ("rm a\u200b\U000e0041", "rm a\ufffd\ufffd"),
    ],
)
def test_nothing_of_a_command_is_hidden(command: str, shown: str) -> None:
    assert display({"command": command})["command"] == shown


def test_nothing_of_a_change_is_hidden() -> None:
    change = DIFF.replace("two", "two \x1b]0;and more\x07 \u202e").replace("one", "one\r")
    lines = display({"diff": change})["diff"].split("\n")
    assert lines[3:5] == ["-one", "+two \ufffd]0;and more\ufffd \ufffd"]


@pytest.mark.parametrize("odd", [None, 0, "", [], {}, [{}], True])
def test_whatever_stands_there_it_is_shown_or_left_out(odd: Any) -> None:
    assert display({"command": odd, "diff": odd})["diff"] is None
    assert permission_display({"metadata": odd, "patterns": None})["patterns"] == []


def test_what_it_is_about_is_told_whole() -> None:
    long = "/a/b/c/d/e/" + "f" * 500
    assert display(None, long, "x\u202ey")["patterns"] == [long, "x\ufffdy"]
