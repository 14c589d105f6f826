"""Test whether a model behaves as a pure function: the same inputs again, in another order, in another batch."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import chain, islice, pairwise
from pathlib import Path

import numpy as np

from exporting import compare
from exporting.inputs import Inputs, batched, joined, made, ways
from exporting.runner import Answer, Answers, Job, ask
from serving.savedmodel.examples import Recipe
from serving.savedmodel.signature import Signature

INPUTS_FAULT = frozenset({"INVALID_ARGUMENT", "OUT_OF_RANGE", "NOT_THE_SPEC"})  # other codes are faults of the model
AT_ONCE = 60  # recipes that are tried in one process
MOST_DEATHS = 5
NO_INPUTS = "it has no inputs"  # as Signature.refusal says it; such a signature still runs


@dataclass(frozen=True, slots=True)
class Trial:
    """The result of trying one signature."""

    signature: str
    verdict: str  # a key of VERDICTS
    detail: str
    exact: bool = False  # equal bits, in another batch too
    difference: float = 0.0  # the largest one, relative to the output's largest number


VERDICTS = {
    "same": "the same input gave the same output",
    "differs": "the same input gave different outputs",
    "refused": "TensorFlow refused every generated input, so nothing is known about it",
    "died": "the process died of a generated input",
    "late": "a generated input was not answered in time",
    "unusable": "the model cannot be loaded or called by this runtime",
}


def callable_signatures(signatures: Mapping[str, Signature]) -> dict[str, Signature]:
    """Return the signatures that can be run."""
    return {name: signature for name, signature in signatures.items() if signature.refusal in (None, NO_INPUTS)}


@dataclass(frozen=True, slots=True)
class Accepted:
    """Generated inputs that a signature accepts, and its answers: two inputs, both in one batch, the first again."""

    inputs: list[Inputs]
    answers: list[Answer]
    row: Inputs  # one row, to time
    recipe: Recipe


def inputs_that_run(
    directory: Path, signatures: Mapping[str, Signature], easily: Collection[str] = ()
) -> tuple[dict[str, Accepted], dict[str, Trial]]:
    """Find inputs that each signature accepts; return them, and the problems of the others.

    For the signatures of `easily`, for which inputs are known, one recipe is tried."""
    accepted: dict[str, Accepted] = {}
    wrong: dict[str, Trial] = {}
    recipes = {name: ways(directory, signature) for name, signature in signatures.items()}
    first = {name: recipe for name, way in recipes.items() if (recipe := next(way, None)) is not None}
    _try(directory, signatures, first, accepted, wrong)
    for name in [name for name, problem in wrong.items() if problem.verdict in ("refused", "died")]:
        match = None if name in easily else _accepted(directory, signatures[name], recipes[name])
        if isinstance(match, Trial):
            wrong[name] = match
        elif match is not None:
            _try(directory, signatures, {name: match}, accepted, wrong)
    for name in signatures.keys() - accepted.keys() - wrong.keys():
        wrong[name] = Trial(name, "refused", "its inputs are larger than generated inputs may be")
    return accepted, wrong


def _try(
    directory: Path,
    signatures: Mapping[str, Signature],
    recipes: Mapping[str, Recipe],
    accepted: dict[str, Accepted],
    wrong: dict[str, Trial],
) -> None:
    """Run each signature on the inputs of its recipe; add the result to `accepted` or `wrong`."""
    plans = {name: _plan(signatures[name], recipe) for name, recipe in recipes.items()}
    for name, result in ask_each(directory, plans).items():
        first = result.answers[0] if result.answers else None
        if first and first.outputs is not None and len(result.answers) == len(plans[name]):
            row = made(signatures[name], recipes[name], 1, 2)
            accepted[name] = Accepted(plans[name], result.answers, row, recipes[name])
            wrong.pop(name, None)
        elif first and first.outputs is None:
            verdict = "refused" if first.error in INPUTS_FAULT else "unusable"
            wrong[name] = Trial(name, verdict, f"{first.error}: {' '.join(first.message.split())[:200]}")
        else:
            wrong[name] = _ended(name, result)


def _ended(name: str, result: Answers) -> Trial:
    verdict = "unusable" if not result.load else "late" if result.late else "died"
    return Trial(name, verdict, (result.failure or "")[:300])


def _accepted(directory: Path, signature: Signature, recipes: Iterator[Recipe]) -> Recipe | Trial | None:
    """Return the first recipe that the signature accepts; many are tried in one process.

    Return the trial instead where a recipe takes too long: further ones may each take as long."""
    deaths = 0
    while deaths < MOST_DEATHS and (batch := list(islice(recipes, AT_ONCE))):
        result = ask(Job(directory, [(signature.name, made(signature, recipe, 2, 1)) for recipe in batch]))
        for recipe, answer in zip(batch, result.answers):
            if answer.outputs is not None:
                return recipe
        if result.late:
            return _ended(signature.name, result)
        if len(result.answers) < len(batch):  # one of them ended the process
            deaths += 1
            recipes = chain(batch[len(result.answers) + 1 :], recipes)
    return None


def _plan(signature: Signature, recipe: Recipe) -> list[Inputs]:
    first = made(signature, recipe, 2, 1)
    if not signature.inputs:
        return [first, first]
    second = made(signature, recipe, 1, 2)
    return [first, second, *([joined(first, second)] if batched(signature) else []), first]


def ask_each(
    directory: Path, plans: Mapping[str, list[Inputs]], *, onednn: str | None = None, timeout: int = 0
) -> dict[str, Answers]:
    """Return the answers to each signature's inputs, run in one process, and in another after one that ended it."""
    results: dict[str, Answers] = {}
    while names := [name for name in plans if name not in results]:
        calls = [(name, inputs) for name in names for inputs in plans[name]]
        result = ask(Job(directory, calls, onednn=onednn), timeout)
        answers = iter(result.answers)
        for name in names:
            results[name] = replace(result, answers=list(islice(answers, len(plans[name]))))
            if result.load and len(results[name].answers) < len(plans[name]):
                break  # it ended the process; the next ones are run in another
    return results


def run(directory: Path, signatures: Mapping[str, Signature], tolerance: float = compare.TOLERANCE) -> list[Trial]:
    """Try every signature, in two fresh processes that go through the same inputs in opposite orders."""
    usable = callable_signatures(signatures)
    accepted, wrong = inputs_that_run(directory, usable)
    trials = list(wrong.values())
    calls = [(name, inputs) for name, entry in accepted.items() for inputs in entry.inputs]
    back = ask(Job(directory, calls[::-1])) if calls else Answers()
    answers = iter(back.answers[::-1])
    for name, entry in accepted.items():
        if back.failure:
            trials.append(Trial(name, "late" if back.late else "died", f"asked in the opposite order: {back.failure}"))
        else:
            trials.append(_judged(usable[name], entry.answers, list(islice(answers, len(entry.answers))), tolerance))
    return sorted(trials, key=lambda trial: trial.signature)


def _judged(signature: Signature, forth: list[Answer], back: list[Answer], tolerance: float) -> Trial:
    name = signature.name
    again = [forth[0], forth[-1], back[0], back[-1]]
    for answer, other in [*pairwise(again), *zip(forth, back)]:
        _, problem = compare.answers(answer, other, 0.0)
        if problem:
            _, problem = compare.answers(answer, other, tolerance)
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
