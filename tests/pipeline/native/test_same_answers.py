"""Answers are the same with and without the native codec, which answers the plain requests."""

import base64
import itertools
import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from serving.core.http import Request
from serving.core.telemetry import phases
from serving.pipeline import accelerator, handler, layers
from serving.runtime import loading
from serving.servers import wsgi
from tests.conftest import EMBEDDED, Serve
from tests.fuzz import rounds
from tests.models import zoo
from tests.pipeline.native.bodies import STRINGS, Writer
from tests.pipeline.native.conftest import Ask
from tests.pipeline.native.models import DTYPES, SHORT, build
from tests.pipeline.native.number_cases import (
    BEYOND,
    BODIES,
    DECIMALS,
    DOUBLES,
    INTEGERS,
    LONG,
    QUICK,
    SEVERAL,
    SLOW,
    TENSORS,
    TINY,
    UNLIKE,
    WRONG,
)
from tests.pipeline.native.text_cases import INFINITE, LIMITS, NAMED_B64, PLAIN, REQUESTS, TEXTS


def body_of(signature: str, form: str, value: str) -> bytes:
    named = f'"signature_name":"{signature}",' if signature else ""
    return f'{{{named}"{form}":{value}}}'.encode()


def check(compare: Ask, folder: Path, cases: list[tuple[Any, bool]], **settings: str) -> None:
    """Assert that each is answered as without the accelerator, and by the expected one of the two."""
    outcomes = compare(folder, [question for question, _ in cases], **settings)
    assert [case for case, came in zip(cases, outcomes, strict=True) if case[1] is not came[1]] == []


def numbers(dtype: str) -> list[tuple[str, bool]]:
    """Return every number of the tables with the way that it goes for a dtype."""
    kind = np.dtype(dtype).kind

    def fits(text: str) -> bool:
        if kind == "f":
            return True
        value = float(text) if set(text) & set(".eE") else int(text)  # 3.0 is an integer, 3.5 is none
        return value == int(value) and np.iinfo(dtype).min <= int(value) <= np.iinfo(dtype).max

    return [
        *((text, fits(text)) for text in INTEGERS),
        *((text, fits(text)) for text in DECIMALS),
        *((text, dtype == "float64") for text in DOUBLES),
        *((text, kind == "f") for text in TINY),
        *((text, SLOW) for text in [*LONG, *BEYOND, *WRONG]),
    ]


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_number_in_every_dtype(compare: Ask, dtype: str) -> None:
    cases = []
    for text, way in numbers(dtype):
        for form, value in (
            ("instances", f"[{text}]"), ("instances", f"[1,{text} ]"), ("inputs", f"[{text},0]"),
            ("inputs", f'{{"x":[{text}]}}'), ("instances", f'[{{"x":{text}}}]'),
        ):  # fmt: skip
            if text != "1,5":  # two numbers, in a list
                cases.append((body_of(dtype, form, value), way))
    check(compare, build() / "types", cases)


def test_every_number_as_a_scalar(compare: Ask) -> None:
    cases = [(body_of("scalar", "inputs", text), way) for text, way in numbers("float64")]
    check(compare, build() / "shapes", cases)


def test_every_flag(compare: Ask) -> None:
    ways = {"true": QUICK, "false": QUICK, "true,false": QUICK, "1": SLOW, "0": SLOW, "True": SLOW, "tru": SLOW, '"true"': SLOW,
            "null": SLOW, "truefalse": SLOW, "t": SLOW, "": SLOW}  # fmt: skip
    cases = [(body_of("bool", "instances", f"[{text}]"), way) for text, way in ways.items()]
    cases += [(body_of("bool", "inputs", f'{{"x":[{text}]}}'), way) for text, way in ways.items()]
    check(compare, build() / "types", cases)


