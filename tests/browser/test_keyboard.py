"""The chat's page without a mouse: everything is reached, and the focus is always somewhere."""

import pytest
from playwright.async_api import Page, expect

from opencode_async import Permissions
from tests.browser.chat import answer_to, ask, has_ended, press, say, tab_to

pytestmark = pytest.mark.asyncio(loop_scope="module")

HANG = "SCRIPT:hang Words, and then none for a while."
NAME = """() => {
  const { id, dataset, localName } = document.activeElement;
  return id || dataset.testid || localName;
}"""

# Whether the focused element, or the box that it fills, looks otherwise than without the focus.
RING = """() => {
  const element = document.activeElement;
  const parent = element.parentElement;
  const looks = () => [element, parent].map((it) => {
    const { outlineStyle, outlineWidth, outlineColor, boxShadow } = getComputedStyle(it);
    const line = outlineStyle === "none" ? "0px" : outlineWidth;
    return [parseFloat(line) >= 2 && outlineColor, boxShadow].join();
  }).join();
  const focused = looks();
  element.blur();
  const blurred = looks();
  element.focus();
  return focused !== blurred;
}"""


async def test_a_message_is_written_and_sent(page: Page) -> None:
    composer = page.get_by_test_id("composer")
    await tab_to(page, composer)
    await page.keyboard.type("SCRIPT:text Well typed.")
    await press(page, "Shift+Enter")
    await page.keyboard.type("A second line.")
    await expect(composer).to_have_value("SCRIPT:text Well typed.\nA second line.")
    await expect(page.locator("article")).to_have_count(0)

    await press(page, "Enter")

    answer = page.get_by_test_id("message-assistant")
    await has_ended(answer, "completed")
    await expect(answer.locator(".prose")).to_have_text("Well typed.")
    await expect(page.get_by_test_id("message-user")).to_contain_text("A second line.")
    await expect(composer).to_be_focused()
    await expect(composer).to_have_value("")


async def test_the_send_button_leaves_the_focus_in_the_composer(page: Page) -> None:
    await tab_to(page, page.get_by_test_id("composer"))
    await page.keyboard.type("SCRIPT:text Sent.")
    await press(page, "Tab")
    await expect(page.get_by_test_id("send")).to_be_focused()
    await press(page, "Space")
    await has_ended(page.get_by_test_id("message-assistant"), "completed")
    await expect(page.get_by_test_id("composer")).to_be_focused()


async def test_a_suggestion_leaves_the_focus_in_the_composer(page: Page) -> None:
    await tab_to(page, page.get_by_role("button", name="SCRIPT:reasoning"))
    await press(page, "Enter")
    await has_ended(page.get_by_test_id("message-assistant"), "completed")
    await expect(page.get_by_test_id("composer")).to_be_focused()


@pytest.mark.parametrize("key", ["Enter", "Space"])
async def test_an_answer_is_stopped(page: Page, key: str) -> None:
    answer = await ask(page, HANG)
    await expect(answer.locator(".prose")).to_have_text("Words, and then none for a while.")
    await press(page, "Tab")
    await expect(page.get_by_test_id("stop")).to_be_focused()

    await press(page, key)

    await has_ended(answer, "cancelled")
    await expect(page.get_by_test_id("stop")).to_be_hidden()
    await expect(page.get_by_test_id("composer")).to_be_focused()
    await expect(page.get_by_test_id("composer")).to_have_value("")


async def test_an_answer_that_ends_takes_no_focus_with_it(page: Page) -> None:
    answer = await ask(page, 'SCRIPT:slow {"n": 10, "delay": 0.2}')
    await expect(answer).to_contain_text("tick0")
    await press(page, "Tab")
    await expect(page.get_by_test_id("stop")).to_be_focused()
    await has_ended(answer, "completed")
    await expect(page.get_by_test_id("composer")).to_be_focused()


async def test_the_list_keeps_the_focus_when_it_is_read_again(page: Page) -> None:
    await has_ended(await ask(page, "SCRIPT:text The first one."), "completed")
    await tab_to(page, page.get_by_test_id("new-conversation"))
    await press(page, "Enter")
    answer = await ask(page, 'SCRIPT:slow {"n": 10, "delay": 0.2}')
    busy = page.locator("#conversations .busy")
    await expect(busy).to_have_count(1)
    here = page.get_by_test_id("conversation-list").get_by_role("link", name="SCRIPT:slow")
    await tab_to(page, here, "Shift+Tab")
    await has_ended(answer, "completed")
    await expect(busy).to_have_count(0)
    await expect(here).to_be_focused()


