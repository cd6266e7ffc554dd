"""A tool call as a person is to see it."""

from __future__ import annotations

import json
import re
from collections import Counter
from typing import Any, get_args

import pytest

from opencode_async import Todo, ToolDisplay, ToolPart
from opencode_async.protocol.parts import ToolStatus, part_from_json
from opencode_async.protocol.tool_display import MOST_TOLD, with_display
from opencode_async.protocol.tool_names import TOOLS, ToolKind
from tests.protocol.tool_calls import call, recorded_calls

KEYS = [
    *("kind", "status", "gerund", "past", "icon", "target"),
    *("title", "language", "diff", "error"),
]
TODOS = [
    {"content": "one", "status": "completed", "priority": "high"},
    {"content": "two", "status": "pending", "priority": "low"},
]
QUESTION = {"question": "Which colour?", "header": "Colour", "options": []}
PATCH = "*** Begin Patch\n*** Update File: src/a.py\n@@\n-1\n+2\n*** End Patch"
# Each tool of OpenCode 1.18.33 with arguments as its schema has them: its kind and its titles.
CALLS: dict[str, tuple[dict[str, Any], str, str, str]] = {
    "bash": ({"command": "ls -la\npwd"}, "run", "Running ls -la pwd", "Ran ls -la pwd"),
    "execute": ({"code": "return 1"}, "run", "Running code return 1", "Ran code return 1"),
    "read": ({"filePath": "notes.txt"}, "read", "Reading notes.txt", "Read notes.txt"),
    "glob": ({"pattern": "*.py"}, "search", "Looking for files *.py", "Looked for files *.py"),
    "grep": ({"pattern": "def "}, "search", "Searching files def", "Searched files def"),
    "lsp": (
        {"operation": "hover", "filePath": "/srv/app/src/web/a.ts", "line": 1, "character": 2},
        "search",
        "Looking up code hover …/src/web/a.ts",
        "Looked up code hover …/src/web/a.ts",
    ),
    "edit": (
        {"filePath": "/srv/app/a.py", "oldString": "1", "newString": "2"},
        "edit",
        "Editing /srv/app/a.py",
        "Edited /srv/app/a.py",
    ),
    "write": ({"filePath": "a.md", "content": "x"}, "edit", "Writing a.md", "Wrote a.md"),
    "apply_patch": ({"patchText": PATCH}, "edit", "Patching src/a.py", "Patched src/a.py"),
    "webfetch": (
        {"url": "https://me:secret@example.org/a"},
        "web",
        "Fetching https://example.org/a",
        "Fetched https://example.org/a",
    ),
    "websearch": (
        {"query": "asyncio", "numResults": 3},
        "web",
        "Searching the web asyncio",
        "Searched the web asyncio",
    ),
    "task": (
        {"description": "A small job", "prompt": "Do it.", "subagent_type": "general"},
        "task",
        "Delegating A small job",
        "Delegated A small job",
    ),
    "todowrite": (
        {"todos": TODOS},
        "plan",
        "Updating the plan 1 of 2 done",
        "Updated the plan 1 of 2 done",
    ),
    "plan_exit": ({}, "plan", "Presenting the plan", "Presented the plan"),
    "question": (
        {"questions": [QUESTION, QUESTION]},
        "question",
        "Asking Which colour?",
        "Asked Which colour?",
    ),
    "skill": ({"name": "pdf"}, "skill", "Loading skill pdf", "Loaded skill pdf"),
    "StructuredOutput": (
        {"query": "x", "path": "y"},
        "other",
        "Returning the result",
        "Returned the result",
    ),
}
# What the recordings' calls are told as, once they are over.
RECORDED = {
    ("StructuredOutput", "Returned the result"): 7,
    ("apply_patch", "Patched …"): 2,
    ("bash", "Ran …"): 12,
    ("bash", "Running …"): 4,
    ("edit", "Edited …"): 2,
    ("invalid", "Using no such tool"): 2,
    ("invalid", "Writing"): 2,
    ("question", "Asked …"): 1,
    ("question", "Asking …"): 1,
    ("read", "Read …"): 2,
    ("read", "Reading …"): 1,
    ("task", "Delegated …"): 7,
    ("todowrite", "Updated the plan …"): 2,
    ("write", "Wrote …"): 8,
    ("write", "Writing …"): 5,
}


