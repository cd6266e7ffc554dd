"""Turns awaited in a handler and in a background task, in a process of its own."""

from __future__ import annotations

import asyncio

from opencode_async.testing import ScriptedServer
from tests.support.examples import environment, uvicorn

APP = "examples.background_task:app"
SLOW = 'SCRIPT:slow {"n": 8, "delay": 0.25}'


async def test_a_handler_waits_for_its_turn(database_url: str, opencode: ScriptedServer) -> None:
    async with uvicorn(APP, env=environment(opencode, DATABASE_URL=database_url)) as http:
        asked = await http.post("/questions", data={"text": "SCRIPT:text Blue."})
        assert (asked.status_code, asked.json()) == (200, "Blue.")


async def test_a_background_task_runs_its_turn_behind_the_response(
    database_url: str, opencode: ScriptedServer
) -> None:
    async with uvicorn(APP, env=environment(opencode, DATABASE_URL=database_url)) as http:
        ordered = await http.post("/reports", data={"topic": SLOW})
        assert ordered.status_code == 202, ordered.text
        path = f"/reports/{ordered.json()}"
        report = (await http.get(path)).json()
        assert report["status"] == "pending"
        async with asyncio.timeout(30):
            while report["status"] == "pending":
                report = (await http.get(path)).json()
        assert report["status"] == "completed"
        assert report["content"].split() == [f"tick{n}" for n in range(8)]
        missing = await http.get("/reports/00000000-0000-0000-0000-000000000000")
        assert missing.status_code == 404
