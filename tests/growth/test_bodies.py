"""Bodies, addresses and header fields, read by each reader along each axis."""

import gzip
from typing import Any

import pytest

from serving.core.dtypes import BY_CODE
from serving.core.errors import did_you_mean
from serving.core.http import _accepted_encoding, unpack
from serving.core.telemetry import observe
from serving.events import cloud_events
from serving.protocols import classify, open_inference, raw, regress, sagemaker, tensorflow_serving
from serving.protocols.call import Context
from serving.protocols.kinds import HEADER, is_raw
from serving.protocols.options import from_query
from serving.savedmodel import images
from serving.savedmodel.signature import Signature, TensorSpec
from tests.conftest import Serve
from tests.growth import MOST, Make, Reader, grows
from tests.growth.grown import binary, j, keys, members, part, parts, pushed, v2

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


def bare(signature: Signature) -> Reader:
    return lambda body: sagemaker.decode(body, {signature.name: signature})


def infer(signature: Signature) -> Reader:
    def read(body: Any) -> Any:
        head, tail = body if isinstance(body, tuple) else (body, None)
        headers = {} if tail is None else {HEADER: str(len(head))}
        return open_inference.decode(head + (tail or b""), {signature.name: signature}, Context(headers=_Any(headers)))

    return read


def posted(content_type: str, signature: Signature, **query: str) -> Reader:
    context = Context(headers={"content-type": content_type}, query=query)
    return lambda body: is_raw(content_type, body) and raw.decode(body, {signature.name: signature}, context)


def example(protocol: Any, signature: Signature) -> Reader:
    return lambda body: protocol.decode(body, {signature.name: signature})


def event(**headers: str) -> Reader:
    fields = _Any({name.replace("_", "-"): value for name, value in headers.items()})
    return lambda body: cloud_events.parse(fields, body)


