"""Every reader's work grows with what it reads, not faster: CPU time at n and at 8 n, along each axis a client chooses.

A reader and an axis are one line of a table: how a body of size n is made, and what reads it. The sizes are found by
doubling until a reading takes milliseconds, so that a line needs no tuning; a reader that refuses at a limit is measured
at the largest size. A quadratic reader takes 64 times as long for 8 n, and the bound is 16.
"""

import base64
import ctypes
import gc
import gzip
import json
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from serving import cloud_events, images, manifest, observe, prediction_log
from serving.dtypes import BY_CODE
from serving.errors import InputError, LoadError, did_you_mean
from serving.http import HttpError, _wanted_encoding, unpack
from serving.protocols import classify, open_inference, raw, regress, tensorflow_serving
from serving.protocols.call import Context
from serving.protocols.options import from_query
from serving.signature import Signature, TensorSpec, read
from serving.wire import varint
from tests.conftest import Serve

MOST = 16  # times as long for 8 n
ENOUGH = 0.002  # seconds: below, a clock's grain and a cache decide
LARGEST = 1 << 19  # bytes at n
TRIES = 5

Make = Callable[[int], Any]
Reader = Callable[[Any], Any]


def seconds(read: Reader, given: Any, times: int = 3) -> float:
    """Return the CPU time of one reading, the least of a few."""
    least = float("inf")
    for _ in range(times):
        begin = time.thread_time()
        with suppress(HttpError, LoadError, InputError, ValueError):
            read(given)
        least = min(least, time.thread_time() - begin)
    return least


