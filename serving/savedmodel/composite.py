"""Inputs that are parts of one ragged or sparse tensor, and whether they fit each other.

TensorFlow 2 exports a ragged input as plain ones, its values and its row splits: "r", "r_1"; a sparse one as indices,
values and shape: "s", "s_1", "s_2". A signature does not say so, and some of TensorFlow's kernels do not check them:
RaggedTensorToTensor reads past the end of the values where a split points there, and returns other memory of the
process; SparseTensorDenseMatMul crashes the process at a negative shape. So the parts are identified in the graph, by
the operations that they reach, and compared with each other before a run.
"""

import re
from collections.abc import Mapping
from itertools import chain, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from serving.core.errors import LoadError
from serving.savedmodel.graph import Graph
from serving.savedmodel.protobuf import each_field, last_field, map_field
from serving.savedmodel.roots import tensors_of
from serving.savedmodel.safety.flow import Flow, Sink
from serving.savedmodel.signature import Signature, TensorSpec, served_graph

if TYPE_CHECKING:
    import numpy as np

    Arrays = Mapping[str, np.ndarray[Any, Any]]


class Ragged(NamedTuple):
    """Row splits, or the row of each value, and the input that they partition: the values, or the inner splits."""

    splits: str
    values: str
    rows: bool = False  # the row of each value, as TensorFlow calls value_rowids
    inner: bool = False  # the values are splits themselves, which have one row fewer than numbers

    def problem(self, inputs: "Arrays") -> str | None:
        """Say what is wrong, or None."""
        splits, values = inputs[self.splits], inputs[self.values]
        if splits.ndim != 1 or not values.ndim:
            return f"{self.splits}: expected a list, and {self.values!r} with rows to part"
        count = len(values) - self.inner
        decreases = bool((splits[1:] < splits[:-1]).any())
        if self.rows:
            if len(splits) != count or decreases or (count and splits[0] < 0):
                return f"{self.splits}: expected {count} rows that never decrease, one for each of {self.values!r}"
            return None
        if not len(splits) or splits[0] != 0 or splits[-1] != count or decreases:
            got = f"{len(splits)} from {splits[0]} to {splits[-1]}" if len(splits) else "none"
            return (
                f"{self.splits}: expected row splits that begin with 0, never decrease and end with {count}, "
                f"the rows of {self.values!r}, got {got}"
            )
        return None


class Sparse(NamedTuple):
    """The parts of a sparse tensor."""

    indices: str
    values: str
    shape: str

    def problem(self, inputs: "Arrays") -> str | None:
        """Say what is wrong, or None."""
        indices, values, shape = inputs[self.indices], inputs[self.values], inputs[self.shape]
        if indices.ndim != 2 or values.ndim != 1 or indices.shape != (len(values), len(shape)):
            return (
                f"{self.indices}: expected one row of {len(shape)} indices for each of {self.values!r}, "
                f"got the shape {list(indices.shape)}"
            )
        sizes, elements = shape.tolist(), 1
        for size in sizes:
            elements *= size
            if size < 0 or elements >= 1 << 63:
                return f"{self.shape}: expected sizes of 0 and more, and fewer than 2**63 elements, got {sizes}"
        wrong = ((indices < 0) | (indices >= shape)).any(axis=1)
        if wrong.any():
            row = int(wrong.argmax())
            return f"{self.indices}[{row}]: expected an index inside the shape {sizes}, got {indices[row].tolist()}"
        return None


class Unclear(NamedTuple):
    """Row splits whose values the graph does not show: `safety.guarding` adds checks to the graph for them."""

    splits: str

    def problem(self, _inputs: "Arrays") -> str | None:
        """Return None: there is nothing to compare here."""
        return None


Part = Ragged | Sparse | Unclear


