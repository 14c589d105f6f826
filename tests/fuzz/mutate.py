"""New inputs out of old ones, by the structure that they have."""

import json
import random
from collections.abc import Callable, Sequence
from typing import Any

from serving.savedmodel.protobuf import write_varint
from tests.models.wire import field, split

TOKENS = [
    b"null", b"NaN", b"-Infinity", b"1e400", b"1e39", b"-0", b"0.1", b"9223372036854775808", b"18446744073709551616",
    b"-9223372036854775809", b"1" * 41, b"1" * 5000, b"true", b'"', b"{}", b"[]", b'{"b64":"AA=="}', b'{"b64":"_-"}',
    b"\\ud800", b"\\u0000", b"\xff", b"\xc0\xaf", b"\xed\xa0\x80", b"\xef\xbb\xbf", b"\0", b"\r\n", b"\n", b",", b":",
    b"[" * 40, b"]" * 40, b'{"a":' * 40, b"[" * 1100, b"instances", b"inputs", b"signature_name", b"parameters",
    b"outputs", b"datatype", b"shape", b"data", b"binary_data_size", b"binary_data", b"classification", b"examples",
    b"context", b"key", b"on_error", b"top_k", b"arrays", b"base64", b"ce-id", b"ce-type", b"specversion", b"1.0",
    b"data_base64", b"message", b"attributes", b"0000-01-01T00:00:00Z", b"9999-12-31T23:59:60+23:59", b"%00", b"%ff",
    b"%0d%0a", b"..", b"../../../../etc/passwd", b"--x", b"--x--", b"\x80\x80\x80\x80\x80\x80\x80\x80\x80\x01",
    b"\xff" * 10, b"\x7f\xff\xff\xff", b"Content-Disposition: form-data; name=\"x\"", b"?on_error=row", b"?top_k=3",
]  # fmt: skip

VALUES: list[Any] = [
    None, True, False, 0, -1, 1, 255, 256, 2**31, 2**32, 2**53 + 1, 2**63 - 1, 2**63, 2**64, -(2**63) - 1, 10**40,
    10**41, 0.5, -0.0, 1e39, 1e308, float("nan"), float("inf"), "", "a", "\0", "\ud800", "é水", "x" * 1000, [], {}, [[]],
    [[], [1]], [1, [2]], {"b64": ""}, {"b64": "AA=="}, {"b64": "A"}, {"b64": 7}, {"b64": "AA==", "x": 1}, [None], ["a"],
    [0] * 1000, {"": 1}, {"x": 1}, {"x": [1, 2]}, {"name": "x"}, [1, 2], [[1, 2]], "FP32", "INT64", "BYTES", "BOOL",
]  # fmt: skip


def nested(random_: random.Random) -> Any:
    value: Any = random_.choice([0, [], {}, "a"])
    for _ in range(random_.choice([3, 31, 32, 33, 64, 260, 900])):
        value = [value] if random_.random() < 0.7 else {"k": value}
    return value


def mutate(data: bytes, others: Sequence[bytes], random_: random.Random, most: int = 1 << 16) -> bytes:
    """Return a changed input of at most `most` bytes."""
    for _ in range(random_.choice([1, 1, 1, 2, 3, 6])):
        data = random_.choice(WAYS)(data, others, random_)
    return data[:most]


def _flip(data: bytes, _others: Sequence[bytes], random_: random.Random) -> bytes:
    if not data:
        return random_.randbytes(random_.randrange(1, 20))
    at, changed = random_.randrange(len(data)), bytearray(data)
    changed[at] = random_.choice([changed[at] ^ 1 << random_.randrange(8), random_.randrange(256), 0, 0x7F, 0xFF])
    return bytes(changed)


def _span(data: bytes, random_: random.Random) -> tuple[int, int]:
    start = random_.randrange(len(data) + 1)
    return start, min(len(data), start + int(random_.paretovariate(0.7)))


def _cut(data: bytes, _others: Sequence[bytes], random_: random.Random) -> bytes:
    start, stop = _span(data, random_)
    return data[:start] + data[stop:]


def _repeat(data: bytes, _others: Sequence[bytes], random_: random.Random) -> bytes:
    start, stop = _span(data, random_)
    return data[:stop] + data[start:stop] * random_.choice([1, 2, 10, 300]) + data[stop:]


def _insert(data: bytes, _others: Sequence[bytes], random_: random.Random) -> bytes:
    start, stop = _span(data, random_)
    return data[:start] + random_.choice(TOKENS) + data[stop if random_.random() < 0.5 else start :]


def _splice(data: bytes, others: Sequence[bytes], random_: random.Random) -> bytes:
    other = random_.choice(others) if others else data
    start, stop = _span(other, random_)
    at = random_.randrange(len(data) + 1)
    return data[:at] + (other[start:stop] if random_.random() < 0.5 else other[start:])


def _json(data: bytes, _others: Sequence[bytes], random_: random.Random) -> bytes:
    """Change one value of the JSON inside."""
    start = data.find(b"{")
    try:
        value, length = json.JSONDecoder().raw_decode(data[start:].decode())
    except (ValueError, RecursionError):
        return _insert(data, (), random_)
    size = len(data[start:].decode()[:length].encode())
    try:
        text = json.dumps(_changed(value, random_), ensure_ascii=random_.random() < 0.5).encode(
            "utf-8", "surrogatepass"
        )
    except (ValueError, RecursionError):
        return data
    return data[:start] + text + data[start + size :]


