"""The command line of `python -m serving verify`."""

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path

from serving.core import settings
from serving.core.comparison import TOLERANCE
from serving.core.errors import LoadError
from serving.runtime.sessions import judge_operations
from serving.savedmodel.safety.purity import impurities
from serving.savedmodel.source import Source
from tools import server
from tools.verify import cases, checks
from tools.verify.checks import DIFFERS, ROUNDS, UNTESTED, Subject, Verdict
from tools.verify.client import Client, VerifyError
from tools.verify.compare import HALF_TOLERANCE

EPILOG = f"""\
examples:
  python -m serving verify model/                             starts instances of its own
  python -m serving verify model/ --quick                     a few seconds
  python -m serving verify --url http://localhost:8080        a running service, maybe behind a balancer
  python -m serving verify model/ --url https://ONE --url https://OTHER \\
      --header "Authorization: Bearer $(gcloud auth print-identity-token)"

The requests are the examples and the warm-up requests beside the model, and some made from its signatures. The same
request must be answered with the same bytes: again, in another order, by another instance, beside other requests,
after many others, after errors, as an event and in a file. A row in a batch may be rounded differently than the row
alone, because other kernels run. The difference is printed; more than {TOLERANCE:g} of the largest value of an output
is a failure ({HALF_TOLERANCE:g} for outputs of 16 bits).

exit status:  0 stateless, 1 not stateless, 2 not verified, or not completely"""
STATELESS, NOT, NOTHING = 0, 1, 2
Timed = tuple[Verdict, float]  # seconds
SIZES, QUICK_SIZES = (2, 3, 8, 32), (2, 8)


