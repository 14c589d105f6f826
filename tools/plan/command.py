"""The command line of `python -m serving plan`."""

import argparse
import math
import sys
from collections.abc import Callable
from pathlib import Path

from serving.core import settings
from tools.plan import PlanError, cost, measured, report, traffic
from tools.plan.measured import Measured
from tools.plan.plan import Plan, Wishes, plan
from tools.plan.rules import MEMORIES, MOST_CONCURRENCY, SIZES

EPILOG = """\
examples:
  python -m serving plan                                       model/, a day with 1 request/s on average
  python -m serving plan --rate 20 --peak 100 --p99 300        a busier day, 99 % below 300 ms
  python -m serving plan --shape bursts --rate 0.1 --peak 500  quiet, with a minute of 500 requests/s every hour
  python -m serving plan --trace access-times.txt              recorded traffic: one timestamp per line
  python -m serving plan MODEL_DIR --save measured.json        measure once ...
  python -m serving plan --measured measured.json --shape constant --rate 1000000     ... and ask again at once

The simulation uses the platform's published scaling rules and the speed of this machine. What the platform adds to a
start (--overhead), and how its CPU compares to this one, cannot be measured here."""
DEFAULT_PICTURE = Path("plan.png")
MOST_RATE = 1e7
MOST_HOURS = 24 * 31


