"""Which script a chat request asks for, and how far into it the conversation is."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

SCRIPT = re.compile(r"SCRIPT:([A-Za-z_]+?)(\d{3})?(?:[ \t]+([^\n]*))?(?=\n|$|<)")

Message = Mapping[str, Any]


@dataclass(frozen=True)
class Script:
    """A script's name and argument, and the number of the step that comes next."""

    name: str = "echo"
    argument: str = ""
    step: int = 0
    user_text: str = ""
    status: int | None = None
    """The HTTP status of ``error<status>``."""

    def options(self) -> dict[str, Any]:
        """The argument as an object: a number is ``n``, a list ``value``, free text ``text``."""
        if not self.argument:
            return {}
        try:
            value = json.loads(self.argument)
        except ValueError:
            return {"text": self.argument}
        if isinstance(value, dict):
            return value
        return {"n": value} if isinstance(value, int) else {"value": value}


def script_of(body: Mapping[str, Any]) -> Script:
    """Read a request to ``/v1/chat/completions``."""
    messages: Sequence[Message] = body.get("messages") or []
    own = None if body.get("tools") else opencodes_own(messages)
    if own is not None:
        return Script(own)
    users = [index for index, message in enumerate(messages) if message.get("role") == "user"]
    for index in reversed(users):
        text = text_of(messages[index])
        if found := list(SCRIPT.finditer(text)):
            name, status, argument = found[-1].groups()
            return Script(
                name,
                (argument or "").strip(),
                tool_messages_after(messages, index),
                text,
                int(status) if status else None,
            )
    return Script(user_text=text_of(messages[users[-1]])) if users else Script()


def opencodes_own(messages: Sequence[Message]) -> str | None:
    """OpenCode asks for titles and summaries with the user's words in it, but with no tools."""
    system = text_of(messages[0]) if messages else ""
    for marker, name in (("title generator", "title"), ("summarization", "summary")):
        if marker in system:
            return name
    return None


def text_of(message: Message) -> str:
    """The text of a chat message, whether its content is a string or parts."""
    content = message.get("content")
    if isinstance(content, str):
        return content
    return "\n".join(part.get("text", "") for part in content or [])


def tool_messages_after(messages: Sequence[Message], index: int) -> int:
    return sum(message.get("role") == "tool" for message in messages[index + 1 :])
