"""The platform's prices for instance-seconds and requests.

Billing by request: an instance costs while it starts and while it has a request; those of the minimum number of
instances cost the idle price without a request. Billing by instance: it costs from its start to its end, and requests
are free. While an instance starts with the CPU boost, the boosted CPU is billed.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tools.plan import PlanError
from tools.plan.outcome import Outcome
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
    try:
        prices = json.loads(path.read_bytes())
    except OSError as error:
        raise PlanError(f"--prices: {path}: {error.strerror}") from None
    except ValueError:
        raise PlanError(f"--prices: {path}: expected JSON in the form of tools/plan/prices.json") from None

    def get(*keys: str) -> Any:
        value = prices
        for depth, key in enumerate(keys, 1):
            if not isinstance(value, dict) or key not in value:
                raise PlanError(f"--prices: {path}: expected the key {'.'.join(keys[:depth])}, which is missing")
            value = value[key]
        return value

    def number(*keys: str) -> float:
        value = get(*keys)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 1e12:
            raise PlanError(f"--prices: {path}: {'.'.join(keys)}: expected a number from 0 up, got {value!r}")
        return float(value)

    tiers = get("tiers")
    if not isinstance(tiers, dict) or tier not in tiers:
        raise PlanError(f"--tier: expected one of {', '.join(tiers)}, the tiers of {path.name}, got {tier}")
    units = {kind: {key: number("tiers", tier, kind, key) for key in keys} for kind, keys in NEEDED.items()}
    free = {
        kind: {
            key: number("free_each_month", kind, key) * number("tiers", "1", kind, key)
            for key in get("free_each_month", kind)
        }
        for kind in NEEDED
    }
    date = tiers[tier].get("date", get("date"))  # a tier may be of another date
    return Prices(str(date), str(get("currency")), str(get("source")), tier, units, free)


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
    month_free: float  # the payment after the free use


def cost(outcome: Outcome, cpu: int, memory: int, boost: bool, prices: Prices, billing: str) -> Cost:
    """Return the cost of a simulation with `cpu` vCPUs and `memory` MiB for each instance."""
    units, free = prices.units[billing], prices.free[billing]
    gib, start_cpu = memory / 1024, SIZES[cpu][2] if boost else cpu
    warm = outcome.active if billing == BY_REQUEST else outcome.lifetime - outcome.starting
    paid = {
        "cpu_second": (outcome.starting * start_cpu + warm * cpu) * units["cpu_second"],
        "gib_second": (outcome.starting + warm) * gib * units["gib_second"],
        "million_requests": outcome.answered / 1e6 * units.get("million_requests", 0.0),
    }
    idle = 0.0
    if billing == BY_REQUEST:
        idle = outcome.idle_least * (cpu * units["idle_cpu_second"] + gib * units["idle_gib_second"])
    total, month = sum(paid.values()) + idle, MONTH / outcome.seconds
    month_free = idle * month + sum(max(0.0, part * month - free.get(key, 0.0)) for key, part in paid.items())
    million = total / outcome.answered * 1e6 if outcome.answered else float("nan")
    cpu_cost, memory_cost, requests = paid.values()
    return Cost(cpu_cost, memory_cost, requests, idle, total, million, total * month, month_free)
