"""Reading and writing of numbers, a million and more: against Python's float and NumPy, and against orjson."""

import json
import random
from collections.abc import Callable, Iterator
from decimal import Decimal, localcontext
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest

from serving.pipeline import accelerator
from serving.runtime import loading
from tests.conftest import Serve
from tests.pipeline.native.models import DTYPES, build

Array = np.ndarray[Any, Any]
Ask = Callable[[str, Any], bytes]

PATTERNS = 600_000  # of each float type, by chance
TEXTS = 150_000  # of each kind
AT_ONCE = 100_000


@pytest.fixture
def quick(serve: Serve, extension: Path) -> Callable[[str], Ask]:
    """Return the extension's answers for a model: `ask(signature, numbers)` gives the outputs as they are written."""

    def start(name: str) -> Ask:
        serve(build() / name, ACCELERATOR=str(extension))
        answer = accelerator.of(loading.cache().get()).predict

        def ask(signature: str, numbers: Any) -> bytes:
            value = numbers if isinstance(numbers, bytes) else orjson.dumps(numbers, option=orjson.OPT_SERIALIZE_NUMPY)
            answered = answer(b'{"signature_name":"%b","inputs":%b}' % (signature.encode(), value))
            assert not isinstance(answered, str), f"declined: {value!r:.200}"
            body = bytes(answered.body)
            assert body.startswith(b'{"outputs":')
            return body[len(b'{"outputs":') : -1]

        return ask

    return start


def around(values: Array) -> Array:
    """Return the numbers and their neighbours, of both signs."""
    with np.errstate(over="ignore", under="ignore"):
        down, up = np.nextafter(values, -np.inf), np.nextafter(values, np.inf)
        numbers = np.concatenate([values, down, up, np.nextafter(down, -np.inf), np.nextafter(up, np.inf)])
    numbers = np.concatenate([numbers, -numbers])
    finite: Array = numbers[np.isfinite(numbers)]
    return finite


def special(kind: Any) -> Array:
    """Return numbers at which a writer changes its way: powers of two and of ten, short decimals, whole numbers."""
    info = np.finfo(kind)
    with np.errstate(over="ignore", under="ignore"):
        powers = [
            np.ldexp(kind(1), exponent) for exponent in range(int(info.minexp) - int(info.nmant), int(info.maxexp))
        ]
        tens = [kind(f"{digits}e{power}") for power in range(-330, 310) for digits in (1, 2, 5, 9.5, 1.25, 9.999999)]
    whole = [
        kind(number) for number in [*range(300), *(2**bits + step for bits in range(8, 64) for step in (-1, 0, 1))]
    ]
    listed = [0, info.max, info.tiny, info.smallest_subnormal, info.eps, 1 / 3, 0.1, 9007199254740993, 16777217]
    return around(np.array([*powers, *tens, *whole, *listed], kind))


