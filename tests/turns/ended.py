"""Many turns on the real server at once, each followed from its start to its end."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pytest

from opencode_async import Change, OpencodeClient, Timings
from opencode_async.testing import ScriptedServer
from opencode_async.turns.claimed import ClaimedTurn
from tests.support.hosts import Host, host, nowhere

# Long enough for the provider's retries (up to 38 s apart) and for a machine busy with all of them.
PATIENT = Timings(lease=30.0, look=8.0, settle=1.0, stop=5.0, snapshot=0.1)
Json = dict[str, Any]


@dataclass(frozen=True)
class Ended:
    """A turn's row, all that a follower was told, and the messages that the server has of it.

    ``answers`` are the assistant's, those of an automatic compaction included; ``children`` are
    those of its subagents.
    """

    row: Any
    changes: list[Change]
    answers: list[Json]
    children: list[Json]


async def messages_of(app: Host[Any, Any], session_id: str) -> list[Json]:
    """A session's messages as the server lists them, read without any code under test."""
    path = f"/session/{session_id}/message"
    messages: list[Json] = (await app.agent.client.http.request("GET", path)).json()
    return messages


def answers_in(messages: list[Json]) -> list[Json]:
    return [message for message in messages if message["info"]["role"] == "assistant"]


def texts(answers: list[Json]) -> list[str]:
    """What was said and thought in them."""
    kinds = ("text", "reasoning")
    return [p["text"] for m in answers for p in m["parts"] if p["type"] in kinds]


def said_by(subagent: str | None, row: Any) -> list[str]:
    """What a row holds of a subagent's session, or with ``None`` of its own: said and thought."""
    return [p["content"] for p in row.parts if p.get("subagent") == subagent and "content" in p]


async def assert_all_said_is_stored(client: OpencodeClient, row: Any, answers: list[Json]) -> None:
    """A row holds each word of its turn's answers, and of its subagents' by what is listed now."""
    assert said_by(None, row) == texts(answers)
    for child in filter(None, (part.get("session_id") for part in row.parts)):
        listed = (await client.http.request("GET", f"/session/{child}/message")).json()
        assert said_by(child, row) == texts(answers_in(listed))


async def rest_of(app: Host[Any, Any], row: Any) -> list[Json]:
    """The answers to a turn's prompt."""
    messages = await messages_of(app, await app.session_id(row))
    return [m for m in messages if m["info"].get("parentID") == row.prompt_id]


async def run(
    app: Host[Any, Any], conversation: Any, text: str, **request: Any
) -> tuple[Any, list[Change]]:
    """One turn, followed from its start: its row, and all that a follower was told."""
    message = await app.agent.turns.start(conversation, text, **request)
    async with app.agent.turns.follow(message.id) as following, asyncio.TaskGroup() as tasks:
        tasks.create_task(app.agent.turns.run(message.id))
        changes = [change async for change in following]
    return await app.row(message.id), changes


async def ended(app: Host[Any, Any], request: Mapping[str, Any]) -> Ended:
    """The only turn of a conversation, at its end."""
    row, changes = await run(app, await app.conversation(), **request)
    answers = answers_in(await messages_of(app, await app.session_id(row)))
    children: list[Json] = []
    for part in row.parts:
        if child := part.get("session_id"):
            children += answers_in(await messages_of(app, child))
    return Ended(row, changes, answers, children)


async def all_ended(
    url: str, server: ScriptedServer, requests: Mapping[str, Mapping[str, Any]]
) -> dict[str, Ended]:
    """The turns of these requests, by their names, all at once on one database."""
    # Nobody runs them before they are followed, so that followers miss nothing.
    async with (
        host(url, server, timings=PATIENT, dispatch=nowhere) as app,
        asyncio.TaskGroup() as tasks,
    ):
        running = {
            name: tasks.create_task(ended(app, request)) for name, request in requests.items()
        }
    return {name: task.result() for name, task in running.items()}


def lose_first_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the first worker go between the files and the end of its turn, cancelled."""
    finalized = ClaimedTurn._finalized
    gone: list[Any] = []

    async def going(turn: Any, ending: Any) -> Any:
        if not gone:
            gone.append(turn)
            raise asyncio.CancelledError
        return await finalized(turn, ending)

    monkeypatch.setattr(ClaimedTurn, "_finalized", going)
