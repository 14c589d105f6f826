"""What a SavedModel offers: its signatures, read from saved_model.pb without loading the model.

The file is a protobuf message (tensorflow/core/protobuf/saved_model.proto, meta_graph.proto). Of its fields only
the few below are read; the graph, often many megabytes, is skipped over, and no schema library is imported.
"""

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from pathlib import Path

from serving.core import settings
from serving.core.dtypes import DType, by_code
from serving.core.errors import LoadError
from serving.savedmodel import mistaken, saved_model

DEFAULT = "serving_default"  # the signature that answers a request which names none
NO_SIGNATURES = (
    "the SavedModel has no signature that can be served, for it was saved without any: use model.export(...), or "
    "tf.saved_model.save(model, folder, signatures=model.serve)"
)

# A run of one element at such dimensions is cheap: an RNN takes tens of microseconds for a step of nothing.
MOST_BESIDE_ZERO = 1 << 14

Shape = tuple[int | None, ...]


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One named tensor of a signature."""

    name: str
    dtype: DType
    shape: Shape | None  # None: a free dimension, or an unknown rank
    tensor: str  # what the graph calls it, "op:0"; "" for a sparse or a composite tensor
    dimensions: tuple[str, ...] = ()  # TensorFlow 1 could name them


@dataclass(frozen=True)
class Signature:
    """One named function of a model."""

    name: str
    inputs: Mapping[str, TensorSpec]
    outputs: Mapping[str, TensorSpec]
    method_name: str
    problem: str | None = None  # found when the model was loaded
    defaults: Mapping[str, bytes] = field(default_factory=dict)  # TensorProtos of the inputs that may be left out

    @cached_property
    def required(self) -> Mapping[str, TensorSpec]:
        """Return the inputs that a request has to give."""
        return {name: spec for name, spec in self.inputs.items() if name not in self.defaults}

    @cached_property
    def only(self) -> TensorSpec | None:
        """Return the input that values without a name are for: the only one, or the only one without a default."""
        specs = self.inputs if len(self.inputs) == 1 else self.required
        return next(iter(specs.values())) if len(specs) == 1 else None

    @cached_property
    def complex_output(self) -> TensorSpec | None:
        """Return the first output of complex numbers."""
        return next((spec for spec in self.outputs.values() if spec.dtype.kind == "c"), None)

    @cached_property  # every request asks
    def refusal(self) -> str | None:
        """Say why no request can call this signature, or None where one can."""
        if self.problem:
            return self.problem
        if not self.outputs:
            return "it has no outputs"
        for side, specs in (("input", self.inputs), ("output", self.outputs)):
            for spec in specs.values():
                if not spec.tensor:
                    return f"its {side} {spec.name!r} is a sparse or composite tensor, which has no plain array form"
                if spec.dtype.numpy_name is None:
                    return f"its {side} {spec.name!r} has dtype {spec.dtype.name}, which no array can hold"
        return None


@dataclass(frozen=True, slots=True)
class Contents:
    """What saved_model.pb says of the graph that is served."""

    tags: tuple[str, ...]
    signatures: Mapping[str, Signature]
    tensorflow_version: str
    restores: bool  # the graph reads its variables from files
    baked: bool = False  # the graph optimizer has run already: `python -m exporting bake`


def read(directory: Path) -> Contents:
    """Read the signatures of the SavedModel in `directory`; raise LoadError where there is none to serve."""
    if not (directory / saved_model.NAME).exists():
        raise LoadError(mistaken.folder(directory))
    graph = served_graph(directory)
    try:
        contents = _meta_graph(graph)
    except ValueError as error:  # UnicodeDecodeError is one
        raise LoadError(f"saved_model.pb is not a SavedModel, or only part of one ({error})") from None
    _check_callable(contents.signatures)
    # TensorFlow would load it all the same, and fail at the first run.
    if contents.restores and not (directory / "variables" / "variables.index").is_file():
        raise LoadError(f"variables/variables.index is missing: {mistaken.variables(directory)}")
    return contents


def check(spec: TensorSpec, shape: tuple[int, ...]) -> str | None:
    """Say how `shape` differs from what `spec` declares, or None where it fits."""
    if not fits(spec.shape, shape):
        return f"expected shape {shape_text(spec.shape)}, got {shape_text(shape)}"
    if 0 in shape and (size := _beside_zero(spec.shape, shape)) > MOST_BESIDE_ZERO:
        most = f"at most {MOST_BESIDE_ZERO} as the product of the sizes beside a 0"
        return f"expected {most}, where the model leaves them free, got {size}"
    return None


def _beside_zero(declared: Shape | None, shape: tuple[int, ...]) -> int:
    """Multiply what the request chooses: a layer goes through these dimensions though there is nothing in them."""
    free = declared or (None,) * len(shape)
    return math.prod(size for size, want in zip(shape, free) if size and want is None)


@lru_cache(maxsize=1024)  # requests to one model are of few shapes
def fits(declared: Shape | None, shape: tuple[int, ...]) -> bool:
    """Say whether an array's shape is one that is declared."""
    if declared is None:
        return True
    return len(shape) == len(declared) and all(want in (None, came) for want, came in zip(declared, shape))


