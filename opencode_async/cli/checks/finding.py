"""What a check found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Level = Literal["ok", "warning", "error"]


@dataclass(frozen=True)
class Finding:
    """``what`` is so, which is ``level``; ``remedy`` says what to do about it."""

    level: Level
    what: str
    remedy: str = ""
