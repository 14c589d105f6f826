"""Serving functions, from named tensors to named tensors, made of a Keras model, a tf.function or plain Python.

    forward(model)                                        a Keras model's forward pass, as it predicts
    function(work, {"x": tf.TensorSpec((None, 3))})       any callable that takes tensors by those names

The wrappers take such functions, and `exporting.export` writes them.
"""

import inspect
import re
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from exporting.graph import import_tensorflow, joined, served
from exporting.lowering import forget_training
from exporting.refusal import Refusal, Unreadable
from serving.core.dtypes import by_code
from serving.savedmodel.signature import DEFAULT

Tensors = dict[str, Any]
GENERATED = re.compile(r"^(input_layer|keras_tensor|input|args|kwargs)(_\d+)?$")  # Keras's own names


@dataclass(frozen=True, slots=True)
class Function:
    """The function of one signature, with the specs of its inputs by name."""

    call: Callable[..., Tensors]
    inputs: Mapping[str, Any]  # tf.TensorSpec
    holds: tuple[Any, ...] = ()  # the models and tables that it refers to
    concrete: Any = None  # its graph, where one exists already


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

    def as_served(concrete: Any) -> Function:
        return Function(
            lambda **tensors: dict(concrete(**tensors)), dict(concrete.structured_input_signature[1]), (loaded,)
        )

    return {name: as_served(concrete) for name, concrete in loaded.signatures.items()}


def _structure(model: Any) -> Any:
    """Return the structure of a model's inputs, or None where it does not know them."""
    try:
        return model.input
    except (AttributeError, ValueError):  # a Sequential has only `inputs`
        inputs = getattr(model, "inputs", None)
        return inputs[0] if inputs and len(inputs) == 1 else None


def _friendly(names: Sequence[str]) -> list[str]:
    if len(names) == 1:
        return ["input" if GENERATED.match(names[0]) else names[0]]
    return [f"input_{position}" if GENERATED.match(name) else name for position, name in enumerate(names)]


def from_keras_file(path: Path) -> Any:
    """Return the Keras model in a .keras file; raise Unreadable where there is none, Refusal where it needs code."""
    if not path.is_file() or not zipfile.is_zipfile(path):
        actual = "another file" if path.is_file() else "a folder" if path.is_dir() else "nothing"
        raise Unreadable(f"{path}: expected a .keras file, which model.save(...) writes, got {actual}")
    import_tensorflow()
    import keras

    try:
        return keras.models.load_model(path, compile=False)
    except TypeError as error:  # a class that is defined elsewhere
        reason = " ".join(str(error).split())[:300]
        raise Refusal(f"{path}: {reason}; call exporting.export where its classes are defined") from None
    except Exception as error:  # what Keras raises for other archives depends on their content
        raise Unreadable(f"{path}: Keras cannot read it: {' '.join(str(error).split())[:300]}") from None


def is_keras(model: Any) -> bool:
    """Return whether it is a Keras 3 model or layer."""
    return any(kind.__module__.startswith("keras.") and kind.__name__ == "Layer" for kind in type(model).__mro__)


def named(result: Any, names: Sequence[str] | None = None) -> Tensors:
    """Return the result of a function as named tensors."""
    import tensorflow as tf

    if isinstance(result, Mapping):
        return dict(result)
    values = list(result) if isinstance(result, (list, tuple)) else [result]
    if names is None:
        names = ["output"] if len(values) == 1 else [f"output_{position}" for position in range(len(values))]
    if len(names) != len(values):
        raise Refusal(f"it gives {len(values)} tensors, and {len(names)} names are given: {', '.join(names)}")
    return {name: tf.convert_to_tensor(value) for name, value in zip(names, values)}


def as_function(source: Any) -> Function:
    """Return a model or callable as a serving function; raise Refusal where its inputs are not known."""
    if isinstance(source, Function):
        return source
    if is_keras(source):
        return forward(source)
    if hasattr(source, "get_concrete_function"):
        return _of_graph(source)
    name = getattr(source, "__name__", type(source).__name__)
    if not callable(source):
        raise Refusal(f"expected a function, got {name}")
    raise Refusal(
        f"{name} says nothing of its inputs' types: decorate it with tf.function(input_signature=...), or give "
        "exporting.function(it, {'x': tf.TensorSpec((None, 3))})"
    )


