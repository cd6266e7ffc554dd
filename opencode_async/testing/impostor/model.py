"""What the Impostor's model says: stories told in Python, or the scripts of ``scripted_model``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from opencode_async.testing.scripted_model.request import Script, script_of
from opencode_async.testing.scripted_model.scripts import (
    Event,
    Refusal,
    ToolCall,
    failures,
    refusal,
    reply,
)

Json = dict[str, Any]


@dataclass(frozen=True)
class Request:
    """What OpenCode asks of a model: ``prompt`` is the text of the newest user message."""

    session_id: str
    prompt: str
    messages: Sequence[Json]
    tools: Sequence[str]
    step: int
    """Calls of tools since that message."""
    own: bool = False
    """Whether it is OpenCode's, not a user's: for a summary."""


@dataclass(frozen=True)
class Usage:
    """What an answer used, in tokens, and cost, in USD; in place of the scripted counts."""

    input: int
    output: int
    cost: float
    reasoning: int = 0
    cache_read: int = 0


@dataclass(frozen=True)
class Prepared(ToolCall):
    """A call that is told what comes of it instead of being made, or that asks whatever the rules.

    ``state`` is the rest of the part's state: ``output``, ``title`` and ``metadata``, or ``error``.
    """

    state: Json | None = field(default=None)
    asks: bool = False


Said = Event | Usage
Reply = Refusal | Iterator[Said]


class Teller(Protocol):
    """Has something to say to some requests."""

    def __call__(self, request: Request) -> Reply | None:
        """The answer, or ``None`` to leave it to the next."""


class Scripts:
    """Answers as ``ScriptedModel`` does: ``SCRIPT:<name>`` in a prompt, else an echo of it."""

    def __init__(self) -> None:
        self._failed: Counter[tuple[str, str]] = Counter()

    def __call__(self, request: Request) -> Reply:
        """See ``Teller``; it answers everything."""
        tools = [{"function": {"name": name}} for name in request.tools]
        script = self._due(request, script_of({"messages": request.messages, "tools": tools}))
        return refusal(script) or reply(script)

    def _due(self, request: Request, script: Script) -> Script:
        """The script asked for; ``text`` once it has failed as often as it should."""
        if times := failures(script):
            key = (request.session_id, script.user_text)
            self._failed[key] += 1
            if self._failed[key] > times:
                return replace(script, name="text")
        return script
