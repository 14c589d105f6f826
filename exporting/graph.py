"""SavedModels as protobuf messages: reading them, and walking graphs and function libraries."""

import os
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from exporting.refusal import Unreadable
from exporting.runner import ONEDNN
from serving.core.errors import LoadError
from serving.savedmodel.initialization import LOST, Initialization, needed
from serving.savedmodel.roots import INIT
from serving.savedmodel.signature import Contents, read, served_graph

# TensorFlow's generated classes have no types.
MetaGraph = Any
GraphDef = Any
Node = Any

TABLES = "fill_tables"
INIT_COLLECTIONS = ("saved_model_main_op", "legacy_init_op")


def contents(directory: Path) -> Contents:
    """Return the signatures that the server would serve; raise Unreadable where there are none."""
    try:
        offered = read(directory)
        lost = {name: LOST.format(variable) for name, variable in needed(directory).lost.items()}
        marked = {name: signature._replace(problem=lost.get(name)) for name, signature in offered.signatures.items()}
        if all(signature.refusal for signature in marked.values()):
            raise LoadError("; ".join(f"signature {name!r}: {signature.refusal}" for name, signature in marked.items()))
        return offered._replace(signatures=marked)
    except LoadError as error:
        raise Unreadable(f"{directory}: {error}") from None
    except OSError as error:
        raise Unreadable(f"{directory}: {error.strerror or error}") from None


def import_tensorflow() -> None:
    """Import TensorFlow, which takes seconds, without the lines that it logs while it is imported."""
    if "tensorflow" in sys.modules:
        return
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"  # the commands report errors themselves
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
    # What the optimizer fuses must run on every CPU: where oneDNN is off, by choice or by the CPU, its fusions fail.
    # TensorFlow reads the variable while it is imported. Other processes get it as it was: results depend on it.
    onednn, os.environ[ONEDNN] = os.environ.get(ONEDNN), "0"
    kept, silent = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(silent, 2)
        import tensorflow  # noqa: F401
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(silent)
        del os.environ[ONEDNN]
        os.environ.update({ONEDNN: onednn} if onednn is not None else {})


def served(directory: Path) -> MetaGraph:
    """Return the graph that the server serves, without the signatures that read a variable without a value."""
    import_tensorflow()
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
    from tensorflow.core.protobuf import meta_graph_pb2

    try:
        graph = meta_graph_pb2.MetaGraphDef.FromString(bytes(served_graph(directory)))
    except LoadError as error:
        raise Unreadable(f"{directory}: {error}") from None
    except DecodeError as error:
        raise Unreadable(f"{directory}: saved_model.pb is not a SavedModel, or only part of one ({error})") from None
    initialization = needed(directory)
    for name in initialization.lost:
        graph.signature_def.pop(name, None)
    _join_copies(graph, initialization)
    if not graph.HasField("object_graph_def"):
        _correct_dtypes(graph)
    if initialization.operations:
        _name_initializers(graph, initialization.operations)
    return graph


def _join_copies(graph: MetaGraph, initialization: Initialization) -> None:
    """Join each variable that loading leaves empty with the copy that holds its value."""
    nodes = {node.name: node for node in graph.graph_def.node} if initialization.copies else {}
    for copy in initialization.copies:
        nodes[copy.source].attr["shared_name"].CopyFrom(nodes[copy.variable].attr["shared_name"])


@contextmanager
def joined(directory: Path, graph: MetaGraph, changed: bool = False) -> Iterator[Path]:
    """Yield a folder from which any loader fills every variable: the model's own, or a copy with `graph`.

    The copy links to the model's variables and assets. With `changed` it is always a copy, because the graph differs.
    """
    if not changed and not needed(directory).copies:
        yield directory
        return
    from tensorflow.core.protobuf import saved_model_pb2

    with tempfile.TemporaryDirectory() as folder:
        message = saved_model_pb2.SavedModel(saved_model_schema_version=1, meta_graphs=[graph])
        (Path(folder) / "saved_model.pb").write_bytes(message.SerializeToString(deterministic=True))
        for name in ("variables", "assets"):
            if (directory / name).is_dir():
                (Path(folder) / name).symlink_to((directory / name).resolve())
        yield Path(folder)


def _correct_dtypes(graph: MetaGraph) -> None:
    """Give the signatures of a TensorFlow 1 model the dtypes of the graph."""
    import tensorflow as tf

    infos = [
        info
        for signature in graph.signature_def.values()
        for info in (*signature.inputs.values(), *signature.outputs.values())
    ]
    try:
        with tf.Graph().as_default() as main:
            tf.import_graph_def(graph.graph_def, name="")
            for info in infos:
                if info.WhichOneof("encoding") == "name":
                    info.dtype = main.get_tensor_by_name(info.name).dtype.base_dtype.as_datatype_enum
    except (tf.errors.OpError, ValueError, KeyError, TypeError):
        return  # an operation or a tensor is missing; its user reports it


