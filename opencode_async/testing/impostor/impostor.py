"""See the package."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Self

from starlette.types import ASGIApp

from opencode_async.client.server import Server
from opencode_async.testing.impostor.app import impostor_app
from opencode_async.testing.impostor.clock import Clock, VirtualClock
from opencode_async.testing.impostor.faults import Faults
from opencode_async.testing.impostor.life import Life, World, real
from opencode_async.testing.impostor.model import Scripts
from opencode_async.testing.impostor.recorded import Recorded
from opencode_async.testing.impostor.sessions import Sessions
from opencode_async.testing.impostor.story import Matching, Story
from opencode_async.testing.scripted_model import Asked
from opencode_async.testing.streaming_transport import StreamingTransport

MODELS = ("scripted/scripted", "scripted/gpt-5-scripted")


class Impostor:
    """An OpenCode server in this process, used inside ``async with``; see the package.

    ``directory`` is the folder that its agent works in. ``models`` are those that there are, the
    first the default; a prompt for another is refused as OpenCode does. ``password`` is made up
    unless given. ``clock`` is a ``VirtualClock`` unless given, so no wait takes any time;
    ``latency`` is how long the model takes to begin each of its answers, in seconds.
    """

    def __init__(
        self,
        directory: str | Path,
        *,
        models: Sequence[str] = MODELS,
        password: str | None = None,
        clock: Clock | None = None,
        latency: float = 0.0,
    ) -> None:
        self.world = World(
            Path(real(directory)), clock or VirtualClock(), models, [Scripts()], latency
        )
        self.app: ASGIApp = impostor_app(self)
        self.down = True
        self._password = password or secrets.token_urlsafe(24)
        self._transport = StreamingTransport(self.app)
        self._stack = AsyncExitStack()
        self._be_born()

    @property
    def server(self) -> Server:
        """Where the library finds it; nothing listens there, requests are handed over."""
        return Server(
            "http://127.0.0.1:1",
            password=self._password,
            directory=self.world.directory,
            transport=self._transport,
        )

    @property
    def clock(self) -> Clock:
        """The time that it goes by."""
        return self.world.clock

    @property
    def faults(self) -> Faults:
        """What is to go wrong."""
        return self.world.faults

    @property
    def requests(self) -> list[Asked]:
        """What its model was asked so far, oldest first; at most the last 500."""
        return list(self.world.asked)

    def on(self, matching: Matching) -> Story:
        """Begin to tell what the agent does when a prompt matches.

        A text is looked for in the prompt, a compiled pattern searched, a function asked. Of those
        that match the one told last wins.
        """
        story = Story(matching)
        self.world.tellers.insert(0, story)
        return story

    def play(self, recording: str | Path) -> None:
        """Answer the prompts of a recorded ``.jsonl`` as they were answered then."""
        self.world.tellers.insert(0, Recorded(Path(recording)))

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(self._transport)
            stack.push_async_callback(self.crash)
            self.restart()
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._stack.aclose()

    async def crash(self) -> None:
        """End as a killed server does: streams break, turns stop where they are, asks are gone.

        What was stored stays: of text that was being said nothing, of a running tool that it runs.
        Until ``restart()`` every connection breaks.
        """
        self.down = True
        await self.life.end()

    def restart(self) -> None:
        """Start again with what is stored; nothing goes on by itself."""
        if self.down:
            self._be_born()
            self.down = False
            self.life.spawn(self.life.bus.beat(), "heartbeats")

    def forget(self, session_id: str) -> None:
        """Lose a session and all that was in it, silently."""
        self.world.store.forget(session_id)

    def _be_born(self) -> None:
        self.life = Life(self.world)
        self.sessions = Sessions(self.life)
