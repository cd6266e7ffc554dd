"""The event hub over streams whose every frame, failure and end the test decides."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import pytest

from opencode_async.client import hub as hub_module
from opencode_async.client.hub import Disconnected, EventHub, Gap, Item, Nudge, Subscription
from opencode_async.errors import AuthenticationError, OpencodeConnectionError
from opencode_async.observability.error_reporter import Severity
from opencode_async.protocol.events import MessagePartDelta, SessionCreated, SessionIdle

Result = TypeVar("Result")

CONNECTED = json.dumps({"id": "evt_0", "type": "server.connected", "properties": {}})
BROKEN = OpencodeConnectionError("the line is cut")


class Connection:
    """One opened stream."""

    def __init__(self) -> None:
        self.closed = asyncio.Event()
        self._items: asyncio.Queue[str | Exception] = asyncio.Queue()

    async def send(self, *frames: str) -> None:
        """Send frames, and wait until the hub has dealt with them."""
        for frame in frames:
            self._items.put_nowait(frame)
        await self._items.join()

    def fail(self, error: Exception) -> None:
        """Have the stream raise after the frames before."""
        self._items.put_nowait(error)

    async def frames(self) -> AsyncIterator[str]:
        while not isinstance(item := await self._items.get(), Exception):
            yield item
            self._items.task_done()
        raise item


class Streams:
    """What the hub opens; ``refusal`` is raised instead while it is set."""

    def __init__(self) -> None:
        self.attempts = 0
        self.refusal: Exception | None = None
        self.failure_at_close: Exception | None = None
        self._opened: asyncio.Queue[Connection] = asyncio.Queue()

    async def accept(self) -> Connection:
        """The next connection the hub opens, silent so far."""
        return await self._opened.get()

    async def connect(self) -> Connection:
        """The next connection, once the hub has taken note that it stands."""
        connection = await self.accept()
        await connection.send(CONNECTED)
        return connection

    @asynccontextmanager
    async def open(self) -> AsyncIterator[AsyncIterator[str]]:
        self.attempts += 1
        if self.refusal is not None:
            raise self.refusal
        connection = Connection()
        self._opened.put_nowait(connection)
        try:
            yield connection.frames()
        finally:
            connection.closed.set()
            if self.failure_at_close is not None:
                raise self.failure_at_close


@dataclass
class Lab:
    """A hub, its streams and what it reported."""

    hub: EventHub
    streams: Streams
    tasks: asyncio.TaskGroup
    reported: list[tuple[BaseException, Severity]]
    started: list[asyncio.Task[Any]] = field(default_factory=list)

    def start(self, work: Coroutine[Any, Any, Result]) -> asyncio.Task[Result]:
        """A task that does not outlive the test."""
        task = self.tasks.create_task(work)
        self.started.append(task)
        return task

    def in_task(self, session_id: str) -> Subscriber:
        return Subscriber(self, session_id)

    @property
    def forgotten(self) -> bool:
        """Whether the hub knows no subscriber any more."""
        return self.hub._subscriptions == {}


class Subscriber:
    """A task of its own that subscribes and stays until it is told to leave."""

    def __init__(self, lab: Lab, session_id: str) -> None:
        self.subscribed = asyncio.Event()
        self.events: Subscription | None = None
        self._leaving = asyncio.Event()
        self._hub = lab.hub
        self.task = lab.start(self._stay(session_id))

    async def _stay(self, session_id: str) -> BaseException | None:
        try:
            async with self._hub.subscribe(session_id) as self.events:
                self.subscribed.set()
                await self._leaving.wait()
        except Exception as error:
            return error
        return None

    async def leave(self) -> None:
        self._leaving.set()
        await self.task


@pytest.fixture
async def lab() -> AsyncIterator[Lab]:
    reported: list[tuple[BaseException, Severity]] = []

    def report(error: BaseException, *, severity: Severity, context: dict[str, str]) -> None:
        assert context.keys() == {"during"}
        reported.append((error, severity))

    streams = Streams()
    async with asyncio.TaskGroup() as tasks:
        hub = EventHub(streams.open, tasks, report)
        lab = Lab(hub, streams, tasks, reported)
        yield lab
        for task in lab.started:
            task.cancel()
        hub.close()


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[tuple[float, float]]:
    """The ranges the hub drew its waits from, none of which it waits."""
    drawn: list[tuple[float, float]] = []

    def uniform(low: float, high: float) -> float:
        drawn.append((low, high))
        return 0.0

    monkeypatch.setattr("opencode_async.client.hub.random.uniform", uniform)
    return drawn


@pytest.fixture
def endless_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hub that has to wait before it reconnects waits longer than any test does."""
    monkeypatch.setattr("opencode_async.client.hub.random.uniform", lambda low, high: 3600.0)


def frame(kind: str, **properties: object) -> str:
    return json.dumps({"id": "evt_1", "type": kind, "properties": properties})


def idle(session_id: str) -> str:
    return frame("session.idle", sessionID=session_id)


def created(session_id: str, parent_id: str) -> str:
    return frame("session.created", sessionID=session_id, info={"parentID": parent_id})


def delta(session_id: str, text: str) -> str:
    fields = {"messageID": "msg_1", "partID": "prt_1", "field": "text", "delta": text}
    return frame("message.part.delta", sessionID=session_id, **fields)


async def next_items(events: Subscription) -> list[Item]:
    async with asyncio.timeout(10):
        return await events.batch()


@asynccontextmanager
async def connected(lab: Lab, session_id: str) -> AsyncIterator[tuple[Subscription, Connection]]:
    """The first subscription of a hub, with the gap of the connection behind it."""
    accepting = lab.start(lab.streams.connect())
    async with lab.hub.subscribe(session_id) as events:
        assert await next_items(events) == [Gap()]
        yield events, await accepting


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
            SessionCreated("ses_child", "ses_a"),
            SessionCreated("ses_grandchild", "ses_child"),
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
        assert batch == [SessionCreated("ses_child", "ses_a"), SessionIdle("ses_child")]
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
        waiting = lab.start(events.batch())
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
