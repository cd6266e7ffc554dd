"""What every broker does, told by the suite that the library gives to its users."""

from __future__ import annotations

import pytest

from opencode_async.brokers.broker import EventBroker
from opencode_async.brokers.memory import MemoryBroker
from opencode_async.testing import check_event_broker, event_brokers
from opencode_async.testing.event_brokers import CHECKS, Check, run_check


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
async def test_the_brokers_conform(brokers: tuple[EventBroker, EventBroker], check: Check) -> None:
    await run_check(check, *brokers)


async def test_all_of_it_in_one_line() -> None:
    broker = MemoryBroker()
    await check_event_broker(broker, broker)


async def test_two_brokers_that_know_nothing_of_each_other_do_not_conform(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(event_brokers, "WITHIN", 0.1)
    with pytest.raises(AssertionError, match="0 frames came in time"):
        await check_event_broker(MemoryBroker(), MemoryBroker())
