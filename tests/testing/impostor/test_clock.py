"""Waits that take no time."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from opencode_async import OpencodeClient, Retrying
from opencode_async.testing import Impostor
from opencode_async.testing.impostor import RealClock, VirtualClock
from tests.contract.witness import witness
from tests.testing.impostor.saying import answered


@pytest.mark.parametrize(("status", "retries"), [(429, 5), (500, 5), (401, 0)])
async def test_retries_cost_no_time(
    status: int, retries: int, impostor: Impostor, client: OpencodeClient
) -> None:
    impostor.on("go").error(status, "too much")
    began, real = impostor.clock.now(), time.monotonic()
    message, seen = await answered(client, "go")
    assert message["status"] == "error"
    assert [c.attempt for c in seen if isinstance(c, Retrying)] == [*range(1, retries + 1)]
    assert impostor.clock.now() - began == pytest.approx(62 if retries else 0)  # 2+4+8+16+32
    assert time.monotonic() - real < 20


async def test_a_refusal_that_passes(impostor: Impostor, client: OpencodeClient) -> None:
    impostor.on("go").error(429, times=2, after=30).text("At last.")
    began = impostor.clock.now()
    message, _ = await answered(client, "go")
    assert (message["status"], message["content"]) == ("completed", "At last.")
    assert impostor.clock.now() - began == pytest.approx(60)


async def test_a_broken_stream_of_the_provider_is_tried_again(
    impostor: Impostor, client: OpencodeClient
) -> None:
    impostor.on("go").text("Never kept. ").cut()
    message, seen = await answered(client, "go")
    assert message["status"] == "error"
    assert sum(isinstance(change, Retrying) for change in seen) == 5


async def test_time_that_a_test_moves_by_hand(tmp_path: Path) -> None:
    clock = VirtualClock(manual=True)
    async with Impostor(tmp_path, clock=clock) as impostor, witness(impostor.server) as w:
        impostor.on("go").text("Wait. ").wait(3600).text("Waited.")
        session = await w.session()
        await w.prompt(session, "go")
        await w.kind("message.part.delta")
        clock.advance(3599)
        assert (await w.ask("GET", "/session/status"))[session] == {"type": "busy"}
        clock.advance(1)
        await w.idle(session)


async def test_heartbeats_come_when_time_passes(impostor: Impostor) -> None:
    clock = impostor.clock
    assert isinstance(clock, VirtualClock)
    async with witness(impostor.server) as w:
        for beats in (1, 2):
            await asyncio.sleep(0)  # the heart waits again
            clock.advance(10)
            await w.kind("server.heartbeat", beats)


async def test_a_virtual_clock_wakes_in_the_order_of_time() -> None:
    clock, woken = VirtualClock(), list[int]()

    async def wait(seconds: int) -> None:
        await clock.sleep(seconds)
        woken.append(seconds)

    async with asyncio.TaskGroup() as tasks:
        for seconds in (30, 10, 20):
            tasks.create_task(wait(seconds))
        given_up = tasks.create_task(wait(5))
        await asyncio.sleep(0)
        given_up.cancel()
    assert woken == [10, 20, 30]


async def test_a_real_clock_may_be_fast() -> None:
    clock = RealClock(speed=1000)
    before, real = clock.now(), time.monotonic()
    await clock.sleep(20)
    assert clock.now() - before >= 20
    assert time.monotonic() - real < 10
