"""Recordings of the real server, played."""

from __future__ import annotations

from pathlib import Path

import pytest

from opencode_async import OpencodeClient, PartDelta
from opencode_async.testing import Impostor
from tests.protocol.recording import RECORDINGS
from tests.testing.impostor.saying import answered, tools


async def test_a_recorded_answer_is_given_again(
    impostor: Impostor, client: OpencodeClient, tmp_path: Path
) -> None:
    impostor.play(RECORDINGS / "tool_edit.jsonl")
    message, seen = await answered(client, 'SCRIPT:edit {"path":"notes.txt"}')
    assert message["status"] == "completed"
    assert [tool["tool"] for tool in tools(message)] == ["read", "edit"]
    assert tools(message)[1]["metadata"]["filediff"]["file"] == "/workspace/notes.txt"
    assert not (tmp_path / "notes.txt").exists()  # told, not run
    assert message["content"].endswith("Finished edit after 2 tool result(s).")
    # As recorded, in deltas; those that come together are told as one.
    words = "".join(change.delta for change in seen if isinstance(change, PartDelta))
    assert words.endswith("Finished edit after 2 tool result(s).")
    assert message["cost"] == pytest.approx(8.6e-05 + 8.6e-05 + 9.4e-05)


async def test_a_recorded_subagent_answers(impostor: Impostor, client: OpencodeClient) -> None:
    impostor.play(RECORDINGS / "subagent_task.jsonl")
    prompt = 'SCRIPT:task {"prompt":"SCRIPT:bash {\\"command\\":\\"echo child\\"}"}'
    message, _ = await answered(client, prompt)
    assert [tool["tool"] for tool in tools(message)] == ["task", "bash"]
    assert tools(message)[1]["output"] == "child\n"
    assert message["content"].endswith("Finished task after 1 tool result(s).")


async def test_recorded_endings(impostor: Impostor, client: OpencodeClient) -> None:
    for name in ("finish_length_contentfilter_empty", "provider_error_401"):
        impostor.play(RECORDINGS / f"{name}.jsonl")
    ends = {
        "SCRIPT:length": ("completed", "length"),
        "SCRIPT:contentfilter": ("error", "content_filter"),
        "SCRIPT:empty": ("completed", "stop"),
        "SCRIPT:error401": ("error", None),
    }
    for prompt, end in ends.items():
        message, _ = await answered(client, prompt)
        assert (message["status"], message["finish"]) == end, prompt


async def test_what_was_not_recorded_is_echoed(impostor: Impostor, client: OpencodeClient) -> None:
    impostor.play(RECORDINGS / "tool_edit.jsonl")
    assert (await answered(client, "else"))[0]["content"] == "You said: else"
