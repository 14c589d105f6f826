"""What a graph expects its strings to hold: tf.Examples with their features, pictures, sound, base64, numbers, words.

    texts(directory, signature)       functions of a random generator, each a guess, the likeliest first

Nothing is run: the operations that the signature reaches show what they parse, by their attributes and constants.
"""

import base64
import json
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np

from serving.core import files
from serving.core.dtypes import by_code
from serving.core.errors import LoadError
from serving.savedmodel.graph import MAIN, Graph, Node, reached
from serving.savedmodel.protobuf import (
    each_field,
    last_field,
    message_field,
    number_field,
    numbers_field,
    text_of,
    write_field,
    write_varint,
)
from serving.savedmodel.roots import LOADING, asset_definitions, roots_of
from serving.savedmodel.signature import Signature, served_graph

Text = Callable[[np.random.Generator], bytes]

STRING, FLOAT = 7, 1  # TF_DataType
MOST_VALUES = 1 << 16  # of one feature in a generated example
WORDS = (b"the cat sat", b"a dog", "Straße".encode(), b"7", b"unknown words")


class Feature(NamedTuple):
    """One feature of a tf.Example or a tf.SequenceExample."""

    key: bytes
    dtype: int
    values: int
    steps: bool = False  # a list of features, one for each step of a sequence


class Operation(NamedTuple):
    """One operation that a signature reaches."""

    op: bytes
    function: bytes  # b"" for the main graph
    inputs: list[bytes]
    attributes: dict[str, memoryview]

    def attribute(self, name: str) -> memoryview:
        """Return an AttrValue; empty where it is absent."""
        return self.attributes.get(name, memoryview(b""))


def texts(directory: Path, signature: Signature) -> list[Text]:
    """Return functions that each make one string for a signature's inputs, the likeliest first."""
    graph = served_graph(directory)
    reader = _Reader(graph)
    nodes = list(reader.reached([spec.tensor.encode() for spec in signature.outputs.values()]))
    ops = {node.op for node in nodes}
    restore = bytes(last_field(message_field(graph, 3), 3))  # its constants are the names of variables
    loading = [root for root in roots_of(graph)[LOADING] if root != restore]
    plain = [*_decoded(nodes, ops), *map(_same, _vocabulary(directory, reader, loading))]
    words = GUESSES[:1]
    guesses: list[Text] = []
    for features in _features(reader, nodes):
        guesses += [_example(features, inner) for inner in [*plain, *words]]
    guesses += plain
    if b"DecodeJSONExample" in ops:
        guesses = [_example_in_json(features) for features in _features(reader, nodes)] + guesses
    if b"DecodeBase64" in ops:
        guesses = [_then(inner, _web_safe) for inner in [*guesses, *words]] + guesses
    if b"DecodeCompressed" in ops:
        guesses = [_then(inner, zlib.compress) for inner in [*guesses, *words]] + guesses
    return [*guesses, *GUESSES]


def parsed(directory: Path, signature: Signature) -> frozenset[bytes]:
    """Return the operations that a signature reaches."""
    operations = _Reader(served_graph(directory)).reached([spec.tensor.encode() for spec in signature.outputs.values()])
    return frozenset(node.op for node in operations)


def _same(text: bytes) -> Text:
    return lambda _random: text


def _then(first: Text, second: Callable[[bytes], bytes]) -> Text:
    return lambda random: second(first(random))


def _web_safe(text: bytes) -> bytes:
    return base64.urlsafe_b64encode(text).rstrip(b"=")


def _number_text(random: np.random.Generator) -> bytes:
    return b"%d" % random.integers(1, 4)


SQUARE = 8  # pixels


