"""The limits that protocols hold, without a server, and the memory of answers."""

import tracemalloc

import numpy as np
import pytest

from serving.core import settings
from serving.core.http import TooLarge
from serving.protocols.sizes import DEFAULTS, DefaultLimits, check_arrays
from tests.conftest import Serve
from tests.models.zoo import build


def test_the_limits_of_a_bare_context_are_the_defaults_of_the_settings() -> None:
    defaults = settings.read({})
    assert {name: getattr(defaults, name) for name in DefaultLimits._fields} == DEFAULTS._asdict()  # type: ignore[attr-defined]


def test_the_size_of_inputs_counts_strings_and_their_array() -> None:
    strings = np.array([b"abc", b""], object)
    assert check_arrays({"x": np.zeros((2, 3), np.float32), "y": strings}, DEFAULTS) == 24 + (2 * 8 + 3 + 2 * 64)


TOO_LARGE = [
    # limit                    shape   words
    ({"max_rows": 2},          (3,),   r"x: expected at most 2 rows \(MAX_ROWS\), got 3"),
    ({"max_elements": 5},      (2, 3), r"expected at most 5 elements \(MAX_ELEMENTS\), got 6"),
]  # fmt: skip


@pytest.mark.parametrize(("limit", "shape", "words"), TOO_LARGE)
def test_inputs_above_a_limit_are_refused(limit: dict[str, int], shape: tuple[int, ...], words: str) -> None:
    with pytest.raises(TooLarge, match=words):
        check_arrays({"x": np.zeros(shape)}, DefaultLimits(**limit))


def test_a_string_above_the_limit_is_refused() -> None:
    with pytest.raises(TooLarge, match=r"x: expected strings of at most 2 bytes \(MAX_STRING_BYTES\), got one of 3"):
        check_arrays({"x": np.array([b"a", b"abc"], object)}, DefaultLimits(max_string_bytes=2))


LINES = [
    # content type              body of many short lines
    ("application/jsonl",       b"1\n" * 20_000),
    ("text/csv; header=absent", b"1\n" * 20_000),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "body"), LINES)
def test_answers_of_many_short_lines_take_memory_as_they_are_long(serve: Serve, kind: str, body: bytes) -> None:
    ask = serve(build() / "versions" / "1")
    assert ask("POST", "/", b"1\n", **{"content-type": kind}).status == 200
    tracemalloc.start()
    try:
        assert ask("POST", "/", body, **{"content-type": kind}).status == 200
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 200 * len(body)
