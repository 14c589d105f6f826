"""The training state of a model, kept outside of the exported model.

    export(model, "model/", state=from_keras(model, epoch=3, seed=7, data=fingerprint(x, y)))
    ...
    facts = resume(model, "model.state.json")       # in a fresh process: the same model, built and compiled
    model.fit(..., initial_epoch=facts["epoch"])

The facts are JSON, for people too. The arrays (weights, optimizer slots, seed generators) stand beside it in an .npz,
which base64 would make a third larger and no diff could show; the JSON names it with its SHA-256, and the name
holds a part of that, so that a new state never overwrites the arrays of the one before it is complete.

Restored bit for bit: weights, optimizer, schedules, Keras's seed generators (dropout, augmentation), Python's and
NumPy's global generators. Not restored: the hidden state of TensorFlow's own stateful random operations, which
`fit(shuffle=True)` uses. Derive the order of the data from the seed and the epoch's number instead.
"""

import hashlib
import json
import os
import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from exporting.function import is_keras
from exporting.manifest import sha256
from exporting.refusal import Refusal, Unreadable
from serving.core.dtypes import is_extended

Array = np.ndarray[Any, Any]
PARTS = ("weights", "optimizer", "seeds")
SEEDS = "seed_generator_state"  # what Keras calls the variable of a seed generator


@dataclass(frozen=True, slots=True)
class State:
    """The state of a training: facts as JSON holds them, arrays by name."""

    facts: Mapping[str, Any]
    arrays: Mapping[str, Array] = field(default_factory=dict)


def from_keras(model: Any, **facts: Any) -> State:
    """Return all that is needed to resume the training of a compiled Keras model, and further facts.

    `step`, `learning_rate` and `optimizer` are read from the model; give `epoch`, `seed`, `metrics`, `data`.
    """
    if not is_keras(model):
        raise Refusal(f"{type(model).__name__} is not a Keras model: give its state as a dictionary")
    arrays = {
        f"{part}/{number:04}": np.asarray(variable.value)
        for part, variables in _variables(model).items()
        for number, variable in enumerate(variables)
    }
    version, words, gauss = random.getstate()
    kind, key, position, has_gauss, cached = np.random.get_state(legacy=True)
    arrays["random/python"] = np.array(words, np.uint64)
    arrays["random/numpy"] = np.asarray(key)
    generators = {"random": {"python": [version, gauss], "numpy": [kind, position, has_gauss, cached]}}
    return State({**_facts(model), **facts, **generators}, arrays)


def _facts(model: Any) -> dict[str, Any]:
    import keras  # type: ignore[import-untyped]

    facts: dict[str, Any] = {"parameters": model.count_params(), "keras": keras.__version__}
    optimizer = getattr(model, "optimizer", None)
    if optimizer is not None:
        facts |= {
            "step": int(optimizer.iterations),
            "optimizer": keras.optimizers.serialize(optimizer),
            "learning_rate": float(optimizer.learning_rate),
        }
    return facts


def _variables(model: Any) -> dict[str, list[Any]]:
    """Return what training changes, in an order that does not depend on the numbers in Keras's names."""
    weights = list(model.weights)
    known = {id(variable) for variable in weights}
    optimizer = getattr(model, "optimizer", None)
    parts = (
        weights,
        [] if optimizer is None else list(optimizer.variables),
        [variable for variable in model.variables if id(variable) not in known and variable.name == SEEDS],
    )
    return dict(zip(PARTS, parts))