def _of_graph(source: Any) -> Function:
    """Return a tf.function with an input signature as a serving function."""
    if getattr(source, "input_signature", None) is None:
        raise Refusal(
            f"the tf.function {getattr(source, '__name__', '')!r} has no input_signature: give it one, or give "
            "exporting.function(it, {'x': tf.TensorSpec((None, 3))})"
        )
    concrete = source.get_concrete_function()
    positional, keyword = concrete.structured_input_signature
    parameters = [name for name in inspect.signature(source.python_function).parameters if name != "self"]
    specs = [*zip(parameters, positional), *keyword.items()]
    for name, spec in specs:
        if not hasattr(spec, "shape") or not hasattr(spec, "dtype") or isinstance(spec, (list, tuple, dict)):
            raise Refusal(
                f"argument {name!r} is not a tensor but {type(spec).__name__}: give every input a name of its own"
            )
    of = {getattr(spec, "name", None) or name: name for name, spec in specs}
    inputs = {getattr(spec, "name", None) or name: spec for name, spec in specs}

    def call(**tensors: Any) -> Tensors:
        return named(source(**{of[name]: tensor for name, tensor in tensors.items()}))

    is_named = isinstance(concrete.structured_outputs, Mapping)
    return Function(call, inputs, (getattr(source, "__self__", None),), concrete if is_named else None)


def served_functions(model: Any, declared: Mapping[str, Any]) -> dict[str, Function]:
    """Return the functions to export by name: those declared, and a serving_default; raise Refusal for a bad input."""
    functions = {}
    for name, function in declared.items():
        try:
            functions[name] = as_function(function)
        except Refusal as refusal:
            raise Refusal(f"functions[{name!r}]: {refusal}") from None
    if DEFAULT not in functions:
        if is_keras(model):
            functions[DEFAULT] = as_function(model)
        elif len(functions) == 1:
            functions[DEFAULT] = next(iter(functions.values()))
        elif functions:
            raise Refusal(f"functions: {', '.join(functions)}, and none is {DEFAULT!r}")
        else:
            functions[DEFAULT] = as_function(_only_function(model))
    for name, function in functions.items():
        _check_inputs(name, function.inputs)
    return functions


def _only_function(model: Any) -> Any:
    import tensorflow as tf

    if not isinstance(model, tf.Module):
        return model
    own = {
        name: getattr(model, name, None) for name in dir(type(model)) if name == "__call__" or not name.startswith("_")
    }
    graphs = {name: method for name, method in own.items() if getattr(method, "input_signature", None) is not None}
    if "__call__" in graphs:
        return graphs["__call__"]
    if len(graphs) != 1:
        problem = f"has {', '.join(graphs)}" if graphs else "has no tf.function with an input_signature"
        raise Refusal(f"{type(model).__name__} {problem}: say which is served, functions={{{DEFAULT!r}: ...}}")
    return next(iter(graphs.values()))


def _check_inputs(name: str, inputs: Mapping[str, Any]) -> None:
    if not inputs:
        raise Refusal(f"{name}: it has no inputs, so it would always answer the same")
    for key, spec in inputs.items():
        if not key.isidentifier():
            raise Refusal(f"{name}.{key}: an input's name has to be one in Python too: letters, digits, _")
        if type(spec).__name__ != "TensorSpec":
            raise Refusal(f"{name}.{key}: {type(spec).__name__} has no plain array form; take a tensor")
        if spec.shape.rank is None:
            raise Refusal(f"{name}.{key}: its rank is unknown; no server can check a request against that")
        if by_code(spec.dtype.as_datatype_enum).numpy_name is None:
            raise Refusal(f"{name}.{key}: no array holds {spec.dtype.name}")