# The positions of the splits and of their values among the arguments. An attribute of RaggedTensorToTensor gives the
# kinds of its row partitions.
_OUTER = {b"RaggedGather": 2, b"RaggedTensorToSparse": 1, b"RaggedTensorToVariant": 1}  # arguments behind the splits
_FIRST = frozenset({b"RaggedBincount", b"RaggedCountSparseOutput"})  # splits, values, ...
_DENSE = b"RaggedTensorToTensor"  # shape, values, default, splits...
RAGGED = frozenset({_DENSE, *_OUTER, *_FIRST})
SPARSE = frozenset(
    op.encode()
    for op in """
    DeserializeSparse SerializeManySparse SerializeSparse SparseAdd SparseBincount SparseConcat SparseCountSparseOutput
    SparseCross SparseCrossHashed SparseCrossV2 SparseDenseCwiseAdd SparseDenseCwiseDiv SparseDenseCwiseMul
    SparseFillEmptyRows SparseReduceMax SparseReduceMaxSparse SparseReduceSum SparseReduceSumSparse SparseReorder
    SparseReshape SparseSlice SparseSoftmax SparseSparseMaximum SparseSparseMinimum SparseSplit SparseTensorDenseAdd
    SparseTensorDenseMatMul SparseTensorToCSRSparseMatrix SparseToDense DenseToSparseSetOperation
    SparseToSparseSetOperation
    """.split()  # noqa: SIM905 - a list of words is read, and grows, as words
)


def may_have(signature: Signature) -> bool:
    """Return whether the inputs may be such parts, by dtype and rank alone: most models need no walk of the graph."""
    return len(signature.inputs) > 1 and any(_is_list(spec) for spec in signature.inputs.values())


def parts(directory: Path, signatures: Mapping[str, Signature]) -> dict[str, tuple[Part, ...]]:
    """Return, by signature, the parts of those that have some; raise LoadError where saved_model.pb is unreadable."""
    suspects = {
        name: signature for name, signature in signatures.items() if signature.refusal is None and may_have(signature)
    }
    if not suspects:
        return {}
    graph = served_graph(directory)
    parts_of: dict[str, tuple[Part, ...]] = {}
    try:
        definitions = map_field(graph, 5)
        for name, signature in suspects.items():
            if signature_parts := _of_signature(graph, definitions[name], signature):
                parts_of[name] = signature_parts
    except (ValueError, IndexError, KeyError, RecursionError) as error:
        raise LoadError(f"saved_model.pb is not a SavedModel, or only part of one ({error})") from None
    return parts_of


def example(signature: Signature, parts: tuple[Part, ...]) -> dict[str, Any]:
    """Return a predict request in columnar form whose parts fit each other: one value, in one row."""
    columns: dict[str, Any] = {}
    for part in parts:
        if isinstance(part, Ragged):
            columns[part.splits] = [0] if part.rows else [0, 1]
        elif isinstance(part, Sparse):
            shape = signature.inputs[part.indices].shape
            rank = (shape[1] if shape and len(shape) > 1 else None) or 1
            columns |= {part.indices: [[0] * rank], part.shape: [1] * rank}
    columns |= {spec.name: _one_value(spec) for spec in signature.inputs.values() if spec.name not in columns}
    return {"signature_name": signature.name, "inputs": columns}


def _one_value(spec: TensorSpec) -> Any:
    value: Any = {"S": "text", "b": False}.get(spec.dtype.kind, 0)
    for size in reversed(spec.shape or ()):
        value = [value] * (1 if size is None else size)
    return value


def _of_signature(graph: memoryview, definition: memoryview, signature: Signature) -> tuple[Part, ...]:
    feeds = {spec.tensor.rpartition(":")[0].encode(): spec.name for spec in signature.inputs.values()}
    flow = Flow(Graph.of(graph), feeds, RAGGED | SPARSE)
    flow.run([tensor for info in map_field(definition, 2).values() for tensor in tensors_of(info)])
    return _parts(signature, flow.sinks) if flow.sinks else ()


def _is_list(spec: TensorSpec) -> bool:
    return spec.dtype.name in ("DT_INT32", "DT_INT64") and (spec.shape is None or len(spec.shape) == 1)


