"""More tabs than a browser has connections to a host, each on a conversation of its own."""

from __future__ import annotations

import pytest
from playwright.async_api import Page, expect

from tests.browser.chat import ask, has_ended

pytestmark = pytest.mark.asyncio(loop_scope="module")

TABS = 8
AT_LAST = 30_000  # ms; a tab waits for its turn of two seconds
PLACES_TAKEN = "async (count) => (await navigator.locks.query()).held.length === count"
BE_HIDDEN = """hidden => {
  Object.defineProperty(document, "hidden", { value: hidden, configurable: true });
  document.dispatchEvent(new Event("visibilitychange"));
}"""


async def say_elsewhere(tab: Page, url: str, text: str) -> None:
    """Say something in the tab's conversation, from another program of the same person's."""
    conversation = tab.url.partition("#")[2]
    path = f"{url}/agent/conversations/{conversation}/messages"
    response = await tab.request.post(path, data={"text": text})
    assert response.status == 202


async def comes_to_show(tab: Page, text: str) -> None:
    answer = tab.get_by_test_id("message-assistant").last
    await expect(answer.locator(".prose")).to_have_text(text, timeout=AT_LAST)


@pytest.mark.timeout(180)
async def test_eight_tabs_can_all_send_and_are_all_up_to_date(page: Page, url: str) -> None:
    tabs = [page, *[await page.context.new_page() for _ in range(TABS - 1)]]
    for number, tab in enumerate(tabs):  # all of them are visible, as windows side by side are
        if tab is not page:
            await tab.goto(url)
        answer = await ask(tab, f"SCRIPT:text Tab {number}.")
        await has_ended(answer, "completed")

    await ask(tabs[-1], "SCRIPT:text And again.")
    await comes_to_show(tabs[-1], "And again.")
    for number, tab in enumerate(tabs):
        await say_elsewhere(tab, url, f"SCRIPT:text News for {number}.")
    for number, tab in enumerate(tabs):
        await comes_to_show(tab, f"News for {number}.")

    await page.wait_for_function(PLACES_TAKEN, arg=4)
    for tab in tabs[1:]:
        await tab.evaluate(BE_HIDDEN, arg=True)
    await page.wait_for_function(PLACES_TAKEN, arg=1)  # the tab in front has its place to itself
    await say_elsewhere(tabs[1], url, "SCRIPT:text Behind its back.")
    await tabs[1].evaluate(BE_HIDDEN, arg=False)
    await comes_to_show(tabs[1], "Behind its back.")