def number(least: float, most: float, above: bool = False) -> Callable[[str], float]:
    """Return a reader of numbers within these bounds; `above`: the least itself is not taken."""

    def read(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not least <= value <= most or (above and value == least):
            begin = f"above {least:g} and up" if above else f"from {least:g}"
            raise argparse.ArgumentTypeError(f"expected a number {begin} to {most:g}, got {text!r}")
        return value

    return read


def whole(least: int, most: int) -> Callable[[str], int]:
    def read(text: str) -> int:
        if not text.isdecimal() or not least <= int(text) <= most:
            raise argparse.ArgumentTypeError(f"expected a whole number from {least} to {most}, got {text!r}")
        return int(text)

    return read


def mebibytes(text: str) -> int:
    """Read memory as the platform writes it: 512Mi, 1Gi, 1.5Gi."""
    units = {"Mi": 1, "Gi": 1024}
    try:
        value = float(text[:-2]) * units[text[-2:]]
    except (ValueError, KeyError):
        raise argparse.ArgumentTypeError(f"expected MiB or GiB, as 512Mi or 2Gi, got {text!r}") from None
    if not MEMORIES[0] <= value <= MEMORIES[-1]:
        raise argparse.ArgumentTypeError(f"expected {MEMORIES[0]}Mi to {MEMORIES[-1] // 1024}Gi, got {text!r}")
    return round(value)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command."""
    parser.description = "Estimate the instances that a model needs on Cloud Run, its latency there and its cost."
    parser.formatter_class, parser.epilog = argparse.RawDescriptionHelpFormatter, EPILOG
    parser.add_argument("directory", type=Path, nargs="?", metavar="MODEL_DIR", help=(
        "the model to measure (default: that of the variable MODEL_DIR)"))  # fmt: skip
    _add_traffic(parser.add_argument_group("traffic"))
    _add_fixed(parser.add_argument_group("fixed values, which are then not proposed"))
    measuring = parser.add_argument_group("measurement")
    measuring.add_argument("--measured", type=Path, metavar="FILE", help="use what --save wrote instead of measuring")
    measuring.add_argument("--save", type=Path, metavar="FILE", help="write the measurement to a file")
    measuring.add_argument(
        "--body", type=Path, metavar="FILE", help="the request to send (default: the model's example)"
    )
    measuring.add_argument(
        "--starts", type=whole(1, 100), default=5, metavar="N", help="starts to measure (default: 5)"
    )
    measuring.add_argument(
        "--seconds",
        type=number(0.1, 600),
        default=1.0,
        metavar="S",
        help="seconds of load for each concurrency (default: 1)",
    )
    out = parser.add_argument_group("output")
    out.add_argument("--prices", type=Path, default=cost.DEFAULT, metavar="FILE", help=(
        "the platform's prices (default: tools/plan/prices.json)"))  # fmt: skip
    out.add_argument("--tier", default="1", metavar="N", help="the price tier of the region (default: 1)")
    out.add_argument("--json", action="store_true", help="print JSON instead of the table")
    out.add_argument("--picture", type=Path, default=DEFAULT_PICTURE, metavar="FILE", help=(
        f"the picture to draw (default: {DEFAULT_PICTURE})"))  # fmt: skip
    out.add_argument("--no-picture", action="store_true", help="draw no picture")
    out.add_argument(
        "--seed", type=whole(0, 2**32 - 1), default=7, metavar="N", help="the seed of the random numbers (default: 7)"
    )


def _add_traffic(shape: argparse._ArgumentGroup) -> None:
    shape.add_argument("--shape", choices=("constant", "diurnal", "bursts"), default="diurnal", help=(
        "how the rate changes over time (default: diurnal)"))  # fmt: skip
    shape.add_argument("--rate", type=number(0, MOST_RATE), default=1.0, metavar="R", help=(
        "requests/s: constant, on average over a day, or between bursts (default: 1)"))  # fmt: skip
    shape.add_argument("--peak", type=number(0, MOST_RATE), metavar="R", help=(
        "requests/s at 14:00 (default: twice --rate), or in bursts (default: 20 times --rate)"))  # fmt: skip
    shape.add_argument("--burst-seconds", type=number(0, 86400, True), default=60.0, metavar="S", help=(
        "seconds that a burst lasts (default: 60)"))  # fmt: skip
    shape.add_argument("--burst-every", type=number(0, 86400 * 7, True), default=3600.0, metavar="S", help=(
        "seconds from one burst to the next (default: 3600)"))  # fmt: skip
    shape.add_argument(
        "--hours", type=number(0, MOST_HOURS, True), default=24.0, metavar="H", help="hours to simulate (default: 24)"
    )
    shape.add_argument("--trace", type=Path, metavar="FILE", help=(
        "recorded traffic instead: one timestamp per line, seconds or ISO 8601"))  # fmt: skip


def _add_fixed(wish: argparse._ArgumentGroup) -> None:
    wish.add_argument("--memory", type=mebibytes, metavar="M", help="memory of an instance: 512Mi to 32Gi")
    wish.add_argument("--cpu", type=int, metavar="N", help=f"CPUs of an instance: one of {', '.join(map(str, SIZES))}")
    wish.add_argument(
        "--concurrency", type=whole(1, MOST_CONCURRENCY), metavar="N", help="concurrent requests per instance"
    )
    wish.add_argument("--min", type=whole(0, 10**6), dest="least", metavar="N", help="minimum number of instances")
    wish.add_argument("--max", type=whole(1, 10**6), dest="most", metavar="N", help="maximum number of instances")
    wish.add_argument("--p99", type=number(0, 1e6, True), metavar="MS", help=(
        "propose the cheapest with 99 %% of the answers within this time"))  # fmt: skip
    wish.add_argument("--no-cpu-boost", action="store_true", help="start without the startup CPU boost")
    wish.add_argument("--overhead", type=number(0, 240), default=1.0, metavar="S", help=(
        "seconds that the platform adds to a start, an assumption (default: 1)"))  # fmt: skip
    wish.add_argument("--probe-period", type=number(0, 240), default=1.0, metavar="S", help=(
        "periodSeconds of the startup probe, for which a ready instance waits (default: 1)"))  # fmt: skip


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main(options: argparse.Namespace) -> int:
    """Plan; return the exit status."""
    try:
        proposal, notes = _plan(options)
        print(report.as_json(proposal) if options.json else report.as_text(proposal), flush=True)
        for note in notes:
            say(f"plan: {note}")
        if not options.no_picture:
            _draw(proposal, options.picture)
    except PlanError as error:
        say(f"plan: {error}")
        return 1
    except KeyboardInterrupt:
        say("plan: interrupted")
        return 130
    return 0


def _plan(options: argparse.Namespace) -> tuple[Plan, list[str]]:
    """Check everything that can be checked before minutes are spent on measuring."""
    if options.measured and (options.directory or options.save or options.body):
        raise PlanError("--measured: expected alone, without MODEL_DIR, --save and --body: it measures nothing")
    prices = cost.read(options.prices, options.tier)
    shape, notes = _traffic(options)
    if options.cpu is not None and options.cpu not in SIZES:
        raise PlanError(f"--cpu: expected one of {', '.join(map(str, SIZES))}, got {options.cpu}")
    wishes = Wishes(
        memory=options.memory, cpu=options.cpu, concurrency=options.concurrency, least=options.least,
        most=options.most, p99=None if options.p99 is None else options.p99 / 1000, boost=not options.no_cpu_boost,
        overhead=options.overhead, period=options.probe_period, seed=options.seed,
    )  # fmt: skip
    return plan(_measured(options), shape, wishes, prices), notes


def _traffic(options: argparse.Namespace) -> tuple[traffic.Traffic, list[str]]:
    if options.trace:
        return traffic.trace(options.trace)
    rate, seconds = options.rate, options.hours * 3600
    if options.shape == "constant":
        return traffic.constant(rate, seconds), []
    if options.shape == "diurnal":
        return traffic.diurnal(rate, 2 * rate if options.peak is None else options.peak, seconds), []
    peak = 20 * rate if options.peak is None else options.peak
    return traffic.bursts(rate, peak, options.burst_seconds, options.burst_every, seconds), []


def _measured(options: argparse.Namespace) -> Measured:
    if options.measured:
        return measured.read(options.measured)
    from tools.plan import measure  # reads models, which a saved measurement does not need

    body = None
    if options.body:
        try:
            body = options.body.read_bytes()
        except OSError as error:
            raise PlanError(f"--body: {options.body}: {error.strerror}") from None
    try:
        directory = settings.folder(options.directory)
    except settings.SettingError as error:
        raise PlanError(str(error)) from None
    loads = f"{len(measure.CONCURRENCIES)} loads of {options.seconds:g} s"
    say(f"measuring {directory}: {options.starts + 1} starts, {loads}")
    result = measure.measure(directory, body, options.starts, options.seconds, measure.CONCURRENCIES, say)
    if options.save:
        try:
            options.save.write_text(result.to_json())
        except OSError as error:
            raise PlanError(f"--save: {options.save}: {error.strerror}") from None
        say(f"saved to {options.save}")
    return result


def _draw(proposal: Plan, file: Path) -> None:
    try:
        from tools.plan import picture
    except ModuleNotFoundError as error:
        if error.name != "matplotlib":
            raise
        say("plan: no picture without matplotlib: pip install matplotlib")
        return
    try:
        picture.draw(proposal, file)
    except (OSError, ValueError) as error:
        raise PlanError(f"--picture: {file}: {error}") from None
    say(f"picture: {file}")
