"""A model of one operation, whose inputs come from placeholders that leave the rank open."""

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

QUANTIZED = {"qint8": "int8", "quint8": "uint8", "qint16": "int16", "quint16": "uint16", "qint32": "int32"}
TYPES = ["float32", "int32", "int64", "string", "bool", "uint8", "complex64", "float64", *QUANTIZED]
HANDLES = {"resource", "variant"}
LISTS = [[1], [2], [1, 1], [2, 2], [1, 1, 1, 1], [1, 2, 2, 1], [1, 1, 1, 1, 1], [1, 2, 2, 2, 1]]


class Argument(NamedTuple):
    """One tensor that is fed: its name, its dtype, and the ranks that the operation's shape function takes."""

    name: str
    dtype: str
    ranks: list[int]


def make_model(definition: Any, rng: random.Random, folder: Path) -> tuple[str, list[Argument]] | None:
    """Save a model of the operation with attributes by chance, or return None where none of them fit."""
    for _ in range(20):
        attributes = _attributes(definition, rng)
        dtypes = [*_arguments(definition, attributes, definition.input_arg)]
        if not 0 < len(dtypes) <= 24 or not _fits(graph := _graph(definition, attributes, dtypes, {})):
            continue
        _save(graph, dtypes, folder)
        ranks = [
            [rank for rank in range(6) if _fits(_graph(definition, attributes, dtypes, {name: rank}))] or [0]
            for name, _ in dtypes
        ]
        arguments = [Argument(name, QUANTIZED.get(dtype, dtype), fits) for (name, dtype), fits in zip(dtypes, ranks)]
        said = {name: value for name, value in attributes.items() if value is not None}
        return json.dumps(said, default=str), arguments
    return None


def _graph(definition: Any, attributes: dict[str, Any], dtypes: Any, ranks: dict[str, int]) -> Any:
    """Return the GraphDef, with "y", the sizes of the outputs; an input that is not in `ranks` is of any rank."""
    import tensorflow as tf

    graph = tf.compat.v1.GraphDef()

    def node(name: str, op: str, inputs: list[str], **types: str | int) -> Any:
        added = graph.node.add(name=name, op=op, input=inputs)
        for key, value in types.items():
            if isinstance(value, int):
                added.attr[key].i = value
            else:
                added.attr[key].type = tf.dtypes.as_dtype(value).as_datatype_enum
        return added

    given = []
    for name, dtype in dtypes:
        placeholder = node(name, "Placeholder", [], dtype=QUANTIZED.get(dtype, dtype))
        shape = tf.TensorShape([None] * ranks[name] if name in ranks else None)
        placeholder.attr["shape"].shape.CopyFrom(shape.as_proto())
        if dtype in QUANTIZED:
            node(f"{name}__as", "Bitcast", [name], T=QUANTIZED[dtype], type=dtype)
        given.append(f"{name}__as" if dtype in QUANTIZED else name)
    tried = node("tried", definition.name, given)
    for attr in definition.attr:
        _put(tf, tried.attr[attr.name], attr, attributes[attr.name])
    outputs = [dtype for _, dtype in _arguments(definition, attributes, definition.output_arg)]
    for number, dtype in enumerate(outputs):
        node(f"size_{number}", "Size", [f"tried:{number}"], T=dtype, out_type="int32")
    node("y", "Pack", [f"size_{number}" for number in range(len(outputs))], T="int32", N=len(outputs))
    return graph


def _fits(graph: Any) -> bool:
    """Say whether the operation's shape function takes its attributes and the ranks of its inputs."""
    import tensorflow as tf

    try:
        with tf.Graph().as_default():
            tf.graph_util.import_graph_def(graph, name="")
    except (IndexError, ValueError, tf.errors.OpError):
        return False
    return True


def _save(graph: Any, dtypes: Any, folder: Path) -> None:
    import tensorflow as tf
    from tensorflow.core.protobuf import saved_model_pb2

    saved = saved_model_pb2.SavedModel(saved_model_schema_version=1)
    meta = saved.meta_graphs.add(graph_def=graph)
    meta.meta_info_def.tags.append("serve")
    signature = meta.signature_def["serving_default"]
    for name, dtype in dtypes:
        info = signature.inputs[name]
        info.name, info.dtype = f"{name}:0", tf.dtypes.as_dtype(QUANTIZED.get(dtype, dtype)).as_datatype_enum
        info.tensor_shape.unknown_rank = True
    signature.outputs["y"].name, signature.outputs["y"].dtype = "y:0", tf.int32.as_datatype_enum
    folder.mkdir()
    (folder / "saved_model.pb").write_bytes(saved.SerializeToString())


