"""Keys, `top_k` and classification: with the native codec the answers are what they are without it."""

import itertools
import json
import random
from typing import Any

import pytest

from tests.pipeline.native.conftest import Ask, Question
from tests.pipeline.native.models import build
from tests.pipeline.native.number_cases import QUICK, SLOW
from tests.pipeline.native.questions import PATH

# fmt: off
KEYS = [
    # key                            way
    ("7",                            QUICK),
    ("-7",                           QUICK),
    ("0",                            QUICK),
    ("-0",                           SLOW),
    ("123456789012345678",           QUICK),
    ("1234567890123456789",          SLOW),
    ("18446744073709551616",         SLOW),
    ("1.0",                          SLOW),
    ("1e3",                          SLOW),
    ("01",                           SLOW),
    ("-",                            SLOW),
    ('"a"',                          QUICK),
    ('""',                           QUICK),
    ('"a b/c<>&\x7f"',               QUICK),
    ('"é"',                          SLOW),
    (r'"\u0061"',                    SLOW),
    ('"a\n"',                        SLOW),
    ("true",                         QUICK),
    ("false",                        QUICK),
    ("null",                         QUICK),
    ("nul",                          SLOW),
    ("[1]",                          SLOW),
    ('{"a":1}',                      SLOW),
    ("NaN",                          SLOW),
    ("",                             SLOW),
]
KEYED = [
    # model      signature   form         values                                                       way
    ("types",    "",         "instances", '[{"x":1,"key":1},{"x":2}]',                                 QUICK),
    ("types",    "",         "instances", '[{"x":1},{"x":2,"key":1}]',                                 QUICK),
    ("types",    "",         "instances", '[{"x":1},{"key":1,"x":2},{"x":3}]',                         QUICK),
    ("types",    "",         "instances", '[{"x":1,"key":1,"key":2}]',                                 SLOW),
    ("types",    "",         "instances", '[{"x":1},{"x":1,"key":1,"key":2}]',                         SLOW),
    ("types",    "",         "instances", '[{"key":1}]',                                               SLOW),
    ("types",    "",         "instances", '[{"key":1,"x":1,"y":2}]',                                   SLOW),
    ("types",    "",         "instances", '[{"key":1,"x":null}]',                                      SLOW),
    ("types",    "",         "inputs",    '{"key":[1,"a"],"x":[1,2]}',                                 QUICK),
    ("types",    "",         "inputs",    '{"x":[1,2], "key" : [ 1 , null ] }',                        QUICK),
    ("types",    "",         "inputs",    '{"key":[1],"x":[1,2]}',                                     SLOW),
    ("types",    "",         "inputs",    '{"key":[1,2,3],"x":[1,2]}',                                 SLOW),
    ("types",    "",         "inputs",    '{"key":[],"x":[1,2]}',                                      SLOW),
    ("types",    "",         "inputs",    '{"key":1,"x":[1]}',                                         SLOW),
    ("types",    "",         "inputs",    '{"key":null,"x":[1]}',                                      SLOW),
    ("types",    "",         "inputs",    '{"key":[1],"key":[1],"x":[1]}',                             SLOW),
    ("types",    "int8",     "inputs",    '{"key":[1],"x":[1]}',                                       QUICK),
    ("several",  "",         "instances", '[{"a":1,"b":[2,3],"key":1},{"b":[2,3],"key":"c","a":2}]',   QUICK),
    ("several",  "",         "inputs",    '{"a":[1],"b":[[2,3]],"key":["c"]}',                         QUICK),
    ("several",  "keyed",    "instances", '[{"key":1,"b64":3}]',                                       QUICK),
    ("several",  "scalars",  "inputs",    '{"p":1,"q":2,"key":[1]}',                                   SLOW),
    ("several",  "scaled",   "inputs",    '{"x":[1],"scale":2,"key":[1]}',                             SLOW),
    ("several",  "reduced",  "inputs",    '{"x":[1,2],"key":[1,2]}',                                   QUICK),
    ("several",  "added",    "inputs",    '{"x":[1,2],"y":[1],"key":[1,2]}',                           SLOW),
    ("strings",  "",         "instances", '[{"key":1,"x":{"b64":"/w=="}}]',                            QUICK),
    ("strings",  "",         "instances", '[{"key":1,"b64":"/w=="}]',                                  SLOW),
    ("ranked",   "error",    "instances", '[{"x":[1,2,3],"key":1}]',                                   SLOW),
    ("ranked",   "classes",  "instances", '[{"classes":[1,2,3],"key":1}]',                             QUICK),
    ("infinite", "both",     "instances", '[{"x":[1e-9,-1],"key":1},{"x":[-1,0]}]',                    QUICK),
]
RANKED = ["serving_default", "named", "by_row", "broken", "two", "wide", "half", "brain", "none", "whole", "deep", "hollow", "shorter",
          "error"]
