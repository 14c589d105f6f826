"""The accelerator's work grows with what it reads, be it answered or declined."""

from pathlib import Path

import pytest

from serving.pipeline import accelerator
from serving.runtime import loading
from tests.conftest import Serve
from tests.growth import MOST, Make, grows
from tests.growth.grown import j, v2
from tests.pipeline.native.models import build

# fmt: off
PREDICT: list[tuple[str, str, Make]] = [
    ("numbers",                          "types",   j('{"inputs":[NUMBERS]}')),
    ("whole numbers as decimals",        "types",   j('{"signature_name":"int64","inputs":[WHOLES]}')),
    ("rows",                             "shapes",  j('{"instances":[ROWS]}')),
    ("rows of two lengths",              "shapes",  j('{"instances":[RAGGED]}')),
    ("brackets",                         "shapes",  j('{"instances":DEEP}')),
    ("brackets that never close",        "shapes",  j('{"instances":OPEN')),
    ("keys at the top",                  "types",   j('{KEYS}')),
    ("keys of an instance",              "several", j('{"instances":[{KEYS}]}')),
    ("a doubled key",                    "several", j('{"instances":[{TWICE}]}')),
    ("rows without names",               "several", j('{"instances":[EMPTY]}')),
    ("a long name",                      "several", j('{"instances":[{"LONG":1}]}')),
    ("a long name of a signature",       "several", j('{"signature_name":"LONG","instances":[1]}')),
    ("a long number",                    "types",   j('{"instances":[DIGITS]}')),
    ("a long decimal",                   "types",   j('{"instances":[0.DIGITS]}')),
    ("white space",                      "types",   j('{"instances":SPACE[1]SPACE}SPACE')),
    ("strings",                          "strings", j('{"instances":[STRINGS]}')),
    ("escapes",                          "strings", j('{"instances":["ESCAPES"]}')),
    ("base64",                           "strings", j('{"instances":[BASE64]}')),
    ("a long string",                    "strings", j('{"instances":["LONG"]}')),
    ("a signature behind the numbers",   "types",   j('{"inputs":[NUMBERS],"signature_name":"float64"}')),
    ("a signature behind strings",       "strings", j('{"inputs":[STRINGS],"signature_name":"raw"}')),
    ("a signature behind brackets",      "shapes",  j('{"inputs":DEEP,"signature_name":"three"}')),
    ("rows with keys",                   "types",   j('{"instances":[{"x":1,"key":1},KEYED]}')),
    ("keys of columns",                  "types",   j('{"inputs":{"key":[WHOLES],"x":[NUMBERS]}}')),
    ("classes",                          "ranked",  j('{"signature_name":"classes","inputs":[[NUMBERS]],"parameters":{"top_k":999999}}')),
]
INFER: list[tuple[str, str, Make]] = [
    ("numbers",                          "types",   j(v2("[NUMBERS]"))),
    ("brackets",                         "types",   j(v2("DEEP"))),
    ("sizes",                            "types",   j(v2("[1]", "[NUMBERS]"))),
    ("tensors",                          "types",   j('{"inputs":[EMPTY]}')),
    ("keys at the top",                  "types",   j('{KEYS}')),
    ("keys of a tensor",                 "types",   j('{"inputs":[{"name":"x",KEYS}]}')),
    ("a long id",                        "types",   j('{"id":"LONG","inputs":[]}')),
    ("outputs",                          "types",   j('{"outputs":[EMPTY],"inputs":[]}')),
    ("strings",                          "strings", j(v2("[STRINGS]", datatype="BYTES"))),
    ("numbers before their shape",       "types",   j('{"inputs":[{"data":[NUMBERS],"name":"x","datatype":"FP32","shape":[1]}]}')),
]
# fmt: on


@pytest.mark.parametrize(("folder", "make"), [case[1:] for case in PREDICT], ids=[case[0] for case in PREDICT])
def test_the_time_of_a_predict_request_grows_linearly(serve: Serve, extension: Path, folder: str, make: Make) -> None:
    serve(build() / folder, ACCELERATOR=str(extension), MAX_ROWS=str(1 << 30))
    assert grows(make, accelerator.of(loading.cache().get()).predict) <= MOST


@pytest.mark.parametrize(("folder", "make"), [case[1:] for case in INFER], ids=[case[0] for case in INFER])
def test_the_time_of_an_infer_request_grows_linearly(serve: Serve, extension: Path, folder: str, make: Make) -> None:
    serve(build() / folder, ACCELERATOR=str(extension), MAX_ROWS=str(1 << 30))
    infer = accelerator.of(loading.cache().get()).infer
    assert grows(make, lambda body: infer(body, len(body))) <= MOST
