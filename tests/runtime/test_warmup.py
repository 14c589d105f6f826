"""Warm-up requests: read as TensorFlow wrote them, run once at the time of WARMUP, and never a reason to fail."""

import json
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serving.core.dtypes import DTYPES, DType, by_code
from serving.runtime import model, warmup
from serving.savedmodel.prediction_log import Logged, array, records, request
from serving.savedmodel.signature import Signature, TensorSpec
from tests.conftest import EMBEDDED, ROOT, Serve, plain_environment

# Written by tensorflow-serving-api 2.21's own classes and TensorFlow's TFRecordWriter: a predict request of three
# inputs, a classify request of two examples, a regress request of one, and three of kinds that are not served.
LOGS = ROOT / "tests" / "data" / "prediction_logs.tfrecord"
EXAMPLES = TensorSpec("examples", by_code(7), (None,), "examples:0")


def signature(name: str, *inputs: TensorSpec) -> Signature:
    return Signature(name, {spec.name: spec for spec in inputs}, {"y": EXAMPLES}, "")


SIGNATURES = {name: signature(name, EXAMPLES) for name in ("serving_default", "classify", "regress")}


def said(record: memoryview, signatures: Any = SIGNATURES) -> Any:
    try:
        return request(record, signatures)
    except ValueError as error:
        return str(error)


