"""Example inputs for a signature, made from the specs that it declares and from the operations that parse its strings.

    for recipe in recipes(signature, texts, parts):       the likeliest first
        inputs = made(signature, recipe, 1, random)       None where they would be too large
        model.run(signature, inputs)                      until the model takes one

`parsing` finds the texts, `composite` the parts of ragged and sparse tensors, which are made to fit each other.
"""

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from serving.savedmodel.composite import Part, Ragged, Sparse, numbered_splits
from serving.savedmodel.signature import Signature, TensorSpec

if TYPE_CHECKING:
    from serving.savedmodel.parsing import Text

Array = np.ndarray[Any, Any]
Inputs = dict[str, Array]

MOST_ELEMENTS = 1 << 24  # of one input: 112 pictures of 224 x 224 x 3
MOST_STRINGS = 1 << 10
MOST_RECIPES = 600

SIZES = (4, 1, 8, 32, 224, 7, 16, 64, 3, 2)  # of free dimensions after the first
RANKS = (1, 2, 0, 3, 4)  # of inputs that declare none
NORMAL, WHOLE, ZERO = range(3)  # floats are normal and integers below 4; whole numbers of 0 and 1; zeros


@dataclass(frozen=True, slots=True)
class Recipe:
    """Choices for everything that a signature leaves open."""

    size: int
    rank: int
    numbers: int  # NORMAL, WHOLE or ZERO
    texts: tuple["Text", ...]  # for the strings, input by input; the last one for the rest
    parts: tuple[Part, ...] = ()  # inputs that have to fit each other


def recipes(signature: Signature, texts: Sequence["Text"], parts: Sequence[Part] = ()) -> Iterator[Recipe]:
    """Yield at most 2 * MOST_RECIPES ways to fill a signature's inputs, the likeliest first.

    `texts` make the strings; `parts` are the inputs that must fit each other.
    """
    specs = signature.inputs.values()
    free = any(spec.shape is None or None in spec.shape[1:] for spec in specs)
    numbers = any(spec.dtype.kind in "fiuc" for spec in specs)
    strings = sum(spec.dtype.kind == "S" for spec in specs)
    fitting = [tuple(parts)]
    if not parts and (named := _numbered(signature.inputs)):
        fitting.append(tuple(named))
    axes = (
        range(len(texts)) if strings and texts else range(1),
        range(len(RANKS)) if any(spec.shape is None for spec in specs) else range(1),
        range(3) if numbers else range(1),
        range(len(SIZES)) if free else range(1),
        range(len(fitting)),
    )
    combinations = sorted(itertools.product(*axes), key=sum)
    for text, rank, kind, size, fit in combinations[:MOST_RECIPES]:
        yield Recipe(SIZES[size], RANKS[rank], kind, tuple(texts[text : text + 1]), fitting[fit])
    if strings > 1:  # a picture and its caption
        for chosen in itertools.islice(itertools.product(texts, repeat=min(strings, 3)), MOST_RECIPES):
            yield Recipe(SIZES[0], RANKS[0], NORMAL, chosen, fitting[-1])


def made(signature: Signature, recipe: Recipe, rows: int, random: np.random.Generator) -> Inputs | None:
    """Return arrays by input, with `rows` rows where the first dimension is free; None where one would be too large."""
    shapes = {name: _shape(spec, recipe, rows) for name, spec in signature.inputs.items()}
    for name, spec in signature.inputs.items():
        if math.prod(shapes[name]) > (MOST_STRINGS if spec.dtype.kind == "S" else MOST_ELEMENTS):
            return None
    fitted = _parts(signature.inputs, recipe.parts, shapes)
    inputs: Inputs = {}
    strings = 0
    for name, spec in signature.inputs.items():
        if name in fitted:
            inputs[name] = fitted[name]
        elif spec.dtype.kind == "S":
            text = recipe.texts[min(strings, len(recipe.texts) - 1)] if recipe.texts else None
            strings += 1
            inputs[name] = np.empty(shapes[name], object)
            inputs[name].ravel()[:] = [text(random) if text else b"" for _ in range(inputs[name].size)]
        else:
            inputs[name] = _numbers(spec, shapes[name], recipe.numbers, random)
    return inputs


def _numbered(specs: Mapping[str, TensorSpec]) -> list[Part]:
    """Return the ragged tensors that the names suggest: "x" has its row splits in "x_1", "x_2", from the outermost."""
    chains = [(name, splits) for name in specs if (splits := numbered_splits(specs, name))]
    return [Ragged(*pair, inner=pair[1] != name) for name, splits in chains for pair in pairwise([*splits, name])]


def _shape(spec: TensorSpec, recipe: Recipe, rows: int) -> tuple[int, ...]:
    declared = (None,) * recipe.rank if spec.shape is None else spec.shape
    return tuple(
        (rows if axis == 0 else 3 if spec.shape is None and axis == 3 else recipe.size) if size is None else size
        for axis, size in enumerate(declared)
    )


def _numbers(spec: TensorSpec, shape: tuple[int, ...], numbers: int, random: np.random.Generator) -> Array:
    if numbers == ZERO:
        return np.zeros(shape, spec.dtype.numpy)
    if numbers == WHOLE or spec.dtype.kind in "iub":
        highest = 2 if numbers == WHOLE or spec.dtype.kind == "b" else 4
        return random.integers(0, highest, shape).astype(spec.dtype.numpy)
    values = random.normal(size=shape)
    return np.asarray(values + 1j * random.normal(size=shape) if spec.dtype.kind == "c" else values).astype(
        spec.dtype.numpy
    )


def _parts(
    specs: Mapping[str, TensorSpec], parts: Sequence[Part], shapes: dict[str, tuple[int, ...]]
) -> dict[str, Array]:
    """Return splits, indices and shapes that fit their values, by input; `shapes` are those of the values."""
    arrays: dict[str, Array] = {}
    for part in parts:
        if isinstance(part, Ragged):
            rows = shapes[part.values][:1] or (1,)
            count = 1 if part.inner else rows[0]  # the inner splits hold all values in one row
            splits = [0] * count if part.rows else [0, count]
            arrays[part.splits] = np.array(splits, specs[part.splits].dtype.numpy)
        elif isinstance(part, Sparse):
            rows = shapes[part.values][:1] or (1,)
            declared = specs[part.indices].shape
            rank = (declared[1] if declared and len(declared) > 1 else None) or 2
            indices = np.zeros((rows[0], rank), specs[part.indices].dtype.numpy)
            indices[:, 0] = np.arange(rows[0])
            shape = np.full(rank, max(rows[0], 1), specs[part.shape].dtype.numpy)
            arrays |= {part.indices: indices, part.shape: shape}
    return arrays
