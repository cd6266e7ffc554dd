"""Files in the chat: what a turn produced is downloaded, and what a person brings is sent."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from playwright.async_api import (
    Browser,
    FileChooser,
    FilePayload,
    Locator,
    Page,
    Request,
    Route,
    expect,
)

from opencode_async import Permissions
from tests.browser.chat import answer_to, ask, has_ended, press, tab_to
from tests.browser.test_accessibility import PHONE, SCREEN, findings, nothing
from tests.browser.test_keyboard import tour

pytestmark = pytest.mark.asyncio(loop_scope="module")

HOSTILE = "<img src=x onerror=alert(1)>.txt"
NOTES: FilePayload = {"name": "notes.txt", "mimeType": "text/plain", "buffer": b"Not much.\n"}
TABLE: FilePayload = {"name": "a table.csv", "mimeType": "text/csv", "buffer": b"a,b\n" * 3000}
# Files come from elsewhere by events whose data only a script can make.
COME_BY = """([kind, files]) => {
  const data = new DataTransfer();
  for (const [name, words] of files) data.items.add(new File([words], name));
  const init = { bubbles: true, cancelable: true, dataTransfer: data, clipboardData: data };
  const event = new (kind === "paste" ? ClipboardEvent : DragEvent)(kind, init);
  document.getElementById("text").dispatchEvent(event);
  return event.defaultPrevented;
}"""
free = pytest.mark.parametrize("permissions", [Permissions()])


@pytest_asyncio.fixture(loop_scope="module")
async def calm_page(browser: Browser, url: str) -> AsyncIterator[Page]:
    """The chat in a browser whose console may tell of requests that failed."""
    async with await browser.new_context() as context:
        page = await context.new_page()
        await page.goto(url)
        yield page


def writing(*files: tuple[str, str]) -> str:
    calls = [{"name": "write", "args": {"filePath": path, "content": text}} for path, text in files]
    return f"SCRIPT:tools {json.dumps(calls)}"


def uploads(page: Page) -> Locator:
    return page.get_by_test_id("upload")


async def choose(page: Page, *files: FilePayload) -> None:
    async with page.expect_file_chooser() as chooser:
        await page.get_by_test_id("attach").click()
    await (await chooser.value).set_files(list(files))


async def downloaded(page: Page, link: Locator) -> tuple[str, bytes]:
    async with page.expect_download() as download:
        await link.click()
    done = await download.value
    return done.suggested_filename, await asyncio.to_thread((await done.path()).read_bytes)


@free
async def test_what_a_turn_wrote_is_downloaded_also_after_a_reload(page: Page) -> None:
    table = "a;b\n" * 3000
    answer = await ask(page, writing(("the report.md", "# Übrigens\n"), ("data/table.csv", table)))
    cards = answer.get_by_test_id("artifact")
    await has_ended(answer, "completed")
    await expect(cards).to_have_count(2)
    await expect(page.locator("#announcer")).to_have_text("The answer is complete. It has 2 files.")

    for _ in ("live", "reloaded"):
        report = answer.get_by_role("link", name="Download the report.md, 12 bytes")
        assert await downloaded(page, report) == ("the report.md", "# Übrigens\n".encode())
        other = answer.get_by_role("link", name="Download table.csv, 12 kB")
        await expect(other).to_contain_text("data")
        assert await downloaded(page, other) == ("table.csv", table.encode())
        await page.reload()
        await expect(cards).to_have_count(2)


@free
async def test_a_file_is_shown_before_its_answer_has_ended(page: Page) -> None:
    await page.evaluate("""() => {
      window.seen = [];
      new MutationObserver(() => {
        for (const link of document.querySelectorAll(".assistant [data-testid=artifact]"))
          if (!seen.length) seen.push(link.closest("article").dataset.status);
      }).observe(document.getElementById("messages"), { childList: true, subtree: true });
    }""")
    answer = await ask(page, writing(("early.txt", "Early.\n")))
    await has_ended(answer, "completed")
    assert await page.evaluate("seen") == ["pending"]


async def test_a_file_of_the_same_id_takes_its_place(page: Page) -> None:
    names: list[list[str]] = await page.evaluate("""async () => {
      const { reduce } = await import("/page/state.js");
      const shown = [];
      let message = reduce(undefined, "snapshot", { message: { id: "m" } });
      for (const [id, filename] of [["1", "a"], ["2", "b"], ["1", "c"]]) {
        message = reduce(message, "artifact", { message_id: "m", artifact: { id, filename } });
        shown.push(message.artifacts.map((artifact) => artifact.filename));
      }
      return shown;
    }""")
    assert names == [["a"], ["a", "b"], ["c", "b"]]


async def test_sizes_and_kinds_are_told_in_a_few_letters(page: Page) -> None:
    told: list[str] = await page.evaluate("""async () => {
      const { sizeOf, kindOf } = await import("/page/words.js");
      const sizes = [0, 1, 999, 1000, 12345, 999499, 999500, 3.4e6, 5e10].map(sizeOf);
      const kinds = [["a.tar.gz", ""], ["Makefile", "text/plain"], ["x", "font/ttf"], ["a.", ""]];
      return [...sizes, ...kinds.map((kind) => kindOf(...kind))];
    }""")
    sizes = ["0 bytes", "1 byte", "999 bytes", "1 kB", "12 kB", "999 kB", "1 MB", "3.4 MB", "50 GB"]
    assert told == [*sizes, "GZ", "TXT", "FILE", "FILE"]


@free
async def test_a_files_name_is_text(page: Page) -> None:
    answer = await ask(page, writing((HOSTILE, "Harmless.\n")))
    await has_ended(answer, "completed")
    await expect(answer.get_by_test_id("artifact").locator(".name")).to_have_text(HOSTILE)
    await choose(page, {**NOTES, "name": HOSTILE})
    await expect(uploads(page).locator(".name")).to_have_text(HOSTILE)
    await page.get_by_test_id("composer").fill("SCRIPT:text Seen.")
    await page.get_by_test_id("send").click()
    said = page.get_by_test_id("message-user").last
    await expect(said.get_by_test_id("artifact").locator(".name")).to_have_text(HOSTILE)
    await expect(page.locator("img")).to_have_count(0)


async def test_chosen_files_are_sent_and_shown_with_what_was_said(page: Page) -> None:
    await choose(page, NOTES, TABLE)
    await expect(page.get_by_test_id("composer")).to_be_focused()
    await expect(uploads(page)).to_contain_text(["notes.txt", "a table.csv"])
    await page.get_by_test_id("composer").fill("SCRIPT:hang Looking at them.")
    await page.get_by_test_id("composer").press("Enter")

    said = page.get_by_test_id("message-user")
    await expect(said.get_by_test_id("artifact")).to_have_count(2)  # the answer has not ended
    await expect(said.locator("p")).to_have_text("SCRIPT:hang Looking at them.")
    await expect(uploads(page)).to_have_count(0)
    second = await page.context.new_page()
    await second.goto(page.url)
    there = second.get_by_test_id("message-user")
    await expect(there.get_by_test_id("artifact")).to_have_count(2)

    # Another one, while the agent is answering: it waits, in both tabs with its file.
    await choose(page, {**NOTES, "name": "later.txt"})
    await page.get_by_test_id("composer").fill("SCRIPT:text Later.")
    await page.get_by_test_id("send").click()
    for tab in (page, second):
        waiting = tab.locator(".user.is-waiting")
        await expect(waiting.get_by_role("link", name="Download later.txt")).to_be_visible()
    await page.get_by_test_id("stop").click()
    await has_ended(page.get_by_test_id("message-assistant").last, "completed")

    for _ in ("live", "reloaded"):
        table = said.first.get_by_role("link", name="Download a table.csv, 12 kB")
        assert await downloaded(page, table) == ("a table.csv", TABLE["buffer"])
        await page.reload()


async def test_files_need_no_words(page: Page) -> None:
    await expect(page.get_by_test_id("send")).to_be_disabled()
    await choose(page, NOTES)
    await page.get_by_test_id("send").click()
    answer = page.get_by_test_id("message-assistant")
    await has_ended(answer, "completed")
    said = page.get_by_test_id("message-user")
    await expect(said.get_by_role("link", name="Download notes.txt, 10 bytes")).to_be_visible()
    await expect(said.locator("p")).to_be_hidden()
    await expect(page.locator("#title")).to_have_text("notes.txt")
    await expect(page.get_by_test_id("send")).to_be_disabled()


@pytest.mark.parametrize("kind", ["drop", "paste"])
async def test_files_are_dropped_or_pasted(page: Page, kind: str) -> None:
    files = [["one.txt", "One.\n"], ["two.txt", "Two.\n"]]
    drop = page.get_by_test_id("drop")
    if kind == "drop":
        await expect(drop).to_be_hidden()
        assert await page.evaluate(COME_BY, ["dragover", files])
        await expect(drop).to_be_visible()
        await page.evaluate(COME_BY, ["dragleave", files])
        await expect(drop).to_be_hidden()
        await page.evaluate(COME_BY, ["dragover", files])
    assert await page.evaluate(COME_BY, [kind, files])
    await expect(drop).to_be_hidden()
    await expect(uploads(page)).to_contain_text(["one.txt", "two.txt"])
    await page.get_by_role("button", name="Remove one.txt").click()
    await expect(uploads(page)).to_contain_text(["two.txt"])
    await page.get_by_test_id("composer").fill("SCRIPT:text Thanks.")
    await page.get_by_test_id("send").click()

    await has_ended(page.get_by_test_id("message-assistant"), "completed")
    sent = page.get_by_test_id("message-user").get_by_test_id("artifact")
    await expect(sent).to_have_count(1)
    assert await downloaded(page, sent) == ("two.txt", b"Two.\n")
    await page.reload()
    await expect(sent).to_have_attribute("aria-label", "Download two.txt, 5 bytes")


async def test_what_is_no_file_is_dropped_and_pasted_as_ever(page: Page) -> None:
    for kind in ("dragover", "drop", "paste"):
        assert not await page.evaluate(COME_BY, [kind, []])
    await expect(page.get_by_test_id("drop")).to_be_hidden()
    await expect(uploads(page)).to_have_count(0)


@free
async def test_files_by_keyboard_alone(page: Page) -> None:
    names = ("one.txt", "two.txt", "three.txt", "four.txt")
    chosen: list[list[FilePayload]] = [[{**NOTES, "name": name} for name in names], [NOTES]]

    async def choose_next(chooser: FileChooser) -> None:
        await chooser.set_files(chosen.pop(0))

    # From the beginning on: a key may be faster than what has Chromium show no dialog.
    page.on("filechooser", choose_next)
    await tab_to(page, page.get_by_test_id("attach"))
    await press(page, "Enter")
    await expect(uploads(page)).to_have_count(4)
    await expect(page.get_by_test_id("composer")).to_be_focused()

    remove = {name: page.get_by_role("button", name=f"Remove {name}") for name in names}
    await tab_to(page, remove["two.txt"], "Shift+Tab")
    await press(page, "Enter")
    await expect(remove["three.txt"]).to_be_focused()
    await press(page, "Tab", "Space")
    await expect(remove["three.txt"]).to_be_focused()
    await press(page, "Enter")
    await expect(remove["one.txt"]).to_be_focused()
    await press(page, "Enter")
    await expect(uploads(page)).to_have_count(0)
    await expect(page.get_by_test_id("composer")).to_be_focused()

    await press(page, "Shift+Tab", "Space")
    await expect(uploads(page)).to_have_count(1)
    await expect(page.get_by_test_id("composer")).to_be_focused()
    script = writing(("by-keyboard.txt", "Typed.\n"))
    await page.keyboard.type(script)
    await press(page, "Enter")
    answer = await answer_to(page, script)
    await has_ended(answer, "completed")
    await expect(page.get_by_test_id("composer")).to_be_focused()
    links = (
        answer.get_by_test_id("artifact"),
        page.get_by_test_id("message-user").get_by_test_id("artifact"),
    )
    for link in links:
        await tab_to(page, link, "Shift+Tab")
        async with page.expect_download():
            await press(page, "Enter")
        await expect(link).to_be_focused()


@free
async def test_the_focus_is_seen_on_files_and_axe_finds_nothing(page: Page) -> None:
    await page.set_viewport_size({**SCREEN, "height": 3000})
    await choose(page, NOTES, TABLE)
    await page.get_by_test_id("composer").fill(writing(("a/seen.txt", "Seen.\n"), ("b.bin", "?")))
    await page.get_by_test_id("send").click()
    answer = page.get_by_test_id("message-assistant")
    await has_ended(answer, "completed")
    await expect(answer.get_by_test_id("artifact")).to_have_count(2)
    await choose(page, NOTES, {**TABLE, "name": f"{'a-long-name-' * 15}.csv"})
    await expect(uploads(page)).to_have_count(2)
    listed = ["new", "a", "delete-conversation", "scroller"]
    links, cards = 2 * ["artifact"], 2 * ["summary"]
    composer = ["button", "button", "attach", "text", "send"]
    assert await tour(page) == [*listed, *links, *cards, *links, *composer]

    high = ({**SCREEN, "height": 3000}, {**PHONE, "height": 3000})
    nothing(await findings(page, *high))  # type: ignore[arg-type]
    await page.set_viewport_size(PHONE)
    assert await page.evaluate("document.documentElement.scrollWidth") == 390
    for element in (*await uploads(page).all(), *await page.get_by_test_id("artifact").all()):
        box = await element.bounding_box()
        assert box is not None
        assert 0 <= box["x"] < box["x"] + box["width"] <= 390
    await page.evaluate(COME_BY, ["dragover", [["one.txt", "One.\n"]]])
    await expect(page.get_by_test_id("drop")).to_be_visible()


async def test_what_is_too_large_is_said_and_stays(calm_page: Page, tmp_path: Path) -> None:
    page, large = calm_page, tmp_path / "large.bin"
    with large.open("wb") as file:
        file.truncate(50_000_001)
    await page.locator("#files").set_input_files(large)
    await page.get_by_test_id("composer").fill("SCRIPT:text Thanks.")
    await page.get_by_test_id("send").click()
    hint = page.get_by_test_id("hint")
    await expect(hint).to_have_text("Not sent: large.bin is larger than 50 MB.", timeout=20_000)
    await expect(uploads(page)).to_contain_text(["large.bin"])
    await expect(page.get_by_test_id("composer")).to_have_value("SCRIPT:text Thanks.")

    await page.get_by_role("button", name="Remove large.bin").click()
    await expect(hint).to_contain_text("Enter sends")
    await page.get_by_test_id("send").click()
    await has_ended(page.get_by_test_id("message-assistant"), "completed")


@pytest.mark.parametrize(
    ("status", "detail", "told"),
    [
        (415, "file 2 is image/png, which is not accepted here", "Not sent: a table.csv is image/"),
        (422, "an upload has at most 10 files", "Not sent: an upload has at most 10 files."),
        (409, "queue full", "No more messages may wait"),
        (None, "", "The server cannot be reached. Or a file was moved or changed"),
    ],
)
async def test_what_was_not_taken_is_sent_again_under_the_same_key(
    calm_page: Page, status: int | None, detail: str, told: str
) -> None:
    page, requests = calm_page, list[Request]()

    async def refuse_once(route: Route) -> None:
        requests.append(route.request)
        if len(requests) > 1:
            await route.continue_()
        elif status is None:
            await route.abort()
        else:
            await route.fulfill(status=status, json={"detail": detail, "status": status})

    await page.route("**/agent/conversations/*/messages", refuse_once)
    await choose(page, NOTES, TABLE)
    await page.get_by_test_id("composer").fill("SCRIPT:text Thanks.")
    await page.get_by_test_id("send").click()
    await expect(page.get_by_test_id("hint")).to_contain_text(told)
    await expect(uploads(page)).to_have_count(2)
    await expect(page.get_by_test_id("composer")).to_have_value("SCRIPT:text Thanks.")

    await page.get_by_test_id("send").click()

    await has_ended(page.get_by_test_id("message-assistant"), "completed")
    sent = page.get_by_test_id("message-user").get_by_test_id("artifact")
    await expect(sent).to_have_count(2)
    first, second = [await request.all_headers() for request in requests]
    assert first["idempotency-key"] == second["idempotency-key"]


async def test_while_files_are_on_their_way_nothing_is_sent_twice(page: Page) -> None:
    requests: list[Request] = []

    async def slowly(route: Route) -> None:
        requests.append(route.request)
        await page.wait_for_timeout(1000)
        await route.continue_()

    await page.route("**/agent/conversations/*/messages", slowly)
    await choose(page, NOTES)
    composer, hint = page.get_by_test_id("composer"), page.get_by_test_id("hint")
    await composer.press("Enter")
    await expect(hint).to_have_text("Sending the files…")
    await expect(page.get_by_test_id("send")).to_be_disabled()
    await expect(page.get_by_role("button", name="Remove notes.txt")).to_be_hidden()
    await composer.press("Enter")
    await composer.press("Control+Enter")
    await has_ended(page.get_by_test_id("message-assistant"), "completed")
    assert len(requests) == 1
    await expect(page.get_by_test_id("message-user")).to_have_count(1)


async def test_an_error_is_tried_again_with_its_files(page: Page) -> None:
    await choose(page, NOTES)
    await page.get_by_test_id("composer").fill("SCRIPT:error401")
    await page.get_by_test_id("send").click()
    failed = page.get_by_test_id("message-assistant")
    await has_ended(failed, "error")
    await failed.get_by_test_id("retry").click()
    await expect(page.get_by_test_id("message-assistant")).to_have_count(2)
    await has_ended(page.get_by_test_id("message-assistant").last, "error")
    again = page.get_by_test_id("message-user").last.get_by_test_id("artifact")
    assert await downloaded(page, again) == ("notes-2.txt", NOTES["buffer"])
