"""Find inputs that a signature answers: inputs are generated, the likeliest first, until a run succeeds."""

import time
from collections.abc import Iterable, Mapping
from itertools import islice
from typing import Any, NamedTuple, Protocol

import numpy as np

from serving.core.errors import InputError, RunError, plain
from serving.savedmodel.examples import Inputs, Recipe, made
from serving.savedmodel.signature import Signature

Arrays = Mapping[str, np.ndarray[Any, Any]]
INPUTS_FAULT = frozenset(
    {"INVALID_ARGUMENT", "OUT_OF_RANGE", "RESOURCE_EXHAUSTED"}
)  # other codes are faults of the model


class Runner(Protocol):
    """A loaded model."""

    def run(self, signature: Signature, inputs: Arrays) -> Mapping[str, Any]: ...


class Tried(NamedTuple):
    """The result: inputs that the signature answered, or the reason why there are none."""

    inputs: Inputs | None
    reason: str = ""
    fault: bool = False  # of the model: it fails for every input


def tried(
    model: Runner, signature: Signature, recipes: Iterable[Recipe], most: int = 600, seconds: float = 20.0
) -> Tried:
    """Run the signature on up to `most` generated inputs of one row; no run begins after `seconds`."""
    begin, reason = time.monotonic(), "its inputs are larger than generated inputs may be"
    for recipe in islice(recipes, most):
        if time.monotonic() - begin > seconds:
            break
        inputs = made(signature, recipe, 1, np.random.default_rng(1))
        if inputs is None:
            continue
        try:
            model.run(signature, inputs)
        except InputError as error:
            reason = str(error)
        except RunError as error:
            reason = plain(str(error)) or error.code
            if error.code not in INPUTS_FAULT:
                return Tried(None, f"{error.code}: {reason}", fault=True)
        else:
            return Tried(inputs)
    return Tried(None, reason)
