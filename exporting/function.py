"""A serving function: named tensors in, named tensors out; made of a Keras model, a tf.function or plain Python.

    forward(model)                                        a Keras model's forward pass, as it predicts
    function(work, {"x": tf.TensorSpec((None, 3))})       any callable that takes tensors by those names

What these return, the wrappers take, and `exporting.export` writes.
"""

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from exporting.graph import import_tensorflow, joined, served
from exporting.lowering import forget_training
from exporting.refusal import Refusal

Tensors = dict[str, Any]
GENERATED = re.compile(r"^(input_layer|keras_tensor|input|args|kwargs)(_\d+)?$")  # Keras's, where nobody gave a name


@dataclass(frozen=True, slots=True)
class Function:
    """What one signature does, with the specs of its inputs by name."""

    call: Callable[..., Tensors]
    inputs: Mapping[str, Any]  # tf.TensorSpec
    holds: tuple[Any, ...] = ()  # the models and tables that it refers to
    concrete: Any = None  # the graph, where one exists that does just this


def function(
    work: Any, inputs: Mapping[str, Any], *, outputs: Sequence[str] | None = None, holds: Sequence[Any] = ()
) -> Function:
    """Return a callable, which takes tensors by name, as a serving function.

    It may return a dictionary, one tensor or several; `outputs` names those that have no names. `holds` are the
    tf.Modules and tables that it refers to, where the model that is exported does not hold them.
    """
    import_tensorflow()
    import tensorflow as tf

    graph = tf.function(work)

    def call(**tensors: Any) -> Tensors:
        return named((work if tf.executing_eagerly() else graph)(**tensors), outputs)

    return Function(call, dict(inputs), tuple(holds))


def forward(model: Any, *, inputs: Mapping[str, Any] | None = None, outputs: Sequence[str] | None = None) -> Function:
    """Return a Keras model's forward pass as a serving function.

    Inputs have the names that `keras.Input(name=...)` gave them, else "input"; outputs the keys of the dictionary that
    the model returns, else "output". A model that does not know its inputs, a subclassed one, needs their specs.
    """
    if not is_keras(model):
        raise Refusal(
            f"{type(model).__name__} is not a Keras model: exporting.function(...) makes a function of a callable"
        )
    if inputs is not None:
        names = list(inputs)

        def by_given_name(**tensors: Any) -> Tensors:
            values = [tensors[name] for name in names]
            return named(model(values[0] if len(values) == 1 else tensors, training=False), outputs)

        return Function(by_given_name, dict(inputs), (model,))
    import keras  # type: ignore[import-untyped]
    import tensorflow as tf

    if keras.backend.backend() != "tensorflow":
        raise Refusal(f"Keras runs on {keras.backend.backend()}: load the model again with KERAS_BACKEND=tensorflow")
    structure = _structure(model)
    if structure is None:
        raise Refusal(
            f"the model {model.name!r} does not know its inputs; name them: "
            "forward(model, inputs={'x': tf.TensorSpec((None, 3))})"
        )
    flat = keras.tree.flatten(structure)
    keys = sorted(structure) if isinstance(structure, dict) else _friendly([tensor.name for tensor in flat])
    if isinstance(structure, dict):
        flat = [structure[key] for key in keys]
    free = isinstance(model, keras.Sequential)  # without an Input, it has as many rows as its first batch had
    shapes = [(None, *tensor.shape[1:]) if free else tensor.shape for tensor in flat]
    specs = {key: tf.TensorSpec(shape, tensor.dtype, key) for key, shape, tensor in zip(keys, shapes, flat)}
    for key, tensor in zip(keys, flat):
        if getattr(tensor, "sparse", False):
            raise Refusal(f"input {key!r} is a sparse tensor, which has no plain array form")

    def by_own_name(**tensors: Any) -> Tensors:
        values: Any = tensors
        if not isinstance(structure, dict):
            values = keras.tree.pack_sequence_as(structure, [tensors[key] for key in keys])
        return named(model(values, training=False), outputs)

    return Function(by_own_name, specs, (model,))