def png(side: int, random: np.random.Generator, channels: int = 3) -> bytes:
    """Return a PNG (RFC 2083) of side x side pixels, in random squares so that it is small enough for an error text."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    squares = random.integers(0, 256, (-(-side // SQUARE), -(-side // SQUARE), channels), np.uint8)
    pixels = squares.repeat(SQUARE, axis=0).repeat(SQUARE, axis=1)[:side, :side]
    lines = b"".join(b"\0" + line.tobytes() for line in pixels)
    head = struct.pack(">IIBBBBB", side, side, 8, 0 if channels == 1 else 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")


GUESSES: tuple[Text, ...] = (  # where the graph says nothing
    lambda random: WORDS[int(random.integers(len(WORDS)))],
    _number_text,
    _same(b""),  # also a tf.Example without features
    _same(b"a"),
    lambda random: png(32, random),
)


def _bmp(random: np.random.Generator) -> bytes:
    pixels = random.integers(0, 256, 8 * 8 * 3, np.uint8).tobytes()
    header = struct.pack("<IiiHHIIiiII", 40, 8, 8, 1, 24, 0, len(pixels), 0, 0, 0, 0)
    return b"BM" + struct.pack("<IHHI", 54 + len(pixels), 0, 0, 54) + header + pixels


def _wav(random: np.random.Generator, channels: int = 1) -> bytes:
    samples = random.integers(-9999, 9999, 1600 * channels).astype("<i2").tobytes()
    head = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, channels, 16000, 32000 * channels, 2 * channels, 16)
    body = b"WAVE" + head + b"data" + struct.pack("<I", len(samples)) + samples
    return b"RIFF" + struct.pack("<I", len(body)) + body


PICTURES = frozenset({b"DecodeJpeg", b"DecodePng", b"DecodeImage", b"DecodeAndCropJpeg", b"DecodeGif", b"DecodeWebP"})
RAW_COUNTS = (*range(1, 33), 64, 128, 256, 784, 1024, 3072)  # values in a string of raw bytes


def _decoded(nodes: Sequence[Operation], ops: set[bytes]) -> Iterator[Text]:
    """Yield strings that the decoders among the operations accept."""
    if ops & PICTURES:
        yield lambda random: png(32, random)
        yield lambda random: png(32, random, 1)
    if b"DecodeBmp" in ops:
        yield _bmp
    if b"DecodeWav" in ops:
        yield _wav
        yield lambda random: _wav(random, 2)
    if b"StringToNumber" in ops:
        yield _number_text
    for node in nodes:
        if node.op == b"DecodeCSV":
            types = list(numbers_field(last_field(node.attributes["OUT_TYPE"], 1), 6))
            delimiter = bytes(last_field(node.attribute("field_delim"), 2)) or b","
            yield _same(delimiter.join(b"a" if code == STRING else b"1" for code in types))
        elif node.op == b"ParseTensor":
            yield _same(_tensor(number_field(node.attributes["out_type"], 6)))
        elif node.op in (b"DecodeRaw", b"DecodePaddedRaw"):
            size = _item_size(number_field(node.attributes["out_type"], 6))
            yield from (_same(bytes(size * count)) for count in RAW_COUNTS)


def _item_size(code: int) -> int:
    dtype = by_code(code)
    return dtype.numpy.itemsize if dtype.numpy_name and dtype.kind != "S" else 1


def _tensor(code: int) -> bytes:
    """Return a serialized tensor of one zero."""
    return b"\x08" + write_varint(code) + b"\x12\x04\x12\x02\x08\x01" + write_field(4, bytes(_item_size(code)))


# ---- tf.Examples


def _features(reader: "_Reader", nodes: Sequence[Operation]) -> list[list[Feature]]:
    """Return the features of all parsing operations in one list, then the features of each."""
    groups = [features for node in nodes if node.op in _PARSERS for features in [_PARSERS[node.op](reader, node)]]
    if len(groups) < 2:
        return groups
    return [list({feature.key: feature for features in groups for feature in features}.values()), *groups]


def _dense(keys: Sequence[bytes], node: Operation, types: str, shapes: str, steps: bool = False) -> Iterator[Feature]:
    sizes = [_size(shape) for shape in each_field(last_field(node.attribute(shapes), 1), 7)]
    for key, code, size in zip(keys, _types(node, types), sizes):
        yield Feature(key, code, size, steps)


def _sparse(keys: Sequence[bytes], node: Operation, types: str, steps: bool = False) -> Iterator[Feature]:
    yield from (Feature(key, code, 1, steps) for key, code in zip(keys, _types(node, types)))


def _parse_example(reader: "_Reader", node: Operation) -> list[Feature]:
    sparse, dense = (number_field(node.attribute(name), 3) for name in ("Nsparse", "Ndense"))
    keys = [key for tensor in node.inputs[2 : 2 + sparse + dense] for key in reader.strings(node.function, tensor)]
    return [*_dense(keys[sparse:], node, "Tdense", "dense_shapes"), *_sparse(keys[:sparse], node, "sparse_types")]


def _parse_example_v2(reader: "_Reader", node: Operation) -> list[Feature]:
    sparse, dense, ragged = (reader.strings(node.function, tensor) for tensor in node.inputs[2:5])
    return [
        *_dense(dense, node, "Tdense", "dense_shapes"),
        *_sparse(sparse, node, "sparse_types"),
        *_sparse(ragged, node, "ragged_value_types"),
    ]


def _parse_single(_reader: "_Reader", node: Operation) -> list[Feature]:
    return [
        *_dense(_listed(node, "dense_keys"), node, "Tdense", "dense_shapes"),
        *_sparse(_listed(node, "sparse_keys"), node, "sparse_types"),
    ]


def _sequence(keys: Sequence[Sequence[bytes]], node: Operation) -> list[Feature]:
    return [
        *_sparse(keys[0], node, "context_sparse_types"),
        *_dense(keys[1], node, "Tcontext_dense", "context_dense_shapes"),
        *_sparse(keys[2], node, "context_ragged_value_types"),
        *_sparse(keys[3], node, "feature_list_sparse_types", steps=True),
        *_dense(keys[4], node, "feature_list_dense_types", "feature_list_dense_shapes", steps=True),
        *_sparse(keys[5], node, "feature_list_ragged_value_types", steps=True),
    ]


def _parse_sequence(_reader: "_Reader", node: Operation) -> list[Feature]:
    names = ("context_sparse_keys", "context_dense_keys", "", "feature_list_sparse_keys", "feature_list_dense_keys", "")
    return _sequence([_listed(node, name) for name in names], node)


def _parse_sequence_v2(reader: "_Reader", node: Operation) -> list[Feature]:
    return _sequence([reader.strings(node.function, tensor) for tensor in node.inputs[2:8]], node)


def _parse_single_sequence(reader: "_Reader", node: Operation) -> list[Feature]:
    counts = ("Ncontext_sparse", "Ncontext_dense", "", "Nfeature_list_sparse", "Nfeature_list_dense", "")
    keys, position = [], 2
    for name in counts:
        end = position + number_field(node.attribute(name), 3)
        keys.append([key for tensor in node.inputs[position:end] for key in reader.strings(node.function, tensor)])
        position = end
    return _sequence(keys, node)


_PARSERS = {
    b"ParseExample": _parse_example,
    b"ParseExampleV2": _parse_example_v2,
    b"ParseSequenceExample": _parse_sequence,
    b"ParseSequenceExampleV2": _parse_sequence_v2,
    b"ParseSingleExample": _parse_single,
    b"ParseSingleSequenceExample": _parse_single_sequence,
}


def _types(node: Operation, name: str) -> list[int]:
    return list(numbers_field(last_field(node.attribute(name), 1), 6))


def _listed(node: Operation, name: str) -> list[bytes]:
    return list(map(bytes, each_field(last_field(node.attribute(name), 1), 2)))


def _size(shape: memoryview) -> int:
    """Return how many values a shape has; a free dimension counts one."""
    size = 1
    for dimension in each_field(shape, 2):
        size *= max(number_field(dimension, 1), 1)
    return size


def _example(features: Sequence[Feature], inner: Text) -> Text:
    """Return a function that makes a serialized tf.Example, or a tf.SequenceExample where features have steps."""

    def make(random: np.random.Generator) -> bytes:
        once, steps = b"", b""
        for feature in features:
            value = _feature(feature, inner, random)
            if feature.steps:
                steps += _entry(feature.key, write_field(1, value) * 2)
            else:
                once += _entry(feature.key, value)
        return write_field(1, once) + (write_field(2, steps) if steps else b"")

    return make


def _feature(feature: Feature, inner: Text, random: np.random.Generator) -> bytes:
    count = min(feature.values, MOST_VALUES)
    if feature.dtype == STRING:
        return write_field(1, b"".join(write_field(1, inner(random)) for _ in range(count)))
    if feature.dtype == FLOAT:
        return write_field(2, write_field(1, random.normal(size=count).astype("<f4").tobytes()))
    return write_field(3, write_field(1, bytes(random.integers(0, 2, count, np.uint8))))


def _example_in_json(features: Sequence[Feature]) -> Text:
    def make(random: np.random.Generator) -> bytes:
        entries = {}
        for feature in features:
            count = min(feature.values, MOST_VALUES)
            if feature.dtype == STRING:
                value = {"bytesList": {"value": ["dGhlIGNhdA=="] * count}}
            elif feature.dtype == FLOAT:
                value = {"floatList": {"value": random.normal(size=count).tolist()}}
            else:
                value = {"int64List": {"value": ["1"] * count}}
            entries[feature.key.decode("utf-8", "replace")] = value
        return json.dumps({"features": {"feature": entries}}).encode()

    return make


def _entry(key: bytes, value: bytes) -> bytes:
    return write_field(1, write_field(1, key) + write_field(2, value))


# ---- Reading the graph


def _vocabulary(directory: Path, reader: "_Reader", loading: list[bytes]) -> list[bytes]:
    """Return at most six words of the model's lookup tables, from its assets and from the constants that fill them."""
    words: list[bytes] = []
    for asset in asset_definitions(reader.graph)[:8]:
        with (
            suppress(OSError, LoadError),
            files.opened(directory, f"assets/{text_of(last_field(asset, 2))}", files.ANY) as file,
        ):
            words += [line for line in file.read(1 << 12).splitlines()[:2] if line]
    for node in reader.reached(loading):
        if node.op == b"Const" and number_field(node.attribute("dtype"), 6) == STRING:
            words += _constant(node.attributes["value"])[:2]
    return list(dict.fromkeys(words))[:6]


