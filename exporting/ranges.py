"""Compare a twin with its original over ranges of numbers, from 1e-5 to the limits of the dtypes.

The original runs three more times: with each float moved to a neighbouring one, up and down, and without oneDNN. A
twin may differ by as much as these runs do; elements without finite values are not compared. A difference counts only
if it is there at half the magnitude too: where sums overflow, the order of the additions decides.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from exporting import compare
from exporting.inputs import Array, Inputs, made
from exporting.runner import Answer
from exporting.trial import ask_each
from serving.savedmodel.examples import Recipe
from serving.savedmodel.signature import Signature

FLOATS = (1e-5, 1.0, 1e2, *(10.0**exponent for exponent in range(3, 11)), 1e15, 1e20, 1e30, math.inf)
INTEGERS = (100, 50_000, 1_000_000)  # larger ones may count the steps of a loop
ELEMENTS, ROWS = 64, 31  # of an input, where its rows are open; TensorFlow casts the last ones one by one
OWN = 4  # times the difference between runs of the original
TIMEOUT = 120


@dataclass(frozen=True, slots=True)
class Outside:
    """The first range over which a signature has other answers."""

    problem: str
    counts: bool  # it is there at half the magnitude too
    works_to: float | None  # the largest range over which all answers were the same


@dataclass(frozen=True, slots=True)
class _Range:
    kinds: str  # of the inputs that are changed
    most: float
    inputs: Inputs

    def __str__(self) -> str:
        numbers = "whole numbers" if self.kinds == "iu" else "numbers"
        return f"{numbers} up to {'the largest of their type' if math.isinf(self.most) else f'±{self.most:g}'}"

    def halved(self) -> "_Range":
        """Return it with numbers of half the magnitude."""
        halves = {"f": lambda array: array / 2, "iu": lambda array: np.trunc(array / 2)}
        inputs = {
            name: halves[self.kinds](array).astype(array.dtype) if array.dtype.kind in self.kinds else array
            for name, array in self.inputs.items()
        }
        return _Range(self.kinds, self.most, inputs)


def outside(
    original: Path,
    twin: Path,
    signatures: Mapping[str, Signature],
    recipes: Mapping[str, Recipe],
    tolerance: float,
    largest: float,
) -> dict[str, Outside]:
    """Return, for each signature that differs, where the twin's answers first do, for numbers up to `largest`."""
    differing: dict[str, Outside] = {}
    for kinds, sizes in (("f", FLOATS), ("iu", INTEGERS)):
        ranges = {
            name: [_Range(kinds, most, inputs) for most, inputs in _inputs(signature, recipes[name], kinds, sizes)
                   if most <= largest]
            for name, signature in signatures.items() if name not in differing
        }  # fmt: skip
        first = {}
        for name, problems in _problems(original, twin, ranges, tolerance).items():
            position = next((position for position, problem in enumerate(problems) if problem), None)
            if position is not None:
                first[name] = position, problems[position]
        halves = {name: [ranges[name][position].halved()] for name, (position, _) in first.items()}
        at_half = _problems(original, twin, halves, tolerance)
        for name, (position, problem) in first.items():
            works_to = ranges[name][position - 1].most if position else None
            differing[name] = Outside(f"for {ranges[name][position]}: {problem}", any(at_half[name]), works_to)
    return differing


