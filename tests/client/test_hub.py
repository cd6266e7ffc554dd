"""Who hears what of the one event stream, and what is left of those who have gone."""

from __future__ import annotations

import asyncio

import pytest

from opencode_async.client import hub as hub_module
from opencode_async.client.hub import Gap, Item, Nudge
from opencode_async.protocol.events import MessagePartDelta, SessionCreated, SessionIdle
from opencode_async.protocol.subagents import Subagent
from tests.client.hub_lab import (
    CONNECTED,
    Lab,
    connected,
    created,
    delta,
    frame,
    idle,
    next_items,
)

CHILD = SessionCreated("ses_child", Subagent("ses_child", "ses_a", "", 0))
GRANDCHILD = SessionCreated("ses_grandchild", Subagent("ses_grandchild", "ses_child", "", 0))


async def test_subscribing_returns_only_when_the_server_says_that_it_listens(lab: Lab) -> None:
    subscriber = lab.in_task("ses_a")
    connection = await lab.streams.accept()
    await connection.send(idle("ses_other"), frame("server.heartbeat"), idle("ses_a"))
    assert not subscriber.subscribed.is_set()
    await connection.send(CONNECTED)
    await subscriber.subscribed.wait()
    assert subscriber.events is not None
    assert await next_items(subscriber.events) == [SessionIdle("ses_a"), Gap()]
    await subscriber.leave()


async def test_all_who_come_while_it_connects_are_let_in_together(lab: Lab) -> None:
    subscribers = [lab.in_task(f"ses_{number}") for number in range(100)]
    await lab.streams.connect()
    for subscriber in subscribers:
        await subscriber.subscribed.wait()
    assert lab.streams.attempts == 1
    for subscriber in subscribers:
        await subscriber.leave()
    assert lab.forgotten


async def test_who_comes_later_shares_the_connection_and_is_told_of_no_gap(lab: Lab) -> None:
    async with (
        connected(lab, "ses_a") as (first, connection),
        lab.hub.subscribe("ses_b") as second,
    ):
        await connection.send(delta("ses_b", "b"), delta("ses_a", "a"), delta("ses_c", "c"))
        assert await next_items(first) == [MessagePartDelta("ses_a", "msg_1", "prt_1", "a")]
        assert await next_items(second) == [MessagePartDelta("ses_b", "msg_1", "prt_1", "b")]
    assert lab.streams.attempts == 1


async def test_events_keep_their_order_within_and_between_batches(lab: Lab) -> None:
    async with connected(lab, "ses_a") as (events, connection):
        await connection.send(*(delta("ses_a", str(number)) for number in range(100)))
        batch = await next_items(events)
        await connection.send(delta("ses_a", "100"), idle("ses_a"))
        batch += await next_items(events)
    texts = [item.delta for item in batch if isinstance(item, MessagePartDelta)]
    assert texts == [str(number) for number in range(101)]
    assert batch[-1] == SessionIdle("ses_a")


async def test_the_connection_is_closed_some_time_after_the_last_has_left_and_reopened(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub_module, "LINGER", 0.01)
    async with connected(lab, "ses_a") as (_, connection):
        async with lab.hub.subscribe("ses_b"):
            pass
        assert not connection.closed.is_set()
    assert not connection.closed.is_set()
    await connection.closed.wait()
    async with connected(lab, "ses_a") as (events, second):
        await second.send(idle("ses_a"))
        assert await next_items(events) == [SessionIdle("ses_a")]
    assert lab.streams.attempts == 2


async def test_who_comes_while_it_lingers_keeps_the_connection(lab: Lab) -> None:
    async with connected(lab, "ses_a") as (_, connection):
        pass
    closing = lab.hub._closing
    assert closing is not None
    async with lab.hub.subscribe("ses_b") as events:
        assert closing.cancelled()
        await connection.send(idle("ses_b"))
        assert await next_items(events) == [SessionIdle("ses_b")]
    assert lab.streams.attempts == 1


async def test_subagents_at_any_depth_are_heard_by_their_ancestors_subscriber(lab: Lab) -> None:
    async with connected(lab, "ses_a") as (events, connection):
        await connection.send(
            delta("ses_child", "too early to be known"),
            created("ses_child", "ses_a"),
            created("ses_grandchild", "ses_child"),
            created("ses_stranger", "ses_elsewhere"),
            idle("ses_grandchild"),
            idle("ses_stranger"),
            idle("ses_child"),
        )
        assert await next_items(events) == [
            CHILD,
            GRANDCHILD,
            SessionIdle("ses_grandchild"),
            SessionIdle("ses_child"),
        ]
        assert events.session_ids == {"ses_a", "ses_child", "ses_grandchild"}
    assert lab.forgotten


