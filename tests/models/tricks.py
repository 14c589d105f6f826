"""Models that show one thing to a judge and run another: `build()` makes them once, one trick a model.

Each answers the length of the file that SECRET names, or takes something from it, where it is loaded without a judge.
Imports tensorflow where it makes them, so that runs in a process of its own: `python -m tests.models.tricks FOLDER`.
"""

import os
import shutil
import sys
from collections.abc import Callable
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tests.models.once import digest, made_once
from tests.models.wire import Raw, edit, field, split

SECRET = "/etc/hostname"
GRAPH, LIBRARY, FUNCTION, BODY, ATTRIBUTE = 2, 2, 1, 3, 5  # fields, from MetaGraphDef down to a node's attributes


@cache
def build() -> Path:
    """Return the folder of the models, made first if this source has never made it here."""
    sources = (Path(__file__), Path(__file__).with_name("wire.py"))
    return made_once("tricks", digest(*sources, version("numpy")), "tests.models.tricks")


Change = Callable[[Any], None]  # of a MetaGraphDef
TRICKS: dict[str, Change] = {}  # made from a graph whose signature calls `good` and whose library also holds `evil`
TABLES: dict[str, Change] = {}  # made from a graph with a vocabulary
WIRES: dict[str, Callable[[bytes, str, str], bytes]] = {}  # from the bytes, and the names of those two functions


def trick(change: Change) -> Change:
    TRICKS[change.__name__] = change
    return change


def table(change: Change) -> Change:
    TABLES[change.__name__] = change
    return change


def wire(change: Callable[[bytes, str, str], bytes]) -> Callable[[bytes, str, str], bytes]:
    WIRES[change.__name__] = change
    return change


def named(graph: Any, part: str) -> Any:
    """Return the function of the library whose name holds a word."""
    return next(function for function in graph.graph_def.library.function if part in function.signature.name)


def call(graph: Any, part: str = "good") -> Any:
    """Return the node that calls a function."""
    bodies = [graph.graph_def.node, *(function.node_def for function in graph.graph_def.library.function)]
    return next(node for body in bodies for node in body if "f" in node.attr and part in node.attr["f"].func.name)


@trick
def gradient_of_a_function(graph: Any) -> None:
    node, good = call(graph), named(graph, "good").signature.name
    graph.graph_def.library.gradient.add(function_name=good, gradient_func=named(graph, "slope").signature.name)
    kept = node.attr["f"].func.name
    for key in list(node.attr):
        del node.attr[key]
    node.op = "SymbolicGradient"
    node.attr["f"].func.name = kept
    node.attr["Tin"].list.type.extend([1, 1, 1])
    node.attr["Tout"].list.type.extend([1, 1])
    node.input.insert(2, node.input[0])


@trick
def another_implementation(graph: Any) -> None:
    """Copy the functions from the graph's call down to the one that calls `good`, and let the copies call `evil`."""
    library = graph.graph_def.library.function
    down, path = call(graph, "signature_wrapper"), []
    while "good" not in down.attr["f"].func.name:
        path.append(named(graph, down.attr["f"].func.name))
        down = next(node for node in path[-1].node_def if "f" in node.attr)
    below = named(graph, "evil").signature.name
    for original in reversed(path):
        library.add().CopyFrom(original)
        library[-1].signature.name += "_other"
        next(node for node in library[-1].node_def if "f" in node.attr).attr["f"].func.name = below
        below = library[-1].signature.name
    for function, device in ((path[0], b"GPU"), (library[-1], b"CPU")):
        function.attr["api_implements"].s = b"interface"
        function.attr["api_preferred_device"].s = device


def another_object_graph(graph: Any) -> None:
    """Let the object graph, which TensorFlow's Python API restores, name other functions than the signatures."""
    another_implementation(graph)
    library = graph.graph_def.library.function
    for function in library:
        for key in [key for key in function.attr if key.startswith("api_")]:
            del function.attr[key]
    other = library[-1].signature.name
    original, objects = other.removesuffix("_other"), graph.object_graph_def
    objects.concrete_functions[other].CopyFrom(objects.concrete_functions[original])
    for node in objects.nodes:
        if node.bare_concrete_function.concrete_function_name == original:
            node.bare_concrete_function.concrete_function_name = other


