"""What one request may hold, what one process takes on, and what is said of what goes beyond."""

import base64
import http.client
import io
import json
import struct
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis
from hypothesis import strategies as st
from PIL import Image

from serving.core import machine
from serving.core.errors import DeadlineError
from serving.core.http import Response, TooLarge, Unavailable
from serving.core.settings import read
from serving.pipeline import limits
from serving.pipeline.limits import Admission
from serving.protocols.sizes import check_arrays
from serving.runtime import loading, model
from serving.savedmodel import images
from serving.savedmodel.safety.rewrite import string
from tests.conftest import Serve
from tests.models.zoo import build
from tests.server import Answer, Server, running

PREDICT, INFER = "/v1/models/model:predict", "/v2/models/model/infer"
HALF, MANY = build() / "versions" / "1", build() / "many_named"
CSV, LINES = {"content-type": "text/csv"}, {"content-type": "application/x-ndjson"}


def v2(name: str, shape: list[int], data: Any, **more: Any) -> bytes:
    tensor = {"name": name, "shape": shape, "datatype": "FP32", "data": data}
    return json.dumps({"inputs": [tensor], **more}).encode()


def nested(levels: int) -> bytes:
    return b'{"instances": [1.0], "ignored": ' + b"[" * (levels - 1) + b"]" * (levels - 1) + b"}"


# fmt: off
SIZES = [
    # settings                       path      body                                             headers  status  words
    ({"MAX_ROWS": "3"},              PREDICT,  b'{"instances": [1.0, 2.0, 3.0]}',               {},      200,  ""),
    ({"MAX_ROWS": "3"},              PREDICT,  b'{"instances": [1.0, 2.0, 3.0, 4.0]}',          {},      413,  "instances: expected at most 3 rows (MAX_ROWS), got 4"),
    ({"MAX_ROWS": "3"},              PREDICT,  b'{"inputs": [1.0, 2.0, 3.0, 4.0]}',             {},      413,  "x: expected at most 3 rows (MAX_ROWS), got 4"),
    ({"MAX_ROWS": "3"},              PREDICT,  b"1.0\n2.0\n3.0\n4.0\n",                         LINES,   413,  "lines: expected at most 3 rows (MAX_ROWS), got 4"),
    ({"MAX_ROWS": "3"},              PREDICT,  b"x\n1.0\n2.0\n3.0\n4.0\n",                      CSV,     413,  "lines: expected at most 3 rows (MAX_ROWS), got 4"),
    ({"MAX_ROWS": "3"},              INFER,    v2("x", [4], [1, 2, 3, 4]),                      {},      413,  "inputs[0].shape: expected at most 3 rows (MAX_ROWS), got 4"),
    ({"MAX_ELEMENTS": "3"},          PREDICT,  b'{"instances": [1.0, 2.0, 3.0]}',               {},      200,  ""),
    ({"MAX_ELEMENTS": "3"},          PREDICT,  b'{"instances": [1.0, 2.0, 3.0, 4.0]}',          {},      413,  "expected at most 3 elements (MAX_ELEMENTS), got 4"),
    ({"MAX_BODY_BYTES": "20"},       PREDICT,  b'{"instances": [1.0, 2.0]}',                    {},      413,  "body: expected at most 20 bytes (MAX_BODY_BYTES), got 25"),
    ({},                             PREDICT,  nested(32),                                      {},      200,  ""),
    ({},                             PREDICT,  nested(33),                                      {},      400,  "nested too deep: expected at most 32 levels (MAX_NESTING), got more"),
    ({"MAX_NESTING": "40"},          PREDICT,  nested(33),                                      {},      200,  ""),
    ({},                             PREDICT,  nested(1000),                                    {},      400,  "(MAX_NESTING)"),
    ({},                             PREDICT,  nested(200_000),                                 {},      400,  "(MAX_NESTING)"),
    ({},                             PREDICT,  b'{"a":' * 200_000,                              {},      400,  "(MAX_NESTING)"),
    ({},                             INFER,    v2("x", [1], [1], parameters={"a": json.loads("[" * 60 + "]" * 60)}), {}, 400, "(MAX_NESTING)"),
    ({},                             PREDICT,  b'{"instances": [1.0], "s": "' + b"[{" * 99 + b'"}', {},  200,  ""),
    ({},                             PREDICT,  b'{"instances": [1.0], "s": "\\"' + b"[" * 99 + b'"}', {}, 200,  ""),
    ({},                             PREDICT,  b'{"instances": [' + b"[1.0]," * 40 + b"[1.0]]}", {},     400,  "instances[0]: expected shape"),
    ({},                             PREDICT,  b'{"instances": [' + b"1" * 41 + b"]}",          {},      400,  "a number of 41 digits, expected at most 40"),
    ({},                             INFER,    v2("x", [1], [1.0], id="i" * 256),               {},      200,  ""),
    ({},                             INFER,    v2("x", [1], [1.0], id="i" * 257),               {},      413,  "id: expected at most 256 characters, got 257"),
]
# fmt: on


