"""The tools of OpenCode, and the words for what each does: one row a tool.

All that 1.18.33 has (its registry, read): a tool that is not here comes from an MCP server, a
plugin or a file of the workspace. ``execute``, ``lsp`` and ``plan_exit`` are experimental there and
off by default; ``StructuredOutput`` is what a prompt with a ``format`` is answered by.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from opencode_async.protocol.plain_text import one_line

ToolKind = Literal[
    "read", "search", "edit", "run", "web", "task", "plan", "question", "skill", "mcp", "other"
]


@dataclass(frozen=True, slots=True)
class ToolName:
    """The words for a tool; ``icon`` is a name of Lucide's set."""

    kind: ToolKind
    gerund: str
    past: str
    icon: str


TOOLS: Mapping[str, ToolName] = {
    "bash": ToolName("run", "Running", "Ran", "terminal"),
    "execute": ToolName("run", "Running code", "Ran code", "square-code"),
    "read": ToolName("read", "Reading", "Read", "file-text"),
    "glob": ToolName("search", "Looking for files", "Looked for files", "folder-search"),
    "grep": ToolName("search", "Searching files", "Searched files", "text-search"),
    "lsp": ToolName("search", "Looking up code", "Looked up code", "braces"),
    "edit": ToolName("edit", "Editing", "Edited", "pencil"),
    "write": ToolName("edit", "Writing", "Wrote", "file-plus"),
    "apply_patch": ToolName("edit", "Patching", "Patched", "file-diff"),
    "webfetch": ToolName("web", "Fetching", "Fetched", "globe"),
    "websearch": ToolName("web", "Searching the web", "Searched the web", "search"),
    "task": ToolName("task", "Delegating", "Delegated", "bot"),
    "todowrite": ToolName("plan", "Updating the plan", "Updated the plan", "list-todo"),
    "plan_exit": ToolName("plan", "Presenting the plan", "Presented the plan", "clipboard-check"),
    "question": ToolName("question", "Asking", "Asked", "message-circle-question-mark"),
    "skill": ToolName("skill", "Loading skill", "Loaded skill", "book-open"),
    "StructuredOutput": ToolName(
        "other", "Returning the result", "Returned the result", "clipboard-check"
    ),
}


def tool_name(tool: str) -> ToolName:
    """The words for a tool, known or not.

    OpenCode calls a tool of an MCP server ``<server>_<tool>``, both of which may have underscores
    of their own, and so may a plugin's tool: the whole name is said, in words.
    """
    if tool in TOOLS:
        return TOOLS[tool]
    words = one_line(re.sub(r"[_-]+", " ", tool)) or "a tool"
    is_of_server = re.fullmatch(r"[A-Za-z0-9-]+_.+", tool, re.DOTALL) is not None
    kind: ToolKind = "mcp" if is_of_server else "other"
    return ToolName(kind, f"Using {words}", f"Used {words}", "plug" if is_of_server else "wrench")
