"""Messages that are sent while the agent is answering: they wait their turn, or interrupt."""

import asyncio

import pytest
from playwright.async_api import Browser, Locator, Page, Route, expect

from opencode_async import Server
from tests.browser.chat import answer_to, ask, has_ended, press, say, tab_to
from tests.support.proxy import Proxy

pytestmark = pytest.mark.asyncio(loop_scope="module")

HANG = "SCRIPT:hang Half of it."
FIRST, SECOND, URGENT = "SCRIPT:text First.", "SCRIPT:text Second.", "SCRIPT:text Urgent."
TOLD = """all => all.map((article) => article.dataset.status
  ? `${article.dataset.status}: ${article.querySelector(".prose")?.innerText.trim() ?? ""}`
  : article.innerText.trim())"""
STORED = """async () => {
  const id = location.hash.slice(1);
  const { messages } = await (await fetch(`/agent/conversations/${id}?limit=200`)).json();
  return messages.map(({ role, status, content }) =>
    role === "user" ? content : `${status}: ${content}`);
}"""
# Note every order that the page shows, one after the other.
WATCH = """() => {
  window.orders = [];
  const messages = document.getElementById("messages");
  const said = () => [...messages.querySelectorAll(".user")].map((one) => one.innerText).join("|");
  new MutationObserver(() => {
    if (orders.at(-1) !== said()) orders.push(said());
  }).observe(messages, { childList: true });
}"""


async def hanging(page: Page) -> Locator:
    """Ask for an answer that does not end by itself, and wait for its first words."""
    await ask(page, HANG)
    answer = page.get_by_test_id("message-assistant").first  # not the last for long
    await expect(answer.locator(".prose")).to_have_text("Half of it.")
    return answer


async def told(page: Page) -> list[str]:
    """The messages as the page shows them, in their order."""
    shown: list[str] = await page.locator("article").evaluate_all(TOLD)
    return shown


async def stored(page: Page) -> list[str]:
    """The messages as the server has them, in their order."""
    messages: list[str] = await page.evaluate(STORED)
    return messages


async def dropped(answer: Locator) -> None:
    await has_ended(answer, "cancelled")
    await expect(answer).to_contain_text("Cancelled before it was answered.")
    await expect(answer.get_by_test_id("cancel")).to_be_hidden()


async def test_what_is_sent_meanwhile_waits_in_order_and_may_be_taken_back(page: Page) -> None:
    running = await hanging(page)
    first, second = await say(page, FIRST), await say(page, SECOND)
    for waiting in (first, second):
        await expect(waiting).to_have_attribute("data-status", "queued")
        await expect(waiting).to_have_attribute("aria-busy", "false")
        await expect(waiting).to_contain_text("Waiting for its turn.")
    await expect(page.locator(".user.is-waiting")).to_have_count(2)
    queue = [HANG, "pending: Half of it.", FIRST, "queued: ", SECOND, "queued: "]
    assert await told(page) == queue

    await page.get_by_role("button", name=f"Cancel {FIRST}").click()

    await dropped(first)
    await expect(page.locator(".user.is-waiting")).to_have_text([SECOND])
    await expect(page.locator(".user.is-dropped")).to_have_text([FIRST])
    await expect(running).to_have_attribute("data-status", "pending")
    await expect(second).to_have_attribute("data-status", "queued")

    await page.get_by_test_id("stop").click()

    await has_ended(running, "cancelled")
    await expect(running).to_contain_text("Stopped.")
    await has_ended(second, "completed")
    await expect(page.get_by_test_id("stop")).to_be_hidden()
    await expect(page.get_by_test_id("send-now")).to_be_hidden()
    await expect(page.locator(".user.is-waiting")).to_have_count(0)
    done = ["cancelled: Half of it.", FIRST, "cancelled: ", SECOND, "completed: Second."]
    assert await told(page) == [HANG, *done] == await stored(page)


async def test_stop_stops_the_running_answer_only(page: Page) -> None:
    running = await hanging(page)
    other = "SCRIPT:hang The other half."
    next_one, last = await say(page, other), await say(page, SECOND)
    stop = page.get_by_test_id("stop")

    await stop.click()

    await has_ended(running, "cancelled")
    await expect(next_one.locator(".prose")).to_have_text("The other half.")
    await expect(last).to_have_attribute("data-status", "queued")
    await stop.click()
    await has_ended(next_one, "cancelled")
    await has_ended(last, "completed")
    await expect(page.locator(".note", has_text="Stopped.")).to_have_count(2)