@pytest.mark.parametrize(("environment", "path", "body", "headers", "status", "words"), SIZES)
def test_a_size_has_its_limit(
    serve: Serve, environment: dict[str, str], path: str, body: bytes, headers: dict[str, str], status: int, words: str
) -> None:
    ask = serve(HALF, **environment)
    answer = ask("POST", path, body, **headers)
    assert answer.status == status, answer.body
    if status != 200:
        assert words in json.loads(answer.body)["error"]


def test_a_string_has_its_limit(serve: Serve) -> None:
    for size, status in ((100, 400), (101, 413)):  # no picture; too long
        answer = serve(MAX_STRING_BYTES="100")("POST", "/", {"instances": ["x" * size]})
        assert answer.status == status
    assert (
        "expected strings of at most 100 bytes (MAX_STRING_BYTES), got one of 101" in json.loads(answer.body)["error"]
    )


# Pictures


def saved(form: str, size: tuple[int, int], frames: int = 1, **options: Any) -> bytes:
    file = io.BytesIO()
    pictures = [Image.new("RGB", size, (7 * frame, 50, 99)) for frame in range(frames)]
    more = {"save_all": True, "append_images": pictures[1:]} if frames > 1 else {}
    pictures[0].save(file, form, **more, **options)
    return file.getvalue()


PICTURES = [
    # format   size        frames  options
    ("PNG",    (640, 480), 1,      {}),
    ("JPEG",   (640, 480), 1,      {}),
    ("JPEG",   (33, 4097), 1,      {"progressive": True, "exif": b"Exif\0\0" + b"\xff\xc0" * 99, "comment": b"\xff\xc0"}),
    ("GIF",    (640, 480), 1,      {}),
    ("GIF",    (64, 48),   7,      {}),
    ("BMP",    (640, 480), 1,      {}),
    ("WEBP",   (640, 480), 1,      {}),
    ("WEBP",   (640, 480), 1,      {"lossless": True}),
    ("WEBP",   (640, 480), 1,      {"exif": b"Exif\0\0"}),
    ("WEBP",   (64, 48),   5,      {}),
]  # fmt: skip


@pytest.mark.parametrize(("form", "size", "frames", "options"), PICTURES)
def test_a_header_tells_what_pillow_reads(
    form: str, size: tuple[int, int], frames: int, options: dict[str, Any]
) -> None:
    data = saved(form, size, frames, **options)
    with Image.open(io.BytesIO(data)) as read_by_pillow:
        wanted = (*read_by_pillow.size, getattr(read_by_pillow, "n_frames", 1))
    found = images.measure(data)
    assert found is not None
    assert (found.width, found.height, found.frames) == wanted
    assert images.measure(data[:-3]) is None or form != "PNG" or found.pixels  # what breaks off does not raise


