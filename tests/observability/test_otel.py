"""Spans and metrics of real turns, as OpenTelemetry's own exporters have them."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from fastapi import FastAPI
from opentelemetry import baggage
from opentelemetry.context import attach, detach
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from opencode_async import Access, TurnSettings
from opencode_async.observability.events import TurnFinished
from opencode_async.observability.otel import Measures, OpenTelemetry
from opencode_async.testing import ScriptedServer
from tests.observability.scenarios import (
    BASH,
    HANGING,
    PLAIN,
    SCENARIOS,
    SECRET,
    Scenario,
    Stage,
    one_that_asks_a_person,
    one_that_leaves_files,
    one_whose_provider_fails_once,
    one_whose_provider_refuses,
    said,
)
from tests.support.hosts import Host, host, nowhere
from tests.support.parts import REPOSITORY
from tests.support.proxy import Proxy
from tests.support.serving import listening, serving
from tests.turns.asking import a_turn
from tests.turns.ended import run

TRACE, CALLER = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
TRACEPARENT = f"00-{TRACE}-{CALLER}-01"


class Watched:
    """The adapter with exporters in memory: one process's telemetry."""

    def __init__(self) -> None:
        self.exporter = InMemorySpanExporter()
        self.tracers = TracerProvider()
        self.tracers.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.reader = InMemoryMetricReader()
        self.meters = MeterProvider([self.reader])
        self.adapter = OpenTelemetry(self.tracers, self.meters)
        self.options: dict[str, Any] = {"tracer": self.adapter, "instrumentation": self.adapter}

    @property
    def spans(self) -> list[ReadableSpan]:
        return list(self.exporter.get_finished_spans())

    @property
    def turns(self) -> list[ReadableSpan]:
        return [span for span in self.spans if span.name.startswith("invoke_agent")]

    def below(self, parent: ReadableSpan) -> dict[str, ReadableSpan]:
        """Its children by their names."""
        assert parent.context is not None
        mine = parent.context.span_id
        return {s.name: s for s in self.spans if s.parent and s.parent.span_id == mine}

    def measured(self, name: str) -> list[tuple[dict[str, Any], Any]]:
        """The points of a metric, with their attributes."""
        data = self.reader.get_metrics_data()
        assert data is not None
        return [
            (dict(point.attributes or {}), point)
            for resource in data.resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
            if metric.name == name
            for point in metric.data.data_points
        ]

    def total(self, name: str, **attributes: Any) -> Any:
        """The sum of a counter, or of those of its points that have these attributes."""
        wanted = {key.replace("__", "."): value for key, value in attributes.items()}
        return sum(
            point.value for about, point in self.measured(name) if wanted.items() <= about.items()
        )


@pytest.fixture
def watched() -> Iterator[Watched]:
    one = Watched()
    yield one
    one.tracers.shutdown()
    one.meters.shutdown()


def trace_of(span: ReadableSpan) -> str:
    assert span.context is not None
    return f"{span.context.trace_id:032x}"


def app_of(agent: Host[Any, Any], watched: Watched) -> FastAPI:
    """An app that traces its requests, as FastAPI does by itself."""
    table = agent.agent.tables.conversation

    def access() -> Access:
        return Access(table.user_id == 1, conversation={"user_id": 1})

    traced: Any = {"tracer_provider": watched.tracers, "metrics": False, "logs": False}
    app = FastAPI(telemetry=traced)
    app.include_router(agent.agent.router(access=access), prefix="/agent")
    return app


async def asked_over_http(agent: Host[Any, Any], watched: Watched, text: str) -> str:
    """A turn of a request that came with a trace; the message's id, once a follower saw its end."""
    async with serving(app_of(agent, watched)) as client:
        conversation = (await client.post("/agent/conversations")).json()["id"]
        path = f"/agent/conversations/{conversation}"
        async with listening(client, f"{path}/events") as events:
            headers = {"traceparent": TRACEPARENT}
            answer = await client.post(f"{path}/messages", json={"text": text}, headers=headers)
            async for event in events:
                if event.event == "finished":
                    break
        message_id: str = answer.json()["id"]
        return message_id


