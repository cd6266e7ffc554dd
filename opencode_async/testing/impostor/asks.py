"""What agents wait for: leave to use a tool, and answers to questions."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from opencode_async.protocol.permissions import like

Json = dict[str, Any]
Emit = Callable[[str, str, Json], None]  # directory, type, properties


class Rejected(Exception):
    """A person refused, without a word: the turn ends."""


class Corrected(Exception):
    """A person refused and said what to do instead, or a rule did: the agent goes on."""


@dataclass
class Pending:
    """Something asked, and how the answer gets to who waits for it."""

    directory: str
    payload: Json
    answer: asyncio.Future[Any]


def action_of(rules: Sequence[Json], permission: str, pattern: str) -> str:
    """What the last of the rules that match says; without one it is to be asked."""
    for rule in reversed(rules):
        if like(permission, rule["permission"]) and like(pattern, rule["pattern"]):
            return str(rule["action"])
    return "ask"


def denied(rules: Sequence[Json], permission: str) -> Corrected:
    """What the agent is told of a call that a rule forbids."""
    relevant = [rule for rule in rules if like(permission, rule["permission"])]
    return Corrected(
        "The user has specified a rule which prevents you from using this specific tool call. "
        f"Here are some of the relevant rules {json.dumps(relevant, separators=(',', ':'))}"
    )


class Asks:
    """All that is open, and what was allowed for good, of one life of a server."""

    def __init__(self, emit: Emit) -> None:
        self._emit = emit
        self._pending: dict[str, Pending] = {}
        self._always: list[tuple[str, str, str]] = []  # directory, permission, pattern

    def listed(self, kind: str, directory: str) -> list[Json]:
        """What is open there; ``kind`` is ``per`` or ``que``."""
        return [
            each.payload
            for key, each in self._pending.items()
            if key.startswith(kind) and each.directory == directory
        ]

    def allowed(self, directory: str, permission: str, patterns: Sequence[str]) -> bool:
        """Whether somebody has said ``always`` to all of that, in any session there."""
        given = [(p, pattern) for where, p, pattern in self._always if where == directory]
        return all(
            any(like(permission, p) and like(each, pattern) for p, pattern in given)
            for each in patterns
        )

    def ask(self, directory: str, payload: Json) -> asyncio.Future[Any]:
        """Ask; waiting for the answer raises ``Rejected`` and ``Corrected``.

        An ask stays open when its turn is aborted (OpenCode 1.18.33, measured).
        """
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._pending[payload["id"]] = Pending(directory, payload, answer)
        kind = "permission" if payload["id"].startswith("per") else "question"
        self._emit(directory, f"{kind}.asked", payload)
        return answer

    def forget(self, directory: str) -> None:
        """Ask nothing any more there, and remember no ``always``; nobody is told."""
        self._pending = {
            k: each for k, each in self._pending.items() if each.directory != directory
        }
        self._always = [each for each in self._always if each[0] != directory]

    def reply_permission(self, ask_id: str, directory: str, reply: str, message: str) -> bool:
        """Answer ``once``, ``always`` or ``reject``; whether there was such an ask."""
        pending = self._take(ask_id, directory)
        if pending is None:
            return False
        told = {"sessionID": pending.payload["sessionID"], "requestID": ask_id, "reply": reply}
        self._emit(directory, "permission.replied", told)
        if reply != "reject":
            settle(pending.answer, None)
        elif message:
            text = "The user rejected permission to use this specific tool call with the following"
            settle(pending.answer, Corrected(f"{text} feedback: {message}"))
        else:
            settle(pending.answer, Rejected("permission"))
        if reply == "reject":
            self._reject_others(pending)
        elif reply == "always":
            permission = pending.payload["permission"]
            self._always += [(directory, permission, p) for p in pending.payload["always"]]
            self._allow_others(directory)
        return True

    def reply_question(self, ask_id: str, directory: str, answers: list[list[str]] | None) -> bool:
        """Answer, or with ``None`` dismiss; whether there was such a question."""
        pending = self._take(ask_id, directory)
        if pending is None:
            return False
        told = {"sessionID": pending.payload["sessionID"], "requestID": ask_id}
        if answers is None:
            self._emit(directory, "question.rejected", told)
            settle(pending.answer, Rejected("question"))
        else:
            self._emit(directory, "question.replied", {**told, "answers": answers})
            settle(pending.answer, answers)
        return True

    def _take(self, ask_id: str, directory: str) -> Pending | None:
        pending = self._pending.get(ask_id)
        if pending is None or pending.directory != directory:
            return None
        return self._pending.pop(ask_id)

    def _reject_others(self, rejected: Pending) -> None:
        """All that the same session asks leave for is refused with it."""
        session_id = rejected.payload["sessionID"]
        for key, each in list(self._pending.items()):
            if key.startswith("per") and each.payload["sessionID"] == session_id:
                self.reply_permission(key, each.directory, "reject", "")

    def _allow_others(self, directory: str) -> None:
        for key, each in list(self._pending.items()):
            if not key.startswith("per") or each.directory != directory:
                continue
            if self.allowed(directory, each.payload["permission"], each.payload["patterns"]):
                self.reply_permission(key, directory, "always", "")


def settle(answer: asyncio.Future[Any], value: object) -> None:
    """Give the answer to who waits for it, if anybody still does."""
    if answer.done():
        return
    if isinstance(value, Exception):
        answer.set_exception(value)
    else:
        answer.set_result(value)
