"""From a measurement and a shape of traffic to a proposal and its alternatives."""

import math
from dataclasses import dataclass, replace

import numpy as np

from tools.plan import PlanError, events, fluid
from tools.plan.cost import BY_INSTANCE, BY_REQUEST, Cost, Prices, cost
from tools.plan.measured import Instance, Measured, instance
from tools.plan.outcome import Outcome
from tools.plan.rules import (
    DEFAULT_MOST_INSTANCES,
    MOST_CONCURRENCY,
    SIZES,
    Rules,
    Scale,
    check_cpu,
    check_memory,
    memory_for,
)
from tools.plan.traffic import Traffic

MOST_EVENTS = 500_000  # requests that are simulated singly; more are simulated as a stream
ENOUGH_EVENTS = 20_000  # fewer are repeated, so that the result does not depend on a single day
MOST_REPEATS = 30
HEADROOM, RESERVE = 1.25, 64  # of the measured peak; MiB for logs and temporary files, which are kept in memory
FULL = 10  # a full instance may take this many times as long as an idle one, and at least FULL_SECONDS
FULL_SECONDS = 0.1


@dataclass(frozen=True)
class Wishes:
    """The fixed values; None: propose one."""

    memory: int | None = None  # MiB
    cpu: int | None = None
    concurrency: int | None = None
    least: int | None = None
    most: int | None = None
    p99: float | None = None  # seconds
    boost: bool = True
    overhead: float = 1.0  # seconds of a start before our process runs
    period: float = 1.0  # seconds between two startup probes
    seed: int = 7


@dataclass(frozen=True)
class Service:
    """One way to deploy. THREADS is the concurrency: the autoscaler does not see requests queued in an instance."""

    memory: int  # MiB
    cpu: int
    concurrency: int
    workers: int
    least: int
    most: int
    billing: str


@dataclass(frozen=True)
class Choice:
    service: Service
    outcome: Outcome
    cost: Cost


@dataclass(frozen=True)
class Plan:
    """The proposed choice, and all simulated ones, including the proposed one."""

    measured: Measured
    traffic: Traffic
    rules: Rules
    prices: Prices
    start: float  # seconds
    proposed: Choice
    choices: tuple[Choice, ...]
    notes: tuple[str, ...]


def size(measured: Measured, wishes: Wishes) -> tuple[int, int, int]:
    """Return MiB, vCPUs and workers: a worker for each vCPU where they fit, else one."""
    first, each = measured.peak_mib * HEADROOM + RESERVE, measured.worker_mib * HEADROOM
    if wishes.memory is not None and wishes.memory < measured.peak_mib:
        least = f"at least {measured.peak_mib:.0f} MiB, which the model was seen to use"
        raise PlanError(f"--memory: expected {least}, got {wishes.memory} MiB")
    memory = wishes.memory or memory_for(first)
    fitting = (count for count, (least, most, _) in SIZES.items() if least <= memory <= most)
    cpu = wishes.cpu or next(fitting, max(SIZES))
    check_cpu(cpu)
    whole = first + (cpu - 1) * each
    if wishes.memory is None:
        memory = max(SIZES[cpu][0], memory, memory_for(whole) if whole <= SIZES[cpu][1] else 0)
    check_memory(cpu, memory)
    return memory, cpu, cpu if whole <= memory else 1


def concurrency_for(measured: Measured, workers: int, p99: float | None) -> int:
    """Return the largest concurrency, of those measured, at which a full instance still answers in time."""
    first = measured.loads[0]
    goal = p99 if p99 is not None else max(FULL_SECONDS, FULL / first.requests_per_second)
    best = first.concurrency
    for load in measured.loads:
        if load.concurrency / load.requests_per_second <= goal:
            best = load.concurrency
    return min(best * workers, MOST_CONCURRENCY)


def steady_rate(traffic: Traffic) -> float:
    """Return the rate before the beginning: that at the beginning, or 0 for a trace."""
    return 0.0 if traffic.times is not None else float(traffic.rates[0])


def begins(traffic: Traffic, instance: Instance, scale: Scale, rules: Rules) -> Scale:
    """Return the scale with the number of instances that the rate at the beginning requires."""
    rate = steady_rate(traffic)
    if rate * rules.idle < 5:  # instances may have ended for lack of requests
        return replace(scale, initial=scale.least)
    inside = rate / float(instance.throughput[1])
    instances = rules.desired(inside, rate * instance.cpu_seconds, instance.concurrency, instance.cpus)
    return replace(scale, initial=min(max(instances, scale.least, 1), scale.most))


