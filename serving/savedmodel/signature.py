"""What a SavedModel offers: its signatures, read from saved_model.pb without loading the model.

The file is a protobuf message (tensorflow/core/protobuf/saved_model.proto, meta_graph.proto). Of its fields only
the few below are read; the graph, often many megabytes, is skipped over, and no schema library is imported.
"""

import math
import weakref
from collections.abc import Mapping
from functools import cached_property, lru_cache
from pathlib import Path
from typing import NamedTuple

from serving.core import settings
from serving.core.dtypes import DType, by_code
from serving.core.errors import LoadError
from serving.savedmodel import mistaken, saved_model
from serving.savedmodel.graph import Graph, Node
from serving.savedmodel.protobuf import each_field, last_field, map_field, message_field, number_field, text_of
from serving.savedmodel.roots import INIT

DEFAULT = "serving_default"  # the signature that answers a request which names none
NO_SIGNATURES = (
    "the SavedModel has no signature that can be served, for it was saved without any: use model.export(...), or "
    "tf.saved_model.save(model, folder, signatures=model.serve)"
)

MOST_DIMENSIONS = 64  # of a NumPy array
# An empty array may still cost time: an RNN takes tens of microseconds for each empty step. This bounds the steps.
MOST_BESIDE_ZERO = 1 << 14

Shape = tuple[int | None, ...]


class TensorSpec(NamedTuple):
    """One named tensor of a signature."""

    name: str
    dtype: DType
    shape: Shape | None  # None: a free dimension, or an unknown rank
    tensor: str  # its name in the graph, "op:0"; "" for a sparse or a composite tensor
    dimensions: tuple[str, ...] = ()  # TensorFlow 1 could name them


class Declared(NamedTuple):
    """What a SavedModel declares about one of its functions."""

    name: str
    inputs: Mapping[str, TensorSpec]
    outputs: Mapping[str, TensorSpec]
    method_name: str
    problem: str | None = None  # found when the model was loaded
    defaults: Mapping[str, bytes] = {}  # TensorProtos of the inputs that may be left out


class Signature(Declared):
    """One named function of a model."""

    @cached_property
    def required(self) -> Mapping[str, TensorSpec]:
        """Return the inputs that every request must give, by name: those without a default."""
        return {name: spec for name, spec in self.inputs.items() if name not in self.defaults}

    @cached_property
    def only(self) -> TensorSpec | None:
        """Return the input for values without a name: the only one, or the only one without a default; else None."""
        specs = self.inputs if len(self.inputs) == 1 else self.required
        return next(iter(specs.values())) if len(specs) == 1 else None

    @cached_property
    def complex_output(self) -> TensorSpec | None:
        """Return the first output with a complex dtype, or None."""
        return next((spec for spec in self.outputs.values() if spec.dtype.kind == "c"), None)

    @cached_property  # every request reads it
    def refusal(self) -> str | None:
        """Say why no request can call this signature, or None where one can."""
        if self.problem:
            return self.problem
        if self.name == INIT:
            return "TensorFlow runs it once, when it loads the model"
        if not self.name:
            return "its name is empty, so that no request can name it"
        if not self.outputs:
            return "it has no outputs"
        sides = (("input", self.inputs), ("output", self.outputs))
        problems = (_no_array(side, spec) for side, specs in sides for spec in specs.values())
        return next(filter(None, problems), None)


def _no_array(side: str, spec: TensorSpec) -> str | None:
    """Say why no array can be an input or output, or None where one can."""
    if not spec.tensor:
        way = (
            "return its values, with to_tensor() or tf.sparse.to_dense"
            if side == "output"
            else "take its values and indices as inputs of their own"
        )
        return f"its {side} {spec.name!r} is a sparse or composite tensor, which is no array: {way}"
    if spec.shape is not None and len(spec.shape) > MOST_DIMENSIONS:
        return f"its {side} {spec.name!r} has {len(spec.shape)} dimensions, more than the {MOST_DIMENSIONS} of an array"
    if spec.dtype.numpy_name is None:
        return f"its {side} {spec.name!r} has dtype {spec.dtype.name}, which no array can hold"
    return None


