"""Look at a model, try it, score files with it, and plan its deployment."""

import argparse
import sys
from typing import Protocol

from serving import __version__
from serving.core import terminal

# fmt: off
COMMANDS = {
    "show":     "list the signatures of a SavedModel, with a request for each",
    "check":    "load a model and run its examples, or generated inputs: does it answer?",
    "banner":   "print what MODEL_DIR serves, and a request to paste",
    "replay":   "send a server the example requests of a model, and compare its answers",
    "score":    "predict every row of a file: JSON lines, CSV or a picture",
    "evaluate": "compare logged predictions with labels that came later",
    "plan":     "estimate instances, latency and cost on Cloud Run",
    "verify":   "test with real servers whether answers depend on the request alone",
}
# fmt: on


class Command(Protocol):
    """A module of one command."""

    def add_arguments(self, parser: argparse.ArgumentParser) -> None: ...

    def main(self, options: argparse.Namespace) -> int: ...


def _command(name: str) -> Command:
    """Import the module of a command: it loads what the others do not need."""
    if name == "show":
        from serving.servers.commands import show

        return show
    if name == "check":
        from serving.servers.commands import check

        return check
    if name == "banner":
        from serving.servers.commands import banner

        return banner
    if name == "replay":
        from serving.servers.commands import replay

        return replay
    if name == "score":
        from serving.servers.commands import score

        return score
    if name == "evaluate":
        import tools.evaluate.command

        return tools.evaluate.command
    if name == "plan":
        import tools.plan.command

        return tools.plan.command
    import tools.verify.command

    return tools.verify.command


def main(arguments: list[str] | None = None) -> int:
    """Run one command; return its exit status."""
    parser = argparse.ArgumentParser(prog="python -m serving", description=__doc__)
    parser.add_argument("--version", action="version", version=f"stateless-serving {__version__}")
    subparsers = parser.add_subparsers(dest="command", required=True)
    given = sys.argv[1:] if arguments is None else arguments
    command: Command | None = None
    for name, summary in COMMANDS.items():
        subparser = subparsers.add_parser(name, help=summary, description=summary)
        if given[:1] == [name]:
            try:
                command = _command(name)
            except ModuleNotFoundError as error:
                if (error.name or "").partition(".")[0] != "tools":
                    raise
                print(f"serving: {name}: the tools/ folder is not here; it is not deployed", file=sys.stderr)
                return 2 if name == "verify" else 1
            command.add_arguments(subparser)
    # A caller that passes arguments may hold TensorFlow sessions, which do not survive a fork.
    options = parser.parse_args(given, argparse.Namespace(may_fork=arguments is None))
    if command is None:
        parser.error(f"expected a command as the first argument, got {given[0]!r}")
    return command.main(options)


if __name__ == "__main__":
    sys.exit(terminal.run("serving", main))