ROWS = ["[[1,2,3]]", "[[3,2,1],[0,-0.0,5]]", "[[1,1,1],[0,0,0],[-1,-1,0]]", "[[1e-30,4,0],[4,1e30,4]]"]
BROKEN_ROWS = ["[[1,2]]", "[[1,2,null]]", "[]"]
# fmt: on


def predict(signature: str, form: str, values: str, more: str = "") -> bytes:
    named = f'"signature_name":"{signature}",' if signature else ""
    return f'{{{named}"{form}":{values}{more}}}'.encode()


def check(compare: Ask, model: str, cases: list[tuple[Question, bool]], **settings: str) -> None:
    """Assert that each is answered as without the native codec, and in the way that is given."""
    answered = compare(build() / model, [question for question, _ in cases], **settings)
    assert [case for case, (_, was_taken) in zip(cases, answered, strict=True) if case[1] is not was_taken] == []


def test_every_kind_of_key(compare: Ask) -> None:
    cases: list[tuple[Question, bool]] = []
    for key, way in KEYS:
        for form, values in (
            ("instances", f'[{{"key":{key},"x":1}}]'), ("instances", f'[{{"x":1,"key": {key} }},{{"x":2}}]'),
            ("inputs", f'{{"key":[{key}],"x":[1]}}'), ("inputs", f'{{"x":[1,2],"key":["a", {key} ]}}'),
        ):  # fmt: skip
            cases.append((predict("", form, values), way))
    check(compare, "types", cases)


@pytest.mark.parametrize("model", dict.fromkeys(model for model, *_ in KEYED))
def test_keys_beside_every_kind_of_row(compare: Ask, model: str) -> None:
    check(compare, model, [(predict(*case), way) for name, *case, way in KEYED if name == model])


def test_another_field_of_keys(compare: Ask) -> None:
    cases: list[tuple[Question, bool]] = [
        (b'{"instances":[{"x":1,"i\\"d\xc3\xa9":2}]}', SLOW),  # a name with an escape
        (b'{"instances":[{"x":1,"key":2}]}', SLOW),
    ]
    check(compare, "types", cases, KEY_FIELD='i"dé')
    check(compare, "types", [(b'{"instances":[{"x":1,"id":2}]}', QUICK)], KEY_FIELD="id")
    check(compare, "types", [(b'{"instances":[{"x":1,"y":2}]}', SLOW)], KEY_FIELD="y")


TOP = [
    ("top_k=1", ""),
    ("top_k=2", ""),
    ("top_k=9", ""),
    ("", ',"parameters":{"top_k":2}'),
    ("", ',"parameters":{"top_k":3.0}'),
]


@pytest.mark.parametrize("non_finite", ["tokens", "null"])
@pytest.mark.parametrize("model", ["ranked", "labelled"])
def test_the_classes_of_the_highest_scores(compare: Ask, model: str, non_finite: str) -> None:
    signatures = RANKED if model == "ranked" else ["serving_default", "named", "two"]
    questions: list[Question] = []
    for signature, values, (query, more) in itertools.product(signatures, [*ROWS, *BROKEN_ROWS], TOP):
        keyed = [{"x": row, "key": f"k{place}"} for place, row in enumerate(json.loads(values))]
        questions += [
            (predict(signature, "instances", values, more), query, {}),
            (predict(signature, "inputs", values, more), query, {}),
            (predict(signature, "instances", json.dumps(keyed), more), query, {}),
        ]
    answered = compare(build() / model, questions, NON_FINITE=non_finite)
    taken = [question for question, was_taken in answered if was_taken]
    assert len(taken) > len(questions) / (5 if model == "ranked" else 4)
    for signature in (
        ("named", "wide", "half", "brain", "by_row", "hollow") if model == "ranked" else ("serving_default", "named")
    ):
        assert [question for question in taken if f'"{signature}"'.encode() in question[0]] != [], signature


