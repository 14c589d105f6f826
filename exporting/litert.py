"""A model's light twin: the same signatures for LiteRT, so that they can be served without TensorFlow.

The converter takes what LiteRT has operations for; what it makes of them is compared with the original before
anything is written. Signatures that it cannot have are left out, each with its reason, which a client is told too.
`serving/savedmodel/folder/twin.py` says what a twin is on disk.
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

# Rows, and how much larger the other open sizes are, beside the one, two and three rows that both are asked anyway.
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
    """Write the twin of the SavedModel in `directory` to `out`; or raise Refusal and leave nothing behind.

    `default` names the signature that answers as serving_default; without it, a serving_default that LiteRT cannot
    have refuses the whole twin, and any other one is left out. Answers are compared over inputs up to `largest`.
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
    wanted = callable_signatures(offered)
    renamed = rename_inputs(graph)
    reasons = _left_out(directory, graph, wanted, default, limit, renamed)
    possible = {name: one for name, one in wanted.items() if name not in reasons}
    own = [*exported(directory, possible), *(call for path in inputs for call in given(path, possible))]
    allowed = compare.TOLERANCE if tolerance is None else tolerance
    changed = any([lower(graph), forget_training(graph), renamed])
    with folder_beside(out) as folder:

        def attempt() -> tuple[Any, Any, Any]:
            """Return how it runs, what is left of the signatures, and the questions that it was asked."""
            with joined(directory, graph, changed) as readable:
                runs = _convert(directory, readable, offered, wanted, reasons, default, folder)
            left = replace(offered, signatures={k: v for k, v in wanted.items() if k not in reasons})
            twin_files.write(folder, left, runs, renamed)
            return runs, left, ask_original(directory, left, [call for call in own if call[0] not in reasons])

        wrong: dict[str, str] = {"": ""}
        while wrong:  # each attempt leaves out the signatures that the last one showed to be wrong
            runs, left, questions = attempt()
            wrong = {name: f"nothing shows that it works: {why}" for name, why in questions.unproved.items()}
            if not wrong:
                difference, compared, wrong, told = _compare(
                    directory, folder, questions, left.signatures, allowed, largest
                )
            reasons |= wrong
        notes += [*questions.notes, *told, *_assertions(graph, left)]
        _complete(directory, folder, offered, wanted, reasons, default, runs, renamed, notes)
        say("measuring")
        before, after = measure(directory, folder, questions.timed, rounds)
        twin = Baked(out, True, questions.timed[0], before, after, allowed, difference, compared, tuple(notes))
        finish(twin, graph, folder, directory, "bake --litert", force)
    return twin


def _left_out(
    directory: Path, graph: Any, wanted: Mapping[str, Signature], default: str | None, limit: int,
    renamed: Mapping[str, Mapping[str, str]],
) -> dict[str, str]:  # fmt: skip
    """Return why signatures are left out before any is converted; raise Refusal where nothing can be."""
    if default is not None and default not in wanted:
        raise Refusal(f"{directory}: --signature: it has no callable {default!r}{did_you_mean(default, wanted)}")
    if (needed := bytes_of(graph)) > limit:
        raise Refusal(f"{directory}: {size(needed)} of variables do not fit LiteRT's 2 GB; it stays with TensorFlow")
    reasons = {name: why for name, one in wanted.items() if (why := _never(one, renamed.get(name, {})))}
    if default not in (None, DEFAULT) and DEFAULT in wanted:
        reasons.setdefault(DEFAULT, "it was not asked for")
    return reasons


def _never(signature: Signature, renamed: Mapping[str, str]) -> str | None:
    """Say why no converter could help a signature, or None."""
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
    wanted: Mapping[str, Signature],
    reasons: Reasons,
    default: str | None,
    folder: Path,
) -> dict[str, str]:
    """Write the model of all signatures that can be converted; complete the reasons; raise Refusal where none can.

    Return whose graph runs for a signature that has none: of two functions that are alike, the converter keeps one.
    """
    target = folder / twin_files.MODEL
    names = [name for name in wanted if name not in reasons]
    say(f"converting {', '.join(names) or 'nothing'}")
    if names and (why := conversion.convert(readable, offered.tags, names, target)):
        for name in names if len(names) > 1 else ():  # which of them is it?
            if alone := conversion.convert(readable, offered.tags, [name], target):
                reasons[name] = alone
        left = [name for name in names if name not in reasons]
        if len(left) == len(names) or (left and (why := conversion.convert(readable, offered.tags, left, target))):
            reasons |= dict.fromkeys(left, why)
    left = [name for name in wanted if name not in reasons]
    kept = default or DEFAULT
    if kept in reasons:
        way = f"; --signature NAME chooses another to answer in its place: {', '.join(left)}" if left else ""
        raise Refusal(f"{directory}: signature {kept!r} has no twin: {reasons[kept]}{way}")
    if not left:
        raise Refusal(f"{directory}: no twin: {'; '.join(f'signature {name!r}: {reasons[name]}' for name in reasons)}")
    there = _graphs(target)
    runs = {}
    for name in left:
        if name not in there:
            alike = [other for other in left if other in there and _face(wanted[other]) == _face(wanted[name])]
            runs[name] = alike[0] if alike else name  # the comparison tells whether it is the same
    return runs


