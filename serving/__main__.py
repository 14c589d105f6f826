"""The command line: `python -m serving show DIR` tells what a SavedModel offers, without loading it."""

import argparse
import os
import shlex
import sys
from pathlib import Path

from serving import settings
from serving.errors import LoadError
from serving.model import Source
from serving.protocols import tensorflow_serving
from serving.signature import DEFAULT, Signature, TensorSpec, shape_text

LONGEST_EXAMPLE = 2000


def show(directory: Path) -> str:
    """Return what the SavedModel in `directory` offers, for people, with a request for each signature."""
    source = Source(directory, "model")
    contents = source.contents
    lines = [
        f"{directory}: version {source.version}, tags {', '.join(contents.tags)}, "
        f"written by TensorFlow {contents.tensorflow_version or 'of unknown version'}"
    ]
    for signature in _default_first(source):
        lines += ["", signature.name + ("  (answers when no signature is named)" if signature.name == DEFAULT else "")]
        lines += [f"  in   {_line(spec)}" for spec in signature.inputs.values()]
        lines += [f"  out  {_line(spec)}" for spec in signature.outputs.values()]
        if signature.refusal:
            lines.append(f"  cannot be called: {signature.refusal}")
        else:
            lines.append(f"  try  {_curl(source, signature, 8080)}")
    return "\n".join(lines)


def _default_first(source: Source) -> list[Signature]:
    """Return the signatures but TensorFlow's own, such as __saved_model_init_op."""
    shown = [signature for signature in source.signatures.values() if not signature.name.startswith("__")]
    return sorted(shown, key=lambda signature: signature.name != DEFAULT)


def _line(spec: TensorSpec) -> str:
    return f"{spec.name:<20} {spec.dtype.label:<10} {shape_text(spec.shape)}"


def _curl(source: Source, signature: Signature, port: int) -> str:
    body = tensorflow_serving.example(signature, source.examples.get(signature.name)).decode()
    if len(body) <= LONGEST_EXAMPLE:
        return f"curl localhost:{port} -d {shlex.quote(body)}"
    inputs = ", ".join(f"{spec.name} {spec.dtype.label} {shape_text(spec.shape)}" for spec in signature.inputs.values())
    return f"curl localhost:{port} -d @request.json    # a body of {len(body):,} bytes: {inputs}"


def banner(port: int) -> str:
    """Return what a person sees before the server starts: what is served, and a request to paste."""
    options = settings.current()
    if isinstance(options.model_dir, str):
        return f"Serving {options.model_dir} as {options.model_name!r}, fetched by the first request.\n"
    source = Source(options.model_dir, options.model_name)
    signatures = [signature for signature in _default_first(source) if signature.refusal is None]
    names = ", ".join(signature.name for signature in signatures)
    served = f"Serving {os.path.relpath(source.directory)} as {source.name!r}, version {source.version} ({names})."
    return f"{served} Try:\n\n  {_curl(source, signatures[0], port)}\n"


def main(arguments: list[str] | None = None) -> int:
    """Run one command; return its exit status."""
    parser = argparse.ArgumentParser(prog="python -m serving", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    shows = commands.add_parser(
        "show", help="what a SavedModel offers", epilog="example: python -m serving show model/"
    )
    shows.add_argument("directory", type=Path, nargs="?", default=settings.ROOT / "model", metavar="DIR")
    banners = commands.add_parser("banner", help="what MODEL_DIR would serve, and a request to paste")
    banners.add_argument("--port", type=int, default=8080)
    options = parser.parse_args(arguments)
    try:
        print(show(options.directory) if options.command == "show" else banner(options.port), flush=True)
    except (LoadError, settings.SettingError) as error:
        place = options.directory if options.command == "show" else "MODEL_DIR" if isinstance(error, LoadError) else ""
        print(f"serving: {f'{place}: ' if place else ''}{error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