# fmt: off
OPTIONS = [
    # signature   query                          parameters                                        way
    ("two",       "top_k=2&scores=best",         "",                                               QUICK),
    ("two",       "top_k=2&scores=worst",        "",                                               QUICK),
    ("two",       "scores=worst",                "",                                               QUICK),
    ("two",       "top_k=2",                     '{"scores":"best"}',                              QUICK),
    ("two",       "",                            '{"scores":"best","top_k":1}',                    QUICK),
    ("two",       "scores=best",                 '{"top_k":1}',                                    QUICK),
    ("two",       "top_k=2",                     "",                                               SLOW),
    ("two",       "top_k=2&scores=none",         "",                                               SLOW),
    ("two",       "top_k=2&scores=",             "",                                               SLOW),
    ("two",       "top_k=2",                     '{"top_k":2,"scores":"best"}',                    SLOW),
    ("two",       "top_k=2",                     '{"top_k":1,"scores":"best"}',                    SLOW),
    ("named",     "scores=names",                "",                                               SLOW),
    ("named",     "top_k=02",                    "",                                               QUICK),
    ("named",     "top_k=1&top_k=2",             "",                                               SLOW),
    ("named",     "top_k=0",                     "",                                               SLOW),
    ("named",     "top_k=-1",                    "",                                               SLOW),
    ("named",     "top_k=1.0",                   "",                                               SLOW),
    ("named",     "top_k=999999999",             "",                                               QUICK),
    ("named",     "top_k=1000000000",            "",                                               SLOW),
    ("named",     "topk=1",                      "",                                               SLOW),
    ("brain",     "top_k=2",                     "",                                               QUICK),
    ("half",      "top_k=2",                     "",                                               QUICK),
    ("named",     "top_k=1&trace=7",             "",                                               QUICK),
    ("named",     "top_k=1&arrays=base64",       "",                                               SLOW),
    ("named",     "top_k=1&instances=1",         "",                                               SLOW),
    ("named",     "top_k=1&on_error=row",        "",                                               SLOW),
    ("named",     "",                            '{"top_k":0}',                                    SLOW),
    ("named",     "",                            '{"top_k":-1}',                                   SLOW),
    ("named",     "",                            '{"top_k":1.5}',                                  SLOW),
    ("named",     "",                            '{"top_k":"1"}',                                  SLOW),
    ("named",     "",                            '{"top_k":true}',                                 SLOW),
    ("named",     "",                            '{"top_k":999999999}',                            QUICK),
    ("named",     "",                            '{"top_k":1000000000}',                           SLOW),
    ("named",     "",                            '{"top_k":1,"top_k":1}',                          SLOW),
    ("named",     "",                            '{"topk":1}',                                     SLOW),
    ("named",     "",                            '{"other":1}',                                    SLOW),
    ("named",     "",                            "[]",                                             SLOW),
    ("named",     "",                            "1",                                              SLOW),
    ("wide",      "",                            "null",                                           QUICK),
    ("wide",      "",                            "{}",                                             QUICK),
    ("named",     "signature_name=two",          '{"signature_name":"two"}',                       SLOW),
    ("named",     "signature_name=two",          '{"signature_name":"named"}',                     SLOW),
    ("named",     "signature_name=absent",       "",                                               SLOW),
    ("",          "signature_name=wide",         "",                                               QUICK),
    ("",          "signature_name=absent",       "",                                               SLOW),
    ("",          "signature_name=",             "",                                               QUICK),
    ("",          "signature_name=named&top_k=1", "",                                              QUICK),
    ("",          "",                            '{"signature_name":"wide"}',                      QUICK),
    ("",          "",                            '{"signature_name":""}',                          QUICK),
    ("",          "",                            '{"signature_name":"absent"}',                    SLOW),
    ("",          "",                            '{"signature_name":7}',                           SLOW),
]
# fmt: on


def test_options_of_the_address_and_of_the_body(compare: Ask) -> None:
    cases: list[tuple[Question, bool]] = []
    for signature, query, parameters, way in OPTIONS:
        members = [f'"signature_name":"{signature}"' if signature else "", '"instances":[[1,2,3]]',
                   f'"parameters":{parameters}' if parameters else ""]  # fmt: skip
        members = [member for member in members if member]
        # A signature of the address that is not there matters only where the body names none.
        for order in itertools.permutations(members):
            body = f"{{{','.join(order)}}}".encode()
            named = way if not (signature and query == "signature_name=absent") else SLOW
            cases.append(((body, query, {}), named))
    check(compare, "ranked", cases)


