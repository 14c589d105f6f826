"""`python -m serving verify`: each check finds its kind of fault, and a server without faults passes."""

import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serving.__main__ import main
from serving.core.dtypes import by_code
from serving.protocols import requests
from serving.savedmodel import examples, parsing
from serving.savedmodel.signature import Signature, TensorSpec
from tests.conftest import EMBEDDED, ROOT
from tests.models.zoo import ZOO, absent, build, cases
from tests.server import serving
from tools.verify.compare import described, tolerance

# ---------------------------------------------------------------------------- a server that can be made to fail


class Fake:
    """Answers y = 2 x to TensorFlow Serving's requests, but for the fault that it is given."""

    def __init__(self, fault: str = "") -> None:
        self.fault, self.lock = fault, threading.Lock()
        self.answered = self.errors = self.running = 0
        self.last = ""

    def predict(self, body: bytes) -> tuple[int, Any]:
        try:
            asked = json.loads(body)
            rows = [float(row) for row in asked["instances"]]
            if not rows or set(asked) != {"instances"}:
                raise ValueError
        except (ValueError, KeyError, TypeError, RecursionError):
            self.errors += 1
            return 400, {"error": "no" if self.fault != "refuses otherwise" else f"no, for the {self.errors}. time"}
        factor = {
            "counts": 2.0 + self.answered,
            "tires": 2.0 if self.answered < 250 else 3.0,
            "remembers errors": 2.0 if not self.errors else 3.0,
            "mixes rows": 2.0 + 0.5 * (len(rows) > 1),
            "rounds": 2.0 + 1e-6 * (len(rows) > 1),
            "has company": 2.0 if self.running < 2 else 3.0,
            "knows the order": 2.0 if body >= self.last.encode() else 3.0,
        }.get(self.fault, 2.0)
        self.last = body.decode()
        self.answered += 1
        predictions = [factor * row for row in rows]
        left_out = {"drops every row": 0, "drops rows of batches": 1}.get(self.fault)
        return 200, {"predictions": predictions[:left_out]}


METADATA = {"metadata": {"signature_def": {"signature_def": {"serving_default": {
    side: {name: {"dtype": "DT_FLOAT", "tensor_shape": {"dim": [{"size": "-1"}]}, "name": f"{name}:0"}}
    for side, name in (("inputs", "x"), ("outputs", "y"))
}}}}}  # fmt: skip


@contextmanager
def fake(fault: str = "", events: bool = False) -> Iterator[str]:
    """Serve on a free port; give the address."""
    model = Fake(fault)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1  # head and body in one packet

        def log_message(self, *_: Any) -> None: ...

        def answer(self, status: int, value: Any) -> None:
            body = json.dumps(value, separators=(",", ":")).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_GET(self) -> None:
            self.answer(200, {"models": ["m"]} if self.path == "/v1/models" else METADATA)

        def do_POST(self) -> None:
            size = int(self.headers["Content-Length"])
            body = self.rfile.read(size)
            if len(body) < size:  # the client went away
                self.close_connection = True
                return
            with model.lock:
                model.running += 1
            if model.fault == "has company":
                threading.Event().wait(0.002)
            if self.path == "/v1/models/m:predict" or (self.path == "/events" and events):
                with model.lock:
                    status, value = model.predict(body)
                if self.path == "/events" and model.fault == "events differ":
                    value = {"predictions": []}
            else:
                status, value = 404, {"error": "there is no such path"}
            with model.lock:
                model.running -= 1
            self.answer(status, value)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    with serving(server):
        yield f"http://127.0.0.1:{server.server_port}"


def verdicts(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, dict[str, str], dict[str, Any]]:
    """Run the command; return its status, the verdict of each check and the whole answer."""
    capsys.readouterr()
    status = main(["verify", "--quick", "--json", *arguments])
    report = json.loads(capsys.readouterr().out)
    return status, {check["check"]: check["verdict"] for check in report["checks"]}, report


BATCH = "batch, serving_default"
FAULTS = [
    # what the server does     the checks that have to see it; the others may not
    ("",                       set()),
    ("counts",                 {"again", "order", "instance", "beside", "others", "errors", "event", BATCH}),
    ("knows the order",        {"order", "instance", "beside"}),
    ("has company",            {"beside"}),
    ("tires",                  {"others", "errors", "event"}),
    ("remembers errors",       {"errors", "event"}),
    ("refuses otherwise",      {"errors"}),
    ("mixes rows",             {BATCH}),
    ("events differ",          {"event"}),
]  # fmt: skip


