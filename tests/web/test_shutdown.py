"""A worker that is told to go says goodbye to its followers and gives its turns to the next."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import httpx_sse

from opencode_async import Timings
from opencode_async.client.local_server import free_port
from opencode_async.testing import ScriptedServer
from tests.chaos.verdict import assert_said_once_and_completed, settled
from tests.support.hosts import host, nowhere
from tests.support.parts import REPOSITORY
from tests.support.postgres import new_database
from tests.support.replay import replay_events
from tests.support.serving import Sse
from tests.support.workers import deployed

DEPLOYED = Timings(lease=30.0, accept=8.0, reconnect=5.0, look=3.0, settle=0.5, snapshot=0.1)
# The test's own process takes over nobody's turn.
ELSEWHERE = Timings(lease=1200.0)
SOON = 10.0  # s: far below the lease


class Browser:
    """One who follows a stream from one worker to the next, as ``EventSource`` does."""

    def __init__(self, path: str) -> None:
        self.events: list[Sse] = []
        self.farewells: list[int] = []  # when to reconnect, ms
        self._path = path
        self._news = asyncio.Event()

    async def follow(self, *workers: httpx.AsyncClient) -> None:
        """Follow the stream to its end in the last of them."""
        for worker in workers:
            await self._listen(worker)

    async def hears(self, words: str) -> None:
        async with asyncio.timeout(40):
            while not any(words in str(event) for event in self.events):
                await self._news.wait()
                self._news.clear()

    async def told(self, key: str) -> tuple[dict[str, Any], dict[str, Any] | None]:
        """What it has of a turn, and how that ended, which it was told once."""
        async with asyncio.timeout(40):
            while not (events := self._of(key)) or events[-1].event != "finished":
                await self._news.wait()
                self._news.clear()
        return replay_events(events)

    @property
    def last_id(self) -> dict[str, str]:
        return {"Last-Event-ID": self.events[-1].id} if self.events else {}

    def _of(self, key: str) -> list[Sse]:
        return [event for event in self.events if event.data["message_id"] == key]

    async def _listen(self, worker: httpx.AsyncClient) -> None:
        stream = httpx_sse.aconnect_sse(worker, "GET", self._path, headers=self.last_id)
        async with stream as source:
            connected, farewell = False, None
            async for frame in source.aiter_sse():
                farewell = frame.retry if connected and not frame.data else None
                connected = True
                if frame.data:
                    self.events.append(Sse(frame.id, frame.event, frame.json()))
                    self._news.set()
        if farewell is not None:
            self.farewells.append(farewell)


@asynccontextmanager
async def worker(database: Path, server: ScriptedServer) -> AsyncIterator[tuple[Process, str]]:
    """The chat in a process of its own, as one deploys it; the process and its URL."""
    port = free_port()
    environment = {
        **os.environ,
        "DATABASE_URL": f"sqlite+aiosqlite:///{database}",
        "OPENCODE_BASE_URL": server.url,
        "OPENCODE_SERVER_PASSWORD": server.password or "",
    }
    arguments = ["-m", "uvicorn", "--factory", "examples.chat.app:create_app"]
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, *arguments, "--port", str(port)),
        cwd=REPOSITORY,
        env=environment,
        stderr=PIPE,
    )
    assert process.stderr is not None
    try:
        async for line in process.stderr:
            if b"Uvicorn running" in line:
                break
        yield process, f"http://127.0.0.1:{port}"
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def test_sigterm_says_farewell_and_the_next_worker_goes_on(
    tmp_path: Path, opencode: ScriptedServer
) -> None:
    database = tmp_path / "chat.db"
    visitor = {"visitor": "me"}
    text = 'SCRIPT:slow {"n": 12, "delay": 0.3}'
    async with (
        worker(database, opencode) as (process, url),
        httpx.AsyncClient(base_url=url, cookies=visitor, trust_env=False, timeout=20) as client,
    ):
        cid = (await client.post("/agent/conversations")).json()["id"]
        path = f"/agent/conversations/{cid}/messages"
        mid = (await client.post(path, json={"text": text})).json()["id"]
        received = ""
        async with client.stream("GET", f"/agent/messages/{mid}/events") as response:
            async for chunk in response.aiter_text():
                received += chunk
                if "tick2" in received and process.returncode is None:
                    process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(10):
            await process.wait()
    farewell = received[received.index(": the server is shutting down") :]
    assert "retry: " in farewell
    assert "event: finished" not in received
    last = [line for line in received.splitlines() if line.startswith("id: ")][-1][4:]
    async with (
        worker(database, opencode) as (_, url),
        httpx.AsyncClient(base_url=url, cookies=visitor, trust_env=False, timeout=20) as client,
    ):
        path = f"/agent/messages/{mid}/events"
        headers = {"Last-Event-ID": last}
        async with client.stream("GET", path, headers=headers) as response:
            rest = "".join([chunk async for chunk in response.aiter_text()])
        message = (await client.get(f"/agent/messages/{mid}")).json()
    assert "event: finished" in rest
    assert message["content"] == "".join(f"tick{n} " for n in range(12))
    assert message["status"] == "completed"


async def test_a_worker_beside_takes_over_long_before_the_lease_is_over(
    postgres_url: str, opencode: ScriptedServer
) -> None:
    text = 'SCRIPT:slow {"n": 40, "delay": 0.25}'
    async with (
        new_database(postgres_url) as url,
        host(url, opencode, timings=ELSEWHERE, dispatch=nowhere) as app,
        deployed(url, opencode, DEPLOYED) as (leaving, leaving_url),
        deployed(url, opencode, DEPLOYED) as (staying, staying_url),
        httpx.AsyncClient(base_url=leaving_url, trust_env=False, timeout=20) as there,
        httpx.AsyncClient(base_url=staying_url, trust_env=False, timeout=20) as here,
    ):
        cid, other = [(await there.post("/agent/conversations")).json()["id"] for _ in range(2)]
        path = f"/agent/conversations/{cid}/messages"
        mid = (await there.post(path, json={"text": text})).json()["id"]
        turn, conversation = f"/agent/messages/{mid}/events", f"/agent/conversations/{cid}/events"
        moved = [Browser(turn), Browser(conversation)]
        stayed = [Browser(turn), Browser(conversation)]
        async with asyncio.TaskGroup() as tasks:
            following = [
                *(tasks.create_task(browser.follow(there, here)) for browser in moved),
                *(tasks.create_task(browser.follow(here)) for browser in stayed),
            ]
            for browser in (*moved, *stayed):
                await browser.hears("tick4")
            leaving.terminate()
            began = time.monotonic()
            post = {"text": "SCRIPT:text Next.", "on_busy": "enqueue"}
            waiting = (await here.post(path, json=post)).json()
            started = (await here.post(path.replace(cid, other), json=post)).json()
            assert (waiting["status"], started["status"]) == ("queued", "pending")
            await staying.says("claimed", mid, within=SOON)
            seconds = time.monotonic() - began
            assert await leaving.ends(within=SOON)
            print(f"taken over {seconds:.1f} s after SIGTERM, under a lease of 30 s")
            row = await settled(app, mid)
            await assert_said_once_and_completed(app, row)
            told = [await browser.told(mid) for browser in (*moved, *stayed)]
            for browser in (moved[1], stayed[1]):
                await browser.told(waiting["id"])
            for task in following[1::2]:
                task.cancel()  # a conversation's stream has no end
        stored = (await here.get(f"/agent/messages/{mid}")).json()
        again = [await here.get(turn, headers=b.last_id) for b in (moved[0], stayed[0])]
        rows = [await settled(app, message["id"]) for message in (waiting, started)]
        await assert_said_once_and_completed(app, row)
    assert seconds < SOON
    assert (leaving.status, leaving.complaints) == (-signal.SIGTERM, [])  # uvicorn raises it again
    assert [line for line in leaving.said if "left" in line]
    assert [len(browser.farewells) for browser in (*moved, *stayed)] == [1, 1, 0, 0]
    assert all(500 <= browser.farewells[0] <= 2500 for browser in moved)
    assert (leaving.claims(mid), staying.claims(mid), row.epoch) == ([1], [2], 2)
    for later in rows:
        assert (later.status, later.content) == ("completed", "Next.")
        assert (leaving.claims(later.id), staying.claims(later.id)) == ([], [1])
    assert row.content == "".join(f"tick{n} " for n in range(40))
    assert [finished for _, finished in told] == [stored] * 4
    assert [response.status_code for response in again] == [204, 204]
    assert not staying.complaints