def _attributes(definition: Any, rng: random.Random) -> dict[str, Any]:
    chosen = {}
    for attr in definition.attr:
        allowed, default = attr.allowed_values.list, attr.default_value
        has_default = attr.HasField("default_value")
        if attr.type == "type":
            names = [type_name(code) for code in allowed.type] or TYPES
            names = [name for name in TYPES if name in names] or names
            usual = type_name(default.type) if has_default else names[0]
            chosen[attr.name] = usual if rng.random() < 0.5 and usual in TYPES else rng.choice(names)
        elif attr.type == "list(type)":
            names = [type_name(code) for code in allowed.type] or TYPES
            names = [name for name in TYPES if name in names]
            chosen[attr.name] = [rng.choice(names[:3]) for _ in range(max(attr.minimum, rng.choice([0, 1, 1, 2])))]
        elif has_default and rng.random() < 0.6:
            chosen[attr.name] = None
        elif attr.type == "string":
            chosen[attr.name] = rng.choice([*allowed.s] or [b"", b"a", b"SAME", b"VALID"])
        elif attr.type == "int":
            chosen[attr.name] = max(attr.minimum if attr.has_minimum else -1, rng.choice([1, 1, 2, 3, 0]))
        elif attr.type == "float":
            chosen[attr.name] = rng.choice([0.0, 1.0, 0.5, 2.0])
        elif attr.type == "bool":
            chosen[attr.name] = rng.random() < 0.5
        elif attr.type == "list(int)":
            longest = [dtypes for dtypes in LISTS if len(dtypes) >= attr.minimum]
            chosen[attr.name] = rng.choice(longest or [[1] * attr.minimum])
        elif attr.type == "list(float)":
            chosen[attr.name] = [0.5] * max(attr.minimum, 1)
        elif attr.type == "shape":
            chosen[attr.name] = rng.choice([[], [1], [2], [1, 2]])
        elif attr.type == "list(shape)":
            chosen[attr.name] = [rng.choice([[], [1], [2]]) for _ in range(max(attr.minimum, rng.choice([0, 1, 1, 2])))]
        else:
            chosen[attr.name] = None
    return chosen


def _put(tf: Any, value: Any, attr: Any, chosen: Any) -> None:
    if chosen is None:
        value.CopyFrom(attr.default_value)
    elif attr.type == "type":
        value.type = tf.dtypes.as_dtype(chosen).as_datatype_enum
    elif attr.type == "list(type)":
        value.list.type.extend(tf.dtypes.as_dtype(choice).as_datatype_enum for choice in chosen)
        value.list.SetInParent()
    elif attr.type == "shape":
        value.shape.CopyFrom(tf.TensorShape(chosen).as_proto())
    elif attr.type == "list(shape)":
        value.list.shape.extend(tf.TensorShape(choice).as_proto() for choice in chosen)
        value.list.SetInParent()
    elif attr.type.startswith("list("):
        field = {"list(int)": "i", "list(float)": "f"}[attr.type]
        getattr(value.list, field).extend(chosen)
        value.list.SetInParent()
    else:
        setattr(value, {"string": "s", "int": "i", "float": "f", "bool": "b"}[attr.type], chosen)


def _chosen(definition: Any, attributes: dict[str, Any], name: str) -> Any:
    if attributes[name] is not None:
        return attributes[name]
    (attr,) = (attr for attr in definition.attr if attr.name == name)
    default = attr.default_value
    if attr.type == "list(type)":
        return [type_name(code) for code in default.list.type]
    return default.i if attr.type == "int" else type_name(default.type)


def _arguments(definition: Any, attributes: dict[str, Any], arguments: Any) -> Iterator[tuple[str, str]]:
    for argument in arguments:
        if argument.type_list_attr:
            types = _chosen(definition, attributes, argument.type_list_attr)
        else:
            type_ = type_name(argument.type) or _chosen(definition, attributes, argument.type_attr)
            types = [type_] * (_chosen(definition, attributes, argument.number_attr) if argument.number_attr else 1)
        yield from ((f"{argument.name}__{number}", dtype) for number, dtype in enumerate(types))


def type_name(code: int) -> str:
    import tensorflow as tf

    return tf.dtypes.as_dtype(code).name if code else ""
