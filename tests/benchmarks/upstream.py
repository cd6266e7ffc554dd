"""What stands for OpenCode: a generator of answers, in a process of its own.

``python -m tests.benchmarks.upstream`` speaks as much of its HTTP API as a turn needs, in its wire
format, and says nothing but what a prompt asks for: a ``Load``, as JSON. Each delta begins with its
number and the time it was sent at, ``17@123456789;``, in nanoseconds of the machine's clock.
"""

from __future__ import annotations

import asyncio
import heapq
import json
import random
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from itertools import count
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from tests.benchmarks.processes import Commands, serve

Json = dict[str, Any]
BURST = 32  # deltas at once: OpenCode sends dozens in one write (1.18.33, measured)
TICK = 0.005  # s between two writes of all that is due by then


@dataclass(frozen=True)
class Load:
    """An answer of so many ``deltas`` of so many characters, at that pace or as fast as it goes.

    One that ``waits`` has begun, and goes on when all do.
    """

    deltas: int
    size: int = 24
    per_second: float | None = None
    waits: bool = False

    def __str__(self) -> str:
        return json.dumps(asdict(self))


def frame(kind: str, **properties: Any) -> bytes:
    """An event as OpenCode writes it."""
    event = {"id": "evt_0123456789abcdef01234567", "type": kind, "properties": properties}
    return b"data: " + json.dumps(event, separators=(",", ":")).encode() + b"\n\n"


class Stream:
    """One open ``GET /event``."""

    def __init__(self) -> None:
        self.chunks: list[bytes] = [frame("server.connected")]
        self.arrived = asyncio.Event()
        self.arrived.set()