def save(path: Path, state: State | Mapping[str, Any]) -> None:
    """Write a state: the JSON at `path`, its arrays beside it; complete or not at all."""
    state = state if isinstance(state, State) else State(state)
    facts, old = dict(state.facts), _arrays_named_by(path)
    arrays, text = path.with_name(f".{path.name}.npz"), path.with_name(f".{path.name}")
    try:
        if state.arrays:
            with arrays.open("wb") as file:
                np.savez(file, **{name: _plain(array) for name, array in state.arrays.items()})  # type: ignore[arg-type]
            digest = sha256(arrays)
            facts["arrays"] = {
                "file": f"{path.name.removesuffix('.json')}-{digest[:12]}.npz",
                "sha256": digest,
                "dtypes": {name: str(array.dtype) for name, array in state.arrays.items() if is_extended(array.dtype)},
            }
        text.write_text(json.dumps(facts, indent=2, default=_json) + "\n")
        if state.arrays:
            arrays.replace(path.with_name(facts["arrays"]["file"]))
        text.replace(path)
    except TypeError as error:
        raise Refusal(f"{path}: the state cannot be written as JSON: {error}") from None
    except OSError as error:
        raise Refusal(f"{path}: cannot be written: {error.strerror or error}") from None
    finally:
        arrays.unlink(missing_ok=True)
        text.unlink(missing_ok=True)
    if old and old != facts.get("arrays", {}).get("file"):
        path.with_name(old).unlink(missing_ok=True)


def _arrays_named_by(path: Path) -> str | None:
    try:
        name = json.loads(path.read_bytes())["arrays"]["file"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return name if isinstance(name, str) and os.path.basename(name) == name and name.endswith(".npz") else None


def _plain(array: Array) -> Array:
    """Return bfloat16 and its like, which .npz does not know, as integers of their size."""
    return array.view(f"u{array.dtype.itemsize}") if is_extended(array.dtype) else array


def _json(value: Any) -> Any:
    if isinstance(value, (np.ndarray, np.generic)):
        return value.tolist()
    if isinstance(value, Path):
        return value.name
    raise TypeError(f"{type(value).__name__} has no JSON form")


def load(path: Path | str) -> State:
    """Read a state; raise Unreadable where its JSON or its arrays are not what was written."""
    path = Path(path)
    try:
        facts = json.loads(path.read_bytes())
        stored_as = facts.pop("arrays", None)
        if not stored_as:
            return State(facts)
        if _arrays_named_by(path) is None:
            raise Unreadable(f"{path}: its arrays are said to be in {stored_as['file']!r}, which is no .npz beside it")
        beside = path.with_name(stored_as["file"])
        if sha256(beside) != stored_as["sha256"]:
            raise Unreadable(f"{beside}: it has changed since {path.name} was written")
        with np.load(beside, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
        for name, dtype in stored_as["dtypes"].items():
            import ml_dtypes

            arrays[name] = arrays[name].view(getattr(ml_dtypes, dtype))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise Unreadable(f"{path}: no training state that could be read ({error})") from None
    return State(facts, arrays)


def resume(model: Any, path: Path | str) -> dict[str, Any]:
    """Bring a built and compiled Keras model to a saved state, and the global generators; return the facts.

    Nothing is changed where the state is not this model's.
    """
    state = load(path)
    optimizer = getattr(model, "optimizer", None)
    if optimizer is not None and not optimizer.built:
        optimizer.build(model.trainable_variables)
    pairs = []
    for part, variables in _variables(model).items():
        names = sorted(name for name in state.arrays if name.startswith(f"{part}/"))
        if len(names) != len(variables):
            raise Refusal(f"{path}: it holds {len(names)} variables of the {part}, the model has {len(variables)}")
        for name, variable in zip(names, variables):
            array = state.arrays[name]
            if tuple(variable.shape) != array.shape:
                text = f"{variable.path} has shape {list(variable.shape)}, and {list(array.shape)} in the state"
                raise Refusal(f"{path}: {text}: it is another model's")
            pairs.append((variable, array))
    for variable, array in pairs:
        variable.assign(array)
    if "random" in state.facts:
        version, gauss = state.facts["random"]["python"]
        random.setstate((version, tuple(int(word) for word in state.arrays["random/python"]), gauss))
        kind, position, has_gauss, cached = state.facts["random"]["numpy"]
        np.random.set_state((kind, state.arrays["random/numpy"], position, has_gauss, cached))
    return dict(state.facts)


def fingerprint(*arrays: Any) -> str:
    """Return the SHA-256 of arrays with their types and shapes, to recognize training data by."""
    digest = hashlib.sha256()
    for value in arrays:
        array = np.ascontiguousarray(value)
        digest.update(f"{array.dtype.str} {array.shape};".encode())
        digest.update(repr(array.tolist()).encode() if array.dtype.kind == "O" else array.tobytes())
    return digest.hexdigest()
