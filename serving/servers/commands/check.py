"""Check before a deployment whether a model can be served: `python -m serving check DIR`.

It loads the model as the server does and sends each signature's example through decode → run → encode; the result must
equal the answer that the exporter stored, if any. For a signature without an example, inputs are generated until a run
succeeds; a model without a signature that is shown to answer fails the check. In one more point the check is stricter
than the server: it refuses a model that is not a pure function of its inputs, unless DANGEROUS_OPS=allow.
"""

import argparse
import json
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from serving.core import files, settings, terminal
from serving.core.comparison import TOLERANCE, difference
from serving.core.errors import InputError, LoadError, RunError
from serving.core.http import HttpError
from serving.core.settings import Settings
from serving.protocols import requests, tensorflow_serving
from serving.protocols.call import Context
from serving.runtime.batch_sizes import of_signature
from serving.runtime.batching import AUTO_ROWS
from serving.runtime.model import Model
from serving.runtime.sessions import judge_files, judge_operations, open_session
from serving.runtime.trying import Tried, tried
from serving.savedmodel.folder import manifest
from serving.savedmodel.safety.purity import DANGEROUS, against, impurities
from serving.savedmodel.signature import DEFAULT, Signature, refusals
from serving.savedmodel.source import Source

WORTH = 1.25  # times as many rows a second in batches: less is not said
CURE = "export the model with examples=, so that there is a request that works"
COARSE = 0.05  # of the largest number: where an output has 16 bits or fewer, other CPUs round by more than TOLERANCE

UNPROVED = 3  # exit status: the model loads, and nothing shows that it answers
EPILOG = """\
example:  python -m serving check model/
exit status:  0 the model answers, 1 it cannot be served or is not a pure function, 3 no signature was seen to answer"""


class UnprovedError(Exception):
    """The model loads, but no signature could be shown to answer."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command."""
    parser.formatter_class, parser.epilog = argparse.RawDescriptionHelpFormatter, EPILOG
    parser.add_argument("directory", nargs="?", metavar="DIR", help="the SavedModel (default: MODEL_DIR)")


def main(options: argparse.Namespace) -> int:
    """Check a model, in a child process where `may_fork`: generated inputs may make TensorFlow abort."""
    if not options.may_fork:
        return _print_check(options.directory)
    try:
        current = settings.current()
        return terminal.apart("serving", lambda: _print_check(options.directory), current.run_timeout)
    except settings.SettingError as error:
        print(f"serving: {error}", file=sys.stderr)
        return 1
    except terminal.DiedError as error:
        model = options.directory or current.model_dir
        print(f"serving: {model}: {_death(error)}", file=sys.stderr)
        return 1


def _death(error: terminal.DiedError) -> str:
    """Return why the process that tried the model did not come to an end."""
    if error.runs:
        return (
            f"the process that tried it {error}; a request like it would end a server: export the model with "
            "examples=, which are then tried instead of generated inputs"
        )
    return f"the process that loaded it {error}; a server would, too (RUN_TIMEOUT: the seconds that a check may take)"


def _print_check(directory: str | None) -> int:
    model: Path | str = directory or "MODEL_DIR"
    try:
        current = settings.current()
        model = directory or current.model_dir
        if str(model).startswith("gs://"):
            print(f"{model}: in a bucket; it is checked by the instance that loads it")
        else:
            print(f"{model}: {check(Path(model), current)}")
    except (LoadError, settings.SettingError) as error:
        print(f"serving: {f'{model}: ' if isinstance(error, LoadError) else ''}{error}", file=sys.stderr)
        return 1
    except UnprovedError as error:
        print(f"serving: {model}: {error}", file=sys.stderr)
        return UNPROVED
    return 0


def check(directory: Path, options: Settings) -> str:
    """Return one line about the model in `directory`.

    Raise LoadError where it cannot or should not be served, UnprovedError where no signature could be shown to answer.
    """
    source = Source(directory, options.model_name)
    _refuse_impure(source, options)
    _refuse_unreadable(source.directory)
    manifest.check(source.directory, options.manifest)
    model = Model(source, open_session(source, options._replace(model_dir=directory)))
    right = answers(source.directory)
    together = ""
    try:
        callable_ = {name: signature for name, signature in model.signatures.items() if _must_answer(signature)}
        problems = {name: _problem(model, signature, right.get(name)) for name, signature in callable_.items()}
        if model.source.light or not impurities(source.directory):
            answered = [name for name, problem in problems.items() if problem is None]
            together = (
                _together(model, model.signatures[DEFAULT if DEFAULT in answered else answered[0]]) if answered else ""
            )
    finally:
        model.close()
    proved = [name for name, problem in problems.items() if problem is None]
    unanswered = {name: problem for name, problem in problems.items() if problem is not None}
    unproved = "; ".join(f"{name!r}: {problem.reason}" for name, problem in unanswered.items())
    if not proved:
        cure = "" if all(problem.fault for problem in unanswered.values()) else f"; {CURE}"
        raise UnprovedError(f"no signature could be shown to answer: {unproved or 'none can be called'}{cure}")
    size = sum(path.stat().st_size for path in source.directory.rglob("*") if path.is_file())
    line = f"version {source.version}, {', '.join(proved)} answered, {max(size >> 20, 1)} MiB{together}"
    if uncallable := refusals(model.signatures):
        line = f"{line}; cannot be called: {'; '.join(uncallable)}"
    return f"{line}; not shown to answer: {unproved}" if unproved else line


