"""The command line: `python -m exporting audit DIR`, `bake DIR OUT`, `keras FILE OUT`, `verify DIR`."""

import argparse
import math
import sys
from pathlib import Path
from typing import Any

from exporting.refusal import Refusal, Unreadable
from serving.core import terminal
from serving.core.errors import LoadError
from serving.core.settings import SettingError
from serving.savedmodel.folder import versions

EPILOG = {
    "audit": """\
example:  python -m exporting audit model/
exit status:  0 pure, 1 not pure, 2 the model cannot be read""",
    "bake": """\
example:  python -m exporting bake model/ baked/
          python -m exporting bake --litert --signature pixels model/ twin/
exit status:  0 baked, 1 refused, 2 the model cannot be read""",
    "keras": """\
example:  python -m exporting keras model.keras exported/
exit status:  0 exported, 1 refused, 2 the file cannot be read""",
    "verify": """\
example:  python -m exporting verify model/
exit status:  0 as exported, 1 some files differ, 2 no manifest""",
}


def main(arguments: list[str] | None = None) -> int:
    """Run one command; return its exit status."""
    options = _parser().parse_args(arguments)
    try:
        if "directory" in options:
            options.directory = _served(options.directory)
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
    parser = argparse.ArgumentParser(
        prog="python -m exporting", description="Check and optimize a SavedModel before it is deployed."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    audit = _command(commands, "audit", "check that a SavedModel is a pure function", _audit)
    audit.add_argument("--json", action="store_true", help="print the report as JSON")
    audit.add_argument("--no-run", action="store_true", help="read the graph only, do not run the model")
    bake = _command(commands, "bake", "write a SavedModel that starts and runs faster, with the same answers", _bake)
    bake.add_argument("out", type=Path, metavar="OUT", help="the folder to write")
    bake.add_argument("--force", action="store_true", help="replace OUT if it exists")
    bake.add_argument("--tolerance", type=float, default=None, metavar="T", help=(
        "how far floating-point outputs may differ from the original's, relative to the output's largest number "
        "(default: 1e-4; half precision is held to its own)"))  # fmt: skip
    bake.add_argument("--input", type=Path, action="append", default=[], metavar="FILE", help=(
        "inputs to compare, besides the generated ones: an .npz of arrays named as a signature's inputs, or a predict "
        "request in a .json; may be repeated"))  # fmt: skip
    variables = bake.add_mutually_exclusive_group()
    variables.add_argument("--keep-variables", dest="keep", action="store_true", default=None, help=(
        "keep the variables in their own file; the default above 100 MB, because constants take five times their "
        "size in memory, above 8 MB if folding them saves no operation, and for large weights of matrix products and "
        "embeddings"))  # fmt: skip
    variables.add_argument("--fold-variables", dest="keep", action="store_false", default=None, help=(
        "fold all of them into constants; protobuf's limit is 2 GB"))  # fmt: skip
    bake.add_argument("--litert", action="store_true", help=(
        "write a twin for LiteRT instead, which is served without TensorFlow (requirements/light.txt)"))  # fmt: skip
    bake.add_argument("--signature", metavar="NAME", help=(
        "with --litert: the signature that answers as serving_default, if that one has no twin"))  # fmt: skip
    bake.add_argument("--largest", type=float, metavar="N", help=(
        "with --litert: compare answers only for inputs up to this magnitude, if others differ"))  # fmt: skip
    file = "a model that model.save(FILE) wrote"
    keras = _command(commands, "keras", "convert a .keras file to a SavedModel", _keras, ("file", "FILE", file))
    keras.add_argument("out", type=Path, metavar="OUT", help="the folder to write")
    keras.add_argument("--force", action="store_true", help="replace OUT if it exists")
    _command(commands, "verify", "compare every file with the manifest of the export", _verify)
    return parser


SAVED_MODEL = ("directory", "DIR", "a SavedModel: the folder of saved_model.pb, or a folder of numbered versions")


def _command(
    commands: Any, name: str, text: str, run: Any, takes: tuple[str, str, str] = SAVED_MODEL
) -> argparse.ArgumentParser:
    formatter = argparse.RawDescriptionHelpFormatter
    parser: argparse.ArgumentParser = commands.add_parser(
        name, help=text, description=text, epilog=EPILOG[name], formatter_class=formatter
    )
    parser.add_argument(takes[0], type=Path, metavar=takes[1], help=takes[2])
    parser.set_defaults(run=run)
    return parser


def _served(directory: Path) -> Path:
    """Return the folder of the model that the server would serve: in a folder of versions, the highest complete one."""
    try:
        return versions.chosen(directory).directory
    except (LoadError, OSError) as error:
        raise Unreadable(f"{directory}: {error}") from None


def _audit(options: argparse.Namespace) -> int:
    from exporting import report
    from exporting.audit import audit

    audited = audit(options.directory, run=not options.no_run)
    print(report.as_json(audited) if options.json else report.as_text(audited))
    return 0 if audited.pure else 1


def _bake(options: argparse.Namespace) -> int:
    from exporting import bake

    if options.litert:
        return _twin(options)
    if options.signature is not None:
        raise Refusal("--signature: expected --litert with it; a baked model keeps all signatures under their names")
    if options.largest is not None:
        raise Refusal("--largest: expected --litert with it; a baked model computes as the original does")
    baked = bake.bake(
        options.directory,
        options.out,
        force=options.force,
        tolerance=options.tolerance,
        inputs=options.input,
        keep_variables=options.keep,
    )
    print(bake.as_text(baked))
    return 0


def _twin(options: argparse.Namespace) -> int:
    from exporting import bake, litert

    if options.keep is not None:
        raise Refusal("--keep-variables, --fold-variables: not with --litert; a twin has its variables inside")
    twin = litert.convert(
        options.directory,
        options.out,
        force=options.force,
        tolerance=options.tolerance,
        inputs=options.input,
        default=options.signature,
        largest=math.inf if options.largest is None else options.largest,
    )
    print(bake.as_text(twin))
    return 0


def _keras(options: argparse.Namespace) -> int:
    from exporting.export import export
    from exporting.function import from_keras_file

    exported = export(from_keras_file(options.file), options.out, force=options.force)
    print(f"{exported.folder}: {', '.join(exported.signatures)}; {exported.compared} calls are answered as by Keras")
    return 0


def _verify(options: argparse.Namespace) -> int:
    from exporting import manifest

    differences = manifest.differences(options.directory)
    print("\n".join(differences) or f"{options.directory}: every file is as it was exported")
    return 1 if differences else 0


if __name__ == "__main__":
    sys.exit(terminal.run("exporting", main))
