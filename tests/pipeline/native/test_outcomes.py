"""What an operator sees of the native codec: how many requests it answered, and why it declined the others."""

import json
from pathlib import Path
from typing import Any

import pytest

from serving.pipeline import accelerator
from serving.pipeline.accelerator import Tally
from serving.runtime import loading
from tests.conftest import ROOT, Serve
from tests.core.telemetry.asked import ask, exposed, scraped
from tests.pipeline.native.models import build

TENSOR = '"name":"x","shape":[1],"datatype":"FP32","data":[1]'

# fmt: off
DECLINED = [
    # model       body                                                              reason
    ("types",     '{"instances":[1',                                                "json"),
    ("types",     '{"instances":[1]} x',                                            "json"),
    ("types",     r'{"inst\u0061nces":[1]}',                                        "json"),
    ("types",     '{"other":[1]}',                                                  "member"),
    ("types",     '{"instances":[1],"parameters":{"on_error":"row"}}',              "member"),
    ("types",     '{"signature_name":"none","instances":[1]}',                      "signature"),
    ("types",     '{"instances":[{"z":1}]}',                                        "input"),
    ("several",   '{"instances":[{"a":1}]}',                                        "input"),
    ("several",   '{"instances":[{"a":1,"a":1,"b":[1,2]}]}',                        "input"),
    ("types",     '{"instances":[null]}',                                           "value"),
    ("types",     '{"instances":["1"]}',                                            "value"),
    ("types",     '{"signature_name":"int8","instances":[128]}',                    "value"),
    ("shapes",    '{"instances":[[1,2],[3]]}',                                      "shape"),
    ("shapes",    '{"instances":[1]}',                                              "shape"),
    ("types",     '{"instances":[1,2,3,4]}',                                        "limit"),
    ("strings",   '{"instances":["long"]}',                                         "limit"),
    ("pictures",  '{"instances":["GIF"]}',                                          "picture"),
    ("several",   '{"signature_name":"reduced","instances":[1]}',                   "result"),
    ("types",     '{"instances":[{"x":1,"key":[7]}]}',                              "value"),
    ("types",     '{"instances":[1],"parameters":{"top_k":1}}',                     "output"),
]
DECLINED_INFER = [  # TENSOR stands for the members of a good one
    # body                                                                          reason
    ('{"inputs":[{TENSOR}],"inputs":[{TENSOR}]}',                                   "member"),
    ('{"inputs":[{TENSOR,"other":1}]}',                                             "member"),
    ('{"inputs":[{TENSOR}],"parameters":{"signature_name":"other"}}',               "signature"),
    ('{"inputs":[{TENSOR}],"parameters":{"signature_name":"int8"}}',                "input"),
    ('{"inputs":[{"name":"x","shape":[1],"datatype":"FP64","data":[1]}]}',          "input"),
    ('{"inputs":[{"name":"x","shape":[2],"datatype":"FP32","data":[1]}]}',          "shape"),
    ('{"inputs":[{TENSOR}],"outputs":[{"name":"z"}]}',                              "output"),
    ('{"inputs":[{TENSOR}]}tail',                                                   "binary"),
]
# fmt: on


def quick(serve: Serve, extension: Path, name: str) -> accelerator.Quick:
    serve(build() / name, ACCELERATOR=str(extension), MAX_ROWS="3", MAX_STRING_BYTES="3")
    return accelerator.of(loading.cache().get())


@pytest.mark.parametrize(("name", "body", "reason"), DECLINED)
def test_a_declined_predict_body_has_one_reason(
    serve: Serve, extension: Path, name: str, body: str, reason: str
) -> None:
    assert quick(serve, extension, name).predict(body.encode()) == reason


@pytest.mark.parametrize(("body", "reason"), DECLINED_INFER)
def test_a_declined_infer_body_has_one_reason(serve: Serve, extension: Path, body: str, reason: str) -> None:
    body = body.replace("TENSOR", TENSOR)
    assert quick(serve, extension, "types").infer(body.encode(), len(body.removesuffix("tail"))) == reason


