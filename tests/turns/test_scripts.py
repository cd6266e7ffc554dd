"""What turns carry: any text, one after the other in one session."""

from __future__ import annotations

import math

from opencode_async.testing import ScriptedServer
from opencode_async.turns.message import message_json
from tests.support.hosts import host
from tests.support.replay import assert_replay_is
from tests.turns.ended import answers_in, messages_of, run


async def test_text_and_tool_output_with_nul_and_lone_surrogates_are_stored(
    database_url: str, opencode: ScriptedServer
) -> None:
    command = """SCRIPT:bash {"command": "printf 'a\\\\000b'"}"""
    async with host(database_url, opencode) as app:
        conversation = await app.conversation()
        said, changes = await run(app, conversation, "SCRIPT:nul")
        ran, _ = await run(app, conversation, command)
        typed, _ = await run(app, conversation, "SCRIPT:text with \x00 in it")
    assert said.status == ran.status == typed.status == "completed"
    assert "\ufffd" in said.content
    assert "\x00" not in said.content
    assert ran.parts[1]["output"] == "a\ufffdb"
    assert typed.content == "with \ufffd in it"
    assert_replay_is(changes, message_json(said))


async def test_the_turns_of_a_conversation_follow_each_other_in_one_session(
    database_url: str, opencode: ScriptedServer
) -> None:
    async with host(database_url, opencode) as app:
        conversation = await app.conversation()
        rows = [(await run(app, conversation, f"SCRIPT:text Answer {n}"))[0] for n in range(3)]
        async with app.sessions() as db:
            stored = await db.get_one(app.agent.tables.conversation, conversation)
    assert [row.content for row in rows] == ["Answer 0", "Answer 1", "Answer 2"]
    assert [row.position for row in rows] == [2, 4, 6]
    assert stored.opencode_session_id is not None


async def test_a_turn_whose_context_overflows_is_answered_behind_the_compaction(
    database_url: str, opencode: ScriptedServer
) -> None:
    """The answer's parent is OpenCode's own copy of the prompt then."""
    async with host(database_url, opencode) as app:
        conversation = await app.conversation()
        before, _ = await run(app, conversation, "SCRIPT:text Earlier.")
        row, changes = await run(app, conversation, "SCRIPT:overflow Here after all.")
        answers = answers_in(await messages_of(app, await app.session_id(row)))
    assert (row.status, row.finish, row.content) == ("completed", "stop", "Here after all.")
    costs = [m["info"]["cost"] for m in answers]
    assert row.cost == math.fsum(costs[1:])  # the summary's, too
    assert before.cost == costs[0]
    assert_replay_is(changes, message_json(row))