@trick
def function_inside_a_function(graph: Any) -> None:
    """Let the function that is called take the one it calls as an attribute of its own."""
    outer, node = named(graph, "good"), call(graph)
    outer.signature.attr.add(name="inner", type="func")
    node.attr["f"].func.attr["inner"].func.name = named(graph, "evil").signature.name
    inside = outer.node_def.add(name="inside", op="PartitionedCall", input=[outer.signature.input_arg[0].name] * 2)
    inside.attr["f"].placeholder = "inner"
    inside.attr["Tin"].list.type.extend([1, 1])
    inside.attr["Tout"].list.type.append(1)
    for key in outer.ret:
        outer.ret[key] = "inside:output:0"


@wire
def value_in_parts(data: bytes, good: str, evil: str) -> bytes:
    """Protobuf merges the two: the name of the first stays."""
    parts = Raw(field(2, field(10, field(1, evil.encode()))) + field(2, field(10, b"")))
    return _in_call(data, good, [2], lambda _: [parts])


@wire
def function_in_parts(data: bytes, good: str, evil: str) -> bytes:
    parts = Raw(field(10, field(1, evil.encode())) + field(10, b""))
    return _in_call(data, good, [2, 10], lambda _: [parts])


@wire
def attribute_twice(data: bytes, good: str, evil: str) -> bytes:
    other = field(1, b"f") + field(2, field(10, field(1, evil.encode())))
    return _in_call(data, good, [], lambda entry: [entry, other])


@wire
def name_of_another_wire_type(data: bytes, good: str, evil: str) -> bytes:
    """Let eight bytes of field 1 stand behind the name: protobuf skips them."""
    name = field(1, evil.encode()) + field(1, good.encode()[:8].ljust(8), 1)
    return _in_call(data, good, [2, 10], lambda _: [name])


@wire
def overlong_numbers(data: bytes, good: str, evil: str) -> bytes:
    """Write a length in more bytes than it needs."""
    name = evil.encode()
    return _in_call(
        data, good, [2, 10], lambda _: [Raw(b"\x52" + _long(len(name) + 4) + b"\x0a" + _long(len(name)) + name)]
    )


@wire
def graph_with_a_tag_twice(data: bytes, good: str, evil: str) -> bytes:
    """TensorFlow compares sets of tags and takes the first; a judge that counts them takes the other."""
    graph = _in_call(data, good, [2, 10, 1], lambda _: [evil.encode()])
    twice = edit(graph, [2, 1, (4, b"serve")], lambda tag: [tag, tag])
    return twice + data


@wire
def two_graphs_of_the_same_tags(data: bytes, good: str, evil: str) -> bytes:
    return _in_call(data, good, [2, 10, 1], lambda _: [evil.encode()]) + data


@wire
def graph_in_parts(data: bytes, good: str, evil: str) -> bytes:
    """Protobuf merges the definitions: both libraries count."""
    return edit(data, [2, GRAPH], lambda graph: [graph, field(2, b"")])


@wire
def list_of_functions_in_parts(data: bytes, good: str, evil: str) -> bytes:
    """Let the call choose the first of two functions, of which each is in a list of its own."""
    both = [field(1, field(9, field(1, name.encode()))) for name in (evil, good)]
    entry = field(1, b"branches") + field(2, b"".join(both))
    case = _in_call(data, good, [], lambda _: [entry])
    steps: Any = [2, GRAPH, LIBRARY, (FUNCTION, b"branches"), (BODY, b"branches")]
    return edit(case, steps, lambda node: [_as_case(node)])


def _in_call(data: bytes, good: str, path: list[int], change: Callable[[bytes], list[bytes]]) -> bytes:
    """Change the attribute f of the call of a function, or what is at a path in it."""
    f = field(1, b"f")
    steps: Any = [2, GRAPH, LIBRARY, (FUNCTION, b"Call" + field(3, b"x")), (BODY, good.encode()), (ATTRIBUTE, f), *path]
    return edit(data, steps, change)