async def test_reasoning_and_tools_are_opened(page: Page) -> None:
    reasoned = await ask(page, "SCRIPT:reasoning")
    await has_ended(reasoned, "completed")
    thought = reasoned.get_by_text("Then I think more.")
    await tab_to(page, reasoned.locator("summary"), "Shift+Tab")
    await press(page, "Enter")
    await expect(thought).to_be_visible()
    await press(page, "Space")
    await expect(thought).to_be_hidden()

    used = await ask(page, 'SCRIPT:bash {"command": "echo 6 times 7 is $((6 * 7))"}')
    await has_ended(used, "completed")
    await tab_to(page, used.locator("summary"), "Shift+Tab")
    await press(page, "Enter")
    await expect(used.get_by_text("6 times 7 is 42")).to_be_visible()
    await press(page, "Tab")
    await expect(used.get_by_role("group", name="Input")).to_be_focused()
    await press(page, "Tab")
    await expect(used.get_by_role("group", name="Output")).to_be_focused()


async def test_an_error_is_tried_again(page: Page) -> None:
    failed = await ask(page, 'SCRIPT:error401 {"times": 1}')
    await has_ended(failed, "error")
    await tab_to(page, failed.get_by_test_id("retry"), "Shift+Tab")
    await press(page, "Enter")
    await expect(page.get_by_test_id("message-assistant")).to_have_count(2)
    await has_ended(page.get_by_test_id("message-assistant").last, "completed")
    await expect(page.get_by_test_id("composer")).to_be_focused()
    await expect(page.get_by_test_id("composer")).to_have_value("")


async def test_the_latest_message_is_returned_to(page: Page) -> None:
    await page.set_viewport_size({"width": 390, "height": 500})
    await has_ended(await ask(page, 'SCRIPT:long {"n": 300}'), "completed")
    messages = page.get_by_role("region", name="Messages")
    await tab_to(page, messages, "Shift+Tab")
    await press(page, "Home")
    await expect(messages).to_have_js_property("scrollTop", 0)
    latest = page.get_by_test_id("latest")
    await expect(latest).to_be_visible()
    await tab_to(page, latest)
    await press(page, "Enter")
    await expect(latest).to_be_hidden()
    await expect(page.get_by_test_id("usage")).to_be_in_viewport()
    await expect(page.get_by_test_id("composer")).to_be_focused()


async def test_the_drawer_of_a_phone(page: Page) -> None:
    await has_ended(await ask(page, "SCRIPT:text Hello."), "completed")
    await page.set_viewport_size({"width": 390, "height": 844})
    menu = page.get_by_test_id("menu")
    conversation = page.get_by_test_id("conversation-list").get_by_role("link")
    await tab_to(page, menu, "Shift+Tab")
    await expect(menu).to_have_attribute("aria-expanded", "false")
    await press(page, "Enter")
    await expect(menu).to_have_attribute("aria-expanded", "true")
    await expect(page.get_by_test_id("new-conversation")).to_be_focused()
    await press(page, "Tab")
    await expect(conversation).to_be_focused()

    await press(page, "Escape")

    await expect(conversation).to_be_hidden()
    await expect(menu).to_be_focused()
    await expect(menu).to_have_attribute("aria-expanded", "false")

    await press(page, "Enter", "Tab", "Enter")  # the conversation that is open already

    await expect(conversation).to_be_hidden()
    await expect(page.get_by_test_id("composer")).to_be_focused()

    await tab_to(page, menu, "Shift+Tab")
    await press(page, "Enter")
    await page.set_viewport_size({"width": 1280, "height": 844})
    await tab_to(page, page.get_by_test_id("composer"))


