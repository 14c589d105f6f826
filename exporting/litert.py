"""A model's light twin: the same signatures for LiteRT, so that they can be served without TensorFlow.

The converter converts what LiteRT has operations for; the result is compared with the original before anything is
written. Signatures that LiteRT cannot run are left out, each with its reason, which clients see in errors too.
`serving/savedmodel/folder/twin.py` describes the files of a twin.
"""

import json
import math
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from exporting import compare, conversion, ranges
from exporting.derived import (
    PROTOBUF_BYTES,
    ROUNDS,
    Baked,
    Questions,
    ask_original,
    callable_signatures,
    check_graph,
    finish,
    measure,
    say,
)
from exporting.graph import MetaGraph, contents, functions, joined, names, reached, served, signatures
from exporting.inputs import Inputs, exported, given, made, ways
from exporting.lowering import forget_training, lower, rename_inputs
from exporting.placing import NOT_CARRIED, check_places, copy_folder, folder_beside
from exporting.refusal import Refusal
from exporting.report import size
from exporting.runner import Answer, Job, ask
from exporting.values import bytes_of
from serving.core.errors import LoadError, did_you_mean
from serving.runtime import litert
from serving.runtime.warmup import PLACE as WARMUP
from serving.savedmodel.examples import Recipe
from serving.savedmodel.folder import twin as twin_files
from serving.savedmodel.signature import DEFAULT, Contents, Signature

Reasons = dict[str, str]  # signature → why the twin lacks it

# (rows, increment of the other open sizes), in addition to the one, two and three rows that are always compared
FURTHER = ((1, 0), (5, 0), (32, 0), (1, 3), (4, 3))


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

    `default` names the signature that is served as serving_default; without it, the twin is refused where LiteRT
    cannot run serving_default, and any other such signature is left out. Answers are compared over inputs up to
    `largest`.
    """
    check_places(directory, out, force)
    try:
        litert.open_library()
    except LoadError as error:
        raise Refusal(str(error)) from None
    conversion.prepare()
    offered = contents(directory)
    graph = served(directory)
    notes = check_graph(directory, graph)
    usable = callable_signatures(offered)
    renamed = rename_inputs(graph)
    reasons = _left_out(directory, graph, usable, default, limit, renamed)
    possible = {name: signature for name, signature in usable.items() if name not in reasons}
    own = [*exported(directory, possible), *(call for path in inputs for call in given(path, possible))]
    allowed = compare.TOLERANCE if tolerance is None else tolerance
    changed = any([lower(graph), forget_training(graph), renamed])
    with folder_beside(out) as folder:

        def attempt() -> tuple[Any, Any, Any]:
            """Return the graphs by signature, the remaining signatures, and the calls with the original's answers."""
            with joined(directory, graph, changed) as readable:
                runs = _convert(directory, readable, offered, usable, reasons, default, folder)
            remaining = replace(offered, signatures={k: v for k, v in usable.items() if k not in reasons})
            twin_files.write(folder, remaining, runs, renamed)
            return runs, remaining, ask_original(directory, remaining, [call for call in own if call[0] not in reasons])

        wrong: dict[str, str] = {"": ""}
        while wrong:  # each attempt leaves out the signatures that were wrong in the last one
            runs, remaining, questions = attempt()
            wrong = {name: f"nothing shows that it works: {why}" for name, why in questions.unproved.items()}
            if not wrong:
                difference, compared, wrong, odd_notes = _compare(
                    directory, folder, questions, remaining.signatures, allowed, largest
                )
            reasons |= wrong
        notes += [*questions.notes, *odd_notes, *_assertions(graph, remaining)]
        _complete(directory, folder, offered, usable, reasons, default, runs, renamed, notes)
        say("measuring")
        before, after = measure(directory, folder, questions.timed, rounds)
        twin = Baked(out, True, questions.timed[0], before, after, allowed, difference, compared, tuple(notes))
        finish(twin, graph, folder, directory, "bake --litert", force)
    return twin


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


@dataclass(frozen=True, slots=True)
class _Odd:
    """A call with unusual values; a difference is noted, and is no reason to refuse."""

    signature: str
    what: str
    inputs: Inputs


def _compare(
    directory: Path,
    folder: Path,
    questions: Questions,
    usable: Mapping[str, Signature],
    tolerance: float,
    largest: float,
) -> tuple[float, int, Reasons, list[str]]:
    """Return the largest difference, the number of calls, the signatures that differ with reasons, and notes."""
    say("comparing with the original")
    calls, answers = list(questions.calls), list(questions.answers)
    odd, recipes = [], {}
    for name, signature in usable.items():
        recipe = _recipe(directory, signature, [inputs for called, inputs in questions.calls if called == name])
        if recipe is None:
            continue  # no generated input fits
        recipes[name] = recipe
        further = [
            made(signature, replace(recipe, size=recipe.size + more), rows, seed)
            for seed, (rows, more) in enumerate(FURTHER, 3)
        ]
        original = ask(Job(directory, [(name, inputs) for inputs in further]))
        good = [(inputs, answer) for inputs, answer in zip(further, original.answers) if answer.outputs is not None]
        calls += [(name, inputs) for inputs, _ in good]
        answers += [answer for _, answer in good]
        odd += [_Odd(name, kind, inputs) for kind, inputs in _oddities(made(signature, recipe, 2, 9))]
    copy = ask(Job(folder, calls))
    wrong: Reasons = {}
    most = 0.0
    for (name, _), right, answer in zip(calls, answers, copy.answers):
        distance, problem = compare.answers(right, answer, tolerance)
        if problem and answer.outputs is None:
            wrong.setdefault(name, f"converted, it fails: {answer.message or answer.error}")
        elif problem:
            wrong.setdefault(name, f"converted, it gives other answers: {problem} (allowed: {tolerance:g})")
        most = max(most, distance) if not problem else most
    if copy.failure:
        name = calls[min(len(copy.answers), len(calls) - 1)][0]
        wrong.setdefault(name, f"converted, it cannot be run: {copy.failure}")
    if wrong:
        return most, len(calls), wrong, []
    wrong, notes = _over_ranges(
        directory, folder, {name: usable[name] for name in recipes}, recipes, tolerance, largest
    )
    if wrong:
        return most, len(calls), wrong, []
    wrong, odd_notes = _try_oddities(directory, folder, odd)
    return most, len(calls), wrong, [*notes, *odd_notes]


