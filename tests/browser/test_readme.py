"""The README's JavaScript, in a page of the quickstart's app."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any

import pytest
from playwright.async_api import Browser, ConsoleMessage, Error, Route

from opencode_async.testing import ScriptedServer
from tests.support.readme import blocks, quickstart
from tests.support.serving import serving

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_a_browser_is_told_of_a_turn_as_it_happens(
    database_url: str, opencode: ScriptedServer, browser: Browser
) -> None:
    (script,) = [text for language, text in blocks() if language == "js"]
    logged: asyncio.Queue[Awaitable[Any]] = asyncio.Queue()

    def log(message: ConsoleMessage) -> None:
        logged.put_nowait(message.args[0].json_value())

    async def failed(error: Error) -> None:
        raise error

    async def with_the_script(route: Route) -> None:
        body = f'<link rel="icon" href="data:,"><script type="module">{script}</script>'
        await route.fulfill(content_type="text/html", body=body)

    names = quickstart(database_url, opencode)
    async with serving(names["app"]) as client, await browser.new_context() as context:
        page = await context.new_page()
        page.on("console", log)
        page.on("pageerror", lambda error: logged.put_nowait(failed(error)))
        await page.route(f"{client.base_url}/page", with_the_script)
        await page.goto(f"{client.base_url}/page")
        deltas = []
        async with asyncio.timeout(30):
            while isinstance(said := await (await logged.get()), str):
                deltas.append(said)
        await page.goto("about:blank")  # the stream is closed before its server
    await names["engine"].dispose()
    assert said["status"] == "completed"
    assert "".join(deltas) == said["content"] == "You said: What is in this folder?"
