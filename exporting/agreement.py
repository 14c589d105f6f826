"""Compare the answers of a model's twin with those of the original, over the questions asked and generated inputs."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from exporting import compare, ranges
from exporting.derived import Questions, say
from exporting.inputs import Inputs, made, ways
from exporting.runner import Answer, Job, ask
from exporting.trial import ask_each
from serving.savedmodel.examples import Recipe
from serving.savedmodel.signature import Contents, Signature

Reasons = dict[str, str]  # signature → why the twin lacks it

# (rows, increment of the other open sizes), in addition to the one, two and three rows that are always compared
FURTHER = ((1, 0), (5, 0), (32, 0), (1, 3), (4, 3))


class Agreement(NamedTuple):
    """The largest relative difference of the answers that agree, how many were compared, and what does not agree."""

    difference: float
    compared: int
    wrong: Reasons
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Odd:
    """A call with unusual values; a difference is noted, and is no reason to refuse."""

    signature: str
    what: str
    inputs: Inputs


def compared(
    directory: Path,
    folder: Path,
    questions: Questions,
    remaining: Contents,
    tolerance: float,
    largest: float,
) -> Agreement:
    """Compare the answers of the twin in `folder` with those of the original in `directory`."""
    wrong: Reasons = {name: f"nothing shows that it works: {why}" for name, why in questions.unproved.items()}
    if wrong:
        return Agreement(0.0, 0, wrong)
    say("comparing with the original")
    usable, recipes = remaining.signatures, {}
    for name, signature in usable.items():
        accepted = [inputs for called, inputs in questions.calls if called == name]
        if recipe := _recipe(directory, signature, accepted):  # else no generated input fits
            recipes[name] = recipe
    calls, answers = list(questions.calls), list(questions.answers)
    for call, answer in _further(directory, usable, recipes):
        calls.append(call)
        answers.append(answer)
    copy = ask(Job(folder, calls))
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
        return Agreement(most, len(calls), wrong)
    wrong, notes = _over_ranges(
        directory, folder, {name: usable[name] for name in recipes}, recipes, tolerance, largest
    )
    if wrong:
        return Agreement(most, len(calls), wrong)
    odd = [
        _Odd(name, kind, inputs)
        for name, recipe in recipes.items()
        for kind, inputs in _oddities(made(usable[name], recipe, 2, 9))
    ]
    wrong, odd_notes = _try_oddities(directory, folder, odd)
    return Agreement(most, len(calls), wrong, (*notes, *odd_notes))


def _further(
    directory: Path, usable: Mapping[str, Signature], recipes: Mapping[str, Recipe]
) -> Iterator[tuple[tuple[str, Inputs], Answer]]:
    """Yield generated calls of other sizes that the original answers, with its answers."""
    plans = {
        name: [
            made(usable[name], replace(recipe, size=recipe.size + more), rows, seed)
            for seed, (rows, more) in enumerate(FURTHER, 3)
        ]
        for name, recipe in recipes.items()
    }
    for name, asked in ask_each(directory, plans).items():
        for inputs, answer in zip(plans[name], asked.answers):
            if answer.outputs is not None:
                yield (name, inputs), answer


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
    for name, difference in ranges.outside(directory, folder, usable, recipes, tolerance, largest).items():
        if difference.counts:
            cure = f" (--largest {difference.works_to:g} converts it for smaller ones)" if difference.works_to else ""
            wrong[name] = f"converted, it gives other answers {difference.problem}{cure}"
        else:
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
