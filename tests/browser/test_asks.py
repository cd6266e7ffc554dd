"""What the agent asks, answered on the chat's page, on a real OpenCode server."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Browser, Locator, Page, ViewportSize, expect

from opencode_async import Permissions
from opencode_async.testing import ScriptedServer
from tests.browser.chat import ask, has_ended, press, tab_to
from tests.browser.test_accessibility import PHONE, SCREEN, findings, nothing
from tests.browser.test_keyboard import tour

pytestmark = pytest.mark.asyncio(loop_scope="module")

HIGH: tuple[ViewportSize, ViewportSize] = (
    {**SCREEN, "height": 3000},
    {**PHONE, "height": 3000},
)
TWO_QUESTIONS = 'SCRIPT:question {"n": 2, "multiple": true}'


def writing(path: str, content: str = "one\ntwo\n") -> str:
    return f"SCRIPT:write {json.dumps({'path': path, 'content': content})}"


async def asked(answer: Locator, kind: str = "permission") -> Locator:
    """The newest ask of an answer, once it is open."""
    card = answer.get_by_test_id(kind).last
    await expect(card).to_have_attribute("data-status", "open")
    return card


async def resolved(card: Locator, how: str) -> None:
    await expect(card.get_by_test_id("resolved")).to_have_text(how)
    await expect(card.locator("form")).to_be_hidden()


def file_of(server: ScriptedServer, name: str) -> Path:
    return Path(str(server.directory)) / name


async def test_a_change_is_shown_and_made_when_it_is_allowed(
    page: Page, opencode: ScriptedServer
) -> None:
    file = file_of(opencode, "allowed.txt")
    answer = await ask(page, writing("allowed.txt"))
    card = await asked(answer)
    await expect(card).to_contain_text("The agent asks to change a file.")
    await expect(card.locator(".diff .added")).to_have_text(["+one", "+two"])
    await expect(card).to_contain_text("Unanswered, it is refused on")
    await expect(answer.get_by_test_id("progress")).to_contain_text("Waiting for your answer.")
    assert not file.exists()

    await card.get_by_test_id("allow-once").click()

    await resolved(card, "Allowed once.")
    await has_ended(answer, "completed")
    assert file.read_text() == "one\ntwo\n"

    answer = await ask(page, writing("allowed.txt", "one\n2\n"))
    card = await asked(answer)
    await expect(card.locator(".diff .added")).to_have_text(["+2"])
    await expect(card.locator(".diff .removed")).to_have_text(["-two"])
    await card.get_by_test_id("reject").click()
    await has_ended(answer, "completed")
    assert file.read_text() == "one\ntwo\n"


async def test_a_change_is_read_as_it_is(page: Page) -> None:
    answer = await ask(page, writing("hostile.txt", "<b>a</b>\u202e\n<script>b</script>\n"))
    card = await asked(answer)
    await expect(card.locator(".diff .added")).to_have_text(
        ["+<b>a</b>\ufffd", "+<script>b</script>"]
    )
    head = "…/opencode0/workspace/hostile.txt"
    await expect(card.locator(".diff .place").nth(1)).to_have_text(f"+++ {head}")
    await card.get_by_test_id("allow-once").click()
    await has_ended(answer, "completed")
    await answer.locator("details summary").first.click()
    change = answer.locator(".change .diff")
    await expect(change.locator(".added").first).to_have_text("+<b>a</b>\ufffd")
    assert await page.locator(".diff :is(b, script)").count() == 0


async def test_a_rejection_with_words_is_heard_and_one_without_ends_the_answer(page: Page) -> None:
    answer = await ask(page, writing("rejected.txt"))
    card = await asked(answer)
    await card.get_by_test_id("words").fill("Write it to <b>notes</b>.")
    await card.get_by_role("button", name="Reject with these words").click()
    await resolved(card, "Rejected: Write it to <b>notes</b>.")
    await has_ended(answer, "completed")
    await expect(answer.locator(".parts > .prose").last).to_contain_text("Finished write")
    await expect(answer.locator(".failure")).to_contain_text("Write it to <b>notes</b>.")

    answer = await ask(page, writing("rejected.txt"))
    card = await asked(answer)
    await card.get_by_test_id("reject").click()
    await resolved(card, "Rejected.")
    await has_ended(answer, "completed")
    await expect(answer).to_contain_text("Ended: a request was declined.")


async def test_always_is_not_asked_again_in_this_conversation(page: Page) -> None:
    answer = await ask(page, writing("always.txt"))
    await (await asked(answer)).get_by_test_id("allow-always").click()
    await has_ended(answer, "completed")
    await resolved(answer.get_by_test_id("permission"), "Allowed, always in this conversation.")

    answer = await ask(page, writing("always-2.txt"))
    await has_ended(answer, "completed")
    await expect(answer.get_by_test_id("allow-once").and_(page.locator(":visible"))).to_have_count(
        0
    )

    await page.get_by_test_id("new-conversation").click()
    answer = await ask(page, writing("always-3.txt"))
    await (await asked(answer)).get_by_test_id("reject").click()
    await has_ended(answer, "completed")


async def test_a_question_is_answered_by_choosing_or_in_words_of_ones_own(page: Page) -> None:
    answer = await ask(page, "SCRIPT:question")
    card = await asked(answer, "question")
    await expect(card).to_contain_text("Which colour should it be?")
    button = card.get_by_test_id("answer")
    await expect(button).to_have_attribute("aria-disabled", "true")
    await card.get_by_role("radio", name="Red").check()
    await card.get_by_test_id("own-words").fill("Green")  # the one or the other
    await expect(card.get_by_role("radio", checked=True)).to_have_count(0)
    await card.get_by_role("radio", name="Blue").check()
    await expect(card.get_by_test_id("own-words")).to_have_value("")
    await button.click()
    await resolved(card, "Colour: Blue")
    await has_ended(answer, "completed")

    answer = await ask(page, TWO_QUESTIONS)
    card = await asked(answer, "question")
    first, second = (card.get_by_role("group").nth(at) for at in (0, 1))
    await first.get_by_role("checkbox", name="Red").check()
    await first.get_by_role("checkbox", name="Blue").check()
    await expect(card.get_by_test_id("answer")).to_have_attribute("aria-disabled", "true")
    await second.get_by_test_id("own-words").fill("As you like")
    await card.get_by_test_id("answer").click()
    await resolved(card, "Colour: Red, Blue · Colour: As you like")
    await has_ended(answer, "completed")


async def test_a_question_is_dismissed(page: Page) -> None:
    answer = await ask(page, "SCRIPT:question")
    card = await asked(answer, "question")
    await card.get_by_test_id("dismiss").click()
    await resolved(card, "Dismissed.")
    await has_ended(answer, "completed")


async def test_what_is_open_survives_a_reload_and_is_answered_in_one_tab_for_all(
    page: Page,
) -> None:
    answer = await ask(page, writing("tabs.txt"))
    await asked(answer)
    await page.reload()
    card = await asked(answer)
    await expect(card.locator(".diff .added")).to_have_text(["+one", "+two"])
    second = await page.context.new_page()
    await second.goto(page.url)
    there = await asked(second.get_by_test_id("message-assistant"))

    await card.get_by_test_id("allow-once").click()

    await resolved(there, "Allowed once.")
    await has_ended(second.get_by_test_id("message-assistant"), "completed")
    await page.reload()
    await resolved(answer.get_by_test_id("permission"), "Allowed once.")


async def test_who_has_not_heard_of_it_is_told_that_it_was_answered(
    page: Page, browser: Browser
) -> None:
    answer = await ask(page, writing("late.txt"))
    await asked(answer)
    same_visitor = await page.context.storage_state()
    async with await browser.new_context(storage_state=same_visitor) as elsewhere:
        second = await elsewhere.new_page()
        await second.route("**/events", lambda route: route.abort())
        await second.goto(page.url)
        there = await asked(second.get_by_test_id("message-assistant"))
        await answer.get_by_test_id("allow-once").click()
        await has_ended(answer, "completed")

        await there.get_by_test_id("allow-once").click()

        await expect(second.get_by_test_id("hint")).to_have_text(
            "It was answered already, in another tab perhaps."
        )


async def test_what_a_stopped_answer_asked_can_be_answered_no_more(page: Page) -> None:
    answer = await ask(page, writing("stopped.txt"))
    card = await asked(answer)
    await page.get_by_test_id("stop").click()
    await has_ended(answer, "cancelled")
    await resolved(card, "The agent does not wait for it any more.")


async def test_of_two_that_wait_the_focus_goes_to_the_next(
    page: Page, opencode: ScriptedServer
) -> None:
    answer = await ask(page, "SCRIPT:multi")
    cards = answer.get_by_test_id("permission")
    await expect(cards).to_have_count(2)
    await tab_to(page, cards.first.get_by_test_id("allow-once"), "Shift+Tab")
    await press(page, "Enter")
    await resolved(cards.first, "Allowed once.")
    await expect(cards.last.get_by_test_id("words")).to_be_focused()
    await press(page, "Enter")  # words that are none reject nothing
    await expect(cards.last).to_have_attribute("data-status", "open")
    await tab_to(page, cards.last.get_by_test_id("allow-once"))
    await press(page, "Space")
    await has_ended(answer, "completed")
    await expect(page.get_by_test_id("composer")).to_be_focused()
    assert file_of(opencode, "b.txt").read_text() == "B\n"


async def test_a_question_is_answered_by_keyboard_alone(page: Page) -> None:
    answer = await ask(page, "SCRIPT:question")
    card = await asked(answer, "question")
    red, blue = (card.get_by_role("radio", name=name) for name in ("Red", "Blue"))
    await tab_to(page, blue, "Shift+Tab")  # of radio buttons one is a stop
    await press(page, "Space")
    await expect(blue).to_be_checked()
    await press(page, "ArrowUp")
    await expect(red).to_be_checked()
    await tab_to(page, card.get_by_test_id("answer"))
    await press(page, "Enter")
    await resolved(card, "Colour: Red")
    await has_ended(answer, "completed")
    await expect(page.get_by_test_id("composer")).to_be_focused()


async def test_the_focus_is_seen_on_all_that_is_asked(page: Page) -> None:
    await page.set_viewport_size({"width": 1280, "height": 2000})
    answer = await ask(page, writing("focus.txt"))
    card = await asked(answer)
    choices = ["allow-once", "allow-always", "reject"]
    listed = ["new", "a", "delete-conversation", "scroller", "summary"]
    assert await tour(page) == [*listed, "pre", "words", *choices, "attach", "text", "stop"]
    await card.get_by_test_id("allow-once").click()
    await has_ended(answer, "completed")

    answer = await ask(page, TWO_QUESTIONS)
    card = await asked(answer, "question")
    options = ["input", "input", "own-words"]
    asked_now = ["summary", *options, *options, "answer", "dismiss"]
    assert await tour(page) == [*listed, "artifact", *asked_now, "attach", "text", "stop"]
    await card.get_by_test_id("dismiss").click()
    await has_ended(answer, "completed")


async def test_axe_finds_nothing_in_what_is_asked(page: Page) -> None:
    answer = await ask(page, writing("axe.txt"))
    await asked(answer)
    nothing(await findings(page, *HIGH))
    await answer.get_by_test_id("words").fill("Not this one.")
    await answer.get_by_test_id("reject").click()
    await has_ended(answer, "completed")

    answer = await ask(page, writing("axe.txt"))
    await (await asked(answer)).get_by_test_id("allow-once").click()
    await has_ended(answer, "completed")
    answer = await ask(page, TWO_QUESTIONS)
    card = await asked(answer, "question")
    await card.get_by_role("checkbox", name="Red").first.check()
    nothing(await findings(page, *HIGH))
    await card.get_by_test_id("dismiss").click()
    await has_ended(answer, "completed")
    nothing(await findings(page, *HIGH))


async def test_what_is_asked_fits_a_phone(page: Page) -> None:
    await page.set_viewport_size(PHONE)
    answer = await ask(page, writing(f"{'a-long-folder/' * 6}notes.txt", f"{'long' * 100}\n"))
    card = await asked(answer)
    assert await page.evaluate("document.documentElement.scrollWidth") == 390
    for name in ("allow-once", "allow-always", "reject"):
        box = await card.get_by_test_id(name).bounding_box()
        assert box is not None
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= 390
    await card.get_by_test_id("reject").click()
    await has_ended(answer, "completed")


async def test_what_is_asked_is_text(page: Page) -> None:
    hostile = "<img src=x onerror=alert(1)>"
    answer = await ask(page, writing("hostile.txt", f"{hostile}\n"))
    card = await asked(answer)
    await expect(card.locator(".diff .added")).to_have_text([f"+{hostile}"])
    await expect(answer.locator("img")).to_have_count(0)
    await card.get_by_test_id("reject").click()
    await has_ended(answer, "completed")


def delegated(script: str, description: str) -> dict[str, Any]:
    args = {"description": description, "prompt": script, "subagent_type": "general"}
    return {"name": "task", "args": args}


@pytest.mark.parametrize("permissions", [Permissions().allow("task")])
async def test_what_a_subagent_says_stands_below_the_call_that_started_it(page: Page) -> None:
    calls = [
        delegated('SCRIPT:bash {"command": "echo below"}', "The first job"),
        delegated("SCRIPT:text Said by the second.", "The second job"),
    ]
    answer = await ask(page, f"SCRIPT:tools {json.dumps(calls)}")
    await has_ended(answer, "completed")
    await below(answer)
    nothing(await findings(page, *HIGH))
    await page.reload()
    await has_ended(answer, "completed")
    await below(answer)


async def below(answer: Locator) -> None:
    jobs = answer.locator(".parts > .tool")
    await expect(jobs).to_have_count(2)
    first, second = (jobs.nth(at).locator("> .subagent") for at in (0, 1))
    await expect(first.locator("> .tool summary")).to_contain_text("echo below")
    await expect(second).to_have_text("Said by the second.")


@pytest.mark.parametrize("permissions", [Permissions().allow("task")])
async def test_a_subagents_ask_says_whose_it_is(page: Page) -> None:
    calls = [delegated('SCRIPT:read {"path": ".env"}', "Look at it")]
    answer = await ask(page, f"SCRIPT:tools {json.dumps(calls)}")
    card = await asked(answer)
    await expect(card).to_contain_text("A subagent asks to read a file.")
    await card.get_by_test_id("words").fill("Not that one.")
    await card.get_by_test_id("reject").click()
    await has_ended(answer, "completed")
    await resolved(card, "Rejected: Not that one.")
