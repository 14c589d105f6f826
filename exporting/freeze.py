"""Freeze the served graph: inline functions, fold variables into constants, optimize, and remove what is not needed.

All signatures stay in one graph, so that what they share exists once.
"""

import hashlib
import re
from collections.abc import Callable, Collection, Mapping
from typing import Any

from exporting import kept
from exporting.fold import fold_scales, name_biases
from exporting.graph import (
    INIT_COLLECTIONS,
    GraphDef,
    MetaGraph,
    assets,
    every_node,
    init_operations,
    names,
    node_of,
    pruned,
    signatures,
    tensors,
)
from exporting.mark import MARK
from exporting.refusal import Refusal
from serving.savedmodel.roots import INIT
from serving.savedmodel.safety.purity import CALLING

CPU = "/job:localhost/replica:0/task:0/device:CPU:0"
NAME = re.compile(r"[A-Za-z0-9.][\w.>-]*", re.ASCII)  # of a node; the optimizer's own begin with underscores
ROUNDS = 2  # of the optimizer; a second one may fold more
TIMEOUT_MS = 30 * 60 * 1000


def _computed(
    definition: Any, values: Mapping[str, Any] | None, feeds: Any, keep: list[str], roots: list[str],
    say: Callable[[str], None],
) -> Any:  # fmt: skip
    """Return a graph in which TensorFlow's optimizer has computed all that does not depend on inputs."""
    say("inlining functions")
    definition = _optimized(definition, feeds, keep, _inline)
    if values is not None:
        say("folding variables into constants")
        definition = _constants(pruned(definition, roots), values)
    say("optimizing")
    definition = _optimized(_placed(pruned(definition, roots), CPU), feeds, keep, _compute)
    if fold_scales(definition, roots):
        definition = _optimized(_placed(definition, CPU), feeds, keep, _compute)
    name_biases(definition)
    definition = _optimized(_placed(definition, CPU), feeds, keep, _fuse)
    definition = _optimized(definition, feeds, keep, _optimize)
    return _placed(definition, "")


def freeze(
    graph: MetaGraph, values: Mapping[str, Any] | None, say: Callable[[str], None], unproved: Collection[str] = ()
) -> MetaGraph:
    """Return an equivalent MetaGraphDef; `values` are those of its variables by node, None to keep the variables.

    The graphs of the signatures in `unproved` stay as they are; their variables have to be left.
    """
    result = _copy_without_graph(graph)
    apart = kept.subgraph(graph, unproved)
    if values is None:
        result.saver_def.CopyFrom(graph.saver_def)
    definition = type(graph.graph_def)()
    definition.CopyFrom(graph.graph_def)
    for function in definition.library.function:
        function.attr.pop(
            "api_implements", None
        )  # another body for other devices; it would keep this one from inlining
    outputs = _add_outputs(definition, result, unproved)
    _name_init(result)
    keep = [*outputs, *init_operations(result), *kept.shared(graph, apart)]
    if values is None:
        # The operations that restore them are not changed.
        keep += [result.saver_def.restore_op_name, node_of(result.saver_def.filename_tensor_name)]
    feeds = _feeds(result, unproved)
    roots = [*keep, *(node_of(info.name) for info in feeds)]
    definition = pruned(definition, roots)
    paths = {node_of(asset.tensor_info.name) for asset in result.asset_file_def}  # the loader fills them by name
    hidden = _hide(definition, paths)

    definition = _computed(definition, values, feeds, keep, roots, say)
    _show(definition, hidden)
    fixed = {*roots, *paths}
    _share(definition, fixed)
    _clean(definition)
    _shorten(definition, fixed, {node.name for node in apart.node})
    _drop_idle_init(definition, result)
    result.graph_def.CopyFrom(pruned(definition, roots))
    kept.add(result.graph_def, apart)
    _drop_unread_assets(result)
    missing = {node_of(root) for root in roots} - {node.name for node in result.graph_def.node} - {""}
    if missing:
        raise Refusal(f"TensorFlow's graph optimizer lost {', '.join(sorted(missing))}, which a signature names")
    return result


def _copy_without_graph(graph: MetaGraph) -> MetaGraph:
    """Return the signatures, tags, assets and init operations, without object graph and training."""
    result = type(graph)()
    result.meta_info_def.tags.extend(graph.meta_info_def.tags)
    result.meta_info_def.tensorflow_version = graph.meta_info_def.tensorflow_version
    result.meta_info_def.tensorflow_git_version = graph.meta_info_def.tensorflow_git_version
    result.meta_info_def.meta_graph_version = f"{MARK} {graph.meta_info_def.meta_graph_version}".strip()
    result.asset_file_def.extend(assets(graph))  # those of a collection too: TensorFlow reads this field first
    for name, signature in graph.signature_def.items():
        result.signature_def[name].CopyFrom(signature)
    for key in INIT_COLLECTIONS:
        if key in graph.collection_def:
            result.collection_def[key].CopyFrom(graph.collection_def[key])
    return result


