"""The schema that the API documents has what it answers with."""

from __future__ import annotations

from opencode_async import Part, ReasoningPart, TextPart
from opencode_async.protocol.tool_display import with_display
from opencode_async.web.schemas import AgentPart, AgentToolDisplay
from tests.protocol.tool_calls import recorded_calls


def test_every_part_of_the_recordings_is_as_documented() -> None:
    parts: list[Part] = [
        TextPart("prt_1", "Hi"),
        ReasoningPart("prt_2", "Hm.", "ses_1"),
        *recorded_calls(),
    ]
    fields = set[str]()
    for part in parts:
        shown = with_display(part.to_json())
        assert AgentPart.model_validate(shown).model_dump(exclude_unset=True) == shown
        fields |= set(shown)
    assert fields == set(AgentPart.model_fields)
    assert list(shown["display"]) == list(AgentToolDisplay.model_fields)
