"""What the repository promises about speed and memory, as ratios of medians of one run; and whether it holds."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from operator import ge, le

Medians = Mapping[str, Mapping[str, float]]  # subject → measure → median


@dataclass(frozen=True)
class Budget:
    subject: str
    measure: str
    holds: Callable[[float, float], bool]
    limit: float
    of: str  # the subject that it is compared with
    model: str = "mlp"
    of_model: str = ""  # the same model, unless this names another


# fmt: off
BUDGETS = (
    # From source, on functions-framework.
    Budget("ours",        "start_seconds",          le, 1 / 4.5, "naive"),
    Budget("ours",        "private_mb",             le, 1 / 3,   "naive"),
    Budget("ours",        "requests_per_second@16", ge, 2.0,     "constant"),
    Budget("ours_python", "requests_per_second@16", ge, 1.8,     "naive"),
    Budget("ours_baked",  "start_seconds",          le, 1 / 6,   "naive"),
    # On our server.
    Budget("fast",        "start_seconds",          le, 1.0,     "litert"),
    Budget("fast",        "start_seconds",          le, 1.5,     "floor"),
    Budget("fast",        "private_mb",             le, 1 / 3,   "naive"),
    Budget("fast",        "requests_per_second@16", ge, 9.0,     "naive"),
    Budget("fast",        "requests_per_second@16", ge, 1.25,    "mosec"),
    Budget("fast",        "load_p99_ms@16",         le, 1.0,     "mosec"),
    Budget("fast",        "p50_ms",                 le, 1 / 5,   "naive"),
    Budget("fast",        "requests_per_second@16", ge, 1.0,     "unbatched"),
    Budget("batching",    "requests_per_second@16", ge, 1.0,     "unbatched"),
    Budget("batching",    "requests_per_second@16", ge, 1.2,     "mosec", model="digits"),
    Budget("batching",    "requests_per_second@16", ge, 3.0,     "unbatched", model="dense"),
    # 16 rows together take the transformer itself 1/1.5 of their time alone (bench.batches): more cannot be expected.
    Budget("batching",    "requests_per_second@16", ge, 1.5,     "unbatched", model="transformer"),
    # Baked, and the light twin.
    Budget("baked",       "start_seconds",          le, 0.65,    "litert"),
    Budget("baked",       "start_seconds",          le, 1.3,     "baked", model="mobilenet", of_model="mlp"),
    Budget("baked",       "requests_per_second@16", ge, 0.4,     "two_bytes"),
    Budget("twin",        "start_seconds",          le, 0.5,     "litert"),
    Budget("twin",        "requests_per_second@16", ge, 9.0,     "naive"),
    Budget("twin",        "requests_per_second@16", ge, 1.3,     "twin_python"),
)
# fmt: on


@dataclass(frozen=True)
class Verdict:
    budget: Budget
    ratio: float | None  # None: one of the two was not measured

    @property
    def word(self) -> str:
        if self.ratio is None:
            return "not measured"
        return "met" if self.budget.holds(self.ratio, self.budget.limit) else "MISSED"


def verdicts(medians: Mapping[str, Medians]) -> list[Verdict]:
    """Judge each budget from the medians of each model; a budget whose model was not measured is left out."""
    return [
        Verdict(budget, _ratio(medians, budget))
        for budget in BUDGETS
        if budget.model in medians and (budget.of_model or budget.model) in medians
    ]


def _ratio(medians: Mapping[str, Medians], budget: Budget) -> float | None:
    value = medians[budget.model].get(budget.subject, {}).get(budget.measure)
    reference = medians[budget.of_model or budget.model].get(budget.of, {}).get(budget.measure)
    return value / reference if value is not None and reference else None