@pytest.mark.parametrize(("fault", "seen"), FAULTS)
def test_each_fault_is_found_by_the_checks_for_it(
    fault: str, seen: set[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with fake(fault, events=True) as url:
        status, by_check, whole = verdicts(capsys, "--url", url, "--url", url, "--others", "300")
    assert status == (1 if seen else 0)
    assert whole["stateless"] is (not seen)
    differing = {check for check, verdict in by_check.items() if verdict == "differs"}
    if fault == "knows the order":  # a request after itself, or after another: who else meets that is left open
        assert "order" in differing
    else:
        assert differing == seen
    assert set(by_check) == {"again", "order", "instance", "beside", "others", "errors", "event", BATCH}


def test_a_differing_second_instance_is_found(capsys: pytest.CaptureFixture[str]) -> None:
    with fake() as first, fake("mixes rows") as second, fake("counts") as third:
        assert verdicts(capsys, "--url", first, "--url", second)[1]["instance"] == "same"  # rows come alone there
        status, by_check, whole = verdicts(capsys, "--url", first, "--url", third)
    assert (status, by_check["instance"], by_check["beside"]) == (1, "differs", "same")
    detail = next(check["detail"] for check in whole["checks"] if check["check"] == "instance")
    assert "y by " in detail  # the output is named, though the answer does not name it


def test_rounding_in_a_batch_is_reported_and_allowed_within_the_tolerance(capsys: pytest.CaptureFixture[str]) -> None:
    with fake("rounds") as url:
        status, by_check, whole = verdicts(capsys, "--url", url)
        strict = verdicts(capsys, "--url", url, "--tolerance", "1e-7")
    assert (status, by_check[BATCH], whole["stateless"]) == (0, "rounds", True)
    (detail,) = [check["detail"] for check in whole["checks"] if check["check"] == BATCH]
    assert detail.startswith("y by at most 5.0e-07 of its largest value")
    assert (strict[0], strict[1][BATCH]) == (1, "differs")


@pytest.mark.parametrize(
    ("fault", "detail"),
    [("drops every row", "no row is answered alone"), ("drops rows of batches", "8 rows together: 1 predictions")],
)
def test_a_model_that_drops_rows_is_not_compared_in_batches(
    fault: str, detail: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with fake(fault) as url:
        status, by_check, whole = verdicts(capsys, "--url", url)
    assert (status, by_check[BATCH]) == (0, "untested")
    assert detail in next(check["detail"] for check in whole["checks"] if check["check"] == BATCH)


def test_the_generated_strings_of_an_unknown_rank_are_few() -> None:
    signature = Signature("serve", {"x": spec("x", 7, None)}, {}, "")
    random = np.random.default_rng(3)
    tries = [examples.made(signature, recipe, 8, random) for recipe in examples.recipes(signature, parsing.GUESSES)]
    assert sum(inputs["x"].size for inputs in tries if inputs is not None) < 100_000


def test_checks_that_cannot_be_made_are_reported(capsys: pytest.CaptureFixture[str]) -> None:
    with fake() as url:
        status, by_check, _ = verdicts(capsys, "--url", url)
    assert (status, by_check["instance"], by_check["event"]) == (0, "untested", "untested")


def test_the_table_lists_each_check(capsys: pytest.CaptureFixture[str]) -> None:
    with fake("counts") as url:
        assert main(["verify", "--quick", "--url", url, "--others", "20"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"{url} (m): 3 requests"
    assert [line.split()[:2] for line in lines[3:6]] == [
        ["again", "differs"],
        ["order", "differs"],
        ["instance", "untested"],
    ]
    assert lines[-1].startswith("NOT STATELESS: 6 of ")


# ---------------------------------------------------------------------------- wrong arguments

WRONG = [
    # arguments                                    what is said
    (["--url", "localhost:8080"],                  "--url: expected http://HOST:PORT or https://HOST, got 'localhost:8080'"),
    (["--url", "http://127.0.0.1:9"],              "no answer from http://127.0.0.1:9/v1/models"),
    (["no/such/folder"],                           "no/such/folder"),
    ([str(EMBEDDED), "--header", "a: b"],          "--header: expected --url with it"),
    ([str(EMBEDDED), "--signature", "pixel"],      "--signature: expected one of pixels, serving_default, got 'pixel'"),
]  # fmt: skip


@pytest.mark.parametrize(("arguments", "message"), WRONG)
def test_nothing_to_verify_is_status_2(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", *arguments]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["--others", "0"], ["--tolerance", "2"], ["--header", "x"], ["--no-such"]])
def test_wrong_options_are_status_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["verify", *arguments])
    assert ended.value.code == 2
    assert "expected" in (printed := capsys.readouterr().err) or "unrecognized" in printed


def test_the_help_shows_an_example_and_the_exit_status() -> None:
    command = [sys.executable, "-m", "serving", "verify", "--help"]
    shown = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert "python -m serving verify model/" in shown
    assert "0 stateless, 1 not stateless, 2 not verified" in shown


# ---------------------------------------------------------------------------- real models on real instances


def test_the_embedded_model_is_stateless_online_as_an_event_and_in_a_file(capsys: pytest.CaptureFixture[str]) -> None:
    status, by_check, whole = verdicts(capsys, str(EMBEDDED))
    assert status == 0, whole
    signatures = ("pixels", "serving_default")
    assert {check: verdict for check, verdict in by_check.items() if not check.startswith("batch")} == dict.fromkeys(
        [
            "graph",
            "again",
            "order",
            "instance",
            "beside",
            "others",
            "errors",
            "event",
            *(f"file, {signature}" for signature in signatures),
        ],
        "same",
    )
    assert {by_check[f"batch, {signature}"] for signature in signatures} <= {"same", "rounds"}


@pytest.mark.parametrize(("name", "op"), [("counter", "AssignAddVariableOp"), ("random_stateful", "RandomUniform")])
def test_an_impure_model_is_found_by_its_graph_and_by_its_answers(
    name: str, op: str, capsys: pytest.CaptureFixture[str]
) -> None:
    status, by_check, whole = verdicts(capsys, str(build() / name), "--others", "20")
    assert status == 1
    assert op in whole["checks"][0]["detail"]
    for check in ("graph", "again", "order", "instance", "beside", "others", "errors", "event"):
        assert by_check[check] == "differs", check


def with_examples(name: str, folder: Path) -> Path:
    """Copy a model of the zoo, and put what it was asked there beside it, as an exporter does."""
    copy = folder / name
    shutil.copytree(build() / name, copy)
    examples: dict[str, Any] = {}
    for case in cases(name):
        if case["outputs"] is not None and case["signature"] not in examples:
            inputs = {key: requests.as_json(np.asarray(value, object if isinstance(value, bytes) else None))
                      for key, value in case["inputs"].items()}  # fmt: skip
            examples[case["signature"]] = {"signature_name": case["signature"], "inputs": inputs}
    (copy / "assets.extra").mkdir(exist_ok=True)
    (copy / "assets.extra" / "examples.json").write_text(json.dumps(examples))
    return copy


# Not served at all, or by no plain array; complex numbers, which JSON lacks.
NOT_SERVED = {"py_function", "ragged_output", "float8", "tf1_sparse_input", "dtype_complex64", "dtype_complex128"}
MIXED = {"custom_op"}  # it zeroes all rows but the first
LONG = os.environ.get("VERIFY_ZOO") == "1"
PURE = [name for name in ZOO if name not in {"counter", "random_stateful"} | NOT_SERVED | MIXED]


@pytest.mark.parametrize("name", PURE if LONG else ["parse_example"])
def test_a_pure_model_is_stateless(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if reason := absent(name):
        pytest.skip(reason)
    status, _, whole = verdicts(capsys, str(with_examples(name, tmp_path)), "--others", "50")
    assert status == 0, whole
    assert whole["requests"] > 0


# ---------------------------------------------------------------------------- its parts


def spec(name: str, code: int, shape: tuple[int | None, ...] | None) -> TensorSpec:
    return TensorSpec(name, by_code(code), shape, f"{name}:0")


SHAPES = [
    # dtype  declared             rows  got
    (1,      (None,),             3,    (3,)),
    (1,      (None, 8, None),     2,    (2, 8, 4)),
    (9,      (2, 3),              1,    (2, 3)),
    (7,      (None, 1),           2,    (2, 1)),
    (10,     (),                  1,    ()),
    (4,      None,                2,    (2,)),
]  # fmt: skip


@pytest.mark.parametrize(("code", "shape", "rows", "got"), SHAPES)
def test_generated_inputs_fit_the_signature_and_are_reproducible(
    code: int, shape: tuple[int | None, ...] | None, rows: int, got: tuple[int, ...]
) -> None:
    signature = Signature("serve", {"x": spec("x", code, shape)}, {}, "")
    recipe = next(examples.recipes(signature, parsing.GUESSES))
    first, second = (examples.made(signature, recipe, rows, np.random.default_rng(3)) or {} for _ in range(2))
    assert first["x"].shape == got
    assert first["x"].dtype == by_code(code).numpy
    assert first["x"].tolist() == second["x"].tolist()


def test_generated_pictures_can_be_decoded() -> None:
    image = pytest.importorskip("PIL.Image")
    import io

    for side, channels, mode in ((8, 1, "L"), (32, 3, "RGB")):
        made = image.open(io.BytesIO(parsing.png(side, np.random.default_rng(1), channels)))
        made.load()
        assert (made.size, made.mode) == ((side, side), mode)


def test_a_difference_names_its_output() -> None:
    signature = Signature("s", {}, {"y": spec("y", 1, (None,)), "half": spec("half", 19, (None,))}, "")
    first, second = b'{"predictions":[{"y":1.0,"half":2.0}]}', b'{"predictions":[{"y":1.5,"half":2.0}]}'
    assert described(first, second, signature) == "y by 3.3e-01 of its largest value"
    assert described(b'{"outputs":[[1]]}', b'{"outputs":[["x"]]}') == "the answer differs"
    assert described(b'{"outputs":[1]}', b'{"outputs": [1]}') == "the same values, written differently"
    assert (tolerance(signature, "y", 1e-4), tolerance(signature, "half", 1e-4)) == (1e-4, 1e-2)


def test_a_deployed_function_says_that_verify_is_not_included(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "tools"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "tools", None)  # cannot be imported
    with pytest.raises(ModuleNotFoundError):
        import tools.verify.command  # noqa: F401
    assert main(["verify"]) == 2
    assert "the tools/ folder is not here" in capsys.readouterr().err