async def test_an_adopted_session_is_heard_once_however_often_it_is_adopted(lab: Lab) -> None:
    async with connected(lab, "ses_a") as (events, connection):
        lab.hub.adopt(events, "ses_child")
        lab.hub.adopt(events, "ses_child")
        await connection.send(created("ses_child", "ses_a"), idle("ses_child"))
        batch = await next_items(events)
        assert batch == [CHILD, SessionIdle("ses_child")]
    assert lab.forgotten


async def test_two_subscriptions_of_one_session_both_hear_everything(lab: Lab) -> None:
    async with connected(lab, "ses_a") as (first, connection):
        async with lab.hub.subscribe("ses_a") as second:
            await connection.send(created("ses_child", "ses_a"), idle("ses_child"))
            assert await next_items(first) == await next_items(second)
        await connection.send(idle("ses_child"))
        assert await next_items(first) == [SessionIdle("ses_child")]
    assert lab.forgotten


async def test_leaving_in_any_order_leaves_nothing(lab: Lab) -> None:
    names = ["ses_a", "ses_b", "ses_a", "ses_c"]
    subscribers = [lab.in_task(name) for name in names]
    connection = await lab.streams.connect()
    for subscriber in subscribers:
        await subscriber.subscribed.wait()
    await connection.send(created("ses_child", "ses_a"), created("ses_c", "ses_child"))
    for number in (2, 0, 3, 1):
        assert not lab.forgotten
        await subscribers[number].leave()
    assert lab.forgotten


async def test_types_it_does_not_know_are_ignored(lab: Lab) -> None:
    async with connected(lab, "ses_a") as (events, connection):
        unknown = frame("session.invented", sessionID="ses_a")
        await connection.send(unknown, frame("plugin.added", id="p"), idle("ses_a"))
        assert await next_items(events) == [SessionIdle("ses_a")]
    assert (lab.hub.malformed, lab.reported) == (0, [])


async def test_malformed_frames_are_counted_and_reported_and_the_stream_goes_on(lab: Lab) -> None:
    malformed = [
        "{",
        "[]",
        '{"type": 7}',
        '{"type": "session.idle"}',
        frame("session.idle", sessionID=7),
        frame("message.updated", sessionID="ses_a", info="none"),
    ]
    async with connected(lab, "ses_a") as (events, connection):
        await connection.send(*malformed, idle("ses_a"))
        assert await next_items(events) == [SessionIdle("ses_a")]
    assert lab.hub.malformed == len(malformed)
    assert [severity for _, severity in lab.reported] == ["warning"] * len(malformed)
    assert lab.streams.attempts == 1


async def test_one_that_lags_too_far_behind_is_told_of_a_gap_instead(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub_module, "MOST_PENDING", 10)
    async with (
        connected(lab, "ses_a") as (events, connection),
        lab.hub.subscribe("ses_a") as quick,
    ):
        seen: list[Item] = []
        for number in range(25):
            await connection.send(delta("ses_a", str(number)))
            seen += await next_items(quick)
            assert len(events._pending) <= 10
        first, *rest = await next_items(events)
        assert len(seen) == 25
        assert first == Gap()
        assert rest == seen[-len(rest) :]


async def test_a_nudge_survives_the_gap_of_one_that_lags(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub_module, "MOST_PENDING", 10)
    async with connected(lab, "ses_a") as (events, connection):
        events.put(Nudge())
        await connection.send(*(delta("ses_a", "x") for _ in range(25)))
        assert Nudge() in await next_items(events)


async def test_a_nudge_wakes_whoever_waits_for_events(lab: Lab) -> None:
    async with connected(lab, "ses_a") as (events, _):
        waiting = lab.start(events.batch(10))
        events.put(Nudge())
        assert await waiting == [Nudge()]


async def test_who_is_cancelled_while_it_waits_to_be_let_in_leaves_nothing(lab: Lab) -> None:
    impatient, patient = lab.in_task("ses_a"), lab.in_task("ses_b")
    connection = await lab.streams.accept()
    impatient.task.cancel()
    await asyncio.wait([impatient.task])
    assert impatient.task.cancelled()
    assert list(lab.hub._subscriptions) == ["ses_b"]
    await connection.send(CONNECTED)
    await patient.subscribed.wait()
    await patient.leave()
    assert lab.forgotten


async def test_who_is_cancelled_inside_leaves_nothing(lab: Lab) -> None:
    subscriber = lab.in_task("ses_a")
    connection = await lab.streams.connect()
    await subscriber.subscribed.wait()
    await connection.send(created("ses_child", "ses_a"))
    subscriber.task.cancel()
    await asyncio.wait([subscriber.task])
    assert lab.forgotten
