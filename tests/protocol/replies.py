"""Replies to begin a test with, and what is seen of them."""

from __future__ import annotations

from opencode_async.protocol.changes import ReplyChange
from opencode_async.protocol.events import Event
from opencode_async.protocol.parts import Part
from opencode_async.protocol.reply import Reply
from tests.protocol.wire_events import PROMPT, SESSION, answered, prompted, status, step_start

T1, T2 = "prt_1", "prt_2"


def new_reply(*events: Event, parts: tuple[Part, ...] = ()) -> Reply:
    reply = Reply(SESSION, PROMPT, parts)
    apply(reply, *events)
    return reply


def apply(reply: Reply, *events: Event) -> list[ReplyChange]:
    return [change for event in events for change in reply.apply(event)]


def answering(*events: Event) -> Reply:
    """A reply whose prompt was accepted and whose answer has begun."""
    return new_reply(*prompted(), status(), answered(), step_start(), *events)


def contents(reply: Reply) -> list[str]:
    return [part.to_json()["content"] for part in reply.result()]
