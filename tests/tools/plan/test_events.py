"""The event simulator against queueing theory and against invariants."""

import math

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.tools.plan.made import EXPONENTIAL, ONES, made
from tools.plan import events
from tools.plan.outcome import Outcome
from tools.plan.rules import Rules, Scale

PATIENT = Rules(pending=1e9)


def erlang_c(servers: int, load: float) -> float:
    """The share of arrivals that wait in M/M/c, as it stands in the books: sums of load^k / k!."""
    last = load**servers / math.factorial(servers) * servers / (servers - load)
    return last / (sum(load**k / math.factorial(k) for k in range(servers)) + last)


def poisson(rate: float, count: int, seed: int = 3) -> np.ndarray:
    return np.cumsum(np.random.default_rng(seed).exponential(1 / rate, count))


def run(arrivals: np.ndarray, instance: object, scale: Scale, rules: Rules = PATIENT, seed: int = 5) -> Outcome:
    seconds = float(arrivals[-1]) if len(arrivals) else 60.0
    return events.simulate(arrivals, seconds, instance, scale, rules, np.random.default_rng(seed))  # type: ignore[arg-type]


@pytest.mark.parametrize(("servers", "load"), [(1, 0.5), (1, 0.8), (3, 2.1), (8, 6.0)])
def test_with_one_request_an_instance_the_wait_is_that_of_m_m_c(servers: int, load: float) -> None:
    """c instances of concurrency 1 behind one queue are M/M/c: mean wait = C(c, a) / (c µ - λ)."""
    rate = 10.0
    outcome = run(poisson(rate * load, 50_000), made(1, rate, rate, work=EXPONENTIAL), Scale(servers, servers))
    waited = outcome.mean_latency - 1 / rate
    assert waited == pytest.approx(erlang_c(servers, load) / (servers * rate - rate * load), rel=0.1)


@pytest.mark.parametrize("load", [0.3, 0.6, 0.8])
def test_equal_requests_wait_as_in_m_d_1(load: float) -> None:
    """M/D/1: mean wait = ρ s / (2 (1 - ρ))."""
    outcome = run(poisson(10 * load, 50_000), made(1, 10, 10), Scale(1, 1))
    assert outcome.mean_latency - 0.1 == pytest.approx(load * 0.1 / (2 * (1 - load)), rel=0.08)


@pytest.mark.parametrize("work", [ONES, EXPONENTIAL], ids=["equal", "exponential"])
def test_requests_that_share_an_instance_take_the_mean_of_processor_sharing(work: np.ndarray) -> None:
    """M/G/1 with processor sharing: mean = s / (1 - ρ)."""
    outcome = run(poisson(7, 50_000), made(1000, 10, 10, work=work), Scale(1, 1))
    assert outcome.mean_latency == pytest.approx(0.1 / (1 - 0.7), rel=0.08)


def test_an_instance_of_several_cores_is_m_m_c_in_the_mean() -> None:
    """Rates min(n, c) µ make the same birth and death process as c servers: mean = 1/µ + C / (c µ - λ)."""
    outcome = run(poisson(21, 50_000), made(1000, 10, 30, work=EXPONENTIAL), Scale(1, 1))
    assert outcome.mean_latency == pytest.approx(0.1 + erlang_c(3, 2.1) / (30 - 21), rel=0.08)


def test_little_s_law_and_utilization() -> None:
    outcome = run(poisson(5, 50_000), made(1, 10, 10), Scale(1, 1), Rules(pending=1e9, quantum=1e-6))
    assert outcome.active / outcome.seconds == pytest.approx(0.5, rel=0.02)
    assert outcome.idle_least / outcome.seconds == pytest.approx(0.5, rel=0.02)