def _whole(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 10_000_000:
        raise argparse.ArgumentTypeError(f"expected a whole number from 1 to 10000000, got {text!r}")
    return int(text)


def _share(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError(f"expected a share from 0 to 1, got {text!r}")
    return value


def _header(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if not colon or not name.strip() or not value.strip().isprintable():
        raise argparse.ArgumentTypeError(f"expected 'NAME: VALUE', got {text!r}")
    return name.strip(), value.strip()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command."""
    parser.description = "Test with real servers whether the answers of a served model depend on the request alone."
    parser.formatter_class, parser.epilog = argparse.RawDescriptionHelpFormatter, EPILOG
    parser.add_argument("directory", nargs="?", type=Path, metavar="MODEL_DIR", help=(
        "the model, or with --url a copy of the served one (default: that of the variable MODEL_DIR)"))  # fmt: skip
    parser.add_argument("--url", action="append", default=[], help=(
        "a running server; repeat it to compare another instance"))  # fmt: skip
    parser.add_argument("--header", action="append", type=_header, default=[], metavar="'NAME: VALUE'",
                       help="a header field of every request to --url; may be repeated")  # fmt: skip
    parser.add_argument("--signature", action="append", default=[], metavar="NAME", help=(
        "verify this signature only; may be repeated (default: all)"))  # fmt: skip
    parser.add_argument("--others", type=_whole, metavar="N", help=(
        "send N other requests before the compared ones (default: 10000; with --quick 500)"))  # fmt: skip
    parser.add_argument("--tolerance", type=_share, default=TOLERANCE, metavar="SHARE", help=(
        "the largest allowed difference of a row in a batch, as a share of the output's largest value "
        f"(default: {TOLERANCE:g}; 0: bit for bit)"))  # fmt: skip
    parser.add_argument("--quick", action="store_true", help="send fewer requests")
    parser.add_argument("--json", action="store_true", help="print the table as JSON")


def main(options: argparse.Namespace) -> int:
    """Verify a model; return the exit status."""
    show = _Table(options.json)
    facts: dict[str, object] = {}
    timed: list[Timed] = []
    problem = ""
    try:
        with ExitStack() as ends:
            for entry in _verify(options, show.progress, facts, ends):
                show.row(entry, facts)
                timed.append(entry)
    except (VerifyError, server.StartError, LoadError, settings.SettingError) as error:
        problem = f"{options.directory or 'MODEL_DIR'}: {error}" if isinstance(error, LoadError) else str(error)
    except KeyboardInterrupt:
        problem = "interrupted"
    show.clear()
    if problem:
        print(f"serving: verify: {problem}", file=sys.stderr)
    verdicts = [verdict for verdict, _ in timed]
    tested = any(entry.compared for entry in verdicts) and not problem
    status = NOT if any(entry.verdict == DIFFERS for entry in verdicts) else STATELESS if tested else NOTHING
    if options.json:
        checked = [{**entry._asdict(), "seconds": round(seconds, 2)} for entry, seconds in timed]
        print(json.dumps({**facts, "stateless": (True, False, None)[status], "problem": problem, "checks": checked}))
    else:
        print(_summary(verdicts, status))
    return status


class _Table:
    """Prints a row per check and, on a terminal, the progress."""

    def __init__(self, quiet: bool) -> None:
        self._quiet, self._terminal, self._begun = quiet, sys.stderr.isatty(), False

    def progress(self, check: str, done: int, total: int) -> None:
        if self._terminal:
            print(f"\r\x1b[K{check}: {done:,} of {total:,}", end="", file=sys.stderr, flush=True)

    def clear(self) -> None:
        if self._terminal:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)

    def row(self, timed: Timed, facts: Mapping[str, object]) -> None:
        self.clear()
        if self._quiet:
            return
        verdict, seconds = timed
        if not self._begun:
            print(f"{facts.get('model')}: {facts.get('requests', 0)} requests\n")
            print(f"{'check':<24} {'verdict':<9} {'answers':>8} {'seconds':>8}")
            self._begun = True
        figures = f"{verdict.compared:>8,} {seconds:>8.1f}"
        print(f"{verdict.check:<24} {verdict.verdict:<9} {figures}  {verdict.detail}", flush=True)


def _summary(verdicts: list[Verdict], status: int) -> str:
    of = {verdict: sum(1 for entry in verdicts if entry.verdict == verdict) for verdict in (ROUNDS, DIFFERS, UNTESTED)}
    rest = f"{of[UNTESTED]} of {len(verdicts)} checks untested" if of[UNTESTED] else f"{len(verdicts)} checks"
    if status == NOTHING:
        done = any(entry.compared for entry in verdicts)
        return "\nNot verified to the end." if done else "\nNothing could be verified."
    if status == NOT:
        return f"\nNOT STATELESS: {of[DIFFERS]} of {len(verdicts)} checks differ."
    return f"\nStateless: {rest}{'; batches round' if of[ROUNDS] else ''}."


def _verify(
    options: argparse.Namespace, progress: checks.Progress, facts: dict[str, object], ends: ExitStack
) -> Iterator[Timed]:
    headers = dict(options.header)
    urls = list(options.url)
    environment = dict(os.environ)
    if urls:
        directory = None
        with Client(urls[0], headers) as client:
            offer = cases.from_server(client, options.directory)
        facts["model"] = f"{urls[0]} ({offer.name})"
    else:
        if options.header:
            raise VerifyError("--header: expected --url with it")
        source = Source(settings.folder(options.directory), "model")
        directory = source.directory.resolve()
        environment |= {"MODEL_DIR": str(directory), "MODEL_NAME": "model"}
        offer = cases.from_source(source)
        facts["model"] = str(settings.folder(options.directory))
    asked_for = _signatures(offer, options.signature)
    first: list[Timed] = []
    if directory is not None:
        if not source.light:
            judge_operations(impurities(directory), settings.current())
        first = _timed(lambda: checks.graph(directory, bool(settings.current().custom_op_libraries)))
        folder = Path(ends.enter_context(tempfile.TemporaryDirectory()))
        try:
            urls = _start(directory, folder, environment, ends)
        except server.StartError:
            yield from first
            raise
    client = ends.enter_context(Client(urls[0], headers))
    count, others = (3, 16) if options.quick else (8, 64)
    entries = []
    for number, name in enumerate(asked_for):
        progress("finding requests", number, len(asked_for))
        entries.append(cases.ask_for(offer, offer.signatures[name], client.post, count, others))
    facts["requests"] = sum(len(entry.cases) for entry in entries)
    yield from first
    for entry in entries:
        if entry.problem:
            yield Verdict(f"requests, {entry.signature.name}", UNTESTED, entry.problem), 0.0
    if not facts["requests"]:
        raise VerifyError("no signature has a request that is answered")
    subject = Subject(entries, checks.first_answers(entries, client), urls, headers, directory, progress)
    yield from _checked(subject, options, environment)


def _checked(subject: Subject, options: argparse.Namespace, environment: dict[str, str]) -> Iterator[Timed]:
    quick = options.quick
    others = options.others or (500 if quick else 10_000)
    run: list[Callable[[], Verdict | list[Verdict]]] = [
        lambda: checks.again(subject),
        lambda: checks.order(subject, 2 if quick else 5),
        lambda: checks.instance(subject),
        lambda: checks.beside(subject, 200 if quick else 2000),
        lambda: checks.after_others(subject, others),
        lambda: checks.after_errors(subject),
        lambda: checks.events(subject),
        lambda: checks.in_batch(subject, QUICK_SIZES if quick else SIZES, options.tolerance),
    ]
    if subject.directory is not None:
        run.append(lambda: checks.scored(subject, environment))
    for check in run:
        yield from _timed(check)


def _timed(check: Callable[[], Verdict | list[Verdict]]) -> list[Timed]:
    verdicts, seconds = checks.timed(check)
    return [(verdict, seconds / len(verdicts)) for verdict in verdicts]


def _start(directory: Path, folder: Path, environment: dict[str, str], ends: ExitStack) -> list[str]:
    """Start two instances."""
    instances = []
    for number in range(2):
        instances.append(ends.enter_context(server.running(directory, folder / f"{number}.log", environment)))
    for instance in instances:
        instance.wait_until_ready()
    return [instance.url for instance in instances]


def _signatures(offer: cases.Offer, names: list[str]) -> list[str]:
    known = [name for name in offer.signatures if not name.startswith("__")]
    for name in names:
        if name not in known:
            raise VerifyError(f"--signature: expected one of {', '.join(known)}, got {name!r}")
    return names or known