NAMED_TWICE = [
    # query                              parameters                       way
    ("signature_name=int8",              '{"signature_name":"int8"}',     QUICK),
    ("signature_name=int8",              '{"signature_name":"int16"}',    SLOW),
    ("signature_name=int8",              '{"signature_name":""}',         SLOW),
    ("signature_name=",                  '{"signature_name":"int8"}',     QUICK),
    ("signature_name=serving_default",   '{"signature_name":"int8"}',     SLOW),
]  # fmt: skip


def test_an_infer_request_that_names_two_signatures_is_refused(compare: Ask) -> None:
    cases: list[tuple[Question, bool]] = [
        (
            (
                f'{{"inputs":[{{"name":"x","shape":[1],"datatype":"INT8","data":[1]}}],"parameters":{parameters}}}'.encode(),
                query,
                {},
            ),
            way,
        )
        for query, parameters, way in NAMED_TWICE
    ]
    check(compare, "types", cases, path="/v2/models/model/infer")


LATE = [
    # model     by the signature that is named: form, values; way
    ("types",   "int8",    "instances", "[1,2]",                         QUICK),
    ("types",   "int8",    "instances", "[1,200]",                       SLOW),
    ("types",   "bool",    "instances", "[true]",                        QUICK),
    ("types",   "bool",    "instances", "[1]",                           SLOW),
    ("types",   "absent",  "instances", "[1]",                           SLOW),
    ("types",   "int8",    "instances", '[{"x":1,"key":2}]',             QUICK),
    ("several", "added",   "instances", '[{"x":1,"y":2}]',               QUICK),
    ("several", "added",   "inputs",    '{"x":[1],"y":[2]}',             QUICK),
    ("several", "added",   "inputs",    '{"x":[1],"z":[2]}',             SLOW),
    ("several", "keyed",   "instances", '[{"key":1,"b64":3}]',           QUICK),
    ("several", "scalars", "inputs",    '{"p":1,"q":2}',                 QUICK),
    ("strings", "scalar",  "inputs",    '"a"',                           QUICK),
    ("strings", "scalar",  "inputs",    r'"a\"]}\\"',                    QUICK),
    ("strings", "scalar",  "inputs",    '{"b64":"/w=="}',                QUICK),
    ("strings", "mixed",   "instances", r'[{"a":"\\\"}]","b":[1,2]}]',   QUICK),
    ("strings", "mixed",   "instances", '[{"a":"[{","b":[1,2]}]',        QUICK),
    ("shapes",  "scalar",  "inputs",    "1.5",                           QUICK),
    ("shapes",  "scalar",  "inputs",    "1.5x",                          SLOW),
    ("shapes",  "scalar",  "inputs",    "1.5 2",                         SLOW),
    ("shapes",  "scalar",  "inputs",    "",                              SLOW),
    ("shapes",  "fixed",   "inputs",    "[[1,2,3],[4,5,6]]",             QUICK),
    ("shapes",  "fixed",   "inputs",    "[[1,2,3],[4,5,6]}",             SLOW),
    ("shapes",  "fixed",   "inputs",    "[[1,2,3],[4,5,6]]]",            SLOW),
    ("shapes",  "fixed",   "inputs",    "[[1,2,3],[4,5,6]",              SLOW),
    ("shapes",  "deepest", "inputs",    "[[[[[[[[1]]]]]]]]",             QUICK),
    ("shapes",  "three",   "instances", "[[1,2,3]]",                     QUICK),
]  # fmt: skip


@pytest.mark.parametrize("model", dict.fromkeys(model for model, *_ in LATE))
def test_a_signature_that_is_named_behind_the_numbers(compare: Ask, model: str) -> None:
    cases: list[tuple[Question, bool]] = []
    for name, signature, form, values, way in LATE:
        if name == model:
            cases += [
                (f'{{"{form}":{values},"signature_name":"{signature}"}}'.encode(), way),
                (f' {{ "{form}" : {values} , "signature_name" : "{signature}" }} '.encode(), way),
                (f'{{"{form}":{values},"parameters":{{"signature_name":"{signature}"}}}}'.encode(), way),
                (f'{{"{form}":{values},"signature_name":"{signature}","signature_name":"{signature}"}}'.encode(), SLOW),
                (f'{{"{form}":{values},"signature_name":"{signature}"'.encode(), SLOW),
            ]
    check(compare, model, cases)