@pytest.mark.parametrize("name", SHORT)
def test_every_short_float_in_and_out(compare: Ask, name: str) -> None:
    """Each of them, and numbers next to the middles between two of them."""
    dtype = np.dtype(name if name == "float16" else ml_dtypes.bfloat16)
    with np.errstate(invalid="ignore"):  # of signalling NaNs
        every = np.arange(1 << 16, dtype=np.uint16).view(dtype).astype(np.float64)
    finite = np.sort(every[np.isfinite(every)])
    middles = (finite[1:] + finite[:-1]) / 2
    numbers = np.concatenate([finite, middles, np.nextafter(middles, np.inf), np.nextafter(middles, -np.inf)]).tolist()
    parts = [numbers[start : start + 5000] for start in range(0, len(numbers), 5000)]
    cases = [(body_of(name, "instances", json.dumps(part)), QUICK) for part in parts]
    edge = 65520.0 if name == "float16" else float(ml_dtypes.finfo(dtype).max) + 2.0**119  # round to infinity
    below = float(np.nextafter(edge, 0))  # as a float, to which a bfloat16 is rounded first, it is the edge
    for number, way in ((edge, SLOW), (below, name == "float16"), (edge * 2, SLOW), (1e308, SLOW)):
        cases += [(body_of(name, "instances", f"[{sign}{number!r}]"), way) for sign in ("", "-")]
    check(compare, build() / "types", cases)


def test_shapes(compare: Ask) -> None:
    cases = [(body_of(signature, form, tensor), way) for signature, form, tensor, way in TENSORS]
    check(compare, build() / "shapes", cases)


def test_bodies(compare: Ask) -> None:
    cases = [(body.replace("X", "[[1,2.5],[-3,4]]").encode(), way) for body, way in BODIES]
    check(compare, build() / "shapes", cases)


def test_every_string(compare: Ask) -> None:
    cases = []
    for text, way in STRINGS:
        for signature, form, value in (
            ("", "instances", f"[{text}]"), ("raw", "instances", f'["a",{text} ]'), ("both", "inputs", f'[{text},"b"]'),
            ("both", "instances", f"[ {text}]"), ("", "inputs", f'{{"x":[{text}]}}'), ("raw", "instances", f'[{{"x":{text}}}]'),
            ("scalar", "inputs", text), ("scalar", "inputs", f'{{"x":{text}}}'), ("matrix", "inputs", f'[["a",{text}]]'),
        ):  # fmt: skip
            named = f'"signature_name":"{signature}",' if signature else ""
            cases.append((f'{{{named}"{form}":{value}}}'.encode("utf-8", "surrogateescape"), way))
    check(compare, build() / "strings", cases)


@pytest.mark.parametrize("escaped", [True, False])
def test_every_character(serve: Serve, compare: Ask, extension: Path, escaped: bool) -> None:
    every = [chr(code) for code in range(0x110000) if not 0xD800 <= code < 0xE000]
    texts = ["".join(every[start : start + 997]) for start in range(0, len(every), 997)]
    bodies = [
        json.dumps({"instances": texts[start : start + 200]}, ensure_ascii=escaped).encode()
        for start in range(0, len(texts), 200)
    ]
    check(compare, build() / "strings", [(body, QUICK) for body in bodies])
    serve(build() / "strings", ACCELERATOR=str(extension))
    for body in bodies:
        answer: Any = accelerator.of(loading.cache().get()).predict(body)
        assert json.loads(answer[0])["predictions"] == json.loads(body)["instances"]


def test_every_kind_of_broken_utf8_in_and_out(compare: Ask) -> None:
    leads = b"\x7f\x80\xbf\xc0\xc1\xc2\xdf\xe0\xe1\xec\xed\xee\xef\xf0\xf1\xf3\xf4\xf5\xf7\xf8\xff"
    cases = []
    for sequence in itertools.product(
        leads, b"\x00\x41\x7f\x80\x8f\x90\x9f\xa0\xbf\xc0", b"\x80\xbf\x7f\xc0", b"\x80\xbf\x7f"
    ):
        for size in range(2 if sequence[1:] == (0, 0x80, 0x80) else 4, 5):
            data = bytes(sequence[:size]).replace(b"\0", b"")
            try:
                data.decode()
                way = QUICK
            except UnicodeDecodeError:
                way = SLOW
            cases.append((b'{"instances":["%b"]}' % data, way))
            encoded = base64.b64encode(data)
            cases.append((b'{"instances":[{"b64":"%b"},"a",{"b64":"%b"}]}' % (encoded, encoded), QUICK))
    check(compare, build() / "strings", cases)


