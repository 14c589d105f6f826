"""A model's light twin: the same signatures for LiteRT, so that they can be served without TensorFlow.

The converter converts what LiteRT has operations for; the result is compared with the original before anything is
written. Signatures that LiteRT cannot run are left out, each with its reason, which clients see in errors too.
`serving/savedmodel/folder/twin.py` describes the files of a twin.
"""

import json
import math
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from exporting import agreement, compare, conversion
from exporting.agreement import Reasons
from exporting.derived import (
    PROTOBUF_BYTES,
    ROUNDS,
    Baked,
    ask_original,
    callable_signatures,
    check_graph,
    finish,
    measure,
    say,
)
from exporting.graph import MetaGraph, contents, functions, joined, names, reached, served, signatures
from exporting.inputs import Inputs, exported, given
from exporting.lowering import forget_training, lower, rename_inputs
from exporting.placing import NOT_CARRIED, check_places, copy_folder, folder_beside
from exporting.refusal import Refusal
from exporting.report import size
from exporting.values import bytes_of
from serving.core.errors import LoadError, did_you_mean
from serving.runtime import litert
from serving.runtime.warmup import PLACE as WARMUP
from serving.savedmodel.folder import twin as twin_files
from serving.savedmodel.signature import DEFAULT, Contents, Signature


def convert(
    directory: Path,
    out: Path,
    *,
    force: bool = False,
    tolerance: float | None = None,
    inputs: Iterable[Path] = (),
    default: str | None = None,
    largest: float = math.inf,
    limit: int = PROTOBUF_BYTES,
    rounds: int = ROUNDS,
) -> Baked:
    """Write the twin of the SavedModel in `directory` to `out`; or raise Refusal and write nothing.

    `default` is the signature to serve as serving_default. Without it, LiteRT must run serving_default itself; any
    other signature that it cannot run is left out. Answers are compared over inputs up to `largest`.
    """
    check_places(directory, out, force)
    _open_library()
    conversion.prepare()
    offered = contents(directory)
    graph = served(directory)
    notes = check_graph(directory, graph)
    usable = callable_signatures(offered)
    renamed = rename_inputs(graph)
    reasons = _left_out(directory, graph, usable, default, limit, renamed)
    own = _own_calls(directory, {name: usable[name] for name in usable if name not in reasons}, inputs)
    allowed = compare.TOLERANCE if tolerance is None else tolerance
    changed = any([lower(graph), forget_training(graph), renamed])
    with folder_beside(out) as folder:

        def attempt() -> tuple[Any, Any, Any]:
            """Return the graphs by signature, the remaining signatures, and the calls with the original's answers."""
            with joined(directory, graph, changed) as readable:
                runs = _convert(directory, readable, offered, usable, reasons, default, folder)
            rest = offered._replace(signatures={k: v for k, v in usable.items() if k not in reasons})
            twin_files.write(folder, rest, runs, renamed)
            return runs, rest, ask_original(directory, rest, [call for call in own if call[0] not in reasons])

        wrong: Reasons = {"": ""}
        while wrong:  # each attempt leaves out the signatures that were wrong in the last one
            runs, remaining, questions = attempt()
            result = agreement.compared(directory, folder, questions, remaining, allowed, largest)
            reasons |= (wrong := result.wrong)
        notes += [*questions.notes, *result.notes, *_assertions(graph, remaining)]
        _complete(directory, folder, offered, usable, reasons, default, runs, renamed, notes)
        before, after = measure(directory, folder, questions.timed, rounds)
        twin = Baked(out, "folded", questions.timed[0], before, after, allowed, *result[:2], tuple(notes))
        finish(twin, graph, folder, directory, "bake --litert", force)
    return twin


def _own_calls(directory: Path, usable: dict[str, Signature], files: Iterable[Path]) -> list[tuple[str, Inputs]]:
    """Return the calls that the exporter and the user have stored, signature and inputs."""
    return [*exported(directory, usable), *(call for path in files for call in given(path, usable))]


def _open_library() -> None:
    try:
        litert.open_library()
    except LoadError as error:
        raise Refusal(str(error)) from None


def _left_out(
    directory: Path, graph: Any, usable: Mapping[str, Signature], default: str | None, limit: int,
    renamed: Mapping[str, Mapping[str, str]],
) -> dict[str, str]:  # fmt: skip
    """Return why signatures are left out before the conversion; raise Refusal where none can be converted."""
    if default is not None and default not in usable:
        raise Refusal(f"{directory}: --signature: it has no callable {default!r}{did_you_mean(default, usable)}")
    if (needed := bytes_of(graph)) > limit:
        raise Refusal(f"{directory}: {size(needed)} of variables do not fit LiteRT's 2 GB; it stays with TensorFlow")
    reasons = {name: why for name, signature in usable.items() if (why := _never(signature, renamed.get(name, {})))}
    if default not in (None, DEFAULT) and DEFAULT in usable:
        reasons.setdefault(DEFAULT, "it was not asked for")
    return reasons


def _never(signature: Signature, renamed: Mapping[str, str]) -> str | None:
    """Return why a signature can never be converted, or None."""
    for spec in signature.inputs.values():
        if spec.dtype.kind == "S":
            return (
                f"its input {spec.name!r} holds strings; they stay with TensorFlow, for LiteRT decodes no pictures, "
                "parses no examples and splits no text"
            )
        if spec.shape is None:
            return f"its input {spec.name!r} has no known rank, which LiteRT needs"
        if spec.name == "self" and spec.name not in renamed:
            return "an input is called 'self', which LiteRT's Python interface cannot be given"
    return None