def test_tensorflow_servings_own_records_are_read() -> None:
    tf = pytest.importorskip("tensorflow")
    predict, classify, regress, *others = [said(record) for record in records(LOGS.open("rb"), 1 << 20)]
    assert isinstance(predict, Logged)
    assert predict.signature == "serving_default"
    assert predict.inputs["x"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert predict.inputs["n"].tolist() == [7]
    assert predict.inputs["s"].tolist() == [b"a\xff", b""]
    assert (classify.signature, regress.signature) == ("classify", "regress")
    examples = [tf.train.Example.FromString(example) for example in classify.inputs["examples"]]
    assert [list(example.features.feature["x"].float_list.value) for example in examples] == [[1], [2, 3]]
    assert others == [
        "a MultiInference request is not served",
        "a SessionRun request is not served",
        "examples with a context are not served",
    ]
    (record,) = [record for index, record in enumerate(records(LOGS.open("rb"), 1 << 20)) if index == 1]
    assert said(record, {}) == "the model has no signature 'classify'"
    assert "one input" in said(record, {"classify": signature("classify")})


def test_types_have_tensorflows_names() -> None:
    types = pytest.importorskip("tensorflow.core.framework.types_pb2").DataType
    last = types.Value("DT_FLOAT4_E2M1FN")
    assert {dtype.name: dtype.code for dtype in DTYPES} == {name: code for name, code in types.items() if code <= last}


HELD = [dtype for dtype in DTYPES if dtype.numpy_name]


@pytest.mark.parametrize("dtype", HELD, ids=lambda dtype: dtype.name)
def test_every_type_is_read_as_tensorflow_reads_it(dtype: DType) -> None:
    tf = pytest.importorskip("tensorflow")
    kind = tf.dtypes.as_dtype(dtype.code)
    values = [b"a", b"\xff\0", b""] if dtype.kind == "S" else [0, 1, 1] if dtype.kind == "b" else [0, 1, 2]
    if dtype.kind in "ifc":
        values[2] = -2
    whole = np.array(values, object if dtype.kind == "S" else kind.as_numpy_dtype)
    for given in (whole, whole.reshape(3, 1), whole[:1], whole[:0], whole[1], np.zeros((2, 0), whole.dtype)):
        given = np.array(given, whole.dtype)
        proto = tf.make_tensor_proto(given, kind)
        check(proto, tf)
        field = typed(proto, given)
        check(field, tf)
        if given.size == 3:
            field.tensor_shape.dim[0].size = 7  # the last value stands for the rest
            check(field, tf)


def typed(proto: Any, values: Any) -> Any:
    """Return the same with the values in their own field, as other writers put them."""
    written = type(proto)(dtype=proto.dtype, tensor_shape=proto.tensor_shape)
    dtype, flat = by_code(proto.dtype), np.asarray(values).ravel()
    if dtype.kind == "S":
        written.string_val.extend(flat.tolist())
    elif dtype.kind == "c":
        name = {8: "scomplex_val", 16: "dcomplex_val"}[dtype.numpy.itemsize]
        getattr(written, name).extend(part for value in flat.tolist() for part in (value.real, value.imag))
    elif dtype.name.startswith("DT_FLOAT8"):
        written.float8_val = flat.tobytes()
    elif dtype.numpy.itemsize == 2 and dtype.kind == "f":
        written.half_val.extend(flat.view(np.uint16).tolist())
    else:
        fields = {"float32": "float", "float64": "double", "bool": "bool"}
        wide = ("int64", "uint32", "uint64")
        name = fields.get(dtype.label, dtype.label if dtype.label in wide else "int")
        getattr(written, f"{name}_val").extend(flat.tolist())
    return written


def check(proto: Any, tf: Any) -> None:
    right = tf.make_ndarray(proto)
    came = array(memoryview(proto.SerializeToString()))
    assert came.shape == right.shape
    assert came.dtype == right.dtype
    assert came.tolist() == right.tolist()


BAD = [
    # bytes of a TensorProto                                                reason
    (b"\x08\x14",                                                           "no array holds DT_RESOURCE"),
    (b"\x08\x01\x12\x02\x18\x01",                                           "without a shape"),
    (b"\x08\x01\x12\x0d\x12\x0b\x08" + b"\xff" * 9 + b"\x01",               "without a shape"),
    (b"\x08\x01\x12\x08\x12\x06\x08\xff\xff\xff\xff\x0f",                   "more than 268435456 bytes"),
    (b"\x08\x01\x12\x04\x12\x02\x08\x01",                                   "expected 1 values, got 0"),
    (b"\x08\x01\x22\x08" + bytes(8),                                        "expected 1 values, got 2"),
    (b"\x08\x01\x22\x03abc",                                                "not a whole number of float32"),
]  # fmt: skip


@pytest.mark.parametrize(("message", "reason"), BAD)
def test_a_bad_tensor_is_refused(message: bytes, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        array(memoryview(message))


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """Return a copy of the embedded model whose files may change."""
    folder = tmp_path / "model"
    shutil.copytree(EMBEDDED, folder)
    (folder / "assets.extra" / "manifest.json").unlink()
    return folder


WHO = [
    # WARMUP    asked in turn               runs of the model after each
    ("ready",   ("pixels", "/readyz"),      (1, 3)),
    ("ready",   ("/readyz", "/readyz"),     (2, 2)),
    ("ready",   ("/ping",),                 (2,)),
    ("ready",   ("/v2/health/ready",),      (2,)),
    ("ready",   ("/v2/models/model/ready",), (2,)),
    ("ready",   ("/v1/models/model",),      (2,)),
    ("ready",   ("/healthz",),              (0,)),
    ("load",    ("pixels", "/readyz"),      (3, 3)),
    ("off",     ("/readyz", "pixels"),      (0, 1)),
]  # fmt: skip


@pytest.mark.parametrize(("setting", "asked", "wanted"), WHO)
def test_WARMUP_says_which_request_waits_for_the_warm_up(
    serve: Serve, examples: Any, monkeypatch: Any, setting: str, asked: Any, wanted: Any
) -> None:
    runs: list[str] = []
    plain = model.Model.run
    monkeypatch.setattr(
        model.Model,
        "run",
        lambda self, declared, inputs: runs.append(declared.name) or plain(self, declared, inputs),
    )
    ask = serve(WARMUP=setting)
    for what, count in zip(asked, wanted, strict=True):
        answer = ask("GET", what) if what.startswith("/") else ask("POST", "/", examples[what])
        assert answer.status == 200
        assert len(runs) == count
    if max(wanted) > 1:
        assert set(runs) == {"serving_default", "pixels"}


DAMAGED = [
    # what                  how the file is made of the good one            reason
    ("cut short",           lambda good: good[:-9],                         "the file ends in the middle of a record"),
    ("no TFRecord",         lambda good: b"hello, world",                   "the file ends in the middle of a record"),
    ("a huge record",       lambda good: b"\xff" * 8 + bytes(100),          "the file ends in the middle of a record"),
    ("no message",          lambda good: b"\1" + bytes(11) + b"\xff" * 5,   "request 0: it ends in the middle"),
    ("another's requests",  lambda good: LOGS.read_bytes(),                 "request 0: expected the inputs image, got "),
    ("empty",               lambda good: b"",                               None),
]  # fmt: skip


@pytest.mark.parametrize(("what", "make", "reason"), DAMAGED, ids=[case[0] for case in DAMAGED])
def test_bad_warm_up_requests_never_stop_a_model(
    serve: Serve, copy: Path, capsys: Any, what: str, make: Any, reason: str | None
) -> None:
    file = copy / warmup.PLACE
    file.write_bytes(make(file.read_bytes()))
    assert serve(copy)("GET", "/readyz").status == 200
    logged = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    warnings = [line["message"] for line in logged if line["severity"] == "WARNING"]
    assert len(warnings) == (reason is not None)
    assert all(line.startswith(f"{warmup.PLACE}: {reason}") for line in warnings)


def test_a_folder_named_like_the_warm_up_file_never_stops_a_model(serve: Serve, copy: Path) -> None:
    os.remove(copy / warmup.PLACE)
    (copy / warmup.PLACE).mkdir()
    assert serve(copy)("GET", "/readyz").status == 200


@pytest.mark.parametrize(("limit", "value", "ran"), [("REQUESTS", 3, 3), ("BYTES", 700, 1), ("SECONDS", -1.0, 0)])
def test_the_warm_up_has_limits(tmp_path: Path, monkeypatch: Any, limit: str, value: Any, ran: int) -> None:
    good = next(records(LOGS.open("rb"), 1 << 20))
    file = tmp_path / warmup.PLACE
    file.parent.mkdir()
    file.write_bytes((len(good).to_bytes(8, "little") + bytes(4) + good + bytes(4)) * 10)
    if limit == "BYTES":
        value = 2 * len(good)
    monkeypatch.setattr(warmup, limit, value)
    runs: list[Any] = []
    warmup.warm(tmp_path, SIGNATURES, lambda declared, inputs: runs.append(inputs))
    assert len(runs) == ran


def test_requests_are_answered_while_the_model_warms_up(serve: Serve, examples: Any, monkeypatch: Any) -> None:
    begun, end = threading.Event(), threading.Event()

    def warm(*_: Any) -> None:
        begun.set()
        assert end.wait(30)

    monkeypatch.setattr(warmup, "warm", warm)
    ask = serve()
    answers: list[Any] = []
    probe = threading.Thread(target=lambda: answers.append(ask("GET", "/readyz")))
    probe.start()
    assert begun.wait(30)
    assert ask("POST", "/", examples["pixels"]).status == 200
    assert answers == []
    end.set()
    probe.join()
    assert answers[0].status == 200


PHASES = """
import json, pathlib, sys
from serving.pipeline.handler import handle
from serving.core.http import Request
from serving.core.record import Record
body = json.dumps(json.loads(pathlib.Path("model/assets.extra/examples.json").read_text())["pixels"]).encode()
for path in sys.argv[1:]:
    method, sent = ("POST", body) if path == "/" else ("GET", b"")
    answer = handle(Request(method, path, body=sent, record=Record()))
print(dict(answer.headers)["Server-Timing"])
"""


@pytest.mark.parametrize(("paths", "waited"), [(("/readyz", "/"), True), (("/",), False)])
def test_the_first_answer_reports_the_duration_of_the_warm_up(paths: tuple[str, ...], waited: bool) -> None:
    command = [sys.executable, "-c", PHASES, *paths]
    run = subprocess.run(command, cwd=ROOT, env=plain_environment(), capture_output=True, text=True)
    *logged, timing = run.stdout.splitlines()
    (first,) = (json.loads(line)["milliseconds"] for line in logged if "first answer after" in line)
    assert ("warmup" in first) is waited
    assert {"library", "model", "run"} < set(first)
    phases = {part.partition(";")[0].strip() for part in timing.split(",")}
    assert ("start" in phases) is not waited  # of the request alone that has waited for the load