class Bus:
    """Writes each event to every stream that is open; counts what it wrote."""

    def __init__(self) -> None:
        self.bytes = 0
        self.most = 0  # streams at once
        self._streams: set[Stream] = set()

    def emit(self, chunk: bytes) -> None:
        for stream in self._streams:
            stream.chunks.append(chunk)
            stream.arrived.set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await receive()  # the request; what comes next is its end
        headers = [(b"content-type", b"text/event-stream")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        stream = Stream()
        self._streams.add(stream)
        self.most = max(self.most, len(self._streams))
        gone = asyncio.ensure_future(receive())
        gone.add_done_callback(lambda _: stream.arrived.set())
        try:
            while not gone.done():
                await stream.arrived.wait()
                stream.arrived.clear()
                chunks, stream.chunks = stream.chunks, []
                for chunk in chunks:
                    self.bytes += len(chunk)
                    await send({"type": "http.response.body", "body": chunk, "more_body": True})
        finally:
            gone.cancel()
            self._streams.discard(stream)


class Answer:
    """One prompt and what is said to it."""

    def __init__(self, session_id: str, body: Json) -> None:
        self.load = Load(**json.loads(body["parts"][0]["text"]))
        created = {"created": int(time.time() * 1000)}
        prompt_id = body.get("messageID", f"msg_of_{session_id}")
        told = {"sessionID": session_id, "messageID": prompt_id}
        self._session_id = session_id
        self._user = {"id": prompt_id, "sessionID": session_id, "role": "user", "time": created}
        self._asked = [{**part, **told} for part in body["parts"]]
        self._info: Json = {
            "id": f"msg_{session_id[4:]}answer",
            "sessionID": session_id,
            "parentID": prompt_id,
            "role": "assistant",
            "modelID": "generator",
            "providerID": "generator",
            "time": created,
            "cost": 0,
            "tokens": {"input": 0, "output": 0, "reasoning": 0, "cache": {"read": 0, "write": 0}},
        }
        self._text: list[str] = []
        self._numbers = iter(range(self.load.deltas))
        ids = {"messageID": self._info["id"], "partID": self._part_id, "field": "text"}
        template = frame("message.part.delta", sessionID=session_id, **ids, delta="@")
        self._head, self._tail = template.split(b"@")

    @property
    def _part_id(self) -> str:
        return f"prt_{self._session_id[4:]}text"

    def messages(self) -> list[Json]:
        """What REST says."""
        done = "completed" in self._info["time"]
        answered = [self._part("text", self._part_id, text="".join(self._text) if done else "")]
        return [
            {"info": self._user, "parts": self._asked},
            {"info": self._info, "parts": answered},
        ]

    def beginning(self) -> Iterator[bytes]:
        sid = self._session_id
        yield frame("message.updated", sessionID=sid, info=self._user)
        for part in self._asked:
            yield frame("message.part.updated", sessionID=sid, part=part)
        yield frame("session.status", sessionID=sid, status={"type": "busy"})
        yield frame("message.updated", sessionID=sid, info=self._info)
        yield self._told("step-start", f"prt_{sid[4:]}start")
        yield self._told("text", self._part_id, text="", time={"start": 1})

    def delta(self) -> bytes | None:
        """The next delta; ``None`` behind the last."""
        number = next(self._numbers, None)
        if number is None:
            return None
        text = f"{number}@{time.monotonic_ns()};".ljust(self.load.size, ".")
        self._text.append(text)
        return self._head + text.encode() + self._tail

    def end(self) -> Iterator[bytes]:
        sid = self._session_id
        self._info["time"] = {**self._info["time"], "completed": int(time.time() * 1000)}
        self._info["finish"] = "stop"
        yield self._told("text", self._part_id, text="".join(self._text), time={"end": 2})
        yield self._told("step-finish", f"prt_{sid[4:]}finish", reason="stop")
        yield frame("message.updated", sessionID=sid, info=self._info)
        yield frame("session.status", sessionID=sid, status={"type": "idle"})
        yield frame("session.idle", sessionID=sid)

    def _part(self, kind: str, part_id: str, **more: Any) -> Json:
        ids = {"sessionID": self._session_id, "messageID": self._info["id"]}
        return {"id": part_id, **ids, "type": kind, **more}

    def _told(self, kind: str, part_id: str, **more: Any) -> bytes:
        part = self._part(kind, part_id, **more)
        return frame("message.part.updated", sessionID=self._session_id, part=part)


class Upstream:
    """The server."""

    def __init__(self) -> None:
        self.bus = Bus()
        self._names = count()
        self._rules: dict[str, list[Json]] = {}
        self._answers: dict[str, Answer] = {}
        self._busy: dict[str, Json] = {}
        self._waiting: list[Answer] = []
        self._begun = asyncio.Event()
        self._due: list[tuple[float, int, Answer]] = []
        self._order = count()
        self._tasks: set[asyncio.Task[None]] = set()
        session, message = "/session/{id}", "/session/{id}/message"
        self.app: Starlette = Starlette(
            routes=[
                Route("/global/health", self._say({"healthy": True, "version": "1.18.33"})),
                Route("/path", self._say({"directory": "/", "worktree": "/"})),
                Route("/agent", self._say([])),
                Route("/permission", self._say([])),
                Route("/question", self._say([])),
                Route("/session", self._create, methods=["POST"]),
                Route("/session/status", lambda r: JSONResponse(self._busy)),
                Route(session, self._session, methods=["GET", "PATCH"]),
                Route(f"{session}/prompt_async", self._prompt, methods=["POST"]),
                Route(f"{session}/children", self._say([])),
                Route(f"{session}/abort", self._say(True), methods=["POST"]),
                Route(message, self._messages),
                Route(message + "/{message_id}", self._message),
                Route("/event", self.bus),
            ],
            lifespan=self._running,
        )

    async def go(self) -> Json:
        """Let those that wait go on, each in its own time; how many."""
        waiting, self._waiting = self._waiting, []
        for answer in waiting:
            self._pace(answer)
        return {"went": len(waiting)}

    async def all_wait(self, answers: int) -> Json:
        """Return once so many answers wait."""
        while len(self._waiting) < answers:
            self._begun.clear()
            await self._begun.wait()
        return {}

    async def counts(self) -> Json:
        """What was written so far, and the connections there were at once."""
        return {"bytes": self.bus.bytes, "connections": self.bus.most}

    @asynccontextmanager
    async def _running(self, app: Starlette) -> AsyncIterator[None]:
        ticking = asyncio.create_task(self._tick())
        yield
        ticking.cancel()

    async def _tick(self) -> None:
        while True:
            now = time.monotonic()
            chunk: list[bytes] = []
            while self._due and self._due[0][0] <= now:
                due, _, answer = heapq.heappop(self._due)
                delta = answer.delta()
                if delta is None:
                    chunk += answer.end()
                    del self._busy[answer.messages()[0]["info"]["sessionID"]]
                    continue
                chunk.append(delta)
                heapq.heappush(self._due, (due + self._pause(answer), next(self._order), answer))
            if chunk:
                self.bus.emit(b"".join(chunk))
            await asyncio.sleep(TICK)

    def _pace(self, answer: Answer) -> None:
        begin = time.monotonic() + random.random() * self._pause(answer)  # noqa: S311
        heapq.heappush(self._due, (begin, next(self._order), answer))

    def _pause(self, answer: Answer) -> float:
        return 1 / (answer.load.per_second or 1)

    async def _rush(self, answer: Answer) -> None:
        while burst := [delta for _ in range(BURST) if (delta := answer.delta())]:
            self.bus.emit(b"".join(burst))
            await asyncio.sleep(0)
        del self._busy[answer.messages()[0]["info"]["sessionID"]]
        self.bus.emit(b"".join(answer.end()))

    def _say(self, value: Any) -> Any:
        return lambda request: JSONResponse(value)

    async def _create(self, request: Request) -> Response:
        session_id = f"ses_{next(self._names):026x}"
        self._rules[session_id] = (await request.json()).get("permission", [])
        return JSONResponse({"id": session_id, "directory": "/"})

    async def _session(self, request: Request) -> Response:
        session_id = request.path_params["id"]
        if request.method == "PATCH":
            self._rules[session_id] += (await request.json()).get("permission", [])
        return JSONResponse({"id": session_id, "permission": self._rules[session_id]})

    async def _prompt(self, request: Request) -> Response:
        session_id = request.path_params["id"]
        answer = self._answers[session_id] = Answer(session_id, await request.json())
        self._busy[session_id] = {"type": "busy"}
        self.bus.emit(b"".join(answer.beginning()))
        if answer.load.waits:
            self._waiting.append(answer)
            self._begun.set()
        elif answer.load.per_second:
            self._pace(answer)
        else:
            task = asyncio.create_task(self._rush(answer))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return Response(status_code=204)

    async def _messages(self, request: Request) -> Response:
        return JSONResponse(self._answers[request.path_params["id"]].messages())

    async def _message(self, request: Request) -> Response:
        answer = self._answers.get(request.path_params["id"])
        for message in answer.messages() if answer else ():
            if message["info"]["id"] == request.path_params["message_id"]:
                return JSONResponse(message)
        return JSONResponse({"name": "NotFoundError", "data": {"message": "none"}}, 404)


if __name__ == "__main__":
    upstream = Upstream()
    commands: Commands = {
        "go": upstream.go,
        "all_wait": upstream.all_wait,
        "counts": upstream.counts,
    }
    serve(upstream.app, commands)
