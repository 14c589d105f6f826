"""Requests that share a run of the native codec get the answers that they get alone."""

import ctypes
import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from serving.pipeline import accelerator
from serving.pipeline.accelerator import Answer, Quick, Result
from serving.runtime import loading
from tests.conftest import EMBEDDED, Serve
from tests.pipeline.native.bodies import Writer
from tests.pipeline.native.models import build


def sharing(serve: Serve, extension: Path, folder: Path, sizes: dict[str, tuple[int, ...]] | None = None) -> Quick:
    """Return what answers the plain requests to a model of which the signatures with these sizes share runs."""
    serve(folder, ACCELERATOR=str(extension), BATCH_ROWS="8")
    model = loading.cache().get()
    assert model.batching
    if sizes is not None:
        model.batching.smallest = {name: rows[0] for name, rows in sizes.items()}
        model.batching.sizes = sizes
    quick = accelerator.of(model)
    assert quick.shares_runs
    return quick


def seen(result: Result) -> Any:
    """Return what of a result does not depend on the time."""
    return result if isinstance(result, str) else result[:4]


def alone(quick: Quick, body: bytes, size: int) -> Any:
    return seen(quick.predict(body) if size < 0 else quick.infer(body, size))


def runs(results: Sequence[Result]) -> int:
    """Count the runs: those that shared one have the time of its end in common."""
    return len({result.ran for result in results if isinstance(result, tuple) and len(result) == len(Answer._fields)})


@pytest.mark.parametrize("name", ["types", "shapes", "several", "strings", "unlike"])
def test_requests_that_come_at_the_same_time_are_answered_as_they_are_alone(
    serve: Serve, extension: Path, name: str
) -> None:
    quick = sharing(serve, extension, build() / name)
    bodies = [(body, -1) for body in Writer(build() / name, "shared").bodies(600)]
    if name == "types":
        for number in range(60):
            infer = {
                "inputs": [{"name": "x", "shape": [2], "datatype": "FP32", "data": [number, 0.5]}],
                "id": str(number),
            }
            text = json.dumps(infer).encode()
            bodies += [(text, len(text)), (b'{"instances":[%d]}' % number, -1)]
    random_, answered, made = random.Random(name), 0, 0
    random_.shuffle(bodies)
    while bodies:
        group: Any = [bodies.pop() for _ in range(min(len(bodies), random_.choice([1, 2, 5, 40])))]
        results = quick.together(group)
        assert [seen(result) for result in results] == [alone(quick, *request) for request in group]
        answered += sum(not isinstance(result, str) for result in results)
        made += runs(results)
    assert 0 < made < answered


def test_requests_with_options_in_their_addresses_share_runs(serve: Serve, extension: Path) -> None:
    quick = sharing(serve, extension, build() / "ranked", {"serving_default": (1, 2, 4, 8), "named": (1, 2, 4, 8)})
    options = [(None, 0, None), (None, 2, None), (None, 1, b"scores"), (b"named", 1, None), (b"missing", 0, None)]
    rows = [b"[1,2,3]", b"[3,2,1],[0,-0.0,5]", b"[1,2]"]
    group = [(b'{"instances":[%b]}' % row, -1, each) for row in rows for each in options]
    results = quick.together(group)
    expected = [seen(quick.predict(body, 0, asked)) for body, _, asked in group]
    assert [seen(result) for result in results] == expected
    answered = [result for result in results if not isinstance(result, str)]
    assert len({result[0] for result in answered}) == len(answered) >= 6
    assert runs(results) == 2  # of two signatures


def test_a_run_has_no_more_rows_than_the_largest_size_and_rows_of_other_shapes_have_their_own(
    serve: Serve, extension: Path
) -> None:
    quick = sharing(serve, extension, build() / "types", {"serving_default": (1, 2, 4), "int8": (2, 4)})
    cases = [
        # bodies                                                                       runs
        ([b'{"instances":[1]}'] * 4,                                                   1),
        ([b'{"instances":[1]}'] * 5,                                                   2),
        ([b'{"instances":[1,2]}', b'{"instances":[4,5]}', b'{"instances":[7]}'],       2),
        ([b'{"instances":[1,2,3]}', b'{"instances":[7]}', b'{"instances":[8]}'],       2),  # three rows run by themselves
        ([b'{"instances":[1,2,3,4,5]}', b'{"instances":[1]}', b'{"inputs":[2]}'],      2),
        ([b'{"signature_name":"int8","instances":[1]}', b'{"instances":[1]}'] * 2,     2),
        ([b'{"signature_name":"int16","instances":[1]}'] * 2,                          2),  # without sizes
    ]  # fmt: skip
    for bodies, expected in cases:
        group: Any = [(body, -1) for body in bodies]
        results = quick.together(group)
        assert [seen(result) for result in results] == [alone(quick, *request) for request in group]
        assert runs(results) == expected, bodies


def test_a_request_runs_with_its_own_rows_or_as_the_smallest_run(serve: Serve, extension: Path) -> None:
    quick = sharing(serve, extension, build() / "types", {"serving_default": (2, 4), "int8": (4,), "int16": (1, 2)})
    note = ctypes.create_string_buffer(512)
    cases = [
        # signature          rows    rows of the run
        ("serving_default",  1,      2),
        ("serving_default",  3,      3),
        ("serving_default",  5,      5),
        ("int8",             3,      4),
        ("int16",            1,      1),
        ("float64",          1,      1),  # without sizes
    ]  # fmt: skip
    for name, rows, expected in cases:
        body = json.dumps({"signature_name": name, "instances": list(range(rows))}).encode()
        answer: Any = quick.predict(body, ctypes.addressof(note))
        assert (answer.rows, len(json.loads(answer.body)["predictions"])) == (rows, rows)
        assert note.raw[2 : 2 + note.raw[0]].decode().endswith(f"[{expected}]"), (name, rows)


def test_a_bad_row_fails_alone(serve: Serve, extension: Path) -> None:
    quick = sharing(serve, extension, build() / "unlike", {"checked": (1, 2, 4, 8)})
    bodies = [b'{"signature_name":"checked","instances":[%d]}' % number for number in (4, 0, 2, 1)]
    good, bad, *others = quick.together([(body, -1) for body in bodies])
    assert [seen(answer)[0] for answer in (good, *others)] == [seen(quick.predict(bodies[n]))[0] for n in (0, 2, 3)]
    assert type(bad).__name__ == "Refusal"
    ask = serve(build() / "unlike", ACCELERATOR="off", BATCH_ROWS="8")
    assert ask("POST", "/", bodies[1]).status == 400


def test_pictures_share_a_run(serve: Serve, extension: Path) -> None:
    examples = json.loads((EMBEDDED / "assets.extra" / "examples.json").read_bytes())["serving_default"]["instances"]
    quick = sharing(serve, extension, EMBEDDED)
    group: Any = [(json.dumps({"instances": [example]}).encode(), -1) for example in examples]
    results = quick.together(group)
    assert [seen(result) for result in results] == [alone(quick, *request) for request in group]
    assert runs(results) == 1