def from_saved_model(directory: Path | str) -> dict[str, Function]:
    """Return the signatures of a SavedModel as serving functions, to wrap and to export without its source."""
    import_tensorflow()
    import tensorflow as tf

    graph, path = served(Path(directory)), Path(directory)
    try:
        with joined(path, graph, forget_training(graph)) as readable:
            loaded = tf.saved_model.load(str(readable), tags=list(graph.meta_info_def.tags))
    except (OSError, ValueError, KeyError, AttributeError, RuntimeError, tf.errors.OpError) as error:
        raise Refusal(f"{directory}: TensorFlow cannot load it: {' '.join(str(error).split())[:300]}") from None

    def one(concrete: Any) -> Function:
        return Function(
            lambda **tensors: dict(concrete(**tensors)), dict(concrete.structured_input_signature[1]), (loaded,)
        )

    return {name: one(concrete) for name, concrete in loaded.signatures.items()}


def _structure(model: Any) -> Any:
    """Return a model's inputs as it is called with them, or None where it does not know."""
    try:
        return model.input
    except (AttributeError, ValueError):  # a Sequential has `inputs` alone
        found = getattr(model, "inputs", None)
        return found[0] if found and len(found) == 1 else None


def _friendly(names: Sequence[str]) -> list[str]:
    if len(names) == 1:
        return ["input" if GENERATED.match(names[0]) else names[0]]
    return [f"input_{place}" if GENERATED.match(name) else name for place, name in enumerate(names)]


def is_keras(model: Any) -> bool:
    """Say whether it is a Keras 3 model or layer."""
    return any(kind.__module__.startswith("keras.") and kind.__name__ == "Layer" for kind in type(model).__mro__)


def named(result: Any, names: Sequence[str] | None = None) -> Tensors:
    """Return what a function gave as named tensors."""
    import tensorflow as tf

    if isinstance(result, Mapping):
        return dict(result)
    values = list(result) if isinstance(result, (list, tuple)) else [result]
    if names is None:
        names = ["output"] if len(values) == 1 else [f"output_{place}" for place in range(len(values))]
    if len(names) != len(values):
        raise Refusal(f"it gives {len(values)} tensors, and {len(names)} names are given: {', '.join(names)}")
    return {name: tf.convert_to_tensor(value) for name, value in zip(names, values)}


def as_function(given: Any) -> Function:
    """Return what a user gave as a serving function; raise Refusal where its inputs are not known."""
    if isinstance(given, Function):
        return given
    if is_keras(given):
        return forward(given)
    if hasattr(given, "get_concrete_function"):
        return _of_graph(given)
    said = getattr(given, "__name__", type(given).__name__)
    if not callable(given):
        raise Refusal(f"expected a function, got {said}")
    raise Refusal(
        f"{said} says nothing of its inputs' types: decorate it with tf.function(input_signature=...), or give "
        "exporting.function(it, {'x': tf.TensorSpec((None, 3))})"
    )


def _of_graph(given: Any) -> Function:
    """Return a tf.function that knows its input signature."""
    if getattr(given, "input_signature", None) is None:
        raise Refusal(
            f"the tf.function {getattr(given, '__name__', '')!r} has no input_signature: give it one, or give "
            "exporting.function(it, {'x': tf.TensorSpec((None, 3))})"
        )
    concrete = given.get_concrete_function()
    positional, keyword = concrete.structured_input_signature
    parameters = [name for name in inspect.signature(given.python_function).parameters if name != "self"]
    specs = [*zip(parameters, positional), *keyword.items()]
    for name, spec in specs:
        if not hasattr(spec, "shape") or not hasattr(spec, "dtype") or isinstance(spec, (list, tuple, dict)):
            raise Refusal(
                f"argument {name!r} is not a tensor but {type(spec).__name__}: give every input a name of its own"
            )
    of = {getattr(spec, "name", None) or name: name for name, spec in specs}
    inputs = {getattr(spec, "name", None) or name: spec for name, spec in specs}

    def call(**tensors: Any) -> Tensors:
        return named(given(**{of[name]: tensor for name, tensor in tensors.items()}))

    is_named = isinstance(concrete.structured_outputs, Mapping)
    return Function(call, inputs, (getattr(given, "__self__", None),), concrete if is_named else None)