def _parts(signature: Signature, sinks: list[Sink]) -> tuple[Part, ...]:
    specs = signature.inputs
    candidates = [_sparse_from(specs, name) for name in specs]
    sparse = [candidate for candidate in candidates if candidate and _arrives(candidate, sinks)]
    taken = {name for tensor in sparse for name in (tensor.indices, tensor.values, tensor.shape)}
    ragged: dict[str, Ragged | Unclear] = {}
    partitions = list(chain.from_iterable(_partitions(sink) for sink in sinks if sink.node.op in RAGGED))
    # By TensorFlow's names: splits from the outermost to the innermost, behind the values.
    reaching = {name for partition in partitions for name in partition.any}
    for name in specs:
        splits = numbered_splits(specs, name)
        if name not in taken and splits and reaching.issuperset(splits):
            for split, inner in pairwise([*splits, name]):
                ragged[split] = Ragged(split, inner, inner=inner != name)
    # By the operation that they reach: any other that reaches it unchanged.
    for partition in partitions:
        for split in sorted(partition.splits - ragged.keys() - taken):
            if not _is_list(specs[split]):
                continue
            inside = [name for name in partition.inside if name in specs]
            clear = len(inside) == 1
            ragged[split] = Ragged(split, inside[0], partition.rows, partition.inner) if clear else Unclear(split)
    return (*sparse, *ragged.values())


class _Partition(NamedTuple):
    splits: frozenset[str]  # the inputs that arrive unchanged
    any: frozenset[str]  # the inputs that arrive in any form
    inside: frozenset[str]  # the inputs that they partition
    rows: bool
    inner: bool


def _partitions(sink: Sink) -> list[_Partition]:
    """Return which inputs partition which at one operation, from the outermost to the innermost."""
    arguments = sink.arguments
    kinds: list[bytes] = []
    if sink.node.op == _DENSE:
        splits, values = arguments[3:], arguments[1:2]
        listed = sink.node.attributes.get("row_partition_types", memoryview(b""))
        kinds = [bytes(kind) for kind in each_field(last_field(listed, 1), 2)]
    elif sink.node.op in _FIRST:
        splits, values = arguments[:1], arguments[1:2]
    else:
        behind = _OUTER[sink.node.op]
        splits, values = arguments[:-behind], arguments[-behind : len(arguments) - behind + 1]
    if not values:
        return []
    partitions = []
    kinds = kinds or [b"ROW_SPLITS"] * len(splits)
    for index, (split, kind) in enumerate(zip(splits, kinds)):
        if kind == b"FIRST_DIM_SIZE":
            continue
        following = splits[index + 1 : index + 2]
        inner = bool(following and following[0].as_is)
        inside = following[0].as_is if inner else values[0].at_all - split.as_is
        rowids = inner and kinds[index + 1] == b"VALUE_ROWIDS"
        partitions.append(_Partition(split.as_is, split.at_all, inside, kind == b"VALUE_ROWIDS", inner and not rowids))
    return partitions


def numbered_splits(specs: Mapping[str, TensorSpec], name: str) -> list[str]:
    """Return NAME_1, NAME_2, ... as far as they are among the inputs; none where one cannot be row splits."""
    splits: list[str] = []
    while (following := f"{name}_{len(splits) + 1}") in specs:
        splits.append(following)
    return splits if all(_is_list(specs[split]) for split in splits) and not re.search(r"_[0-9]+$", name) else []


def _sparse_from(specs: Mapping[str, TensorSpec], name: str) -> Sparse | None:
    """Return the sparse tensor whose indices the input `name` may be, by the names, dtypes and ranks; else None."""
    indices, values, shape = specs[name], specs.get(f"{name}_1"), specs.get(f"{name}_2")
    if not (values and shape and indices.dtype.name == shape.dtype.name == "DT_INT64" and _is_list(shape)):
        return None
    ranks = [None if spec.shape is None else len(spec.shape) for spec in (indices, values)]
    return Sparse(name, values.name, shape.name) if ranks[0] in (2, None) and ranks[1] in (1, None) else None


def _arrives(sparse: Sparse, sinks: list[Sink]) -> bool:
    """Return whether the indices and the shape reach one operation that takes sparse tensors."""
    for sink in sinks:
        if sink.node.op in SPARSE:
            reached = frozenset().union(*(argument.at_all for argument in sink.arguments))
            if sparse.indices in reached and sparse.shape in reached:
                return True
    return False