def _convert(
    directory: Path,
    readable: Path,
    offered: Contents,
    usable: Mapping[str, Signature],
    reasons: Reasons,
    default: str | None,
    folder: Path,
) -> dict[str, str]:
    """Write the model of all signatures that can be converted; complete the reasons; raise Refusal where none can.

    Return, for a signature without a graph, the one whose graph runs: of two equal functions the converter keeps one.
    """
    target = folder / twin_files.MODEL
    names = [name for name in usable if name not in reasons]
    say(f"converting {', '.join(names) or 'nothing'}")
    if names and (why := conversion.convert(readable, offered.tags, names, target)):
        for name in names if len(names) > 1 else ():  # find out which of them fail
            if alone := conversion.convert(readable, offered.tags, [name], target):
                reasons[name] = alone
        remaining = [name for name in names if name not in reasons]
        if len(remaining) == len(names) or (
            remaining and (why := conversion.convert(readable, offered.tags, remaining, target))
        ):
            reasons |= dict.fromkeys(remaining, why)
    remaining = [name for name in usable if name not in reasons]
    kept = default or DEFAULT
    if kept in reasons:
        way = f"; --signature NAME chooses another to answer in its place: {', '.join(remaining)}" if remaining else ""
        raise Refusal(f"{directory}: signature {kept!r} has no twin: {reasons[kept]}{way}")
    if not remaining:
        raise Refusal(f"{directory}: no twin: {'; '.join(f'signature {name!r}: {reasons[name]}' for name in reasons)}")
    there = _graphs(target)
    runs = {}
    for name in remaining:
        if name not in there:
            alike = [other for other in remaining if other in there and _face(usable[other]) == _face(usable[name])]
            runs[name] = alike[0] if alike else name  # the comparison shows whether it is the same function
    return runs


def _graphs(model: Path) -> set[str]:
    try:
        return set(litert.open_library().Interpreter(str(model)).get_signature_list())
    except (LoadError, ValueError, RuntimeError) as error:
        raise Refusal(f"LiteRT does not load what the converter made: {error}") from None


def _face(signature: Signature) -> list[Any]:
    """Return the inputs and outputs, which are equal for two signatures of one function."""
    sides = (signature.inputs, signature.outputs)
    return [[(spec.name, spec.dtype.code, spec.shape) for spec in side.values()] for side in sides]


def _assertions(graph: MetaGraph, remaining: Contents) -> Iterable[str]:
    """Yield a note for each signature with assertions, which the converter drops."""
    nodes = {node.name: node for node in graph.graph_def.node}
    for name in remaining.signatures:
        used = reached(nodes, names(signatures(graph)[name].outputs.values()))
        bodies = functions(graph.graph_def, used).values()
        if any(node.op == "Assert" for node in [*used, *(node for body in bodies for node in body.node_def)]):
            yield f"signature {name!r} asserts something of its input, which LiteRT does not: it answers all the same"


def _complete(
    directory: Path,
    folder: Path,
    offered: Contents,
    usable: Mapping[str, Signature],
    reasons: Reasons,
    default: str | None,
    runs: dict[str, str],
    renamed: dict[str, dict[str, str]],
    notes: list[str],
) -> None:
    """Write the signatures, with reasons where left out, and copy the files beside the model."""
    complete = {
        name: signature._replace(problem=reasons.get(name) or signature.refusal)
        for name, signature in offered.signatures.items()
        if name in usable or not name.startswith("__")
    }
    new = {}
    if default is not None and default != DEFAULT:
        runs[DEFAULT] = runs.get(default, default)
        renamed |= {DEFAULT: renamed[default]} if default in renamed else {}
        new[DEFAULT] = default
        complete[DEFAULT] = complete[default]._replace(name=DEFAULT)
        why = reasons.pop(DEFAULT, None)
        notes.append(
            f"{default!r} answers as serving_default" + (f"; the original's is left out: {why}" if why else "")
        )
    notes += [f"signature {name!r} is left out: {why}" for name, why in reasons.items()]
    twin_files.write(folder, offered._replace(signatures=complete), runs, renamed)
    for path in sorted(directory.iterdir()):
        if path.name == "assets.extra":
            copy_folder(path, folder / path.name)
        elif path.is_file() and path.name not in NOT_CARRIED:
            shutil.copyfile(path, folder / path.name)
    if reasons or new:
        (folder / WARMUP).unlink(missing_ok=True)  # its requests are for all signatures
        callable_ = [name for name, signature in complete.items() if signature.refusal is None]
        for name in ("examples.json", "answers.json"):
            _rewrite(folder / "assets.extra" / name, callable_, new)


def _rewrite(path: Path, kept: list[str], new: Mapping[str, str]) -> None:
    """Keep the examples of the signatures in `kept`; a new default gets those of the signature that it names."""
    try:
        examples: dict[str, Any] = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return
    for name, other in new.items():
        examples.pop(name, None)
        if other in examples:
            examples[name] = {key: value for key, value in examples[other].items() if key != "signature_name"}
    path.write_text(json.dumps({name: value for name, value in examples.items() if name in kept}) + "\n")
