"""What OpenCode does when a conversation has become too long for its model: it has it summed up."""

from __future__ import annotations

from typing import Any

from opencode_async.testing.impostor.life import Life
from opencode_async.testing.impostor.model import Request
from opencode_async.testing.impostor.step import Step
from opencode_async.testing.impostor.store import chat

Json = dict[str, Any]
SUMMARIZE: Json = {"role": "system", "content": "You are a context summarization agent."}
GO_ON = (
    "The previous request exceeded the provider's size limit due to large media attachments. The "
    "conversation was compacted and media files were removed from context. If the user was asking "
    "about attached images or files, explain that the attachments were too large to process and "
    "suggest they try again with smaller or fewer files.\n\nContinue if you have next steps, or "
    "stop and ask for clarification if you are unsure how to proceed."
)


class Summary(Step):
    """The step that sums up; it has no tools."""

    def adapt(self) -> None:
        """See ``Step``."""
        self.info |= {"mode": "compaction", "agent": "compaction", "summary": True}

    def request(self) -> Request:
        """See ``Step``."""
        messages = self.life.world.store.messages(self.info["sessionID"])
        return Request(self.info["sessionID"], "", [SUMMARIZE, *chat(messages)], [], 0, own=True)


def ask_for_summary(life: Life, user: Json) -> Json:
    """Post what has the conversation summed up, in the user's name."""
    info = copy_of(life, user)
    life.put_message(info)
    part = {"id": life.world.ids.new("prt"), "messageID": info["id"], "type": "compaction"}
    life.put_part({**part, "sessionID": user["sessionID"], "auto": True, "overflow": True})
    return info


def post_again(life: Life, user: Json) -> None:
    """Post the prompt as a new one; without an earlier turn to go back to, words of OpenCode's."""
    store, session_id = life.world.store, user["sessionID"]
    messages = store.messages(session_id)
    ids = [message["info"]["id"] for message in messages]
    earlier = any(m["info"].get("finish") == "stop" for m in messages[: ids.index(user["id"])])
    info = copy_of(life, user)
    life.put_message(info)
    now = life.world.ms()
    synthetic = {"metadata": {"compaction_continue": True}, "synthetic": True, "text": GO_ON}
    own: list[Json] = [{"type": "text", **synthetic, "time": {"start": now, "end": now}}]
    given = store.message(session_id, user["id"])["parts"]
    for part in given if earlier else own:
        fresh = {"id": life.world.ids.new("prt"), "messageID": info["id"]}
        life.put_part({**part, **fresh, "sessionID": session_id})
    life.emit(session_id, "session.compacted", {})


def copy_of(life: Life, user: Json) -> Json:
    """A user message like that one, of now."""
    kept = {key: user[key] for key in ("role", "sessionID", "agent", "model")}
    return {**kept, "id": life.world.ids.new("msg"), "time": {"created": life.world.ms()}}