class _Any(dict[str, str]):
    """Header fields by name, in any case."""

    def get(self, name: str, default: Any = None, /) -> Any:
        return super().get(name.lower(), super().get(name, default))


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
    ("predict: rows of two lengths, reported", j('{"instances":[RAGGED]}'),                       predict(VECTOR, **ROW_ERRORS)),
    ("predict: lists of many shapes",      j('{"instances":[[1]],"k":{"a":[SHAPES]}}'),       predict(VECTOR)),
    ("predict: rows without names",        j('{"instances":[EMPTY]}'),                        predict(NAMED)),
    ("predict: rows without names, reported",  j('{"instances":[EMPTY]}'),                        predict(NAMED, **ROW_ERRORS)),
    ("predict: names that nearly fit, reported", j('{"instances":[WRONG]}'),                      predict(NAMED, **ROW_ERRORS)),
    ("predict: names that nearly fit, of many", j('{"instances":[WRONG]}'),                   predict(MANY, **ROW_ERRORS)),
    ("predict: rows with keys",            j('{"instances":[KEYED]}'), predict(VECTOR)),
    ("predict: rows of many inputs",       j('{"instances":[WIDE]}'), predict(MANY)),
    ("predict: base64",                    j('{"instances":[BASE64]}'), predict(TEXT)),
    ("predict: base64 with white space",   j('{"instances":[{"b64":"SPACED"}]}'), predict(TEXT)),
    ("predict: NaN in every row",          j('{"instances":[NANS]}'), predict(VECTOR)),
    ("predict: many levels, a long row",   j('{"instances":LEVELS}'), predict(ANY)),
    ("predict: many levels, wrong at the end", j('{"instances":[LEVELS, LEVELS, 1]}'), predict(ANY)),
    ("predict: a bad row at the end",      j('{"instances":[ROWS,["a",2]]}'), predict(VECTOR)),
    ("predict: a bad row at the end, reported", j('{"instances":[ROWS,["a",2]]}'), predict(VECTOR, **ROW_ERRORS)),
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
    ("SageMaker: brackets",                j('DEEP'), bare(ANY)),
    ("SageMaker: keys",                    j('{KEYS}'), bare(NAMED)),
    ("SageMaker: rows",                    j('[ROWS]'), bare(VECTOR)),
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
    ("lines: no JSON, reported",               lambda n: b"[1\n" * n,                             posted(LINES, ANY, **ROW_ERRORS)),
    ("lines: in two dialects, reported",       lambda n: b"NaN\nx\n" * n,                         posted(LINES, ANY, **ROW_ERRORS)),
    ("lines: in TensorFlow Serving's dialect", lambda n: b"NaN\n" * n, posted(LINES, ANY)),
    ("lines: keys",                        j('{KEYS}'),                                       posted(LINES, NAMED)),
    ("lines: brackets",                    j('DEEP\nDEEP'),                                   posted(LINES, ANY)),
    # A list of a pointer for each byte would be larger than a cache, and look slower than it is.
    ("lines: blank",                       lambda n: b"       \n" * (n // 8) + b"1",          posted(LINES, ANY)),
    ("CSV: columns",                       j('KEYS\n1'),                                      posted(CSV, NAMED)),
    ("CSV: columns of a vector",           lambda n: ",".join(f"x[{i}]" for i in range(n)).encode() + b"\n1", posted(CSV, VECTOR)),
    ("CSV: a column's long name",          j('NEAR\n1'),                                      posted(CSV, NAMED)),
    ("CSV: a long name of points",         lambda n: b"x" + b".1" * n + b"\n1",               posted(CSV, NAMED)),
    ("CSV: rows",                          lambda n: b"x\n" + b"1.5\n" * n,                   posted(CSV, ANY)),
    ("CSV: wrong rows, reported",              lambda n: b"x\n" + b"1.5\nz\n1,2\n" * n,           posted(CSV, ANY, **ROW_ERRORS)),
    ("CSV: quoted line ends, reported",        lambda n: b"x\n" + b'"1\n"\n' * n,                 posted(CSV, ANY, **ROW_ERRORS)),
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
    ("header fields: Accept-Encoding",     lambda n: "gzip;q=0.5," * n,                       _accepted_encoding),
    ("header fields: traceparent",         lambda n: "00-" + "1" * n,                         lambda text: observe._trace({"traceparent": text})),
    ("header fields: a long one in the log", lambda n: "é\n" * n,                             observe.plain),
    ("names: a long one",                  lambda n: "feature_of_the_house" * n,              lambda text: did_you_mean(text, NAMED.inputs)),
    ("names: a long one of two letters",   lambda n: "ab" * n,                                lambda text: did_you_mean(text, ["ba" * 90, "ab" * 100])),
    ("packed: many small members",         members,                                           lambda body: unpack(body, {"content-encoding": "gzip"}, 8 << 20)),
    ("packed: what follows a member",      lambda n: gzip.compress(b"1") + b"\0" * n,         lambda body: unpack(body, {"content-encoding": "gzip"}, 8 << 20)),
    ("packed: a large one",                lambda n: gzip.compress(b"1" * n * 99),            lambda body: unpack(body, {"content-encoding": "gzip"}, 8 << 20)),
    ("pictures: what may begin one",       lambda n: b"\xff\xd8\xff" * n,                     lambda data: images.pictures(data, frozenset({"image", "example"}))),
    ("pictures: segments",                 lambda n: b"\xff\xd8" + b"\xff\xe0\0\x02" * n,     images.measure),
    ("pictures: fill bytes",               lambda n: b"\xff\xd8" + b"\xff" * n,               images.measure),
    ("pictures: frames",                   lambda n: b"GIF89a" + b"\0" * 7 + b"\x2c" * n,     images.measure),
]
# fmt: on


@pytest.mark.parametrize(("make", "reader"), [case[1:] for case in READERS], ids=[case[0] for case in READERS])
def test_the_time_to_read_grows_linearly(make: Make, reader: Reader, serve: Serve) -> None:
    serve(MAX_ROWS=str(1 << 30))
    assert grows(make, reader) <= MOST
