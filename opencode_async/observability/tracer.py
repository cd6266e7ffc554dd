"""Where it is told how long what took, and as part of what: the spans of a turn.

They are, each below the first: ``turn``, what one worker does for a turn, and in it ``session``,
until the session and the request are there; ``prompt``, while it is posted; ``first_token``, from
then to the first word or call; a ``tool`` for each call; ``artifacts``, while its files are kept;
``finalize``, while its end is stored.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import copy_context
from typing import Protocol

from opencode_async.observability.error_reporter import ErrorReporter
from opencode_async.observability.events import Value

Attributes = Mapping[str, Value]


class Span(Protocol):
    """Something that takes time and is under way."""

    def set(self, attributes: Attributes) -> None:
        """Say more about it; ``None`` is nothing to say."""


class Tracer(Protocol):
    """Opens spans. What it raises goes to the ``ErrorReporter`` and changes nothing.

    Attributes are ids, names, numbers and codes, as in the payloads of events: ``message_id``,
    ``conversation_id``, ``session_id``, ``epoch``, ``agent``, ``model``, ``response_model``,
    ``tool``, ``call_id``, ``created``, ``status``, ``finish``, ``error``, ``cost`` and the tokens.
    """

    def span(
        self, name: str, attributes: Attributes, *, parent: Mapping[str, str] | None = None
    ) -> AbstractContextManager[Span]:
        """A span that lasts as long as the block, and is the current one in it.

        ``parent`` is what ``inject()`` gave, perhaps in another process and long ago: the new span
        goes on with that trace, or if it is empty with none. Without it the current span is the
        parent.
        """

    def inject(self) -> Mapping[str, str]:
        """What it takes to go on with the current span elsewhere: nothing if there is none.

        It is stored in the turn's row.
        """


class NoSpan:
    """A span of nobody's interest."""

    def set(self, attributes: Attributes) -> None:
        """Nothing is told."""


NO_SPAN = NoSpan()


class NoTracer:
    """The default ``Tracer``, which is silent."""

    def span(
        self, name: str, attributes: Attributes, *, parent: Mapping[str, str] | None = None
    ) -> AbstractContextManager[Span]:
        """See ``Tracer``."""
        return nullcontext(NO_SPAN)

    def inject(self) -> Mapping[str, str]:
        """See ``Tracer``."""
        return {}


class HarmlessTracer:
    """A tracer whose own failures are reported and go no further."""

    def __init__(self, tracer: Tracer, report: ErrorReporter) -> None:
        self._tracer = tracer
        self._report = report

    @contextmanager
    def span(
        self, name: str, attributes: Attributes, *, parent: Mapping[str, str] | None = None
    ) -> Iterator[Span]:
        """See ``Tracer``."""
        try:
            block = self._tracer.span(name, attributes, parent=parent)
            span: Span = HarmlessSpan(block.__enter__(), self.failed)
        except Exception as error:
            self.failed(error)
            block, span = nullcontext(NO_SPAN), NO_SPAN
        try:
            yield span
        except BaseException as error:
            self._leave(block, error)
            raise
        else:
            self._leave(block, None)

    def inject(self) -> Mapping[str, str]:
        """See ``Tracer``."""
        try:
            return dict(self._tracer.inject())
        except Exception as error:
            self.failed(error)
            return {}

    def failed(self, error: Exception) -> None:
        """Report that the host's tracer raised."""
        self._report(error, severity="warning", context={"during": "tracer"})

    def _leave(self, block: AbstractContextManager[Span], error: BaseException | None) -> None:
        kind = None if error is None else type(error)
        try:
            block.__exit__(kind, error, None if error is None else error.__traceback__)
        except Exception as failed:
            if failed is not error:
                self.failed(failed)


class HarmlessSpan:
    """See ``HarmlessTracer``."""

    def __init__(self, span: Span, failed: Callable[[Exception], None]) -> None:
        self._span = span
        self._failed = failed

    def set(self, attributes: Attributes) -> None:
        """See ``Span``."""
        try:
            self._span.set(attributes)
        except Exception as error:
            self._failed(error)


class Aside:
    """A span that begins and ends in different places, and is nowhere the current one.

    It is entered and left in a context of its own.
    """

    def __init__(self, block: AbstractContextManager[Span]) -> None:
        self._block = block
        self._context = copy_context()
        self._span = self._context.run(block.__enter__)

    def end(self, attributes: Attributes) -> None:
        """It is over, and this is known of it now."""
        self._span.set(attributes)
        self._context.run(self._block.__exit__, None, None, None)