def test_every_reason_is_tested_and_explained(extension: Path) -> None:
    declines = set(accelerator._extension(extension).DECLINES)
    assert {reason for *_, reason in [*DECLINED, *DECLINED_INFER]} == declines - {"memory"}
    page = (ROOT / "docs" / "observing.md").read_text()
    own = {accelerator.ACCELERATED, accelerator.REFUSED, accelerator.OFF, accelerator.MODEL, accelerator.PROTOCOL,
           accelerator.QUERY, accelerator.LOGGED}  # fmt: skip
    assert [name for name in declines | own if f"| `{name}` |" not in page] == []


def test_an_answer_and_a_refusal_name_their_fields(serve: Serve, extension: Path) -> None:
    taken = quick(serve, extension, "several").predict(b'{"signature_name":"added","instances":[{"x":1,"y":2}]}')
    assert type(taken).__name__ == "Answer"
    assert [field for field in accelerator.Answer._fields if not hasattr(taken, field)] == []
    assert not isinstance(taken, str)
    assert (taken.body, taken.json_size, taken.rows) == (b'{"predictions":[3.0]}', 0, 1)
    assert taken.decoding <= taken.decoded <= taken.ran <= taken.encoded
    refused = quick(serve, extension, "unlike").predict(b'{"signature_name":"checked","instances":[0]}')
    assert type(refused).__name__ == "Refusal"
    assert refused.code == 3
    assert b"inverse" in refused.message


def test_requests_are_counted_by_their_outcome(serve: Serve, extension: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ask = serve(build() / "types", ACCELERATOR=str(extension))
    monkeypatch.setattr(accelerator, "tally", Tally())
    for body, query in [(b'{"instances":[1]}', ""), (b'{"instances":[2]}', ""), (b'{"instances":[null]}', ""),
                        (b'{"instances":[1]}', "?on_error=row")]:  # fmt: skip
        ask("POST", f"/v1/models/model:predict{query}", body)
    ask("POST", "/v1/models/model:classify", b"{}")
    assert accelerator.tally._counts == {"accelerated": 2, "value": 1, "query": 1, "protocol": 1}


def test_the_metrics_have_the_outcomes(serve: Serve, extension: Path) -> None:
    pytest.importorskip("prometheus_client")
    serve(build() / "types", ACCELERATOR=str(extension), METRICS="1")
    ask("GET", "/healthz")  # metrics begin with the first answer
    for number in (b"1", b"2", b"null"):
        ask("POST", "/", b'{"instances":[%b]}' % number)
    counts = scraped(exposed())
    assert counts["serving_native_requests_total", (("outcome", "accelerated"),)] == 2
    assert counts["serving_native_requests_total", (("outcome", "value"),)] == 1


def test_the_metrics_say_that_there_is_no_native_codec(serve: Serve) -> None:
    pytest.importorskip("prometheus_client")
    serve(build() / "types", ACCELERATOR="off", METRICS="1")
    ask("GET", "/healthz")
    ask("POST", "/", b'{"instances":[1]}')
    assert scraped(exposed())["serving_native_requests_total", (("outcome", "off"),)] == 1


def test_a_line_a_minute_says_how_many_were_accelerated(capsys: pytest.CaptureFixture[str]) -> None:
    tally, second = Tally(), 1_000_000_000
    for at, outcome in [(1, "accelerated"), (2, "value"), (30, "accelerated"), (60, "value"), (61, "query"), (62, "accelerated"),
                        (120, "off"), (120, "accelerated"), (121, "accelerated"), (122, "off")]:  # fmt: skip
        tally.add(outcome, at * second)
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    summary: list[tuple[Any, ...]] = [(line["message"], line["seconds"], line["others"]) for line in lines]
    assert summary == [
        ("the native codec answered 2 of 5 predictions", 60.0, {"value": 2, "query": 1}),
        ("the native codec answered 3 of 3 predictions", 60.0, {}),
    ]


def test_a_sampled_request_is_answered_by_python_and_logged(
    serve: Serve, extension: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    body = b'{"instances":[1]}'
    for share in ("0", "1"):
        serve(build() / "types", ACCELERATOR=str(extension), LOG_PREDICTIONS=share, METRICS="1")
        ask("GET", "/healthz")
        assert ask("POST", "/", body)[0] == 200
        outcome = "logged" if share == "1" else "accelerated"
        assert scraped(exposed())["serving_native_requests_total", (("outcome", outcome),)] == 1
    lines = [line for line in capsys.readouterr().out.splitlines() if '"message":"prediction"' in line]
    assert len(lines) == 1