@hypothesis(max_examples=500, deadline=None)
@given(
    st.sampled_from([b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF89a", b"BM", b"RIFF....WEBPVP8X", b""]), st.binary()
)
def test_any_bytes_may_call_themselves_a_picture(begin: bytes, rest: bytes) -> None:
    found = images.measure(begin + rest)
    assert found is None or found.pixels >= 0


def png(width: int, height: int) -> bytes:
    """Return a PNG's beginning: what it declares, and not the pixels."""
    head = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + head + struct.pack(">I", zlib.crc32(head))


def gif(width: int, height: int, frames: int) -> bytes:
    frame = b"\x2c" + struct.pack("<HHHHB", 0, 0, width, height, 0) + b"\x02\x02\x4c\x01\x00"
    return b"GIF89a" + struct.pack("<HHBBB", 8, 8, 0, 0, 0) + frame * frames + b";"


TOO_MANY = [
    # pictures                              words
    ([png(60_000, 60_000)],                 "got 60000 x 60000 (PNG)"),
    ([gif(5_000, 5_000, 40)],               "got 5000 x 5000 (GIF) in 40 frames"),
    ([png(5_000, 5_000)] * 3,               "got 5000 x 5000 (PNG), 75000000 with those before it"),
]  # fmt: skip


@pytest.mark.parametrize(("pictures", "words"), TOO_MANY)
def test_pictures_that_would_fill_the_memory_are_refused_by_their_headers(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, pictures: list[bytes], words: str
) -> None:
    ask = serve()
    runs: list[int] = []
    monkeypatch.setattr(model.Model, "run", lambda *_: runs.append(1))
    answer = ask("POST", "/", {"instances": [{"b64": base64.b64encode(one).decode()} for one in pictures]})
    assert (answer.status, runs) == (413, [])
    message = json.loads(answer.body)["error"]
    assert message.startswith("instances")
    assert "expected at most 50000000 pixels (MAX_PIXELS)" in message
    assert words in message


def test_what_a_graph_does_with_pictures_is_read_from_it(serve: Serve) -> None:
    serve()
    assert loading.cache().source().pictures == {"image"}
    serve(build() / "many_named")
    assert loading.cache().source().pictures == frozenset()
    assert images.operations(b"..DecodePng..ParseExampleV2..DecodeBase64") == {"image", "example", "base64"}
    assert images.operations(b"..ParseExampleV2..DecodeBase64") == frozenset()
    assert images.operations(b"..DecodeJxl..") == {"image"}


def example(*values: bytes, sequence: bool = False) -> bytes:
    """Return a serialized tf.Example, or a tf.SequenceExample, with these strings in one feature."""
    feature = string(1, *(string(1, value) for value in values))
    if sequence:
        return string(2, string(1, string(1, b"images"), string(2, string(1, feature))))
    return string(1, string(1, string(1, b"images"), string(2, feature)))


# fmt: off
JXL = b"\xff\x0a" + (8999 << 3 | 2 << 1 | 1 << 21).to_bytes(4, "little")  # 9000 x 9000, a bare codestream
INSIDE = [
    # string                                                 what the graph does               widths
    (png(9000, 9),                                           {"image"},                        [9000]),
    (example(png(9000, 9)),                                  {"image"},                        []),
    (example(png(9000, 9)),                                  {"image", "example"},             [9000]),
    (example(*[png(1, 1)] * 64, png(9000, 9)),               {"image", "example"},             [1] * 64 + [9000]),
    (example(png(9000, 9), sequence=True),                   {"image", "example"},             [9000]),
    (example(JXL),                                           {"image", "example"},             [9000]),
    (base64.urlsafe_b64encode(png(9000, 9)),                        {"image", "base64"},              [9000]),
    (example(base64.urlsafe_b64encode(png(9000, 9))),               {"image", "base64", "example"},   [9000]),
    (base64.urlsafe_b64encode(example(png(9000, 9))),               {"image", "base64", "example"},   [9000]),
    (example(png(9000, 9)) + b"\x0b",                        {"image", "example"},             [1 << 16]),  # broken
    (b"no example at all",                                   {"image", "example"},             []),
]
# fmt: on


@pytest.mark.parametrize(("data", "found", "widths"), INSIDE, ids=map(str, range(len(INSIDE))))
def test_pictures_are_found_where_the_graph_looks_for_them(data: bytes, found: set[str], widths: list[int]) -> None:
    assert [one.width for one in images.pictures(data, frozenset(found))] == widths


def test_the_pixels_of_all_inputs_count_together() -> None:
    inputs = {name: np.array([png(5000, 4000)], object) for name in ("a", "b", "c")}
    name, problem = limits.check_pictures(inputs, frozenset({"image"}), read({})) or ("", "")
    assert name == "c"
    assert "got 5000 x 4000 (PNG), 60000000 with those before it" in problem


# How many at a time


@pytest.fixture(autouse=True)
def _many_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "cores", lambda: 64)


def test_no_more_run_than_there_are_cores_and_one_unless_they_are_to_meet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "cores", lambda: 2)
    for environment, running_now, waiting in (({}, 3, 5), ({"BATCH_ROWS": "64"}, 8, 0), ({"THREADS": "1"}, 1, 0)):
        door = admission(**environment)
        assert (door._free, door._may_wait) == (running_now, waiting)


