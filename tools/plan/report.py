"""A plan as tables of text, and as JSON."""

import json
import math
from dataclasses import asdict
from typing import Any

import numpy as np

from tools.plan.cost import BY_INSTANCE
from tools.plan.outcome import percentile
from tools.plan.plan import Choice, Plan, Service

SHARES = {"p50": 0.5, "p95": 0.95, "p99": 0.99, "p99.9": 0.999}


def number(value: float) -> str:
    """Return three significant digits, and whole numbers whole."""
    if math.isnan(value):
        return "-"
    if value == 0 or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}" if abs(value) >= 0.001 else f"{value:.1g}"


def milliseconds(seconds: float) -> str:
    if math.isnan(seconds):
        return "-"
    return f"{number(seconds * 1000)} ms" if seconds < 10 else f"{number(seconds)} s"


def share(part: float, whole: float) -> str:
    """Return a percentage; few in many stay visible."""
    if not whole or not part:
        return "0 %"
    percent = 100 * part / whole
    return f"{percent:.2g} %" if percent < 10 else f"{percent:.0f} %"


def size(memory: int) -> str:
    """Return MiB as the platform writes it."""
    return f"{memory // 1024}Gi" if memory % 1024 == 0 else f"{memory}Mi"


def columns(rows: list[list[str]]) -> list[str]:
    """Return lines; the first column to the left, the others to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  ".join([row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:]))]).rstrip()
        for row in rows
    ]


def name(service: Service, plan: Plan) -> str:
    words = [f"min {service.least}", f"by {service.billing}"]
    if service.concurrency != plan.proposed.service.concurrency:
        words.append(f"concurrency {service.concurrency}")
    return ", ".join(words)


def command(service: Service) -> str:
    """Return how to deploy it."""
    workers = f" --env WORKERS={service.workers}" if service.workers > 1 else ""
    return (
        f"./deploy.sh container --memory {size(service.memory)} --cpu {service.cpu} "
        f"--concurrency {service.concurrency} --min {service.least} --max {service.most}{workers}"
    )


def as_text(plan: Plan) -> str:
    """Return the whole plan as tables."""
    measured, service, outcome = plan.measured, plan.proposed.service, plan.proposed.outcome
    alone = measured.loads[0]
    best = max(measured.loads, key=lambda load: load.requests_per_second)
    lines = [
        f"Model      {measured.model}, measured {measured.date}: {measured.machine}",
        f"           starts in {measured.start:.2f} s, {measured.start_cpu_seconds:.2f} CPU s; "
        f"{measured.peak_mib:.0f} MiB at its highest",
        f"           a request alone {number(1000 / alone.requests_per_second)} ms; one core answers "
        f"{best.requests_per_second:,.0f}/s with {best.concurrency} at a time",
        f"Traffic    {plan.traffic.label}; {plan.traffic.requests:,.0f} requests in {_hours(plan.traffic.seconds)}",
        f"Simulated  {outcome.simulator}; an instance is there {plan.start:.2f} s after it is asked for",
        "",
        f"Proposed   {command(service)}",
        *["           then: gcloud run services update SERVICE --no-cpu-throttling"] * (service.billing == BY_INSTANCE),
        f"           THREADS={service.concurrency} WORKERS={service.workers}, billed by {service.billing}",
        "",
        "Alternatives",
    ]
    rows = [["", "instances", "cold", "refused", *SHARES, "per million", "a month"]]
    rows += [_row(choice, plan) for choice in plan.choices]
    lines += columns(rows)
    lines += [
        f"{plan.prices.currency} at list prices of {plan.prices.date}, tier {plan.prices.tier}; the month is after its "
        "free use. Cold: answered by an",
        "instance that was not there when the request came. Refused: waited longer than "
        f"{plan.rules.longest_wait(plan.start):g} s (429).",
    ]
    lines += [""] * bool(plan.notes) + [f"Note: {note}." for note in plan.notes]
    return "\n".join(lines)


def _row(choice: Choice, plan: Plan) -> list[str]:
    outcome = choice.outcome
    return [
        ("> " if choice is plan.proposed else "  ") + name(choice.service, plan),
        f"{number(outcome.mean_instances)}, {number(outcome.peak)} max",
        share(outcome.cold, outcome.answered),
        share(outcome.refused, outcome.requests),
        *(milliseconds(outcome.percentile(at)) for at in SHARES.values()),
        number(choice.cost.million),
        f"{choice.cost.month_free:,.2f}",
    ]


def _hours(seconds: float) -> str:
    return f"{number(seconds / 3600)} h" if seconds >= 3600 else f"{number(seconds)} s"


def as_json(plan: Plan) -> str:
    """Return the plan with its numbers in full; latencies in seconds."""
    line = plan.proposed.outcome.timeline
    traffic = {"label": plan.traffic.label, "seconds": plan.traffic.seconds, "requests": plan.traffic.requests}
    content = {
        "measured": asdict(plan.measured),
        "traffic": traffic,
        "rules": asdict(plan.rules),
        "prices": asdict(plan.prices),
        "start_seconds": plan.start,
        "proposed": _choice(plan.proposed),
        "alternatives": [_choice(choice) for choice in plan.choices],
        "over_time": {
            "seconds": line.seconds,
            "requests_per_second": (line.requests / line.seconds).tolist(),
            "instances": line.instances.tolist(),
            "cold": line.cold.tolist(),
            **{key: [percentile(counts, at) for counts in line.latency] for key, at in SHARES.items()},
        },
        "notes": list(plan.notes),
    }
    return json.dumps(_clean(content), indent=1)


def _choice(choice: Choice) -> dict[str, Any]:
    outcome = choice.outcome
    kept = (
        "simulator", "seconds", "requests", "answered", "refused", "cold", "starts", "peak", "lifetime", "starting",
        "active", "idle_least", "mean_instances", "mean_latency",
    )  # fmt: skip
    return {
        "service": asdict(choice.service),
        "outcome": {key: getattr(outcome, key) for key in kept},
        "latency": {key: outcome.percentile(at) for key, at in SHARES.items()},
        "cost": asdict(choice.cost),
    }


def _clean(value: Any) -> Any:
    """Return the value for strict JSON parsers, with null for nan."""
    if isinstance(value, dict):
        return {key: _clean(element) for key, element in value.items()}
    if isinstance(value, (list, tuple)):
        return [_clean(element) for element in value]
    if isinstance(value, (float, np.floating)):
        return None if math.isnan(value) else float(value)
    return value