@pytest.fixture(scope="module", autouse=True)
def kept_memory() -> Iterator[None]:
    """Have malloc keep what is freed: else each large body costs the kernel's work for fresh pages, a small one none."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", lambda *_: 0)
    trim, threshold = -1, -3  # M_TRIM_THRESHOLD, M_MMAP_THRESHOLD in malloc.h
    mallopt(trim, 1 << 30)
    mallopt(threshold, 1 << 25)
    yield
    mallopt(trim, 1 << 17)  # as glibc begins
    mallopt(threshold, 1 << 17)


def size(given: Any) -> int:
    return len(given) if isinstance(given, (bytes, str)) else sum(map(size, given))


def grows(make: Make, read: Reader) -> float:
    """Return how many times as long 8 n takes as n."""
    n = 64
    seconds(read, make(n), 1)  # what is imported only when it is needed
    while size(make(n)) < LARGEST and seconds(read, make(n), 1) < ENOUGH:
        n *= 2
    small, large = make(n), make(8 * n)
    ratio = float("inf")
    gc.collect()
    gc.disable()  # a full collection goes over all that the tests hold
    try:
        for _ in range(TRIES):
            ratio = min(ratio, seconds(read, large, 1) / max(seconds(read, small), ENOUGH / 4))
            if ratio <= MOST:
                break
    finally:
        gc.enable()
    return ratio


# What is served: a model of one input of any shape, one of rows, one of named inputs, one for each kind of text


def _signature(name: str, **inputs: tuple[int, tuple[int | None, ...] | None]) -> Signature:
    specs = {key: TensorSpec(key, BY_CODE[code], shape, f"{key}:0") for key, (code, shape) in inputs.items()}
    return Signature(name, specs, {"y": TensorSpec("y", BY_CODE[1], (None,), "y:0")}, "")


FLOAT, LONG, STRING = 1, 9, 7  # TensorFlow's numbers of float32, int64 and string
VECTOR = _signature("serving_default", x=(FLOAT, (None, None)))
ANY = _signature("serving_default", x=(FLOAT, None))
WHOLE = _signature("serving_default", x=(LONG, (None,)))
TEXT = _signature("serving_default", x=(STRING, (None,)))
NAMED = _signature("serving_default", x=(FLOAT, (None,)), feature_of_the_house=(STRING, (None,)))
MANY = _signature("serving_default", **{f"column_{index}": (FLOAT, (None,)) for index in range(50)})
EXAMPLES = Signature("serving_default", {"inputs": TensorSpec("inputs", BY_CODE[STRING], (None,), "i:0")},
                     {"scores": TensorSpec("scores", BY_CODE[FLOAT], (None, None), "s:0")}, "")  # fmt: skip
REGRESSED = Signature(
    "serving_default", EXAMPLES.inputs, {"outputs": TensorSpec("outputs", BY_CODE[FLOAT], (None,), "")}, ""
)
ROW_ERRORS = {"on_error": "row"}


def predict(signature: Signature, **query: str) -> Reader:
    return lambda body: tensorflow_serving.decode(body, {signature.name: signature}, Context(query=query))


def infer(signature: Signature) -> Reader:
    def read(body: Any) -> Any:
        head, tail = body if isinstance(body, tuple) else (body, None)
        headers = {} if tail is None else {open_inference.HEADER: str(len(head))}
        return open_inference.decode(head + (tail or b""), {signature.name: signature}, Context(headers=_Any(headers)))

    return read


def posted(content_type: str, signature: Signature, **query: str) -> Reader:
    context = Context(headers={"content-type": content_type}, query=query)
    return lambda body: raw.takes(content_type, body) and raw.decode(body, {signature.name: signature}, context)


def example(protocol: Any, signature: Signature) -> Reader:
    return lambda body: protocol.decode(body, {signature.name: signature})


def event(**headers: str) -> Reader:
    fields = _Any({name.replace("_", "-"): value for name, value in headers.items()})
    return lambda body: cloud_events.parse(fields, body)


class _Any(dict[str, str]):
    """Header fields by name, in any case."""

    def get(self, name: str, default: Any = None, /) -> Any:
        return super().get(name.lower(), super().get(name, default))


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


STRUCTURED = '{"specversion":"1.0","id":"1","source":"/s","type":"t"'
FORM, CSV, LINES = "multipart/form-data; boundary=b", "text/csv", "application/x-ndjson"

# fmt: off
READERS: list[tuple[str, Make, Reader]] = [
    ("predict: keys of an instance",       j('{"instances":[{KEYS}]}'),                       predict(NAMED)),
    ("predict: keys of an instance, one input", j('{"instances":[{KEYS}]}'),                  predict(ANY)),
    ("predict: keys of an instance, beside the inputs", j('{"instances":[{"x":1,"feature_of_the_house":"a",KEYS}]}'), predict(NAMED)),
    ("predict: keys at the top",           j('{KEYS}'),                                       predict(NAMED)),
    ("predict: keys beside the instances", j('{"instances":[[1]],KEYS}'),                     predict(VECTOR)),
    ("predict: keys of the inputs",        j('{"inputs":{KEYS}}'),                            predict(NAMED)),
    ("predict: keys of parameters",        j('{"instances":[[1]],"parameters":{KEYS}}'),      predict(VECTOR)),
    ("predict: keys of a key",             j('{"instances":[{"key":{KEYS},"x":[1]}]}'),       predict(VECTOR)),
    ("predict: keys of base64",            j('{"instances":[{"b64":{KEYS}}]}'),               predict(TEXT)),
    ("predict: a doubled key at the top",  j('{TWICE}'),                                      predict(NAMED)),
    ("predict: a doubled key of an instance", j('{"instances":[{TWICE}]}'),                   predict(NAMED)),
    ("predict: a doubled key, read carefully", j('{"instances":[{TWICE}, NaN]}'),             predict(NAMED)),
    ("predict: brackets",                  j('{"instances": DEEP}'),                          predict(ANY)),
    ("predict: brackets, rows",            j('{"instances":[DEEP]}'),                         predict(VECTOR)),
    ("predict: brackets of whole numbers", j('{"instances":[DEEP]}'),                         predict(WHOLE)),
    ("predict: brackets in a column",      j('{"inputs": DEEP}'),                             predict(ANY)),
    ("predict: brackets that never close", j('{"instances": OPEN'),                           predict(ANY)),
    ("predict: brackets in a string",      j('{"instances":[[1]],"k":"OPEN"}'),               predict(VECTOR)),
    ("predict: brackets in strings",       j('{"inputs":{"x":[1],"feature_of_the_house":["OPEN","OPEN"]}}'), predict(NAMED)),
    ("predict: objects in objects",        j('{"instances":[OBJECTS]}'),                      predict(ANY)),
    ("predict: numbers",                   j('{"instances":[NUMBERS]}'),                      predict(ANY)),
    ("predict: whole numbers as decimals", j('{"instances":[WHOLES]}'),                       predict(WHOLE)),
    ("predict: rows",                      j('{"instances":[ROWS]}'),                         predict(VECTOR)),
    ("predict: rows of two lengths",       j('{"instances":[RAGGED]}'),                       predict(VECTOR)),
    ("predict: rows of two lengths, told", j('{"instances":[RAGGED]}'),                       predict(VECTOR, **ROW_ERRORS)),
    ("predict: lists of many shapes",      j('{"instances":[[1]],"k":{"a":[SHAPES]}}'),       predict(VECTOR)),
    ("predict: rows without names",        j('{"instances":[EMPTY]}'),                        predict(NAMED)),
    ("predict: rows without names, told",  j('{"instances":[EMPTY]}'),                        predict(NAMED, **ROW_ERRORS)),
    ("predict: names that nearly fit, told", j('{"instances":[WRONG]}'),                      predict(NAMED, **ROW_ERRORS)),
    ("predict: names that nearly fit, of many", j('{"instances":[WRONG]}'),                   predict(MANY, **ROW_ERRORS)),
    ("predict: a long name",               j('{"instances":[{"LONG":1}]}'),                   predict(NAMED)),
    ("predict: a long name that nearly fits", j('{"instances":[{"NEAR":1}]}'),                predict(NAMED)),
    ("predict: a long name of a signature", j('{"signature_name":"NEAR","instances":[1]}'),   predict(NAMED)),
    ("predict: a long string",             j('{"instances":["LONG"]}'),                       predict(ANY)),
    ("predict: many strings",              j('{"instances":[STRINGS]}'),                      predict(TEXT)),
    ("predict: many strings for numbers",  j('{"instances":[STRINGS]}'),                      predict(ANY, **ROW_ERRORS)),
    ("predict: escapes",                   j('{"instances":["ESCAPES"]}'),                    predict(TEXT)),
    ("predict: escapes and brackets",      j('{"instances":["ESCAPES", [OPEN'),               predict(TEXT)),
    ("predict: a long number",             j('{"instances":[DIGITS]}'),                       predict(ANY)),
    ("predict: a long decimal",            j('{"instances":[0.DIGITS]}'),                     predict(ANY)),
    ("predict: a long number, whole",      j('{"instances":[DIGITS]}'),                       predict(WHOLE)),
    ("predict: white space",               j('{"instances":SPACE[1]SPACE}SPACE'),             predict(ANY)),
    ("infer: keys at the top",             j('{KEYS}'),                                       infer(ANY)),
    ("infer: keys of a tensor",            j('{"inputs":[{"name":"x",KEYS}]}'),               infer(ANY)),
    ("infer: keys of parameters",          j('{"inputs":[{"name":"x"}],"parameters":{KEYS}}'), infer(ANY)),
    ("infer: a doubled key",               j('{"inputs":[{TWICE}]}'),                         infer(ANY)),
    ("infer: tensors",                     j('{"inputs":[EMPTY]}'),                           infer(ANY)),
    ("infer: outputs",                     j('{"outputs":[EMPTY],"inputs":[]}'),              infer(ANY)),
    ("infer: brackets",                    j(v2("DEEP")),                                     infer(ANY)),
    ("infer: brackets of whole numbers",   j(v2("DEEP", datatype="INT64")),                   infer(WHOLE)),
    ("infer: whole numbers as decimals",   j(v2("[WHOLES]", datatype="INT64")),               infer(WHOLE)),
    ("infer: sizes",                       j(v2("[1]", "[NUMBERS]")),                         infer(ANY)),
    ("infer: rows of two lengths",         j(v2("[RAGGED]")),                                 infer(VECTOR)),
    ("infer: a long name",                 j('{"inputs":[{"name":"NEAR"}]}'),                 infer(NAMED)),
    ("infer: a long id",                   j('{"id":"LONG","inputs":[]}'),                    infer(NAMED)),
    ("infer: binary strings",              binary,                                            infer(TEXT)),
    ("classify: keys of an example",       j('{"examples":[{KEYS}]}'),                        example(classify, EXAMPLES)),
    ("classify: a doubled key",            j('{"examples":[{TWICE}]}'),                       example(classify, EXAMPLES)),
    ("classify: values",                   j('{"examples":[{"a":[NUMBERS]}]}'),               example(classify, EXAMPLES)),
    ("classify: examples and a context",   j('{"context":{"a":"LONG"},"examples":[EMPTY]}'),  example(classify, EXAMPLES)),
    ("classify: brackets",                 j('{"examples":[{"a":DEEP}]}'),                    example(classify, EXAMPLES)),
    ("regress: keys at the top",           j('{KEYS,"examples":[{"a":1}]}'),                  example(regress, REGRESSED)),
    ("regress: examples",                  j('{"examples":[EMPTY]}'),                         example(regress, REGRESSED)),
    ("lines: rows",                        lambda n: b"1.5\n" * n,                            posted(LINES, ANY)),
    ("lines: no JSON, told",               lambda n: b"[1\n" * n,                             posted(LINES, ANY, **ROW_ERRORS)),
    ("lines: in two dialects, told",       lambda n: b"NaN\nx\n" * n,                         posted(LINES, ANY, **ROW_ERRORS)),
    ("lines: keys",                        j('{KEYS}'),                                       posted(LINES, NAMED)),
    ("lines: brackets",                    j('DEEP\nDEEP'),                                   posted(LINES, ANY)),
    ("lines: empty",                       lambda n: b"\n" * n + b"1",                        posted(LINES, ANY)),
    ("CSV: columns",                       j('KEYS\n1'),                                      posted(CSV, NAMED)),
    ("CSV: columns of a vector",           lambda n: ",".join(f"x[{i}]" for i in range(n)).encode() + b"\n1", posted(CSV, VECTOR)),
    ("CSV: a column's long name",          j('NEAR\n1'),                                      posted(CSV, NAMED)),
    ("CSV: a long name of points",         lambda n: b"x" + b".1" * n + b"\n1",               posted(CSV, NAMED)),
    ("CSV: rows",                          lambda n: b"x\n" + b"1.5\n" * n,                   posted(CSV, ANY)),
    ("CSV: wrong rows, told",              lambda n: b"x\n" + b"1.5\nz\n1,2\n" * n,           posted(CSV, ANY, **ROW_ERRORS)),
    ("CSV: quoted line ends, told",        lambda n: b"x\n" + b'"1\n"\n' * n,                 posted(CSV, ANY, **ROW_ERRORS)),
    ("CSV: a quotation that never ends",   lambda n: b'x\n"' + b"1\n" * n,                    posted(CSV, TEXT)),
    ("CSV: a long number",                 lambda n: b"x\n" + b"1" * min(n, 100_000),         posted(CSV, ANY)),
    ("CSV: empty lines",                   lambda n: b"x\n" + b"\n" * n + b"1",               posted(CSV, ANY)),
    ("forms: parts",                       parts,                                             posted(FORM, ANY)),
    ("forms: what is nearly a boundary",   part(lambda n: b"\r\n--bb" * n),                   posted(FORM, TEXT)),
    ("forms: white space behind a boundary", part(lambda n: b"\r\n--b" + b" " * n),           posted(FORM, TEXT)),
    ("forms: header fields",               part(lambda _n: b"1", lambda n: b"a: b\r\n" * n),  posted(FORM, TEXT)),
    ("forms: line ends",                   part(lambda n: b"\r\n" * n),                       posted(FORM, TEXT)),
    ("forms: JSON of many keys",           part(lambda n: b"{%b}" % keys(n).encode()),        posted(FORM, ANY)),
    ("forms: JSON of brackets",            part(lambda n: b"[" * n + b"]" * n),               posted(FORM, ANY)),
    ("text: a long one",                   lambda n: "é".encode() * n,                        posted("text/plain", TEXT)),
    ("text: white space before a brace",   lambda n: b" " * n + b"{" + b" " * n,              posted("text/plain", TEXT)),
    ("events: structured, attributes",     j(STRUCTURED + ',KEYS}'),                          event(content_type=cloud_events.STRUCTURED)),
    ("events: structured, a doubled name", j(STRUCTURED + ',TWICE}'),                         event(content_type=cloud_events.STRUCTURED)),
    ("events: structured, brackets",       j(STRUCTURED + ',"data":DEEP}'),                   event(content_type=cloud_events.STRUCTURED)),
    ("events: structured, white space",    j(STRUCTURED + 'SPACE,SPACE"data"SPACE:SPACE1}'),  event(content_type=cloud_events.STRUCTURED)),
    ("events: structured, escapes",        j(STRUCTURED + ',"data":"ESCAPES"}'),              event(content_type=cloud_events.STRUCTURED)),
    ("events: a batch",                    j('[EMPTY]'),                                      event(content_type=cloud_events.BATCHED)),
    ("events: a batch of brackets",        j('[DEEP,DEEP]'),                                  event(content_type=cloud_events.BATCHED)),
    ("events: binary, a long attribute",   lambda n: "%25" * n,                               lambda text: event(ce_id=text, ce_type="t")(b"{}")),
    ("events: pushed, attributes",         pushed,                                            event(content_type="application/json")),
    ("events: pushed, brackets",           j('{"message":DEEP}'),                             event()),
    ("events: legacy, keys",               j('{"data":{KEYS},"context":{KEYS}}'),             event()),
    ("events: unwrapped",                  j('{KEYS}'),                                       event(x_goog_pubsub_message_id="1")),
    ("addresses: parameters",              lambda n: "&".join(f"k{i}=v" for i in range(n)), from_query),
    ("addresses: a parameter twice",       lambda n: "k=v&" * n, from_query),
    ("addresses: a long parameter",        lambda n: "k=" + "%25" * n, from_query),
    ("header fields: parameters of a content type", lambda n: "text/plain" + ';a="b"' * n,    lambda text: posted(text, TEXT)(b"a")),
    ("header fields: quotes that never close", lambda n: "text/plain" + ';a="\\"' * n,        lambda text: posted(text, TEXT)(b"a")),
    ("header fields: white space",         lambda n: "text/plain;" + " " * n + ";" + "a" * n, lambda text: posted(text, TEXT)(b"a")),
    ("header fields: Accept-Encoding",     lambda n: "gzip;q=0.5," * n,                       _wanted_encoding),
    ("header fields: traceparent",         lambda n: "00-" + "1" * n,                         lambda text: observe._trace({"traceparent": text})),
    ("header fields: a long one in the log", lambda n: "é\n" * n,                             observe.plain),
    ("names: a long one",                  lambda n: "feature_of_the_house" * n,              lambda text: did_you_mean(text, NAMED.inputs)),
    ("names: a long one of two letters",   lambda n: "ab" * n,                                lambda text: did_you_mean(text, ["ba" * 90, "ab" * 100])),
    ("packed: many small members",         members,                                           lambda body: unpack(body, {"content-encoding": "gzip"}, 8 << 20)),
    ("packed: what follows a member",      lambda n: gzip.compress(b"1") + b"\0" * n,         lambda body: unpack(body, {"content-encoding": "gzip"}, 8 << 20)),
    ("packed: a large one",                lambda n: gzip.compress(b"1" * n * 99),            lambda body: unpack(body, {"content-encoding": "gzip"}, 8 << 20)),
    ("pictures: what may begin one",       lambda n: b"\xff\xd8\xff" * n,                     lambda data: images.largest(data, frozenset({"image", "example"}))),
    ("pictures: segments",                 lambda n: b"\xff\xd8" + b"\xff\xe0\0\x02" * n,     images.measure),
    ("pictures: fill bytes",               lambda n: b"\xff\xd8" + b"\xff" * n,               images.measure),
    ("pictures: frames",                   lambda n: b"GIF89a" + b"\0" * 7 + b"\x2c" * n,     images.measure),
]
# fmt: on


@pytest.mark.parametrize(("make", "reader"), [case[1:] for case in READERS], ids=[case[0] for case in READERS])
def test_reading_grows_with_what_is_read(make: Make, reader: Reader, serve: Serve) -> None:
    serve(MAX_ROWS=str(1 << 30))
    assert grows(make, reader) <= MOST


# Files


def field(number: int, content: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(content)) + content


TENSOR = field(1, b"x:0") + b"\x10\x01"


def _graph(signatures: bytes, tags: bytes = field(4, b"serve")) -> bytes:
    return field(2, field(1, tags) + signatures)


def _signature_def(n: int, name: Callable[[int], bytes]) -> bytes:
    inputs = b"".join(field(1, field(1, name(index)) + field(2, TENSOR)) for index in range(n))
    return field(5, field(1, b"serving_default") + field(2, inputs + field(2, field(1, b"y") + field(2, TENSOR))))


def _log(n: int) -> bytes:
    tensor = b"\x08\x01" + field(2, field(2, b"\x08" + varint(n))) + field(5, b"\0\0\0\0" * n)
    return field(6, field(1, field(1, b"") + field(2, field(1, b"x") + field(2, tensor))))


def _varints(n: int) -> bytes:
    tensor = b"\x08\x09" + field(2, field(2, b"\x08" + varint(n))) + b"\x50\x01" * n
    return field(6, field(1, field(2, field(1, b"x") + field(2, tensor))))


# fmt: off
FILES: list[tuple[str, str, Make]] = [
    ("saved_model.pb: inputs",           "saved_model.pb", lambda n: _graph(_signature_def(n, lambda i: b"k%d" % i))),
    ("saved_model.pb: one input, often", "saved_model.pb", lambda n: _graph(_signature_def(n, lambda _: b"k"))),
    ("saved_model.pb: signatures",       "saved_model.pb", lambda n: _graph(b"".join(field(5, field(1, b"s%d" % i)) for i in range(n)))),
    ("saved_model.pb: tags",             "saved_model.pb", lambda n: _graph(b"", field(4, b"t") * n)),
    ("saved_model.pb: graphs",           "saved_model.pb", lambda n: _graph(b"") * n),
    ("saved_model.pb: a graph in parts", "saved_model.pb", lambda n: field(2, field(1, b"") * n)),
    ("saved_model.pb: nodes",            "saved_model.pb", lambda n: field(2, field(2, field(1, field(1, b"node")) * n))),
    ("saved_model.pb: sizes",            "saved_model.pb", lambda n: _graph(field(5, field(1, b"s") + field(2, field(1, field(1, b"x") + field(2, TENSOR + field(3, field(2, b"\x08\x01") * n))))))),
    ("saved_model.pb: long numbers",     "saved_model.pb", lambda n: _graph(b"\xff" * n)),
    ("warm-up: a tensor",                "log",            _log),
    ("warm-up: numbers one by one",      "log",            _varints),
    ("warm-up: fields",                  "log",            lambda n: field(6, field(1, field(1, b"") * n))),
    ("manifest: files",                  "assets.extra/manifest.json", lambda n: json.dumps({"files": {f"assets/{i}": {"bytes": 1, "sha256": ""} for i in range(n)}}).encode()),
    ("manifest: brackets",               "assets.extra/manifest.json", lambda n: b"[" * n),
]
# fmt: on


@pytest.mark.parametrize(("place", "make"), [case[1:] for case in FILES], ids=[case[0] for case in FILES])
def test_reading_a_file_grows_with_what_is_read(place: str, make: Make, tmp_path: Path) -> None:
    path = tmp_path / place
    path.parent.mkdir(exist_ok=True)
    written: list[bytes] = []

    def reader(content: bytes) -> Any:
        if written != [content]:
            path.write_bytes(content)
            written[:] = [content]
        if place == "log":
            return prediction_log.request(memoryview(content), {"serving_default": ANY})
        return read(tmp_path) if place == "saved_model.pb" else manifest.check(tmp_path, "quick")

    assert grows(make, reader) <= MOST


# The whole way of a request


def _messages(n: int) -> Iterator[tuple[str, bytes, dict[str, str]]]:
    yield "/v1/models/model:predict", b'{"instances":[{%b}]}' % keys(n).encode(), {}
    yield "/v1/models/model:predict", b'{"instances":%b1%b}' % (b"[" * n, b"]" * n), {}
    yield "/v1/models/" + "model" * n + ":predict", b"{}", {}
    yield "/" + "versions/1" * n, b"{}", {}


@pytest.mark.parametrize("index", range(4), ids=["keys", "brackets", "a long name", "a long address"])
@pytest.mark.parametrize("packed", [False, True], ids=["plain", "packed"])
def test_a_request_grows_with_what_is_read(index: int, packed: bool, serve: Serve) -> None:
    ask = serve()

    def make(n: int) -> tuple[str, bytes, str]:
        path, body, _ = list(_messages(n))[index]
        return path, gzip.compress(body) if packed else body, "gzip" if packed else "identity"

    def reader(message: tuple[str, bytes, str]) -> None:
        path, body, encoding = message
        assert 400 <= ask("POST", path, body, content_encoding=encoding).status < 500

    assert grows(make, reader) <= MOST
