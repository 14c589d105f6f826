"""The time to read files of a model's folder, and of whole requests."""

import gzip
import json
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from serving.core.errors import LoadError
from serving.savedmodel import composite, prediction_log, saved_model
from serving.savedmodel.folder import assets, manifest
from serving.savedmodel.protobuf import write_field as field
from serving.savedmodel.protobuf import write_varint
from serving.savedmodel.safety.purity import impurities
from serving.savedmodel.signature import read
from tests.conftest import Serve
from tests.growth import MOST, Make, grows
from tests.growth.grown import keys
from tests.growth.test_bodies import ANY
from tests.pipeline.native.models import build

TENSOR = field(1, b"x:0") + b"\x10\x01"


def _graph(signatures: bytes, tags: bytes = field(4, b"serve")) -> bytes:
    return field(2, field(1, tags) + signatures)


def _inputs(n: int) -> bytes:
    inputs = b"".join(field(1, field(1, b"k%d" % index) + field(2, TENSOR)) for index in range(n))
    return field(5, field(1, b"serving_default") + field(2, inputs + field(2, field(1, b"y") + field(2, TENSOR))))


def _log(n: int) -> bytes:
    tensor = b"\x08\x01" + field(2, field(2, b"\x08" + write_varint(n))) + field(5, b"\0\0\0\0" * n)
    return field(6, field(1, field(1, b"") + field(2, field(1, b"x") + field(2, tensor))))


def _varints(n: int) -> bytes:
    tensor = b"\x08\x09" + field(2, field(2, b"\x08" + write_varint(n))) + b"\x50\x01" * n
    return field(6, field(1, field(2, field(1, b"x") + field(2, tensor))))


# fmt: off
FILES: list[tuple[str, str, Make]] = [
    ("saved_model.pb: inputs",           "saved_model.pb", lambda n: _graph(_inputs(n))),
    ("saved_model.pb: one input, often", "saved_model.pb", lambda n: _graph(field(5, field(1, b"s") + field(2, field(1, field(1, b"k") + field(2, TENSOR)) * n)))),
    ("saved_model.pb: signatures",       "saved_model.pb", lambda n: _graph(b"".join(field(5, field(1, b"s%d" % i)) for i in range(n)))),
    ("saved_model.pb: tags",             "saved_model.pb", lambda n: _graph(b"", field(4, b"t") * n)),
    ("saved_model.pb: graphs",           "saved_model.pb", lambda n: _graph(b"") * n),
    ("saved_model.pb: graphs of other tags", "saved_model.pb", lambda n: b"".join(_graph(b"", field(4, b"serve") + field(4, b"t%d" % i)) for i in range(n))),
    ("saved_model.pb: graphs, two alike", "saved_model.pb", lambda n: b"".join(_graph(b"", field(4, b"t%d" % i)) for i in (*range(n), n - 1))),
    ("saved_model.pb: named nodes",      "saved_model.pb", lambda n: _graph(field(2, b"".join(field(1, field(1, b"n%d" % i)) for i in range(n))))),
    ("saved_model.pb: attributes",       "saved_model.pb", lambda n: _graph(field(2, field(1, field(1, b"n") + b"".join(field(5, field(1, b"a%d" % i)) for i in range(n)))))),
    ("saved_model.pb: functions",        "saved_model.pb", lambda n: _graph(field(2, field(2, b"".join(field(1, field(1, field(1, b"f%d" % i))) for i in range(n)))))),
    ("saved_model.pb: a graph in parts", "saved_model.pb", lambda n: field(2, field(1, b"") * n)),
    ("saved_model.pb: nodes",            "saved_model.pb", lambda n: field(2, field(2, field(1, field(1, b"node")) * n))),
    ("saved_model.pb: sizes",            "saved_model.pb", lambda n: _graph(field(5, field(1, b"s") + field(2, field(1, field(1, b"x") + field(2, TENSOR + field(3, field(2, b"\x08\x01") * n))))))),
    ("saved_model.pb: long numbers",     "saved_model.pb", lambda n: _graph(b"\xff" * n)),
    ("warm-up: a tensor",                "log",            _log),
    ("warm-up: numbers one by one",      "log",            _varints),
    ("warm-up: fields",                  "log",            lambda n: field(6, field(1, field(1, b"") * n))),
    ("manifest: files",                  "assets.extra/manifest.json", lambda n: json.dumps({"files": {f"assets/{i}": {"bytes": 1, "sha256": ""} for i in range(n)}}).encode()),
    ("manifest: brackets",               "assets.extra/manifest.json", lambda n: b"[" * n),
]
# fmt: on


@pytest.mark.parametrize(("kind", "make"), [case[1:] for case in FILES], ids=[case[0] for case in FILES])
def test_the_time_to_read_a_file_grows_linearly(kind: str, make: Make, tmp_path: Path) -> None:
    path = tmp_path / kind
    path.parent.mkdir(exist_ok=True)
    written: list[bytes] = []

    def reader(content: bytes) -> Any:
        if written != [content]:
            path.write_bytes(content)
            written[:] = [content]
        saved_model._checked = None  # a file is checked once a load
        if kind == "log":
            return prediction_log.request(memoryview(content), {"serving_default": ANY})
        return read(tmp_path) if kind == "saved_model.pb" else manifest.check(tmp_path, "quick")

    assert grows(make, reader) <= MOST