def _graphs(model: Path) -> set[str]:
    try:
        return set(litert.open_library().Interpreter(str(model)).get_signature_list())
    except (LoadError, ValueError, RuntimeError) as error:
        raise Refusal(f"LiteRT does not load what the converter made: {error}") from None


def _face(signature: Signature) -> list[Any]:
    """Return what two signatures that are one function have in common."""
    sides = (signature.inputs, signature.outputs)
    return [[(spec.name, spec.dtype.code, spec.shape) for spec in side.values()] for side in sides]


@dataclass(frozen=True, slots=True)
class _Odd:
    """A call that is no good example of what the model is for; a difference is told, and no reason to refuse."""

    signature: str
    what: str
    inputs: Inputs


def _compare(
    directory: Path,
    folder: Path,
    questions: Questions,
    wanted: Mapping[str, Signature],
    tolerance: float,
    largest: float,
) -> tuple[float, int, Reasons, list[str]]:
    """Return the largest difference, the number of calls, which signatures answer otherwise, and what is of note."""
    say("comparing with the original")
    calls, answers = list(questions.calls), list(questions.answers)
    odd, recipes = [], {}
    for name, signature in wanted.items():
        recipe = _recipe(directory, signature, [inputs for asked, inputs in questions.calls if asked == name])
        if recipe is None:
            continue  # only a given input fits
        recipes[name] = recipe
        further = [
            made(signature, replace(recipe, size=recipe.size + more), rows, seed)
            for seed, (rows, more) in enumerate(FURTHER, 3)
        ]
        asked = ask(Job(directory, [(name, one) for one in further]))
        good = [(one, answer) for one, answer in zip(further, asked.answers) if answer.outputs is not None]
        calls += [(name, one) for one, _ in good]
        answers += [answer for _, answer in good]
        odd += [_Odd(name, what, one) for what, one in _oddities(made(signature, recipe, 2, 9))]
    copy = ask(Job(folder, calls))
    wrong: Reasons = {}
    most = 0.0
    for (name, _), one, other in zip(calls, answers, copy.answers):
        distance, problem = compare.answers(one, other, tolerance)
        if problem and other.outputs is None:
            wrong.setdefault(name, f"converted, it fails: {other.message or other.error}")
        elif problem:
            wrong.setdefault(name, f"converted, it gives other answers: {problem} (allowed: {tolerance:g})")
        most = max(most, distance) if not problem else most
    if copy.failure:
        name = calls[min(len(copy.answers), len(calls) - 1)][0]
        wrong.setdefault(name, f"converted, it cannot be run: {copy.failure}")
    if wrong:
        return most, len(calls), wrong, []
    wrong, notes = _over_ranges(
        directory, folder, {name: wanted[name] for name in recipes}, recipes, tolerance, largest
    )
    if wrong:
        return most, len(calls), wrong, []
    wrong, told = _try_oddities(directory, folder, odd)
    return most, len(calls), wrong, [*notes, *told]


def _over_ranges(
    directory: Path,
    folder: Path,
    wanted: Mapping[str, Signature],
    recipes: Mapping[str, Recipe],
    tolerance: float,
    largest: float,
) -> tuple[Reasons, list[str]]:
    """Return which signatures answer otherwise over some range of numbers, and notes on the others."""
    wrong, notes = {}, []
    for name, signature in wanted.items():
        found = ranges.outside(directory, folder, signature, recipes[name], tolerance, largest)
        if found and found.counts:
            cure = f" (--largest {found.works_to:g} converts it for smaller ones)" if found.works_to else ""
            wrong[name] = f"converted, it gives other answers {found.problem}{cure}"
        elif found:
            notes.append(f"signature {name!r} gives other answers {found.problem}; for half of these it does not")
    if largest < math.inf:
        notes.append(f"answers were compared for inputs up to ±{largest:g} only: beyond, it may give other answers")
    return wrong, notes


def _recipe(directory: Path, signature: Signature, asked: list[Inputs]) -> Recipe | None:
    """Return how inputs were generated that the original took."""
    for recipe in ways(directory, signature):
        shapes = {name: array.shape for name, array in made(signature, recipe, 2, 1).items()}
        if any({name: array.shape for name, array in inputs.items()} == shapes for inputs in asked):
            return recipe
    return None