def _changed(value: Any, random_: random.Random) -> Any:
    if isinstance(value, (dict, list)) and value and random_.random() < 0.8:
        keys = list(value) if isinstance(value, dict) else list(range(len(value)))
        key = random_.choice(keys)
        deed = random_.random()
        if deed < 0.6:
            value[key] = _changed(value[key], random_)
        elif deed < 0.75:
            del value[key]
        elif isinstance(value, dict):
            value[random_.choice([*keys, "x", "key", "inputs", "instances", "b64", "data", "é", "\0"])] = value.pop(key)
        else:
            value.insert(key, random_.choice([value[key], *random_.sample(VALUES, 2)]))
        return value
    return nested(random_) if random_.random() < 0.1 else random_.choice(VALUES)


def _protobuf(data: bytes, _others: Sequence[bytes], random_: random.Random) -> bytes:
    """Change one field, and keep the lengths around it right."""
    fields = _fields(data)
    if not fields:
        return _flip(data, (), random_)
    index = random_.randrange(len(fields))
    number, wire, value = fields[index]
    deed = random_.random()
    if deed < 0.1:
        del fields[index]
    elif deed < 0.2:
        fields.insert(random_.randrange(len(fields) + 1), fields[index])
    elif deed < 0.25:
        fields[index] = (random_.choice([0, 1, 2, 3, 4, 5, 10, 15, 536870911]), wire, value)
    elif wire == 0:
        fields[index] = (number, 0, random_.choice([0, 1, 2, 7, 2**31, 2**63, 2**64 - 1, random_.randrange(200)]))
    elif wire == 2:
        assert isinstance(value, bytes)
        inside = _protobuf if _fields(value) and random_.random() < 0.85 else _flip
        fields[index] = (number, 2, inside(value, (), random_))
    else:
        fields[index] = (number, wire, random_.randbytes(8 if wire == 1 else 4))
    return b"".join(_field(*entry) for entry in fields)


def _wire(data: bytes, _others: Sequence[bytes], random_: random.Random) -> bytes:
    """Write one field, somewhere inside, in a way that readers may understand differently; the lengths stay right."""
    fields = _fields(data)
    if not fields:
        return data
    written = [_field(*entry) for entry in fields]
    index = random_.randrange(len(fields))
    number, wire, value = fields[index]
    inner = _fields(value) if isinstance(value, bytes) and wire == 2 else None
    if inner and isinstance(value, bytes) and random_.random() < 0.85:
        written[index] = _field(number, 2, _wire(value, (), random_))
        return b"".join(written)
    deed = random_.randrange(8)
    if deed == 0:  # twice, the other changed
        changed = _wire(value, (), random_) if inner and isinstance(value, bytes) else value
        written.insert(random_.randrange(len(written) + 1), _field(number, wire, changed))
    elif deed == 1 and inner:  # in parts
        cut = random_.randrange(len(inner) + 1)
        parts = (b"".join(_field(*entry) for entry in some) for some in (inner[:cut], inner[cut:]))
        written[index] = b"".join(_field(number, 2, part) for part in parts)
    elif deed == 2:  # another wire type, instead of it or beside it
        other = random_.choice(
            [_field(number, 0, 7), _field(number, 1, b"12345678"), _field(number, 5, b"1234"), _field(number, 2, b"x")]
        )
        written[index] = random_.choice([other, other + written[index], written[index] + other])
    elif deed == 3:  # a longer number than its value needs
        size = value if isinstance(value, int) else len(value)
        if wire in (0, 2) and size < 1 << 56:
            long = bytes([*(byte | 0x80 for byte in write_varint(size)), 0x80, 0])
            written[index] = write_varint(number << 3 | wire) + long + (value if isinstance(value, bytes) else b"")
    elif deed == 4:  # a group, an end, nothing
        written.insert(index, random_.choice([bytes([number << 3 & 0x7F | 3, number << 3 & 0x7F | 4]), b"\0", b"\x0c"]))
    elif deed == 5:  # another member of a oneof
        written.insert(index, _field(random_.randrange(1, 12), 2, random_.choice([b"", b"x", _field(1, 2, b"x")])))
    elif deed == 6:  # another order
        random_.shuffle(written)
    else:  # a number beyond its type
        written[index] = _field(number, 0, random_.choice([2, 1 << 32, (1 << 32) + 1, (1 << 64) - 1]))
    return b"".join(written)


def _field(number: int, wire: int, value: int | bytes) -> bytes:
    return field(number, value, wire)


def _fields(data: bytes) -> list[tuple[int, int, int | bytes]] | None:
    try:
        return split(data)
    except (IndexError, KeyError, ValueError):
        return None


Way = Callable[[bytes, Sequence[bytes], random.Random], bytes]
WAYS: list[Way] = [_flip, _cut, _repeat, _insert, _insert, _splice, _json, _json, _json, _json, _protobuf, _wire]