def _constant(value: memoryview) -> list[bytes]:
    """Return the strings of a constant."""
    tensor = message_field(value, 8)
    strings = list(map(bytes, each_field(tensor, 8)))
    count = _size(message_field(tensor, 2))
    return strings + strings[-1:] * (min(count, MOST_VALUES) - len(strings))


class _Reader:
    """Follows tensors through the functions of a graph."""

    def __init__(self, graph: memoryview) -> None:
        self.graph = graph
        self._parsed = Graph.of(graph)
        self._callers: dict[bytes, tuple[bytes, Node]] = {}

    def reached(self, roots: Sequence[bytes]) -> Iterator[Operation]:
        """Yield the operations that tensors or nodes of the main graph need, in functions too."""
        parsed = self._parsed
        pending = [(MAIN, reached(parsed.main, roots))]
        seen = set()
        while pending:
            function, nodes = pending.pop()
            for node in nodes:
                yield Operation(node.op, function, node.inputs, node.attributes)
                for called in (*node.calls, node.op):
                    if called in parsed.functions and called not in seen:
                        seen.add(called)
                        self._callers[called] = function, node
                        pending.append((called, list(parsed.nodes(called).values())))

    def strings(self, function: bytes, tensor: bytes) -> list[bytes]:
        """Return the strings of a constant tensor; the constant may be an argument from outside the function."""
        for _ in range(32):
            name = tensor.lstrip(b"^").partition(b":")[0]
            node = self._parsed.nodes(function).get(name)
            if node is not None and node.op == b"Const":
                return _constant(node.attributes["value"])
            if node is not None and node.inputs:
                tensor = node.inputs[0]  # an Identity, as a rule
            elif node is None and function in self._callers:
                arguments = self._parsed.arguments(function)
                function, call = self._callers[function]
                position = arguments.index(name) + (call.op in (b"If", b"StatelessIf", b"Case", b"StatelessCase"))
                tensor = call.inputs[position]
            else:
                break
        return []