async def test_a_turn_goes_on_with_the_trace_of_the_request_it_was_posted_with(
    database_url: str,
    opencode: ScriptedServer,
    watched: Watched,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def settings_for(conversation: Any) -> TurnSettings:
        return TurnSettings(agent="build", model="scripted/scripted")

    options = {"settings_for": settings_for, "files": True, **watched.options}
    async with host(database_url, opencode, **options) as app:
        message_id = await asked_over_http(app, watched, BASH)
        key = app.agent.tables.message.id.type.python_type(message_id)
        row = await app.row(key)
        await app.agent.turns.stop(key, within=10)  # its host is told behind `finished`
    (turn,) = watched.turns
    assert trace_of(turn) == TRACE
    by_id = {span.context.span_id: span for span in watched.spans if span.context is not None}
    above = turn
    while above.parent is not None and above.parent.span_id in by_id:
        above = by_id[above.parent.span_id]
    assert above.kind is SpanKind.SERVER
    assert above.parent is not None
    assert f"{above.parent.span_id:016x}" == CALLER

    below = watched.below(turn)
    assert below.keys() == {
        *("opencode.session", "opencode.prompt", "opencode.first_token"),
        *("execute_tool bash", "opencode.artifacts", "opencode.finalize"),
    }
    assert (turn.name, turn.kind) == ("invoke_agent build", SpanKind.CLIENT)
    cached = row.cache_read_tokens + row.cache_write_tokens
    assert dict(turn.attributes or {}) == {
        "gen_ai.operation.name": "invoke_agent",
        "gen_ai.provider.name": "scripted",
        "gen_ai.agent.name": "build",
        "gen_ai.request.model": "scripted",
        "gen_ai.response.model": "scripted",
        "gen_ai.response.finish_reasons": ("stop",),
        "gen_ai.conversation.id": str(row.conversation_id),
        "gen_ai.usage.input_tokens": row.input_tokens + cached,
        "gen_ai.usage.output_tokens": row.output_tokens,
        "gen_ai.usage.cache_read.input_tokens": row.cache_read_tokens,
        "gen_ai.usage.cache_creation.input_tokens": row.cache_write_tokens,
        "opencode.message.id": message_id,
        "opencode.session.id": (below["opencode.session"].attributes or {})["opencode.session.id"],
        "opencode.turn.epoch": 1,
        "opencode.turn.cost": row.cost,
        "opencode.status": "completed",
    }
    assert dict(below["execute_tool bash"].attributes or {}) == {
        "gen_ai.operation.name": "execute_tool",
        "gen_ai.tool.name": "bash",
        "gen_ai.tool.call.id": row.parts[1]["call_id"],
        "opencode.status": "completed",
    }
    assert (below["opencode.session"].attributes or {})["opencode.session.created"] is True
    begun = [span.start_time or 0 for span in below.values()]
    ended = [span.end_time or 0 for span in below.values()]
    assert (turn.start_time or 0) <= min(begun)
    assert max(ended) <= (turn.end_time or 0)
    prompt, first = below["opencode.prompt"], below["opencode.first_token"]
    assert (first.start_time or 0) <= (prompt.start_time or 0) < (first.end_time or 0)
    said_nothing(watched)
    # Of a span that is left elsewhere than where it was entered, OpenTelemetry only logs.
    assert [record for record in caplog.records if record.name.startswith("opentelemetry")] == []


def said_nothing(watched: Watched) -> None:
    """No span holds words of a prompt, an answer or an error."""
    for span in watched.spans:
        assert SECRET not in span.to_json()
        assert span.events == () or not span.events


async def test_over_a_job_queue_the_trace_is_the_requests_and_the_jobs_own_is_linked(
    database_url: str, opencode: ScriptedServer, watched: Watched
) -> None:
    worker = Watched()
    web = host(database_url, opencode, dispatch=nowhere, **watched.options)
    async with web as app, host(database_url, opencode, **worker.options) as other:
        requests, jobs = watched.tracers.get_tracer("web"), worker.tracers.get_tracer("queue")
        conversation = await app.conversation()
        with requests.start_as_current_span("request") as request:
            token = attach(baggage.set_baggage("user", SECRET))
            message = await app.agent.turns.start(conversation, PLAIN)
            detach(token)
        with jobs.start_as_current_span("job") as job:
            result = await other.agent.turns.run(message.id)
        row = await app.row(message.id)
    (turn,) = worker.turns
    assert turn.context is not None
    assert turn.parent is not None
    assert turn.parent.span_id == request.get_span_context().span_id
    assert turn.context.trace_id == request.get_span_context().trace_id
    assert [link.context for link in turn.links] == [job.get_span_context()]
    assert watched.turns == []
    assert result.status == "completed"
    assert row.request is not None
    assert row.request["trace"].keys() == {"traceparent"}
    worker.tracers.shutdown()
    worker.meters.shutdown()


@pytest.mark.parametrize("traced", [True, False])
async def test_a_takeover_goes_on_with_the_same_trace(
    traced: bool, database_url: str, opencode: ScriptedServer, watched: Watched
) -> None:
    async with host(database_url, opencode, dispatch=nowhere, **watched.options) as app:
        conversation = await app.conversation()
        if traced:
            with watched.tracers.get_tracer("web").start_as_current_span("request"):
                message = await app.agent.turns.start(conversation, HANGING)
        else:
            message = await app.agent.turns.start(conversation, HANGING)
        running = asyncio.create_task(app.agent.turns.run(message.id))
        while not (await app.row(message.id)).content:  # noqa: ASYNC110
            await asyncio.sleep(0)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        running = asyncio.create_task(app.agent.turns.run(message.id))
        while (await app.row(message.id)).epoch < 2:  # noqa: ASYNC110
            await asyncio.sleep(0)
        await app.agent.turns.cancel(message.id)
        await running
    first, second = watched.turns
    assert trace_of(first) == trace_of(second)
    about = [dict(turn.attributes or {}) for turn in (first, second)]
    assert [attributes["opencode.turn.epoch"] for attributes in about] == [1, 2]
    assert [attributes["opencode.status"] for attributes in about] == ["given_up", "cancelled"]
    assert [turn.status.status_code for turn in (first, second)] == [StatusCode.UNSET] * 2
    assert second.parent is not None
    if not traced:
        assert first.parent is None
        assert first.context is not None
        assert second.parent.span_id == first.context.span_id
    said_nothing(watched)


TELLING: list[Scenario] = [
    one_whose_provider_fails_once,
    one_whose_provider_refuses,
    one_that_asks_a_person,
    one_that_leaves_files,
]


@pytest.mark.parametrize("scenario", TELLING, ids=lambda scenario: scenario.__name__)
async def test_no_span_holds_what_was_said(
    scenario: Scenario,
    postgres_database: str,
    opencode: ScriptedServer,
    watched: Watched,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert scenario in SCENARIOS
    stage = Stage(postgres_database, opencode, tmp_path, monkeypatch, watched.adapter)
    stage.options["tracer"] = watched.adapter
    await scenario(stage)
    (turn,) = watched.turns
    said_nothing(watched)
    refused = scenario is one_whose_provider_refuses
    assert turn.status.status_code is (StatusCode.ERROR if refused else StatusCode.UNSET)
    assert (turn.attributes or {}).get("error.type") == ("provider_error" if refused else None)


async def test_calls_of_subagents_and_calls_that_fail_are_spans_that_say_so(
    postgres_database: str, opencode: ScriptedServer, watched: Watched
) -> None:
    options = {"dispatch": nowhere, **watched.options}
    async with host(postgres_database, opencode, **options) as app:
        for script in (
            'SCRIPT:task {"prompt": "SCRIPT:bash"}',
            'SCRIPT:read {"path": "absent.txt"}',
        ):
            row, _ = await run(app, await app.conversation(), script)
            assert row.status == "completed"
    first, second = watched.turns
    calls = {name: dict(span.attributes or {}) for name, span in watched.below(first).items()}
    assert "opencode.subagent.session.id" not in calls["execute_tool task"]
    child = calls["execute_tool bash"]["opencode.subagent.session.id"]
    assert str(child).startswith("ses_")
    ((_, failed),) = [c for c in watched.below(second).items() if c[0].startswith("execute_tool")]
    assert (failed.attributes or {})["error.type"] == "tool_error"
    assert failed.status.status_code is StatusCode.ERROR
    assert second.status.status_code is StatusCode.UNSET


async def test_turns_are_counted_by_their_ends_and_measured(
    database_url: str, opencode: ScriptedServer, watched: Watched
) -> None:
    async with host(database_url, opencode, **watched.options) as app:
        rows = []
        for _ in range(2):
            message = await app.agent.turns.start(await app.conversation(), BASH)
            await app.agent.turns.run(message.id)
            rows.append(await app.row(message.id))
        message = await app.agent.turns.start(await app.conversation(), "SCRIPT:error401")
        await app.agent.turns.run(message.id)
        rows.append(await app.row(message.id))
        async with a_turn(app, HANGING) as turn:
            await turn.until(said(SECRET))
            assert watched.total("opencode.turns.active") == 1
            assert watched.total("opencode.followers", opencode__of="turn") == 1
            conversation = (await app.row(turn.id)).conversation_id
            waiting = await app.agent.turns.start(conversation, PLAIN, on_busy="enqueue")
            await app.agent.turns.cancel(waiting.id)  # and never runs
            await app.agent.turns.cancel(turn.id)
            rows.append(await turn.row())
        for key in (turn.id, waiting.id):
            await app.agent.turns.stop(key, within=10)
    ends = {
        (about["opencode.status"], about.get("error.type")): point.value
        for about, point in watched.measured("opencode.turns")
    }
    assert ends == {
        ("completed", None): 2,
        ("error", "provider_error"): 1,
        ("cancelled", None): 2,
    }
    assert watched.total("opencode.turns.active") == 0
    assert watched.total("opencode.followers") == 0
    assert sum(p.count for _, p in watched.measured("opencode.turn.duration")) == 5
    assert sum(p.count for _, p in watched.measured("gen_ai.invoke_agent.duration")) == 4
    firsts = watched.measured("gen_ai.client.operation.time_to_first_chunk")
    assert sum(point.count for _, point in firsts) == 3
    assert all(0 < point.min < point.max < 30 for _, point in firsts)
    assert watched.total("opencode.turn.cost") == pytest.approx(sum(row.cost for row in rows))
    tokens = {
        about["gen_ai.token.type"]: 0 for about, _ in watched.measured("gen_ai.client.token.usage")
    }
    for about, point in watched.measured("gen_ai.client.token.usage"):
        tokens[about["gen_ai.token.type"]] += point.sum
    names = ("input_tokens", "cache_read_tokens", "cache_write_tokens")
    assert tokens == {
        "input": sum(getattr(row, name) for row in rows for name in names),
        "output": sum(row.output_tokens for row in rows),
    }


async def test_breaks_and_drops_are_counted(
    postgres_database: str,
    opencode: ScriptedServer,
    watched: Watched,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    proxy = Proxy(opencode)
    async with (
        proxy.running() as server,
        host(postgres_database, server, **watched.options) as app,
        a_turn(app, 'SCRIPT:slow {"n": 12, "delay": 0.1}') as turn,
    ):
        await turn.until(said("tick1"))
        assert watched.total("opencode.stream.reconnects") == 0
        proxy.cut()
        await turn.row()
        assert watched.total("opencode.stream.reconnects") == 1
        assert watched.measured("opencode.drops") == []
        monkeypatch.setattr("opencode_async.client.hub.MOST_PENDING", 1)
        message = await app.agent.turns.start(await app.conversation(), PLAIN)
        await app.agent.turns.run(message.id)
        assert watched.total("opencode.drops", opencode__of="turn") > 0


def test_the_readme_has_every_metric_and_span() -> None:
    readme = (REPOSITORY / "README.md").read_text("utf-8")
    section = readme.partition("## Watching it")[2].partition("An `Instrumentation` is called")[0]
    named = set(re.findall(r"`((?:opencode|gen_ai)\.[a-z_.]+)`", section))
    meter = Mock()
    Measures(meter)
    made = {call.args[0] for call in meter.method_calls}
    spans = {"session", "prompt", "first_token", "artifacts", "finalize"}
    assert named == made | {f"opencode.{name}" for name in spans}


def test_the_same_turn_told_twice_is_active_once_at_most(watched: Watched) -> None:
    """A worker that tells of a turn which another one ran has none less."""
    usage = ("input_tokens", "output_tokens", "cache_read_tokens", "cache_write_tokens")
    watched.adapter(
        TurnFinished(
            message_id="m",
            conversation_id="c",
            epoch=1,
            status="completed",
            finish="stop",
            error=None,
            agent=None,
            model=None,
            seconds=1.0,
            ran=0.0,
            cost=0.0,
            **dict.fromkeys(usage, 0),
        )
    )
    assert watched.measured("opencode.turns.active") == []
    assert watched.measured("gen_ai.invoke_agent.duration") == []
    assert watched.total("opencode.turns") == 1
