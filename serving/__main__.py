"""Look at a model, try it, score files with it, and plan its deployment."""

import argparse
import os
import shlex
import signal
import sys
from pathlib import Path

from serving import __version__
from serving.core import settings, terminal
from serving.core.errors import LoadError
from serving.pipeline import shown
from serving.protocols import tensorflow_serving
from serving.savedmodel.signature import DEFAULT, Signature, TensorSpec, shape_text
from serving.savedmodel.source import Source
from serving.servers import connections

LONGEST_EXAMPLE = 2000


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
    for signature in _default_first(source):
        lines += ["", signature.name + ("  (answers when no signature is named)" if signature.name == DEFAULT else "")]
        lines += [
            f"  in   {_line(spec)}{'   may be left out' if name in signature.defaults else ''}"
            for name, spec in signature.inputs.items()
        ]
        lines += [f"  out  {_line(spec)}" for spec in signature.outputs.values()]
        if signature.refusal:
            lines.append(f"  cannot be called: {signature.refusal}")
        else:
            what = "try " if shown.exported(source, signature) else "form"
            lines.append(f"  {what} {_curl(source, signature, 8080)}")
    return "\n".join(lines)


def _default_first(source: Source) -> list[Signature]:
    """Return the signatures but TensorFlow's own, such as __saved_model_init_op."""
    shown = [signature for signature in source.signatures.values() if not signature.name.startswith("__")]
    return sorted(shown, key=lambda signature: signature.name != DEFAULT)


def _line(spec: TensorSpec) -> str:
    return f"{spec.name:<20} {spec.dtype.label:<10} {shape_text(spec.shape)}"


def _curl(source: Source, signature: Signature, port: int) -> str:
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


def banner(port: int) -> str:
    """Return what a person sees before the server starts: what is served, and a request to paste."""
    options = settings.current()
    if isinstance(options.model_dir, str):
        return f"Serving {options.model_dir} as {options.model_name!r}, fetched by the first request.\n"
    source = Source(options.model_dir, options.model_name)
    signatures = [signature for signature in _default_first(source) if signature.refusal is None]
    if not signatures:
        raise LoadError("expected a signature that can be called, got none")
    names = ", ".join(signature.name for signature in signatures)
    served = f"Serving {os.path.relpath(source.directory)} as {source.name!r}, version {source.version} ({names})."
    what = "Try" if shown.exported(source, signatures[0]) else "The form of a request"
    return f"{served} {what}:\n\n  {_curl(source, signatures[0], port)}\n"


def _banner(port: int, process: int | None) -> int:
    """Print the banner: now, or when the server of a process that is being started listens."""
    text = banner(port)  # before anything else: it says what is wrong with the model
    if process is None:
        print(text, flush=True)
        return 0
    if connections.is_taken(port):
        print(
            f"serving: port {port} is in use: another program listens there; choose another: PORT=8081", file=sys.stderr
        )
        return 1
    if os.fork():
        return 0
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    if connections.wait_for(port, process):
        print(text, flush=True)
    os._exit(0)


REPLAY = """\
example:  python -m serving replay http://localhost:8080 model/
          python -m serving replay https://HOST --header "Authorization: Bearer $(gcloud auth print-identity-token)"
exit status:  0 the answers are TensorFlow's, 1 they differ, 2 there is nothing to send"""


def _replay(options: argparse.Namespace) -> int:
    from serving.servers.commands.replay import ReplayError, replay

    wrong = 0
    try:
        directory = settings.folder(options.directory)
        for signature, problem in replay(options.url, directory, options.name, options.header):
            wrong += problem is not None
            print(f"{signature}: {problem or 'answered as by TensorFlow'}", flush=True)
    except (ReplayError, settings.SettingError) as error:
        print(f"serving: {error}", file=sys.stderr)
        return 2
    return 1 if wrong else 0


def _check_apart(directory: str | None) -> int:
    """Check in a child process: inputs that are made up may make TensorFlow abort."""
    try:
        return terminal.apart("serving", lambda: _check(directory))
    except terminal.DiedError as error:
        place = directory or settings.current().model_dir
        print(
            f"serving: {place}: the process that tried it died of {error}; a request like it would end a server: "
            "export the model with examples=, which are then tried instead of generated inputs",
            file=sys.stderr,
        )
        return 1