async def test_send_now_interrupts_and_is_answered_before_those_that_wait(page: Page) -> None:
    running = await hanging(page)
    await expect(page.get_by_test_id("send-now")).to_be_disabled()
    await say(page, FIRST)
    await say(page, SECOND)
    await page.evaluate(WATCH)
    await page.get_by_test_id("composer").fill("SCRIPT:hang Urgent.")
    await page.get_by_test_id("send-now").click()

    urgent = await answer_to(page, "SCRIPT:hang Urgent.")
    await expect(urgent.locator(".prose")).to_have_text("Urgent.")
    await has_ended(running, "cancelled")
    await expect(running.locator(".prose")).to_have_text("Half of it.")
    await expect(running).to_contain_text("Interrupted.")
    queue = ["SCRIPT:hang Urgent.", "pending: Urgent.", FIRST, "queued: ", SECOND, "queued: "]
    assert await told(page) == [HANG, "cancelled: Half of it.", *queue]
    orders = await page.evaluate("orders")
    assert orders == ["|".join([HANG, "SCRIPT:hang Urgent.", FIRST, SECOND])]

    await page.get_by_test_id("stop").click()

    await has_ended(await answer_to(page, SECOND), "completed")
    assert await told(page) == await stored(page)


async def test_a_second_tab_sees_the_same_queue(page: Page) -> None:
    await hanging(page)
    await say(page, FIRST)
    second = await page.context.new_page()
    await second.goto(page.url)
    await expect(second.locator(".user.is-waiting")).to_have_text([FIRST])
    await second.evaluate(WATCH)
    await say(page, SECOND)
    await expect(second.locator(".user.is-waiting")).to_have_text([FIRST, SECOND])
    await second.get_by_role("button", name=f"Cancel {FIRST}").click()
    await dropped(await answer_to(page, FIRST))
    other = "SCRIPT:hang Urgent."

    await say(page, other, "Control+Enter")

    for tab in (page, second):
        await expect((await answer_to(tab, other)).locator(".prose")).to_have_text("Urgent.")
        await expect(tab.locator(".note", has_text="Interrupted.")).to_be_visible()
    assert await told(page) == await told(second)
    await second.get_by_test_id("stop").click()
    for tab in (page, second):
        await has_ended(await answer_to(tab, SECOND), "completed")
    assert await told(page) == await told(second) == await stored(page)
    orders = await second.evaluate("orders")
    assert orders == [
        "|".join([HANG, FIRST, SECOND]),
        "|".join([HANG, FIRST, other, SECOND]),
    ]


async def test_a_reload_keeps_the_queue(page: Page) -> None:
    running = await hanging(page)
    first = await say(page, FIRST)
    await first.get_by_test_id("cancel").click()
    await dropped(first)
    await say(page, SECOND)
    before = await told(page)

    await page.reload()

    await expect(page.locator(".user.is-waiting")).to_have_text([SECOND])
    await expect(page.locator(".user.is-dropped")).to_have_text([FIRST])
    await expect(running).to_contain_text("Half of it.")
    assert await told(page) == before
    await say(page, URGENT, "Control+Enter")
    await has_ended(await answer_to(page, SECOND), "completed")
    await page.reload()
    await expect(page.locator(".note", has_text="Interrupted.")).to_be_visible()
    assert await told(page) == await stored(page)


async def test_the_queue_by_keyboard_alone(page: Page) -> None:
    running = await hanging(page)
    composer, now = page.get_by_test_id("composer"), page.get_by_test_id("send-now")
    for text in (FIRST, SECOND, "SCRIPT:text Third."):
        await page.keyboard.type(text)
        await expect(page.get_by_test_id("send")).to_be_enabled()
        await press(page, "Enter")
        await answer_to(page, text)
    await expect(page.get_by_test_id("hint")).to_contain_text("Ctrl+Enter sends now")

    # One that is taken back gives the focus to the next, and the last one to the composer.
    take_back = page.get_by_role("button", name="Cancel")
    await tab_to(page, take_back.nth(1), "Shift+Tab")
    await press(page, "Enter")
    await dropped(await answer_to(page, SECOND))
    await expect(page.get_by_role("button", name="Cancel SCRIPT:text Third.")).to_be_focused()
    await press(page, "Space")
    await dropped(await answer_to(page, "SCRIPT:text Third."))
    await expect(page.get_by_role("button", name=f"Cancel {FIRST}")).to_be_focused()
    await press(page, "Enter")
    await dropped(await answer_to(page, FIRST))
    await expect(composer).to_be_focused()
    await expect(running).to_have_attribute("data-status", "pending")

    # By the button, then by the keys: each interrupts what ran before it.
    await page.keyboard.type("SCRIPT:hang By the button.")
    await expect(page.get_by_test_id("send")).to_be_enabled()
    await press(page, "Tab", "Tab")
    await expect(now).to_be_focused()
    await press(page, "Space")
    await expect(composer).to_be_focused()
    by_button = await answer_to(page, "SCRIPT:hang By the button.")
    await expect(by_button.locator(".prose")).to_have_text("By the button.")
    await page.keyboard.type("SCRIPT:text By the keys.")
    await expect(page.get_by_test_id("send")).to_be_enabled()
    await press(page, "Control+Enter")
    await has_ended(await answer_to(page, "SCRIPT:text By the keys."), "completed")
    for interrupted in (running, by_button):
        await has_ended(interrupted, "cancelled")
        await expect(interrupted).to_contain_text("Interrupted.")
    await expect(composer).to_be_focused()


