"""Turns as jobs of a real queue, wired as `examples/scaled` is: whatever it does, one answer."""

from __future__ import annotations

import asyncio
import importlib
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from procrastinate import App, JobContext, RetryStrategy
from procrastinate.jobs import Job
from sqlalchemy import text, update

from opencode_async import LeaseHeld, Opencode
from opencode_async.database_time import database_time
from opencode_async.testing import ScriptedServer
from tests.observability.test_otel import Watched
from tests.support.examples import environment
from tests.support.valkey import ValkeyServer

WIRING, MIGRATE = "examples.scaled.wiring", "examples.scaled.migrate"


@pytest.fixture
async def wiring(
    opencode: ScriptedServer,
    postgres_database: str,
    valkey: ValkeyServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> AsyncIterator[ModuleType]:
    """The module, which reads the environment when it is imported, with its queue and its agent.

    Nobody looks for lost turns or for jobs until a test does.
    """
    monkeypatch.chdir(tmp_path)  # files are kept below it
    where = {"DATABASE_URL": postgres_database, "REDIS_URL": valkey.url}
    for name, value in environment(opencode, **where).items():
        monkeypatch.setenv(name, value)
    assert WIRING not in sys.modules
    module = importlib.import_module(WIRING)
    try:
        await importlib.import_module(MIGRATE).migrate()
        async with module.queue.open_async(), module.agent.passive():
            yield module
        await module.engine.dispose()
    finally:
        for name in (WIRING, MIGRATE):
            sys.modules.pop(name, None)


async def conversation(wiring: ModuleType) -> Any:
    async with wiring.sessions.begin() as db:
        row = wiring.Conversation(visitor="ann")
        db.add(row)
    return row.id


async def row_of(wiring: ModuleType, message: Any) -> Any:
    async with wiring.sessions() as db:
        return await db.get(wiring.Message, message.id)


async def jobs(wiring: ModuleType, **which: Any) -> list[Job]:
    """The jobs of turns, in their order."""
    return list(await wiring.queue.job_manager.list_jobs_async(**{"task": "answer", **which}))


async def deliver(wiring: ModuleType, message: Any) -> None:
    """Once more, past the locks that `dispatch` takes."""
    await wiring.answer.defer_async(message_id=str(message.id))


async def work(wiring: ModuleType) -> None:
    """A worker for the jobs that may run now, all at once."""
    await wiring.queue.run_worker_async(wait=False, concurrency=10, install_signal_handlers=False)


async def prompts(wiring: ModuleType, conversation_id: Any) -> list[str]:
    """Whatever was asked in the conversation's session."""
    async with wiring.sessions() as db:
        row = await db.get_one(wiring.Conversation, conversation_id)
    path = f"/session/{row.opencode_session_id}/message"
    messages = (await wiring.agent.client.http.request("GET", path)).json()
    return [m["info"]["id"] for m in messages if m["info"]["role"] == "user"]


async def test_a_job_delivered_again_and_again_is_one_prompt(wiring: ModuleType) -> None:
    here = await conversation(wiring)
    message = await wiring.agent.turns.start(here, 'SCRIPT:slow {"n": 4, "delay": 0.1}')
    await wiring.dispatch(message)
    assert len(await jobs(wiring)) == 1  # it waits already
    for _ in range(2):
        await deliver(wiring, message)
    await work(wiring)
    row = await row_of(wiring, message)
    assert (row.status, row.content) == ("completed", "tick0 tick1 tick2 tick3 ")
    await deliver(wiring, message)  # late
    await work(wiring)
    assert [job.status for job in await jobs(wiring)] == ["succeeded"] * 4
    assert await prompts(wiring, here) == [row.prompt_id]
    assert (await row_of(wiring, message)).finished_at == row.finished_at


async def test_a_job_behind_a_cancellation_or_an_erasure_prompts_nothing(
    wiring: ModuleType, opencode: ScriptedServer
) -> None:
    turns = wiring.agent.turns
    cancelled = await turns.start(await conversation(wiring), "SCRIPT:text Cancelled meanwhile.")
    await turns.cancel(cancelled.id)
    doomed = await conversation(wiring)
    erased = await turns.start(doomed, "SCRIPT:text Erased meanwhile.")
    await wiring.agent.erase(doomed)
    await work(wiring)
    for message in (cancelled, erased):
        await deliver(wiring, message)
    await work(wiring)
    assert [job.status for job in await jobs(wiring)] == ["succeeded"] * 4
    assert (await row_of(wiring, cancelled)).status == "cancelled"
    assert await row_of(wiring, erased) is None
    assert not any("meanwhile." in str(asked.body) for asked in opencode.model.requests)


async def test_turns_of_a_conversation_are_jobs_one_behind_the_other(wiring: ModuleType) -> None:
    here = await conversation(wiring)
    start = wiring.agent.turns.start
    first = await start(here, "SCRIPT:text One.")
    second = await start(here, "SCRIPT:text Two.", on_busy="enqueue")
    await deliver(wiring, second)  # before its time, and past its conversation's lock
    await work(wiring)
    # Its own job is behind the first one's lock, which was held until that one's host was told.
    (waiting,) = await jobs(wiring, status="todo")
    assert (waiting.lock, waiting.queueing_lock) == (f"conversation {here}", f"turn {second.id}")
    assert (await row_of(wiring, second)).status == "pending"
    await work(wiring)
    rows = [await row_of(wiring, message) for message in (first, second)]
    assert [(row.status, row.content) for row in rows] == [
        ("completed", "One."),
        ("completed", "Two."),
    ]
    assert await prompts(wiring, here) == [row.prompt_id for row in rows]


async def test_a_turn_whose_job_the_queue_lost_is_dispatched_again(wiring: ModuleType) -> None:
    here = await conversation(wiring)
    message = await wiring.agent.turns.start(here, "SCRIPT:text Found.")
    long_ago = {"created_at": database_time(-2 * wiring.LEASE)}
    async with wiring.sessions.begin() as db:
        await db.execute(text("DELETE FROM procrastinate_jobs"))
        await db.execute(update(wiring.Message).values(long_ago))
    assert await wiring.agent.turns.recover() == [message.id]
    assert len(await jobs(wiring)) == 1
    await work(wiring)
    assert (await row_of(wiring, message)).content == "Found."


@asynccontextmanager
async def another_agent(wiring: ModuleType, watched: Watched) -> AsyncIterator[Any]:
    """As another process has it."""
    agent = Opencode(
        wiring.agent.server,
        wiring.sessions,
        wiring.agent.tables,
        artifacts=wiring.agent.artifacts,
        dispatch=wiring.dispatch,
        **watched.options,
    )
    async with agent.passive():
        yield agent


async def test_of_two_workers_at_once_one_is_refused_and_its_queue_tries_again(
    wiring: ModuleType,
) -> None:
    """By a task without locks, whose worker is traced, as is the request."""

    queue: App = wiring.queue

    @queue.task(pass_context=True, retry=RetryStrategy(wait=1, retry_exceptions=[LeaseHeld]))
    async def unlocked(context: JobContext, message_id: str) -> str:
        result = await context.additional_context["agent"].turns.run(message_id)
        return str(result.status)

    watched = Watched()
    spans = watched.tracers.get_tracer("queue")

    async def traced(call_next: Any, context: JobContext, worker: Any) -> Any:
        with spans.start_as_current_span("job"):
            return await call_next()

    async def working(agent: Any) -> None:
        await queue.run_worker_async(
            concurrency=1,
            shutdown_graceful_timeout=0,
            update_heartbeat_interval=wiring.LEASE / 3,
            fetch_job_polling_interval=0.1,
            install_signal_handlers=False,
            additional_context={"agent": agent},
            worker_middleware=[traced],
        )

    async def states() -> list[tuple[str, int]]:
        found = await jobs(wiring, task=unlocked.name)
        return sorted((str(job.status), job.attempts) for job in found)

    async def refused() -> bool:
        said = (await row_of(wiring, message)).content
        return bool(said) and any(attempts for _, attempts in await states())

    async def succeeded() -> bool:
        return {state for state, _ in await states()} == {"succeeded"}

    async def until(it: Callable[[], Awaitable[bool]]) -> None:
        async with asyncio.timeout(30):
            while not await it():  # noqa: ASYNC110
                await asyncio.sleep(0.05)

    async with another_agent(wiring, watched) as one, another_agent(wiring, watched) as other:
        here = await conversation(wiring)
        with spans.start_as_current_span("request") as request:
            message = await one.turns.start(here, "SCRIPT:hang Half of it.")
        (job,) = await jobs(wiring)
        assert job.id is not None
        await queue.job_manager.cancel_job_by_id_async(job.id)
        for _ in range(2):
            await unlocked.defer_async(message_id=str(message.id))
        async with asyncio.TaskGroup() as tasks:
            workers = [tasks.create_task(working(agent)) for agent in (one, other)]
            await until(refused)
            await one.turns.cancel(message.id)
            await until(succeeded)
            for worker in workers:
                worker.cancel()
        row = await row_of(wiring, message)
        asked = await prompts(wiring, here)
    assert [attempts > 1 for _, attempts in await states()] == [False, True]
    assert (row.status, row.epoch, row.content) == ("cancelled", 1, "Half of it.")
    assert asked == [row.prompt_id]
    # The row has carried the trace over the queue; the job's own is linked.
    (turn,) = watched.turns
    assert turn.context is not None
    assert turn.context.trace_id == request.get_span_context().trace_id
    (link,) = turn.links
    assert link.context.span_id in {
        span.context.span_id for span in watched.spans if span.name == "job" and span.context
    }
    watched.tracers.shutdown()
    watched.meters.shutdown()
