"""Bodies that grow: each function returns what makes a body of size n."""

import base64
import gzip
import json
from collections.abc import Callable

from tests.growth import Make


def keys(n: int, value: str = "1", twice: bool = False) -> str:
    """Return the members of an object, each key a new one; with `twice`, the last is the one before it."""
    return ",".join([f'"k{index}":{value}' for index in range(n)] + ([f'"k{n - 1}":{value}'] if twice else []))


def j(text: str) -> Make:
    """Return what makes a body of a text in which KEYS, TWICE, DEEP, MANY and LONG grow."""

    def make(n: int) -> bytes:
        grown = {
            "KEYS": lambda: keys(n),
            "TWICE": lambda: keys(n, twice=True),
            "DEEP": lambda: "[" * n + "1" + "]" * n,
            "OBJECTS": lambda: '{"a":' * n + "1" + "}" * n,
            "OPEN": lambda: "[" * n,
            "NUMBERS": lambda: ",".join(["1.5"] * n),
            "WHOLES": lambda: ",".join(["3.0"] * n),
            "ROWS": lambda: ",".join(["[1.5,2]"] * n),
            "RAGGED": lambda: ",".join(["[1.5,2],[1]"] * n),
            "SHAPES": lambda: ",".join("[" + ",".join("1" * (1 + index % 9)) + "]" for index in range(n)),
            "LONG": lambda: "k" * n,
            "NEAR": lambda: "feature_of_the_house" * n,
            "DIGITS": lambda: "1" * n,
            "ESCAPES": lambda: '\\"\\\\\\u00e9' * n,
            "EMPTY": lambda: ",".join(["{}"] * n),
            "WRONG": lambda: ",".join(f'{{"feature_of_the_{index}":1}}' for index in range(n)),
            "STRINGS": lambda: ",".join(['"é\\n"'] * n),
            "KEYED": lambda: ",".join(f'{{"key":{index},"x":[1]}}' for index in range(n)),
            "WIDE": lambda: ",".join(
                ["{" + ",".join(f'"column_{index}":1' for index in range(50)) + "}"] * (n // 50 + 1)
            ),
            "BASE64": lambda: ",".join(['{"b64":"AA=="}'] * n),
            "SPACED": lambda: "A A=" * n,
            "NANS": lambda: ",".join(["[NaN]"] * n),
            "LEVELS": lambda: "[" * 30 + ",".join(["1"] * n) + "]" * 30,
            "SPACE": lambda: " " * n,
        }
        return _filled(text, grown).encode()

    return make


def _filled(text: str, grown: dict[str, Callable[[], str]]) -> str:
    for word, what in grown.items():
        if word in text:
            text = text.replace(word, what())
    return text


def v2(data: str, shape: str = "[1]", datatype: str = "FP32") -> str:
    return f'{{"inputs":[{{"name":"x","shape":{shape},"datatype":"{datatype}","data":{data}}}]}}'


def members(n: int) -> bytes:
    return b"".join([gzip.compress(b'{"instances":[')] + [gzip.compress(b"")] * n)


def binary(n: int) -> tuple[bytes, bytes]:
    blob = b"\x01\0\0\0a" * n
    head = f'{{"inputs":[{{"name":"x","shape":[{n}],"datatype":"BYTES","parameters":{{"binary_data_size":{len(blob)}}}}}]}}'
    return head.encode(), blob


def parts(n: int) -> bytes:
    return b"".join(b'--b\r\nContent-Disposition: form-data; name="x"\r\n\r\n1\r\n' for _ in range(n)) + b"--b--\r\n"


def part(content: Callable[[int], bytes], fields: Callable[[int], bytes] = lambda _n: b"") -> Make:
    head = b'--b\r\nContent-Disposition: form-data; name="x"\r\n'
    return lambda n: head + fields(n) + b"\r\n" + content(n) + b"\r\n--b--\r\n"


def pushed(n: int) -> bytes:
    attributes = {f"k{index}": "v" for index in range(n)}
    return json.dumps({"message": {"messageId": "1", "data": base64.b64encode(b"x" * n).decode(),
                                   "attributes": attributes}}).encode()  # fmt: skip