def _add_outputs(definition: GraphDef, result: MetaGraph, unproved: Collection[str]) -> list[str]:
    """Give each output of a signature a node of its own, so that what computes it can be inlined and replaced."""
    nodes = {node.name: node for node in definition.node}
    outputs: list[str] = []
    for name, signature in signatures(result).items():
        if name in unproved:
            continue
        fed = set(names(signature.inputs.values()))
        for key in sorted(signature.outputs):
            for message, field, dtype in tensors(signature.outputs[key]):
                source = getattr(message, field)
                if source in fed:
                    continue  # an input that is returned as it is
                if node_of(source) not in nodes:
                    raise Refusal(f"signature {name!r} names the tensor {source!r}, which the graph does not have")
                new = definition.node.add(name=f"baked/output_{len(outputs)}", op="Identity", input=[source])
                new.attr["T"].type = dtype
                if nodes[node_of(source)].op in CALLING:  # its assertions run, inlined or not
                    new.input.append(f"^{node_of(source)}")
                setattr(message, field, f"{new.name}:0")
                outputs.append(new.name)
    return outputs


def _name_init(result: MetaGraph) -> None:
    """Name the init operation as TensorFlow 1 did, which every loader of a graph without objects understands."""
    operations = init_operations(result)
    result.signature_def.pop(INIT, None)
    for key in INIT_COLLECTIONS:
        result.collection_def.pop(key, None)
    if operations:
        result.collection_def[INIT_COLLECTIONS[0]].node_list.value.append(operations[0])


def _feeds(result: MetaGraph, unproved: Collection[str]) -> list[Any]:
    """Return the inputs of the other signatures as dense TensorInfos, each tensor once."""
    feeds = {}
    proved = [signature for name, signature in signatures(result).items() if name not in unproved]
    for info in (info for signature in proved for info in signature.inputs.values()):
        for message, field, dtype in tensors(info):
            dense = type(info)(name=getattr(message, field), dtype=dtype)
            if info.WhichOneof("encoding") == "name":
                dense.tensor_shape.CopyFrom(info.tensor_shape)
            else:
                dense.tensor_shape.unknown_rank = True
            feeds[dense.name] = dense
    return list(feeds.values())


def _hide(definition: GraphDef, paths: set[str]) -> dict[str, Any]:
    """Hide nodes that the optimizer must not change or does not accept; return the originals by name.

    Asset paths are constants that the loader fills, so they must not be folded. The optimizer refuses inputs of unknown
    rank.
    """
    hidden = {}
    for node in definition.node:
        asset = node.name in paths and node.op == "Const"
        shapeless = node.op == "Placeholder" and ("shape" not in node.attr or node.attr["shape"].shape.unknown_rank)
        if asset or shapeless:
            hidden[node.name] = type(node).FromString(node.SerializeToString())
            node.op = "FakeParam"
            node.attr["shape"].shape.CopyFrom(node.attr["value"].tensor.tensor_shape)
            if shapeless:
                node.attr["shape"].shape.unknown_rank = True
            del node.attr["value"]
            node.attr["_hidden"].s = node.name.encode()  # so that no two are equal
    return hidden


def _show(definition: GraphDef, hidden: Mapping[str, Any]) -> None:
    for node in definition.node:
        if node.name in hidden:
            node.CopyFrom(hidden[node.name])


def _inline(rewrite: Any) -> None:
    rewrite.optimizers.append("function")
    rewrite.function_optimization = 3  # AGGRESSIVE
    rewrite.meta_optimizer_iterations = 1


def _compute(rewrite: Any) -> None:
    rewrite.optimizers.extend(["pruning", "constfold", "dependency"])
    rewrite.meta_optimizer_iterations = ROUNDS


def _fuse(rewrite: Any) -> None:
    """Fuse before sums are gathered into AddN, which would hide the biases among them."""
    rewrite.optimizers.extend(["constfold", "dependency", "remap"])
    rewrite.meta_optimizer_iterations = ROUNDS


def _optimize(rewrite: Any) -> None:
    rewrite.meta_optimizer_iterations = ROUNDS


