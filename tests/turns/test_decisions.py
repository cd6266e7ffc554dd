"""What a host decides instead of people."""

from __future__ import annotations

from typing import Any

import pytest

from opencode_async import (
    Ask,
    Decision,
    Permission,
    PermissionReply,
    Question,
    QuestionReply,
)
from opencode_async.testing import ScriptedServer
from opencode_async.turns.ask_rows import AskRows
from tests.turns.asking import (
    BASH,
    ONCE,
    a_turn,
    an_app,
    rows_of,
    tools,
)


async def test_a_host_decides_instead_of_people_and_its_decisions_are_in_the_rows(
    database_url: str, opencode: ScriptedServer
) -> None:
    seen: list[tuple[Ask, Any]] = []

    async def decide(ask: Ask, conversation: Any) -> Decision:
        seen.append((ask, conversation.id))
        command = (ask.metadata or {}).get("command", "") if isinstance(ask, Permission) else ""
        if "secret" in command:
            return Decision.reject("Secrets stay secret.")
        if "echo" in command:
            return Decision.allow()
        if isinstance(ask, Question):
            raise LookupError("a host's mistake")
        return Decision.ask()

    commands = ("echo fine", "cat secret", "uname")
    calls = ", ".join(
        f'{{"name": "bash", "args": {{"command": "{c}", "description": "d"}}}}' for c in commands
    )
    script = f'SCRIPT:tools [{calls}, {{"name": "question", "args": {{"questions": []}}}}]'
    async with an_app(database_url, opencode, decide=decide) as app:
        conversation = await app.conversation()
        async with a_turn(app, script, conversation) as turn:
            (ask,) = await turn.asks()
            assert ask["metadata"]["command"] == "uname"
            await app.agent.turns.answer(turn.id, ask["id"], ONCE, by="ann")
            (question,) = (await turn.until(lambda state: bool(state["questions"])))["questions"]
            await app.agent.turns.answer(turn.id, question["id"], QuestionReply([]))
            row = await turn.row()
            asked = await rows_of(app, turn.id)
    assert (row.status, row.finish) == ("completed", "stop")
    assert [(a.answered_by, a.status) for a in asked] == [
        ("decide", "answered"),
        ("decide", "answered"),
        ("ann", "answered"),
        (None, "answered"),
    ]
    assert {key for _, key in seen} == {conversation}
    assert [type(error) for error in app.reports.errors] == [LookupError]
    # People see what they were asked, not what was decided without them.
    assert [p["metadata"]["command"] for p in turn.state["permissions"]] == ["uname"]
    assert "secret" not in str([c.to_json() for c in turn.changes if "permission" in c.event])
    outputs = [str(tool.get("output") or tool.get("error")) for tool in tools(row)]
    assert outputs[0] == "fine\n"
    assert "Secrets stay secret." in outputs[1]


async def test_a_host_decides_before_what_a_person_granted_for_always(
    database_url: str, opencode: ScriptedServer
) -> None:
    async def decide(ask: Ask, conversation: Any) -> Decision:
        secret = isinstance(ask, Permission) and "secret" in str(ask.patterns)
        return Decision.reject("Secrets stay secret.") if secret else Decision.ask()

    async with an_app(database_url, opencode, decide=decide) as app:
        here = await app.conversation()
        async with a_turn(app, 'SCRIPT:bash {"command": "echo one"}', here) as turn:
            (ask,) = await turn.asks()
            assert ask["always"] == ["echo *"]
            await app.agent.turns.answer(turn.id, ask["id"], PermissionReply("always"))
            await turn.row()
        async with a_turn(app, 'SCRIPT:bash {"command": "echo secret"}', here) as turn:
            row = await turn.row()
        async with a_turn(app, 'SCRIPT:bash {"command": "echo two"}', here) as turn:
            granted = await turn.row()
    assert "Secrets stay secret." in tools(row)[0]["error"]
    assert tools(granted)[0]["output"] == "two\n"


async def test_a_person_is_asked_where_a_host_decides_nothing(
    database_url: str, opencode: ScriptedServer
) -> None:
    async def decide(ask: Ask, conversation: Any) -> Any:
        """Forget to say anything."""

    async with an_app(database_url, opencode, decide=decide) as app, a_turn(app, BASH) as turn:
        (ask,) = await turn.asks()
        await app.agent.turns.answer(turn.id, ask["id"], ONCE)
        row = await turn.row()
    assert (row.status, row.finish) == ("completed", "stop")
    assert [type(error) for error in app.reports.errors] == [AttributeError]


async def test_an_ask_that_the_hosts_table_does_not_take_is_refused(
    database_url: str, opencode: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def add(*args: Any, **more: Any) -> None:
        raise ValueError("a host's validator")

    monkeypatch.setattr(AskRows, "add", add)
    async with an_app(database_url, opencode) as app, a_turn(app, BASH) as turn:
        row = await turn.row()
    assert (row.status, row.finish) == ("completed", "stop")
    assert [tool["status"] for tool in tools(row)] == ["error"]
    assert {type(error) for error in app.reports.errors} == {ValueError}


async def test_without_a_table_for_asks_the_host_may_still_decide(
    database_url: str, opencode: ScriptedServer
) -> None:
    async def decide(ask: Ask, conversation: Any) -> Decision:
        return Decision.allow() if isinstance(ask, Permission) else Decision.ask()

    async with an_app(database_url, opencode, asks=False, decide=decide) as app:
        for script, finish in ((BASH, "stop"), ("SCRIPT:question", "rejected")):
            message = await app.agent.turns.start(await app.conversation(), script)
            result = await app.agent.turns.run(message.id)
            assert (result.status, result.finish) == ("completed", finish)
