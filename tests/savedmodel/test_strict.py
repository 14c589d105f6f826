"""A saved_model.pb is unambiguous: encodings that parsers read differently are refused, real models are accepted."""

import json
from pathlib import Path

import pytest

from serving.core.errors import LoadError
from serving.savedmodel import strict
from serving.savedmodel.protobuf import write_varint
from serving.savedmodel.signature import read
from tests.conftest import EMBEDDED, plain_environment
from tests.harness.forks import python
from tests.models.zoo import ZOO, absent, build

SCHEMA = """
import json
from tests.fuzz.targets import protobuf
protobuf()
from google.protobuf import any_pb2
from google.protobuf.descriptor import FieldDescriptor as F
from tensorflow.core.protobuf import saved_model_pb2
kinds = {F.TYPE_INT64: "int64", F.TYPE_INT32: "int32", F.TYPE_ENUM: "int32", F.TYPE_BOOL: "bool", F.TYPE_FLOAT: "float",
         F.TYPE_STRING: "string", F.TYPE_BYTES: "bytes", F.TYPE_MESSAGE: "message", F.TYPE_UINT32: "uint32"}
found, pending = {}, [saved_model_pb2.SavedModel.DESCRIPTOR]
while pending:
    message = pending.pop()
    if message.full_name in found:
        continue
    found[message.full_name] = [
        [f.name, f.number, kinds.get(f.type, "number"), f.message_type.full_name if f.message_type else None, f.is_repeated,
         f.is_packed, f.containing_oneof.name if f.containing_oneof else None]
        for f in message.fields]
    pending += [f.message_type for f in message.fields if f.message_type]
print(json.dumps(found))
"""
KEYED = {"node", "function", "node_def", "gradient", "input_arg", "output_arg", "tags"}  # unique, and no maps


def test_the_table_of_messages_is_tensorflows() -> None:
    run = python("-c", SCHEMA, env=plain_environment(FUZZ_ORACLE="1"))
    assert run.returncode == 0, run.stderr
    official = json.loads(run.stdout)
    pending, visited = [("SavedModel", "tensorflow.SavedModel")], set()
    while pending:
        ours, theirs = pending.pop()
        visited.add(ours)
        by_name = {field.name: (key, field) for key, field in strict.FIELDS[ours].items()}
        assert by_name.keys() == {field[0] for field in official[theirs]}, ours
        bits: dict[int, set[str]] = {}
        for name, number, kind, message, repeated, packed, oneof in official[theirs]:
            key, field = by_name[name]
            assert key >> 3 == number, (ours, name)
            wire = 2 if packed else {"float": 5, "string": 2, "bytes": 2, "message": 2}.get(kind, 0)
            assert key & 7 == wire, (ours, name)
            assert (field.once == 0) == (repeated and not packed), (ours, name)
            if field.once:
                bits.setdefault(field.once, set()).add(oneof or name)
            if field.type in strict.FIELDS:
                pending += [(field.type, message)] if field.type not in visited else []
                is_map = repeated and [described[0] for described in official[message]] == ["key", "value"]
                assert field.unique == (is_map or name in KEYED), (ours, name)
            else:
                assert field.type == ("packed" if packed else kind), (ours, name)
        assert all(len(names) == 1 for names in bits.values()), ours
        assert len(bits) == len(
            {(described[6] or described[0]) for described in official[theirs] if not described[4] or described[5]}
        ), ours
    assert visited == strict.FIELDS.keys()


def field(number: int, value: bytes | int, wire: int | None = None) -> bytes:
    """Write a field: a number, or a string or message."""
    if isinstance(value, int):
        return write_varint(number << 3 | (0 if wire is None else wire)) + write_varint(value)
    if wire in (1, 5):
        return write_varint(number << 3 | wire) + value
    return write_varint(number << 3 | 2) + write_varint(len(value)) + value


def graph(body: bytes = b"", *, tags: tuple[bytes, ...] = (b"serve",), definition: bytes = b"") -> bytes:
    """Write a MetaGraphDef inside its SavedModel: `body` is more of it, `definition` what its GraphDef holds."""
    info = field(1, b"".join(field(4, tag) for tag in tags))
    return field(2, info + (field(2, definition) if definition else b"") + body)