# Graphs, as the audit of a model reads them


def _node(name: str, op: str, *inputs: str, calls: str = "") -> bytes:
    of = field(5, field(1, b"f") + field(2, field(10, field(1, calls.encode())))) if calls else b""
    return (
        field(1, name.encode()) + field(2, op.encode()) + b"".join(field(3, source.encode()) for source in inputs) + of
    )


def _function(name: str, node: bytes) -> bytes:
    signature = field(1, name.encode()) + field(2, field(1, b"a")) + field(3, field(1, b"r"))
    return field(1, field(1, signature) + field(3, node) + field(4, field(1, b"r") + field(2, b"c:output:0")))


def _graph_def(nodes: Iterable[bytes], functions: Iterable[bytes] = ()) -> bytes:
    inputs = field(1, field(1, b"x") + field(2, TENSOR))
    output = field(2, field(1, b"y") + field(2, field(1, b"y:0") + b"\x10\x01"))
    definition = b"".join(field(1, node) for node in (_node("x", "Placeholder"), *nodes)) + field(
        2, b"".join(functions)
    )
    signature = field(5, field(1, b"serving_default") + field(2, inputs + output))
    return field(2, field(1, field(4, b"serve")) + field(2, definition) + signature)


def _chain(n: int, op: str, **more: str) -> list[bytes]:
    return [_node(f"n{index}", op, f"n{index - 1}" if index else "x", **more) for index in range(n)]


LEAF = _function("f", _node("c", "Identity", "a"))

# fmt: off
GRAPHS: list[tuple[str, Make]] = [
    ("a chain of nodes",     lambda n: _graph_def([*_chain(n, "Identity"), _node("y", "Identity", f"n{n - 1}")])),
    ("a chain to a sink",    lambda n: _graph_def([*_chain(n, "Cast"), _node("y", "RaggedTensorToTensor", "x", "x", "x", f"n{n - 1}")])),
    ("many inputs",          lambda n: _graph_def([_node("y", "AddN", *["x"] * n)])),
    ("impure nodes",         lambda n: _graph_def([*_chain(n, "WriteFile"), _node("y", "Identity", f"n{n - 1}")])),
    ("calls of a function",  lambda n: _graph_def([*_chain(n, "PartitionedCall", calls="f"), _node("y", "Identity", f"n{n - 1}")], [LEAF])),
    ("calls in calls",       lambda n: _graph_def([_node("y", "PartitionedCall", "x", calls="f0")],
                                                  [LEAF, *(_function(f"f{i}", _node("c", "PartitionedCall", "a", calls=f"f{i + 1}")) for i in range(n))])),
    ("functions unused",     lambda n: _graph_def([_node("y", "Identity", "x")], [_function(f"f{i}", _node("c", "Identity", "a")) for i in range(n)])),
]
# fmt: on


@pytest.mark.parametrize("make", [case[1] for case in GRAPHS], ids=[case[0] for case in GRAPHS])
def test_the_time_to_read_a_graph_grows_linearly(make: Make, tmp_path: Path) -> None:
    path = tmp_path / "saved_model.pb"

    def reader(content: bytes) -> None:
        if not path.is_file() or path.stat().st_size != len(content):
            path.write_bytes(content)
        with suppress(LoadError):
            composite.parts(tmp_path, read(tmp_path).signatures)
        impurities(tmp_path)
        assets.problem(tmp_path)

    assert grows(make, reader) <= MOST


# The whole way of a request


def _messages(n: int) -> Iterator[tuple[str, bytes, dict[str, str]]]:
    yield "/v1/models/model:predict", b'{"instances":[{%b}]}' % keys(n).encode(), {}
    yield "/v1/models/model:predict", b'{"instances":%b1%b}' % (b"[" * n, b"]" * n), {}
    yield "/v1/models/" + "model" * n + ":predict", b"{}", {}
    yield "/" + "versions/1" * n, b"{}", {}


@pytest.mark.parametrize("index", range(4), ids=["keys", "brackets", "a long name", "a long address"])
@pytest.mark.parametrize("packed", [False, True], ids=["plain", "packed"])
def test_the_time_of_a_request_grows_linearly(index: int, packed: bool, serve: Serve) -> None:
    ask = serve(build() / "shapes", ACCELERATOR="off")

    def make(n: int) -> tuple[str, bytes, str]:
        path, body, _ = list(_messages(n))[index]
        return path, gzip.compress(body) if packed else body, "gzip" if packed else "identity"

    def reader(message: tuple[str, bytes, str]) -> None:
        path, body, encoding = message
        assert 400 <= ask("POST", path, body, content_encoding=encoding).status < 500

    assert grows(make, reader) <= MOST
