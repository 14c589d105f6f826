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
        "the model to measure (default: MODEL_DIR)"))  # fmt: skip
    shape = parser.add_argument_group("traffic")
    shape.add_argument("--shape", choices=("constant", "diurnal", "bursts"), default="diurnal", help="(diurnal)")
    shape.add_argument("--rate", type=number(0, MOST_RATE), default=1.0, metavar="R", help=(
        "requests/s: constant, on average over a day, or between bursts (1)"))  # fmt: skip
    shape.add_argument("--peak", type=number(0, MOST_RATE), metavar="R", help=(
        "requests/s at 14:00 (twice --rate), or in bursts (20 times --rate)"))  # fmt: skip
    shape.add_argument("--burst-seconds", type=number(0, 86400, True), default=60.0, metavar="S", help="(60)")
    shape.add_argument("--burst-every", type=number(0, 86400 * 7, True), default=3600.0, metavar="S", help="(3600)")
    shape.add_argument("--hours", type=number(0, MOST_HOURS, True), default=24.0, metavar="H", help="(24)")
    shape.add_argument("--trace", type=Path, metavar="FILE", help=(
        "recorded traffic instead: one timestamp per line, seconds or ISO 8601"))  # fmt: skip
    wish = parser.add_argument_group("fixed values, which are then not proposed")
    wish.add_argument("--memory", type=mebibytes, metavar="M", help="512Mi to 32Gi")
    wish.add_argument("--cpu", type=int, metavar="N", help=f"one of {', '.join(map(str, SIZES))}")
    wish.add_argument(
        "--concurrency", type=whole(1, MOST_CONCURRENCY), metavar="N", help="concurrent requests per instance"
    )
    wish.add_argument("--min", type=whole(0, 10**6), dest="least", metavar="N", help="minimum number of instances")
    wish.add_argument("--max", type=whole(1, 10**6), dest="most", metavar="N", help="maximum number of instances")
    wish.add_argument("--p99", type=number(0, 1e6, True), metavar="MS", help=(
        "propose the cheapest with 99 %% of the answers within this time"))  # fmt: skip
    wish.add_argument("--no-cpu-boost", action="store_true", help="no startup CPU boost")
    wish.add_argument("--overhead", type=number(0, 240), default=1.0, metavar="S", help=(
        "what the platform adds to a start; assumed, because it is not published (1)"))  # fmt: skip
    wish.add_argument("--probe-period", type=number(0, 240), default=1.0, metavar="S", help=(
        "the startup probe's periodSeconds; an instance that is ready waits for the next probe (1)"))  # fmt: skip
    measuring = parser.add_argument_group("measurement")
    measuring.add_argument("--measured", type=Path, metavar="FILE", help="use what --save wrote instead of measuring")
    measuring.add_argument("--save", type=Path, metavar="FILE", help="keep the measurement")
    measuring.add_argument("--body", type=Path, metavar="FILE", help="the request to send (the model's example)")
    measuring.add_argument("--starts", type=whole(1, 100), default=5, metavar="N", help="(5)")
    measuring.add_argument(
        "--seconds", type=number(0.1, 600), default=1.0, metavar="S", help="for each concurrency (1)"
    )
    out = parser.add_argument_group("output")
    out.add_argument("--prices", type=Path, default=cost.DEFAULT, metavar="FILE", help="(tools/plan/prices.json)")
    out.add_argument("--tier", default="1", metavar="N", help="the region's price tier (1)")
    out.add_argument("--json", action="store_true", help="JSON instead of the table")
    out.add_argument("--picture", type=Path, default=DEFAULT_PICTURE, metavar="FILE", help=f"({DEFAULT_PICTURE})")
    out.add_argument("--no-picture", action="store_true", help="only the table")
    out.add_argument("--seed", type=whole(0, 2**32 - 1), default=7, metavar="N", help="of the random numbers (7)")


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