def shape_text(shape: Shape | None) -> str:
    """Write a shape for people: [?, 28, 28]; "any" for an unknown rank."""
    if not shape:
        return "any" if shape is None else "[] (a scalar)"
    return f"[{', '.join('?' if size is None else str(size) for size in shape)}]"


def served_graph(directory: Path) -> memoryview:
    """Return the MetaGraphDef that is served, as it is in the file; raise LoadError where there is none.

    It is the one whose tags are those of SAVED_MODEL_TAGS, or else the one that has the fewest tags beside them.
    """
    wanted = settings.current().saved_model_tags
    try:
        graphs = [(tags(graph), graph) for graph in _each(saved_model.message(directory), 2)]
    except ValueError as error:
        raise LoadError(f"saved_model.pb is not a SavedModel, or only part of one ({error})") from None
    if not graphs:
        raise LoadError("saved_model.pb is not a SavedModel: it holds no graph")
    tagged = [(has, graph) for has, graph in graphs if wanted <= set(has)]
    fewest = min((len(has) for has, _ in tagged), default=0)
    chosen = [graph for has, graph in tagged if len(has) == fewest]
    if len(chosen) != 1:
        which = "more than one graph of the SavedModel is" if chosen else "no graph of the SavedModel is"
        there = "; ".join(",".join(has) or "none" for has, _ in graphs)
        raise LoadError(f"{which} tagged {','.join(sorted(wanted))!r}; SAVED_MODEL_TAGS: expected one of: {there}")
    return chosen[0]


def tags(graph: memoryview) -> tuple[str, ...]:
    """Return the tags of a MetaGraphDef."""
    return tuple(_text(tag) for tag in _each(_whole(graph, 1), 4))


def _check_callable(signatures: Mapping[str, Signature]) -> None:
    if not any(not name.startswith("__") for name in signatures):
        raise LoadError(NO_SIGNATURES)
    if not any(signature.refusal is None for signature in signatures.values()):
        reasons = [f"{name!r}: {signature.refusal}" for name, signature in signatures.items()]
        raise LoadError("; ".join(["the SavedModel has no signature that can be served", *reasons]))


# Wire format: https://protobuf.dev/programming-guides/encoding


def _fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Yield (field number, value); the value is a number, or the bytes of a string or a message."""
    position, end = 0, len(message)
    while position < end:
        key, position = _varint(message, position)
        number, wire = key >> 3, key & 7
        if wire == 0:
            value, position = _varint(message, position)
            yield number, value
            continue
        if wire == 2:
            size, position = _varint(message, position)
        elif wire in (1, 5):
            size = 8 if wire == 1 else 4
        else:
            raise ValueError(f"wire type {wire} at byte {position}")
        if number == 0 or size > end - position:
            raise ValueError(f"field {number} at byte {position} runs past the end")
        yield number, message[position : position + size]
        position += size


def _varint(message: memoryview, position: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if position >= len(message):
            raise ValueError("it ends in the middle of a number")
        byte = message[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise ValueError(f"a number of more than ten bytes at byte {position}")


def _each(message: memoryview, wanted: int) -> Iterator[memoryview]:
    """Yield every value of the repeated field `wanted`, a string or a message."""
    for number, value in _fields(message):
        if number == wanted:
            if isinstance(value, int):
                raise ValueError(f"field {number} is a number")
            yield value


def _one(message: memoryview, wanted: int) -> memoryview:
    """Return the last value of a string field, as protobuf does; empty where it is absent."""
    last = memoryview(b"")
    for value in _each(message, wanted):
        last = value
    return last


def _first(message: memoryview, wanted: int) -> memoryview:
    """Return a string or message field that stands before the others, without reading those; empty where absent."""
    return next(_each(message, wanted), memoryview(b""))


def _whole(message: memoryview, wanted: int) -> memoryview:
    """Return a message field; one that is written in parts is their concatenation, as protobuf has it."""
    parts = list(_each(message, wanted))
    return parts[0] if len(parts) == 1 else memoryview(b"".join(parts))


def _number(message: memoryview, wanted: int) -> int:
    last = 0
    for number, value in _fields(message):
        if number == wanted and isinstance(value, int):
            last = value
    return last - (1 << 64) if last >= 1 << 63 else last


def _text(value: memoryview) -> str:
    return str(value, "utf-8")


def _map(message: memoryview, field: int) -> dict[str, memoryview]:
    """Read a map field, in the order of its names: the file's own order means nothing."""
    return dict(sorted((_text(_one(entry, 1)), _whole(entry, 2)) for entry in _each(message, field)))


