"""Print the address of a started server and a request to paste: `python -m serving banner --port 8080`."""

import argparse
import os
import signal
import sys

from serving.core import settings
from serving.core.errors import LoadError
from serving.pipeline import shown
from serving.savedmodel.source import Source
from serving.servers import connections
from serving.servers.commands.show import curl, default_first


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command."""
    parser.epilog = "example: MODEL_DIR=model/ python -m serving banner --port 8080"
    parser.add_argument("--port", type=int, default=8080, help="the port of the server (default: 8080)")
    parser.add_argument(
        "--while", dest="process", type=int, metavar="PID",
        help="fail if the port is in use; otherwise print once a server listens there, if PID has not ended",
    )  # fmt: skip


def main(options: argparse.Namespace) -> int:
    """Print the banner: now, or when the server of a process that is being started listens."""
    try:
        text = banner(options.port)  # before anything else: it says what is wrong with the model
    except (LoadError, settings.SettingError) as error:
        print(f"serving: {'MODEL_DIR: ' if isinstance(error, LoadError) else ''}{error}", file=sys.stderr)
        return 1
    if options.process is None:
        print(text, flush=True)
        return 0
    if connections.is_taken(options.port):
        print(
            f"serving: port {options.port} is in use: another program listens there; choose another: PORT=8081",
            file=sys.stderr,
        )
        return 1
    if os.fork():
        return 0
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    if connections.wait_for(options.port, options.process):
        print(text, flush=True)
    os._exit(0)


def banner(port: int) -> str:
    """Return what is served, and a request to paste; raise LoadError where no signature can be called."""
    options = settings.current()
    if isinstance(options.model_dir, str):
        return f"Serving {options.model_dir} as {options.model_name!r}, fetched by the first request.\n"
    source = Source(options.model_dir, options.model_name)
    signatures = [signature for signature in default_first(source) if signature.refusal is None]
    if not signatures:
        raise LoadError("expected a signature that can be called, got none")
    names = ", ".join(signature.name for signature in signatures)
    served = f"Serving {os.path.relpath(source.directory)} as {source.name!r}, version {source.version} ({names})."
    label = "Try" if shown.exported(source, signatures[0]) else "The form of a request"
    return f"{served} {label}:\n\n  {curl(source, signatures[0], port)}\n"
