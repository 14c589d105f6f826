"""No call of the extension leaks memory or references; part of tests.pipeline.native.memory."""

import ctypes
import sys
from collections.abc import Callable
from typing import Any

from tests.pipeline.native.fake import HEAD, KEY, WORD, Fake, X, Y, echo

FINE = (b"s", (X,), (Y,))
BAD: list[tuple[type[Exception], tuple[Any, ...]]] = [
    (ValueError, ((), HEAD, KEY, (), (1, 1, 1, 1, 1), False, None)),
    (ValueError, ((FINE,) * 17, HEAD, KEY, (), (1, 1, 1, 1, 1), False, None)),
    (ValueError, (((b"s", (), (Y,)),), HEAD, KEY, (), (1, 1, 1, 1, 1), False, None)),
    (ValueError, (((b"s", (X,), ()),), HEAD, KEY, (), (1, 1, 1, 1, 1), False, None)),
    (ValueError, (((b"s", (X,) * 17, (Y,)),), HEAD, KEY, (), (1, 1, 1, 1, 1), False, None)),
    (ValueError, (((b"s", (X,), (Y,) * 17),), HEAD, KEY, (), (1, 1, 1, 1, 1), False, None)),
    (ValueError, (((b"s", ((b"x", b"FP32", 8, (-1,), 0, 0),), (Y,)),), HEAD, KEY, (), (1, 1, 1, 1, 1), False, None)),
    (ValueError, (((b"s", ((b"x", b"FP16", 20, (-1,), 0, 0),), (Y,)),), HEAD, KEY, (), (1, 1, 1, 1, 1), False, None)),
    (ValueError, (((b"s", ((b"x", b"FP32", -1, (-1,), 0, 0),), (Y,)),), HEAD, KEY, (), (1, 1, 1, 1, 1), False, None)),
    (ValueError, (((b"s", ((b"x", b"FP32", 1, (-1,) * 33, 0, 0),), (Y,)),), HEAD, KEY, (), (1, 1, 1, 1, 1), False, None)),
    (ValueError, (((b"s", (X,), ((b"y", b'"y":', b"FP16", False, 8, -1, 0, 0),)),), HEAD, KEY, (), (1, 1, 1, 1, 1), False, None)),
    (TypeError, (((b"s", ((b"x", b"FP32", 1, ("1",), 0, 0),), (Y,)),), HEAD, KEY, (), (1, 1, 1, 1, 1), False, None)),
    (TypeError, (((b"s", ((b"x", b"FP32", 1, [1], 0, 0),), (Y,)),), HEAD, KEY, (), (1, 1, 1, 1, 1), False, None)),
    (TypeError, ((("s", (X,), (Y,)),), HEAD, KEY, (), (1, 1, 1, 1, 1), False, None)),
    (TypeError, (((b"s", (("x", b"FP32", 1, (-1,), 0, 0),), (Y,)),), HEAD, KEY, (), (1, 1, 1, 1, 1), False, None)),
    (TypeError, (((b"s", (X,), ((b"y", "y", b"FP32", False, 1, -1, 0, 0),)),), HEAD, KEY, (), (1, 1, 1, 1, 1), False, None)),
    (TypeError, (((b"s", (X,)),), HEAD, KEY, (), (1, 1, 1, 1, 1), False, None)),
    (TypeError, ([FINE], HEAD, KEY, (), (1, 1, 1, 1, 1), False, None)),
    (TypeError, ((FINE,), HEAD, KEY, (), ("1", 1, 1, 1, 1), False, None)),
    (TypeError, ((FINE,), HEAD, KEY, (), (1, 1, 1, 1, 1), False)),
    (OverflowError, ((FINE,), HEAD, KEY, (), (1 << 70, 1, 1, 1, 1), False, None)),
    (OverflowError, (((b"s", ((b"x", b"FP32", 1, (1 << 70,), 0, 0),), (Y,)),), HEAD, KEY, (), (1, 1, 1, 1, 1), False, None)),
    (TypeError, ((FINE,), HEAD, KEY, (), (1, 1, 1, "1", 1), False, None)),
    (TypeError, ((FINE,), HEAD, KEY, (), (1, 1, 1, 1, None), False, None)),
    (OverflowError, ((FINE,), HEAD, KEY, (), (1, 1, 1, 1 << 70, 1), False, None)),
    (OverflowError, ((FINE,), HEAD, KEY, (), (1, 1, 1, 1, 1 << 70), False, None)),
    (TypeError, (((b"s", (X,), ((b"y", b'"y":', b"FP32", 1, -1, 0, 0),)),), HEAD, KEY, (), (1, 1, 1, 1, 1), False, None)),
    *((ValueError, ((case,), HEAD, KEY, (), (1, 1, 1, 1, 1), False, None)) for case in (
        (*FINE[:3], (2, 1)), (*FINE[:3], (0,)), (*FINE[:3], tuple(range(1, 66))),
        (b"scalar", ((b"x", b"FP32", 1, (), 0, 0),), (Y,), (1,)),
    )),
    (TypeError, ((FINE,), HEAD, KEY, ("label",), (1, 1, 1, 1, 1), False, None)),
    (TypeError, ((FINE,), HEAD, KEY, [], (1, 1, 1, 1, 1), False, None)),
    (TypeError, ((FINE,), HEAD, KEY[:1], (), (1, 1, 1, 1, 1), False, None)),
    (TypeError, ((FINE,), HEAD, ("key", KEY[1]), (), (1, 1, 1, 1, 1), False, None)),
    (TypeError, ((FINE,), "{", KEY, (), (1, 1, 1, 1, 1), False, None)),
]  # fmt: skip