async def test_conversations_are_switched_and_deleted(page: Page) -> None:
    for words in ("One", "Two", "Three"):
        await tab_to(page, page.get_by_test_id("new-conversation"))
        await press(page, "Enter")
        await has_ended(await ask(page, f"SCRIPT:text {words}"), "completed")
    links = page.get_by_test_id("conversation-list").get_by_role("link")
    await expect(links).to_have_text([f"SCRIPT:text {words}" for words in ("Three", "Two", "One")])

    await tab_to(page, links.nth(1))
    await press(page, "Enter")

    await expect(page.get_by_test_id("message-user")).to_have_text("SCRIPT:text Two")
    await expect(links.nth(1)).to_have_attribute("aria-current", "page")
    await expect(page.get_by_test_id("composer")).to_be_focused()

    # Asked whether it is meant, one may say no: by Escape, or by going elsewhere.
    one = page.get_by_role("button", name="Delete SCRIPT:text One")
    sure = page.get_by_role("button", name="Really delete? SCRIPT:text One")
    await tab_to(page, one)
    await press(page, "Enter")
    await expect(sure).to_be_focused()
    await press(page, "Escape")
    await expect(one).to_be_focused()
    await press(page, "Enter")
    await expect(sure).to_be_focused()
    await press(page, "Shift+Tab")
    await expect(links.nth(2)).to_be_focused()
    await expect(sure).to_have_count(0)

    # One that is not open: the focus goes to its neighbour.
    await press(page, "Tab", "Enter", "Enter")
    await expect(links).to_have_text(["SCRIPT:text Three", "SCRIPT:text Two"])
    await expect(links.nth(1)).to_be_focused()

    # The open one: what is left is a new conversation.
    await press(page, "Tab", "Enter", "Enter")
    await expect(links).to_have_text(["SCRIPT:text Three"])
    await expect(page.locator("article")).to_have_count(0)
    await expect(page.get_by_test_id("composer")).to_be_focused()

    # The last one.
    await tab_to(page, links)
    await press(page, "Tab", "Enter", "Enter")
    await expect(links).to_have_count(0)
    await expect(page.get_by_test_id("new-conversation")).to_be_focused()


async def test_older_conversations_are_asked_for(page: Page) -> None:
    await page.evaluate("""async () => {
      for (let made = 0; made < 52; made += 1)
        await fetch("/agent/conversations", { method: "POST" });
    }""")
    await page.reload()
    links = page.get_by_test_id("conversation-list").get_by_role("link")
    await expect(links).to_have_count(50)
    older = page.get_by_role("button", name="Older conversations")
    await tab_to(page, older, "Shift+Tab")
    await press(page, "Enter")
    await expect(links).to_have_count(52)
    await expect(older).to_be_hidden()
    await expect(links.nth(50)).to_be_focused()


@pytest.mark.parametrize("permissions", [Permissions()])
async def test_the_focus_is_seen_everywhere(page: Page) -> None:
    # High enough that nothing is scrolled, which would bring a button up on the way.
    await page.set_viewport_size({"width": 1280, "height": 2000})
    assert await tour(page) == ["new", "scroller", "button", "attach", "text"]

    code = r'{"text": "Like this:\n\n```python\nprint(6 * 7)\n```"}'
    await has_ended(await ask(page, "SCRIPT:reasoning"), "completed")
    await has_ended(await ask(page, "SCRIPT:write"), "completed")
    await has_ended(await ask(page, f"SCRIPT:text {code}"), "completed")
    await has_ended(await ask(page, 'SCRIPT:error401 {"times": 1}'), "error")
    for summary in await page.locator("summary").all():
        await summary.click()
    cards = ["summary", "summary", "pre", "pre", "artifact", "pre"]
    listed = ["new", "a", "delete-conversation", "scroller", *cards]
    assert await tour(page) == [*listed, "retry", "attach", "text"]

    await page.set_viewport_size({"width": 390, "height": 2000})
    await ask(page, HANG)
    answer = await answer_to(page, HANG)
    await expect(answer.locator(".prose")).to_be_visible()
    await page.get_by_test_id("composer").fill("The next one")
    composer = ["attach", "text", "stop", "now", "send"]
    assert await tour(page) == ["menu", "scroller", *cards, "retry", *composer]
    await say(page, "SCRIPT:text One that waits.")
    assert await tour(page) == ["menu", "scroller", *cards, "retry", "cancel", *composer[:3]]
    await page.get_by_test_id("cancel").last.click()
    await page.get_by_test_id("composer").fill("The next one")
    await page.get_by_test_id("stop").click()
    await has_ended(answer, "cancelled")
    assert await tour(page) == ["menu", "scroller", *cards, "retry", "attach", "text", "send"]


async def tour(page: Page) -> list[str]:
    """Every stop of the Tab key, once round; each shows that it has the focus."""
    await page.get_by_test_id("composer").focus()
    stops: list[str] = []
    unseen: list[str] = []
    for _ in range(60):
        await page.keyboard.press("Tab")
        name = await page.evaluate(NAME)
        if name == "body":
            continue
        if not await page.evaluate(RING):
            unseen.append(name)
        stops.append(name)
        if name == "text":
            break
    assert unseen == []
    first = next((at for at, name in enumerate(stops) if name in ("new", "menu")), 0)
    return stops[first:] + stops[:first]