@pytest.mark.parametrize("tool", TOOLS)
def test_every_tool_of_the_server_has_words_of_its_own(tool: str) -> None:
    arguments, kind, running, done = CALLS[tool]
    assert ToolDisplay(call(tool, "running", arguments)).title == running
    assert ToolDisplay(call(tool, "error", arguments)).title == running  # it has not done it
    display = ToolDisplay(call(tool, "completed", arguments))
    assert (display.tool, display.kind, display.title) == (tool, kind, done)
    assert ToolDisplay(call(tool, "pending")).title == TOOLS[tool].gerund  # no arguments yet


def test_the_words_are_words_and_the_icons_are_names() -> None:
    for name in TOOLS.values():
        assert name.kind in get_args(ToolKind)
        assert re.fullmatch(r"[A-Z][a-z ]+ing( [a-z ]+)?", name.gerund)
        assert re.fullmatch(r"[A-Z][a-z ]+", name.past)
        assert re.fullmatch(r"[a-z]+(-[a-z]+)*", name.icon)


def test_every_call_of_the_recordings_is_told() -> None:
    calls = recorded_calls()
    over = Counter[tuple[str, str]]()
    for part in calls:
        display = ToolDisplay(part)
        assert list(display.to_dict()) == KEYS
        assert part.tool in {*TOOLS, "invalid", "no_such_tool"}
        json.dumps(display.to_dict(), allow_nan=False)
        if display.is_terminal:
            verb = display.past if display.is_completed else display.gerund
            over[part.tool, verb + (" …" if display.target else "")] += 1
    assert len(calls) > 100
    assert over == RECORDED


def test_a_call_that_could_not_be_made_has_failed() -> None:
    """OpenCode stores it as a call of ``invalid`` that completes (1.18.33, measured)."""
    arguments = {"tool": "write", "error": "Invalid input for tool write.\n\x1b[31mNo\x1b[0m"}
    display = ToolDisplay(call("invalid", "completed", arguments, output="The arguments …"))
    assert (display.status, display.is_failed, display.is_completed) == ("error", True, False)
    assert (display.tool, display.kind, display.title) == ("write", "edit", "Writing")
    assert (display.error, display.output) == ("Invalid input for tool write.\nNo", None)
    unknown = ToolDisplay(call("invalid", "running", {"tool": "no_such_tool", "error": "No."}))
    assert (unknown.title, unknown.error) == ("Using no such tool", "No.")
    assert ToolDisplay(call("invalid")).title == "Using a tool"


@pytest.mark.parametrize("status", get_args(ToolStatus))
def test_how_far_a_call_is(status: ToolStatus) -> None:
    display = ToolDisplay(call("bash", status))
    assert display.status == status
    assert [
        display.is_pending,
        display.is_running,
        display.is_completed,
        display.is_failed,
    ] == [status == each for each in get_args(ToolStatus)]
    assert display.is_in_flight is (status in ("pending", "running"))
    assert display.is_terminal is not display.is_in_flight


@pytest.mark.parametrize(
    ("tool", "kind", "title", "icon"),
    [
        ("github_create_issue", "mcp", "Used github create issue", "plug"),
        ("local-web-search_fetch_url", "mcp", "Used local web search fetch url", "plug"),
        ("brave_read", "mcp", "Used brave read", "plug"),  # another's, whatever it reads
        ("weather", "other", "Used weather", "wrench"),
        ("todoread", "other", "Used todoread", "wrench"),
        ("Bash", "other", "Used Bash", "wrench"),
        ("_", "other", "Used a tool", "wrench"),
        ("", "other", "Used a tool", "wrench"),
        ("x\u202e_\n<img src=x>", "other", "Used x\ufffd <img src=x>", "wrench"),
        ("y" * 500, "other", "Used " + "y" * 119 + "…", "wrench"),
    ],
)
def test_a_tool_of_somebody_else_is_told_by_its_name(
    tool: str, kind: str, title: str, icon: str
) -> None:
    display = ToolDisplay(call(tool))
    assert (display.kind, display.title, display.icon) == (kind, title, icon)


@pytest.mark.parametrize(
    ("arguments", "title", "target"),
    [
        ({"x": "y"}, None, None),
        ({"query": "asyncio", "path": "/a"}, None, "asyncio"),
        ({"q": "asyncio"}, None, "asyncio"),
        ({"query": 3, "url": "https://me:secret@a.example/b"}, None, "https://a.example/b"),
        ({"path": "/srv/app/a/b/c.txt"}, None, "…/a/b/c.txt"),
        ({"path": " ", "name": "n"}, None, "n"),
        ({"query": "asyncio"}, "Found\n3", "Found 3"),
        ({"query": "asyncio"}, "", "asyncio"),
    ],
)
def test_what_a_tool_of_somebody_else_is_about(
    arguments: dict[str, Any], title: str | None, target: str | None
) -> None:
    assert ToolDisplay(call("some_tool", input=arguments, title=title)).target == target


