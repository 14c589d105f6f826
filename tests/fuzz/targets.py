"""What is fuzzed: functions of bytes. One that raises, hangs or ends the process has found something."""

import contextlib
import csv
import gzip
import io
import json
import os
import sys
import tempfile
import zlib
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from serving.core import settings
from serving.core.errors import LoadError
from serving.core.http import HttpError, Request, read_body
from serving.events import cloud_events
from serving.protocols import classify, open_inference, raw, regress, tensorflow_serving
from serving.protocols.call import Call, Context
from serving.protocols.kinds import HEADER, is_raw
from serving.protocols.options import from_query
from serving.protocols.raw import bodies
from serving.protocols.tensorflow_serving.inputs import COLUMN, ROW
from serving.savedmodel import composite, prediction_log
from serving.savedmodel.folder import assets
from serving.savedmodel.safety.purity import impurities
from serving.savedmodel.signature import Signature, read
from tests.fuzz import readings
from tests.fuzz.requests import Fields, message, native, prepared, request
from tests.protocols.test_tensorflow_serving import SIGNATURES

Target = Callable[[bytes], None]


def same(wanted: Any, came: np.ndarray[Any, Any], what: object) -> None:
    """Compare an array with nested lists that Python's own parser gave."""
    if came.dtype == object:
        assert came.tolist() == _bytes(wanted), what
    elif came.dtype.kind == "f":
        with np.errstate(over="ignore"):
            expected = np.asarray(wanted, np.float64).astype(came.dtype)
        assert expected.size == came.size, what
        assert np.array_equal(expected.reshape(came.shape), came, equal_nan=True), what
    else:
        assert came.tolist() == wanted or not came.size, what


def _bytes(value: Any) -> Any:
    import base64

    if isinstance(value, list):
        return [_bytes(item) for item in value]
    if isinstance(value, dict):
        text = "".join(value["b64"].split()).rstrip("=")
        return base64.b64decode(text + "=" * (-len(text) % 4))
    return value.encode()


def refused(error: HttpError) -> None:
    """Assert that a refusal is the client's fault, and says something."""
    assert 400 <= error.status < 500
    assert 0 < len(str(error)) < 20_000


def plain_json(body: bytes) -> Any:
    return json.loads(body.removeprefix(b"\xef\xbb\xbf").decode())


CONTEXT = Context(name="model", version="1")


def json_(data: bytes) -> None:
    """JSON tensors in rows and columns; the oracle is Python's parser."""
    try:
        call = tensorflow_serving.decode(data, SIGNATURES, CONTEXT)
    except HttpError as error:
        refused(error)
        if str(error).startswith("body: not JSON") and "surrogate" not in str(error):
            with contextlib.suppress(ValueError, RecursionError):
                plain_json(data)
                raise AssertionError(f"it is JSON: {error}") from None
        return
    _check(call)
    if call.failed or call.keys is not None or call.context.query:
        return
    root = plain_json(data)
    rows = root.get(ROW, root.get(COLUMN))
    for name, array in call.inputs.items():
        if call.form == COLUMN:
            named = isinstance(rows, dict) and name in rows and not (len(rows) == 1 and name == "b64")
            same(rows[name] if named else rows, array, data)
        else:
            named = any(isinstance(row, dict) and name in row for row in rows)
            same([row[name] if named else row for row in rows], array, data)


def _check(call: Call) -> None:
    for name, array in call.inputs.items():
        spec = call.signature.inputs[name]
        assert array.dtype == spec.dtype.numpy
        assert spec.shape is None or len(spec.shape) == array.ndim
        if array.dtype == object:
            assert all(type(value) is bytes for value in array.ravel().tolist())


def open_inference_(data: bytes) -> None:
    """The Open Inference Protocol: a line with the length of the JSON, or an empty one; the body."""
    length, _, body = data.partition(b"\n")
    headers = {HEADER: length.decode("latin-1")} if length else {}
    try:
        call = open_inference.decode(body, SIGNATURES, CONTEXT._replace(headers=Fields(headers)))
    except HttpError as error:
        refused(error)
        return
    _check(call)
    if not length or int(length):
        document = plain_json(body[: int(length)] if length else body)
        for tensor in document["inputs"]:
            array = call.inputs[tensor["name"]]
            assert list(array.shape) == tensor["shape"]
            if "data" in tensor and array.size:
                flat = np.asarray(tensor["data"], object).ravel().tolist()
                same(flat, array.ravel(), data)


