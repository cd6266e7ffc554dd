"""What two servers told, made comparable."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from typing import Any

from tests.contract.witness import Witness

ID = re.compile(r"\b(ses|msg|prt|per|que|call)_[A-Za-z0-9_]+")
ANYWHERE = (  # what comes when it likes, or is of other parts of the server
    "catalog.",
    "file.watcher.",
    "integration.",
    "plugin.",
    "project.",
    "reference.",
    "server.",
    "session.diff",
    "session.updated",
)
# What the real server adds to messages: a guess, a stack, its database's query.
FURTHER = re.compile(r" Did you mean|\n    at <|(?<=Failed query): ")
DROPPED = {"next", "ref", "responseHeaders", "slug", "url"}


def normal(witness: Witness, *, older: bool = False) -> list[str]:
    """The rows as lines: ids by the order in which they came, no times, paths of one folder.

    The server's version, which it writes into sessions, is none of the differences. ``older``
    leaves out what the module of versions says.
    """
    told = witness.rows
    if older:
        told = [row for row in told if not row[0].startswith("session.next.")]
        told = [row if len(row) == 2 else unsummarized(list(row)) for row in told]
    rows = in_order(list(kept(told)))
    lines = [json.dumps(row, sort_keys=True) for row in rows]
    directory = str(witness.server.directory)
    names: dict[str, str] = {}
    counts: dict[str, int] = {}

    def renamed(match: re.Match[str]) -> str:
        if match[0] not in names:
            counts[match[1]] = counts.get(match[1], 0) + 1
            names[match[0]] = f"{match[1]}{counts[match[1]]}"
        return names[match[0]]

    text = "\n".join(lines).replace(directory, "/workspace").replace(directory[1:], "workspace")
    text = text.replace(f'"{witness.version}"', '"its version"')
    return ID.sub(renamed, text).split("\n")


def unsummarized(value: Any) -> Any:
    """Without empty summaries of users' messages."""
    match value:
        case {"role": "user", "summary": {"diffs": []}}:
            return {k: v for k, v in value.items() if k != "summary"}
        case dict():
            return {k: unsummarized(v) for k, v in value.items()}
        case list():
            return [unsummarized(each) for each in value]
        case _:
            return value


def kept(rows: Iterable[Any]) -> Iterator[list[Any]]:
    """The rows that are compared, without what differs from run to run.

    The real server sends an event a moment after it happened, with what is true by then: the first
    news of a message or a call may say already how it ended or went on.
    """
    begun: set[str] = set()
    last: dict[str, Any] = {}
    for row in rows:
        if len(row) == 2 and row[0].startswith(ANYWHERE):
            continue
        name, told, *rest = clean(list(row))
        if name == "GET /path":
            rest = [{key: rest[0][key] for key in ("directory", "worktree")}]  # not the user's own
        if name == "message.updated":
            if "summary" in told["info"]:
                continue
            if told["info"]["role"] == "assistant" and told["info"]["id"] not in begun:
                begun.add(told["info"]["id"])
                told["info"] = {k: told["info"][k] for k in ("id", "parentID", "role", "agent")}
        if name == "message.part.updated":
            part = told["part"]
            if part.get("state", {}).get("metadata") == {"output": ""}:
                del part["state"]["metadata"]
            if last.get(part["id"]) == part:
                continue
            last[part["id"]] = part
        yield [name, told, *rest]


def in_order(rows: list[list[Any]]) -> list[list[Any]]:
    """The rows in an order that is the same in every run.

    Events and answers come over two connections, sessions work at the same time, and so do a model
    that speaks and the tools that it has called: what is between two of them is chance.
    """
    sessions: dict[str, int] = {}
    found: list[list[Any]] = []
    for row in rows:
        if len(row) == 2:
            place = place_of(row, found)
            found.insert(len(found) if place is None else place, row)
            sessions.setdefault(session_of(row), len(sessions))
    events = sorted(found, key=lambda row: sessions[session_of(row)])
    return events + [row for row in rows if len(row) == 3]


def session_of(row: list[Any]) -> str:
    return str(row[1].get("sessionID", ""))


def place_of(row: list[Any], before: list[list[Any]]) -> int | None:
    """Where an event belongs.

    The end of a text behind its words, an ask behind its call, the end of a call that was aborted
    before the news that it was.
    """
    name, told = row
    part = told.get("part", {})
    if part.get("type") in ("text", "reasoning") and "end" in part.get("time", {}):
        own = [n for n, other in enumerate(before) if about(other, part["id"])]
        return own[-1] + 1 if own else None
    if part.get("type") == "tool" and part["state"]["status"] in ("completed", "error"):
        return next((n for n, other in enumerate(before) if aborted(other, row)), None)
    if name.endswith(".asked"):
        call = told["tool"]["callID"]
        return 1 + min(
            n for n, other in enumerate(before) if other[1].get("part", {}).get("callID") == call
        )
    return None


def aborted(row: list[Any], other: list[Any]) -> bool:
    """Whether it says that the other's session was aborted."""
    name = row[1].get("error", {}).get("name") if row[0] == "session.error" else None
    return name == "MessageAbortedError" and session_of(row) == session_of(other)


def about(row: list[Any], part_id: str) -> bool:
    return part_id in (row[1].get("partID"), row[1].get("part", {}).get("id"))


def clean(value: Any) -> Any:
    match value:
        case dict():
            return {k: clean(v) for k, v in value.items() if k not in DROPPED}
        case list() | tuple():
            return [clean(each) for each in value]
        case int() if value > 1_000_000_000_000:
            return 0
        case str() if found := FURTHER.search(value):
            return value[: found.start()]
        case _:
            return value
