"""Whether another machine's clock agrees with this one's."""

from __future__ import annotations

from opencode_async.cli.checks.finding import Finding

SKEW = 5.0  # s that clocks may differ: more than a file's date can be off


def check_clock(seconds: float, why: str) -> Finding:
    """What it means that the other clock is off by so many; ``why`` it matters."""
    off = abs(seconds)
    if off <= SKEW:
        return Finding("ok", "its clock agrees with this one")
    what = f"its clock differs from this one by {off:.0f} s"
    return Finding("warning", what, f"set both by NTP: {why}")