def test_a_patch_names_its_files() -> None:
    def target(*files: str) -> str | None:
        patch = "".join(f"*** Update File: {file}\n" for file in files)
        return ToolDisplay(call("apply_patch", input={"patchText": patch})).target

    assert target() is None
    assert target("a.py", "b/c.py") == "a.py, b/c.py"
    assert target("a", "b", "c", "d", "e") == "a, b, c and 2 more"
    assert target(*["/srv/" + "long/" * 30 + "a.py"] * 4) == (
        "…/long/long/a.py, …/long/long/a.py, …/long/long/a.py and 1 more"
    )


def test_the_diff_is_the_servers_without_its_heading() -> None:
    diff = "--- …/w/src/a.py\n+++ …/w/src/a.py\n@@ -1,2 +1 @@\n--- /srv/w/src/a.py\n-1\n+2\u202e\n"
    given = diff.replace("…", "/srv", 2)
    given = f"Index: /srv/w/src/a.py\n{'=' * 67}\n{given}\n"
    for tool in ("edit", "apply_patch"):
        shown = ToolDisplay(call(tool, "running", metadata={"diff": given})).diff
        assert shown == diff.replace("\u202e", "\ufffd")
        assert ToolDisplay(call(tool, metadata={"diff": "\n"})).diff is None
        assert ToolDisplay(call(tool, metadata={"diff": [given]})).diff is None
        assert ToolDisplay(call(tool)).diff is None
    assert ToolDisplay(call("some_tool", metadata={"diff": given})).diff is None


@pytest.mark.parametrize(
    ("content", "diff"),
    [
        ("one\ntwo\n", "--- /dev/null\n+++ a.txt\n@@ -0,0 +1,2 @@\n+one\n+two\n"),
        (
            "one",
            "--- /dev/null\n+++ a.txt\n@@ -0,0 +1,1 @@\n+one\n\\ No newline at end of file\n",
        ),
        ("\n", "--- /dev/null\n+++ a.txt\n@@ -0,0 +1,1 @@\n+\n"),
        ("a\x0cb\r\nc\n", "--- /dev/null\n+++ a.txt\n@@ -0,0 +1,2 @@\n+a\ufffdb\n+c\n"),
        ("", None),
        (None, None),
        (["one"], None),
    ],
)
def test_the_diff_of_a_new_file_is_all_of_it(content: object, diff: str | None) -> None:
    arguments = {"filePath": "a.txt", "content": content}
    assert ToolDisplay(call("write", input=arguments, metadata={"exists": False})).diff == diff
    assert ToolDisplay(call("write", input=arguments)).diff == diff


def test_a_file_that_was_written_over_has_no_diff_that_anybody_knows() -> None:
    arguments = {"filePath": "a.txt", "content": "one"}
    assert ToolDisplay(call("write", input=arguments, metadata={"exists": True})).diff is None
    assert ToolDisplay(call("write", "running", arguments)).diff is None  # it may be there already
    assert ToolDisplay(call("write", "error", arguments)).diff is None


def test_the_output_is_what_came_of_it() -> None:
    text = "<path>/w/a</path>\n<content>\n1: one\n</content>"
    read = call("read", output=text, metadata={"display": {"type": "file", "text": "one"}})
    assert ToolDisplay(read).output == "one"
    folder = call("read", output="a\nb/", metadata={"display": {"entries": ["a", "b/"]}})
    assert ToolDisplay(folder).output == "a\nb/"
    running = call("bash", "running", metadata={"output": "\x1b[32m10%\r20%"})
    assert ToolDisplay(running).output == "10%\n20%"
    assert ToolDisplay(call("bash", output="done", metadata={"output": "10%"})).output == "done"
    assert ToolDisplay(call("bash", output="")).output == ""
    assert ToolDisplay(call("bash", "running")).output is None
    for kind, state in (("task_result", "completed"), ("task_error", "error")):
        told = f'<task id="ses_1" state="{state}">\n<{kind}>\nAll\ndone.\n</{kind}>\n</task>'
        assert ToolDisplay(call("task", output=told)).output == "All\ndone."
    assert ToolDisplay(call("task", output="Done.")).output == "Done."


