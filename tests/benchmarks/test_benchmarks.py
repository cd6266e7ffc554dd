"""The benchmarks run; how fast anything is, no test says."""

from __future__ import annotations

import pytest

from tests.benchmarks.__main__ import TINY, run
from tests.benchmarks.comparisons import COMPARISONS
from tests.benchmarks.report import AT_LEAST, AT_MOST


@pytest.mark.slow("starts thirty processes, one after the other")
@pytest.mark.timeout(300)
async def test_each_comparison_gives_its_figures_and_nothing_is_lost() -> None:
    figures = (await run(list(COMPARISONS), TINY)).figures
    assert AT_LEAST.keys() | AT_MOST.keys() <= figures.keys()
    assert all(figures[key] == 0 for key in figures if key.endswith("_lost"))
    assert figures["turns500_upstream_connections"] == 1
    assert (
        figures["turns500_upstream_bytes_per_turn_by_hand"]
        > figures["turns500_upstream_bytes_per_turn"]
    )
