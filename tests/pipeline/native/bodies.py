"""Random predict bodies: right ones, and ones with an error."""

import base64
import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from serving.savedmodel.folder import twin
from serving.savedmodel.signature import Signature, TensorSpec, read
from tests.fuzz.mutate import mutate

SPACES = ["", "", "", "", " ", "\n", "\t", "\r\n", "  \t "]
ODD = [
    "null", "true", '"1"', "NaN", "-Infinity", "[]", "{}", "[1]", "", "01", "1.", ".5", "+1", "1e", "0x1", "- 1", "1 2",
    "1e400", "-1e39", "3.4028236e38", "1e-400", "1e-46", "9223372036854775808", "18446744073709551615",
    "18446744073709551616", "-9223372036854775809", "1.0", "-0", "-0.0", "1E2", "1e+2", "0e0", "0.1e-5", "1" * 19,
    "1" * 41, "0." + "3" * 60, "16777217", "9007199254740993", "-129", "256", "65536", "4294967296", "2147483648",
]  # fmt: skip

TAKEN, LEFT = True, False  # by the extension; to serving/

# Elements of a string tensor, and whether the extension takes them. What is no UTF-8 stands here byte by byte.
STRINGS: list[tuple[str, bool]] = [
    # text
    *((f'"{text}"', TAKEN) for text in (
        "", "a", "é", "€", "😀", "a é € 😀 水", "\x7f", "\x80", "\u07ff", "\u0800", "\ud7ff", "\ue000", "\ufeff", "\ufffd", "\uffff",
        "\U00010000", "\U0010ffff", "e\u0301", "\u2028", "[1,2]", "{}", "null", "'", "//", "x" * 15, "x" * 16, "x" * 22,
        "x" * 23, "x" * 24, "é" * 40, "b64", '{\\"b64\\":\\"AA==\\"}',
    )),
    # escapes
    *((f'"{text}"', TAKEN) for text in (
        r"\"", r"\\", r"\/", r"\b", r"\f", r"\n", r"\r", r"\t", r"\b\f\n\r\t\/\\\"", r"a\nb", r"\\u0041", r"\\\\", r"\\\"",
        r"\u0000", r"\u0001", r"\u001f", r"\u0020", r"\u0022", r"\u005c", r"\u007f", r"\u0080", r"\u00e9", r"\u00E9", r"\u07ff",
        r"\u0800", r"\u20ac", r"\uD7FF", r"\ue000", r"\ufeff", r"\ufffe", r"\uffff", r"\ud83d\ude00", r"\uD83D\uDE00",
        r"\ud800\udc00", r"\udbff\udfff", r"\udbff\udc00", r"\ud800\udfff", r"a\ud83d\ude00b", r"\u00e9\ud83d\ude00é😀",
        r"\u00410", r"\u0000a\u0000",
    )),
    # half a pair
    *((f'"{text}"', LEFT) for text in (
        r"\ud800", r"\udbff", r"\udc00", r"\udfff", r"a\ud83d", r"\ud83da", r"\ude00\ud83d", r"\udc00\udc00", r"\udcff\udfff", r"\udfff\udc00", r"\ud83d\ud83d", r"\ud83d\ud83d\ude00",
        r"\ud83d\n", r"\ud83d\\ude00", r"\ud83d\u0041", r"\ud83d\ue000", r"\ud83d\udbff", r"\ud83d \ude00", r"\ud83d\ude0",
        "\\ud83d\\", r"\ud83d\u",
    )),
    # no escapes
    *((f'"{text}"', LEFT) for text in (
        r"\x41", r"\a", r"\v", r"\0", r"\'", r"\U0041", r"\u", r"\u0", r"\u004", r"\u00g1", r"\u 041", r"\u+041", r"\u-041", r"\u0x41",
        r"\u{41}", r"\é", "\\\n", "\\\0", r"\N", r"\B", r"\u٠٠٤١",
    )),
    # control characters
    *((f'"{text}"', LEFT) for text in ("\0", "\x01", "\b", "\t", "\n", "\v", "\f", "\r", "\x1f", "a\0", "a\nb", "\x1b[0m")),
    # no UTF-8
    *((f'"{text.decode("utf-8", "surrogateescape")}"', LEFT) for text in (
        b"\x80", b"\xbf", b"\xc0", b"\xff", b"\xfe\xff", b"a\xe9b", b"\xc3", b"\xc3(", b"\xe2\x82", b"\xe2\x82(", b"\xe2(\xac", b"\xf0\x9f\x98",
        b"\xf0\x9f\x98(", b"\xf0(\x98\x80", b"\xc0\x80", b"\xc0\xaf", b"\xc1\xbf", b"\xe0\x80\xaf", b"\xe0\x9f\xbf", b"\xf0\x80\x80\xaf",
        b"\xf0\x8f\xbf\xbf", b"\xed\xa0\x80", b"\xed\xbf\xbf", b"\xed\xa0\xbd\xed\xb8\x80", b"\xf4\x90\x80\x80", b"\xf5\x80\x80\x80",
        b"\xf8\x88\x80\x80\x80", b"\xfc\x84\x80\x80\x80\x80", b"\xc3\xa9\xa9", b"\xe2\x82\xac\x80", b"\xef\xbb",
    )),
    # base64
    *((f'{{"b64":"{text}"}}', TAKEN) for text in (
        "", "AA==", "AAA=", "AAAA", "AAAAAA==", "/w==", "+/+/", "w6k=", "YWJj", "YWI=", "YQ==", "8J+YgA==", "/////w==", "gA==",
        "AB==", "AP==", "AAB=", "AA/=", "Zh==", "Zm9=", "7aCA", "wIA=", "A" * 400,
    )),
    *((text, TAKEN) for text in ('{ "b64" : "AA==" }', '{\n"b64"\t:\r"AA=="}', ' {"b64":"AA=="} ')),
    *((f'{{"b64":"{text}"}}', LEFT) for text in (
        "A", "AA", "AAA", "AA=", "A=", "A==", "A===", "=", "==", "===", "====", "=AAA", "AA==AAAA", "AA=A", "AAAA=", "AAAA==", "AAAA====",
        "AA===", "AAAAA", "_w==", "-_-_", "/w", "_w", " AA==", "AA== ", "A A==", "AA =", "AA = =", "AA==\\n", r"AA\n==", r"AA\u003d=", r"\/w==",
        r"\u0041A==", "AA!=", "AA.=", "é", "AAé=", "AA==é", "AA\0=", "AA\n=", "A*==", "A@==", "A[==", "A`==", "A{==", "A:==", "A,==",
        "１AA=", "AA\x7f=",
    )),
    *((text, LEFT) for text in (
        '{"b64":5}', '{"b64":null}', '{"b64":["AA=="]}', '{"b64":{"b64":"AA=="}}', '{"b64":true}', '{"b64":"AA==","b64":"AA=="}',
        '{"b64":"AA==","x":1}', '{"x":1,"b64":"AA=="}', '{"B64":"AA=="}', '{"b64 ":"AA=="}', '{"b64":"AA==",}', '{"b64":"AA=="',
        '{"b64":}', '{"b64"}', '{b64:"AA=="}', '{"b64":AA==}', r'{"b6\u0034":"AA=="}', '{"b64\0":"AA=="}', '{"base64":"AA=="}', "{}",
        '{"":"AA=="}', '{"b64":"AA=="]', '[{"b64":"AA=="}', '{"b64":"AA=="}}', '{"b64" "AA=="}', '{"b64":\'AA==\'}',
    )),
    # no strings
    *((text, LEFT) for text in (
        "", "1", "1.5", "null", "true", "NaN", "[]", '["a"]', "a", "'a'", '"', '"a', 'a"', '"a""b"', '"a"b', '"a" "b"', '"a"1', '"\\"',
        '"""', "“a”", '\ufeff"a"', 'u"a"', 'b"a"', '"a",', ',"a"',
    )),
]  # fmt: skip
RARE = [text for text, _ in STRINGS if "\0" not in text]
PARAMETERS = [
    "null", "{}", '{"top_k":1}', '{"top_k":2}', '{ "top_k" : 3.0 }', '{"top_k":9,"scores":"best"}', '{"scores":"scores"}',
    '{"signature_name":"two","top_k":1}', '{"signature_name":"named"}', '{"signature_name":""}', '{"arrays":"base64"}',
]  # fmt: skip
SCALARS = ["7", "-7", "0", '"a"', '""', '"key of some length"', "true", "null", "1.5", '"\\u0061"', '"é"', "[7]", "-0"]
WORDS = [
    "",
    "a",
    "b",
    "cat",
    "é",
    "€uro",
    "😀",
    "水",
    "0.5",
    "12",
    "x" * 30,
    "plain text, of some length",
    "b64",
    "key",
]


