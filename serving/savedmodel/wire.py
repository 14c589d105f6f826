"""Protobuf's wire format, as far as it is written here <https://protobuf.dev/programming-guides/encoding>."""


def varint(number: int) -> bytes:
    """Write a number in groups of seven bits, the lowest first."""
    number &= (1 << 64) - 1  # a negative number is written as its 64-bit complement
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)
