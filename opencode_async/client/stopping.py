"""Stopping what a session does, for good."""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from opencode_async.client.client import OpencodeClient

# s after a prompt in which an idle status says nothing (OpenCode 1.18.33, measured)
JUST_POSTED = 2.0
ABORT_AGAIN = 0.2  # s between two aborts of a session that is to stop


async def stop_session(client: OpencodeClient, session_id: str, *, begun: bool) -> None:
    """Abort a session, its subagents first, until it is at rest.

    Unless its answer has ``begun``, it is aborted for two seconds: an abort before the model is
    called stops nothing, and until then the session's status does not say that it is at work
    (OpenCode 1.18.33, measured).
    """
    now = asyncio.get_running_loop().time
    since = -math.inf if begun else now()
    while True:
        await client.abort_tree(session_id)
        if now() - since >= JUST_POSTED and not await client.busy(session_id):
            return
        await asyncio.sleep(ABORT_AGAIN)