async def test_one_that_begins_while_its_button_has_the_focus_gives_it_back(page: Page) -> None:
    await hanging(page)
    waiting = await say(page, FIRST)
    await tab_to(page, waiting.get_by_test_id("cancel"), "Shift+Tab")
    await page.evaluate("document.getElementById('stop').click()")
    await has_ended(waiting, "completed")
    await expect(page.get_by_test_id("composer")).to_be_focused()


async def test_more_may_wait_than_fit_on_a_page(page: Page) -> None:
    running = await hanging(page)
    await page.evaluate("""async () => {
      const path = `/agent/conversations/${location.hash.slice(1)}/messages`;
      for (let said = 0; said < 28; said += 1) {
        const body = JSON.stringify({ text: `SCRIPT:text Number ${said}.`, on_busy: "enqueue" });
        const headers = { "Content-Type": "application/json" };
        const answer = await fetch(path, { method: "POST", headers, body });
        if (answer.status !== 202) throw new Error(await answer.text());
      }
    }""")
    waiting = page.locator(".user.is-waiting")
    await expect(waiting).to_have_count(28)
    await page.reload()
    await expect(waiting).to_have_count(28)
    await expect(running).to_contain_text("Half of it.")
    async with asyncio.timeout(10):
        while "Half" not in (await stored(page))[1]:  # what is streamed is stored a moment later
            pass
    assert await told(page) == await stored(page)
    await page.get_by_test_id("new-conversation").click()


async def test_a_tab_that_was_cut_off_shows_the_queue_as_it_has_become(
    browser: Browser, url: str
) -> None:
    proxy = Proxy(Server(url))
    async with proxy.running() as there, await browser.new_context() as context:
        page, direct = await context.new_page(), await context.new_page()
        await page.goto(there.url)
        await hanging(page)
        for text in (FIRST, SECOND):
            await say(page, text)
        await direct.goto(page.url.replace(there.url, url))
        await expect(direct.locator(".user.is-waiting")).to_have_count(2)

        proxy.go_away()
        await expect(page.get_by_test_id("reconnecting")).to_be_visible()
        await direct.get_by_role("button", name=f"Cancel {FIRST}").click()
        await say(direct, "SCRIPT:text Third.")
        await say(direct, "SCRIPT:hang Urgent.", "Control+Enter")
        await expect(direct.locator(".note", has_text="Interrupted.")).to_be_visible()
        await expect(direct.get_by_text("Urgent.", exact=True)).to_be_visible()
        proxy.away = False

        await expect(page.get_by_text("Urgent.", exact=True)).to_be_visible(timeout=15_000)
        await expect(page.get_by_test_id("reconnecting")).to_be_hidden()
        await expect(page.locator(".user.is-waiting")).to_have_text([SECOND, "SCRIPT:text Third."])
        assert await told(page) == await told(direct)
        await page.get_by_test_id("stop").click()
        for tab in (page, direct):
            await has_ended(await answer_to(tab, "SCRIPT:text Third."), "completed")
        assert await told(page) == await told(direct) == await stored(direct)


async def test_a_full_queue_says_so_and_keeps_the_text(browser: Browser, url: str) -> None:
    async def is_full(route: Route) -> None:
        problem = {"type": "urn:opencode-async:queue-full", "status": 409}
        await route.fulfill(status=409, json=problem)

    async with await browser.new_context() as context:  # its console tells of the 409
        page = await context.new_page()
        await page.goto(url)
        await hanging(page)
        await page.route("**/agent/conversations/*/messages", is_full)
        composer = page.get_by_test_id("composer")
        await composer.fill(FIRST)
        await composer.press("Enter")
        await expect(page.get_by_test_id("hint")).to_contain_text("No more messages may wait")
        await expect(composer).to_have_value(FIRST)
