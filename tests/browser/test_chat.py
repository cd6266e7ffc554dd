"""The example chat in a real browser, on a real OpenCode server and a SQLite file."""

import json
from typing import Any

import pytest
from playwright.async_api import Browser, Locator, Page, Route, expect

from opencode_async import Permissions, ToolPart
from opencode_async.protocol.tool_display import with_display
from tests.browser.chat import ask, has_ended

pytestmark = pytest.mark.asyncio(loop_scope="module")

SLOW = 'SCRIPT:slow {"n": 30, "delay": 0.2}'
TICKS = " ".join(f"tick{i}" for i in range(30))


async def test_an_answer_grows_and_survives_a_reload(page: Page) -> None:
    answer = await ask(page, SLOW)
    await expect(answer).to_contain_text("tick0")
    early = await answer.locator(".prose").inner_text()
    await expect(answer.locator(".prose")).not_to_have_text(early)
    later = await answer.locator(".prose").inner_text()
    assert later.startswith(early)
    assert len(early) < len(later) < len(TICKS)
    await page.get_by_test_id("composer").fill("The next one")
    await expect(page.get_by_role("button", name="Send after this answer")).to_be_enabled()
    await expect(page.get_by_test_id("hint")).to_contain_text("The agent is answering")

    await page.reload()

    await expect(answer).to_contain_text("tick3")
    await expect(answer).to_have_attribute("data-status", "pending")
    await expect(page.get_by_test_id("stop")).to_be_visible()
    await has_ended(answer, "completed")
    await expect(answer.locator(".prose")).to_have_text(TICKS)
    await expect(page.locator("article")).to_have_count(2)
    await expect(page.get_by_test_id("usage")).to_contain_text("tokens in")


async def test_a_second_tab_sees_the_same_answer(page: Page) -> None:
    answer = await ask(page, SLOW)
    await expect(answer).to_contain_text("tick1")
    second = await page.context.new_page()
    await second.goto(page.url)
    there = second.get_by_test_id("message-assistant")
    await has_ended(there, "completed")
    await expect(there.locator(".prose")).to_have_text(TICKS)

    await ask(page, "SCRIPT:text Heard in both tabs.")

    await expect(there.last.locator(".prose")).to_have_text("Heard in both tabs.")
    order = await second.locator("article").evaluate_all("all => all.map(one => one.className)")
    assert order == ["user", "assistant", "user", "assistant"]


async def test_stop_keeps_what_was_said(page: Page) -> None:
    answer = await ask(page, 'SCRIPT:slow {"n": 100, "delay": 0.2}')
    await expect(answer).to_contain_text("tick2")
    await page.get_by_test_id("stop").click()
    await has_ended(answer, "cancelled")
    said = await answer.locator(".prose").inner_text()
    assert said.startswith("tick0 tick1 tick2")
    await expect(answer).to_contain_text("Stopped.")
    await expect(page.get_by_test_id("stop")).to_be_hidden()

    await page.reload()

    await expect(answer.locator(".prose")).to_have_text(said.strip())
    await has_ended(answer, "cancelled")


async def test_reasoning_is_folded_and_tools_are_cards(page: Page) -> None:
    await page.get_by_role("button", name="SCRIPT:reasoning").click()
    answer = page.get_by_test_id("message-assistant").last
    await has_ended(answer, "completed")
    reasoning = answer.get_by_test_id("reasoning")
    await expect(reasoning.get_by_text("Then I think more.")).to_be_hidden()
    await reasoning.locator("summary").click()
    await expect(reasoning.get_by_text("Then I think more.")).to_be_visible()

    answer = await ask(page, 'SCRIPT:bash {"command": "echo 6 times 7 is $((6 * 7))"}')

    await has_ended(answer, "completed")
    card = answer.get_by_test_id("tool-card")
    await expect(card).to_have_attribute("data-status", "completed")
    await expect(card.locator("summary")).to_contain_text("Ran")
    await expect(card.locator("summary")).to_contain_text("echo 6 times 7")
    await expect(card.get_by_text("6 times 7 is 42")).to_be_hidden()
    await card.locator("summary").click()
    await expect(card.get_by_text("6 times 7 is 42")).to_be_visible()


async def cards(answer: Locator) -> list[tuple[str, ...]]:
    """What each tool card says is or was done, to what, and how far it is."""
    shown = []
    for card in await answer.get_by_test_id("tool-card").all():
        parts = [
            card.locator(f"> details > summary .{part}") for part in ("verb", "target", "state")
        ]
        shown.append(tuple([await part.inner_text() for part in parts]))
    return shown


