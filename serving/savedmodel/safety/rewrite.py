"""Changes the graph of a SavedModel before it is loaded, at the level of protobuf's wire format.

    with rewritten(directory, lambda graph: [*edited(graph, 2, change)]) as changed:
        load(changed)       a folder whose saved_model.pb is changed and whose other files are the same, by links

A changed message is a list of its pieces, most of them views of the file: a graph that holds gigabytes is not copied.
https://protobuf.dev/programming-guides/encoding, tensorflow/core/framework/node_def.proto and attr_value.proto.
"""

import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import count
from pathlib import Path

from serving.savedmodel.protobuf import last_field, read_varint, write_field, write_varint
from serving.savedmodel.roots import asset_definitions
from serving.savedmodel.signature import served

Piece = bytes | memoryview
DOUBLE, INT32, STRING = 2, 3, 7  # tensorflow/core/framework/types.proto


@contextmanager
def rewritten(directory: Path, change: Callable[[memoryview], list[Piece]]) -> Iterator[Path]:
    """Yield a temporary folder with the SavedModel whose served MetaGraphDef is replaced by `change(graph)`."""
    import shutil  # most models are loaded unchanged
    import tempfile

    served_position, graph = served(directory)
    position = count()
    folder = Path(tempfile.mkdtemp(prefix="model-"))
    try:
        for path in directory.iterdir():
            if path.name != "saved_model.pb":
                (folder / path.name).symlink_to(path.resolve())
        message = memoryview(graph.obj)  # the whole file; the graph is a view of a part
        with (folder / "saved_model.pb").open("wb") as file:
            for piece in edited(message, 2, lambda _: change(graph) if next(position) == served_position else None):
                file.write(piece)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def with_each_asset_once(directory: Path) -> Iterator[Path]:
    """Yield the folder of the SavedModel, or one whose list of assets repeats none.

    A vocabulary that a TensorFlow 1 program has added to ASSET_FILEPATHS itself is listed twice. TensorFlow's Python
    API feeds it once, the C library says "fed more than once".
    """
    _, graph = served(directory)
    definitions = {bytes(definition): True for definition in asset_definitions(graph)}
    if len(definitions) == len(asset_definitions(graph)):
        yield directory
        return

    def once(packed: memoryview) -> list[Piece] | None:
        return None if definitions.pop(bytes(last_field(packed, 2)), False) else []

    def assets(entry: memoryview) -> list[Piece] | None:
        if bytes(last_field(entry, 1)) != b"saved_model_assets":
            return None
        return edited(entry, 2, lambda collection: edited(collection, 5, lambda packed: edited(packed, 1, once)))

    with rewritten(directory, lambda message: edited(message, 4, assets)) as folder:
        yield folder


def edited(message: memoryview, number: int, change: Callable[[memoryview], list[Piece] | None]) -> list[Piece]:
    """Return a message with each field `number` replaced by the result of `change`.

    None leaves the field unchanged, an empty list removes it.
    """
    pieces: list[Piece] = []
    kept = position = 0  # the unchanged bytes since the last change, from `kept` on, are one piece
    while position < len(message):
        begin = position
        key, position = read_varint(message, position)
        if key & 7 == 0:
            _, position = read_varint(message, position)
            continue
        if key & 7 != 2:
            position += 8 if key & 7 == 1 else 4
            continue
        size, start = read_varint(message, position)
        position = start + size
        if key >> 3 == number and (changed := change(message[start:position])) is not None:
            pieces += [message[kept:begin], *(field(number, *changed) if changed else ())]
            kept = position
    return [*pieces, message[kept:]]


def field(number: int, *pieces: Piece) -> list[Piece]:
    """Return a string or message field."""
    return [write_varint(number << 3 | 2) + write_varint(sum(map(len, pieces))), *pieces]


def node(name: bytes, op: bytes, inputs: Iterable[bytes], attributes: Mapping[bytes, bytes]) -> bytes:
    """Return a serialized NodeDef; each attribute is a serialized AttrValue."""
    parts = [write_field(1, name), write_field(2, op), *(write_field(3, name_) for name_ in inputs)]
    entries = (write_field(5, write_field(1, key), write_field(2, value)) for key, value in attributes.items())
    return b"".join([*parts, *entries])


def of_type(code: int) -> bytes:
    """Return the AttrValue of a dtype."""
    return b"\x30" + write_varint(code)


def of_types(*codes: int) -> bytes:
    """Return the AttrValue of a list of dtypes."""
    return write_field(1, write_field(6, *map(write_varint, codes)))


def of_number(number: int) -> bytes:
    """Return the AttrValue of an integer."""
    return b"\x18" + write_varint(number)


def constant(value: float | bytes | tuple[int, ...]) -> tuple[int, bytes]:
    """Return the dtype and the AttrValue of a tensor: a float64 or a string scalar, or a list of int32."""
    if isinstance(value, tuple):
        shape = write_field(2, write_field(2, b"\x08", write_varint(len(value))))
        return INT32, write_field(8, b"\x08\x03", shape, write_field(4, struct.pack(f"<{len(value)}i", *value)))
    if isinstance(value, bytes):
        return STRING, write_field(8, b"\x08\x07", write_field(2), write_field(8, value))
    return DOUBLE, write_field(8, b"\x08\x02", write_field(2), write_field(4, struct.pack("<d", value)))
