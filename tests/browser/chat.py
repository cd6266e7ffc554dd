"""What a person does in the chat, said once for all tests of its page."""

from playwright.async_api import Locator, Page, expect


async def ask(page: Page, text: str) -> Locator:
    """Send a text; the answer's element."""
    await page.get_by_test_id("composer").fill(text)
    await page.get_by_test_id("composer").press("Enter")
    await expect(page.get_by_test_id("message-user").last).to_have_text(text)
    return page.get_by_test_id("message-assistant").last


async def say(page: Page, text: str, key: str = "Enter") -> Locator:
    """Send a text while the agent is answering; the answer's element, wherever it stands."""
    composer = page.get_by_test_id("composer")
    await composer.fill(text)
    await expect(page.get_by_test_id("send")).to_be_enabled()
    await composer.press(key)
    await expect(composer).to_have_value("")
    return await answer_to(page, text)


async def answer_to(page: Page, text: str) -> Locator:
    """The answer's element that follows what was said."""
    said = page.get_by_test_id("message-user").filter(has=page.get_by_text(text, exact=True))
    await expect(said).to_be_visible()
    answer = said.locator("xpath=following-sibling::article[1]")
    await expect(answer).to_have_attribute("data-testid", "message-assistant")
    return answer


async def has_ended(answer: Locator, status: str) -> None:
    await expect(answer).to_have_attribute("data-status", status, timeout=20_000)


async def tab_to(page: Page, target: Locator, key: str = "Tab") -> None:
    """Press Tab until the focus is there."""
    for _ in range(40):
        await page.keyboard.press(key)
        if await target.evaluate("element => element === document.activeElement"):
            return
    await expect(target).to_be_focused()


async def press(page: Page, *keys: str) -> None:
    for key in keys:
        await page.keyboard.press(key)
