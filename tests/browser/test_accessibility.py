"""The chat's page under axe-core, light and dark, on a screen and on a phone."""

from importlib.resources import files
from typing import Any, Literal

import pytest
from playwright.async_api import Locator, Page, ViewportSize, expect

from tests.browser.chat import ask, has_ended, say

pytestmark = pytest.mark.asyncio(loop_scope="module")

AXE = files("axe_playwright_python").joinpath("axe.min.js").read_text("utf-8")
TAGS = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
RUN = """tags => axe.run(document, {
  runOnly: {type: "tag", values: tags}, rules: {"target-size": {enabled: true}},
})"""

SCREEN: ViewportSize = {"width": 1280, "height": 800}
PHONE: ViewportSize = {"width": 390, "height": 844}
SCHEMES: tuple[Literal["light", "dark"], ...] = ("light", "dark")
CODE = r'{"text": "Like this:\n\n```python\nprint(6 * 7)\n```\n\nThat is all."}'


async def findings(page: Page, *sizes: ViewportSize) -> list[str]:
    """What axe finds wrong, or has no opinion about the contrast of, however the page is shown."""
    await page.evaluate(AXE)
    found: list[str] = []
    for size in sizes or (SCREEN, PHONE):
        await page.set_viewport_size(size)
        for scheme in SCHEMES:
            await page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
            result = await page.evaluate(RUN, TAGS)
            passed = {rule["id"] for rule in result["passes"]}
            assert {"color-contrast", "button-name", "target-size", "region"} <= passed
            undecided = [rule for rule in result["incomplete"] if rule["id"] == "color-contrast"]
            found += [
                f"{size['width']} px, {scheme}: {told(rule)}"
                for rule in result["violations"] + undecided
            ]
    return found


def told(rule: dict[str, Any]) -> str:
    """A rule that is broken, and where."""
    nodes = [
        f"\n    {' '.join(map(str, node['target']))}\n      {node['html']}\n      {why(node)}"
        for node in rule["nodes"]
    ]
    return f"{rule['id']} ({rule['impact']}): {rule['help']}{''.join(nodes)}"


def why(node: dict[str, Any]) -> str:
    return str(node.get("failureSummary", "")).replace("\n", " ")


def nothing(found: list[str]) -> None:
    assert not found, "\n".join(["axe-core found:", *found])


async def test_the_check_finds_what_is_wrong(page: Page) -> None:
    await page.get_by_test_id("hint").evaluate(
        "hint => hint.style.setProperty('color', 'color-mix(in srgb, var(--paper), gray)')"
    )
    await page.get_by_test_id("send").evaluate("button => button.removeAttribute('aria-label')")

    found = await findings(page, SCREEN)

    rules = [line.split(": ")[1] for line in found]
    assert rules == 2 * ["button-name (critical)", "color-contrast (serious)"]
    assert '<p id="hint"' in found[1]


async def test_the_start_page(page: Page) -> None:
    await expect(page.get_by_role("button", name="SCRIPT:reasoning")).to_be_visible()
    nothing(await findings(page))


async def test_a_conversation(page: Page) -> None:
    reasoned = await ask(page, "SCRIPT:reasoning")
    await has_ended(reasoned, "completed")
    await has_ended(await ask(page, "SCRIPT:todo"), "completed")
    await has_ended(await ask(page, 'SCRIPT:read {"path": "not-there.txt"}'), "completed")
    await has_ended(await ask(page, f"SCRIPT:text {CODE}"), "completed")
    await has_ended(await ask(page, 'SCRIPT:error401 {"times": 1}'), "error")
    for summary in await page.locator("summary").all():
        await summary.click()
    await expect(page.locator("details[open]")).to_have_count(4)
    for state in ("completed", "error"):
        await expect(page.locator(f".tool[data-status={state}]").first).to_be_visible()

    # High enough that no part of it is scrolled out of sight, where axe does not look.
    nothing(await findings(page, {**SCREEN, "height": 3000}, {**PHONE, "height": 3000}))


async def test_an_answer_that_streams(page: Page) -> None:
    answer = await ask(page, 'SCRIPT:bash {"command": "echo begun; sleep 30"}')
    await expect(answer.get_by_test_id("tool-card")).to_have_attribute("data-status", "running")
    await expect(page.locator("#conversations .busy")).to_be_visible()

    nothing(await findings(page))

    await page.get_by_test_id("stop").click()
    await has_ended(answer, "cancelled")
    nothing(await findings(page))


async def test_answering_with_two_waiting(page: Page) -> None:
    answer = await ask(page, "SCRIPT:hang Half of it.")
    await expect(answer.locator(".prose")).to_be_visible()
    await dropped(await say(page, "SCRIPT:text Dropped."))
    for words in ("First.", "Second."):
        await say(page, f"SCRIPT:text {words}")
    await page.get_by_test_id("composer").fill("SCRIPT:hang Urgent.")
    await expect(page.get_by_test_id("send-now")).to_be_enabled()
    await expect(page.locator(".user.is-waiting")).to_have_count(2)
    nothing(await findings(page))

    await page.get_by_test_id("send-now").click()
    await expect(page.locator(".note", has_text="Interrupted.")).to_be_visible()
    await expect(page.get_by_text("Urgent.", exact=True)).to_be_visible()
    await expect(page.locator(".user.is-waiting")).to_have_count(2)
    nothing(await findings(page, {**SCREEN, "height": 1500}, {**PHONE, "height": 1500}))


async def dropped(answer: Locator) -> None:
    await answer.get_by_test_id("cancel").click()
    await has_ended(answer, "cancelled")


async def test_the_drawer_of_a_phone(page: Page) -> None:
    await has_ended(await ask(page, "SCRIPT:text Hello."), "completed")
    await page.set_viewport_size(PHONE)
    await page.get_by_test_id("menu").click()
    await expect(page.get_by_test_id("new-conversation")).to_be_focused()
    nothing(await findings(page, PHONE))

    await page.get_by_test_id("delete-conversation").click()
    await expect(page.get_by_role("button", name="Really delete?")).to_be_visible()
    nothing(await findings(page, PHONE))
