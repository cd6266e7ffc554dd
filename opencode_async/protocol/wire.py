"""Reading JSON that came from OpenCode: what cannot be stored is mapped, what is missing is said.

Model text and tool output carry U+0000 and lone surrogates through (OpenCode 1.18.33, measured);
PostgreSQL refuses both in TEXT and JSONB. Both become U+FFFD here, at the one door, so that what is
streamed, compared and stored is the same text.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any, NoReturn

UNSTORABLE = re.compile("[\x00\ud800-\udfff]")
ESCAPED = re.compile(r"\\u(?:0000|[dD])")


def _refused(constant: str) -> NoReturn:
    """Python would read NaN and the infinities, which JSON does not have and JSONB refuses."""
    raise ValueError(constant)


def _finite(literal: str) -> float:
    """Python would read 1e999 as infinite."""
    value = float(literal)
    return value if math.isfinite(value) else _refused(literal)


DECODER = json.JSONDecoder(parse_constant=_refused, parse_float=_finite)
SPACE = " \t\n\r"
DEEPEST = 100  # levels of nesting: Python writes, compares and copies what it reads only so deep
GREATEST = 2**53  # beyond it the server itself, which is JavaScript, cannot count
MOST = 10**12  # tokens or money of one step: millions of steps can be added up in a BIGINT


class Malformed(ValueError):
    """A value from the wire lacks a field or has it in another type."""


def clean(text: str) -> str:
    """The text with U+0000 and lone surrogates replaced by U+FFFD."""
    return UNSTORABLE.sub("\ufffd", text)


def loads(raw: str | bytes) -> Any:
    """Parse JSON and clean every string in it; raises ``Malformed`` for what is not JSON.

    What is nested deeper than anybody means to becomes ``None``.
    """
    try:
        document = (raw if isinstance(raw, str) else raw.decode()).strip(SPACE)
        # What `decode` does around this takes half as long again.
        value, end = DECODER.raw_decode(document)
        if end < len(document):
            raise ValueError(f"there is more behind character {end}")
    except (ValueError, RecursionError) as error:
        raise Malformed(f"not JSON: {error}") from error
    # Such characters can only arrive as \u escapes, so nearly every frame skips the walk. To look
    # for one character takes a hundredth of the time of looking for several.
    escaped = "\\" in document and ESCAPED.search(document)
    if escaped or document.count("[") + document.count("{") > DEEPEST:
        return _cleaned(value, DEEPEST)
    return value


def _cleaned(value: Any, levels: int) -> Any:
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, list):
        return [_cleaned(item, levels - 1) for item in value] if levels else None
    if isinstance(value, dict):
        pairs = value.items()
        return {clean(k): _cleaned(v, levels - 1) for k, v in pairs} if levels else None
    return value


def mapping(value: object, what: str = "value") -> Mapping[str, Any]:
    """The value, which must be a JSON object."""
    if not isinstance(value, (dict, Mapping)):  # most are; to ask about the other takes long
        raise Malformed(f"{what} is {type(value).__name__}, not an object")
    return value


def text(source: Mapping[str, Any], key: str) -> str:
    """A required string field."""
    value = source.get(key)
    if not isinstance(value, str):
        raise Malformed(f"{key} is {type(value).__name__}, not a string")
    return value


def optional_text(source: Mapping[str, Any], key: str) -> str | None:
    """A string field, or ``None`` where it is absent or something else."""
    value = source.get(key)
    return value if isinstance(value, str) else None


def number(source: Mapping[str, Any], key: str) -> float:
    """A number, 0 where it is absent or something else (``true`` is not a number)."""
    value = source.get(key)
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return 0
    return value if abs(value) <= GREATEST else 0


def amount(source: Mapping[str, Any], key: str) -> float:
    """A number of tokens or of money: 0 where it is absent, negative or beyond all reason."""
    value = number(source, key)
    return value if 0 <= value <= MOST else 0


def objects(value: object) -> list[Mapping[str, Any]]:
    """The objects of a JSON array; anything else in it, or no array, is left out."""
    return [v for v in value if isinstance(v, Mapping)] if isinstance(value, list) else []
