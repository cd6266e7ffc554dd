"""Answers that a test tells in Python."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from opencode_async import OpencodeClient
from opencode_async.testing import Impostor
from tests.testing.impostor.saying import answered, tools


async def test_a_story_of_several_steps(
    impostor: Impostor, client: OpencodeClient, tmp_path: Path
) -> None:
    story = impostor.on("report").reasoning("I had better look.").text("Looking. ")
    story.tool("write", filePath="report.txt", content="All is well.\n")
    story.text("Reading. ").tool("bash", command="cat report.txt").text("Done.")
    message, _ = await answered(client, "Write the report, please")
    assert message["status"] == "completed"
    assert message["content"] == "Looking. \n\nReading. \n\nDone."
    assert message["reasoning"] == "I had better look."
    assert [tool["tool"] for tool in tools(message)] == ["write", "bash"]
    assert tools(message)[1]["output"] == "All is well.\n"
    assert (tmp_path / "report.txt").read_text() == "All is well.\n"


@pytest.mark.parametrize("matching", ["ell", re.compile("^hello$"), lambda text: len(text) == 5])
async def test_the_story_told_last_wins(
    matching: object, impostor: Impostor, client: OpencodeClient
) -> None:
    impostor.on("hello").text("first")
    impostor.on(matching).text("second")  # type: ignore[arg-type]
    assert (await answered(client, "hello"))[0]["content"] == "second"
    assert (await answered(client, "hello?!"))[0]["content"] in ("first", "second")
    assert (await answered(client, "good-bye"))[0]["content"] == "You said: good-bye"
    assert (await answered(client, "SCRIPT:text scripted"))[0]["content"] == "scripted"


async def test_a_tool_that_is_given_its_result_is_not_run(
    impostor: Impostor, client: OpencodeClient, tmp_path: Path
) -> None:
    story = impostor.on("go").tool("bash", command="touch made", output="as if", title="t")
    story.tool("github_search", {"q": "x"}, output="found", metadata={"n": 1})
    story.tool("webfetch", url="http://x", error="no network").text("End.")
    message, _ = await answered(client, "go")
    assert [tool.get("output") for tool in tools(message)] == ["as if", "found", None]
    assert [tool["status"] for tool in tools(message)] == ["completed", "completed", "error"]
    assert tools(message)[2]["error"] == "no network"
    assert not (tmp_path / "made").exists()
    assert message["content"] == "End."


async def test_usage_and_cost_are_as_told(impostor: Impostor, client: OpencodeClient) -> None:
    impostor.on("go").text("Hi").usage(input=1000, output=20, cost=0.25)
    message, _ = await answered(client, "go")
    assert (message["cost"], message["input_tokens"], message["output_tokens"]) == (0.25, 1000, 20)


async def test_a_subagent_has_a_story_of_its_own(
    impostor: Impostor, client: OpencodeClient
) -> None:
    impostor.on("delegate").task("count the files").text("It says so.")
    impostor.on("count the files").text("There are three.")
    message, _ = await answered(client, "delegate")
    assert "There are three." in tools(message)[0]["output"]
    said = [p["content"] for p in message["parts"] if p.get("subagent") and "content" in p]
    assert said == ["There are three."]


async def test_todos_and_a_question_that_nobody_answers(
    impostor: Impostor, client: OpencodeClient
) -> None:
    impostor.on("go").todos(read="completed", write="pending").question("Which?", "A", "B")
    message, _ = await answered(client, "go")
    assert [todo["status"] for todo in message["todos"]] == ["completed", "pending"]
    assert message["finish"] == "rejected"


async def test_leave_is_asked_whatever_the_rules(
    impostor: Impostor, client: OpencodeClient, tmp_path: Path
) -> None:
    (tmp_path / "a.txt").write_text("old")
    story = impostor.on("go").asks("edit", filePath="a.txt", oldString="old", newString="new")
    story.text("Then not.")
    message, _ = await answered(client, "go")  # a client without people refuses
    assert tools(message)[0]["status"] == "error"
    assert message["content"] == "Then not."
    assert (tmp_path / "a.txt").read_text() == "old"


@pytest.mark.parametrize(
    ("tool", "permission"),
    [("write", "edit"), ("edit", "edit"), ("apply_patch", "edit"), ("webfetch", "webfetch")],
)
async def test_leave_is_asked_by_the_name_that_rules_have_for_it(
    tool: str, permission: str, impostor: Impostor, client: OpencodeClient
) -> None:
    impostor.on("go").asks(tool, output="Done.")
    async with client.http.events("/event") as frames:
        session = await client.create_session(title="a title")
        await client.prompt(session, {"parts": [{"type": "text", "text": "go"}]})
        asked = await anext(json.loads(f) async for f in frames if '"permission.asked"' in f)
    assert asked["properties"]["permission"] == permission


async def test_what_was_asked_of_the_model_is_kept(
    impostor: Impostor, client: OpencodeClient
) -> None:
    await answered(client, "SCRIPT:bash")
    first, second = impostor.requests
    assert "bash" in first.tools
    assert [m["role"] for m in second.body["messages"]] == ["user", "tool"]


async def test_unknown_models_are_refused_and_others_may_be_given(tmp_path: Path) -> None:
    async with (
        Impostor(tmp_path, models=["acme/large", "acme/small"]) as impostor,
        OpencodeClient(impostor.server) as client,
    ):
        impostor.on("go").text("Hi")
        assert (await answered(client, "go", "acme/small"))[0]["content"] == "Hi"
        assert (await answered(client, "go", "acme/other"))[0]["status"] == "error"