def test_every_bit_of_base64(compare: Ask) -> None:
    random_ = random.Random("base64")
    cases = []
    for size in [*range(1, 100), 1000, 4096]:
        text = base64.b64encode(random_.randbytes(size))
        cases.append((b'{"signature_name":"raw","instances":[{"b64":"%b"}]}' % text, QUICK))
        position = random_.randrange(len(text.rstrip(b"=")))
        wrong = text[:position] + random_.choice([b"-", b"_", b" ", b".", b"\xc3\xa9", b"\\"]) + text[position + 1 :]
        cases.append((b'{"signature_name":"raw","instances":[{"b64":"%b"}]}' % wrong, SLOW))
        cases.append(
            (b'{"signature_name":"raw","instances":[{"b64":"%b"}]}' % text.replace(b"=", b"", 1), b"=" not in text)
        )
    check(compare, build() / "strings", cases)


def test_strings_in_every_place(compare: Ask) -> None:
    check(compare, build() / "strings", [(body_of(*case), way) for *case, way in TEXTS])
    check(compare, build() / "named_b64", [(body_of(*case), way) for *case, way in NAMED_B64])


def test_a_body_of_strings_that_is_cut_anywhere_is_declined(compare: Ask) -> None:
    body = r' {"signature_name":"mixed","instances":[{"a":"é\ud83d\ude00\n\u00e9","b":[1,2]},{"a":{"b64":"/w=="},"b":[3,4]}]}'
    cases: list[tuple[bytes, bool]] = [(body.encode()[:size], SLOW) for size in range(len(body.encode()))]
    check(compare, build() / "strings", [*cases, (body.encode(), QUICK)])


def test_a_body_that_is_cut_anywhere_is_declined(compare: Ask) -> None:
    body = b' {"signature_name" : "three", "instances": [{"x":[1.5,-2e1, 3]} ,{"x": [4,5,6]}]}'
    cases: list[tuple[bytes, bool]] = [(body[:size], SLOW) for size in range(len(body))]
    check(compare, build() / "shapes", [*cases, (body, QUICK)])


def test_white_space_is_taken_wherever_json_has_it(compare: Ask) -> None:
    tokens = ["", "{", '"signature_name"', ":", '"three"', ",", '"instances"', ":", "[", "{", '"x"', ":", "[", "1", ",",
              "-2.5e1", ",", "3", "]", "}", "]", "}", ""]  # fmt: skip
    cases = []
    for index in range(1, len(tokens)):
        head, tail = "".join(tokens[:index]), "".join(tokens[index:])
        cases += [((head + space + tail).encode(), QUICK) for space in (" ", "\t", "\n", "\r", " \n\t\r" * 9)]
        cases += [((head + space + tail).encode(), SLOW) for space in ("\x0b", "\x0c", "\0", "\x85", "\u2003", "\\n")]
    check(compare, build() / "shapes", cases)


def test_several_inputs_and_outputs(compare: Ask) -> None:
    cases = [(body_of(*case), way) for *case, way in SEVERAL]
    check(compare, build() / "several", cases)


def test_outputs_that_it_does_not_write_and_runs_that_fail(compare: Ask) -> None:
    cases = [(body_of(*case), way) for *case, way in UNLIKE]
    check(compare, build() / "unlike", cases)


@pytest.mark.parametrize("non_finite", ["tokens", "null"])
def test_answers_of_nan_and_infinity(compare: Ask, non_finite: str) -> None:
    cases = [(body_of(*case), QUICK) for case in INFINITE]
    check(compare, build() / "infinite", cases, NON_FINITE=non_finite)


@pytest.mark.parametrize(("settings", "name", "body", "way"), LIMITS)
def test_limits(compare: Ask, settings: dict[str, str], name: str, body: str, way: bool) -> None:
    check(compare, build() / name, [(body.encode(), way)], **settings)


def test_requests(compare: Ask) -> None:
    cases = [((body, query, headers), way) for body, query, headers, way in REQUESTS]
    check(compare, build() / "types", cases)


FLOATS = ["types", "shapes", "several", "infinite", "unlike", "strings"]  # models whose answers may hold NaN


@pytest.mark.parametrize(
    ("name", "non_finite"),
    [*((name, "tokens") for name in [*FLOATS, "named_b64"]), *((name, "null") for name in FLOATS)],
)
def test_random_bodies_are_answered_alike(compare: Ask, name: str, non_finite: str) -> None:
    bodies = Writer(build() / name, f"{name} {non_finite}").bodies(rounds(900))
    outcomes = compare(build() / name, bodies, NON_FINITE=non_finite)
    answered = sum(was_taken for _, was_taken in outcomes)
    assert answered > len(bodies) * (0.05 if name == "unlike" else 0.15)
    assert answered < len(bodies) * 0.9


