"""Permission rules in the one shape that OpenCode takes."""

from __future__ import annotations

from opencode_async.protocol.permissions import PermissionRule
from tests.protocol.recording import NAMES, recording


def test_a_rule_has_all_three_fields_on_the_wire() -> None:
    assert PermissionRule("bash", "*", "ask").to_json() == {
        "permission": "bash",
        "pattern": "*",
        "action": "ask",
    }


def test_it_is_the_shape_that_the_real_server_took_and_echoed() -> None:
    created = [
        row
        for name in NAMES
        for row in recording(name).rows
        if row.get("req") == "POST /session" and (row.get("body") or {}).get("permission")
    ]
    taken = [row for row in created if row["status"] == 200]
    assert taken
    for row in taken:
        for raw in row["body"]["permission"]:
            assert PermissionRule(**raw).to_json() == raw
            assert raw in row["answer"]["permission"]
    # An object, or rules with other keys, were refused.
    assert [row["status"] for row in created if row not in taken] == [400, 400]
