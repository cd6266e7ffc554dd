"""Turns of every kind on the real server, for what operators are told of them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update
from starlette.requests import Request

from opencode_async import (
    ArtifactPolicy,
    Decision,
    DirectoryArtifactStore,
    LeaseLost,
    PermissionReply,
    Permissions,
    TurnSettings,
)
from opencode_async.observability.instrumentation import Instrumentation
from opencode_async.testing import ScriptedServer
from tests.support import relay
from tests.support.hosts import Host, host, nowhere
from tests.support.proxy import Proxy
from tests.support.relay import Relay
from tests.turns.asking import ASKING_FOR_BASH, a_turn
from tests.turns.ended import run

SECRET = "sesame"  # in every prompt, and so in every answer: what operators are never told
HANGING = f"SCRIPT:hang {SECRET}"
BASH = f'SCRIPT:bash {{"command": "echo {SECRET}"}}'
PLAIN = f"SCRIPT:text {SECRET}."


@dataclass
class Stage:
    """What a scenario plays with; ``instrumentation`` is to be told."""

    url: str
    server: ScriptedServer
    folder: Path
    patch: pytest.MonkeyPatch
    instrumentation: Instrumentation
    options: dict[str, Any] = field(default_factory=dict)

    def app(self, server: Any = None, **options: Any) -> Any:
        told = {"instrumentation": self.instrumentation, "dispatch": nowhere}
        return host(self.url, server or self.server, **{**told, **self.options, **options})


def said(words: str) -> Callable[[dict[str, Any]], bool]:
    """Whether a follower has those words."""
    return lambda state: any(words in part.get("content", "") for part in state["parts"])


async def a_plain_turn(stage: Stage) -> None:
    async with stage.app() as app:
        row, _ = await run(app, await app.conversation(), PLAIN)
        assert row.status == "completed"


async def one_that_is_cancelled(stage: Stage) -> None:
    async with stage.app() as app, a_turn(app, HANGING) as turn:
        running = asyncio.create_task(app.agent.turns.run(turn.id))
        await turn.until(said(SECRET))
        await app.agent.turns.cancel(turn.id)
        assert (await running).status == "cancelled"
        await turn.row()


async def one_that_is_given_up_and_recovered(stage: Stage) -> None:
    async with stage.app() as app, a_turn(app, HANGING) as turn:
        running = asyncio.create_task(app.agent.turns.run(turn.id))
        await turn.until(said(SECRET))
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        await app.lose_worker(turn.id, -1)
        await app.agent.turns.recover()  # unless the agent has just done so itself
        running = asyncio.create_task(app.agent.turns.run(turn.id))
        while (await app.row(turn.id)).epoch < 2:  # noqa: ASYNC110
            await asyncio.sleep(0)
        await app.agent.turns.cancel(turn.id)
        await running
        await turn.row()


async def one_whose_lease_another_has_taken(stage: Stage) -> None:
    async with stage.app() as app, a_turn(app, HANGING) as turn:
        running = asyncio.create_task(app.agent.turns.run(turn.id))
        await turn.until(said(SECRET))
        await app.lose_worker(turn.id, 600)
        with pytest.raises(LeaseLost):
            await running
        kind = app.agent.tables.message
        async with app.sessions.begin() as db:
            freed = {"lease_owner": None, "lease_expires_at": None}
            await db.execute(update(kind).where(kind.id == turn.id).values(freed))
        await app.agent.turns.cancel(turn.id)
        await app.agent.turns.run(turn.id)


async def two_in_a_row(stage: Stage) -> None:
    async with stage.app() as app:
        conversation = await app.conversation()
        first = await app.agent.turns.start(conversation, PLAIN)
        await app.agent.turns.start(conversation, PLAIN, on_busy="enqueue")
        await app.agent.turns.run(first.id)


async def one_in_a_session_that_was_forgotten(stage: Stage) -> None:
    async with stage.app() as app:
        conversation = await app.conversation()
        row, _ = await run(app, conversation, PLAIN)
        await app.agent.client.delete_session(await app.session_id(row))
        row, _ = await run(app, conversation, PLAIN)
        assert row.status == "completed"


async def one_that_comes_second_with_its_session(stage: Stage) -> None:
    taken: list[Host[Any, Any]] = []

    async def settings_for(conversation: Any) -> TurnSettings:
        for app in taken:
            session_id = await app.agent.client.create_session(title="The other's")
            kind = app.agent.tables.conversation
            async with app.sessions.begin() as db:
                other = {"opencode_session_id": session_id}
                await db.execute(update(kind).where(kind.id == conversation.id).values(other))
        taken.clear()
        return TurnSettings()

    async with stage.app(settings_for=settings_for) as app:
        taken.append(app)
        row, _ = await run(app, await app.conversation(), PLAIN)
        assert row.status == "completed"


async def one_whose_prompt_is_lost_on_its_way(stage: Stage) -> None:
    async with Relay(stage.server, relay.dropped).running() as relayed, stage.app(relayed) as app:
        row, _ = await run(app, await app.conversation(), PLAIN)
        assert row.status == "completed"


async def one_whose_provider_fails_once(stage: Stage) -> None:
    async with stage.app() as app:
        script = f'SCRIPT:error429 {{"times": 1, "after": 1, "message": "{SECRET}"}}'
        row, _ = await run(app, await app.conversation(), script)
        assert row.status == "completed"


async def one_whose_provider_refuses(stage: Stage) -> None:
    async with stage.app() as app:
        script = f'SCRIPT:error401 {{"message": "{SECRET}"}}'
        row, _ = await run(app, await app.conversation(), script)
        assert row.error_code == "provider_error"


async def one_that_asks_a_person(stage: Stage) -> None:
    async with (
        stage.app(asks=True, settings_for=ASKING_FOR_BASH, dispatch=None) as app,
        a_turn(app, BASH) as turn,
    ):
        (ask,) = await turn.asks()
        await app.agent.turns.answer(turn.id, ask["id"], PermissionReply("once"), by=SECRET)
        await turn.row()


async def one_that_asks_a_hook(stage: Stage) -> None:
    async def decide(ask: Any, conversation: Any) -> Decision:
        return Decision.allow()

    options = {"settings_for": ASKING_FOR_BASH, "asks": True, "decide": decide}
    async with stage.app(**options) as app:
        await run(app, await app.conversation(), BASH)


async def one_that_asks_nobody(stage: Stage) -> None:
    async with stage.app(settings_for=ASKING_FOR_BASH) as app:
        await run(app, await app.conversation(), BASH)


async def one_that_leaves_files(stage: Stage) -> None:
    async def settings_for(conversation: Any) -> TurnSettings:
        return TurnSettings(permissions=Permissions().allow("bash"))

    policy = ArtifactPolicy(DirectoryArtifactStore(stage.folder / "kept"))
    async with stage.app(files=True, artifacts=policy, settings_for=settings_for) as app:
        conversation = await app.conversation()
        async with app.sessions() as db:
            row = await db.get_one(app.agent.tables.conversation, conversation)
        folder = Path(str(stage.server.directory)) / "sandbox" / str(row.sandbox_key)
        made = f"mkdir -p {folder} && cd {folder} && echo {SECRET} > {SECRET}.txt && ln -s / link"
        script = json.dumps({"command": made})
        await run(app, conversation, f"SCRIPT:bash {script}")


async def one_whose_stream_is_cut(stage: Stage) -> None:
    proxy = Proxy(stage.server)
    async with (
        proxy.running() as server,
        stage.app(server, dispatch=None) as app,
        a_turn(app, f'SCRIPT:slow {{"n": 12, "delay": 0.1, "secret": "{SECRET}"}}') as turn,
    ):
        await turn.until(said("tick1"))
        proxy.cut()
        assert (await turn.row()).status == "completed"


async def one_that_is_told_more_than_it_can_take(stage: Stage) -> None:
    stage.patch.setattr("opencode_async.client.hub.MOST_PENDING", 1)
    async with stage.app() as app:
        row, _ = await run(app, await app.conversation(), PLAIN)
        assert row.status == "completed"


async def one_whose_follower_is_slow(stage: Stage) -> None:
    stage.patch.setattr("opencode_async.brokers.log.RETAINED", 1)
    async with stage.app(dispatch=None) as app:
        script = f'SCRIPT:slow {{"n": 12, "delay": 0.1, "secret": "{SECRET}"}}'
        message = await app.agent.turns.start(await app.conversation(), script)
        heard = []
        async with app.agent.turns.follow(message.id) as changes:
            async for change in changes:
                heard.append(change.event)
                if heard.count("part.delta") == 1:
                    while "tick8" not in (await app.row(message.id)).content:  # noqa: ASYNC110
                        await asyncio.sleep(0)
        assert "snapshot" in heard[heard.index("part.delta") :]


async def one_whose_browser_takes_nothing(stage: Stage) -> None:
    stage.patch.setattr("opencode_async.web.sse.SEND_TIMEOUT", 0.1)
    scope = {"type": "http", "method": "GET", "headers": [], "query_string": b""}
    for_ever: Any = asyncio.Event().wait

    async def send(message: Any) -> None:
        if b"data" in message.get("body", b""):
            await for_ever()

    async with stage.app() as app:
        message = await app.agent.turns.start(await app.conversation(), PLAIN)
        response = await app.agent.sse(message.id, Request(scope))
        await response(scope, for_ever, send)


async def one_of_a_conversation_that_is_followed(stage: Stage) -> None:
    async with stage.app() as app:
        conversation = await app.conversation()
        await run(app, conversation, PLAIN)
        await app.agent.turns.start(conversation, PLAIN)
        frames = app.agent.turns.conversations.frames(conversation, None, 0)
        await anext(frames)
        await frames.aclose()


EVERY_TURN = {"turn.started", "turn.finished", "lease.claimed", "session.created"}
ANSWERED = EVERY_TURN | {"prompt.accepted", "stream.connected", "turn.first_token"}
Scenario = Callable[[Stage], Awaitable[None]]
SCENARIOS: dict[Scenario, set[str]] = {  # with what is told, among others
    a_plain_turn: ANSWERED | {"turn.posted", "follower.joined", "follower.left"},
    one_that_is_cancelled: ANSWERED | {"turn.stopping"},
    one_that_is_given_up_and_recovered: ANSWERED
    | {"turn.given_up", "turn.recovered", "lease.released"},
    one_whose_lease_another_has_taken: ANSWERED | {"lease.lost", "turn.given_up"},
    two_in_a_row: ANSWERED | {"turn.promoted"},
    one_in_a_session_that_was_forgotten: ANSWERED | {"session.recreated"},
    one_that_comes_second_with_its_session: (ANSWERED - {"session.created"})
    | {"session.discarded"},
    one_whose_prompt_is_lost_on_its_way: ANSWERED | {"prompt.reposted"},
    one_whose_provider_fails_once: ANSWERED | {"response.upstream_error"},
    one_whose_provider_refuses: EVERY_TURN | {"response.upstream_error"},
    one_that_asks_a_person: ANSWERED | {"ask.asked", "ask.resolved"},
    one_that_asks_a_hook: ANSWERED | {"ask.decided"},
    one_that_asks_nobody: ANSWERED | {"ask.decided"},
    one_that_leaves_files: ANSWERED | {"artifact.kept", "artifact.refused"},
    one_whose_stream_is_cut: ANSWERED | {"stream.broken", "stream.connected"},
    one_that_is_told_more_than_it_can_take: EVERY_TURN | {"stream.overflowed"},
    one_whose_follower_is_slow: ANSWERED | {"follower.dropped"},
    one_whose_browser_takes_nothing: {"follower.joined", "follower.stalled", "follower.left"},
    one_of_a_conversation_that_is_followed: ANSWERED | {"follower.joined", "follower.left"},
}
