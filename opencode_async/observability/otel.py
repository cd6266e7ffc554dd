"""Spans and metrics of turns for OpenTelemetry (extra ``otel``).

Names are those of its GenAI conventions where these have one (as of November 2026, status
Development), which call a turn ``invoke_agent`` and a call of a tool ``execute_tool``; all others
begin with ``opencode.``. Only W3C's trace context is stored with a turn, no baggage.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from opentelemetry import metrics, trace
from opentelemetry.context import Context
from opentelemetry.metrics import MeterProvider
from opentelemetry.trace import Link, SpanKind, Status, StatusCode, TracerProvider
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from opencode_async.observability.events import (
    Event,
    FollowerDropped,
    FollowerJoined,
    FollowerLeft,
    FollowerStalled,
    StreamConnected,
    StreamOverflowed,
    TurnFinished,
    TurnFirstToken,
    TurnGivenUp,
    TurnStarted,
)
from opencode_async.observability.tracer import Attributes

NAME = "opencode_async"
INVOKE_AGENT, EXECUTE_TOOL = "invoke_agent", "execute_tool"
OPERATIONS = {"turn": INVOKE_AGENT, "tool": EXECUTE_TOOL}
ATTRIBUTES = {
    "message_id": "opencode.message.id",
    "conversation_id": "gen_ai.conversation.id",
    "session_id": "opencode.session.id",
    "subagent": "opencode.subagent.session.id",
    "epoch": "opencode.turn.epoch",
    "created": "opencode.session.created",
    "agent": "gen_ai.agent.name",
    "status": "opencode.status",
    "error": "error.type",
    "cost": "opencode.turn.cost",
    "output_tokens": "gen_ai.usage.output_tokens",
    "cache_read_tokens": "gen_ai.usage.cache_read.input_tokens",
    "cache_write_tokens": "gen_ai.usage.cache_creation.input_tokens",
    "tool": "gen_ai.tool.name",
    "call_id": "gen_ai.tool.call.id",
}
OPENCODE = "opencode"  # is the provider where it has not said whose model it asks
# The conventions' names of providers, where OpenCode has others.
PROVIDERS = {
    "amazon-bedrock": "aws.bedrock",
    "azure": "azure.ai.openai",
    "google": "gcp.gemini",
    "google-vertex": "gcp.vertex_ai",
    "mistral": "mistral_ai",
    "moonshotai": "moonshot_ai",
    "xai": "x_ai",
}
SECONDS = (0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 51.2, 102.4, 204.8, 409.6)
TOKENS = tuple(4**power for power in range(14))


class OpenTelemetry:
    """Both a ``Tracer`` and an ``Instrumentation``: ``Opencode(…, tracer=o, instrumentation=o)``.

    Without providers the global ones are used, as they are when it is made. A turn's span goes on
    with the trace of the request that started the turn, in whichever process; where another span is
    current there, a job queue's, say, it is linked.
    """

    def __init__(
        self,
        tracer_provider: TracerProvider | None = None,
        meter_provider: MeterProvider | None = None,
    ) -> None:
        self._tracer = trace.get_tracer(NAME, tracer_provider=tracer_provider)
        self._propagator = TraceContextTextMapPropagator()
        self._measures = Measures(metrics.get_meter(NAME, meter_provider=meter_provider))

    def __call__(self, event: Event, /) -> None:
        """See ``Instrumentation``."""
        self._measures.take(event)

    @contextmanager
    def span(
        self, name: str, attributes: Attributes, *, parent: Mapping[str, str] | None = None
    ) -> Iterator[OtelSpan]:
        """See ``Tracer``."""
        context, links = None, []
        if parent is not None:
            context = self._propagator.extract(parent, Context())
            here = trace.get_current_span().get_span_context()
            origin = trace.get_current_span(context).get_span_context()
            if here.is_valid and here.trace_id != origin.trace_id:
                links = [Link(here)]
        operation = OPERATIONS.get(name)
        about = {} if operation is None else {"gen_ai.operation.name": operation}
        if name == "turn":
            about["gen_ai.provider.name"] = OPENCODE
        with self._tracer.start_as_current_span(
            operation or f"opencode.{name}",
            context,
            SpanKind.CLIENT if name == "turn" else SpanKind.INTERNAL,
            about,  # samplers decide by these
            links,
            # What an exception says may be a prompt's or an answer's.
            record_exception=False,
            set_status_on_exception=False,
        ) as opened:
            span = OtelSpan(opened)
            span.set(attributes)
            try:
                yield span
            except Exception as error:
                span.set({"error": type(error).__name__})
                raise

    def inject(self) -> Mapping[str, str]:
        """See ``Tracer``."""
        carrier: dict[str, str] = {}
        self._propagator.inject(carrier)
        return carrier


class OtelSpan:
    """A span that is said in the conventions' words."""

    def __init__(self, span: trace.Span) -> None:
        self._span = span

    def set(self, attributes: Attributes) -> None:
        """See ``Span``."""
        known = {name: value for name, value in attributes.items() if value is not None}
        self._span.set_attributes(
            {ATTRIBUTES[name]: value for name, value in known.items() if name in ATTRIBUTES}
        )
        if "agent" in known:
            self._span.update_name(f"{INVOKE_AGENT} {known['agent']}")
        if "tool" in known:
            self._span.update_name(f"{EXECUTE_TOOL} {known['tool']}")
        if "finish" in known:
            self._span.set_attribute("gen_ai.response.finish_reasons", [str(known["finish"])])
        if "input_tokens" in known:
            self._span.set_attribute("gen_ai.usage.input_tokens", all_input(attributes))
        for side in ("model", "response_model"):
            if side in known:
                provider, name = provider_and_model(str(known[side]))
                key = "gen_ai.request.model" if side == "model" else "gen_ai.response.model"
                self._span.set_attributes({"gen_ai.provider.name": provider, key: name})
        if "error" in known:
            self._span.set_status(Status(StatusCode.ERROR, str(known["error"])))


