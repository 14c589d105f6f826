"""What the repository promises about speed and memory, as ratios of medians; and whether it holds."""

from collections.abc import Callable
from dataclasses import dataclass
from operator import ge, le

MODEL = "mlp"  # budgets are promised for the small model, one row a request


@dataclass(frozen=True)
class Budget:
    subject: str
    measure: str
    holds: Callable[[float, float], bool]
    limit: float
    of: str  # the subject it is compared with


# fmt: off
BUDGETS = (
    Budget("ours", "start_seconds",       le, 1 / 3.5, "naive"),
    Budget("ours", "start_seconds",       le, 2.0,     "floor"),
    Budget("ours", "private_mb",          le, 1 / 3,   "naive"),
    Budget("ours", "requests_per_second", ge, 1.8,     "naive"),
    Budget("ours", "requests_per_second", ge, 0.75,    "constant"),
    Budget("ours_quick", "requests_per_second", ge, 0.75, "constant"),
    Budget("fast", "start_seconds",       le, 1 / 4,   "naive"),
    Budget("fast", "start_seconds",       le, 1.5,     "floor"),
    Budget("fast", "private_mb",          le, 1 / 3,   "naive"),
    Budget("fast", "requests_per_second", ge, 9.0,     "naive"),
    Budget("fast", "requests_per_second", ge, 0.4,     "two_bytes"),
    Budget("fast", "requests_per_second", ge, 1.25,    "mosec"),
    Budget("fast", "p50_ms",              le, 1 / 5,   "naive"),
    Budget("quick", "requests_per_second", ge, 9.0,    "naive"),
    Budget("quick", "requests_per_second", ge, 0.4,    "two_bytes"),
    Budget("quick", "requests_per_second", ge, 1.25,   "mosec"),
    Budget("baked", "requests_per_second", ge, 0.4,    "two_bytes"),
    Budget("quick", "p50_ms",             le, 1 / 5,   "naive"),
    Budget("bound", "start_seconds",      le, 1 / 6.5, "naive"),
    Budget("bound", "private_mb",         le, 1 / 3,   "naive"),
    Budget("baked", "start_seconds",      le, 1 / 8,   "naive"),
)
# fmt: on

Medians = dict[str, dict[str, float]]  # subject → measure → median


@dataclass(frozen=True)
class Verdict:
    budget: Budget
    ratio: float | None  # None: the other subject was not measured

    @property
    def word(self) -> str:
        if self.ratio is None:
            return "not measured"
        return "met" if self.budget.holds(self.ratio, self.budget.limit) else "MISSED"


def verdicts(medians: Medians) -> list[Verdict]:
    """Judge each budget whose subject was measured."""
    return [
        Verdict(budget, ratio(medians, budget.subject, budget.measure, budget.of))
        for budget in BUDGETS
        if budget.subject in medians
    ]


def ratio(medians: Medians, subject: str, measure: str, of: str) -> float | None:
    value, reference = (medians.get(name, {}).get(measure) for name in (subject, of))
    return value / reference if value is not None and reference else None
