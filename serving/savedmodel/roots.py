"""The tensors and nodes of a graph that run: for each signature, and once, when the model is loaded."""

from serving.savedmodel import strict
from serving.savedmodel.protobuf import each_field, last_field, map_field, message_field

LOADING = ""  # used as a signature's name: what runs once, when the model is loaded
INIT = "__saved_model_init_op"  # the signature that TensorFlow 2 writes for it
_INIT_OPERATIONS = frozenset({"saved_model_main_op", "legacy_init_op"})  # collections


def asset_definitions(graph: memoryview) -> list[memoryview]:
    """Return the AssetFileDefs of a MetaGraphDef, else those of its collection, as TensorFlow does."""
    if definitions := list(each_field(graph, 6)):
        return definitions
    collection = map_field(graph, 4).get("saved_model_assets", memoryview(b""))
    packed = [last_field(any_message, 2) for any_message in each_field(last_field(collection, 5), 1)]
    for definition in packed:
        strict.check(bytes(definition), "AssetFileDef")
    return packed


def roots_of(graph: memoryview) -> dict[str, list[bytes]]:
    """Return the names of the tensors and nodes of the main graph that run, by signature, and for LOADING."""
    restore = last_field(message_field(graph, 3), 3)  # the saver's operation
    roots: dict[str, list[bytes]] = {LOADING: [bytes(restore)]}
    for name, signature in map_field(graph, 5).items():
        tensors = [tensor for info in map_field(signature, 2).values() for tensor in tensors_of(info)]
        roots.setdefault(LOADING if name == INIT else name, []).extend(tensors)
    for name, collection in map_field(graph, 4).items():
        if name in _INIT_OPERATIONS:
            roots[LOADING] += map(bytes, each_field(message_field(collection, 1), 1))
    roots[LOADING] += table_initializers(graph)
    return roots


def table_initializers(graph: memoryview) -> list[bytes]:
    """Return the nodes that fill the tables of a TensorFlow 1 model that was saved without an init operation."""
    collections = map_field(graph, 4)
    initializers = collections.get("table_initializer", memoryview(b""))
    nodes = list(map(bytes, each_field(message_field(initializers, 1), 1)))
    return [] if not nodes or _INIT_OPERATIONS & collections.keys() or INIT in map_field(graph, 5) else nodes


def tensors_of(info: memoryview) -> list[bytes]:
    """Return the tensors of a TensorInfo: one, the three of a sparse tensor, or those of a composite tensor."""
    tensors = [bytes(last_field(info, 1)), *(bytes(last_field(last_field(info, 4), field)) for field in (1, 2, 3))]
    composite = last_field(info, 5)
    return [*filter(None, tensors), *(tensor for part in each_field(composite, 2) for tensor in tensors_of(part))]
