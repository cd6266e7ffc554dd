"""The Impostor in the place of the real server, for whole suites: over a port, in a thread."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

from anyio.from_thread import BlockingPortal, start_blocking_portal

from opencode_async.testing import Impostor, ScriptedServer
from opencode_async.testing.impostor import RealClock
from opencode_async.testing.impostor.serving import serving
from opencode_async.testing.scripted_model import Asked
from tests.support.fast import SPEED as CLOCK
from tests.support.fast import new_event_loop

LATENCY = 0.05 * CLOCK  # s before each step: the library heeds limits while the model thinks
LONG = 1.0  # s: from there on a wait is one for a provider
SPEED = 10.0 / CLOCK  # times as fast such a wait is over, by the same clock


class SuiteClock(RealClock):
    """Real where tests act in the middle of what is slow, fast where they only wait."""

    async def sleep(self, seconds: float, *, idly: bool = False) -> None:
        long = seconds >= LONG and not idly
        await super().sleep(seconds / SPEED if long else seconds, idly=idly)


class Process:
    """What stands for ``LocalServer``."""

    def __init__(self, impostor: Impostor, portal: BlockingPortal) -> None:
        self._impostor = impostor
        self._portal = portal

    def kill(self) -> None:
        self._portal.call(self._impostor.crash)

    async def restart(self) -> None:
        await asyncio.to_thread(self._portal.call, self._impostor.crash)
        await asyncio.to_thread(self._portal.call, self._impostor.restart)


class Model:
    """What stands for ``ScriptedModel``."""

    def __init__(self, impostor: Impostor) -> None:
        self._impostor = impostor

    @property
    def requests(self) -> list[Asked]:
        return list(self._impostor.requests)


@asynccontextmanager
async def running(folder: Path, portal: BlockingPortal) -> AsyncIterator[ScriptedServer]:
    workspace = folder / "workspace"
    workspace.mkdir(parents=True, exist_ok=True)
    impostor = Impostor(workspace, clock=SuiteClock(), latency=LATENCY)
    async with impostor, serving(impostor) as server:
        model: Any = Model(impostor)
        process: Any = Process(impostor, portal)
        yield ScriptedServer(
            url=server.url,
            password=server.password,
            directory=server.directory,
            model=model,
            process=process,
        )


@contextmanager
def standing_impostor(folder: Path) -> Iterator[ScriptedServer]:
    """An Impostor that answers to what tests want of a ``ScriptedServer``."""
    with (
        start_blocking_portal(backend_options={"loop_factory": new_event_loop}) as portal,
        portal.wrap_async_context_manager(running(folder, portal)) as server,
    ):
        yield server


@asynccontextmanager
async def own_impostor(folder: Path) -> AsyncIterator[ScriptedServer]:
    """One for a single test, which may kill it."""
    with standing_impostor(folder) as server:
        yield server
