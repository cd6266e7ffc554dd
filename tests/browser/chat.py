"""What a person does in the chat, said once for all tests of its page."""

from playwright.async_api import Locator, Page, expect


async def ask(page: Page, text: str) -> Locator:
    """Send a text; the answer's element."""
    await page.get_by_test_id("composer").fill(text)
    await page.get_by_test_id("composer").press("Enter")
    await expect(page.get_by_test_id("message-user").last).to_have_text(text)
    return page.get_by_test_id("message-assistant").last


async def has_ended(answer: Locator, status: str) -> None:
    await expect(answer).to_have_attribute("data-status", status, timeout=20_000)
