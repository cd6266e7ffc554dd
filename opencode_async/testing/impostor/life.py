"""One life of a server, from its start to its crash, and how what it does is stored and told."""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from opencode_async.testing.impostor.asks import Asks
from opencode_async.testing.impostor.bus import Bus
from opencode_async.testing.impostor.clock import Clock
from opencode_async.testing.impostor.faults import Faults
from opencode_async.testing.impostor.model import Reply, Request, Teller
from opencode_async.testing.impostor.store import Ids, Store
from opencode_async.testing.scripted_model import Asked
from opencode_async.testing.scripted_model.request import script_of
from opencode_async.testing.scripted_model.server import KEPT_REQUESTS

Json = dict[str, Any]
VERSION = "1.18.33"


@dataclass
class World:
    """What outlives a crash: what is on disk, and what belongs to the test."""

    directory: Path
    clock: Clock
    models: Sequence[str]
    tellers: list[Teller]
    latency: float
    store: Store = field(default_factory=Store)
    ids: Ids = field(default_factory=Ids)
    faults: Faults = field(default_factory=Faults)
    directories: dict[str, str] = field(default_factory=dict)
    asked: deque[Asked] = field(default_factory=lambda: deque(maxlen=KEPT_REQUESTS))
    answers: int = 0
    """How many the model has streamed, for the ids of its calls."""

    def ms(self) -> int:
        """The time as OpenCode writes it."""
        return int(self.clock.now() * 1000)

    def reply(self, request: Request) -> Reply:
        """What the model says: the first that has an answer."""
        tools = [{"type": "function", "function": {"name": name}} for name in request.tools]
        body = {"messages": list(request.messages), "tools": tools}
        self.asked.append(Asked(request.session_id, script_of(body), body))
        # The last answers everything; no story is told to OpenCode itself.
        for teller in self.tellers[-1:] if request.own else self.tellers:
            if (told := teller(request)) is not None:
                return told
        raise AssertionError("the last teller answers everything")


class Life:
    """What a crash ends: streams, asks, turns that run. Nothing is stored or sent behind it."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.bus = Bus(world.ids, world.clock, world.faults)
        self.asks = Asks(self.bus.emit)
        self.statuses: dict[str, Json] = {}  # of sessions that are not idle
        self._tasks: set[asyncio.Task[Any]] = set()
        self._errors: list[Exception] = []

    def spawn(self, work: Coroutine[Any, Any, Any], name: str) -> asyncio.Task[Any]:
        """Run that for as long as this life lasts."""
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    async def end(self) -> None:
        """Break all streams and stop all work where it is; raises what work raised by itself."""
        self.bus.die()
        tasks = set(self._tasks)
        for task in tasks:
            if not task.cancelling():  # one that is, is at its last: it may end a command
                task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        errors, self._errors = self._errors, []
        if errors:
            raise ExceptionGroup("in the Impostor", errors)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and isinstance(error := task.exception(), Exception):
            self._errors.append(error)

    def emit(self, session_id: str, kind: str, properties: Json) -> None:
        """Send an event of a session to the streams of its directory."""
        directory = self.directory_of(session_id)
        self.bus.emit(directory, kind, {"sessionID": session_id, **properties})

    def directory_of(self, session_id: str) -> str:
        """Where the session works, also when it was deleted."""
        return self.world.directories.get(session_id, real(self.world.directory))

    def put_session(self, info: Json, kind: str = "session.updated") -> None:
        """Store a session and tell."""
        info["time"]["updated"] = self.world.ms()
        self.world.store.put_session(info)
        self.world.directories[info["id"]] = info["directory"]
        self.emit(info["id"], kind, {"info": info})

    def put_message(self, info: Json) -> None:
        """Store a message and tell; raises ``NotFound`` where its session was deleted."""
        self.world.store.put_message(info)
        self.emit(info["sessionID"], "message.updated", {"info": info})

    def put_part(self, part: Json) -> None:
        """Store a part and tell; raises ``NotFound`` where its session was deleted."""
        self.world.store.put_part(part)
        told = {"part": part, "time": self.world.ms()}
        self.emit(part["sessionID"], "message.part.updated", told)

    def status(self, session_id: str, kind: str, **more: object) -> None:
        """Say what a session is doing."""
        status = {"type": kind, **more}
        self.statuses[session_id] = status
        self.emit(session_id, "session.status", {"status": status})
        if kind == "idle":
            del self.statuses[session_id]
            self.emit(session_id, "session.idle", {})

    def error(self, session_id: str, name: str, **data: object) -> Json:
        """Tell of an error; as it is on the wire."""
        error: Json = {"name": name, "data": data}
        self.emit(session_id, "session.error", {"error": error})
        return error


def real(directory: str | Path) -> str:
    """The directory without symbolic links, as OpenCode has it."""
    return os.path.realpath(directory)


def worktree(directory: str) -> str:
    """The git work tree that a directory is in, else ``/``."""
    places = (Path(directory), *Path(directory).parents)
    return str(next((place for place in places if (place / ".git").exists()), "/"))