def plain_body(twin_folder: Path, name: str, rows: int) -> bytes:
    """Return a predict body for a signature of a twin, of so many rows of small numbers."""
    random_ = np.random.default_rng(rows)
    tensors = {
        key: (random_.random([rows if size is None else size for size in spec.shape or ()]) * 3)
        .astype(spec.dtype.numpy)
        .tolist()
        for key, spec in twin.read(twin_folder).signatures[name].inputs.items()
    }
    return json.dumps({"signature_name": name, "inputs": tensors}).encode()


class Writer:
    """Writes bodies for the signatures of a model."""

    def __init__(self, folder: Path, seed: object) -> None:
        """Begin with a seed: the same bodies each time."""
        contents = twin.read(folder) if twin.holds(folder) else read(folder)
        self.signatures: Mapping[str, Signature] = contents.signatures
        self.random = random.Random(str(seed))

    def bodies(self, count: int) -> list[bytes]:
        """Return bodies, a third of them changed blindly."""
        written = [self.body().encode("utf-8", "surrogateescape") for _ in range(count - count // 3)]
        return [*written, *(mutate(self.random.choice(written), written, self.random, 4096) for _ in range(count // 3))]

    def body(self) -> str:
        """Return a body, right more often than not."""
        choice, chance = self.random.choice, self.random.random
        name = choice(
            [name for name, candidate in self.signatures.items() if candidate.inputs and not candidate.problem]
        )
        signature = self.signatures[name]
        rows = choice([1, 1, 2, 3, 7])
        named = len(signature.inputs) > 1 or chance() < 0.4
        form = choice(["instances", "inputs"])
        if form == "instances" and named:
            value = self._list([self._object(signature, rows, alone=True) for _ in range(rows)])
        elif named:
            value = self._object(signature, rows, alone=False)
        else:
            value = self._tensor(next(iter(signature.inputs.values())), rows, drop=0)
        members = [f'"{form}"{self._space()}:{value}']
        if name != "serving_default" or chance() < 0.2:
            members.insert(choice([0, 0, 0, 1]), f'"signature_name":{self._space()}"{name}"')
        if chance() < 0.1:
            members.insert(choice([0, 1]), f'"parameters":{self._space()}{choice(PARAMETERS)}')
        if chance() < 0.02:
            members.append(choice([*members, '"parameters":{}', '"other":1', '"inputs":[1]']))
        body = f"{self._space()}{{{self._joined(members)}}}{self._space()}"
        return body if chance() > 0.02 else body + choice(["x", "\0", "}", "{}", "\ufeff", ","])

    def _object(self, signature: Signature, rows: int, *, alone: bool) -> str:
        names = list(signature.inputs)
        self.random.shuffle(names)
        if self.random.random() < 0.02:
            names.append(self.random.choice([*names, "surplus", "key"]))
        if self.random.random() < 0.02:
            names.pop()
        members = [
            f'"{name}"{self._space()}:{self._tensor(signature.inputs.get(name), rows, drop=int(alone))}'
            for name in names
        ]
        if self.random.random() < 0.1:
            keys = self.random.choices(SCALARS, k=rows)
            key = keys[0] if alone else self._list(keys)
            members.insert(self.random.randrange(len(members) + 1), f'"key"{self._space()}:{key}')
        return f"{self._space()}{{{self._joined(members)}}}{self._space()}"

    def _tensor(self, spec: TensorSpec | None, rows: int, *, drop: int) -> str:
        """Write a tensor, without its first dimension where the rows around it give it."""
        if spec is None or spec.shape is None:
            return self.random.choice(["1", "[1]", "[[1, 2]]"])
        free = [rows, *(self.random.choice([1, 2, 3]) for _ in spec.shape)]
        shape = [size if size is not None else free[axis] for axis, size in enumerate(spec.shape)]
        if self.random.random() < 0.02:
            shape.append(1)
        if self.random.random() < 0.02 and shape:
            shape.pop()
        return self._nest(shape[drop:], spec.dtype.kind, spec.dtype.numpy.itemsize if spec.dtype.numpy_name else 8)

    def _nest(self, shape: Sequence[int], kind: str, size: int) -> str:
        if not shape:
            return f"{self._space()}{self._number(kind, size)}{self._space()}"
        count = shape[0] if self.random.random() > 0.005 else max(0, shape[0] + self.random.choice([-1, 1]))
        return self._list([self._nest(shape[1:], kind, size) for _ in range(count)])

    def _number(self, kind: str, size: int) -> str:
        choice, chance = self.random.choice, self.random.random
        if kind == "S":
            return self._string()
        if chance() < 0.01:
            return choice(ODD)
        if kind in "iu" and chance() < 0.98:
            bits = self.random.randrange(1, 8 * size + (kind == "u") if chance() < 0.99 else 66)
            return str(self.random.getrandbits(bits) * (-1 if kind == "i" and chance() < 0.5 else 1))
        if kind == "b":
            return choice(["true", "false"])
        digits = "".join(self.random.choices("0123456789", k=self.random.randrange(1, choice([3, 8, 18, 30]))))
        whole = str(int(digits)) if chance() < 0.6 else "0"
        decimals = f".{digits}" if chance() < 0.6 else ""
        power = f"{choice('eE')}{choice(['', '+', '-'])}{self.random.randrange(45)}" if chance() < 0.3 else ""
        return f"{choice(['', '', '-'])}{whole}{decimals}{power}"

    def _string(self) -> str:
        choice, chance = self.random.choice, self.random.random
        if chance() < 0.06:
            return choice(RARE)
        if chance() < 0.01:
            return choice(ODD)
        text = "".join(choice(WORDS) for _ in range(choice([1, 1, 2, 5])))
        data = text.encode() if chance() < 0.5 else self.random.randbytes(self.random.randrange(choice([2, 6, 80])))
        if chance() < 0.3:
            return f'{{{self._space()}"b64"{self._space()}:{self._space()}"{base64.b64encode(data).decode()}"{self._space()}}}'
        return json.dumps(text + choice(["", "", '"\\\b\f\n\r\t\0\x1f\x7f']), ensure_ascii=chance() < 0.3)

    def _list(self, items: list[str]) -> str:
        return f"{self._space()}[{self._joined(items)}]{self._space()}"

    def _joined(self, items: list[str]) -> str:
        comma = f"{self._space()},{self._space()}"
        return comma.join(items) + ("," if self.random.random() < 0.002 else "")

    def _space(self) -> str:
        return self.random.choice(SPACES)