def simulate(traffic: Traffic, instance: Instance, scale: Scale, rules: Rules, seed: int) -> Outcome:
    """Simulate by the method that suits the number of requests."""
    scale = begins(traffic, instance, scale, rules)
    if traffic.requests > MOST_EVENTS:
        return fluid.simulate(traffic.rates, instance, scale, rules, steady_rate(traffic))
    random = np.random.default_rng(seed)
    repeat = 1
    if traffic.times is None and traffic.requests > 0:
        repeat = min(MOST_REPEATS, max(1, math.ceil(ENOUGH_EVENTS / traffic.requests)))
    arrivals = traffic.arrivals(random, repeat)
    seconds = traffic.seconds * repeat
    return events.simulate(arrivals, seconds, instance, scale, rules, random, steady_rate(traffic), repeat)


def plan(measured: Measured, traffic: Traffic, wishes: Wishes, prices: Prices, rules: Rules | None = None) -> Plan:
    """Propose how to deploy, and simulate it beside its alternatives."""
    rules = rules or Rules()
    memory, cpu, workers = size(measured, wishes)
    limit = wishes.concurrency or concurrency_for(measured, workers, wishes.p99)
    outcomes: dict[tuple[int, int], Outcome] = {}
    choices: list[Choice] = []

    def made(concurrency: int) -> Instance:
        start_cpus = SIZES[cpu][2] if wishes.boost else cpu
        used = min(workers, concurrency)
        return instance(measured, concurrency, cpu, used, start_cpus, wishes.overhead, wishes.period)

    def look(concurrency: int, least: int, billing: str) -> None:
        key = concurrency, least
        if key not in outcomes:
            outcomes[key] = simulate(traffic, made(concurrency), Scale(least, most), rules, wishes.seed)
        service = Service(memory, cpu, concurrency, min(workers, concurrency), least, most, billing)
        bill = cost(outcomes[key], cpu, memory, wishes.boost, prices, billing)
        choices.append(Choice(service, outcomes[key], bill))

    base = made(limit)
    most, notes = most_instances(measured, traffic, wishes, rules, base, min(workers, limit))
    for least in [0, 1] if wishes.least is None else sorted({0, 1, wishes.least}):
        if least > most:
            raise PlanError(f"--max: expected at least {least}, the least number of instances, got {most}")
        for billing in (BY_REQUEST, BY_INSTANCE):
            look(limit, least, billing)
    if limit > 1 and wishes.concurrency is None:
        look(1, 0, BY_REQUEST)
    proposed = choose([choice for choice in choices if choice.service.concurrency == limit], wishes, notes)
    return Plan(measured, traffic, rules, prices, base.start, proposed, tuple(choices), tuple(notes))


def most_instances(
    measured: Measured, traffic: Traffic, wishes: Wishes, rules: Rules, base: Instance, workers: int
) -> tuple[int, list[str]]:
    """Return the largest number of instances, and notes on what limits the estimate."""
    notes, limit = list(measured.notes), base.concurrency
    peak = float(traffic.rates.max()) if traffic.times is None else _peak(traffic)
    needed = rules.desired(peak / base.best * limit, peak * base.cpu_seconds, limit, base.cpus)
    most = wishes.most if wishes.most is not None else max(DEFAULT_MOST_INSTANCES, 2 * needed)
    if most > DEFAULT_MOST_INSTANCES and wishes.most is None:
        notes.append(f"{most:,} instances at most, twice what the peak needs; the project's quota may be lower")
    if most * base.best < peak:
        notes.append(f"{most:,} instances answer {most * base.best:,.0f} requests/s; the peak has {peak:,.0f}")
    measured_most = measured.loads[-1].concurrency
    if limit > measured_most * workers:
        notes.append(f"nothing was measured above {measured_most} at a time; the same rate is assumed")
    return most, notes


def choose(choices: list[Choice], wishes: Wishes, notes: list[str]) -> Choice:
    """Return the cheapest that meets the wishes; the fastest, and a note, where none does."""
    if wishes.least is not None:
        choices = [choice for choice in choices if choice.service.least == wishes.least]
    if wishes.p99 is not None:
        meeting = [choice for choice in choices if choice.outcome.percentile(0.99) <= wishes.p99]
        if not meeting:
            notes.append(f"no alternative has 99 % below {wishes.p99 * 1000:g} ms; the fastest is proposed")
            return min(choices, key=lambda choice: (choice.outcome.percentile(0.99), choice.cost.month_free))
        choices = meeting
    return min(choices, key=lambda choice: (choice.cost.month_free, choice.cost.month, choice.service.least))


def _peak(traffic: Traffic) -> float:
    """Return the highest requests/s of a trace over ten seconds; single steps are mostly noise."""
    wide = 40
    rates = traffic.rates[: len(traffic.rates) // wide * wide]
    return float(rates.reshape(-1, wide).mean(axis=1).max()) if len(rates) else float(traffic.rates.max())
