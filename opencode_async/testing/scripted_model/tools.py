"""The scripts that are tool calls, one per step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from opencode_async.testing.scripted_model.request import Script

Call = tuple[str, Mapping[str, Any]]


def tool_steps(script: Script) -> list[Call] | None:
    """The calls of ``script``, each a tool's name and arguments; ``None`` if it is not of tools."""
    given = script.options()
    path = given.get("path", "notes.txt")
    match script.name:
        case "write":
            content = given.get("content", "line one\nline two\n")
            return [("write", {"filePath": path, "content": content})]
        case "read":
            return [("read", {"filePath": path})]
        case "edit":
            old, new = given.get("old", "line two"), given.get("new", "line 2")
            change = {"filePath": path, "oldString": old, "newString": new}
            return [("read", {"filePath": path}), ("edit", change)]
        case "apply_patch":
            added = "*** Begin Patch\n*** Add File: patched.txt\n+one\n+two\n*** End Patch"
            return [("apply_patch", {"patchText": given.get("patch", added)})]
        case "bash":
            return [bash(given.get("command", "echo hello from bash"), "Runs a command")]
        case "loop":
            count = int(given.get("n", 5))
            return [bash(f"echo step {i}", f"Step {i}") for i in range(1, count + 1)]
        case "todo":
            return [todos("in_progress", "pending"), todos("completed", "in_progress")]
        case "question":
            count, multiple = int(given.get("n", 1)), bool(given.get("multiple"))
            return [("question", {"questions": [question(multiple)] * count})]
        case "task":
            return [task(given)]
        case "webfetch":
            url = given.get("url", "http://127.0.0.1:9/")
            return [("webfetch", {"url": url, "format": "text", "timeout": 2})]
        case "tools":
            return calls_in(script)
        case "unknowntool":
            return [("no_such_tool", {"value": 1})]
    return None


def calls_in(script: Script) -> list[Call]:
    """The calls that the script's argument lists."""
    return [(call["name"], call.get("args", {})) for call in script.options().get("value", [])]


def bash(command: str, description: str) -> Call:
    return "bash", {"command": command, "description": description}


def todos(first: str, second: str) -> Call:
    items = [
        {"content": "first task", "status": first, "priority": "high"},
        {"content": "second task", "status": second, "priority": "low"},
    ]
    return "todowrite", {"todos": items}


def question(multiple: bool) -> dict[str, Any]:
    return {
        "question": "Which colour should it be?",
        "header": "Colour",
        "multiple": multiple,
        "options": [
            {"label": "Red", "description": "A warm colour"},
            {"label": "Blue", "description": "A cold colour"},
        ],
    }


def task(given: Mapping[str, Any]) -> Call:
    arguments = {
        "description": "A small job",
        "prompt": given.get("prompt", "SCRIPT:text Answer from the subagent."),
        "subagent_type": given.get("agent", "general"),
    }
    background = {"background": given["background"]} if "background" in given else {}
    return "task", {**arguments, **background}