CASES = [
    # arrivals                             concurrency  cold  starts  active  lifetime
    ([0.0],                                1,           1,    1,      0.1,    1.5 + 900),  # stays for 15 minutes
    ([0.0, 100.0],                         1,           1,    1,      0.2,    100 + 900),
    ([0.0, 2000.0],                        1,           2,    2,      0.2,    2 * (1.5 + 900)),
    ([0.0, 0.0, 0.0, 0.0, 0.0],            2,           5,    3,      None,   None),  # three instances for five
    ([0.0, 0.0, 0.0, 0.0],                 4,           4,    1,      0.1,    None),
    ([0.0, 10.0, 10.02, 10.04, 10.06],     1,           1,    1,      0.2,    None),  # 10 ms each, billed together
]  # fmt: skip


@pytest.mark.parametrize(("arrivals", "concurrency", "cold", "starts", "active", "lifetime"), CASES)
def test_small_cases_match_a_hand_calculation(
    arrivals: list[float], concurrency: int, cold: int, starts: int, active: float | None, lifetime: float | None
) -> None:
    outcome = events.simulate(
        np.array(arrivals), 5000.0, made(concurrency, 100, 100), Scale(), Rules(), np.random.default_rng(1)
    )
    assert (outcome.cold, outcome.starts, outcome.refused) == (cold, starts, 0)
    if active is not None:
        assert outcome.active == pytest.approx(active)
    if lifetime is not None:
        assert outcome.lifetime == pytest.approx(lifetime, abs=5.1 * outcome.starts)  # looked at every 5 s


def test_the_autoscaler_brings_cpu_down_to_its_target() -> None:
    """50 requests/s of 20 ms CPU each are 1 vCPU: at 60 % of each, two instances, though one has room for all."""
    outcome = run(poisson(50, 50 * 600), made(100, 50, 100, cpu=0.02), Scale(1, 100), Rules())
    assert outcome.peak == 2


def test_the_autoscaler_brings_concurrency_down_to_its_target() -> None:
    """60 requests/s of 100 ms are 6 at a time: of 4 an instance and 60 % of each, three instances and no more."""
    outcome = run(poisson(60, 60 * 600), made(4, 10, 1000), Scale(3, 100), Rules())
    assert outcome.timeline.instances[-1] >= 3
    assert run(poisson(60, 60 * 600), made(100, 10, 1000), Scale(1, 100), Rules()).peak == 1


def test_a_request_that_waits_too_long_is_refused() -> None:
    """One instance for 20 requests/s, of which it answers 10: after ten seconds half are refused."""
    outcome = run(poisson(20, 12_000), made(1, 10, 10), Scale(1, 1), Rules())
    assert outcome.refused / outcome.requests == pytest.approx(0.5, abs=0.02)
    assert outcome.percentile(1.0) <= 10.3


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    gaps=st.lists(st.floats(0, 30) | st.floats(0, 0.05), max_size=80),
    concurrency=st.integers(1, 5),
    least=st.integers(0, 2),
    most=st.integers(2, 6),
    start=st.floats(0.01, 12),
    speed=st.floats(0.3, 200),
)
def test_every_request_is_answered_or_refused_once(
    gaps: list[float], concurrency: int, least: int, most: int, start: float, speed: float
) -> None:
    arrivals = np.cumsum(np.array(gaps, dtype=float))
    scale = Scale(least, most, least)
    outcome = run(arrivals, made(concurrency, speed, 2 * speed, cpu=0.001, start=start), scale, Rules())
    assert outcome.answered + outcome.refused == outcome.requests == len(gaps)
    assert outcome.timeline.latency.sum() == outcome.answered
    assert 0 <= outcome.cold <= outcome.answered
    assert least <= outcome.peak <= most
    assert outcome.starting == pytest.approx(start * outcome.starts)
    assert outcome.active <= outcome.lifetime + 0.11 * (outcome.answered + 1)
    assert outcome.timeline.instances.sum() * outcome.timeline.seconds == pytest.approx(
        outcome.lifetime, rel=1e-6, abs=1e-6
    )
    assert outcome.idle_least <= least * outcome.seconds + 1e-6