def patterns(kind: Any) -> Iterator[Array]:
    """Yield finite numbers, in parts: the special ones, any bits, and such as are met more often."""
    generator = np.random.default_rng(7)
    bits = np.uint32 if kind is np.float32 else np.uint64
    any_bits = generator.integers(0, np.iinfo(bits).max, PATTERNS, bits, endpoint=True).view(kind)
    scores = generator.random(PATTERNS // 6).astype(kind)
    rounded = np.round(generator.normal(0, 1000, PATTERNS // 6), 2).astype(kind)
    wide = (generator.choice([-1, 1], PATTERNS // 6) * 10.0 ** generator.uniform(-8, 18, PATTERNS // 6)).astype(kind)
    numbers = np.concatenate([special(kind), any_bits, scores, rounded, wide])
    numbers = numbers[np.isfinite(numbers)]
    assert len(numbers) > PATTERNS
    for start in range(0, len(numbers), AT_ONCE):
        yield numbers[start : start + AT_ONCE]


def first_difference(wanted: bytes, came: bytes, values: Array) -> str:
    """Name the first number that is written otherwise; empty where none is."""
    if wanted == came:
        return ""
    pairs = zip(values.ravel(), wanted.strip(b"[]").split(b","), came.strip(b"[]").split(b","))
    return next((f"{value!r}: expected {want!r}, got {got!r}" for value, want, got in pairs if want != got), "a length")


WRITTEN = [(np.float32, "serving_default"), (np.float64, "from64")]


@pytest.mark.parametrize(("kind", "signature"), WRITTEN)
def test_floats_are_written_as_orjson_writes_them(quick: Any, kind: Any, signature: str) -> None:
    ask = quick("bits")
    for values in patterns(kind):
        bits = values.view(np.uint32) if kind is np.float32 else values.view(np.uint32).reshape(-1, 2)
        wanted = orjson.dumps(values, option=orjson.OPT_SERIALIZE_NUMPY)
        assert first_difference(wanted, ask(signature, bits), values) == ""


@pytest.mark.parametrize(("kind", "signature"), WRITTEN)
def test_floats_beside_one_that_is_not_finite_are_written_as_python_writes_them(
    quick: Any, kind: Any, signature: str
) -> None:
    ask = quick("bits")
    for values in patterns(kind):
        values = np.concatenate([values[:: 4 if kind is np.float64 else 8], np.array([np.inf, -np.inf, np.nan], kind)])
        bits = values.view(np.uint32) if kind is np.float32 else values.view(np.uint32).reshape(-1, 2)
        # str() of a float32 has the shortest digits that only it is read from; Python lays them out.
        numbers = values.tolist() if kind is np.float64 else list(map(float, map(str, values)))
        wanted = json.dumps(numbers, separators=(",", ":")).encode()
        assert first_difference(wanted, ask(signature, bits), values) == ""


def digits(random_: random.Random, most: int) -> str:
    return "".join(random_.choices("0123456789", k=random_.randrange(1, most)))


def by_chance(random_: random.Random) -> Iterator[str]:
    """Yield decimals of any number of digits, many of them at the edges of what one operation on doubles can read."""
    for _ in range(TEXTS):
        most = random_.choice([3, 8, 17, 21, 40])
        whole = str(int(digits(random_, most)))
        if random_.random() < 0.2:
            whole = str((1 << 53) + random_.randrange(-3, 4))
        decimals = "." + digits(random_, most) if random_.random() < 0.6 else ""
        power = f"e{random_.randrange(-26, 27) if random_.random() < 0.8 else random_.randrange(-280, 250)}"
        yield random_.choice(["", "-"]) + whole + decimals + (power if random_.random() < 0.7 or not decimals else "")


def written(random_: random.Random) -> Iterator[str]:
    """Yield what programs write for any double or float32: short, or with more digits than it takes."""
    generator = np.random.default_rng(11)
    doubles = generator.integers(0, 2**64, TEXTS // 2, np.uint64, endpoint=False).view(np.float64)
    singles = generator.integers(0, 2**32, TEXTS // 2, np.uint32).view(np.float32)
    for value in [*doubles[np.isfinite(doubles)].tolist(), *singles[np.isfinite(singles)].tolist()]:
        yield random_.choice(["%r", "%.16e", "%.8e", "%.20e"]) % value


def halfway(random_: random.Random) -> Iterator[str]:
    """Yield what lies between two neighbours exactly, and beside that: where it counts how a number is rounded."""
    generator = np.random.default_rng(13)
    for kind, count, name in ((np.float32, 8000, np.uint32), (np.float64, 3000, np.uint64)):
        bits = generator.integers(0, np.iinfo(name).max, count, name)
        for low in bits.view(kind)[np.isfinite(bits.view(kind))]:
            with localcontext() as context:
                context.prec = 1200
                middle = (Decimal(float(low)) + Decimal(float(np.nextafter(low, kind(0))))) / 2
                exactly = f"{middle:e}"
                below = f"{middle * (1 - Decimal('1e-900')):.1000e}"
            if "." in exactly:
                yield from (exactly, exactly.replace("e", "00001e"), below)


@pytest.mark.parametrize("texts", [by_chance, written, halfway])
def test_decimals_are_read_as_python_reads_them(quick: Any, texts: Any) -> None:
    ask = quick("bits")
    read = [(text, float(text)) for text in texts(random.Random(5))]
    # A number that is too small for a double is left to the other way.
    read = [(text, value) for text, value in read if np.isfinite(value) and (value or not text.strip("-0.eE+"))]
    assert len(read) > 20_000
    wide = np.array([value for _, value in read])
    body = f"[{','.join(text for text, _ in read)}]".encode()
    came = np.array(orjson.loads(ask("to64", body)), np.uint32).view(np.float64).ravel()
    assert [read[index] for index in np.flatnonzero(came.view(np.uint64) != wide.view(np.uint64))[:3]] == []

    with np.errstate(over="ignore"):
        narrow = wide.astype(np.float32)
    fits = np.isfinite(narrow)
    body = f"[{','.join(text for (text, _), fine in zip(read, fits) if fine)}]".encode()
    singles = np.array(orjson.loads(ask("to32", body)), np.uint32)
    assert np.array_equal(singles, narrow[fits].view(np.uint32))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_whole_numbers_become_floats_as_through_a_double(quick: Any, dtype: str) -> None:
    ask, random_ = quick("bits"), random.Random(3)
    numbers = [random_.getrandbits(random_.randrange(1, 60)) * random_.choice([1, -1]) for _ in range(100_000)]
    numbers += [sign * ((1 << bits) + step) for bits in range(24, 59) for step in range(-5, 6) for sign in (1, -1)]
    numbers = [number for number in numbers if abs(number) < 10**18]
    came = np.array(orjson.loads(ask(f"to{dtype[-2:]}", numbers)), np.uint32).view(dtype).ravel()
    assert np.array_equal(came, np.array(numbers, np.float64).astype(dtype))


@pytest.mark.parametrize("dtype", [dtype for dtype in DTYPES if dtype[0] != "f"])
def test_integers_are_read_and_written_exactly(quick: Any, dtype: str) -> None:
    ask, random_, info = quick("types"), random.Random(dtype), np.iinfo(dtype)
    numbers = [random_.randint(info.min, info.max) >> random_.randrange(info.bits) for _ in range(20_000)]
    numbers += [info.min, info.max, 0, info.max // 2]
    numbers = [number for number in numbers if abs(number) < 10**18]
    assert ask(dtype, numbers) == json.dumps(numbers, separators=(",", ":")).encode()
