"""The objects of a streamed OpenAI chat answer."""

from __future__ import annotations

from typing import Any

from opencode_async.testing.scripted_model.scripts import (
    Finish,
    Reasoning,
    StreamError,
    Text,
    ToolCall,
)

Chunk = dict[str, Any]


class Answer:
    """One streamed answer; counts what was sent, so that a test can assert tokens and cost."""

    def __init__(self, number: int, model: str, created: int) -> None:
        self._number = number
        self._base: Chunk = {
            "id": f"chatcmpl-{number:06d}",
            "object": "chat.completion.chunk",
            "created": created,
            "model": model,
        }
        self._texts = self._thoughts = self._calls = 0

    def start(self) -> Chunk:
        """The chunk that opens every answer."""
        return self._choice({"role": "assistant", "content": ""})

    def chunks(self, event: Text | Reasoning | ToolCall | StreamError | Finish) -> list[Chunk]:
        """What is sent for ``event``."""
        match event:
            case Text(text):
                self._texts += 1
                return [self._choice({"content": text})]
            case Reasoning(text):
                self._thoughts += 1
                return [self._choice({"reasoning_content": text})]
            case ToolCall():
                return self._tool_call(event)
            case StreamError(message):
                return [{"error": {"message": message, "type": "server_error"}}]
            case Finish(reason):
                return [self._choice({}, reason)]

    def usage(self) -> Chunk:
        """The chunk that closes every answer: 100 prompt tokens, and one per delta or call."""
        completion = self._texts + self._thoughts + self._calls
        usage = {
            "prompt_tokens": 100,
            "completion_tokens": completion,
            "total_tokens": 100 + completion,
            "prompt_tokens_details": {"cached_tokens": 20},
            "completion_tokens_details": {"reasoning_tokens": self._thoughts},
        }
        return {**self._base, "choices": [], "usage": usage}

    def _tool_call(self, event: ToolCall) -> list[Chunk]:
        """Two fragments, as providers do, so that the tool's input is streamed."""
        half = max(1, len(event.arguments) // 2)
        head = {
            "index": self._calls,
            "id": f"call_{self._number:06d}_{self._calls}",
            "type": "function",
            "function": {"name": event.name, "arguments": event.arguments[:half]},
        }
        tail = {"index": self._calls, "function": {"arguments": event.arguments[half:]}}
        self._calls += 1
        return [self._choice({"tool_calls": [fragment]}) for fragment in (head, tail)]

    def _choice(self, delta: dict[str, Any], reason: str | None = None) -> Chunk:
        return {
            **self._base,
            "choices": [{"index": 0, "delta": delta, "finish_reason": reason}],
        }
