"""Would this model be served? `python -m serving check DIR` finds out before anything is deployed.

It loads the model as the server does and sends each signature's example through decode → run → encode; where the
exporter left the answer, it has to come out. It is stricter than the server in one thing: a model that is no pure
function of its inputs is refused, unless DANGEROUS_OPS=allow.
"""

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from serving import files, manifest
from serving.errors import InputError, LoadError, RunError
from serving.http import BadRequest
from serving.model import Model, Source, judge_files, judge_parts, open_session
from serving.protocols import tensorflow_serving
from serving.protocols.call import Context
from serving.purity import impurities
from serving.replay import TOLERANCE, difference
from serving.settings import Settings
from serving.signature import Signature

COARSE = 0.05  # of the largest number: where an output has 16 bits or fewer, other CPUs round by more than TOLERANCE


def check(directory: Path, options: Settings) -> str:
    """Return one line on the model in `directory`; raise LoadError where it cannot be served, or should not be."""
    source = Source(directory, options.model_name)
    _refuse_impure(source, options)
    _refuse_unreadable(source.directory)
    manifest.check(source.directory, options.manifest)
    model = Model(source, open_session(source, replace(options, model_dir=directory)))
    right = answers(source.directory)
    try:
        callable_ = {name: one for name, one in model.signatures.items() if one.refusal is None}
        tried = [name for name, one in callable_.items() if _answers(model, one, right.get(name))]
    finally:
        model.close()
    size = sum(path.stat().st_size for path in source.directory.rglob("*") if path.is_file())
    told = f"{', '.join(tried)} answered" if tried else "no example to try"
    return f"version {source.version}, {told}, {max(size >> 20, 1)} MiB"


def _refuse_impure(source: Source, options: Settings) -> None:
    if options.dangerous_ops == "refuse":
        judge_files(source)
    if source.light:
        return  # only a pure model becomes a twin
    # The operations of custom libraries are on no list: whoever names the library vouches for them.
    allowed = {"unknown"} if options.custom_op_libraries else set()
    uses = [use for use in impurities(source.directory) if use.kind not in allowed]
    if options.dangerous_ops == "refuse":
        judge_parts(source)
    if uses and options.dangerous_ops == "refuse":
        more = f", and {len(uses) - 1} more" if len(uses) > 1 else ""
        raise LoadError(f"it is no pure function: {uses[0]}{more}; DANGEROUS_OPS=allow serves it still")


def _refuse_unreadable(directory: Path) -> None:
    for name in files.served(directory):
        with suppress(FileNotFoundError):
            files.opened(directory, name, files.ANY).close()


def answers(directory: Path) -> Mapping[str, Any]:
    """Return what TensorFlow answered to the exporter's examples, by signature; nothing where nobody wrote it down."""
    try:
        found = json.loads(files.content(directory, "assets.extra/answers.json") or b"")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def otherwise(right: Any, answer: bytes, signature: Signature) -> str | None:
    """Say where an answer differs from the exporter's by more than other CPUs do, or None."""
    coarse = any(spec.dtype.kind == "f" and spec.dtype.numpy.itemsize <= 2 for spec in signature.outputs.values())
    return difference(right, json.loads(answer), COARSE if coarse else TOLERANCE)


def _answers(model: Model, signature: Signature, right: Any) -> bool:
    """Ask for the exporter's example. Where there is none, zeros are sent: that a model refuses those says nothing."""
    saved = model.source.examples.get(signature.name)
    try:
        body = tensorflow_serving.example(signature, saved)
        context = Context(name=model.name, version=model.version, labels=model.source.labels)
        call = tensorflow_serving.decode(body, model.signatures, context)
        answer = tensorflow_serving.encode(call, model.run(call.signature, call.inputs))
    except (BadRequest, InputError, RunError) as error:
        if saved is None:
            return False
        raise LoadError(f"signature {signature.name!r} refuses its own example: {error}") from None
    if saved is not None and right is not None and (wrong := otherwise(right, answer.body, signature)):
        text = f"signature {signature.name!r} answers its example otherwise than when it was exported: {wrong}"
        raise LoadError(text)
    return True
