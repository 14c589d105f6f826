"""Shapes of traffic: requests per second over time, or the timestamps of recorded traffic.

constant   RATE requests a second
diurnal    a day: no requests at night, PEAK at 14:00, RATE on the average
bursts     RATE, and PEAK for BURST_SECONDS once every BURST_EVERY seconds
trace      a file with one timestamp per line, in seconds or ISO 8601
"""

import math
import re
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np

from tools.plan import PlanError
from tools.plan.measured import Floats

DAY = 86400.0
STEP = 0.25  # seconds; a rate is constant in between


@dataclass(frozen=True)
class Traffic:
    """`rates` are requests a second, one for each STEP; `times` the moments of a trace, in seconds from its first."""

    label: str
    rates: Floats
    times: Floats | None = None

    @property
    def seconds(self) -> float:
        return len(self.rates) * STEP

    @property
    def requests(self) -> float:
        """The expected number of requests."""
        return float(self.rates.sum()) * STEP

    def arrivals(self, random: np.random.Generator, repeat: int = 1) -> Floats:
        """Return the sorted times of the requests: those of the trace, or drawn as a Poisson process of these rates."""
        if self.times is not None:
            return self.times
        rates = np.tile(self.rates, repeat)
        counts = random.poisson(rates * STEP)
        cells = np.repeat(np.arange(len(rates)), counts)
        return np.sort((cells + random.random(len(cells))) * STEP)


def _grid(seconds: float) -> Floats:
    return np.asarray((np.arange(max(1, round(seconds / STEP))) + 0.5) * STEP, dtype=np.float64)


def constant(rate: float, seconds: float) -> Traffic:
    return Traffic(f"constant, {rate:,.12g} requests/s", np.full(len(_grid(seconds)), float(rate)))


def diurnal(rate: float, peak: float, seconds: float) -> Traffic:
    """Return days whose rate is PEAK ((1 + cos) / 2)^k, with the k that makes the mean RATE."""
    if peak < rate:
        raise PlanError(f"--peak: expected at least the mean, {rate:g}, got {peak:g}")
    wave = (1 + np.cos(2 * np.pi * (np.arange(2000) + 0.5) / 2000)) / 2  # a mean over a whole period needs no more
    low, high = 0.0, 1e5
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if (wave**middle).mean() > (rate / peak if peak else 1) else (low, middle)
    whole = (1 + np.cos(2 * np.pi * (_grid(seconds) / DAY - 14 / 24))) / 2
    return Traffic(f"diurnal, {rate:,.12g} requests/s on the average, {peak:,.12g} at its peak", peak * whole**low)


def bursts(rate: float, peak: float, long: float, every: float, seconds: float) -> Traffic:
    """Return RATE with bursts of PEAK, the first one half of `every` after the beginning."""
    if not 0 < long < every:
        raise PlanError(f"--burst-seconds: expected less than --burst-every, {every:g}, got {long:g}")
    bursting = (_grid(seconds) - every / 2) % every < long
    label = f"bursts of {peak:,.12g} requests/s for {long:g} s every {every:g} s, else {rate:,.12g}"
    return Traffic(label, np.where(bursting, float(peak), float(rate)))


def trace(path: Path) -> tuple[Traffic, list[str]]:
    """Read a trace; return it with notes about it. Raise PlanError with the number of a wrong line."""
    try:
        lines = path.read_text("utf-8").splitlines()
    except OSError as error:
        raise PlanError(f"--trace: {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise PlanError(f"--trace: {path}: expected text, a timestamp a line") from None
    times: list[float] = []
    form = ""
    for number, line in enumerate(lines, 1):
        seconds, kind = _moment(line.strip(), f"--trace: {path}: line {number}")
        if form and kind != form:
            raise PlanError(f"--trace: {path}: line {number}: expected {form}, as before, got {line.strip()[:60]!r}")
        form = kind
        times.append(seconds)
    if not times:
        raise PlanError(f"--trace: {path}: expected a timestamp a line, got an empty file")
    notes = []
    moments = np.asarray(times)
    if (moments[1:] < moments[:-1]).any():
        late = int(np.argmax(moments[1:] < moments[:-1])) + 2
        notes.append(f"{path}: the timestamps are not in order (line {late} is earlier than the one before); sorted")
    moments = np.sort(moments)
    moments -= moments[0]
    if moments[-1] > 366 * DAY:
        raise PlanError(f"--trace: {path}: expected at most a year, got {moments[-1] / DAY:.0f} days")
    cells = np.bincount((moments / STEP).astype(np.int64), minlength=round(60 / STEP))
    return Traffic(f"trace {path.name}, {len(moments):,} requests", cells / STEP, moments), notes


def _moment(text: str, source: str) -> tuple[float, str]:
    try:
        seconds = float(text)
    except ValueError:
        pass
    else:
        if math.isfinite(seconds):
            return seconds, "seconds"
        raise PlanError(f"{source}: expected a finite number of seconds, got {text[:60]!r}")
    try:
        # Python 3.10 reads no Z, and a fraction of six digits alone
        whole = re.sub(
            r"\.([0-9]{1,9})", lambda match: "." + match[1][:6].ljust(6, "0"), re.sub("[zZ]$", "+00:00", text)
        )
        moment = datetime.fromisoformat(whole)
        return (
            moment.timestamp(),
            "ISO 8601 without a time zone" if moment.tzinfo is None else "ISO 8601 with a time zone",
        )
    except (ValueError, OverflowError):
        raise PlanError(f"{source}: expected seconds or ISO 8601, got {text[:60]!r}") from None