def _as_case(node: bytes) -> bytes:
    """Make a call of two arguments a Case; the number of its branch is the first of two more inputs."""
    fields = [(number, value) for number, _, value in split(node) if number != 2]
    first = next(index for index, (number, _) in enumerate(fields) if number == 3)
    fields.insert(first, (3, b"branch:output:0"))
    return b"".join([field(1, fields[0][1]), field(2, b"Case"), *(field(*entry) for entry in fields[1:])])


def _long(number: int) -> bytes:
    return bytes([number & 0x7F | 0x80, number >> 7 | 0x80, 0])


def _constant(graph: Any, name: str, value: bytes) -> None:
    import tensorflow as tf

    node = graph.graph_def.node.add(name=name, op="Const")
    node.attr["dtype"].type = tf.string.as_datatype_enum
    node.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(value))


def _initializer(graph: Any) -> Any:
    """Return the node that fills the table, and whose first input is the path of the asset."""
    calls = [node for node in graph.graph_def.node if "f" in node.attr]
    return next(node for node in calls if "initializer" in node.attr["f"].func.name)


@table
def asset_of_another_output(graph: Any) -> None:
    """Let the asset be fed to the second output of a node of which the table takes the first."""
    _constant(graph, "secret", SECRET.encode())
    pair = graph.graph_def.node.add(name="pair", op="IdentityN", input=["secret", "secret"])
    pair.attr["T"].list.type.extend([7, 7])
    asset = graph.asset_file_def[0].tensor_info.name.partition(":")[0]
    for node in graph.graph_def.node:
        for index, source in enumerate(node.input):
            if source == asset:
                node.input[index] = "pair:1"
    _initializer(graph).input[0] = "pair"
    graph.asset_file_def[0].tensor_info.name = "pair:1"


@table
def asset_merged_with_a_constant(graph: Any) -> None:
    _constant(graph, "secret", SECRET.encode())
    asset = graph.asset_file_def[0].tensor_info.name
    merged = graph.graph_def.node.add(name="merged", op="Merge", input=["secret", asset])
    merged.attr["T"].type, merged.attr["N"].i = 7, 2
    _initializer(graph).input[0] = "merged"


@table
def asset_in_a_collection_that_is_not_read(graph: Any) -> None:
    """TensorFlow feeds the assets of the old collection only where there are no others."""
    _constant(graph, "secret", SECRET.encode())
    _initializer(graph).input[0] = "secret"
    asset = graph.asset_file_def[0]
    other = type(asset).FromString(asset.SerializeToString())
    other.tensor_info.name = "secret:0"
    graph.collection_def["saved_model_assets"].any_list.value.add().Pack(other)


@table
def restore_from_elsewhere(graph: Any) -> None:
    import tensorflow as tf

    function = next(f for f in graph.graph_def.library.function if any(n.op == "RestoreV2" for n in f.node_def))
    node = function.node_def.add(name="elsewhere", op="Const")
    node.attr["dtype"].type = tf.string.as_datatype_enum
    node.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(b"/srv/other/variables/variables"))
    for restoring in function.node_def:
        if restoring.op == "RestoreV2":
            restoring.input[0] = "elsewhere:output:0"


@table
def saver_that_names_another_tensor(graph: Any) -> None:
    """Let TensorFlow feed the path of the variables to a tensor that nothing reads."""
    _constant(graph, "elsewhere", b"/srv/other/variables/variables")
    _constant(graph, "unread", b"")
    name = graph.saver_def.filename_tensor_name.partition(":")[0]
    for node in graph.graph_def.node:
        for index, source in enumerate(node.input):
            if source.partition(":")[0] == name:
                node.input[index] = "elsewhere"
    graph.saver_def.filename_tensor_name = "unread:0"


