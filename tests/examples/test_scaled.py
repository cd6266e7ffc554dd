"""The example of several processes, started as the README says, with one of them killed."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
from contextlib import closing
from pathlib import Path

import httpx
import pytest

from opencode_async.client.local_server import free_port
from tests.support.made import made
from tests.support.serving import listening

TICKS = 140  # of a word each: longer than it takes to notice that a worker is dead


def two_free_ports() -> int:
    """The first of them."""
    while True:
        port = free_port()
        with closing(socket.socket()) as probe:
            if probe.connect_ex(("127.0.0.1", port + 1)):
                return port


async def hears(output: asyncio.StreamReader, pattern: str) -> re.Match[str]:
    """The next of its lines that is like that."""
    said = []
    while line := (await output.readline()).decode():
        said.append(line)
        print(line, end="")
        if found := re.search(pattern, line):
            return found
    raise AssertionError("".join(said))


@pytest.mark.timeout(180)
async def test_a_turn_whose_worker_is_killed_is_finished_by_the_other(tmp_path: Path) -> None:
    async with made("make scaled", tmp_path, PORT=str(two_free_ports())) as output:
        urls = [(await hears(output, r"web process \d+: (\S+)"))[1] for _ in range(2)]
        async with httpx.AsyncClient(trust_env=False, timeout=30) as http:
            visitor = (await http.get(urls[0])).cookies["visitor"]
            http.headers["Cookie"] = f"visitor={visitor}"
            here = (await http.post(f"{urls[0]}/agent/conversations")).json()["id"]
            path = f"/agent/conversations/{here}"
            async with listening(http, f"{urls[1]}{path}/events") as events:
                text = f'SCRIPT:slow {{"n": {TICKS}, "delay": 0.1}}'
                posted = await http.post(f"{urls[0]}{path}/messages", json={"text": text})
                key = posted.raise_for_status().json()["id"]
                worker = await hears(output, rf"turn worker (\d+): turn {key} is run here")
                async for event in events:
                    assert event.event != "finished"
                    if event.event == "part.delta":
                        break
                os.kill(int(worker[1]), signal.SIGKILL)
                await http.post(
                    f"{urls[0]}{path}/messages",
                    json={"text": "SCRIPT:text Next.", "on_busy": "enqueue"},
                )
                other = await hears(output, rf"turn worker (\d+): turn {key} .* \(epoch 2\)")
                ends = [
                    (await anext(event async for event in events if event.event == "finished")).data
                    for _ in range(2)
                ]
    assert other[1] != worker[1]
    assert [end["message"]["status"] for end in ends] == ["completed"] * 2
    assert ends[0]["message_id"] == key
    assert ends[0]["message"]["content"].split() == [f"tick{n}" for n in range(TICKS)]
    assert ends[1]["message"]["content"] == "Next."