def _check(directory: str | None) -> int:
    from serving.servers.commands.check import UnprovedError, check  # loads what the other commands do not need

    place: Path | str = directory or "MODEL_DIR"
    try:
        current = settings.current()
        place = directory or current.model_dir
        if str(place).startswith("gs://"):
            print(f"{place}: in a bucket; it is checked by the instance that loads it")
        else:
            print(f"{place}: {check(Path(place), current)}")
    except (LoadError, settings.SettingError) as error:
        print(f"serving: {f'{place}: ' if isinstance(error, LoadError) else ''}{error}", file=sys.stderr)
        return 1
    except UnprovedError as error:
        print(f"serving: {place}: {error}", file=sys.stderr)
        return UNPROVED
    return 0


UNPROVED = 3  # exit status: the model loads, and nothing shows that it answers
CHECK = """\
example:  python -m serving check model/
exit status:  0 it answers, 1 it is not served or is not a pure function, 3 no signature was seen to answer"""
NOT_DEPLOYED = {"plan", "verify"}  # commands that an upload leaves out


def _tool(name: str, arguments: list[str]) -> int:
    """Run a command of tools/, which is not deployed."""
    try:
        if name == "plan":
            from tools.plan.command import main
        else:
            from tools.verify.command import main
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != "tools":
            raise
        print(f"serving: {name}: the tools/ folder is not here; it is not deployed", file=sys.stderr)
        return 1 if name == "plan" else 2
    return main(arguments)


def _parser() -> tuple[argparse.ArgumentParser, argparse.ArgumentParser]:
    """Return the parser of the command line, and that of `score`, which adds its own arguments."""
    parser = argparse.ArgumentParser(prog="python -m serving", description=__doc__)
    parser.add_argument("--version", action="version", version=f"stateless-serving {__version__}")
    commands = parser.add_subparsers(dest="command", required=True)
    shows = commands.add_parser(
        "show",
        help="list the signatures of a SavedModel, with a request for each",
        epilog="example: python -m serving show model/",
    )
    shows.add_argument("directory", type=Path, nargs="?", metavar="DIR", help="default: MODEL_DIR")
    checks = commands.add_parser(
        "check", help="load a model and run its examples, or generated inputs: does it answer?",
        formatter_class=argparse.RawDescriptionHelpFormatter, epilog=CHECK,
    )  # fmt: skip
    checks.add_argument("directory", nargs="?", metavar="DIR", help="default: MODEL_DIR")
    banners = commands.add_parser(
        "banner", help="print what MODEL_DIR serves, and a request to paste",
        epilog="example: MODEL_DIR=model/ python -m serving banner --port 8080",
    )  # fmt: skip
    banners.add_argument("--port", type=int, default=8080)
    banners.add_argument("--while", dest="process", type=int, metavar="PID", help=(
        "fail if the port is in use; otherwise print once a server listens there, if PID has not ended"))  # fmt: skip
    replays = commands.add_parser(
        "replay", help="send a server the example requests of a model, and compare its answers",
        formatter_class=argparse.RawDescriptionHelpFormatter, epilog=REPLAY,
    )  # fmt: skip
    replays.add_argument("url", metavar="URL", help="the server: http://localhost:8080")
    replays.add_argument("directory", type=Path, nargs="?", metavar="DIR", help=(
        "the model that is served there, or a copy of it (default: MODEL_DIR)"))  # fmt: skip
    replays.add_argument("--name", default="model", help="the MODEL_NAME of the server (default: model)")
    replays.add_argument("--header", action="append", default=[], metavar="'NAME: VALUE'", help="may be repeated")
    commands.add_parser("plan", help="estimate instances, latency and cost on Cloud Run")
    commands.add_parser("verify", help="test with real servers whether answers depend on the request alone")
    scores = commands.add_parser("score", help="predict every row of a file: JSON lines, CSV or a picture")
    return parser, scores


def main(arguments: list[str] | None = None) -> int:
    """Run one command; return its exit status."""
    parser, scores = _parser()
    given = sys.argv[1:] if arguments is None else arguments
    if given[:1] == ["score"]:
        from serving.servers.commands import score  # loads what the other commands do not need

        score.add_arguments(scores)
        return score.main(parser.parse_args(given))
    if given and given[0] in NOT_DEPLOYED:
        return _tool(given[0], given[1:])
    options = parser.parse_args(given)
    if options.command == "replay":
        return _replay(options)
    if options.command == "check":
        # Given arguments, it is called by a program, whose sessions would not survive a fork.
        return _check_apart(options.directory) if arguments is None else _check(options.directory)
    try:
        if options.command == "banner":
            return _banner(options.port, options.process)
        print(show(settings.folder(options.directory)), flush=True)
    except (LoadError, settings.SettingError) as error:
        place = (getattr(options, "directory", None) or "MODEL_DIR") if isinstance(error, LoadError) else ""
        print(f"serving: {f'{place}: ' if place else ''}{error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(terminal.run("serving", main))
