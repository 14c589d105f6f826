"""The primitives that change saved_model.pb on the wire, against protobuf itself."""

from pathlib import Path

from serving.savedmodel.protobuf import write_field as string
from serving.savedmodel.safety.rewrite import constant, edited, node, of_number, of_type, of_types, rewritten
from tests.harness.forks import python

# The oracle imports tensorflow, so it runs in a process of its own: field by field, what protobuf reads.
ORACLE = """
import sys
from tensorflow.core.framework import node_def_pb2
one = node_def_pb2.NodeDef.FromString(sys.stdin.buffer.read())
from tensorflow.python.framework import tensor_util
number, text, axes = (tensor_util.MakeNdarray(one.attr[name].tensor) for name in ("number", "text", "axes"))
print(one.name, one.op, list(one.input), one.attr["T"].type, list(one.attr["list"].list.type), one.attr["n"].i)
print(float(number), number.shape, text.item(), axes.tolist(), axes.dtype)
"""


def test_a_node_is_read_back_by_protobuf() -> None:
    attributes = {
        b"T": of_type(3), b"list": of_types(7, 2), b"n": of_number(-1),
        b"number": constant(2.5)[1], b"text": constant(b"expected")[1], b"axes": constant((0, -1))[1],
    }  # fmt: skip
    message = node(b"name", b"Fill", [b"a:0", b"^b"], attributes)
    assert python("-c", ORACLE, input=message).stdout.splitlines() == [
        "name Fill ['a:0', '^b'] 3 [7, 2] -1",
        "2.5 () b'expected' [0, -1] int32",
    ]


def test_edited_changes_only_the_selected_field() -> None:
    message = (
        b"\x08\x07" + string(2, b"one") + b"\x1d\0\0\0\0" + string(2, b"two") + b"\x21" + b"\0" * 8 + string(3, b"x")
    )
    assert b"".join(edited(memoryview(message), 2, lambda _: None)) == message
    changed = edited(memoryview(message), 2, lambda content: [content, b"!" * 200] if content == b"two" else None)
    assert b"".join(changed) == message.replace(string(2, b"two"), string(2, b"two" + b"!" * 200))


def test_the_temporary_folder_has_the_other_files_and_is_removed(tmp_path: Path) -> None:
    nodes = string(2, string(1, node(b"name", b"NoOp", [], {})))
    train, serve = (string(1, string(4, tag)) + nodes for tag in (b"train", b"serve"))
    (tmp_path / "saved_model.pb").write_bytes(b"\x08\x01" + string(2, train) + string(2, serve))
    (tmp_path / "variables").mkdir()
    (tmp_path / "variables" / "variables.index").write_bytes(b"index")
    with rewritten(tmp_path, lambda graph: [graph, string(2, b"more")]) as folder:
        assert (folder / "variables" / "variables.index").read_bytes() == b"index"
        whole = b"\x08\x01" + string(2, train) + string(2, serve + string(2, b"more"))
        assert (folder / "saved_model.pb").read_bytes() == whole
    assert not folder.exists()
