"""The fluid simulator against the event simulator, where both can be run."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tools.plan.made import made
from tools.plan import events, fluid, traffic
from tools.plan.cost import BY_REQUEST, cost, read
from tools.plan.cost import DEFAULT as PRICES
from tools.plan.measured import Instance
from tools.plan.outcome import Outcome
from tools.plan.plan import begins, steady_rate
from tools.plan.rules import Rules, Scale

# fmt: off
CASES = {
    "constant":   (traffic.constant(50, 1800),             made(8, 50, 100, cpu=0.01),  Scale(0, 100)),
    "concurrent": (traffic.constant(100, 1200),            made(8, 10, 100, cpu=0.01),  Scale(0, 100)),
    "diurnal":    (traffic.diurnal(2, 4, 86400),           made(4, 50, 100, cpu=0.01),  Scale(0, 100)),
    "busy":       (traffic.constant(400, 300),             made(4, 20, 40, cpu=0.02),   Scale(0, 100)),
    "bursts":     (traffic.bursts(1, 200, 60, 1200, 3600), made(8, 50, 100, cpu=0.01),  Scale(0, 100)),
    "kept":       (traffic.bursts(1, 200, 60, 1200, 3600), made(8, 50, 100, cpu=0.01),  Scale(2, 100)),
    "overload":   (traffic.constant(100, 600),             made(8, 10, 80, cpu=0.01),   Scale(1, 1)),
}
# fmt: on


def both(shape: traffic.Traffic, instance: Instance, scale: Scale) -> tuple[Outcome, Outcome]:
    rules, random, steady = Rules(), np.random.default_rng(11), steady_rate(shape)
    scale = begins(shape, instance, scale, rules)
    arrivals = shape.arrivals(random)
    discrete = events.simulate(arrivals, shape.seconds, instance, scale, rules, random, steady)
    return discrete, fluid.simulate(shape.rates, instance, scale, rules, steady)


@pytest.mark.parametrize("case", CASES)
def test_both_simulators_agree(case: str) -> None:
    shape, instance, scale = CASES[case]
    discrete, stream = both(shape, instance, scale)
    assert stream.requests == pytest.approx(discrete.requests, rel=0.03)
    assert stream.answered == pytest.approx(discrete.answered, rel=0.03)
    assert stream.refused == pytest.approx(discrete.refused, rel=0.05)
    assert stream.active == pytest.approx(discrete.active, rel=0.12)
    assert stream.mean_instances == pytest.approx(discrete.mean_instances, rel=0.3)
    assert stream.cold / stream.answered == pytest.approx(discrete.cold / discrete.answered, rel=0.3, abs=0.001)
    assert stream.mean_latency == pytest.approx(discrete.mean_latency, rel=0.12)
    # The stream gives a request for all of its stay the company that it found, so high percentiles come out higher
    assert stream.percentile(0.5) == pytest.approx(discrete.percentile(0.5), rel=0.2)
    assert 0.85 * discrete.percentile(0.95) <= stream.percentile(0.95) <= 1.5 * discrete.percentile(0.95)
    prices = read(PRICES, "1")
    ours = [cost(outcome, 1, 1024, True, prices, BY_REQUEST).million for outcome in (discrete, stream)]
    assert ours[1] == pytest.approx(ours[0], rel=0.12)


def test_a_day_at_a_million_requests_a_second_needs_1667_instances() -> None:
    """1 ms of CPU a request: a million a second are 1,000 vCPUs, at 60 % of each 1,667 instances of one."""
    instance = made(16, 1000, 1000, cpu=0.001)
    shape = traffic.constant(1e6, 86400)
    outcome = fluid.simulate(shape.rates, instance, begins(shape, instance, Scale(0, 5000), Rules()), Rules(), 1e6)
    assert outcome.requests == pytest.approx(86400e6)
    assert outcome.mean_instances == pytest.approx(1667, rel=0.01)
    assert outcome.refused == 0
    assert outcome.percentile(0.99) < 0.01


def test_too_few_instances_refuse_the_excess() -> None:
    outcome = fluid.simulate(
        traffic.constant(1e6, 600).rates, made(16, 1000, 1000, cpu=0.001), Scale(500, 500), Rules()
    )
    assert outcome.answered / outcome.requests == pytest.approx(0.5, abs=0.02)


@settings(max_examples=20, deadline=None)
@given(
    rates=st.lists(st.sampled_from([0.0, 0.01, 1.0, 30.0, 2000.0, 1e6]), min_size=1, max_size=12),
    concurrency=st.integers(1, 20), least=st.integers(0, 3), most=st.integers(3, 2000), start=st.floats(0.1, 8),
)  # fmt: skip
def test_every_request_is_counted_once(
    rates: list[float], concurrency: int, least: int, most: int, start: float
) -> None:
    shape = np.repeat(rates, 160)  # 40 seconds each
    outcome = fluid.simulate(shape, made(concurrency, 50, 400, cpu=0.002, start=start), Scale(least, most), Rules())
    assert outcome.requests == pytest.approx(shape.sum() * traffic.STEP)
    assert outcome.answered + outcome.refused == pytest.approx(outcome.requests, rel=1e-6, abs=1e-6)
    assert outcome.timeline.latency.sum() == pytest.approx(outcome.answered, rel=1e-6, abs=1e-6)
    assert outcome.cold <= outcome.answered * (1 + 1e-9)
    assert outcome.peak <= max(most, least)
    assert outcome.active <= outcome.lifetime * 1.001 + 0.2 * most