@pytest.mark.parametrize("permissions", [Permissions()])
async def test_a_tool_card_says_what_it_is_used_on(page: Page) -> None:
    path = f"{'a-folder-of-many/' * 5}notes.txt"
    todos = [
        {"content": words, "status": status, "priority": "high"}
        for words, status in (("Begin", "completed"), ("End", "pending"))
    ]
    change = {"filePath": path, "oldString": "one", "newString": "two"}
    job = {"description": "A job", "prompt": "SCRIPT:text Done.", "subagent_type": "general"}
    fetched = {"url": "http://127.0.0.1:9/", "format": "text", "timeout": 2}
    calls: list[tuple[str, dict[str, Any]]] = [
        ("bash", {"command": "echo hi", "description": "Says hi"}),
        ("write", {"filePath": path, "content": "one\n"}),
        ("read", {"filePath": path}),
        ("edit", change),
        ("read", {"filePath": "not-there.txt"}),
        ("todowrite", {"todos": todos}),
        ("task", job),
        ("webfetch", fetched),
        ("no_such_tool", {}),
    ]
    script = json.dumps([{"name": name, "args": args} for name, args in calls])
    await page.set_viewport_size({"width": 390, "height": 844})

    answer = await ask(page, f"SCRIPT:tools {script}")

    await has_ended(answer, "completed")
    assert await cards(answer) == [
        ("Ran", "echo hi", "done"),
        ("Wrote", path, "done"),
        ("Read", path, "done"),
        ("Edited", path, "done"),
        ("Reading", "not-there.txt", "failed"),
        ("Updated the plan", "1 of 2 done", "done"),
        ("Delegated", "A job", "done"),
        ("Fetching", "http://127.0.0.1:9/", "failed"),
        ("Using no such tool", "", "failed"),
    ]
    failures = answer.locator(".failure:visible")
    await expect(failures).to_have_count(3)
    await expect(failures.last).to_contain_text("Model tried to call unavailable tool")

    answer = await ask(page, "SCRIPT:question")
    await answer.get_by_test_id("dismiss").click()
    await has_ended(answer, "completed")
    assert await cards(answer) == [("Asking", "Which colour should it be?", "failed")]


@pytest.mark.parametrize("permissions", [Permissions()])
async def test_a_change_is_shown_as_a_diff(page: Page) -> None:
    change = {"filePath": "notes.md", "oldString": "two <b>", "newString": "2"}
    calls = [
        {"name": "write", "args": {"filePath": "notes.md", "content": "one\ntwo <b>\n"}},
        {"name": "edit", "args": change},
    ]

    answer = await ask(page, f"SCRIPT:tools {json.dumps(calls)}")

    await has_ended(answer, "completed")
    written, edited = await answer.get_by_test_id("tool-card").all()
    await expect(written.get_by_label("The change")).to_be_hidden()
    for card, lines in (
        (written, ["--- /dev/null", "+++ notes.md", "@@ -0,0 +1,2 @@", "+one", "+two <b>"]),
        (edited, ["@@ -1,2 +1,2 @@", " one", "-two <b>", "+2"]),
    ):
        await card.locator("summary").click()
        await expect(card.get_by_label("The change")).to_be_visible()
        await expect(card.get_by_label("Input")).to_be_hidden()
        shown = await card.locator(".diff span").all_text_contents()
        assert shown[-len(lines) :] == lines
    await expect(edited.locator(".diff .removed")).to_have_text("-two <b>")
    await expect(edited.locator(".diff .added")).to_have_text("+2")


