"""What turns cost as the server says, and turns that are spending."""

from __future__ import annotations

import asyncio
import json
import math
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from opencode_async import Charge, TurnResult, Usage
from tests.support.hosts import Host
from tests.turns.ended import Json, answers_in, messages_of

STEP = 8.6e-05  # what a step of `loop` costs: 80 tokens in, 20 of a cache, 2 out
# Each of its steps takes a while, so that there is no next one before its turn is stopped.
STEPS = [{"name": "bash", "args": {"command": "sleep 0.2", "description": "Rests"}}] * 50
SUBAGENT = "SCRIPT:task " + json.dumps({"prompt": f"SCRIPT:tools {json.dumps(STEPS)}"})


@asynccontextmanager
async def spending(app: Host[Any, Any], key: object) -> AsyncIterator[asyncio.Task[TurnResult]]:
    """The turn, run here until it has spent more than ever and its row says so."""
    before = (await app.row(key)).cost
    running = asyncio.create_task(app.agent.turns.run(key))
    async with app.agent.turns.follow(key) as changes, asyncio.timeout(20):
        async for _ in changes:
            if (await app.row(key)).cost > before:
                break
    await app.holds_no_connection()  # cancelled in the middle of a write, it would cost one
    yield running


def paid(result: TurnResult) -> int:
    """How many steps cost anything: the one that a stop cuts short may cost nothing."""
    return len([charge for charge in result.ledger if charge.usage.cost > 0])


async def assert_ledger_is_the_servers(app: Host[Any, Any], row: Any) -> None:
    """Of a conversation's only turn."""
    upstream = await charges_upstream(app, row)
    result = TurnResult.of(row)
    assert Counter(result.ledger) == Counter(c for charges in upstream.values() for c in charges)
    assert result.cost == math.fsum(charge.usage.cost for charge in result.ledger)
    assert result.input_tokens == sum(charge.usage.input for charge in result.ledger)
    for session_id, charges in upstream.items():
        session = await app.agent.client.http.request("GET", f"/session/{session_id}")
        exact = math.fsum(charge.usage.cost for charge in charges)
        # It adds one by one, and so rounds at each step.
        assert math.isclose(session.json()["cost"], exact, rel_tol=1e-12)


async def charges_upstream(app: Host[Any, Any], row: Any) -> dict[str, list[Charge]]:
    """What the server says each answer cost, in the turn's session and in its subagents'."""
    session_id = await app.session_id(row)
    found = {}
    children = await app.agent.client.children(session_id)
    for one in (session_id, *(child.session_id for child in children)):
        answers = answers_in(await messages_of(app, one))
        found[one] = [charge_in(answer["info"]) for answer in answers]
    return found


def charge_in(info: Json) -> Charge:
    tokens, model = info["tokens"], f"{info['providerID']}/{info['modelID']}"
    read, written = tokens["cache"]["read"], tokens["cache"]["write"]
    usage = Usage(info["cost"], tokens["input"], tokens["output"], read, written)
    return Charge(info["id"], info["sessionID"], model, usage)
