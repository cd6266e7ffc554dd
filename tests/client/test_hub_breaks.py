"""What the event hub does when its stream breaks, cannot be opened or is closed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from opencode_async.client import hub as hub_module
from opencode_async.client.hub import Disconnected, Gap, Item
from opencode_async.errors import AuthenticationError, OpencodeConnectionError
from opencode_async.observability.events import StreamBroken, StreamConnected
from opencode_async.protocol.events import MessagePartDelta, SessionIdle
from tests.client.hub_lab import (
    BROKEN,
    CONNECTED,
    Lab,
    connected,
    created,
    delta,
    idle,
    next_items,
)


async def test_a_broken_stream_is_told_and_so_is_that_it_is_whole_again(
    lab: Lab, waits: list[tuple[float, float]]
) -> None:
    async with connected(lab, "ses_a") as (events, connection):
        await connection.send(delta("ses_a", "before"))
        connection.fail(BROKEN)
        second = await lab.streams.connect()
        await second.send(delta("ses_a", "after"))
        before, *between, after = await next_items(events)
    assert between == [Disconnected(BROKEN), Gap()]
    assert isinstance(before, MessagePartDelta)
    assert before.delta == "before"
    assert isinstance(after, MessagePartDelta)
    assert after.delta == "after"
    assert lab.reported == []


async def test_operators_are_told_of_breaks_but_not_of_a_stream_that_nobody_wants(
    lab: Lab, waits: list[tuple[float, float]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub_module, "LINGER", 0.0)
    async with connected(lab, "ses_a") as (_, connection):
        lab.streams.refusal = BROKEN
        connection.fail(BROKEN)
        while len(waits) < 3:  # noqa: ASYNC110
            await asyncio.sleep(0)
        lab.streams.refusal = None
        unwanted = await lab.streams.connect()
    await unwanted.closed.wait()
    async with connected(lab, "ses_a"):
        pass
    first, *broken, second, third = lab.told
    server = "http://server"
    assert first == StreamConnected(server=server, reconnected=False, failures=0)
    lost = StreamBroken(server=server, sessions=1, error="OpencodeConnectionError")
    assert broken == [lost] * len(broken)
    assert second == StreamConnected(server=server, reconnected=True, failures=len(broken))
    assert third == first


async def test_one_who_hears_several_sessions_is_told_of_a_break_once(
    lab: Lab, waits: list[tuple[float, float]]
) -> None:
    async with connected(lab, "ses_a") as (events, connection):
        await connection.send(created("ses_child", "ses_a"))
        connection.fail(BROKEN)
        await lab.streams.connect()
        assert (await next_items(events))[1:] == [Disconnected(BROKEN), Gap()]


async def test_a_stream_that_the_server_ends_is_a_broken_one(
    lab: Lab, waits: list[tuple[float, float]], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def ends_at_once() -> AsyncIterator[str]:
        yield CONNECTED

    @asynccontextmanager
    async def open_stream() -> AsyncIterator[AsyncIterator[str]]:
        yield ends_at_once()
        monkeypatch.setattr(lab.hub, "_open_stream", lab.streams.open)

    monkeypatch.setattr(lab.hub, "_open_stream", open_stream)
    async with lab.hub.subscribe("ses_a") as events:
        await lab.streams.connect()
        first, broken, second = await next_items(events)
    assert (first, second) == (Gap(), Gap())
    assert isinstance(broken, Disconnected)
    assert "closed the stream" in str(broken.error)


async def test_nobody_is_let_in_while_the_stream_is_broken(lab: Lab, endless_waits: None) -> None:
    async with connected(lab, "ses_a") as (events, connection):
        connection.fail(BROKEN)
        assert await next_items(events) == [Disconnected(BROKEN)]
        late = lab.in_task("ses_b")
        second = await lab.streams.accept()  # at once: somebody waits for it
        await second.send(idle("ses_b"))
        assert not late.subscribed.is_set()
        await second.send(CONNECTED)
        await late.subscribed.wait()
        assert await next_items(events) == [Gap()]
        await late.leave()


async def test_the_waits_before_reconnecting_grow_to_a_limit_and_are_jittered(
    lab: Lab, waits: list[tuple[float, float]]
) -> None:
    async with connected(lab, "ses_a") as (events, connection):
        lab.streams.refusal = BROKEN
        connection.fail(BROKEN)
        told: list[Item] = []
        while len(told) < 8:
            told += await next_items(events)
        lab.streams.refusal = None
        await lab.streams.connect()
        assert set(told) == {Disconnected(BROKEN)}
    assert waits[:7] == [(0.2, 0.4), (0.4, 0.8), (0.8, 1.6), (1.6, 3.2), *[(2.5, 5.0)] * 3]


async def test_a_connection_that_stood_makes_the_next_wait_short_again(
    lab: Lab, waits: list[tuple[float, float]]
) -> None:
    async with connected(lab, "ses_a") as (_, first):
        first.fail(BROKEN)
        (await lab.streams.accept()).fail(BROKEN)
        (await lab.streams.connect()).fail(BROKEN)
        await lab.streams.connect()
    assert waits == [(0.2, 0.4), (0.4, 0.8), (0.2, 0.4)]


async def test_a_server_that_is_absent_for_hours_is_still_tried(
    lab: Lab, waits: list[tuple[float, float]]
) -> None:
    async with connected(lab, "ses_a") as (events, connection):
        lab.streams.refusal = BROKEN
        connection.fail(BROKEN)
        while lab.streams.attempts < 1200:
            await next_items(events)
        lab.streams.refusal = None
        await lab.streams.connect()
    assert waits[-1] == (2.5, 5.0)


async def test_the_failure_of_the_first_attempt_is_raised_at_once_as_it_is(
    lab: Lab, endless_waits: None
) -> None:
    refusal = AuthenticationError(401, "UnknownError", "", method="GET", path="/event")
    lab.streams.refusal = refusal
    subscribers = [lab.in_task("ses_a"), lab.in_task("ses_b")]
    for subscriber in subscribers:
        assert await subscriber.task is refusal
    assert lab.streams.attempts == 1
    assert lab.forgotten


async def test_who_comes_after_a_failure_makes_it_try_again_at_once(
    lab: Lab, endless_waits: None
) -> None:
    lab.streams.refusal = BROKEN
    for attempt in (1, 2, 3):
        with pytest.raises(OpencodeConnectionError, match="the line is cut"):
            async with lab.hub.subscribe("ses_a"):
                pytest.fail("there is no stream")
        assert lab.streams.attempts == attempt
    lab.streams.refusal = None
    async with connected(lab, "ses_a") as (events, connection):
        await connection.send(idle("ses_a"))
        assert await next_items(events) == [SessionIdle("ses_a")]
    assert lab.streams.attempts == 4


async def test_nobody_waiting_ends_the_attempts_too(
    lab: Lab, endless_waits: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub_module, "LINGER", 0.0)
    lab.streams.refusal = BROKEN
    assert await lab.in_task("ses_a").task is BROKEN
    reader = lab.hub._reader
    assert reader is not None
    await asyncio.wait([reader])
    assert reader.cancelled()


async def test_an_error_that_is_not_ours_is_reported_and_the_hub_goes_on(
    lab: Lab, waits: list[tuple[float, float]]
) -> None:
    defect = ZeroDivisionError("ours")
    async with connected(lab, "ses_a") as (events, connection):
        connection.fail(defect)
        second = await lab.streams.connect()
        await second.send(idle("ses_a"))
        told, *rest = await next_items(events)
        assert isinstance(told, Disconnected)
        assert "ZeroDivisionError" in str(told.error)
        assert rest == [Gap(), SessionIdle("ses_a")]
    assert lab.reported == [(defect, "error")]


async def test_an_error_that_is_not_ours_is_given_to_subscribers_as_one_of_ours(
    lab: Lab, endless_waits: None
) -> None:
    lab.streams.refusal = ZeroDivisionError("ours")
    with pytest.raises(OpencodeConnectionError, match="ZeroDivisionError"):
        async with lab.hub.subscribe("ses_a"):
            pytest.fail("there is no stream")


async def test_closing_ends_the_reader_and_tells_who_is_subscribed(lab: Lab) -> None:
    async with connected(lab, "ses_a") as (events, connection):
        reader = lab.hub._reader
        assert reader is not None
        lab.hub.close()
        await asyncio.wait([reader])
        assert reader.cancelled()
        assert connection.closed.is_set()
        (told,) = await next_items(events)
        assert isinstance(told, Disconnected)
    assert lab.hub._closing is None
    lab.hub.close()  # once more is once


async def test_closing_refuses_who_waits_to_be_let_in(lab: Lab) -> None:
    subscriber = lab.in_task("ses_a")
    await lab.streams.accept()
    lab.hub.close()
    assert isinstance(await subscriber.task, OpencodeConnectionError)
    assert lab.forgotten


@pytest.mark.parametrize("failure", [BROKEN, ZeroDivisionError("ours")])
async def test_a_reader_whose_connection_fails_to_close_does_not_live_on(
    lab: Lab, failure: Exception
) -> None:
    lab.streams.failure_at_close = failure
    async with connected(lab, "ses_a") as (_, connection):
        reader = lab.hub._reader
        assert reader is not None
        lab.hub.close()
        async with connected(lab, "ses_b"):
            lab.streams.failure_at_close = None
            await asyncio.wait([reader])
            assert connection.closed.is_set()
            assert lab.hub._connected
    assert lab.streams.attempts == 2