async def test_a_tool_card_says_how_far_it_is(page: Page) -> None:
    patch = "*** Begin Patch\n*** Add File: a.txt\n+one\n*** Delete File: b.txt\n*** End Patch"
    tools: list[dict[str, Any]] = [
        {"tool": "apply_patch", "status": "completed", "input": {"patchText": patch}},
        {"tool": "bash", "status": "pending", "input": {}},
        {"tool": "bash", "status": "running", "input": {"command": "sleep 1"}},
        {"tool": "read", "status": "error", "input": {"filePath": "/a.txt"}, "error": "Denied."},
        {"tool": "of_a_plugin", "status": "completed", "input": {"x": 1}, "title": "What it did"},
        {"tool": "task", "status": "running", "input": {}, "session_id": "ses_1"},
        {"tool": "bash", "status": "completed", "input": {}, "subagent": "ses_1"},
    ]

    async def with_tools(route: Route) -> None:
        """The conversation, with tools in its answer that the scripted model does not have."""
        response = await route.fetch()
        conversation = await response.json()
        parts = [ToolPart(str(at), call_id="", **tool).to_json() for at, tool in enumerate(tools)]
        parts = [with_display(part) for part in parts]
        conversation["messages"][-1]["parts"] = parts
        await route.fulfill(response=response, json=conversation)

    answer = await ask(page, "SCRIPT:text Nothing yet.")
    await has_ended(answer, "completed")
    await page.route("**/agent/conversations/*?limit=50", with_tools)
    await page.reload()
    await expect(answer.get_by_test_id("tool-card")).to_have_count(7)

    assert await cards(answer) == [
        ("Patched", "a.txt, b.txt", "done"),
        ("Running", "", "waiting"),
        ("Running", "sleep 1", "running…"),
        ("Reading", "/a.txt", "failed"),
        ("Used of a plugin", "What it did", "done"),
        ("Delegating", "", "running…"),
        ("Ran", "", "done"),
    ]
    marks = answer.locator(".tool .mark")
    rings = [
        await mark.evaluate("mark => getComputedStyle(mark).borderTopWidth")
        for mark in await marks.all()
    ]
    assert rings == ["0px", "2px", "2px", "0px", "0px", "2px", "0px"]  # ticks and crosses have none
    await expect(answer.get_by_text("Denied.")).to_be_visible()
    await answer.locator("summary").first.click()
    await expect(answer.get_by_role("group", name="Input").first).to_have_text(
        f"patchText:\n{patch}", use_inner_text=True
    )


async def test_the_plan_is_shown(page: Page) -> None:
    answer = await ask(page, "SCRIPT:todo")
    await has_ended(answer, "completed")
    await expect(answer.get_by_test_id("todos")).to_contain_text("Plan: 1 of 2 done")


async def test_an_error_says_so_and_can_be_tried_again(page: Page) -> None:
    failed = await ask(page, 'SCRIPT:error401 {"times": 1}')
    await has_ended(failed, "error")
    await expect(failed.get_by_test_id("error")).to_be_visible()
    await failed.get_by_test_id("retry").click()
    await expect(page.get_by_test_id("message-assistant")).to_have_count(2)
    await has_ended(page.get_by_test_id("message-assistant").last, "completed")
    await expect(page.get_by_test_id("message-user").last).to_have_text(
        'SCRIPT:error401 {"times": 1}'
    )


async def test_what_the_agent_writes_is_text(page: Page) -> None:
    hostile = "<img src=x onerror=alert(1)> <b>bold</b>"
    answer = await ask(page, f"SCRIPT:text {hostile}")
    await has_ended(answer, "completed")
    await expect(answer.locator(".prose")).to_have_text(hostile)
    await expect(answer.locator("img, b")).to_have_count(0)


async def test_on_a_phone(page: Page) -> None:
    await page.set_viewport_size({"width": 390, "height": 844})
    composer = page.get_by_test_id("composer")
    answer = await ask(page, f"SCRIPT:text {'A_long_word_without_a_break' * 9}")
    await has_ended(answer, "completed")
    box = await composer.bounding_box()
    assert box is not None
    assert box["width"] > 200
    assert box["x"] >= 0
    assert box["y"] + box["height"] <= 844
    width = await page.evaluate("document.documentElement.scrollWidth")
    assert width == 390

    conversation = page.get_by_test_id("conversation-list").get_by_role("link")
    await expect(conversation).to_be_hidden()
    await page.get_by_test_id("menu").click()
    await expect(conversation).to_be_visible()
    await page.get_by_test_id("new-conversation").click()
    await expect(conversation).to_be_hidden()
    await expect(page.get_by_test_id("message-user")).to_have_count(0)

    await page.get_by_test_id("menu").click()
    await page.get_by_test_id("delete-conversation").click()
    await page.get_by_role("button", name="Really delete?").click()
    await expect(conversation).to_have_count(0)


async def test_visitors_see_only_their_own_conversations(
    page: Page, browser: Browser, url: str
) -> None:
    await has_ended(await ask(page, "SCRIPT:text For my eyes only."), "completed")
    stranger = await browser.new_page()
    await stranger.goto(page.url)
    await expect(stranger.get_by_test_id("hint")).to_have_text(
        "That conversation is not here any more."
    )
    await expect(stranger.get_by_test_id("conversation-list").get_by_role("link")).to_have_count(0)
    await expect(stranger).to_have_url(f"{url}/#")
