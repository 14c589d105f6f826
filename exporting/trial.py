"""Does a model keep what a pure function promises? The same input twice, in another order, in another batch."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain, islice, pairwise
from pathlib import Path

import numpy as np

from exporting import compare
from exporting.inputs import Inputs, batched, joined, made, ways
from exporting.runner import Answer, Answers, Job, ask
from serving.savedmodel.examples import Recipe
from serving.savedmodel.signature import Signature

INPUTS_FAULT = frozenset({"INVALID_ARGUMENT", "OUT_OF_RANGE", "NOT_THE_SPEC"})  # others no input can help
AT_ONCE = 60  # recipes that one process is asked by
MOST_DEATHS = 5
NO_INPUTS = "it has no inputs"  # as Signature.refusal says it; such a signature still runs


@dataclass(frozen=True, slots=True)
class Trial:
    """What came of trying one signature."""

    signature: str
    verdict: str  # a key of VERDICTS
    detail: str
    exact: bool = False  # bit for bit, in another batch too
    difference: float = 0.0  # the largest one, relative to the output's largest number


VERDICTS = {
    "same": "the same input gave the same output",
    "differs": "the same input gave different outputs",
    "refused": "TensorFlow refused every generated input, so nothing was learnt",
    "died": "the process died of a generated input",
    "unusable": "the model cannot be loaded or called by this runtime",
}


def callable_signatures(signatures: Mapping[str, Signature]) -> dict[str, Signature]:
    """Return the signatures that can be run at all."""
    return {name: one for name, one in signatures.items() if one.refusal in (None, NO_INPUTS)}


@dataclass(frozen=True, slots=True)
class Asked:
    """Generated inputs that a signature accepts: a first, a second, both in one batch, the first again; its answers."""

    inputs: list[Inputs]
    answers: list[Answer]
    row: Inputs  # one row, to time
    recipe: Recipe


def inputs_that_run(
    directory: Path, signatures: Mapping[str, Signature], easily: Collection[str] = ()
) -> tuple[dict[str, Asked], dict[str, Trial]]:
    """Ask each signature what it accepts, those of `easily` once; return that, and what is wrong with the others."""
    found: dict[str, Asked] = {}
    wrong: dict[str, Trial] = {}
    left = {name: ways(directory, signature) for name, signature in signatures.items()}
    first = {name: recipe for name, way in left.items() if (recipe := next(way, None)) is not None}
    _try(directory, signatures, first, found, wrong)
    for name in [name for name, problem in wrong.items() if problem.verdict != "unusable" and name not in easily]:
        if (recipe := _accepted(directory, signatures[name], left[name])) is not None:
            _try(directory, signatures, {name: recipe}, found, wrong)
    for name in signatures.keys() - found.keys() - wrong.keys():
        wrong[name] = Trial(name, "refused", "its inputs are larger than generated inputs may be")
    return found, wrong


def _try(
    directory: Path,
    signatures: Mapping[str, Signature],
    recipes: Mapping[str, Recipe],
    found: dict[str, Asked],
    wrong: dict[str, Trial],
) -> None:
    """Ask each signature by its recipe; add to what is found, or wrong."""
    plans = {name: _plan(signatures[name], recipe) for name, recipe in recipes.items()}
    for name, result in _ask_each(directory, plans).items():
        first = result.answers[0] if result.answers else None
        if first and first.outputs is not None and len(result.answers) == len(plans[name]):
            row = made(signatures[name], recipes[name], 1, 2)
            found[name] = Asked(plans[name], result.answers, row, recipes[name])
            wrong.pop(name, None)
        elif first and first.outputs is None:
            verdict = "refused" if first.error in INPUTS_FAULT else "unusable"
            wrong[name] = Trial(name, verdict, f"{first.error}: {' '.join(first.message.split())[:200]}")
        else:
            wrong[name] = Trial(name, "died" if result.load else "unusable", (result.failure or "")[:300])


def _accepted(directory: Path, signature: Signature, left: Iterator[Recipe]) -> Recipe | None:
    """Return the first recipe that the signature takes, asking for many in one process."""
    deaths = 0
    while deaths < MOST_DEATHS and (some := list(islice(left, AT_ONCE))):
        answers = ask(Job(directory, [(signature.name, made(signature, recipe, 2, 1)) for recipe in some])).answers
        for recipe, answer in zip(some, answers):
            if answer.outputs is not None:
                return recipe
        if len(answers) < len(some):  # one of them ended the process
            deaths += 1
            left = chain(some[len(answers) + 1 :], left)
    return None


def _plan(signature: Signature, recipe: Recipe) -> list[Inputs]:
    first = made(signature, recipe, 2, 1)
    if not signature.inputs:
        return [first, first]
    second = made(signature, recipe, 1, 2)
    return [first, second, *([joined(first, second)] if batched(signature) else []), first]


def _ask_each(directory: Path, plans: Mapping[str, list[Inputs]]) -> dict[str, Answers]:
    """Ask all in one process; where one of them ends it, each in its own."""
    if not plans:
        return {}
    together = ask(Job(directory, [(name, inputs) for name, plan in plans.items() for inputs in plan]))
    if together.failure and together.load and len(plans) > 1:
        return {name: ask(Job(directory, [(name, inputs) for inputs in plan])) for name, plan in plans.items()}
    left = iter(together.answers)
    return {
        name: Answers(together.load, answers=list(islice(left, len(plan))), failure=together.failure)
        for name, plan in plans.items()
    }


def run(directory: Path, signatures: Mapping[str, Signature], tolerance: float = compare.TOLERANCE) -> list[Trial]:
    """Try every signature, in two fresh processes that go through the same inputs in opposite orders."""
    wanted = callable_signatures(signatures)
    found, wrong = inputs_that_run(directory, wanted)
    trials = list(wrong.values())
    calls = [(name, inputs) for name, asked in found.items() for inputs in asked.inputs]
    back = ask(Job(directory, calls[::-1])) if calls else Answers()
    left = iter(back.answers[::-1])
    for name, asked in found.items():
        if back.failure:
            trials.append(Trial(name, "died", f"asked in the opposite order: {back.failure}"))
        else:
            trials.append(_judged(wanted[name], asked.answers, list(islice(left, len(asked.answers))), tolerance))
    return sorted(trials, key=lambda trial: trial.signature)


def _judged(signature: Signature, forth: list[Answer], back: list[Answer], tolerance: float) -> Trial:
    name = signature.name
    again = [forth[0], forth[-1], back[0], back[-1]]
    for one, other in [*pairwise(again), *zip(forth, back)]:
        _, problem = compare.answers(one, other, 0.0)
        if problem:
            _, problem = compare.answers(one, other, tolerance)
            if problem:
                return Trial(name, "differs", f"asked again, or in another order: {problem}", difference=np.inf)
    if len(forth) < 4 or forth[2].outputs is None or forth[1].outputs is None or forth[0].outputs is None:
        return Trial(name, "same", "bit for bit: asked again, in another order", exact=True)
    rows = next(iter(forth[0].outputs.values())).shape[0]
    parts = [{key: value[:rows] for key, value in forth[2].outputs.items()}]
    parts += [{key: value[rows:] for key, value in forth[2].outputs.items()}]
    largest = 0.0
    for alone, part in zip(forth[:2], parts):
        distance, problem = compare.difference(alone.outputs or {}, part, tolerance)
        if problem:
            return Trial(name, "differs", f"the same rows in another batch: {problem}", difference=distance)
        largest = max(largest, distance)
    if largest == 0.0:
        return Trial(name, "same", "bit for bit: asked again, in another order, in another batch", exact=True)
    detail = f"bit for bit asked again and in another order, within {largest:.1g} in another batch"
    return Trial(name, "same", detail, difference=largest)