class Measures:
    """What is counted and measured of the events."""

    def __init__(self, meter: metrics.Meter) -> None:
        self._running: set[tuple[str, int]] = set()
        self._turns = meter.create_counter("opencode.turns", "{turn}", "Turns that have ended.")
        self._active = meter.create_up_down_counter(
            "opencode.turns.active", "{turn}", "Turns that run in this process."
        )
        self._total = meter.create_histogram(
            "opencode.turn.duration",
            "s",
            "From the post of a turn to its end, its wait in the queue included.",
            explicit_bucket_boundaries_advisory=SECONDS,
        )
        self._ran = meter.create_histogram(
            "gen_ai.invoke_agent.duration",
            "s",
            "From the start of a turn in this process to its end.",
            explicit_bucket_boundaries_advisory=SECONDS,
        )
        self._first = meter.create_histogram(
            "gen_ai.client.operation.time_to_first_chunk",
            "s",
            "From the prompt to the first word or call.",
            explicit_bucket_boundaries_advisory=SECONDS,
        )
        self._tokens = meter.create_histogram(
            "gen_ai.client.token.usage",
            "{token}",
            "Tokens of a turn, subagents' included.",
            explicit_bucket_boundaries_advisory=TOKENS,
        )
        self._cost = meter.create_counter(
            "opencode.turn.cost", "{currency}", "What turns cost, in the currency of the prices."
        )
        self._followers = meter.create_up_down_counter(
            "opencode.followers", "{follower}", "Streams of turns and conversations that are open."
        )
        self._reconnects = meter.create_counter(
            "opencode.stream.reconnects", "{reconnect}", "Event streams that broke and stand again."
        )
        self._drops = meter.create_counter(
            "opencode.drops", "{drop}", "Followers, and turns, that were too slow for their events."
        )

    def take(self, event: Event) -> None:
        """Count or measure what the event is about, if it is about anything that is."""
        match event:
            case TurnStarted():
                self._running.add((event.message_id, event.epoch))
                self._active.add(1)
            case TurnGivenUp():
                self._is_over(event.message_id, event.epoch)
            case TurnFirstToken():
                self._first.record(event.seconds, asked(event.agent, event.model))
            case TurnFinished():
                self._is_over(event.message_id, event.epoch)
                self._take_end(event)
            case FollowerJoined():
                self._followers.add(1, {"opencode.of": event.of})
            case FollowerLeft():
                self._followers.add(-1, {"opencode.of": event.of})
            case FollowerDropped() | FollowerStalled():
                self._drops.add(1, {"opencode.of": "follower"})
            case StreamOverflowed():
                self._drops.add(1, {"opencode.of": "turn"})
            case StreamConnected(reconnected=True):
                self._reconnects.add(1)

    def _is_over(self, message_id: str, epoch: int) -> None:
        """It runs here no more, if it did."""
        if (message_id, epoch) in self._running:
            self._running.remove((message_id, epoch))
            self._active.add(-1)

    def _take_end(self, event: TurnFinished) -> None:
        about = asked(event.agent, event.model)
        failed = {} if event.error is None else {"error.type": event.error}
        status = {"opencode.status": event.status, **failed}
        self._turns.add(1, status)
        self._total.record(event.seconds, status)
        if event.ran:
            self._ran.record(event.ran, {**about, **status})
        self._cost.add(event.cost, about)
        self._tokens.record(all_input(event.payload), {**about, "gen_ai.token.type": "input"})
        self._tokens.record(event.output_tokens, {**about, "gen_ai.token.type": "output"})


def asked(agent: str | None, model: str | None) -> dict[str, str]:
    """Who was asked, in the conventions' words."""
    about = {"gen_ai.operation.name": INVOKE_AGENT, "gen_ai.provider.name": OPENCODE}
    if agent is not None:
        about["gen_ai.agent.name"] = agent
    if model is not None:
        about["gen_ai.provider.name"], about["gen_ai.request.model"] = provider_and_model(model)
    return about


def provider_and_model(model: str) -> tuple[str, str]:
    """OpenCode's ``provider/model``, its provider as the conventions call it."""
    provider, _, name = model.partition("/")
    return PROVIDERS.get(provider, provider), name


def all_input(tokens: Mapping[str, Any]) -> int:
    """All tokens that went in; OpenCode counts those of the cache apart, the conventions do not."""
    kinds = ("input_tokens", "cache_read_tokens", "cache_write_tokens")
    return sum(int(tokens.get(kind) or 0) for kind in kinds)
