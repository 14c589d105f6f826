"""Steady states against the formulas of queueing theory."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.tools.plan.test_events import erlang_c
from tools.plan.queueing import station


@pytest.mark.parametrize(("servers", "load"), [(1, 0.5), (2, 1.2), (8, 6.0), (60, 50.0)])
def test_with_one_request_an_instance_the_steady_state_is_m_m_c(servers: int, load: float) -> None:
    shares = station(10 * load, servers, np.array([0.0, 10.0]))
    assert shares.full == pytest.approx(erlang_c(servers, load), rel=1e-9)
    assert shares.idle == pytest.approx(1 - load / servers, rel=1e-9)


@pytest.mark.parametrize(("servers", "load"), [(1, 0.5), (5, 8.0), (40, 30.0)])
def test_without_a_queue_the_blocking_is_erlang_b(servers: int, load: float) -> None:
    blocked = (load**servers / math.factorial(servers)) / sum(load**k / math.factorial(k) for k in range(servers + 1))
    assert station(load, servers, np.array([0.0, 1.0]), waits=False).full == pytest.approx(blocked, rel=1e-9)


def test_one_shared_instance_is_m_m_1() -> None:
    shares = station(6.0, 1, np.minimum(np.arange(400) * 1e9, 10.0))
    assert shares.inside == pytest.approx(0.6 / 0.4, rel=1e-6)
    assert shares.seen[1:6] == pytest.approx([0.4 * 0.6**n for n in range(5)], rel=1e-6)


@given(st.floats(0.001, 1.5), st.integers(1, 3000), st.integers(1, 40), st.booleans())
def test_probabilities_are_between_0_and_1_and_sum_to_1(load: float, instances: int, limit: int, waits: bool) -> None:
    throughput = np.minimum(np.arange(limit + 1) * 3.0, 10.0)
    shares = station(load * instances * throughput[-1], instances, throughput, waits)
    assert shares.seen.sum() == pytest.approx(1)
    assert 0 <= shares.full <= 1
    assert 0 <= shares.idle <= 1
    assert shares.inside <= instances * limit + 1e-6


def test_the_steady_state_at_a_million_requests_a_second() -> None:
    shares = station(1e6, 10_000, np.array([0.0, 166.0]))
    assert shares.idle == pytest.approx(1 - 1e6 / 1.66e6, rel=1e-6)