def node(*attributes: bytes, name: bytes = b"n") -> bytes:
    return graph(
        definition=field(
            1, field(1, name) + field(2, b"Const") + b"".join(field(5, attribute) for attribute in attributes)
        )
    )


def entry(value: bytes, key: bytes = b"f") -> bytes:
    return field(1, key) + field(2, value)


FUNC = field(10, field(1, b"f"))
LIST = field(1, field(9, field(1, b"f")))
SIGNATURE = field(5, field(1, b"s") + field(2, field(3, b"m")))
FUNCTION = field(1, field(1, field(1, b"f")))
# fmt: off
ODD = [
    # what                                 bytes                                                        what is said
    ("a value in parts",                   node(field(1, b"f") + field(2, FUNC) + field(2, FUNC)),      "AttrEntry.value"),
    ("a graph in parts",                   field(2, field(1, field(4, b"serve")) + field(2, b"") + field(2, b"")), "MetaGraphDef.graph_def"),
    ("a third field of a map's entry",     node(entry(FUNC) + field(3, b"x")),                          "AttrEntry at byte"),
    ("a function's name twice",            node(entry(field(10, field(1, b"f") + field(1, b"g")))),     "NameAttrList.name"),
    ("a list of functions in parts",       node(entry(LIST + LIST)),                                    "AttrValue.list"),
    ("two values of one attribute",        node(entry(FUNC + field(2, b"x"))),                          "AttrValue.s"),
    ("another wire type",                  node(entry(field(10, 1, 0))),                                "field 10 has the wire type 0"),
    ("a name as a number",                 graph(definition=field(1, field(1, 1, 0))),                  "field 1 has the wire type 0"),
    ("an enum as bytes",                   node(entry(field(6, b"\1"))),                                "field 6 has the wire type 2"),
    ("numbers that are not packed",        node(entry(field(1, field(3, 1)))),                          "field 3 has the wire type 0"),
    ("packed numbers in parts",            node(entry(field(1, field(3, b"\1") + field(3, b"\2")))),    "ListValue.i"),
    ("an attribute twice",                 node(entry(FUNC), entry(field(2, b"x"))),                    "NodeDef.attr"),
    ("an attribute twice, equal",          node(entry(FUNC), entry(FUNC)),                              "NodeDef.attr"),
    ("a signature twice",                  graph(SIGNATURE + SIGNATURE),                                "MetaGraphDef.signature_def"),
    ("a collection twice",                 graph(field(4, field(1, b"c")) * 2),                         "MetaGraphDef.collection_def"),
    ("two kinds of a collection",          graph(field(4, entry(field(1, b"") + field(5, b"")))),       "CollectionDef.any_list"),
    ("a tag twice",                        graph(tags=(b"serve", b"serve")),                            "MetaInfoDef.tags"),
    ("two graphs of one set of tags",      graph(tags=(b"a", b"serve")) + graph(tags=(b"serve", b"a")), "same tags (a, serve)"),
    ("a node twice",                       graph(definition=field(1, field(1, b"n")) * 2),              "GraphDef.node"),
    ("a function twice",                   graph(definition=field(2, FUNCTION * 2)),                    "FunctionDefLibrary.function"),
    ("a gradient twice",                   graph(definition=field(2, field(2, field(1, b"f")) * 2)),    "FunctionDefLibrary.gradient"),
    ("a node's operation behind the rest", graph(definition=field(1, field(5, entry(FUNC)) + field(2, b"x"))), "NodeDef.op"),
    ("a type of 33 bits",                  node(entry(field(6, (1 << 32) + 1))),                        "expected 32 bits"),
    ("a bool of 2",                        node(entry(field(5, 2))),                                    "expected a bool"),
    ("a length longer than needed",        b"\x12\x80\x00",                                             "longer than its value needs"),
    ("a key longer than needed",           b"\x92\x00\x00",                                             "longer than its value needs"),
    ("a number of eleven bytes",           b"\x08" + b"\xff" * 10 + b"\1",                              "more than ten bytes"),
    ("a number of 70 bits",                b"\x08" + b"\xff" * 9 + b"\x7f",                             "too large"),
    ("field number 0",                     b"\x02\x00",                                                 "field 0 of wire type 2"),
    ("a group",                            b"\x4b\x4c",                                                 "field 9 of wire type 3"),
    ("the end of a group",                 graph() + b"\x4c",                                           "field 9 of wire type 4"),
    ("no text",                            graph(definition=field(1, field(1, b"\xff"))),               "UTF-8"),
    ("bytes behind the end",               graph() + b"\0",                                             "field 0"),
    ("a length beyond the end",            b"\x12\x05\x00",                                             "runs past the end"),
    ("a part beyond its whole",            field(2, b"\x0a\x05"),                                       "runs past the end"),
    ("too many messages in each other",    None,                                                        "inside each other"),
]
# fmt: on