def test_the_todos_are_the_plans() -> None:
    todos = [*TODOS, {"content": "\x1b[1mthree\u202e", "status": "?\n"}, {"status": "x"}, 3]
    for status in ("running", "completed"):
        assert ToolDisplay(call("todowrite", status, {"todos": todos})).todos == (
            Todo("one", "completed", "high"),
            Todo("two", "pending", "low"),
            Todo("three\ufffd", "?", "medium"),
        )
    assert ToolDisplay(call("todowrite", "pending")).todos == ()
    assert ToolDisplay(call("some_todowrite", input={"todos": TODOS})).todos == ()


@pytest.mark.parametrize(
    ("path", "language"),
    [
        ("a.py", "python"),
        ("/srv/app/Main.TSX", "tsx"),
        ("C:\\work\\a.rs", "rust"),
        ("deploy/Dockerfile", "dockerfile"),
        ("CMakeLists.txt", "cmake"),
        ("notes.txt", None),
        ("py", None),
        ("src.py/README", None),
        ("a.py.unknown", None),
    ],
)
def test_the_language_is_told_from_the_files_name(path: str, language: str | None) -> None:
    for tool in ("read", "edit", "write"):
        assert ToolDisplay(call(tool, input={"filePath": path})).language == language
    assert ToolDisplay(call("some_tool", input={"filePath": path})).language is None


def test_a_patch_of_several_files_is_in_no_one_language() -> None:
    one = "*** Add File: a.py\n"
    assert ToolDisplay(call("apply_patch", input={"patchText": one})).language == "python"
    two = f"{one}*** Add File: b.py\n"
    assert ToolDisplay(call("apply_patch", input={"patchText": two})).language is None


def test_the_json_does_not_repeat_what_the_part_has() -> None:
    output = call("bash", input={"command": "ls"}, output="x" * 50_000)
    assert ToolDisplay(output).to_dict() == {
        "kind": "run",
        "status": "completed",
        "gerund": "Running",
        "past": "Ran",
        "icon": "terminal",
        "target": "ls",
        "title": "Ran ls",
        "language": None,
        "diff": None,
        "error": None,
    }


@pytest.mark.parametrize("over", [0, 1])
def test_a_diff_and_an_error_are_in_the_json_up_to_a_length(over: int) -> None:
    diff = "+" * (MOST_TOLD - 1 + over) + "\n"
    edited = ToolDisplay(call("edit", metadata={"diff": diff}))
    assert edited.diff == diff
    assert edited.to_dict()["diff"] == (None if over else diff)
    content = "x" * (MOST_TOLD + over)
    written = ToolDisplay(call("write", input={"content": content}))
    assert content in (written.diff or "")
    assert written.to_dict()["diff"] == (None if over else written.diff)
    error = "x" * (MOST_TOLD + over)
    failed = ToolDisplay(call("edit", "error", error=error))
    assert failed.error == error
    assert failed.to_dict()["error"] == (None if over else error)


def test_only_a_tool_call_is_displayed() -> None:
    text = {"id": "prt_1", "type": "text", "content": "Hi"}
    assert with_display(text) == text
    for part in recorded_calls():
        shown = with_display(part.to_json())
        assert {key: shown[key] for key in shown if key != "display"} == part.to_json()
        assert shown["display"] == ToolDisplay(part).to_dict()
        assert part_from_json(shown) == part  # what is stored or shown again has no use for it
        assert with_display(shown) == shown


SECRET = "https://me:s3cret@example.org/a"


@pytest.mark.parametrize(
    "part",
    [
        call("bash", input={"command": f"git clone {SECRET} && curl -o a '{SECRET}'"}),
        call("bash", input={"command": "psql postgresql://me:s3cret@host/app"}),
        call("task", input={"description": f"Look at {SECRET}"}),
        call("question", input={"questions": [{"question": f"Is it {SECRET}?"}]}),
        call("websearch", input={"query": SECRET}),
        call("webfetch", input={"url": SECRET}),
        call("some_tool", title=f"Fetched {SECRET} (text/html)"),
        call("some_tool", title=f"Fetched ({SECRET})"),
        call("some_tool", input={"query": f"see {SECRET}"}),
        call("bash", input={"command": f"curl{' ' * 100}{'x' * 90} {SECRET}"}),
    ],
    ids=repr,
)
def test_no_title_tells_the_password_of_a_url(part: ToolPart) -> None:
    title = ToolDisplay(part).title
    assert "s3c" not in title
    assert "me:" not in title
    assert "//" in title


def test_displays_of_equal_parts_are_equal() -> None:
    one, two = call("bash", input={"command": "ls"}), call("bash", input={"command": "ls"})
    assert ToolDisplay(one) == ToolDisplay(two)
    assert isinstance(ToolDisplay(one).part, ToolPart)
