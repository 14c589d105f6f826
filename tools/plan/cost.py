"""What the platform asks for instance-seconds and requests.

By request: an instance costs while it starts and while a request is in it; of the least number of instances, those
without a request cost the idle price. By instance: it costs from its start to its end, and requests cost nothing.
While an instance starts with the CPU boost, the boosted CPU is what is paid.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tools.plan.outcome import Outcome
from tools.plan.problem import PlanError
from tools.plan.rules import SIZES

DEFAULT = Path(__file__).parent / "prices.json"
MONTH = 30 * 86400.0  # seconds
BY_REQUEST, BY_INSTANCE = "request", "instance"
NEEDED = {
    BY_REQUEST: ("cpu_second", "gib_second", "idle_cpu_second", "idle_gib_second", "million_requests"),
    BY_INSTANCE: ("cpu_second", "gib_second"),
}


@dataclass(frozen=True)
class Prices:
    """Prices of one tier and the monthly free use, which is a discount at the prices of tier 1."""

    date: str
    currency: str
    source: str
    tier: str
    units: dict[str, dict[str, float]]  # by billing
    free: dict[str, dict[str, float]]  # by billing: money a month


def read(path: Path, tier: str) -> Prices:
    """Read a price file; raise PlanError naming the key that is missing or wrong."""
    source = f"--prices: {path}"
    try:
        prices = json.loads(path.read_bytes())
    except OSError as error:
        raise PlanError(f"{source}: {error.strerror}") from None
    except ValueError:
        raise PlanError(f"{source}: expected JSON in the form of tools/plan/prices.json") from None

    def get(*keys: str) -> Any:
        value = prices
        for place_, key in enumerate(keys):
            if not isinstance(value, dict) or key not in value:
                raise PlanError(f"{source}: expected the key {'.'.join(keys[: place_ + 1])}, which is missing")
            value = value[key]
        return value

    def number(*keys: str) -> float:
        value = get(*keys)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 1e12:
            raise PlanError(f"{source}: {'.'.join(keys)}: expected a number from 0 up, got {value!r}")
        return float(value)

    tiers = get("tiers")
    if not isinstance(tiers, dict) or tier not in tiers:
        raise PlanError(f"--tier: expected one of {', '.join(tiers)}, the tiers of {path.name}, got {tier}")
    units = {kind: {key: number("tiers", tier, kind, key) for key in keys} for kind, keys in NEEDED.items()}
    free = {}
    for kind in NEEDED:
        amounts = get("free_each_month", kind)
        free[kind] = {key: number("free_each_month", kind, key) * number("tiers", "1", kind, key) for key in amounts}
    words = [str(get(key)) for key in ("date", "currency", "source")]
    words[0] = str(tiers[tier].get("date", words[0]))  # a tier may be of another one
    return Prices(words[0], words[1], words[2], tier, units, free)


@dataclass(frozen=True)
class Cost:
    """Money: for the whole simulated time by what it is for, a million answers, and a month with its free use."""

    cpu: float
    memory: float
    requests: float
    idle: float
    total: float
    million: float
    month: float
    month_free: float  # what is left to pay after the free use


def cost(outcome: Outcome, cpu: int, memory: int, boost: bool, prices: Prices, billing: str) -> Cost:
    """Return the cost of what was simulated, with `cpu` vCPUs and `memory` MiB an instance."""
    units, free = prices.units[billing], prices.free[billing]
    gib = memory / 1024
    start_cpu = SIZES[cpu][2] if boost else cpu
    warm = outcome.active if billing == BY_REQUEST else outcome.lifetime - outcome.starting
    cpu_cost = (outcome.starting * start_cpu + warm * cpu) * units["cpu_second"]
    memory_cost = (outcome.starting + warm) * gib * units["gib_second"]
    requests = outcome.answered / 1e6 * units.get("million_requests", 0.0)
    idle = 0.0
    if billing == BY_REQUEST:
        idle = outcome.idle_least * (cpu * units["idle_cpu_second"] + gib * units["idle_gib_second"])
    total = cpu_cost + memory_cost + requests + idle
    month = MONTH / outcome.seconds
    paid = (
        max(0.0, cpu_cost * month - free.get("cpu_second", 0.0))
        + max(0.0, memory_cost * month - free.get("gib_second", 0.0))
        + max(0.0, requests * month - free.get("million_requests", 0.0))
        + idle * month
    )
    million = total / outcome.answered * 1e6 if outcome.answered else float("nan")
    return Cost(cpu_cost, memory_cost, requests, idle, total, million, total * month, paid)