def _name_initializers(graph: MetaGraph, operations: Iterable[str]) -> None:
    """Make the operations that fill tables part of the init operation, which every loader runs."""
    graph.graph_def.node.add(name=TABLES, op="NoOp", input=[f"^{name}" for name in operations])
    graph.collection_def["saved_model_main_op"].node_list.value.append(TABLES)


def signatures(graph: MetaGraph) -> dict[str, Any]:
    """Return the SignatureDefs by name, without the one that TensorFlow writes for the init operation."""
    return {name: graph.signature_def[name] for name in sorted(graph.signature_def) if name != INIT}


def tensors(info: Any) -> Iterator[tuple[Any, str, int]]:
    """Yield (message, field, dtype) for each tensor of a TensorInfo: three if sparse, any number if composite."""
    encoding = info.WhichOneof("encoding")
    if encoding == "name":
        yield info, "name", info.dtype % 100
    elif encoding == "coo_sparse":
        yield info.coo_sparse, "values_tensor_name", info.dtype % 100
        yield info.coo_sparse, "indices_tensor_name", 9
        yield info.coo_sparse, "dense_shape_tensor_name", 9
    elif encoding == "composite_tensor":
        for component in info.composite_tensor.components:
            yield from tensors(component)


def names(infos: Iterable[Any]) -> list[str]:
    """Return the names of all tensors of some TensorInfos."""
    return [getattr(message, field) for info in infos for message, field, _ in tensors(info)]


def output_tensors(graph: MetaGraph) -> list[str]:
    """Return the names of the tensors that the signatures return."""
    return names(info for signature in signatures(graph).values() for info in signature.outputs.values())


def assets(graph: MetaGraph) -> list[Any]:
    """Return the AssetFileDefs, each once; TensorFlow 1 wrote them as a collection, in which some are repeated."""
    if graph.asset_file_def or "saved_model_assets" not in graph.collection_def:
        return list(graph.asset_file_def)
    from tensorflow.core.protobuf import meta_graph_pb2

    files = []
    for value in graph.collection_def["saved_model_assets"].any_list.value:
        asset = meta_graph_pb2.AssetFileDef()
        if value.Unpack(asset) and asset not in files:
            files.append(asset)
    return files


def node_of(tensor: str) -> str:
    """Return the node of a tensor or of a control input: "node:0", "^node"."""
    return tensor.lstrip("^").partition(":")[0]


def init_operations(graph: MetaGraph) -> list[str]:
    """Return the nodes that run once, after the variables are restored."""
    operations = names(graph.signature_def[INIT].outputs.values()) if INIT in graph.signature_def else []
    for key in INIT_COLLECTIONS:
        if key in graph.collection_def:
            operations += graph.collection_def[key].node_list.value
    return list(dict.fromkeys(map(node_of, operations)))


def reached(nodes: Mapping[str, Node], roots: Iterable[str]) -> list[Node]:
    """Return the nodes that the roots, tensors or nodes, need, in no particular order."""
    pending, visited = [node_of(root) for root in roots], {}
    while pending:
        name = pending.pop()
        if name not in visited and name in nodes:
            visited[name] = nodes[name]
            pending += map(node_of, nodes[name].input)
    return list(visited.values())


def called(node: Node) -> list[str]:
    """Return the functions that a node calls."""
    callees = [node.op]
    for value in node.attr.values():
        callees += [value.func.name] if value.HasField("func") else [function.name for function in value.list.func]
    return callees


def functions(graph: GraphDef, nodes: Iterable[Node]) -> dict[str, Any]:
    """Return the library's functions that the nodes call, directly or through others."""
    library = {function.signature.name: function for function in graph.library.function}
    pending, visited = [name for node in nodes for name in called(node)], {}
    while pending:
        name = pending.pop()
        if name in library and name not in visited:
            visited[name] = library[name]
            pending += [inner for node in library[name].node_def for inner in called(node)]
    return visited


def pruned(graph: GraphDef, roots: Iterable[str]) -> GraphDef:
    """Return a copy with only the nodes and functions that the roots need."""
    result = type(graph)()
    needed_nodes = reached({node.name: node for node in graph.node}, roots)
    keep = {node.name for node in needed_nodes}
    result.node.extend(node for node in graph.node if node.name in keep)
    used = functions(graph, needed_nodes)
    result.library.function.extend(f for f in graph.library.function if f.signature.name in used)
    result.library.gradient.extend(g for g in graph.library.gradient if g.function_name in used)
    result.versions.CopyFrom(graph.versions)
    return result


def every_node(graph: GraphDef) -> Iterator[Node]:
    """Yield the nodes of the main graph and of all functions."""
    yield from graph.node
    for function in graph.library.function:
        yield from function.node_def