def _meta_graph(graph: memoryview) -> Contents:
    info = _whole(graph, 1)
    signatures = {name: _signature(name, value) for name, value in _map(graph, 5).items()}
    if not _one(graph, 7):  # the object graph, of TensorFlow 2, whose signatures are the graph's own
        signatures = _as_in_graph(signatures, _whole(graph, 2))
    if re.search(b"PlaceholderWithDefault", definition := _whole(graph, 2)):
        signatures = _with_placeholders(signatures, definition)
    saver = _whole(graph, 3)
    baked = _text(_one(info, 1)).startswith("baked")
    return Contents(tags(graph), signatures, _text(_one(info, 5)), bool(_one(saver, 3)), baked)


def _signature(name: str, message: memoryview) -> Signature:
    inputs = {key: _tensor(key, value) for key, value in _map(message, 1).items()}
    outputs = {key: _tensor(key, value) for key, value in _map(message, 2).items()}
    defaults = {key: bytes(value) for key, value in _map(message, 4).items() if key in inputs}
    return Signature(name, inputs, outputs, _text(_one(message, 3)), defaults=defaults)


def _tensor(name: str, info: memoryview) -> TensorSpec:
    shape, dimensions = _dimensions(_whole(info, 3))
    return TensorSpec(
        name=name,
        dtype=by_code(_number(info, 2) % 100),  # 100 and more: a TensorFlow 1 reference to the type
        shape=shape if any(True for _ in _each(info, 3)) else None,  # a scalar's shape is there, and empty
        tensor=_text(_one(info, 1)),
        dimensions=dimensions,
    )


def _as_in_graph(signatures: dict[str, Signature], definition: memoryview) -> dict[str, Signature]:
    """Give the inputs the dtype and the shape that the graph has, where a signature says none or another."""
    fed = {spec.tensor.rpartition(":")[0] for one in signatures.values() for spec in one.inputs.values()} - {""}
    nodes = {}
    for node in _each(definition, 1):
        name = _text(_one(node, 1))
        if name in fed:
            nodes[name] = _map(node, 5)
            if len(nodes) == len(fed):
                break
    return {
        name: replace(one, inputs={key: _spec_in_graph(spec, nodes) for key, spec in one.inputs.items()})
        for name, one in signatures.items()
    }


def _with_placeholders(signatures: dict[str, Signature], definition: memoryview) -> dict[str, Signature]:
    """Give the inputs that TensorFlow 1 calls placeholders with a default theirs, where that is a constant."""
    wanted = {spec.tensor.removesuffix(":0") for one in signatures.values() for spec in one.inputs.values()}
    constants: dict[str, memoryview] = {}
    sources: dict[str, str] = {}
    for node in _each(definition, 1):
        name, op = _text(_one(node, 1)), bytes(_one(node, 2))
        if op == b"Const":
            constants[name] = node
        elif op == b"PlaceholderWithDefault" and name in wanted:
            sources[name] = _text(next(_each(node, 3))).removesuffix(":0")
    found = {
        name: bytes(_one(_map(constants[source], 5).get("value", memoryview(b"")), 8))
        for name, source in sources.items()
        if source in constants
    }
    with_defaults = {}
    for key, one in signatures.items():
        nodes = {spec.name: spec.tensor.removesuffix(":0") for spec in one.inputs.values()}
        named = {name: found[node] for name, node in nodes.items() if node in found}
        with_defaults[key] = replace(one, defaults={**named, **one.defaults})
    return with_defaults


def _spec_in_graph(spec: TensorSpec, nodes: Mapping[str, Mapping[str, memoryview]]) -> TensorSpec:
    node, _, index = spec.tensor.rpartition(":")
    attributes = nodes.get(node, {})
    dtype = _number(attributes.get("dtype") or attributes.get("T") or memoryview(b""), 6) % 100
    if dtype and index == "0" and dtype != spec.dtype.code:
        spec = replace(spec, dtype=by_code(dtype))
    shapes = list(_each(_one(attributes.get("_output_shapes", memoryview(b"")), 1), 7))
    if index.isdecimal() and int(index) < len(shapes):
        shape, _ = _dimensions(shapes[int(index)])
        if spec.shape is None or (shape is not None and len(shape) != len(spec.shape)):
            spec = replace(spec, shape=shape, dimensions=())
    return spec


def _dimensions(shape: memoryview) -> tuple[Shape | None, tuple[str, ...]]:
    """Read a TensorShapeProto: the sizes, None for an unknown rank, and what the dimensions are called."""
    dimensions = [(_number(dimension, 1), _text(_one(dimension, 2))) for dimension in _each(shape, 2)]
    sizes = tuple(size if size >= 0 else None for size, _ in dimensions)
    return None if _number(shape, 3) else sizes, tuple(label for _, label in dimensions)
