"""What comes of a call of a tool."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


class Failed(Exception):
    """The tool's own error, which the model is told."""


@dataclass(frozen=True)
class Result:
    """A call that went well."""

    output: str
    title: str
    metadata: dict[str, Any] = field(default_factory=dict)
    truncated: bool = False