def raw_(data: bytes) -> None:
    """Pictures, text, forms, lines and tables: a line with the content type, `?` and the query; the body."""
    line, _, body = data.partition(b"\n")
    content_type, _, query = line.decode("latin-1").partition("?")
    headers = Fields({"content-type": content_type})
    try:
        context = CONTEXT._replace(headers=headers, query=from_query(query))
        if not is_raw(content_type, body):
            return
        call = raw.decode(body, SIGNATURES, context)
    except HttpError as error:
        refused(error)
        return
    _check(call)
    media = content_type.partition(";")[0].strip().lower()
    if media == "multipart/form-data":
        _like_werkzeug(body, content_type, call)
    elif media == "text/csv" and "header" not in content_type and "charset" not in content_type and not call.failed:
        text = body.removeprefix(b"\xef\xbb\xbf").decode()
        rows = [row for row in csv.reader(io.StringIO(text, newline="")) if row]
        for name, array in call.inputs.items():
            assert len(array) == len(rows) - 1
            if name in rows[0] and array.dtype.kind == "f":
                values = [float(row[rows[0].index(name)]) for row in rows[1:]]
                same(values, array.ravel(), data)


def _like_werkzeug(body: bytes, content_type: str, call: Call) -> None:
    """Compare the parts of a form with those that Werkzeug's parser finds."""
    from werkzeug.formparser import FormDataParser

    parser = FormDataParser(stream_factory=lambda *_, **__: io.BytesIO(), silent=True)
    options = {"boundary": bodies.parameter(content_type, "boundary") or ""}
    _, form, files = parser.parse(io.BytesIO(body), "multipart/form-data", len(body), options)
    counts: dict[str, int] = {}
    for name in [*form, *files]:
        counts[name] = len(form.getlist(name)) + len(files.getlist(name))
    for name, array in call.inputs.items():
        if counts and array.ndim:
            assert counts.get(name) == len(array), (counts, name, array)


def examples(data: bytes) -> None:
    """Features of tf.Example messages; the oracle, TensorFlow's own class, where it can be had."""
    for protocol, signatures in ((classify, EXAMPLES), (regress, EXAMPLES)):
        try:
            call = protocol.decode(data, signatures, CONTEXT)
        except HttpError as error:
            refused(error)
            continue
        _check(call)
        if (classes := protobuf()) is None:
            continue
        root = plain_json(data)
        for features, encoded in zip(root["examples"], call.inputs["inputs"].tolist()):
            features_read = classes["Example"].FromString(encoded).features.feature
            assert set(features_read) == {*features, *root.get("context", {})}
            for name, value in features.items():
                kind = features_read[name].WhichOneof("kind")
                values = value if isinstance(value, list) else [value]
                if kind == "int64_list":
                    assert list(features_read[name].int64_list.value) == [int(value) for value in values]
                if kind == "float_list":
                    same(values, np.array(features_read[name].float_list.value, np.float32), data)


def _examples() -> dict[str, Signature]:
    text, scores = SIGNATURES["text"].inputs["text"], SIGNATURES["scalars"].inputs["x"]
    inputs = {"inputs": text._replace(name="inputs")}
    outputs = {
        "serving_default": {"scores": scores._replace(name="scores")},
        "regress": {"outputs": scores._replace(name="outputs")},
    }
    return {name: Signature(name, inputs, of, "") for name, of in outputs.items()}


EXAMPLES = _examples()


def events(data: bytes) -> None:
    """CloudEvents and what Google's platforms send; the oracle is the official package."""
    _, _, _, fields, body = message(data)
    parsed = cloud_events.parse(Fields(fields), body)
    assert parsed or body.strip() == b"[]"
    for event in parsed:
        if isinstance(event, cloud_events.Malformed):
            assert event.message
            continue
        assert event.id
        assert event.type
        for text in (event.id, event.source, event.type, event.subject, event.time, event.path):
            assert text.isprintable() or not set(text) & set("\r\n\0")
    if len(parsed) == 1 and not isinstance(parsed[0], cloud_events.Malformed) and not parsed[0].pushed:
        from cloudevents.exceptions import GenericException
        from cloudevents.http import from_http

        try:
            official = from_http(fields, body)
        except (GenericException, ValueError, TypeError, AttributeError, RecursionError):
            return
        if official["type"] == parsed[0].type:
            assert official["id"] == parsed[0].id


