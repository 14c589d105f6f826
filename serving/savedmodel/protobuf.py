"""The part of protobuf's wire format that is used here <https://protobuf.dev/programming-guides/encoding>.

All readers raise ValueError where a message is malformed.
"""

from collections.abc import Iterator


def fields_of(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Yield (field number, value); the value is a number, or the bytes of a string or a message."""
    position, end = 0, len(message)
    while position < end:
        key = message[position]
        if key < 0x80:  # one byte, nearly always
            position += 1
        else:
            key, position = read_varint(message, position)
        number, wire = key >> 3, key & 7
        if wire == 0:
            value, position = read_varint(message, position)
            yield number, value
            continue
        if wire == 2:
            if position < end and (size := message[position]) < 0x80:
                position += 1
            else:
                size, position = read_varint(message, position)
        elif wire in (1, 5):
            size = 8 if wire == 1 else 4
        else:
            raise ValueError(f"wire type {wire} at byte {position}")
        if number == 0 or size > end - position:
            raise ValueError(f"field {number} at byte {position} runs past the end")
        yield number, message[position : position + size]
        position += size


def read_varint(message: memoryview, position: int) -> tuple[int, int]:
    """Return the number at a position, and the position after it; raise ValueError where it does not end."""
    value = 0
    for shift in range(0, 70, 7):
        if position >= len(message):
            raise ValueError("it ends in the middle of a number")
        byte = message[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise ValueError(f"a number of more than ten bytes at byte {position}")


def each_field(message: memoryview, field_number: int) -> Iterator[memoryview]:
    """Yield every value of a repeated string or message field."""
    for number, value in fields_of(message):
        if number == field_number:
            if isinstance(value, int):
                raise ValueError(f"field {number} is a number")
            yield value


def last_field(message: memoryview, field_number: int) -> memoryview:
    """Return the last value of a string field, as protobuf does; empty where it is absent."""
    last = memoryview(b"")
    for value in each_field(message, field_number):
        last = value
    return last


def first_field(message: memoryview, field_number: int) -> memoryview:
    """Return the first value of a string or message field, without reading on; empty where it is absent."""
    return next(each_field(message, field_number), memoryview(b""))


def message_field(message: memoryview, field_number: int) -> memoryview:
    """Return a message field; where it is written in parts, their concatenation, as protobuf specifies."""
    parts = list(each_field(message, field_number))
    return parts[0] if len(parts) == 1 else memoryview(b"".join(parts))


def number_field(message: memoryview, field_number: int) -> int:
    """Return the last value of an integer field, as a signed number; 0 where it is absent."""
    last = 0
    for number, value in fields_of(message):
        if number == field_number and isinstance(value, int):
            last = value
    return last - (1 << 64) if last >= 1 << 63 else last


def numbers_field(message: memoryview, field_number: int) -> Iterator[int]:
    """Yield the varints of a repeated field, packed or not, as unsigned numbers."""
    for number, value in fields_of(message):
        if number == field_number and isinstance(value, int):
            yield value
        elif number == field_number and not isinstance(value, int):
            position = 0
            while position < len(value):
                element, position = read_varint(value, position)
                yield element


def text_of(value: memoryview) -> str:
    """Decode a string's UTF-8; raise ValueError where it is malformed."""
    return str(value, "utf-8")


def map_field(message: memoryview, field: int) -> dict[str, memoryview]:
    """Return a map field in the order of its keys: the order in the file is unspecified."""
    entries = ((text_of(last_field(entry, 1)), message_field(entry, 2)) for entry in each_field(message, field))
    return dict(sorted(entries))


def write_varint(number: int) -> bytes:
    """Return a number as a varint: groups of seven bits, the lowest first."""
    number &= (1 << 64) - 1  # a negative number is written as its 64-bit complement
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)


def write_field(number: int, *pieces: bytes | memoryview) -> bytes:
    """Return a string or message field, whose value is these pieces."""
    return b"".join((write_varint(number << 3 | 2), write_varint(sum(map(len, pieces))), *pieces))