def admission(**environment: str) -> Admission:
    return Admission(read(environment))


def later(seconds: float) -> float:
    return time.monotonic() + seconds


def ago(seconds: float) -> float:
    return time.monotonic() - seconds


def experienced(took: float, **environment: str) -> Admission:
    """Return an admission that has seen requests that held their places for so long."""
    door = admission(**environment)
    for _ in range(limits.LEARNED):
        door.enter(later(60))
        door.leave(ago(took))
    return door


def queue(door: Admission, count: int) -> list[threading.Thread]:
    """Have so many requests wait, behind as many as run."""
    while door._free:
        door.enter(later(60))
    threads = [threading.Thread(target=lambda: door.leave(door.enter(later(60)))) for _ in range(count)]
    for number, thread in enumerate(threads):
        thread.start()
        while len(door._queue) <= number:
            time.sleep(0.0005)
    return threads


# fmt: off
WAITS = [
    # a request took   settings                                     requests that may wait
    (0.0001,           {"THREADS": "1"},                            limits.MOST_WAITING),
    (0.1,              {"THREADS": "1"},                            10),
    (0.1,              {"THREADS": "1", "MAX_WAIT": "0.5"},         5),
    (0.1,              {"THREADS": "4"},                            40),
    (60.0,             {"THREADS": "1"},                            0),
    (60.0,             {"THREADS": "1", "MAX_WAIT": "0"},           0),
]
# fmt: on


@pytest.mark.parametrize(("took", "environment", "count"), WAITS)
def test_as_many_wait_as_will_begin_in_time_and_the_next_is_refused(
    took: float, environment: dict[str, str], count: int
) -> None:
    door = experienced(took + 0.0005 if took > 0.001 else took, **environment)
    door._mean = took * 0.999  # the clock's own time is no part of this
    threads = queue(door, count)
    for refuse in (lambda: door.enter(later(60)), lambda: door.expect({})):
        with pytest.raises(Unavailable, match=rf"\(MAX_WAIT\), but {count} requests wait already.*try again"):
            refuse()
    for _ in range(door._running):
        door.leave(None)
    for thread in threads:
        thread.join()
    assert (door._free, len(door._queue)) == (door._running, 0)
    door.expect({})


def test_as_many_as_THREADS_are_taken_however_long_they_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "cores", lambda: 1)
    door = experienced(60.0, THREADS="8")
    threads = queue(door, 6)
    with pytest.raises(Unavailable, match="6 requests wait already, which will take 210 s"):
        door.expect({})
    for _ in range(2):
        door.leave(None)
    for thread in threads:
        thread.join()