def leaks(fake: Fake) -> None:
    """All memory is freed: the bytes that AddressSanitizer counts as allocated do not grow."""
    allocated = ctypes.CDLL(None).__sanitizer_get_current_allocated_bytes
    allocated.restype = ctypes.c_size_t
    small = ctypes.CDLL(None)
    failing = (b"failing", (X,), (Y, (b"z", b'"z":', b"FP32", False, 1, -1, 7, 0)))
    wrong = (b"wrong", (X,), (Y, (b"z", b'"z":', b"FP32", False, 1, -1, 6, 0)))
    words = (b"words", (WORD,), (echo(), echo(11), echo(as_bytes=True)))
    fails = (b"fails", (WORD,), (echo(), echo(7)))
    odd = (b"odd", (WORD,), (echo(), echo(6)))
    predictor = fake.predictor(FINE, failing, wrong, words, fails, odd)
    texts = b"[%b]" % b",".join([b'"a longer text than fits inside, \\u00e9"', b'{"b64":"/w=="}'] * 50)
    good = b"[%b]" % b",".join([b"0.5"] * 2000)

    def refuses(error: type[Exception], arguments: tuple[Any, ...], handle: int | None = None) -> None:
        try:
            fake.module.Predictor(("tensorflow", fake.library._handle if handle is None else handle, (1,)), *arguments)
        except error:
            return
        raise AssertionError(f"taken: {arguments}")

    def makes() -> None:
        made = fake.predictor(FINE, FINE)
        assert made.predict(b'{"inputs":[1]}')

    def asks(body: Any) -> None:
        try:
            predictor.predict(body)
        except TypeError:
            assert not isinstance(body, bytes)

    deeds: list[Callable[[], None]] = [
        makes,
        lambda: asks(b'{"inputs":%b}' % good),
        lambda: asks(b'{"signature_name":"failing","inputs":%b}' % good),
        lambda: asks(b'{"signature_name":"wrong","inputs":%b}' % good),
        lambda: asks(b'{"inputs":%b' % good),
        *(
            lambda name=name: asks(b'{"signature_name":"%b","inputs":%b}' % (name, texts))
            for name in (b"words", b"fails", b"odd")
        ),
        lambda: asks(b'{"signature_name":"words","inputs":%b' % texts),
        lambda: asks(b'{"signature_name":"words","inputs":%b}' % texts.replace(b"w==", b"w=")),
        lambda: asks("{}"),
        lambda: asks(bytearray(b"{}")),
        lambda: asks(None),
        lambda: refuses(ValueError, ((FINE,), HEAD, KEY, (), (1, 1, 1, 1, 1), False, None), small._handle),
        *(lambda case=case: refuses(*case) for case in BAD),
    ]
    references = sys.getrefcount(FINE), sys.getrefcount(fake), sys.getrefcount(fake.module.Predictor)
    for number, deed in enumerate(deeds):
        for _ in range(50):
            deed()
        before = allocated()
        for _ in range(500):
            deed()
        assert allocated() - before < 8000, (number, allocated() - before)
    assert (sys.getrefcount(FINE), sys.getrefcount(fake), sys.getrefcount(fake.module.Predictor)) == references
    assert fake.live() == (0, 0, 0)
