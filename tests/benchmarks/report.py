"""Peers that take turns, what is made of their figures, and how that is shown."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from statistics import median

Figures = dict[str, float]
Measure = Callable[[], Awaitable[Figures]]

# What is to be reached: at least or at most that.
AT_LEAST = {
    "ingest_vs_sdk": 12,
    "ingest_vs_limit": 0.35,
    "fanout100_vs_sse_starlette": 6,
    "fanout100_vs_raw_asgi": 0.5,
}
AT_MOST = {
    "turns500_p99_vs_relay": 3,
    "turns500_lost": 0,
    "turns500_upstream_connections": 1,
    "db_bytes_10mb_vs_1mb": 12,
    "db_cpu_10mb_vs_1mb": 12,
    "follower_kb": 30,
}


async def interleaved(rounds: int, peers: Mapping[str, Measure]) -> dict[str, Figures]:
    """The median of each figure of each peer; in every round each of them has its turn."""
    measured: dict[str, list[Figures]] = {peer: [] for peer in peers}
    for _ in range(rounds):
        for peer, measure in peers.items():
            measured[peer].append(await measure())
    return {
        peer: {name: median(one[name] for one in each) for name in each[0]}
        for peer, each in measured.items()
    }


class Report:
    """Prints what is measured, and keeps it under flat names."""

    def __init__(self) -> None:
        self.figures: Figures = {}

    def table(self, title: str, rows: Mapping[str, Figures]) -> None:
        """Print a table of peers, one a line."""
        print(f"\n{title}")
        columns = list(next(iter(rows.values())))
        print(f"  {'':24}" + "".join(f"{column:>22}" for column in columns))
        for peer, figures in rows.items():
            print(f"  {peer:24}" + "".join(f"{shown(figures[c]):>22}" for c in columns))

    def note(self, key: str, value: float) -> None:
        """Keep a figure and print it, with what is to be reached."""
        self.figures[key] = value
        print(f"  {key:45} {shown(value):>12}  {verdict(key, value)}", flush=True)

    def write(self, path: Path) -> None:
        """Write all figures as one JSON object."""
        path.write_text(json.dumps(self.figures, indent=2) + "\n")


def shown(value: float) -> str:
    """The figure with three digits that say something."""
    return f"{value:,.0f}" if abs(value) >= 100 or value == int(value) else f"{value:.3g}"


def verdict(key: str, value: float) -> str:
    """Whether what is to be reached was."""
    if (least := AT_LEAST.get(key)) is not None:
        return f"≥ {least}: {'reached' if value >= least else 'MISSED'}"
    if (most := AT_MOST.get(key)) is not None:
        return f"≤ {most}: {'reached' if value <= most else 'MISSED'}"
    return ""
