"""Predict bodies made by chance: right ones, and such as are wrong in one way or another."""

import random
from collections.abc import Mapping, Sequence
from pathlib import Path

from serving.signature import Signature, TensorSpec, read
from tests.fuzz.mutate import mutate

SPACES = ["", "", "", "", " ", "\n", "\t", "\r\n", "  \t "]
ODD = [
    "null", "true", '"1"', "NaN", "-Infinity", "[]", "{}", "[1]", "", "01", "1.", ".5", "+1", "1e", "0x1", "- 1", "1 2",
    "1e400", "-1e39", "3.4028236e38", "1e-400", "1e-46", "9223372036854775808", "18446744073709551615",
    "18446744073709551616", "-9223372036854775809", "1.0", "-0", "-0.0", "1E2", "1e+2", "0e0", "0.1e-5", "1" * 19,
    "1" * 41, "0." + "3" * 60, "16777217", "9007199254740993", "-129", "256", "65536", "4294967296", "2147483648",
]  # fmt: skip


class Writer:
    """Writes bodies for the signatures of a model."""

    def __init__(self, folder: Path, seed: object) -> None:
        """Begin with a seed: the same bodies each time."""
        self.signatures: Mapping[str, Signature] = read(folder).signatures
        self.random = random.Random(str(seed))

    def bodies(self, count: int) -> list[bytes]:
        """Return bodies, a third of them changed blindly."""
        found = [self.body().encode() for _ in range(count - count // 3)]
        return [*found, *(mutate(self.random.choice(found), found, self.random, 4096) for _ in range(count // 3))]

    def body(self) -> str:
        """Return a body, right more often than not."""
        choice, chance = self.random.choice, self.random.random
        name = choice([name for name, one in self.signatures.items() if one.inputs])
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
            members.insert(choice([0, 0, 0, 0, 1]), f'"signature_name":{self._space()}"{name}"')
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
        return f"{self._space()}{{{self._joined(members)}}}{self._space()}"

    def _tensor(self, spec: TensorSpec | None, rows: int, *, drop: int) -> str:
        """Write a tensor, without its first dimension where that is told by the rows around it."""
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

    def _list(self, items: list[str]) -> str:
        return f"{self._space()}[{self._joined(items)}]{self._space()}"

    def _joined(self, items: list[str]) -> str:
        comma = f"{self._space()},{self._space()}"
        return comma.join(items) + ("," if self.random.random() < 0.002 else "")

    def _space(self) -> str:
        return self.random.choice(SPACES)
