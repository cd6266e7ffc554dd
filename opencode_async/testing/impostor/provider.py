"""What a provider answers in place of an answer, and what its answers cost."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

from opencode_async.testing.impostor.model import Usage
from opencode_async.testing.scripted_model.scripts import Refusal

Json = dict[str, Any]
PRICES = {"input": Decimal("1"), "output": Decimal("2"), "cache": Decimal("0.1")}  # USD per million
BROKEN = {
    "code": "ECONNRESET",
    "message": "The socket connection was closed unexpectedly. For more information, pass "
    "`verbose: true` in the second argument to fetch()",
    "syscall": "",
}


class ProviderError(Exception):
    """What the provider answered in place of, or in the middle of, an answer."""

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        after: float | None = None,
        body: str = "",
        broken: bool = False,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.retryable = status is None or status == 429 or status >= 500
        self.after = after
        data: Json = {"message": message}
        if status is not None:
            answered = {"statusCode": status, "responseHeaders": {}, "responseBody": body}
            url = {"url": "http://impostor.invalid/v1/chat/completions"}
            data |= {**answered, "isRetryable": self.retryable, "metadata": url}
        elif broken:
            data |= {"isRetryable": True, "metadata": BROKEN}
        self.error = ("APIError" if len(data) > 1 else "UnknownError", data)


class Overflow(Exception):
    """The conversation is too long for the model."""

    def __init__(self, message: str, body: str) -> None:
        super().__init__(message)
        self.data = {"message": message, "responseBody": body}


def error_of(told: Refusal) -> ProviderError | Overflow:
    """The error that a refusal is."""
    body = json.dumps(
        {"error": {"message": told.message, "type": "scripted_error", "code": told.code}}
    )
    if told.code == "context_length_exceeded":
        return Overflow(told.message, body)
    after = None if told.retry_after is None else float(told.retry_after)
    return ProviderError(told.message, status=told.status, after=after, body=body)


def spent(told: Usage | None, *, said: int, thought: int) -> tuple[float, Json]:
    """Cost and tokens: what the story says, else those that the scripted model counts."""
    if told is not None:
        fresh, cached, said, thought = told.input, told.cache_read, told.output, told.reasoning
        cost = told.cost
    else:
        fresh, cached = 80, 20
        price = PRICES["input"] * fresh + PRICES["cache"] * cached
        cost = float((price + PRICES["output"] * (said + thought)) / 1_000_000)
    return cost, {
        "total": fresh + cached + said + thought,
        "input": fresh,
        "output": said,
        "reasoning": thought,
        "cache": {"write": 0, "read": cached},
    }


def charged(session: Json, cost: float, tokens: Json) -> Json:
    """The session with that added to what it has cost."""
    before = session["tokens"]
    sums = {key: before[key] + tokens[key] for key in ("input", "output", "reasoning")}
    cache = {key: n + tokens["cache"][key] for key, n in before["cache"].items()}
    return {**session, "cost": session["cost"] + cost, "tokens": {**sums, "cache": cache}}
