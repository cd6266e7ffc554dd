"""``make bench``: run the comparisons, print tables, write the figures."""

from __future__ import annotations

import argparse
import asyncio
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.benchmarks.comparisons import COMPARISONS, Parts, Sizes
from tests.benchmarks.report import Report
from tests.support.postgres import postgres_server
from tests.support.valkey import valkey_server

# Enough to see that everything runs and has its name; the figures mean nothing.
TINY = Sizes(
    rounds=1,
    short_rounds=1,
    ingest=200,
    followers={"fanout100": 2},
    deliveries=1,
    turns={"turns500": 2},
    by_hand=["turns500"],
    seconds=0.2,
    replies={"1mb": 1000, "10mb": 2000},
    idle=2,
    brokers=["redis"],
    apart=2,
)


async def run(names: Sequence[str], sizes: Sizes) -> Report:
    """Run those comparisons."""
    report = Report()
    with (
        postgres_server() as postgres,
        valkey_server() as valkey,
        tempfile.TemporaryDirectory() as folder,
    ):
        parts = Parts(Path(folder), postgres, valkey.url)
        for name in names:
            await COMPARISONS[name](sizes, parts, report)
    return report


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks")
    parser.add_argument("names", nargs="*", help=f"of {', '.join(COMPARISONS)} (default: all)")
    parser.add_argument("--json", type=Path, help="a file for the figures, as one flat object")
    parser.add_argument("--tiny", action="store_true", help="only to see that everything runs")
    options = parser.parse_args()
    if unknown := set(options.names) - set(COMPARISONS):
        parser.error(f"there is no {', '.join(unknown)}")
    names = options.names or list(COMPARISONS)
    report = asyncio.run(run(names, TINY if options.tiny else Sizes()))
    if options.json is not None:
        report.write(options.json)


if __name__ == "__main__":
    main()
