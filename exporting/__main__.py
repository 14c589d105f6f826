"""The command line: `python -m exporting audit DIR`, `bake DIR OUT`, `verify DIR`."""

import argparse
import signal
import sys
from pathlib import Path
from typing import Any

from exporting.refusal import Refusal, Unreadable
from serving.settings import SettingError

EPILOG = {
    "audit": """\
example:  python -m exporting audit model/
exit status:  0 pure, 1 not, 2 nothing there that could be read""",
    "bake": """\
example:  python -m exporting bake model/ baked/
exit status:  0 baked, 1 refused, 2 nothing there that could be read""",
    "verify": """\
example:  python -m exporting verify model/
exit status:  0 as exported, 1 not, 2 no manifest""",
}


def main(arguments: list[str] | None = None) -> int:
    """Run one command; return its exit status."""
    options = _parser().parse_args(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # unwinds, so that nothing half-written stays
    try:
        status: int = options.run(options)
    except Refusal as refusal:
        print(f"{options.command}: {' '.join(str(refusal).split())}", file=sys.stderr)
        return 2 if isinstance(refusal, Unreadable) else 1
    except SettingError as error:
        print(f"{options.command}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"{options.command}: interrupted", file=sys.stderr)
        return 130
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m exporting", description="Before a SavedModel is deployed.")
    commands = parser.add_subparsers(dest="command", required=True)
    audit = _command(commands, "audit", "is this SavedModel a pure function?", _audit)
    audit.add_argument("--json", action="store_true", help="the report as JSON")
    audit.add_argument("--no-run", action="store_true", help="read the graph, do not try the model")
    bake = _command(commands, "bake", "a SavedModel that starts and runs faster and means the same", _bake)
    bake.add_argument("out", type=Path, metavar="OUT", help="the folder to write")
    bake.add_argument("--force", action="store_true", help="replace OUT if it is there")
    bake.add_argument("--tolerance", type=float, default=None, metavar="T", help=(
        "how far floating-point outputs may differ from the original's, relative to the output's largest number "
        "(default: 1e-4; half precision is held to its own)"))  # fmt: skip
    bake.add_argument("--input", type=Path, action="append", default=[], metavar="FILE.npz", help=(
        "arrays named as a signature's inputs, to compare by beside the generated ones; may be repeated"))  # fmt: skip
    bake.add_argument("--keep-variables", action="store_true", help=(
        "leave the variables in their own file, as happens by itself beyond protobuf's 2 GB"))  # fmt: skip
    _command(commands, "verify", "is every file there as it was exported?", _verify)
    return parser


def _command(commands: Any, name: str, text: str, run: Any) -> argparse.ArgumentParser:
    formatter = argparse.RawDescriptionHelpFormatter
    parser: argparse.ArgumentParser = commands.add_parser(
        name, help=text, description=text, epilog=EPILOG[name], formatter_class=formatter
    )
    parser.add_argument("directory", type=Path, metavar="DIR", help="a SavedModel: the folder of saved_model.pb")
    parser.set_defaults(run=run)
    return parser


def _audit(options: argparse.Namespace) -> int:
    from exporting import report
    from exporting.audit import audit

    found = audit(options.directory, run=not options.no_run)
    print(report.as_json(found) if options.json else report.as_text(found))
    return 0 if found.pure else 1


def _bake(options: argparse.Namespace) -> int:
    from exporting import bake

    baked = bake.bake(
        options.directory,
        options.out,
        force=options.force,
        tolerance=options.tolerance,
        inputs=options.input,
        keep_variables=options.keep_variables,
    )
    print(bake.as_text(baked))
    return 0


def _verify(options: argparse.Namespace) -> int:
    from exporting import manifest

    differences = manifest.differences(options.directory)
    print("\n".join(differences) or f"{options.directory}: every file is as it was exported")
    return 1 if differences else 0


if __name__ == "__main__":
    sys.exit(main())