class Contents(NamedTuple):
    """What saved_model.pb declares about the graph that is served."""

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
    except (ValueError, IndexError) as error:  # UnicodeDecodeError is one
        raise LoadError(f"saved_model.pb is not a SavedModel, or only part of one ({error})") from None
    _check_callable(contents.signatures)
    # TensorFlow would load it without an error and fail at the first run.
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
    """Multiply the sizes that the request chooses: a layer loops over these dimensions although the array is empty."""
    free = declared or (None,) * len(shape)
    return math.prod(size for size, declared_size in zip(shape, free) if size and declared_size is None)


@lru_cache(maxsize=1024)  # requests to one model have few different shapes
def fits(declared: Shape | None, shape: tuple[int, ...]) -> bool:
    """Return whether an array's shape fits the declared one, where None means an unknown rank or a free size."""
    if declared is None:
        return True
    return len(shape) == len(declared) and all(expected in (None, size) for expected, size in zip(declared, shape))


def shape_text(shape: Shape | None) -> str:
    """Return a shape as text for messages: "[?, 28, 28]"; "any" for an unknown rank."""
    if not shape:
        return "any" if shape is None else "[] (a scalar)"
    return f"[{', '.join('?' if size is None else str(size) for size in shape)}]"


# The graph that was chosen last: a load reads it several times. (its tags, its position in the file, a view of it)
_last: "tuple[frozenset[str], int, weakref.ref[memoryview]] | None" = None


def served_graph(directory: Path) -> memoryview:
    """Return the serialized MetaGraphDef that is served, the same view while one exists; raise LoadError without one.

    Its tags include those of SAVED_MODEL_TAGS; of several such graphs, it is the one with the fewest other tags.
    """
    return served(directory)[1]


def served(directory: Path) -> tuple[int, memoryview]:
    """Return how many graphs precede the one that is served, and this one; raise LoadError as `served_graph` does."""
    global _last
    wanted_tags = settings.current().saved_model_tags
    message = saved_model.message(directory)
    if _last is not None:
        last_tags, position, view = _last
        graph = view()
        if graph is not None and graph.obj is message.obj and last_tags == wanted_tags:
            return position, graph
    position, graph = _choose(message, wanted_tags)
    _last = wanted_tags, position, weakref.ref(graph)
    return position, graph


def _choose(message: memoryview, wanted_tags: frozenset[str]) -> tuple[int, memoryview]:
    try:
        graphs = [(tags(graph), graph) for graph in each_field(message, 2)]
    except ValueError as error:
        raise LoadError(f"saved_model.pb is not a SavedModel, or only part of one ({error})") from None
    if not graphs:
        raise LoadError("saved_model.pb is not a SavedModel: it holds no graph")
    tagged = [
        (len(graph_tags), position, graph)
        for position, (graph_tags, graph) in enumerate(graphs)
        if wanted_tags <= set(graph_tags)
    ]
    fewest = min((count for count, _, _ in tagged), default=0)
    chosen = [(position, graph) for count, position, graph in tagged if count == fewest]
    if len(chosen) != 1:
        problem = "more than one graph of the SavedModel is" if chosen else "no graph of the SavedModel is"
        available = "; ".join(",".join(graph_tags) for graph_tags, _ in graphs if graph_tags)
        cure = (
            f"SAVED_MODEL_TAGS: expected one of: {available}" if available else "no graph has tags: export it with them"
        )
        raise LoadError(f"{problem} tagged {','.join(sorted(wanted_tags))!r}; {cure}")
    return chosen[0]


def tags(graph: memoryview) -> tuple[str, ...]:
    """Return the tags of a MetaGraphDef."""
    return tuple(text_of(tag) for tag in each_field(message_field(graph, 1), 4))


def _check_callable(signatures: Mapping[str, Signature]) -> None:
    if not any(not name.startswith("__") for name in signatures):
        raise LoadError(NO_SIGNATURES)
    if not any(signature.refusal is None for signature in signatures.values()):
        reasons = refusals(signatures)
        raise LoadError("; ".join(["the SavedModel has no signature that can be served", *reasons]))


def refusals(signatures: Mapping[str, Signature]) -> list[str]:
    """Return which signatures cannot be called, and why; TensorFlow's own are left out."""
    return [f"{name!r}: {entry.refusal}" for name, entry in signatures.items() if entry.refusal and name[:2] != "__"]