def _oddities(inputs: Inputs) -> list[tuple[str, Inputs]]:
    """Return inputs that break what was made for others: indices out of range, NaN, what divides by zero."""
    found = [("all zero", {name: np.zeros_like(array) for name, array in inputs.items()})]
    for what, kinds, value in (
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
            found.append((what, changed))
    return found


def _try_oddities(directory: Path, folder: Path, odd: list[_Odd]) -> tuple[Reasons, list[str]]:
    """Say which signatures end the process, and where the twin answers what the original does not, or otherwise."""
    calls = [(one.signature, one.inputs) for one in odd]
    if not calls:
        return {}, []
    original = ask(Job(directory, calls), timeout=60)
    calls = calls[: len(original.answers)]  # an original that ends itself is no measure
    twin = ask(Job(folder, calls), timeout=600)
    if twin.failure:
        fatal = odd[min(len(twin.answers), len(calls) - 1)]
        return {fatal.signature: f"LiteRT's {twin.failure.removeprefix('the ')} of an input of {fatal.what}"}, []
    otherwise: dict[str, list[str]] = {}
    for one, first, second in zip(odd, original.answers, twin.answers):
        if (first.outputs is None) != (second.outputs is None) or compare.answers(first, second, compare.TOLERANCE)[1]:
            otherwise.setdefault(one.signature, []).append(f"{one.what} ({_how(first, second)})")
    return {}, [
        f"signature {name!r} gives other answers where inputs are {', '.join(told)}" for name, told in otherwise.items()
    ]


def _how(original: Answer, twin: Answer) -> str:
    if original.outputs is None:
        return f"{original.error} became an answer"
    return "an answer became an error" if twin.outputs is None else "other values"


def _assertions(graph: MetaGraph, left: Contents) -> Iterable[str]:
    """Name the signatures with assertions: LiteRT has none, and the converter drops them."""
    nodes = {node.name: node for node in graph.graph_def.node}
    for name in left.signatures:
        used = reached(nodes, names(signatures(graph)[name].outputs.values()))
        bodies = functions(graph.graph_def, used).values()
        if any(node.op == "Assert" for node in [*used, *(node for body in bodies for node in body.node_def)]):
            yield f"signature {name!r} asserts something of its input, which LiteRT does not: it answers all the same"


def _complete(
    directory: Path,
    folder: Path,
    offered: Contents,
    wanted: Mapping[str, Signature],
    reasons: Reasons,
    default: str | None,
    runs: dict[str, str],
    renamed: dict[str, dict[str, str]],
    notes: list[str],
) -> None:
    """Write the signatures, those that were left out with their reasons, and what lies beside the model."""
    all_of_them = {
        name: replace(one, problem=reasons.get(name) or one.refusal)
        for name, one in offered.signatures.items()
        if name in wanted or not name.startswith("__")
    }
    new = {}
    if default is not None and default != DEFAULT:
        runs[DEFAULT] = runs.get(default, default)
        renamed |= {DEFAULT: renamed[default]} if default in renamed else {}
        new[DEFAULT] = default
        all_of_them[DEFAULT] = replace(all_of_them[default], name=DEFAULT)
        why = reasons.pop(DEFAULT, None)
        notes.append(
            f"{default!r} answers as serving_default" + (f"; the original's is left out: {why}" if why else "")
        )
    notes += [f"signature {name!r} is left out: {why}" for name, why in reasons.items()]
    twin_files.write(folder, replace(offered, signatures=all_of_them), runs, renamed)
    for path in sorted(directory.iterdir()):
        if path.name == "assets.extra":
            copy_folder(path, folder / path.name)
        elif path.is_file() and path.name not in NOT_CARRIED:
            shutil.copyfile(path, folder / path.name)
    if reasons or new:
        (folder / WARMUP).unlink(missing_ok=True)  # its requests are for all signatures
        callable_ = [name for name, one in all_of_them.items() if one.refusal is None]
        for name in ("examples.json", "answers.json"):
            _rewrite(folder / "assets.extra" / name, callable_, new)


def _rewrite(path: Path, kept: list[str], new: Mapping[str, str]) -> None:
    """Leave the examples of the signatures that are there, and give a new default that of its namesake."""
    try:
        examples: dict[str, Any] = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return
    for name, other in new.items():
        examples.pop(name, None)
        if other in examples:
            examples[name] = {key: value for key, value in examples[other].items() if key != "signature_name"}
    path.write_text(json.dumps({name: value for name, value in examples.items() if name in kept}) + "\n")
