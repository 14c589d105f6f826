"""The simulator against real servers that are started and stopped by the same rules: bench/plan_check.py, in short."""

import asyncio
import math

import pytest

from bench.plan_check import Platform, simulated
from tests.conftest import EMBEDDED
from tests.tools.plan.made import made
from tools.plan.measure import example
from tools.plan.rules import Rules, Scale

RULES = Rules(window=0.4, tick=0.2, idle=1.0, pending=100.0)


async def script(platform: Platform) -> None:
    """Ask out of the cold, warm, five at once with room for two, and again when everything has been stopped."""
    await platform.request()
    await platform.request()
    await asyncio.gather(*(platform.request() for _ in range(5)))
    await asyncio.gather(*platform.starting)
    await asyncio.sleep(0.1)
    await platform.request()
    while platform.running:
        await asyncio.sleep(0.05)
    await asyncio.sleep(1.0)  # more than starts differ by
    await asyncio.gather(*(platform.request() for _ in range(3)))


def test_real_servers_behave_as_simulated() -> None:
    # Far slower than the real ones, which does not change what is started or met
    scale, given = Scale(0, 3), made(2, 200, 200, cpu=0.001)
    record = asyncio.run(Platform(EMBEDDED, example(EMBEDDED), given, scale, RULES).play(script))
    expected = simulated(record, given, scale, RULES)
    assert len(record.arrivals) == expected.requests == 11
    assert not any(math.isnan(latency) for latency in record.latencies)
    assert expected.refused == 0
    # The first, and the three at the end with two instances; of the five, those without room find it before a start ends
    assert sum(record.cold) == expected.cold == 4
    assert len(record.starts) == expected.starts == 1 + 2 + 2
    assert expected.lifetime == pytest.approx(record.lifetime, rel=0.5)
    assert max(record.latencies) == pytest.approx(expected.percentile(1.0), rel=0.6)
