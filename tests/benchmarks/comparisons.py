"""The comparisons: which peers bear which load, and which of their figures matter."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from tests.benchmarks import fanout, ingest, memory
from tests.benchmarks.database import written
from tests.benchmarks.processes import child
from tests.benchmarks.report import Figures, Report, interleaved
from tests.benchmarks.turns import turns
from tests.benchmarks.upstream import BURST, Load
from tests.support.brokers import Job
from tests.support.postgres import new_database

OURS = "opencode_async"
KEYS = {"sse-starlette": "sse_starlette", "fastapi.sse": "fastapi_sse", "limit": "raw_asgi"}
TENS = (1, 10, 100)
REPLIES = {"10kb": 10_000, "100kb": 100_000, "1mb": 1_000_000, "10mb": 10_000_000}
PACE = 20  # deltas per second of one turn


def sizes_of(key: str, *numbers: int) -> Mapping[str, int]:
    return {f"{key}{number}": number for number in numbers}


@dataclass(frozen=True)
class Sizes:
    """How much of everything, where it varies under the name of its figures."""

    rounds: int = 3
    short_rounds: int = 5  # of ingest and fan-out: what takes seconds varies by a factor of two
    ingest: int = 20_000
    followers: Mapping[str, int] = field(default_factory=lambda: sizes_of("fanout", *TENS, 1000))
    deliveries: int = 60_000  # events of a fan-out, over all followers
    turns: Mapping[str, int] = field(default_factory=lambda: sizes_of("turns", *TENS, 500))
    by_hand: Collection[str] = ("turns1", "turns10")  # more than that it does not bear
    seconds: float = 10
    replies: Mapping[str, int] = field(default_factory=lambda: REPLIES)
    idle: int = 5000
    brokers: Collection[str] = ("memory", "postgres", "redis")
    apart: int = 50  # turns that are followed in another process


@dataclass(frozen=True)
class Parts:
    """What is there to be used."""

    folder: Path
    postgres: str
    valkey: str


async def compare_ingest(sizes: Sizes, parts: Parts, report: Report) -> None:
    load = Load(sizes.ingest)
    async with child("upstream") as upstream:
        measured = await interleaved(
            sizes.short_rounds,
            {peer: partial(ingest.ingested, peer, upstream.url, load) for peer in ingest.PEERS},
        )
    report.table(f"Ingest: {sizes.ingest} deltas of one answer, in bursts of {BURST}", measured)
    rates = {peer: figures["deltas_per_cpu_second"] for peer, figures in measured.items()}
    report.note("ingest_per_cpu_second", rates[OURS])
    report.note("ingest_vs_sdk", rates[OURS] / rates["opencode-ai"])
    report.note("ingest_vs_limit", rates[OURS] / rates["limit"])


async def compare_fanout(sizes: Sizes, parts: Parts, report: Report) -> None:
    for key, number in sizes.followers.items():
        bursts = min(max(2, sizes.deliveries // (number * BURST)), 200)
        measured = await interleaved(
            sizes.short_rounds,
            {
                peer: partial(fanout.fan_out, peer, parts.folder, number, bursts)
                for peer in fanout.PEERS
            },
        )
        report.table(f"Fan-out: {number} followers, {BURST} events at once, or one", measured)
        ours = measured[OURS]
        report.note(f"{key}_per_cpu_second", ours["in_bursts"])
        for peer, name in KEYS.items():
            theirs = measured[peer]
            report.note(f"{key}_vs_{name}", ours["in_bursts"] / theirs["in_bursts"])
            # Most of the time the events of one turn come one by one.
            report.note(f"{key}_one_by_one_vs_{name}", ours["one_by_one"] / theirs["one_by_one"])


async def compare_turns(sizes: Sizes, parts: Parts, report: Report) -> None:
    load = Load(int(sizes.seconds * PACE), per_second=PACE, waits=True)
    for key, number in sizes.turns.items():
        peers = [OURS, "limit", *(["by hand"] if key in sizes.by_hand else [])]
        measured = await interleaved(
            sizes.rounds, {peer: partial(_turns, parts, peer, number, load) for peer in peers}
        )
        report.table(f"{number} turns of {PACE} deltas per second, each followed", measured)
        ours = measured[OURS]
        for name in ("p50_ms", "p99_ms", "lost", "upstream_connections"):
            report.note(f"{key}_{name}", ours[name])
        report.note(f"{key}_cpu_us_per_delta", ours["cpu"] / number / load.deltas * 1e6)
        report.note(f"{key}_p99_vs_relay", ours["p99_ms"] / measured["limit"]["p99_ms"])
        report.note(f"{key}_upstream_bytes_per_turn", ours["upstream_bytes"] / number)
        if "by hand" in measured:
            per_turn = measured["by hand"]["upstream_bytes"] / number
            report.note(f"{key}_upstream_bytes_per_turn_by_hand", per_turn)


async def _turns(
    parts: Parts, peer: str, number: int, load: Load, broker: Job = None, *, processes: int = 1
) -> Figures:
    async with new_database(parts.postgres) as url:
        if broker is not None and broker[0] == "postgres":
            broker = "postgres", url
        return await turns(peer, number, load, url, json.dumps(broker), processes=processes)


async def compare_database(sizes: Sizes, parts: Parts, report: Report) -> None:
    async def measure(characters: int) -> Figures:
        async with new_database(parts.postgres) as url:
            return await written(url, upstream.url, characters)

    async with child("upstream") as upstream:
        measured = await interleaved(
            sizes.rounds, {size: partial(measure, n) for size, n in sizes.replies.items()}
        )
    report.table("Database: one turn, by the size of its reply", measured)
    for size, figures in measured.items():
        for name, value in figures.items():
            report.note(f"db_{name}_{size}", value)
    small, large = measured["1mb"], measured["10mb"]
    report.note("db_bytes_10mb_vs_1mb", large["bytes"] / small["bytes"])
    report.note("db_cpu_10mb_vs_1mb", large["cpu"] / small["cpu"])


async def compare_memory(sizes: Sizes, parts: Parts, report: Report) -> None:
    measured = await interleaved(
        sizes.rounds,
        {peer: partial(memory.idle, peer, parts.folder, sizes.idle) for peer in memory.PEERS},
    )
    report.table(f"Memory: each of {sizes.idle} idle followers", measured)
    for peer, figures in measured.items():
        key = "follower_kb" if peer == OURS else f"follower_kb_{KEYS[peer]}"
        report.note(key, figures["kb"])


async def compare_brokers(sizes: Sizes, parts: Parts, report: Report) -> None:
    load = Load(int(sizes.seconds * PACE), per_second=PACE, waits=True)
    jobs: dict[str, Job] = {
        "memory": None,
        "postgres": ("postgres", ""),
        "redis": ("redis", parts.valkey),
    }
    measured = await interleaved(
        sizes.rounds,
        {
            kind: partial(_turns, parts, OURS, sizes.apart, load, jobs[kind], processes=2)
            for kind in sizes.brokers
        },
    )
    report.table(f"Brokers: {sizes.apart} turns, followed in another process", measured)
    for kind, figures in measured.items():
        for name in ("p50_ms", "p99_ms", "lost"):
            report.note(f"broker_{kind}_{name}", figures[name])
        for name in ("cpu", "web_cpu"):
            per_delta = figures[name] / sizes.apart / load.deltas
            report.note(f"broker_{kind}_{name}_us_per_delta", per_delta * 1e6)


COMPARISONS = {
    "ingest": compare_ingest,
    "fanout": compare_fanout,
    "turns": compare_turns,
    "database": compare_database,
    "memory": compare_memory,
    "brokers": compare_brokers,
}
