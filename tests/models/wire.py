"""Change protobuf messages by their bytes, into such as no protobuf library would write.

    edit(data, [2, 2, (1, b"name")], lambda node: [node, node])

goes into field 2, into field 2 of that, to each element of field 1 in which b"name" occurs, and puts there what the
function returns: any number of values of the same field, or Raw bytes in its place.
"""

from collections.abc import Callable, Sequence

from serving.savedmodel.protobuf import write_varint

Value = int | bytes
Step = int | tuple[int, bytes]


class Raw(bytes):
    """Bytes that stand instead of a field, key and all."""


def split(data: bytes) -> list[tuple[int, int, Value]]:
    """Return the fields of a message: number, wire type, value."""
    fields: list[tuple[int, int, Value]] = []
    position = 0

    def number() -> int:
        nonlocal position
        value = shift = 0
        while True:
            byte = data[position]
            position += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    while position < len(data):
        key = number()
        if key & 7 == 0:
            fields.append((key >> 3, 0, number()))
            continue
        size = {1: 8, 5: 4, 2: -1}[key & 7]
        size = number() if size < 0 else size
        if position + size > len(data) or not key >> 3:
            raise ValueError("not a message")
        fields.append((key >> 3, key & 7, data[position : position + size]))
        position += size
    return fields


def field(number: int, value: Value, wire: int = 2) -> bytes:
    """Write a field: a number, a string or message, or, with their wire types, 4 or 8 bytes."""
    if isinstance(value, int):
        return write_varint(number << 3 | (0 if wire == 2 else wire)) + write_varint(value)
    return write_varint(number << 3 | wire) + (write_varint(len(value)) if wire == 2 else b"") + value


def edit(data: bytes, path: Sequence[Step], change: Callable[[bytes], list[bytes]]) -> bytes:
    """Change what is at a path; raise ValueError where there is nothing."""
    done = 0

    def inside(message: bytes, rest: Sequence[Step]) -> bytes:
        nonlocal done
        wanted, part = rest[0] if isinstance(rest[0], tuple) else (rest[0], b"")
        written = []
        for number, wire, value in split(message):
            if number != wanted or not isinstance(value, bytes) or part not in value:
                written.append(field(number, value, wire))
            elif rest[1:]:
                written.append(field(number, inside(value, rest[1:])))
            else:
                done += 1
                written += [piece if isinstance(piece, Raw) else field(number, piece) for piece in change(value)]
        return b"".join(written)

    changed = inside(data, path)
    if not done:
        raise ValueError(f"nothing at {path}")
    return changed
