"""Real programs that tests need and that a machine may lack."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

import pytest

from examples.scaled.parts.missing import Missing

REPOSITORY = Path(__file__).resolve().parents[2]


def skip_without(part: str, remedy: str) -> NoReturn:
    """Skip the test by the name of what is missing; with STRICT=1, as in CI, that is a failure."""
    reason = f"{part} is not here: install it with {remedy}"
    if os.environ.get("STRICT") == "1":
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


@contextmanager
def skipped_where_missing() -> Iterator[None]:
    """The same for what starts in the block and says itself what is missing."""
    try:
        yield
    except Missing as missing:
        skip_without(missing.part, missing.remedy)


def opencode_executable() -> Path | None:
    """The one that OPENCODE_BINARY names, else this repository's own, else the one on the PATH."""
    own = REPOSITORY / ".node" / "node_modules" / ".bin" / "opencode"
    found = shutil.which(os.environ.get("OPENCODE_BINARY") or own) or shutil.which("opencode")
    return Path(found) if found else None