def _over_ranges(
    directory: Path,
    folder: Path,
    usable: Mapping[str, Signature],
    recipes: Mapping[str, Recipe],
    tolerance: float,
    largest: float,
) -> tuple[Reasons, list[str]]:
    """Return which signatures differ over a range of numbers, with reasons, and notes on the others."""
    wrong, notes = {}, []
    for name, signature in usable.items():
        difference = ranges.outside(directory, folder, signature, recipes[name], tolerance, largest)
        if difference and difference.counts:
            cure = f" (--largest {difference.works_to:g} converts it for smaller ones)" if difference.works_to else ""
            wrong[name] = f"converted, it gives other answers {difference.problem}{cure}"
        elif difference:
            notes.append(f"signature {name!r} gives other answers {difference.problem}; for half of these it does not")
    if largest < math.inf:
        notes.append(f"answers were compared for inputs up to ±{largest:g} only: beyond, it may give other answers")
    return wrong, notes


def _recipe(directory: Path, signature: Signature, accepted: list[Inputs]) -> Recipe | None:
    """Return the recipe of the generated inputs that the original accepted."""
    for recipe in ways(directory, signature):
        shapes = {name: array.shape for name, array in made(signature, recipe, 2, 1).items()}
        if any({name: array.shape for name, array in inputs.items()} == shapes for inputs in accepted):
            return recipe
    return None


def _oddities(inputs: Inputs) -> list[tuple[str, Inputs]]:
    """Return unusual inputs, each with its name: indices out of range, NaN, divisions by zero."""
    cases = [("all zero", {name: np.zeros_like(array) for name, array in inputs.items()})]
    for kind, kinds, value in (
        ("-1", "i", -1),
        ("32767 or their largest number", "iu", 32767),  # larger ones may count the steps of a loop
        ("NaN", "f", np.nan),
        ("infinity", "f", np.inf),
    ):
        if any(array.dtype.kind in kinds for array in inputs.values()):
            changed = {
                name: np.full_like(array, min(value, np.iinfo(array.dtype).max) if array.dtype.kind in "iu" else value)
                if array.dtype.kind in kinds
                else array
                for name, array in inputs.items()
            }
            cases.append((kind, changed))
    return cases


def _try_oddities(directory: Path, folder: Path, odd: list[_Odd]) -> tuple[Reasons, list[str]]:
    """Return which signatures end the process, and notes where the twin and the original differ."""
    calls = [(oddity.signature, oddity.inputs) for oddity in odd]
    if not calls:
        return {}, []
    original = ask(Job(directory, calls), timeout=60)
    calls = calls[: len(original.answers)]  # compare only what the original answered
    twin = ask(Job(folder, calls), timeout=600)
    if twin.failure:
        fatal = odd[min(len(twin.answers), len(calls) - 1)]
        return {fatal.signature: f"LiteRT's {twin.failure.removeprefix('the ')} of an input of {fatal.what}"}, []
    different: dict[str, list[str]] = {}
    for oddity, first, second in zip(odd, original.answers, twin.answers):
        if (first.outputs is None) != (second.outputs is None) or compare.answers(first, second, compare.TOLERANCE)[1]:
            different.setdefault(oddity.signature, []).append(f"{oddity.what} ({_how(first, second)})")
    return {}, [
        f"signature {name!r} gives other answers where inputs are {', '.join(kinds)}"
        for name, kinds in different.items()
    ]


def _how(original: Answer, twin: Answer) -> str:
    if original.outputs is None:
        return f"{original.error} became an answer"
    return "an answer became an error" if twin.outputs is None else "other values"


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
        name: replace(signature, problem=reasons.get(name) or signature.refusal)
        for name, signature in offered.signatures.items()
        if name in usable or not name.startswith("__")
    }
    new = {}
    if default is not None and default != DEFAULT:
        runs[DEFAULT] = runs.get(default, default)
        renamed |= {DEFAULT: renamed[default]} if default in renamed else {}
        new[DEFAULT] = default
        complete[DEFAULT] = replace(complete[default], name=DEFAULT)
        why = reasons.pop(DEFAULT, None)
        notes.append(
            f"{default!r} answers as serving_default" + (f"; the original's is left out: {why}" if why else "")
        )
    notes += [f"signature {name!r} is left out: {why}" for name, why in reasons.items()]
    twin_files.write(folder, replace(offered, signatures=complete), runs, renamed)
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
