"""Whether another machine's clock agrees with this one's."""

from __future__ import annotations

from opencode_async.cli.checks.finding import Finding

SKEW = 5.0  # s that clocks may differ: more than a file's date can be off


def check_clock(ahead: float, why: str, *, within: float = SKEW) -> Finding:
    """What it means that the other clock is so many seconds ahead; ``why`` it matters.

    ``within`` is how many it may be off either way.
    """
    if abs(ahead) <= within:
        return Finding("ok", "its clock agrees with this one")
    way = "ahead of" if ahead > 0 else "behind"
    return Finding(
        "warning", f"its clock is {abs(ahead):.2f} s {way} this one", f"set both by NTP: {why}"
    )