def _meta_graph(graph: memoryview) -> Contents:
    info = message_field(graph, 1)
    signatures = {name: _signature(name, value) for name, value in map_field(graph, 5).items()}
    if not last_field(graph, 7):  # the object graph, of TensorFlow 2, whose signatures are the graph's own
        signatures = _as_in_graph(signatures, message_field(graph, 2))
    signatures = _with_placeholders(signatures, Graph.of(graph).main)
    saver = message_field(graph, 3)
    baked = text_of(last_field(info, 1)).startswith("baked")
    return Contents(tags(graph), signatures, text_of(last_field(info, 5)), bool(last_field(saver, 3)), baked)


def _signature(name: str, message: memoryview) -> Signature:
    inputs = {key: _tensor(key, value) for key, value in map_field(message, 1).items()}
    outputs = {key: _tensor(key, value) for key, value in map_field(message, 2).items()}
    defaults = {key: bytes(value) for key, value in map_field(message, 4).items() if key in inputs}
    return Signature(name, inputs, outputs, text_of(last_field(message, 3)), defaults=defaults)


def _tensor(name: str, info: memoryview) -> TensorSpec:
    shape, dimensions = _dimensions(message_field(info, 3))
    return TensorSpec(
        name=name,
        dtype=by_code(number_field(info, 2) % 100),  # 100 and more: a TensorFlow 1 reference to the type
        shape=shape if any(True for _ in each_field(info, 3)) else None,  # a scalar's shape is there, and empty
        tensor=text_of(last_field(info, 1)),
        dimensions=dimensions,
    )


def _as_in_graph(signatures: dict[str, Signature], definition: memoryview) -> dict[str, Signature]:
    """Give the inputs the dtype and the shape of the graph's nodes, where the signature's are absent or different."""
    inputs = [spec for signature in signatures.values() for spec in signature.inputs.values()]
    fed = {spec.tensor.rpartition(":")[0] for spec in inputs} - {""}
    nodes = {}
    for node in each_field(definition, 1):
        name = text_of(last_field(node, 1))
        if name in fed:
            nodes[name] = map_field(node, 5)
            if len(nodes) == len(fed):
                break
    return {
        name: signature._replace(inputs={key: _spec_in_graph(spec, nodes) for key, spec in signature.inputs.items()})
        for name, signature in signatures.items()
    }


def _with_placeholders(signatures: dict[str, Signature], nodes: Mapping[bytes, Node]) -> dict[str, Signature]:
    """Add the defaults of TensorFlow 1's PlaceholderWithDefault inputs, where the default is a constant."""

    def default(spec: TensorSpec) -> bytes | None:
        node = nodes.get(spec.tensor.removesuffix(":0").encode())
        if node is None or node.op != b"PlaceholderWithDefault" or not node.inputs:
            return None
        source = nodes.get(node.inputs[0].removesuffix(b":0"))
        if source is None or source.op != b"Const":
            return None
        return bytes(last_field(source.attributes.get("value", memoryview(b"")), 8))

    with_defaults = {}
    for key, signature in signatures.items():
        values = {name: default(spec) for name, spec in signature.inputs.items()}
        defaults = {name: value for name, value in values.items() if value is not None}
        with_defaults[key] = signature._replace(defaults={**defaults, **signature.defaults}) if defaults else signature
    return with_defaults


def _spec_in_graph(spec: TensorSpec, nodes: Mapping[str, Mapping[str, memoryview]]) -> TensorSpec:
    node, _, index = spec.tensor.rpartition(":")
    attributes = nodes.get(node, {})
    dtype = number_field(attributes.get("dtype") or attributes.get("T") or memoryview(b""), 6) % 100
    if dtype and index == "0" and dtype != spec.dtype.code:
        spec = spec._replace(dtype=by_code(dtype))
    shapes = list(each_field(last_field(attributes.get("_output_shapes", memoryview(b"")), 1), 7))
    if index.isdecimal() and int(index) < len(shapes):
        shape, _ = _dimensions(shapes[int(index)])
        if spec.shape is None or (shape is not None and len(shape) != len(spec.shape)):
            spec = spec._replace(shape=shape, dimensions=())
    return spec


def _dimensions(shape: memoryview) -> tuple[Shape | None, tuple[str, ...]]:
    """Read a TensorShapeProto: the sizes, None for an unknown rank, and the names of the dimensions."""
    dimensions = [(number_field(dimension, 1), text_of(last_field(dimension, 2))) for dimension in each_field(shape, 2)]
    sizes = tuple(size if size >= 0 else None for size, _ in dimensions)
    return None if number_field(shape, 3) else sizes, tuple(name for _, name in dimensions)