def test_a_body_that_names_its_signature_late_and_is_cut_anywhere_is_declined(compare: Ask) -> None:
    body = r' {"instances":[{"a":"é\\\"]}","b":[1,2]},{"b":[3,4],"a":{"b64":"/w=="},"key":"k"}],"signature_name":"mixed"}'.encode()
    cases: list[tuple[Question, bool]] = [(body[:size], SLOW) for size in range(len(body))]
    check(compare, "strings", [*cases, (body, QUICK)])


def infer(signature: str, output: dict[str, Any], rows: Any, random_: random.Random) -> Question:
    """Return an infer request for one output, its members in any order."""
    tensor = list({"name": "x", "shape": [len(rows), 3], "datatype": "FP32", "data": rows}.items())
    random_.shuffle(tensor)
    members = list({
        "inputs": [dict(tensor)], "outputs": [output], "parameters": {"signature_name": signature},
    }.items())  # fmt: skip
    random_.shuffle(members)
    return json.dumps(dict(members)).encode(), "", {}


@pytest.mark.parametrize("model", ["ranked", "labelled"])
def test_the_classification_extension(compare: Ask, model: str) -> None:
    random_ = random.Random(model)
    signatures = [name for name in RANKED if name != "error"] if model == "ranked" else ["serving_default", "named"]
    names = ["scores", "names", "sum", "whole", "best", "size"]
    questions = []
    for signature, name, classes in itertools.product(signatures, names, [0, 1, 2, 2.0, 9, 1 << 40, -1, "2", True]):
        for values in ROWS:
            parameters = {
                "classification": classes,
                **random_.choice([{}, {"binary_data": True}, {"binary_data": False}]),
            }
            questions.append(infer(signature, {"name": name, "parameters": parameters}, json.loads(values), random_))
    answered = compare(build() / model, questions, path=PATH)
    taken = b"".join(question[0] for question, was_taken in answered if was_taken)
    for signature in set(signatures) - {"broken", "shorter", "two", "none"}:
        assert f'"{signature}"'.encode() in taken, signature
    assert sum(was_taken for _, was_taken in answered) > len(questions) / 10


def test_binary_flags_are_zero_or_one(compare: Ask) -> None:
    entry = {"name": "x", "shape": [3], "datatype": "BOOL", "parameters": {"binary_data_size": 3}}
    for binary in (True, False):
        text = json.dumps(
            {"inputs": [entry], "parameters": {"signature_name": "bool", "binary_data_output": binary}}
        ).encode()
        headers = {"inference-header-content-length": str(len(text))}
        ways = {
            b"\0\1\0": True,
            b"\1\1\1": True,
            b"\0\1\2": False,
            b"\xff\0\0": False,
            b"\0\1": False,
            b"\0\1\0\1": False,
        }
        questions: list[Question] = [(text + data, "", headers) for data in ways]
        answered = compare(build() / "types", questions, path=PATH)
        assert [was_taken for _, was_taken in answered] == list(ways.values())


@pytest.mark.parametrize(("datatype", "signature"), [("FP16", "float16"), ("BF16", "bfloat16")])
def test_short_floats_of_the_open_inference_protocol(compare: Ask, datatype: str, signature: str) -> None:
    """BF16 has no JSON form there."""
    data, ways, questions = b"\x00\x3c\x80\x3f\x01\x00", [], list[Question]()
    in_json = datatype == "FP16"
    for binary_in, binary_out in itertools.product((True, False), (True, False, None)):
        values = {"parameters": {"binary_data_size": 6}} if binary_in else {"data": [1.5, 0.1, -2]}
        wanted = {} if binary_out is None else {"outputs": [{"name": "y", "parameters": {"binary_data": binary_out}}]}
        entry = {"name": "x", "shape": [3], "datatype": datatype, **values}
        text = json.dumps({**wanted, "inputs": [entry], "parameters": {"signature_name": signature}}).encode()
        headers = {"inference-header-content-length": str(len(text))} if binary_in else {}
        questions.append((text + data if binary_in else text, "", headers))
        ways.append(in_json or (binary_in and bool(binary_out)))
    answered = compare(build() / "types", questions, path=PATH)
    assert [was_taken for _, was_taken in answered] == ways