def test_one_stall_refuses_nothing_and_slower_requests_are_learned() -> None:
    door = experienced(0.001, THREADS="1")
    for _ in range(3):
        door.enter(later(60))
        door.leave(ago(5.0))  # the machine stood still
    assert door._mean < 0.005
    for _ in range(100):
        door.enter(later(60))
        door.leave(ago(0.1))
    assert 0.08 < door._mean < 0.12


def test_the_first_requests_and_loads_refuse_nothing() -> None:
    door = admission(THREADS="1")
    for _ in range(limits.KNOWN - 1):
        door.enter(later(60))
        door.leave(ago(60))
    for _ in range(100):
        door.enter(later(60))
        door.leave(None)
    door.enter(later(60))
    door.expect({})


def test_those_who_wait_come_in_their_order() -> None:
    door, order = admission(THREADS="1"), list[str]()
    door.enter(later(60))

    def come(name: str) -> None:
        began = door.enter(later(60))
        order.append(name)
        door.leave(began)

    threads = []
    for name in ("first", "second"):
        threads.append(threading.Thread(target=come, args=(name,)))
        threads[-1].start()
        while len(door._queue) < len(threads):
            time.sleep(0.001)
    door.leave(None)
    for thread in threads:
        thread.join()
    assert order == ["first", "second"]
    assert (door._free, len(door._queue)) == (1, 0)


def test_a_request_that_has_waited_too_long_does_not_begin_and_leaves_no_trace() -> None:
    door = admission(THREADS="1")
    door.enter(later(60))
    with pytest.raises(DeadlineError):
        door.enter(later(0.02))
    with pytest.raises(DeadlineError):
        door.enter(later(-1))
    assert not door._queue
    door.leave(None)
    door.enter(later(1))
    assert door._free == 0


def test_many_threads_never_run_more_than_may_and_lose_no_place() -> None:
    door, running_now, most = admission(THREADS="3"), [0], [0]
    lock = threading.Lock()

    def come(number: int) -> None:
        for turn in range(50):
            try:
                began = door.enter(later(0.001 if (number + turn) % 3 == 0 else 60))
            except DeadlineError:
                continue
            with lock:
                running_now[0] += 1
                most[0] = max(most[0], running_now[0])
            time.sleep(0.0002)
            with lock:
                running_now[0] -= 1
            door.leave(began)

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(come, range(16)))
    assert most[0] == 3
    assert (door._free, len(door._queue)) == (3, 0)


def test_large_bodies_together_have_a_limit() -> None:
    door = admission(MAX_BODY_BYTES=str(1 << 19))

    class Endless:
        def read(self, size: int) -> bytes:
            return bytes(size)

    one, other = (limits.Metered(Endless(), door) for _ in range(2))
    assert sum(len(one.read(4 << 20)) for _ in range(7)) == 7 << 20
    other.read(1 << 20)
    with pytest.raises(Unavailable, match="other large bodies"):
        other.read(1)
    one.close()
    other.read(1 << 20)
    other.close()
    assert door._bytes == 0


