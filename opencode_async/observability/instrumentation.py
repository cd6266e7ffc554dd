"""Where it is told what happens: to logs, metrics, breadcrumbs, as the host likes."""

from __future__ import annotations

import logging
from typing import Protocol

from opencode_async.observability.error_reporter import ErrorReporter
from opencode_async.observability.events import Event

logger = logging.getLogger("opencode_async")


class Instrumentation(Protocol):
    """Is told of every event in ``opencode_async.observability.events``, as it happens.

    Called from the event loop, so it must return quickly. What it raises goes to the
    ``ErrorReporter`` and changes nothing. A word of a reply is no event: a turn has a dozen or so.
    """

    def __call__(self, event: Event, /) -> None: ...


def log_event(event: Event) -> None:
    """The default ``Instrumentation``: a record of the logger ``opencode_async``, at DEBUG."""
    if logger.isEnabledFor(logging.DEBUG):
        told = " ".join(f"{key}={value}" for key, value in event.payload.items())
        logger.debug("%s %s", event.name, told)


def harmless(instrumentation: Instrumentation, report: ErrorReporter) -> Instrumentation:
    """The instrumentation, whose own failures are reported and go no further."""

    def tell(event: Event) -> None:
        try:
            instrumentation(event)
        except Exception as error:
            report(error, severity="warning", context={"during": f"instrumentation: {event.name}"})

    return tell
