"""How long the library waits for what."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Timings:
    """How long the library waits, in seconds.

    ``lease``: how soon a dead worker's turn can be taken over; renewed three times in that time.
    ``accept``: for a prompt to appear in its session after it was posted (2.6 s for a server's very
    first, OpenCode 1.18.33, measured). ``reconnect``: for a lost server to come back in mid-turn.
    ``look``: of silence, before REST is asked whether anything was missed. ``settle``: for the last
    events after the session came to rest. ``stop``: for an abort to take effect. ``snapshot``:
    between two writes of a growing reply, more for a large one or where writing takes long.
    ``poll``: between two looks at a turn that runs in another process. ``ping``: of silence, before
    a follower is sent a comment, or half a second later.
    """

    lease: float = 30.0
    accept: float = 10.0
    reconnect: float = 30.0
    look: float = 15.0
    settle: float = 2.0
    stop: float = 10.0
    snapshot: float = 1.0
    poll: float = 1.0
    ping: float = 15.0