def test_bodies_and_inputs_have_a_share_of_the_containers_memory(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    assert limits.memory_share() > 1 << 40  # there is no limit here
    monkeypatch.setattr(limits.machine, "memory_limit", lambda: 4 << 20)
    assert admission()._most_bytes == 1 << 20
    ask = serve(HALF, MAX_BODY_BYTES="2000000")
    for count, status in ((1 << 18, 200), ((1 << 18) + 1, 413)):
        head = v2("x", [count], [], parameters={}).replace(
            b'"data": []', b'"parameters": {"binary_data_size": %d}' % (4 * count)
        )
        answer = ask("POST", INFER, head + bytes(4 * count), **{"Inference-Header-Content-Length": str(len(head))})
        assert answer.status == status, answer.body[:200]
    assert b"inputs of at most 1048576 bytes (1/4 of the container's memory), got 1048580" in answer.body
    with pytest.raises(TooLarge, match="1/4 of the container's memory"):
        limits.check_memory(check_arrays({"x": np.array([b"x" * 1000] * 1000, object)}, read({})))


def test_a_process_whose_runs_never_end_says_so_and_ends(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Ended(Exception): ...

    def end(status: int) -> None:
        raise Ended(status)

    monkeypatch.setattr(limits.os, "_exit", end)
    door = admission(THREADS="1", REQUEST_TIMEOUT="1")
    door.enter(later(60))
    with pytest.raises(Ended, match="70"):
        door.enter(door.expect({}))
    assert "this worker cannot recover and ends: 1 requests run and none has ended in 1 s" in capsys.readouterr().out
    with pytest.raises(DeadlineError):
        door.enter(door.expect({"x-request-timeout": "0.05"}))  # it is the client who did not wait


# Through the handler


class Slow:
    """A model whose runs last until they are let go."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.go, self.begun = threading.Event(), 0
        run = model.Model.run

        def wait(*arguments: Any) -> Any:
            self.begun += 1
            assert self.go.wait(30)
            return run(*arguments)

        monkeypatch.setattr(model.Model, "run", wait)


@pytest.fixture
def busy(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Callable[..., Response], Slow]]:
    """Serve with one request running; the others wait or are refused."""
    ask = serve(HALF, THREADS="1", MAX_WAIT="0.5")
    assert ask("POST", "/", {"instances": [1.0]}).status == ask("GET", "/readyz").status == 200
    slow = Slow(monkeypatch)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(ask, "POST", "/", {"instances": [1.0]})
        while not slow.begun:
            time.sleep(0.001)
        yield ask, slow
        slow.go.set()
        assert first.result().status == 200
    assert ask("POST", "/", {"instances": [1.0]}).status == 200


def test_a_deadline_that_passes_while_waiting_is_504_and_the_model_does_not_begin(busy: Any) -> None:
    ask, slow = busy
    answer = ask("POST", "/", {"instances": [1.0]}, x_request_timeout="0.05")
    assert (answer.status, slow.begun) == (504, 1)
    assert "the model did not begin" in json.loads(answer.body)["error"]


def test_one_too_many_is_refused_unread_and_health_is_told(busy: Any) -> None:
    ask, slow = busy

    class Unread:
        def read(self, size: int) -> bytes:
            raise AssertionError("a refused body is not read")

    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(ask, "POST", "/", {"instances": [1.0]})
        while not limits.admission()._queue:
            time.sleep(0.001)
        from serving.core.http import Request
        from serving.pipeline.handler import handle

        limits.admission()._mean, limits.admission()._known = 0.3, limits.KNOWN
        for path in ("/", PREDICT, INFER):
            answer = handle(Request("POST", path, body=Unread(), length=100))
            assert answer.status == 503
            assert ("Retry-After", "1") in answer.headers
            assert "(MAX_WAIT)" in json.loads(answer.body)["error"]
        assert ask("GET", "/readyz").status == ask("GET", "/healthz").status == 200
        slow.go.set()
        assert waiting.result().status == 200


@pytest.mark.parametrize("value", ["", "soon", "-1", "1e3", "nan", "9" * 30])
def test_a_deadline_that_is_no_number_is_refused(serve: Serve, value: str) -> None:
    answer = serve(HALF)("POST", "/", {"instances": [1.0]}, x_request_timeout=value)
    assert answer.status == 400
    assert json.loads(answer.body)["error"].startswith("X-Request-Timeout: expected seconds as a decimal number, got")


def test_the_platforms_timeout_stands_in_for_ours() -> None:
    assert read({"CLOUD_RUN_TIMEOUT_SECONDS": "60"}).request_timeout == 60
    assert read({"CLOUD_RUN_TIMEOUT_SECONDS": "60", "REQUEST_TIMEOUT": "5"}).request_timeout == 5
    assert read({"CLOUD_RUN_TIMEOUT_SECONDS": "0"}).request_timeout == 300


# Through both doors


@pytest.fixture(scope="module", params=["functions-framework", "standalone"])
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    with running(request.param, THREADS="1", MAX_WAIT="0.3") as started:
        assert started.ask("GET", "/readyz").status == 200
        yield started


def test_more_than_can_begin_in_time_are_refused_while_good_ones_are_answered(
    server: Server, examples: dict[str, Any]
) -> None:
    rows = json.dumps({"signature_name": "pixels", "instances": examples["pixels"]["instances"] * 2_000}).encode()

    def ask(_: int) -> Answer:
        return server.ask("POST", "/", rows)

    assert [ask(0).status for _ in range(limits.KNOWN + 1)] == [200] * (limits.KNOWN + 1)
    with ThreadPoolExecutor(48) as pool:
        answers = list(pool.map(ask, range(48)))
    by_status = {status: [one for one in answers if one.status == status] for status in (200, 503)}
    assert len(by_status[200]) + len(by_status[503]) == 48
    assert by_status[200]
    assert by_status[503]
    for refused in by_status[503]:
        assert (refused.headers["retry-after"], refused.headers["content-type"]) == ("1", "application/json")
        assert "(MAX_WAIT)" in refused.json["error"]
    assert server.ask("POST", "/", examples["pixels"]).status == 200


@pytest.mark.parametrize("door", ["functions-framework", "standalone"])
@pytest.mark.parametrize(("count", "more"), [(64, {}), (256, {"MAX_WAIT": "60"})], ids=["64", "256"])
def test_many_connections_to_a_small_model_are_all_answered(door: str, count: int, more: dict[str, str]) -> None:
    body = b'{"instances": [1.0]}'

    def ask(_: int) -> list[int]:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
        statuses = []
        for _ in range(10):
            connection.request("POST", "/", body)
            response = connection.getresponse()
            statuses.append(response.status if response.read() else 0)
        connection.close()
        return statuses

    with running(door, HALF, **more) as server, ThreadPoolExecutor(count) as pool:
        assert [status for statuses in pool.map(ask, range(count)) for status in statuses] == [200] * 10 * count


def test_a_large_refused_body_is_answered_and_not_reset(server: Server) -> None:
    for size in (9 << 20, 40 << 20):
        answer = server.ask("POST", "/", b" " * size)
        assert (answer.status, "(MAX_BODY_BYTES)" in answer.json["error"]) == (413, True)
    answer = server.ask("POST", "/nothing", b" " * (5 << 20))
    assert answer.status == 404


# 100 × 37, written by libjxl: a bare codestream, and one in a file of boxes.
BARE = b"/wogAcaApLgRABOIAgD4ALWfIAAAFSqjjBu8nOv58kOHxbSN6wxttW1hCWOzvTBICIAKkfF41yhOQAAAuBOKwSJkAFgURE0sCqBwspIE"
BOXES = b"AAAADEpYTCANCocKAAAAFGZ0eXBqeGwgAAAAAGp4bCAAAABWanhsY" + b"/8KIAHGgKS4EQATiAIA+AC1nyAAABUqo4wbvJzr+fJDh8W0jesMbbVtYQljs70wSAiACpHxeNcoTkAAALgTisEiZABYFERNLAqgcLKSBA=="  # fmt: skip


@pytest.mark.parametrize("written", [BARE, BOXES])
def test_a_jpeg_xl_says_its_size_too(serve: Serve, written: bytes) -> None:
    data = base64.b64decode(written)
    assert images.measure(data) == ("JPEG XL", 100, 37, 1)
    for size in range(len(data)):
        images.measure(data[:size])  # raises nothing
    body = json.dumps({"instances": [{"b64": written.decode()}]}).encode()
    answer = serve(MAX_PIXELS="3699")("POST", "/", body)
    assert (answer.status, b"100 x 37 (JPEG XL)" in answer.body) == (413, True)
    assert serve(MAX_PIXELS="3700")("POST", "/", body).status == 200
