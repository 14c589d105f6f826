"""What is read of a saved_model.pb, by our readers and by protobuf's own: to be equal, field by field."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from serving.savedmodel.graph import Graph, Node
from serving.savedmodel.protobuf import each_field, last_field, map_field, message_field, number_field, text_of
from serving.savedmodel.roots import asset_definitions, roots_of
from serving.savedmodel.signature import served_graph, tags


def ours(directory: Path) -> dict[str, Any]:
    """Return the reading of the code that judges and serves; raise LoadError or ValueError where it refuses."""
    graph = served_graph(directory)
    library = Graph.of(graph)
    functions = {}
    for name, function in library.functions.items():
        signature = message_field(function, 1)
        functions[name.decode()] = {
            "nodes": _our_nodes(function, 3, library.nodes(name)),
            "arguments": [text_of(last_field(argument, 1)) for argument in each_field(signature, 2)],
            "results": [text_of(last_field(argument, 1)) for argument in each_field(signature, 3)],
            "ret": {key: text_of(value) for key, value in map_field(function, 4).items()},
            "attributes": {key: _our_value(value) for key, value in map_field(function, 5).items()},
        }
    return {
        "tags": list(tags(graph)),
        "nodes": _our_nodes(library.definition, 1, library.main),
        "functions": functions,
        "gradients": {key.decode(): value.decode() for key, value in library.gradients.items()},
        "assets": [
            (text_of(last_field(last_field(asset, 1), 1)), text_of(last_field(asset, 2)))
            for asset in asset_definitions(graph)
        ],
        "saver": [text_of(last_field(message_field(graph, 3), field)) for field in (1, 2, 3)],
        "signatures": {key: _our_signature(value) for key, value in map_field(graph, 5).items()},
        "loading": sorted(root.decode() for root in roots_of(graph)[""]),
    }


def _our_nodes(message: memoryview, field: int, quickly: Mapping[bytes, Node]) -> dict[str, Any]:
    quick = {name.decode(): node for name, node in quickly.items()}
    nodes = {}
    for node in each_field(message, field):
        attributes = {key: _our_value(value) for key, value in map_field(node, 5).items()}
        name, op = text_of(last_field(node, 1)), text_of(last_field(node, 2))
        inputs = [text_of(text) for text in each_field(node, 3)]
        nodes[name] = {"op": op, "inputs": inputs, "device": text_of(last_field(node, 4)), "attributes": attributes}
        assert (quick[name].op.decode(), [text.decode() for text in quick[name].inputs]) == (op, inputs)
        called = {name for value in attributes.values() for name in _functions(value)}
        assert {text.decode() for text in quick[name].calls} == called
    return nodes


def _functions(value: Mapping[str, Any]) -> Iterator[str]:
    for name, attributes in value["functions"]:
        yield name
        for inner in attributes.values():
            yield from _functions(inner)


def _our_value(value: memoryview) -> dict[str, Any]:
    listed = last_field(value, 1)
    functions = [*each_field(value, 10), *each_field(listed, 9)]
    return {
        "s": bytes(last_field(value, 2)), "i": number_field(value, 3), "b": bool(number_field(value, 5)), "type": number_field(value, 6),
        "placeholder": text_of(last_field(value, 9)), "tensor": _tensor(message_field(value, 8)), "strings": list(map(bytes, each_field(listed, 2))),
        "functions": [
            (text_of(last_field(call, 1)), {key: _our_value(inner) for key, inner in map_field(call, 2).items()}) for call in functions
        ],
    }  # fmt: skip


def _tensor(value: memoryview) -> bytes:
    """Return a TensorProto as protobuf writes it: other numbers of bytes may say the same."""
    from tensorflow.core.framework import tensor_pb2  # where the messages can be had: targets.protobuf

    return bytes(tensor_pb2.TensorProto.FromString(bytes(value)).SerializeToString())


def _our_signature(signature: memoryview) -> list[Any]:
    sides = [{key: _our_info(info) for key, info in map_field(signature, field).items()} for field in (1, 2)]
    return [*sides, text_of(last_field(signature, 3))]


def _our_info(info: memoryview) -> list[Any]:
    shape = message_field(info, 3)
    sizes = [[number_field(dim, 1), text_of(last_field(dim, 2))] for dim in each_field(shape, 2)]
    sparse = [text_of(last_field(last_field(info, 4), field)) for field in (1, 2, 3)]
    parts = [_our_info(part) for part in each_field(last_field(info, 5), 2)]
    return [text_of(last_field(info, 1)), number_field(info, 2), sizes, bool(number_field(shape, 3)), sparse, parts]


def official(message: Any) -> dict[str, Any]:
    """Return protobuf's reading, of the graph that TensorFlow's loader takes for our tags."""
    tagged = [graph for graph in message.meta_graphs if "serve" in graph.meta_info_def.tags]
    wanted = set(min((graph.meta_info_def.tags for graph in tagged), key=lambda tags: len([*tags])))
    graph = next(graph for graph in message.meta_graphs if set(graph.meta_info_def.tags) == wanted)
    library = graph.graph_def.library
    assets = list(graph.asset_file_def)
    if not assets and "saved_model_assets" in graph.collection_def:
        kind = type(graph).DESCRIPTOR.fields_by_name["asset_file_def"].message_type._concrete_class
        assets = [kind.FromString(packed.value) for packed in graph.collection_def["saved_model_assets"].any_list.value]
    return {
        "tags": list(graph.meta_info_def.tags),
        "nodes": _nodes_of(graph.graph_def.node),
        "functions": {
            function.signature.name: {
                "nodes": _nodes_of(function.node_def),
                "arguments": [argument.name for argument in function.signature.input_arg],
                "results": [argument.name for argument in function.signature.output_arg],
                "ret": dict(function.ret),
                "attributes": {key: _value_of(value) for key, value in function.attr.items()},
            }
            for function in library.function
        },
        "gradients": {gradient.function_name: gradient.gradient_func for gradient in library.gradient},
        "assets": [(asset.tensor_info.name, asset.filename) for asset in assets],
        "saver": [
            graph.saver_def.filename_tensor_name, graph.saver_def.save_tensor_name, graph.saver_def.restore_op_name
        ],
        "signatures": {
            key: [*({name: _info_of(info) for name, info in side.items()} for side in (signature.inputs, signature.outputs)), signature.method_name]
            for key, signature in graph.signature_def.items()
        },
        "loading": sorted(_loading(graph)),
    }  # fmt: skip


def _loading(graph: Any) -> list[str]:
    names = [graph.saver_def.restore_op_name]
    for key, signature in graph.signature_def.items():
        if key in ("", "__saved_model_init_op"):
            for info in signature.outputs.values():
                names += _tensors_of(info)
    operations = ("saved_model_main_op", "legacy_init_op")
    for name in operations:
        if name in graph.collection_def:
            names += graph.collection_def[name].node_list.value
    if not any(name in graph.collection_def for name in operations) and (
        "__saved_model_init_op" not in graph.signature_def and "table_initializer" in graph.collection_def
    ):
        names += graph.collection_def["table_initializer"].node_list.value
    return names


def _tensors_of(info: Any) -> list[str]:
    sparse = info.coo_sparse
    names = [info.name, sparse.values_tensor_name, sparse.indices_tensor_name, sparse.dense_shape_tensor_name]
    return [*filter(None, names), *(name for part in info.composite_tensor.components for name in _tensors_of(part))]


def _nodes_of(nodes: Any) -> dict[str, Any]:
    return {
        node.name: {
            "op": node.op, "inputs": list(node.input), "device": node.device,
            "attributes": {key: _value_of(value) for key, value in node.attr.items()},
        }
        for node in nodes
    }  # fmt: skip


def _value_of(value: Any) -> dict[str, Any]:
    functions = [*([value.func] if value.HasField("func") else []), *value.list.func]
    return {
        "s": value.s, "i": value.i, "b": value.b, "type": value.type, "placeholder": value.placeholder,
        "tensor": value.tensor.SerializeToString(), "strings": list(value.list.s),
        "functions": [(call.name, {key: _value_of(inner) for key, inner in call.attr.items()}) for call in functions],
    }  # fmt: skip


def _info_of(info: Any) -> list[Any]:
    shape, sparse = info.tensor_shape, info.coo_sparse
    names = [sparse.values_tensor_name, sparse.indices_tensor_name, sparse.dense_shape_tensor_name]
    parts = [_info_of(part) for part in info.composite_tensor.components]
    sizes = [[dim.size, dim.name] for dim in shape.dim]
    return [info.name, info.dtype, sizes, shape.unknown_rank, names, parts]
