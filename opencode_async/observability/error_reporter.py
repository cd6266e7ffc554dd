"""Where an error goes that no caller can be given."""

from __future__ import annotations

import logging
from typing import Literal, Protocol

Severity = Literal["warning", "error"]
LEVELS = {"warning": logging.WARNING, "error": logging.ERROR}
logger = logging.getLogger("opencode_async")


class ErrorReporter(Protocol):
    """Receives every error the library goes on after, so that none is silent.

    Called from the event loop: it must return quickly and must not raise. ``context`` holds ids and
    names (``message_id``, ``session_id``, ``during``), never a prompt, an answer or a credential.
    """

    def __call__(
        self, error: BaseException, *, severity: Severity, context: dict[str, str]
    ) -> None: ...


def guarded(reporter: ErrorReporter) -> ErrorReporter:
    """The reporter, whose own failures are logged and go no further: they would end every turn."""

    def report(error: BaseException, *, severity: Severity, context: dict[str, str]) -> None:
        without_parameters(error)
        try:
            reporter(error, severity=severity, context=context)
        except Exception:
            logger.exception("the ErrorReporter failed")

    return report


def without_parameters(error: BaseException) -> None:
    """Have SQLAlchemy's errors not say what was to be stored: prompts and answers.

    Errors refer to each other in circles: one of a ``TaskGroup`` is both in its group and, raised
    out of it once more, behind it.
    """
    seen: set[int] = set()
    links: list[BaseException | None] = [error]
    while links:
        link = links.pop()
        if link is None or id(link) in seen:
            continue
        seen.add(id(link))
        if hasattr(link, "hide_parameters"):
            link.hide_parameters = True
        if isinstance(link, BaseExceptionGroup):
            links += link.exceptions
        links += (link.__cause__, link.__context__)


def log_error(error: BaseException, *, severity: Severity, context: dict[str, str]) -> None:
    """The default ``ErrorReporter``: a record of the logger ``opencode_async``."""
    logger.log(
        LEVELS[severity],
        "%s (%s)",
        type(error).__name__,
        ", ".join(f"{key}={value}" for key, value in context.items()),
        exc_info=error,
    )