def _make(folder: Path) -> None:
    os.environ |= {"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1"}
    import tensorflow as tf
    from tensorflow.core.protobuf import saved_model_pb2

    class Module(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([], tf.float32, "x")] * 2, autograph=False)
        def good(self, x: Any, dy: Any) -> Any:
            return x + dy

        @tf.function(input_signature=[tf.TensorSpec([], tf.float32, "x")] * 2, autograph=False)
        def evil(self, x: Any, dy: Any) -> Any:
            return x + dy + tf.cast(tf.strings.length(tf.io.read_file(SECRET)), tf.float32)

        @tf.function(input_signature=[tf.TensorSpec([], tf.float32, "x")] * 3, autograph=False)
        def slope(self, x: Any, dy: Any, upstream: Any) -> Any:
            return self.evil(x, dy), upstream

        @tf.function(input_signature=[tf.TensorSpec([], tf.float32, "x")])
        def serve(self, x: Any) -> Any:
            tf.constant(0, name="branch")
            return {"y": self.good(x, x)}

    module = Module()
    base = folder / "base"
    tf.saved_model.save(module, str(base), signatures=module.serve)

    def save(source: Path, name: str, data: bytes) -> None:
        shutil.copytree(source, folder / name)
        (folder / name / "saved_model.pb").write_bytes(data)

    def changed(source: Path, changes: dict[str, Change]) -> None:
        for name, change in changes.items():
            message = saved_model_pb2.SavedModel.FromString((source / "saved_model.pb").read_bytes())
            change(message.meta_graphs[0])
            save(source, name, message.SerializeToString(deterministic=True))

    changed(base, {**TRICKS, "another_object_graph": another_object_graph})
    data = (base / "saved_model.pb").read_bytes()
    graph = saved_model_pb2.SavedModel.FromString(data).meta_graphs[0]
    good, evil = (named(graph, part).signature.name for part in ("good", "evil"))
    for name, change in WIRES.items():
        save(base, name, change(data, good, evil))
    changed(_vocabulary(folder), TABLES)
    for name, of in _operations(tf).items():
        function = tf.function(of, input_signature=[tf.TensorSpec([None], tf.float32, "x")], autograph=False)
        tf.saved_model.save(tf.Module(), str(folder / name), signatures=function)


def _vocabulary(folder: Path) -> Path:
    import tensorflow as tf

    words = folder / "words.txt"
    words.write_text("cat\ndog\n")
    initializer = tf.lookup.TextFileInitializer(
        str(words), tf.string, tf.lookup.TextFileIndex.WHOLE_LINE, tf.int64, tf.lookup.TextFileIndex.LINE_NUMBER
    )
    module = tf.Module()
    module.table, module.variable = tf.lookup.StaticHashTable(initializer, -1), tf.Variable(2.0)
    serve = tf.function(
        lambda word: {"y": tf.cast(module.table.lookup(word), tf.float32) * module.variable},
        input_signature=[tf.TensorSpec([None], tf.string, "word")],
    )
    tf.saved_model.save(module, str(folder / "table"), signatures=serve)
    return folder / "table"


def _operations(tf: Any) -> dict[str, Callable[[Any], Any]]:
    """Return functions with operations that reach a file, or hide what they run, by a value of their own."""
    raw = tf.raw_ops
    return {
        "graph_in_a_string": lambda x: {"y": x + tf.cast(_from_graph(tf), tf.float32)},
        "vocabulary_of_an_attribute": lambda x: {
            "y": x
            + raw.FixedUnigramCandidateSampler(
                true_classes=[[0]], num_true=1, num_sampled=1, unique=False, range_max=1, vocab_file=SECRET
            )[2]
        },
        "debug_address_of_an_attribute": lambda x: {
            "y": x + tf.cast(raw.DebugNumericSummary(input=x, debug_urls=["file:///tmp/written"])[0], tf.float32)
        },
    }


def _from_graph(tf: Any) -> Any:
    dataset = tf.raw_ops.DatasetFromGraph(graph_def=tf.constant(b""))
    return tf.raw_ops.DatasetToSingleElement(dataset=dataset, output_types=[tf.int64], output_shapes=[[]])[0]


if __name__ == "__main__":
    _make(Path(sys.argv[1]))