@pytest.mark.parametrize(("what", "data", "words"), ODD, ids=[case[0] for case in ODD])
def test_encodings_that_no_writer_uses_are_refused(tmp_path: Path, what: str, data: bytes | None, words: str) -> None:
    if data is None:
        value = b""
        for _ in range(60):
            value = field(10, field(1, b"f") + field(2, entry(value)))
        data = node(entry(value))
    (tmp_path / "saved_model.pb").write_bytes(data)
    with pytest.raises(LoadError) as refused:
        read(tmp_path)
    assert words in str(refused.value)


def test_the_models_of_every_writer_are_read() -> None:
    """The zoo holds models of TensorFlow 1, TensorFlow 2, Keras, builders and converters."""
    for folder in [EMBEDDED, *(build() / name for name in ZOO if absent(name) is None)]:
        strict.check((folder / "saved_model.pb").read_bytes())


GOOD = [
    # what                            bytes
    ("a field of a later version",    graph(field(99, b"x") + field(98, 1) + field(97, b"12345678", 1) + field(96, b"1234", 5))),
    ("text of other scripts",         node(name="größe ü".encode())),
    ("a long name",                   node(name=b"n" * 300)),
    ("an empty graph",                graph()),
    ("two graphs",                    graph() + graph(tags=(b"serve", b"gpu"))),
]  # fmt: skip


@pytest.mark.parametrize(("what", "data"), GOOD, ids=[case[0] for case in GOOD])
def test_unusual_valid_encodings_are_read(what: str, data: bytes) -> None:
    strict.check(data)


DIFFERENTIAL = """
import random, sys
from pathlib import Path
from google.protobuf.message import DecodeError
from tests.fuzz import mutate, readings, targets
from tests.fuzz.__main__ import seeds
from serving.core.errors import LoadError
from serving.savedmodel.signature import read
classes, folder, random_ = targets.protobuf(), targets._folder(), random.Random(19)
pool = [data for data in seeds("saved_model") if len(data) < 20_000]
counts = dict(equal=0, refused=0, unread=0)
for _ in range(int(sys.argv[1])):
    data = mutate._wire(random_.choice(pool), (), random_)
    (folder / "saved_model.pb").write_bytes(data)
    try:
        read(folder)
        reading = readings.ours(folder)
    except LoadError:
        counts["refused"] += 1
        continue
    try:
        message = classes["SavedModel"].FromString(data)
    except DecodeError:
        counts["unread"] += 1
        continue
    assert reading == readings.official(message), data
    counts["equal"] += 1
print(counts["equal"], counts["refused"], counts["unread"])
"""


def test_a_changed_model_is_read_as_protobuf_reads_it_or_refused() -> None:
    """Mutations of the wire structure: fields twice, in parts, of other types and lengths, beside others of a oneof."""
    run = python("-c", DIFFERENTIAL, "700", env=plain_environment(FUZZ_ORACLE="1"))
    assert run.returncode == 0, run.stderr[-3000:]
    equal, refused, _ = map(int, run.stdout.split())
    assert equal > 70
    assert refused > 200