def _together(model: Model, signature: Signature) -> str:
    """Say what dynamic batching would bring, nothing where it brings little."""
    outcome = of_signature(model, signature, AUTO_ROWS, exact=False)
    if not outcome.sizes or outcome.gain < WORTH:
        return ""
    with_auto = 1 in outcome.sizes or signature.name in model.source.smallest_runs
    rows = "auto" if with_auto else AUTO_ROWS
    return f"; {signature.name} runs {outcome.gain:.1f} times as many rows a second in batches (BATCH_ROWS={rows})"


def _must_answer(signature: Signature) -> bool:
    """Return whether a signature must answer: TensorFlow's own, such as __saved_model_init_op, need not."""
    return signature.refusal is None and not signature.name.startswith("__")


def _refuse_impure(source: Source, options: Settings) -> None:
    if options.dangerous_ops == "refuse":
        judge_files(source)
    if source.light:
        return  # a twin is made of a pure model only
    impure = impurities(source.directory)
    judge_operations(impure, options)
    refused = against(impure, bool(options.custom_op_libraries))
    if refused and options.dangerous_ops == "refuse":
        more = f", and {len(refused) - 1} more" if len(refused) > 1 else ""
        dangerous = any(use.kind in DANGEROUS for use in refused)
        way = "DANGEROUS_OPS=allow serves it anyway" if dangerous else "a server serves it, with a warning in its log"
        raise LoadError(f"it is not a pure function: {refused[0]}{more}; {way}")


def _refuse_unreadable(directory: Path) -> None:
    for name in files.served(directory):
        with suppress(FileNotFoundError):
            files.opened(directory, name, files.ANY).close()


def answers(directory: Path) -> Mapping[str, Any]:
    """Return TensorFlow's answers to the exporter's examples, by signature; empty where they are not stored."""
    try:
        stored = json.loads(manifest.extra(directory, "answers.json") or b"")
    except ValueError:
        return {}
    return stored if isinstance(stored, dict) else {}


def deviation(right: Any, answer: bytes, signature: Signature) -> str | None:
    """Return where an answer differs from the exporter's by more than CPUs differ, or None."""
    coarse = any(spec.dtype.kind == "f" and spec.dtype.numpy.itemsize <= 2 for spec in signature.outputs.values())
    return difference(right, json.loads(answer), COARSE if coarse else TOLERANCE)


def _problem(model: Model, signature: Signature, right: Any) -> Tried | None:
    """Return None where the signature answers its example, or generated inputs; else the failed trial."""
    saved = model.source.examples.get(signature.name)
    if saved is None:
        return _generated_problem(model, signature)
    try:
        answer = _answer(model, tensorflow_serving.example(signature, saved))
    except (HttpError, InputError, RunError) as error:
        raise LoadError(f"signature {signature.name!r} refuses its own example: {error}") from None
    if right is not None and (wrong := deviation(right, answer, signature)):
        text = f"signature {signature.name!r} answers its example differently than when it was exported: {wrong}"
        raise LoadError(text)
    return None


def _generated_problem(model: Model, signature: Signature) -> Tried | None:
    trial = tried(model, signature, model.source.recipes(signature))
    if trial.inputs is None:
        return trial
    if any(spec.dtype.kind == "c" for side in (signature.inputs, signature.outputs) for spec in side.values()):
        return None  # JSON has no complex numbers
    reason = ""
    # A signature whose outputs have another number of rows than its inputs answers in columns only.
    for body in (requests.predict(signature, trial.inputs), requests.in_columns(signature, trial.inputs)):
        try:
            _answer(model, body)
        except (HttpError, InputError, RunError) as error:
            reason = str(error)
        else:
            return None
    return Tried(None, f"the answer is not JSON: {reason}")


def _answer(model: Model, body: bytes) -> bytes:
    context = Context(name=model.name, version=model.version, labels=model.source.labels, limits=settings.current())
    call = tensorflow_serving.decode(body, model.signatures, context)
    return bytes(tensorflow_serving.encode(call, model.run(call.signature, call.inputs)).body)
