"""The command line of `python -m serving evaluate`."""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from serving.core import settings
from serving.core.storage import Storage
from tools.evaluate import choice, reading, text
from tools.evaluate.reading import EvaluateError

EPILOG = """\
examples:
  python -m serving evaluate gs://BUCKET/predictions labels.csv
  python -m serving evaluate log.jsonl labels.jsonl --label species --period day --picture quality.png

PREDICTIONS are those of LOG_PREDICTIONS: a file, a folder, gs://BUCKET/FOLDER, - for standard input, or a log that
holds them. LABELS is CSV with a header, or lines of JSON, with a key and a label in each row.

exit status:  0 evaluated, 1 nothing to evaluate, 2 wrong arguments"""
EVALUATED, NOTHING = 0, 1
MISSING = "is not installed here: pip install -r requirements/evaluate.txt"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command."""
    parser.description = "Compare logged predictions with the labels that came later, joined by key."
    parser.formatter_class, parser.epilog = argparse.RawDescriptionHelpFormatter, EPILOG
    parser.add_argument("predictions", metavar="PREDICTIONS", help="where LOG_PREDICTIONS has written them")
    parser.add_argument("labels", metavar="LABELS", help="the labels, as CSV or lines of JSON")
    parser.add_argument("--key", default="key", metavar="NAME", help="the column of the key in LABELS (default: key)")
    parser.add_argument("--label", default="label", metavar="NAME", help="the column of the label (default: label)")
    parser.add_argument("--signature", metavar="NAME", help="the signature, if several are logged")
    parser.add_argument("--output", default="", metavar="NAME", help="the output to compare, if there are several")
    parser.add_argument("--task", default="", choices=[choice.CLASSIFICATION, choice.BINARY, choice.REGRESSION],
                        help="what the output is, if the labels do not show it")  # fmt: skip
    parser.add_argument("--classes", type=Path, metavar="FILE", help=(
        "a file with the class names of the scores, one in each line: labels.txt"))  # fmt: skip
    parser.add_argument("--positive", default="", metavar="NAME", help="the positive class of two (default: 1)")
    parser.add_argument("--threshold", type=float, default=0.5, metavar="P",
                        help="the least probability of the positive class (default: 0.5)")  # fmt: skip
    parser.add_argument("--period", default="", choices=["minute", "hour", "day", "week"],
                        help="the interval of the measures over time (default: by the span of the log)")  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    parser.add_argument("--picture", type=Path, metavar="FILE", help="also draw the report: FILE.png, FILE.svg")


def main(options: argparse.Namespace) -> int:
    """Evaluate; return the exit status."""
    try:
        report = evaluate(options)
        if options.picture is not None:
            _draw(report, options.picture)
    except (EvaluateError, settings.SettingError) as error:
        print(f"serving: evaluate: {error}", file=sys.stderr)
        return NOTHING
    print(json.dumps(report, indent=2) if options.json else text.as_text(report))
    return EVALUATED


def evaluate(options: argparse.Namespace) -> dict[str, Any]:
    """Return the report; raise EvaluateError where nothing can be evaluated."""
    try:
        from tools.evaluate import measures
    except ModuleNotFoundError as error:
        raise EvaluateError(f"{error.name} {MISSING}") from None
    current = settings.current()
    storage = Storage(current.storage_emulator_host, current.google_oauth_access_token)
    logged, others = reading.predictions([options.predictions], storage)
    if not logged:
        raise EvaluateError(f"{options.predictions}: expected lines of LOG_PREDICTIONS, got {others} other lines")
    names = sorted({prediction.signature for prediction in logged})
    signature = options.signature or names[0]
    if signature not in names or (not options.signature and len(names) > 1):
        raise EvaluateError(f"--signature: expected one of {', '.join(names)}, got {options.signature or 'none'}")
    labelled = reading.labels(options.labels, options.key, options.label, storage)
    joined = reading.join([prediction for prediction in logged if prediction.signature == signature], labelled)
    wanted = choice.Wanted(options.output, options.task, _classes(options.classes), options.positive, options.threshold)
    read = choice.read(joined.pairs, wanted)
    report = measures.report(joined.pairs, read, options.period)
    return {"counts": {**joined.counts, "other_lines": others}, **report}


def _classes(file: Path | None) -> list[str]:
    try:
        return [] if file is None else file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise EvaluateError(f"--classes: {file}: {getattr(error, 'strerror', error)}") from None


def _draw(report: dict[str, Any], file: Path) -> None:
    try:
        from tools.evaluate import picture
    except ModuleNotFoundError as error:
        raise EvaluateError(f"--picture: {error.name} {MISSING}") from None
    try:
        picture.draw(report, file)
    except (OSError, ValueError) as error:
        raise EvaluateError(f"--picture: {file}: {error}") from None
