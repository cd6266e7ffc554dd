"""Answers told in Python: ``impostor.on("hello").text("Hi").tool("bash", command="ls")``."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, Self

from opencode_async.testing.impostor.model import Prepared, Reply, Request, Said, Usage
from opencode_async.testing.scripted_model.scripts import (
    Cut,
    Finish,
    Hang,
    Reasoning,
    Refusal,
    StreamError,
    Text,
    Wait,
)

Matching = str | re.Pattern[str] | Callable[[str], bool]
Json = dict[str, Any]


class Story:
    """What the agent does when a prompt matches, in the order in which it is told.

    Each method adds to it and returns it. A call of a tool ends a step, as with a real model: what
    is told behind it is said when the tool has its result. A tool is really run, in the session's
    directory, unless it is given an ``output`` or an ``error``.
    """

    def __init__(self, matching: Matching) -> None:
        self._matching = matching
        self._steps: list[list[Said]] = [[]]
        self._refusals: dict[int, tuple[Refusal, float]] = {}
        self._refused: Counter[tuple[str, int]] = Counter()

    def text(self, *deltas: str) -> Self:
        """Say that; unless given as several, each word is a delta."""
        pieces = deltas if len(deltas) > 1 else re.findall(r"\S+\s*|\s+", "".join(deltas))
        return self._add(*map(Text, pieces))

    def reasoning(self, *deltas: str) -> Self:
        """Think that."""
        return self._add(*map(Reasoning, deltas))

    def tool(
        self,
        name: str,
        arguments: Json | None = None,
        *,
        output: str | None = None,
        error: str | None = None,
        title: str | None = None,
        metadata: Json | None = None,
        **named: object,
    ) -> Self:
        """Call a tool with these arguments, as a mapping or by their names."""
        state = result(output, error, title or name, metadata)
        return self._call(Prepared(name, json.dumps({**(arguments or {}), **named}), state))

    def asks(
        self,
        name: str,
        arguments: Json | None = None,
        *,
        output: str | None = None,
        **named: object,
    ) -> Self:
        """Call a tool that asks leave first, whatever the session's rules say."""
        state = result(output, None, name, None)
        given = json.dumps({**(arguments or {}), **named})
        return self._call(Prepared(name, given, state, asks=True))

    def question(self, question: str, *labels: str, multiple: bool = False) -> Self:
        """Ask the user to choose."""
        options = [{"label": label, "description": label} for label in labels]
        asked = {"question": question, "header": question[:30], "options": options}
        return self.tool("question", questions=[{**asked, "multiple": multiple}])

    def todos(self, **statuses: str) -> Self:
        """Write the list of what is to do: ``todos(read="completed", write="in_progress")``."""
        items = [
            {"content": content, "status": status, "priority": "medium"}
            for content, status in statuses.items()
        ]
        return self.tool("todowrite", todos=items)

    def task(self, prompt: str, *, agent: str = "general", description: str = "A job") -> Self:
        """Have a subagent answer that prompt, to which another story may match."""
        return self.tool("task", description=description, prompt=prompt, subagent_type=agent)

    def usage(self, *, input: int, output: int, cost: float, reasoning: int = 0) -> Self:
        """What this step used and cost, in place of made up counts."""
        return self._add(Usage(input, output, cost, reasoning))

    def wait(self, seconds: float) -> Self:
        """Say nothing for so long, by the Impostor's clock."""
        return self._add(Wait(seconds))

    def hang(self) -> Self:
        """Say nothing more, until the turn is aborted."""
        return self._add(Hang())

    def cut(self) -> Self:
        """The provider's stream breaks here; OpenCode begins the step anew, five times at most."""
        return self._add(Cut())

    def stream_error(self, message: str = "overloaded") -> Self:
        """The provider reports an error in its stream; treated as ``cut`` is."""
        return self._add(StreamError(message))

    def error(
        self,
        status: int,
        message: str | None = None,
        *,
        times: float = math.inf,
        after: float | None = None,
    ) -> Self:
        """The provider refuses this step so many times; 429 and 5xx are tried again five times.

        ``after`` is the wait that it asks for, in seconds.
        """
        text = message or f"provider error {status}"
        told = Refusal(status, text, str(status), None if after is None else str(after))
        self._refusals[len(self._steps) - 1] = (told, times)
        return self

    def overflow(self) -> Self:
        """The conversation is too long: OpenCode has it summed up and asks once more."""
        message = "This model's maximum context length is 8192 tokens."
        told = Refusal(400, message, "context_length_exceeded", None)
        self._refusals[len(self._steps) - 1] = (told, 1)
        return self

    def finish(self, reason: str) -> Self:
        """End with that reason, in the provider's words: ``length``, ``content_filter``."""
        return self._add(Finish(reason))

    def __call__(self, request: Request) -> Reply | None:
        """See ``Teller``."""
        if not self._matches(request.prompt):
            return None
        if request.step in self._refusals:
            told, times = self._refusals[request.step]
            key = (request.session_id, request.step)
            self._refused[key] += 1
            if self._refused[key] <= times:
                return told
        return self._said(request.step)

    def _matches(self, prompt: str) -> bool:
        match self._matching:
            case str(part):
                return part in prompt
            case re.Pattern() as pattern:
                return pattern.search(prompt) is not None
            case test:
                return test(prompt)

    def _said(self, step: int) -> Iterator[Said]:
        told = self._steps[step] if step < len(self._steps) else []
        yield from told
        if not any(isinstance(each, Finish) for each in told):
            calls = any(isinstance(each, Prepared) for each in told)
            yield Finish("tool_calls" if calls else "stop")

    def _add(self, *said: Said) -> Self:
        self._steps[-1] += said
        return self

    def _call(self, call: Prepared) -> Self:
        self._steps[-1].append(call)
        self._steps.append([])
        return self


def result(output: str | None, error: str | None, title: str, metadata: Json | None) -> Json | None:
    """The end of a call that is not made, ``None`` for one that is."""
    if error is not None:
        return {"status": "error", "error": error}
    if output is None:
        return None
    return {"status": "completed", "output": output, "title": title, "metadata": metadata or {}}
