"""The event hub on the real OpenCode, through a proxy that counts connections and cuts them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from uuid import uuid4

import pytest

from opencode_async.client.client import OpencodeClient
from opencode_async.client.hub import Disconnected, Gap, Nudge, Subscription
from opencode_async.errors import OpencodeConnectionError
from opencode_async.protocol.events import Event, MessagePartDelta
from opencode_async.protocol.exchange import Outcome
from opencode_async.protocol.parts import TextPart
from opencode_async.protocol.reply import Reply
from opencode_async.testing import ScriptedServer
from tests.support.proxy import Proxy


@dataclass
class Listener:
    """One turn, as its subscription tells it."""

    client: OpencodeClient
    session_id: str
    events: Subscription
    reply: Reply
    told: list[Disconnected | Gap] = field(default_factory=list)
    heard: list[Event] = field(default_factory=list)

    @property
    def deltas(self) -> list[str]:
        return [event.delta for event in self.heard if isinstance(event, MessagePartDelta)]

    @property
    def text(self) -> str:
        return "".join(p.content for p in self.reply.result() if isinstance(p, TextPart))

    async def listen(self) -> None:
        """Take in one batch."""
        batch = await self.events.batch(30)
        for item in batch:
            if isinstance(item, (Disconnected, Gap)):
                self.told.append(item)
            elif not isinstance(item, Nudge):
                self.heard.append(item)
                self.reply.apply(item)

    async def stored(self) -> str:
        """The answer's text in REST."""
        exchange = await self.client.exchange(self.session_id, self.reply.prompt_id)
        assert exchange.outcome() == Outcome("completed", "stop")
        return "".join(p.content for p in exchange.parts if isinstance(p, TextPart))


@asynccontextmanager
async def turn(client: OpencodeClient, text: str) -> AsyncIterator[Listener]:
    """A turn in a session of its own, just posted."""
    session_id = await client.create_session(title="test")
    prompt_id = f"msg_{uuid4().hex}"
    part = {"id": f"prt_{uuid4().hex}", "type": "text", "text": text}
    async with client.hub.subscribe(session_id) as events:
        await client.prompt(session_id, {"messageID": prompt_id, "parts": [part]})
        yield Listener(client, session_id, events, Reply(session_id, prompt_id))
    await client.delete_session(session_id)


async def test_thirty_turns_at_once_share_one_connection_and_each_hears_its_own(
    opencode: ScriptedServer,
) -> None:
    proxy = Proxy(opencode)

    async def whole_turn(client: OpencodeClient, number: int) -> None:
        said = " ".join(f"word{number}.{word}" for word in range(20))
        async with turn(client, f"SCRIPT:text {said}") as listener:
            while not listener.reply.settled:
                await listener.listen()
            assert listener.text == "".join(listener.deltas) == await listener.stored() == said
            assert {getattr(e, "session_id", None) for e in listener.heard} == {listener.session_id}
            assert not any(isinstance(item, Disconnected) for item in listener.told)

    async with proxy.running() as server, OpencodeClient(server) as client:
        await asyncio.gather(*(whole_turn(client, number) for number in range(30)))
        assert proxy.streams == 1
        assert client.hub.malformed == 0
        assert client.hub._subscriptions == {}


async def test_a_cut_in_mid_turn_is_told_and_the_events_go_on_behind_it(
    opencode: ScriptedServer,
) -> None:
    proxy = Proxy(opencode)
    async with (
        proxy.running() as server,
        OpencodeClient(server) as client,
        turn(client, 'SCRIPT:slow {"n": 25, "delay": 0.1}') as listener,
    ):
        while len(listener.deltas) < 3:
            await listener.listen()
        assert listener.told == [Gap()]  # of the first connection
        proxy.cut()
        while len(listener.told) < 3:
            await listener.listen()
        before = len(listener.deltas)
        while not listener.reply.settled:
            await listener.listen()
        _, broken, whole = listener.told
        assert isinstance(broken, Disconnected)
        assert type(broken.error) is OpencodeConnectionError
        assert whole == Gap()
        assert before + 3 < len(listener.deltas) < 25
        assert proxy.streams == 2
        said = "".join(f"tick{number} " for number in range(25))
        assert await listener.stored() == listener.text == said


async def test_a_server_that_is_away_for_a_while_refuses_those_who_come_and_tells_the_others(
    opencode: ScriptedServer,
) -> None:
    proxy = Proxy(opencode)
    async with (
        proxy.running() as server,
        OpencodeClient(server) as client,
        turn(client, "SCRIPT:hang") as listener,
    ):
        while not listener.deltas:
            await listener.listen()
        proxy.away = True
        proxy.cut()
        while len(listener.told) < 2:
            await listener.listen()
        with pytest.raises(OpencodeConnectionError):
            async with client.hub.subscribe("ses_late"):
                pytest.fail("there is no stream")
        proxy.away = False
        async with client.hub.subscribe("ses_late"):
            await listener.listen()
        first, *broken, last = listener.told
        assert (first, last) == (Gap(), Gap())
        assert {type(item) for item in broken} == {Disconnected}
        await client.abort(listener.session_id)
        while not listener.reply.settled:
            await listener.listen()
        assert proxy.streams == 2