# Models of the zoo for which it is never asked: a type of input that it does not read, none, or one of unknown rank, an
# output that is fed, parts of one tensor.
NOT_PLAIN = {
    *(f"dtype_{name}" for name in zoo.DTYPES), "no_inputs", "shared_variables", "control_flow",
    "ragged_input", "failures", "tf1_passthrough", "tf1_names", "sparse_input",
}  # fmt: skip
UNDECIDED = {"random_stateful", "py_function"}


def json_of(value: Any) -> Any:
    """Return a nest of elements as a body has it, bytes as base64."""
    if isinstance(value, list):
        return [json_of(element) for element in value]
    return {"b64": base64.b64encode(value).decode()} if isinstance(value, bytes) else value


@pytest.mark.parametrize("name", [name for name in zoo.ZOO if zoo.cases(name) and name not in UNDECIDED])
def test_the_zoo(compare: Ask, name: str) -> None:
    bodies = []
    for case in zoo.cases(name):
        inputs = {key: np.asarray(value) for key, value in case["inputs"].items()}
        if any(array.dtype.kind not in "biufSUO" or array.size > 1 << 16 for array in inputs.values()):
            continue
        columns = {key: json_of(array.tolist()) for key, array in inputs.items()}
        forms: list[dict[str, Any]] = [{"inputs": columns}]
        if len(columns) == 1:
            forms += [{form: next(iter(columns.values()))} for form in ("inputs", "instances")]
        if columns and all(array.ndim for array in inputs.values()):
            rows = [dict(zip(columns, row)) for row in zip(*columns.values())]
            forms.append({"instances": rows})
        bodies += [json.dumps({"signature_name": case["signature"], **form}).encode() for form in forms]
    libraries = {"CUSTOM_OP_LIBRARIES": str(zoo.build() / name / "zero_out.so")} if name == "custom_op" else {}
    outcomes = compare(zoo.build() / name, bodies, **libraries)
    assert any(was_taken for _, was_taken in outcomes) == (name not in NOT_PLAIN)


def test_the_embedded_model(compare: Ask, examples: dict[str, Any]) -> None:
    compare(EMBEDDED, [json.dumps(body).encode() for body in examples.values()])


def test_after_a_switch_of_models_the_new_model_answers(serve: Serve, compare: Ask, extension: Path) -> None:
    """Each load has its own: what was prepared for the model before is not asked."""
    for _ in range(2):
        check(compare, build() / "types", [(PLAIN, QUICK)])
        check(compare, build() / "infinite", [(PLAIN, QUICK)])
    first = accelerator.of(loading.cache().get())
    assert accelerator.of(loading.cache().get()) is first
    serve(build() / "infinite", ACCELERATOR=str(extension))
    assert accelerator.of(loading.cache().get()) is not first
    assert handler.answer(Request("POST", "/", body=PLAIN)).body == b'{"predictions":[1.0,2.0]}'


def test_a_server_answers_with_the_same_bytes_and_headers(
    serve: Serve, extension: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    """As a server asks: the headers, their names at least, are the same too, the first time and later."""
    from tests.fuzz.requests import environ

    natively, taken = layers.natively, Counter[bool]()

    def watched(exchange: Any) -> Any:
        response = natively(exchange)
        taken[response is not None] += 1
        return response

    monkeypatch.setattr(layers, "natively", watched)
    message = b"POST /v1/models/types:predict HTTP/1.1\r\n\r\n" + PLAIN
    answered = []
    for way in ("off", str(extension)):
        serve(build() / "types", MODEL_NAME="types", ACCELERATOR=way, LOG_REQUESTS="all")
        monkeypatch.setattr(phases, "pending", True)
        answers = []
        for _ in range(3):
            started: list[Any] = []
            body = b"".join(wsgi.app(environ(message), lambda *of, to=started: to.append(of)))
            ((status, headers),) = started
            names = sorted(name for name, _ in headers)
            answers.append((status, names, body))
        answered.append(answers)
    assert answered[0] == answered[1]
    assert answered[0][0][2] == b'{"predictions":[1.0,0.5]}'
    assert taken == {False: 3, True: 3}
    capfd.readouterr()