def _inputs(
    signature: Signature, recipe: Recipe, kinds: str, sizes: tuple[float, ...]
) -> Iterator[tuple[float, Inputs]]:
    row = made(signature, recipe, 1, 0)
    changed = [name for name, array in row.items() if array.dtype.kind in kinds and array.size]
    if not changed:
        return
    rows = min(ROWS, -(-ELEMENTS // min(row[name].size for name in changed)))
    for seed, most in enumerate(sizes):
        inputs, random = made(signature, recipe, max(rows, 2), seed), np.random.default_rng(seed)
        for name in changed:
            inputs[name] = _numbers(random, inputs[name], most)
        yield most, inputs


def _numbers(random: np.random.Generator, like: Array, most: float) -> Array:
    if like.dtype.kind in "iu":
        ends = np.iinfo(like.dtype)
        low, high = max(-int(most), ends.min), min(int(most), ends.max)
        return np.asarray(random.integers(low, high, like.shape, like.dtype, endpoint=True))
    ends_of_floats = np.finfo(like.dtype)
    if most < ends_of_floats.max:
        numbers: Array = np.asarray(random.uniform(-most, most, like.shape))
        return (np.round(numbers) if most > 1e3 else numbers).astype(like.dtype)  # whole numbers far from 0 as well
    top = math.log10(float(ends_of_floats.max))
    signs = np.asarray(random.choice((-1.0, 1.0), like.shape))
    return (signs * 10 ** random.uniform(top / 2, top, like.shape)).astype(like.dtype)


def _moved(inputs: Inputs, seed: int) -> Inputs:
    """Return each floating-point number or one of its neighbours."""
    random = np.random.default_rng(seed)
    return {
        name: np.nextafter(array, (array * random.choice((0, 1, 2), array.shape)).astype(array.dtype))
        if array.dtype.kind == "f"
        else array
        for name, array in inputs.items()
    }


def _problems(
    original: Path, twin: Path, ranges: Mapping[str, list[_Range]], tolerance: float
) -> dict[str, list[str | None]]:
    """Return what differs over each range of each signature; all ranges are of the same kinds of numbers."""
    ranges = {name: of_one for name, of_one in ranges.items() if of_one}
    plans = {name: [tested.inputs for tested in of_one] for name, of_one in ranges.items()}
    moved = {}
    with np.errstate(over="ignore"):
        for name, of_one in ranges.items():
            moved[name] = [_moved(tested.inputs, seed) for tested in of_one for seed in (1, 2) if tested.kinds == "f"]
    asked = ask_each(original, {name: [*plan, *moved[name]] for name, plan in plans.items()}, timeout=TIMEOUT)
    without = ask_each(original, plans, onednn="0", timeout=TIMEOUT)
    answered = {name: plan[: len(asked[name].answers)] for name, plan in plans.items()}
    copies = ask_each(twin, answered, timeout=TIMEOUT)
    problems: dict[str, list[str | None]] = {}
    for name, plan in plans.items():
        answers, others = asked[name].answers[: len(plan)], asked[name].answers[len(plan) :]
        copied = copies[name].answers
        if copies[name].failure and len(copied) < len(answers):
            copied.append(Answer(None, "DIED", copies[name].failure or ""))
        problems[name] = []
        for position, (answer, copy) in enumerate(zip(answers, copied)):
            own = [*others[2 * position : 2 * position + 2], *without[name].answers[position : position + 1]]
            problems[name].append(_problem(answer, [repeat for repeat in own if repeat.outputs], copy, tolerance))
    return problems


def _problem(answer: Answer, own: list[Answer], copy: Answer, tolerance: float) -> str | None:
    if answer.outputs is None:
        return None  # nothing to compare with
    if copy.outputs is None:
        return f"it fails: {copy.message or copy.error}"
    for name, array in answer.outputs.items():
        other = copy.outputs[name]
        if array.dtype != other.dtype or array.shape != other.shape:
            return compare.difference({name: array}, {name: other}, tolerance)[1]
        if array.dtype.kind not in "biuf":
            continue
        same = [
            array,
            *(repeat.outputs[name] for repeat in own if repeat.outputs and repeat.outputs[name].shape == array.shape),
        ]
        if (index := _wrong(same, other, tolerance)) is not None:
            return f"output {name!r} has {_text(other.ravel()[index])}, the original's {_text(array.ravel()[index])}"
    return None


def _wrong(same: list[Array], other: Array, tolerance: float) -> int | None:
    """Return the flat index of the element that differs most, beyond the differences between the original's runs."""
    if same[0].dtype.kind in "biu":
        settled = np.all([array == same[0] for array in same], axis=0)
        wrong = settled & (other != same[0])
        return int(np.argmax(wrong)) if wrong.any() else None
    wide = np.stack([array.astype(np.float64) for array in same])
    finite = np.isfinite(wide).all(axis=0)
    if not finite.any():
        return None
    wide = np.where(finite, wide, 0.0)
    allowed = compare.allowed(same[0], tolerance) * np.abs(wide[0]).max() + OWN * (wide.max(axis=0) - wide.min(axis=0))
    with np.errstate(invalid="ignore"):
        distance = np.abs(other.astype(np.float64) - wide[0])
    beyond = finite & ~(distance <= allowed)
    if not beyond.any():
        return None
    return int(np.argmax(np.where(beyond, np.where(np.isfinite(distance), distance, np.inf), -1.0)))


def _text(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, np.floating) else str(value)
