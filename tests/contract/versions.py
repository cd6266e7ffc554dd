"""Older OpenCode servers, and in what they are known not to do as the one an Impostor is like.

A scenario that is named here differs, for that reason, and no other one does. Of all of these
``session.next.*`` is left out, events of another engine, and in what REST says the ``summary`` of a
user's message while it is empty: it comes behind the turn's end.
"""

from __future__ import annotations

from collections.abc import Mapping

# What is compared besides the scenarios.
CRASH = "a crash"
OUT_OF_TIME = "a command that is out of time"

COMMAND = "a command's call has its description as its title, and in its metadata"
UNNAMED = "an ask does not name its command, its metadata is empty"
UNSHOWN = "what was read is not in the call's metadata"
SUBAGENT = "a subagent's session names no agent, and its prompt turns the tool `task` off"
COMPLETED = "a subagent that failed or was aborted counts as completed"
NO_RETRY = "an error in the middle of the model's stream ends the turn"
NOT_AGAIN = "an older prompt that is sent again is not answered a second time"

DIFFERING: Mapping[str, Mapping[str, str]] = {
    "1.17.19": {
        "posted_again": NOT_AGAIN,
        "stream_error_then_text": NO_RETRY,
        "subagent_failed": COMPLETED,
    },
    "1.15.13": {
        CRASH: COMMAND,
        OUT_OF_TIME: COMMAND,
        "abort_in_ask": UNNAMED,
        "abort_in_bash": COMMAND,
        "always": f"{UNNAMED}; {COMMAND}",
        "bash": COMMAND,
        "deleted": SUBAGENT,
        "disposed": "the turn that it aborts tells nothing any more",
        "edit": UNSHOWN,
        "merged": COMMAND,
        "other_directory": f"{UNNAMED}; {COMMAND}",
        "other_endings": "an answer that was filtered has a finish, but no error",
        "overflow": "behind a compaction the prompt comes as a reminder, another one to the model",
        "permission_corrected": UNNAMED,
        "permission_once": f"{UNNAMED}; {COMMAND}",
        "permission_rejected": UNNAMED,
        "places": f"a missing folder is an empty one, a binary file an empty text; {COMMAND}",
        "posted_again": f"{NOT_AGAIN}; {COMMAND}",
        "posted_again_when_aborted": COMMAND,
        "read": UNSHOWN,
        "read_folder": UNSHOWN,
        "several_steps": COMMAND,
        "stream_error_then_text": NO_RETRY,
        "subagent": SUBAGENT,
        "subagent_aborted": f"{COMPLETED}; {SUBAGENT}",
        "subagent_aborted_with_its_caller": f"{COMPLETED}; {SUBAGENT}",
        "subagent_failed": f"{COMPLETED}; {SUBAGENT}",
        "unknown_model": "the second error does not name the model",
    },
}