def _optimized(definition: GraphDef, feeds: list[Any], keep: list[str], how: Callable[[Any], None]) -> GraphDef:
    from tensorflow.core.protobuf import config_pb2, meta_graph_pb2
    from tensorflow.python.grappler import tf_optimizer

    graph = meta_graph_pb2.MetaGraphDef(graph_def=definition)
    for position, info in enumerate(feeds):
        if not info.tensor_shape.unknown_rank:  # the optimizer refuses it; a placeholder is kept without
            graph.signature_def["feeds"].inputs[str(position)].CopyFrom(info)
    graph.collection_def["train_op"].node_list.value.extend([*keep, *(info.name for info in feeds)])
    config = config_pb2.ConfigProto()
    rewrite = config.graph_options.rewrite_options
    rewrite.min_graph_nodes = -1  # small graphs too
    rewrite.meta_optimizer_timeout_ms = TIMEOUT_MS
    how(rewrite)
    try:
        return tf_optimizer.OptimizeGraph(config, graph)
    except Exception as error:  # TensorFlow's binding may raise anything
        raise Refusal(f"TensorFlow's graph optimizer cannot work on the graph: {_line(error)}") from None


def _constants(definition: GraphDef, values: Mapping[str, Any]) -> GraphDef:
    from tensorflow.python.framework import convert_to_constants as convert

    class Values(convert._ConverterData):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__(definition)
            for node in definition.node:
                if node.name in values:
                    value = convert._TensorData(numpy=values[node.name], dtype=node.attr["dtype"].type, index=None)
                    self._tensor_data[node.name] = value

    try:
        frozen, _ = convert._replace_variables_by_constants(converter_data=Values())
    except Exception as error:  # ValueError, KeyError, NotImplementedError, depending on the graph
        raise Refusal(f"the variables cannot be folded into constants: {_line(error)}; try --keep-variables") from None
    return frozen


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__


def _placed(definition: GraphDef, device: str) -> GraphDef:
    for node in definition.node:
        node.device = device  # the optimizer fuses only what it knows to run on a CPU
    return definition


def _share(definition: GraphDef, fixed: set[str]) -> None:
    """Keep one of each set of equal constants: folding creates them again for each signature."""
    first: dict[bytes, str] = {}
    same: dict[str, str] = {}
    for node in definition.node:
        if node.op == "Const" and not node.input and node.name not in fixed:
            digest = hashlib.sha256(node.attr["value"].SerializeToString(deterministic=True)).digest()
            same[node.name] = first.setdefault(digest, node.name)
    for node in definition.node:
        for position, tensor in enumerate(node.input):
            name, caret = node_of(tensor), "^" if tensor.startswith("^") else ""
            if same.get(name, name) != name:
                node.input[position] = caret + same[name]
    unique = [node for node in definition.node if same.get(node.name, node.name) == node.name]
    kept_nodes = [type(node).FromString(node.SerializeToString()) for node in unique]
    del definition.node[:]
    definition.node.extend(kept_nodes)


def _clean(definition: GraphDef) -> None:
    """Remove debug information, inferred shapes and colocation constraints."""
    for node in every_node(definition):
        node.ClearField("experimental_debug_info")
        for attribute in ("_output_shapes", "_class", "_input_shapes"):
            node.attr.pop(attribute, None)
    for function in definition.library.function:
        function.attr.pop("_input_shapes", None)


def _shorten(definition: GraphDef, fixed: set[str], others: set[str]) -> None:
    """Shorten node names to their last part: the paths of inlined functions are a third of a small model's bytes."""
    used = {*fixed, *others}
    renamed: dict[str, str] = {}
    for node in definition.node:
        if node.name in fixed:
            continue
        last, number = node.name.rpartition("/")[2], 0
        name = short = last if NAME.fullmatch(last) else "node"
        while name in used:
            number += 1
            name = f"{short}_{number}"
        used.add(name)
        renamed[node.name] = name
    for node in definition.node:
        node.name = renamed.get(node.name, node.name)
        for position, tensor in enumerate(node.input):
            old = node_of(tensor)
            if old in renamed:
                node.input[position] = tensor.replace(old, renamed[old], 1)


def _drop_unread_assets(result: MetaGraph) -> None:
    """Remove the assets whose nodes are gone: a loader would look for them."""
    present = {node.name for node in result.graph_def.node}
    copies = [type(asset).FromString(asset.SerializeToString()) for asset in assets(result)]
    del result.asset_file_def[:]
    result.asset_file_def.extend(asset for asset in copies if node_of(asset.tensor_info.name) in present)


def _drop_idle_init(definition: GraphDef, result: MetaGraph) -> None:
    """Remove an init operation that does nothing."""
    nodes = {node.name: node for node in definition.node}
    if any(nodes[name].op != "NoOp" or nodes[name].input for name in init_operations(result) if name in nodes):
        return
    for key in INIT_COLLECTIONS:
        result.collection_def.pop(key, None)