def saved_model(data: bytes) -> None:
    """saved_model.pb: signatures, operations, parts and assets; the oracle is TensorFlow's own class."""
    folder = _folder()
    (folder / "saved_model.pb").write_bytes(data)
    contents = None
    with contextlib.suppress(LoadError):
        contents = read(folder)
        composite.parts(folder, contents.signatures)
    with contextlib.suppress(LoadError):
        impurities(folder)
    with contextlib.suppress(LoadError):
        assets.problem(folder)
    if contents is None or (classes := protobuf()) is None:
        return
    from google.protobuf.message import DecodeError

    try:
        message = classes["SavedModel"].FromString(data)
        official = readings.official(message)
    except DecodeError:
        return  # in a part that is not read here: TensorFlow refuses it
    assert readings.ours(folder) == official


@cache
def _folder() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="fuzz-"))
    import atexit
    import shutil

    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    (folder / "variables").mkdir()
    (folder / "variables" / "variables.index").write_bytes(b"")
    return folder


def prediction_logs(data: bytes) -> None:
    """Records of warm-up requests; the oracle for a tensor's number of elements is TensorFlow's own class."""
    with contextlib.suppress(ValueError):
        for record in prediction_log.records(io.BytesIO(data), 1 << 20):
            with contextlib.suppress(ValueError):
                logged = prediction_log.request(record, SIGNATURES)
                assert all(isinstance(array, np.ndarray) for array in logged.inputs.values())
    with contextlib.suppress(ValueError):
        array = prediction_log.array(memoryview(data))
        if (classes := protobuf()) is not None:
            from google.protobuf.message import DecodeError

            try:
                tensor = classes["TensorProto"].FromString(data)
            except DecodeError:
                return
            assert list(array.shape) == [dim.size for dim in tensor.tensor_shape.dim]


def settings_(data: bytes) -> None:
    """The environment: lines of NAME=VALUE."""
    lines = [line.partition("=") for line in data.decode("utf-8", "surrogateescape").split("\n")]
    environment = {name: value for name, _, value in lines if name and "\0" not in value}
    try:
        configured = settings.read(environment)
    except settings.SettingError as error:
        assert "expected" in str(error)
        return
    assert 1 <= configured.port <= 65535
    assert "/" not in configured.model_name


def packed(data: bytes) -> None:
    """Packed bodies: a line with the Content-Encoding; the body. The oracle is Python's gzip and zlib."""
    encoding, _, body = data.partition(b"\n")
    limit = 1 << 16
    try:
        unpacked = read_body(
            Request("POST", "/", headers=Fields({"content-encoding": encoding.decode("latin-1")}), body=body), limit
        )
    except HttpError as error:
        refused(error)
        return
    assert len(unpacked) <= limit
    kind = encoding.decode("latin-1").strip().lower()
    if kind in ("gzip", "x-gzip"):
        assert gzip.decompress(body) == unpacked
    elif kind == "deflate":
        assert zlib.decompress(body) == unpacked
    else:
        assert body == unpacked


@cache
def protobuf() -> Mapping[str, Any] | None:
    """Return TensorFlow's message classes; None in a process where its Python package must stay unimported."""
    if not os.environ.get("FUZZ_ORACLE"):
        return None
    import importlib.util
    import types

    spec = importlib.util.find_spec("tensorflow")
    if spec is None or not spec.submodule_search_locations:
        return None
    package = types.ModuleType("tensorflow")  # its messages import nothing but each other
    package.__path__, package.__spec__ = list(spec.submodule_search_locations), spec
    sys.modules.setdefault("tensorflow", package)
    from tensorflow.core.example import example_pb2
    from tensorflow.core.framework import tensor_pb2
    from tensorflow.core.protobuf import saved_model_pb2

    return {
        "SavedModel": saved_model_pb2.SavedModel,
        "Example": example_pb2.Example,
        "TensorProto": tensor_pb2.TensorProto,
    }


TARGETS: dict[str, Target] = {
    "json": json_,
    "open_inference": open_inference_,
    "raw": raw_,
    "examples": examples,
    "events": events,
    "saved_model": saved_model,
    "prediction_logs": prediction_logs,
    "settings": settings_,
    "packed": packed,
    "request": request,
    "native": native,
}


def prepare(name: str) -> None:
    """Do what a target does once and may take long, before its inputs are timed."""
    if name == "native":
        prepared()
