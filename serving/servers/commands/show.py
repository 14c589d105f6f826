"""Print the signatures of a SavedModel, with a request for each: `python -m serving show DIR`."""

import argparse
import shlex
import sys
from pathlib import Path

from serving.core import settings
from serving.core.errors import LoadError
from serving.pipeline import shown
from serving.protocols import tensorflow_serving
from serving.savedmodel.signature import DEFAULT, Signature, TensorSpec, shape_text
from serving.savedmodel.source import Source

LONGEST_EXAMPLE = 2000  # characters
PORT = 8080  # of the commands that are shown


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command."""
    parser.epilog = "example: python -m serving show model/"
    parser.add_argument("directory", type=Path, nargs="?", metavar="DIR", help="the SavedModel (default: MODEL_DIR)")


def main(options: argparse.Namespace) -> int:
    """Print the signatures of a model; return the exit status."""
    try:
        print(show(settings.folder(options.directory)), flush=True)
    except (LoadError, settings.SettingError) as error:
        model = f"{options.directory or 'MODEL_DIR'}: " if isinstance(error, LoadError) else ""
        print(f"serving: {model}{error}", file=sys.stderr)
        return 1
    return 0


def show(directory: Path) -> str:
    """Return what the SavedModel in `directory` offers, for people, with a request for each signature."""
    source = Source(directory, "model")
    contents = source.contents
    lines = [
        f"{directory}: version {source.version}, tags {', '.join(contents.tags)}, "
        f"written by TensorFlow {contents.tensorflow_version or 'of unknown version'}"
        f"{'; a twin for LiteRT' if source.light else ''}"
    ]
    if source.card:
        lines += ["card: " + ", ".join(f"{name.replace('_', ' ')} {text}" for name, text in source.card.items())]
    for signature in default_first(source):
        lines += ["", signature.name + ("  (answers when no signature is named)" if signature.name == DEFAULT else "")]
        lines += [
            f"  in   {_line(spec)}{'   may be left out' if name in signature.defaults else ''}"
            for name, spec in signature.inputs.items()
        ]
        lines += [f"  out  {_line(spec)}" for spec in signature.outputs.values()]
        if signature.refusal:
            lines.append(f"  cannot be called: {signature.refusal}")
        else:
            label = "try " if shown.exported(source, signature) else "form"
            lines.append(f"  {label} {curl(source, signature, PORT)}")
    return "\n".join(lines)


def default_first(source: Source) -> list[Signature]:
    """Return the signatures but TensorFlow's own, such as __saved_model_init_op."""
    signatures = [signature for signature in source.signatures.values() if not signature.name.startswith("__")]
    return sorted(signatures, key=lambda signature: signature.name != DEFAULT)


def _line(spec: TensorSpec) -> str:
    return f"{spec.name:<20} {spec.dtype.label:<10} {shape_text(spec.shape)}"


def curl(source: Source, signature: Signature, port: int) -> str:
    """Return a command: the exporter's example; else the form of a request, which says that it has not been tried."""
    body = shown.exported(source, signature).decode()
    untried = ""
    if not body:
        if shown.is_complex(signature):
            return "none: JSON has no complex numbers"
        if text := shown.form(source, signature):
            body, _, meaning = text.partition(", where ")
            return f"curl localhost:{port} -d {shlex.quote(body)}    # {meaning}"
        body = tensorflow_serving.example(signature, source.examples.get(signature.name)).decode()
        untried = "    # not tried: values of the declared types and shapes"
    if len(body) <= LONGEST_EXAMPLE:
        return f"curl localhost:{port} -d {shlex.quote(body)}{untried}"
    inputs = ", ".join(f"{spec.name} {spec.dtype.label} {shape_text(spec.shape)}" for spec in signature.inputs.values())
    return f"curl localhost:{port} -d @request.json    # a body of {len(body):,} bytes: {inputs}"
