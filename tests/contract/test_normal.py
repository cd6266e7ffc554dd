"""What makes two servers comparable hides no difference that matters."""

from __future__ import annotations

import json
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

from opencode_async.testing import Impostor
from tests.contract.normal import normal
from tests.contract.scenarios import SCENARIOS
from tests.contract.witness import Witness, witness

Json = dict[str, Any]
Change = Callable[[Json], object]

CHANGES: dict[str, tuple[str, Change]] = {
    "a tool's status": ("tool", lambda part: part["state"].update(status="error")),
    "its output": ("tool", lambda part: part["state"].update(output="else")),
    "its input": ("tool", lambda part: part["state"]["input"].update(filePath="else")),
    "its metadata": ("tool", lambda part: part["state"].update(metadata={"else": 1})),
    "a text": ("text", lambda part: part.update(text="else")),
    "what a step cost": ("step-finish", lambda part: part.update(cost=1.0)),
    "why it ended": ("step-finish", lambda part: part.update(reason="length")),
}


@pytest.fixture
async def seen(tmp_path: Path) -> Witness:
    async with Impostor(tmp_path) as impostor, witness(impostor.server) as found:
        await SCENARIOS["edit"](found)
    return found


@pytest.mark.parametrize("name", CHANGES)
async def test_a_difference_is_one(name: str, seen: Witness) -> None:
    kind, change = CHANGES[name]
    before = normal(seen)
    seen.rows = deepcopy(seen.rows)
    parts = [
        row[1]["part"]
        for row in seen.rows
        if row[0] == "message.part.updated" and row[1]["part"]["type"] == kind
    ]
    change(parts[-1])
    assert normal(seen) != before


@pytest.mark.parametrize("kind", ["session.status", "session.idle", "message.updated"])
async def test_an_event_that_is_missing_is_a_difference(kind: str, seen: Witness) -> None:
    before = normal(seen)
    last = max(
        n for n, row in enumerate(seen.rows) if row[0] == kind and "summary" not in json.dumps(row)
    )
    del seen.rows[last]
    assert normal(seen) != before


async def test_two_runs_are_told_alike(seen: Witness, tmp_path: Path) -> None:
    (tmp_path / "e.txt").unlink()
    async with Impostor(tmp_path) as impostor, witness(impostor.server) as again:
        await SCENARIOS["edit"](again)
    assert normal(again) == normal(seen)
