"""The example chat, served from a SQLite file and opened in a real browser."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from playwright.async_api import Browser, Page, async_playwright

from examples.chat.app import CAREFUL, create_app
from opencode_async import DirectoryArtifactStore, Permissions, Server
from tests.support.serving import serving


@pytest.fixture
def permissions() -> Permissions:
    """What the chat's agent may do; a test that wants others parametrizes this."""
    return CAREFUL


@pytest_asyncio.fixture(loop_scope="module")
async def url(opencode: Server, tmp_path: Path, permissions: Permissions) -> AsyncIterator[str]:
    """Where the example chat is served."""
    database_url = f"sqlite+aiosqlite:///{tmp_path}/chat.db"
    store = DirectoryArtifactStore(tmp_path / "files")
    app = create_app(opencode, database_url, ["SCRIPT:reasoning"], permissions, store)
    async with serving(app) as client:
        yield str(client.base_url)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser(chromium: Path) -> AsyncIterator[Browser]:
    """A headless Chromium, and the event loop it belongs to: to start one takes a second."""
    async with async_playwright() as playwright:
        # As root, which test machines are, Chromium does not start with its sandbox.
        browser = await playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield browser
        await browser.close()


@pytest_asyncio.fixture(loop_scope="module")
async def page(browser: Browser, url: str) -> AsyncIterator[Page]:
    """The chat, opened by a new visitor; no test may leave an error in the console."""
    complaints: list[str] = []
    async with await browser.new_context() as context:  # closed before the server, its streams too
        context.on("weberror", lambda error: complaints.append(str(error.error)))
        context.on("console", lambda message: complaints.append(message.text))
        page = await context.new_page()
        await page.goto(url)
        yield page
        assert complaints == []
