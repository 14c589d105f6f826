"""The storage client, against a real fake-gcs-server and over connections that break."""

import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from serving.core import storage as subject
from serving.core.storage import NotThere, Object, Storage, StorageError
from tests.events.emulators import Fault, Store, line, storage
from tests.server import serving

CONTENT = bytes(range(256)) * 16384  # 4 MiB


@pytest.fixture(scope="module")
def store() -> Iterator[Store]:
    with storage() as running:
        running.bucket("box")
        yield running


@pytest.fixture(autouse=True)
def _hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subject, "PAUSES", (0.0, 0.0, 0.0))


NAMES = ["a", "a b", "in/a?b#c%2F+d&e=f", "wasser/水.jsonl", "'\"\\", "x" * 1000]


@pytest.mark.parametrize("name", NAMES)
def test_what_is_written_is_read_back(store: Store, name: str) -> None:
    client = Storage(store.address)
    assert client.write("box", name, CONTENT, "text/plain", {"rows": "5", "who": "水"})
    assert store.get("box", name) == CONTENT
    item = client.stat("box", name)
    assert (item.name, item.size, item.content_type) == (name, len(CONTENT), "text/plain")
    assert item.metadata == {"rows": "5", "who": "水"}
    assert item.generation == store.about("box", name)["generation"]
    assert b"".join(client.read(item)) == CONTENT
    assert b"".join(client.read(item, 1_000_001)) == CONTENT[1_000_001:]
    assert name in [other.name for other in client.list("box", name[:1])]
    client.delete("box", name)
    client.delete("box", name)
    assert name not in store.names("box")


def test_a_second_writer_fails_and_changes_nothing(store: Store) -> None:
    client = Storage(store.address)
    assert client.write("box", "one", b"first", "text/plain", {})
    assert not client.write("box", "one", b"second", "text/plain", {})
    assert store.get("box", "one") == b"first"
    assert client.write("box", "one", b"third", "text/plain", {}, new=False)
    assert store.get("box", "one") == b"third"


def test_every_new_object_is_written_with_a_precondition(store: Store) -> None:
    with line(store.address, Fault("POST", "/compose", 412)) as through:
        client = Storage(through.address)
        client.write("box", "part", b"x", "text/plain", {})
        assert not client.compose("box", "composed", ["part"], "text/plain", {})
        assert client.compose("box", "composed", ["part", "part"], "text/plain", {"rows": "2"})
    writes = [path for method, path, _ in through.asked if method == "POST"]
    assert len(writes) == 3
    assert all(path.endswith("ifGenerationMatch=0") for path in writes)
    assert store.get("box", "composed") == b"xx"
    assert store.about("box", "composed")["metadata"] == {"rows": "2"}


def test_an_interrupted_download_resumes_where_it_stopped(store: Store) -> None:
    store.put("box", "long", CONTENT)
    faults = [Fault("GET", "alt=media", 0, 3), Fault("GET", "alt=media", 503, 1)]
    with line(store.address, *faults) as through:
        client = Storage(through.address)
        assert b"".join(client.read(client.stat("box", "long"))) == CONTENT
    ranges = [headers.get("Range") for _, path, headers in through.asked if "alt=media" in path]
    assert len(ranges) == 5
    assert ranges[0] is None
    assert all(wanted and wanted != "bytes=0-" for wanted in ranges[1:])


def test_transient_errors_are_retried_and_permanent_ones_raised(store: Store) -> None:
    with line(store.address, Fault("POST", "upload", 503, 2), Fault("POST", "upload", 429)) as through:
        assert Storage(through.address).write("box", "stubborn", b"x", "text/plain", {})
    with (
        line(store.address, Fault("POST", "upload", 503, 9)) as through,
        pytest.raises(StorageError, match="gs://box/never cannot be written: the server answers 503"),
    ):
        Storage(through.address).write("box", "never", b"x", "text/plain", {})
    assert len(through.asked) == 4
    with (
        line(store.address, Fault("POST", "upload", 403, 9)) as through,
        pytest.raises(StorageError, match="the server answers 403"),
    ):
        Storage(through.address).write("box", "never", b"x", "text/plain", {})
    assert len(through.asked) == 1


MISSING = [
    # bucket     name      generation
    ("box",      "none",   None),
    ("box",      "there",  "5"),
    ("no-box",   "there",  None),
]  # fmt: skip


@pytest.mark.parametrize(("bucket", "name", "generation"), MISSING)
def test_a_missing_object_has_an_error_of_its_own(store: Store, bucket: str, name: str, generation: str | None) -> None:
    store.put("box", "there", b"x")
    client = Storage(store.address)
    with pytest.raises(NotThere, match="404"):
        client.stat(bucket, name, generation)
    with pytest.raises(NotThere):
        list(client.read(Object(bucket, name, generation or "5", 1, "", "", {})))


class _Cloud(BaseHTTPRequestHandler):
    """The service and the metadata server in one, for what fake-gcs-server has not: tokens, and lists in pages."""

    asked: list[tuple[str, str | None]] = []  # noqa: RUF012

    def do_GET(self) -> None:
        self.asked.append((self.path, self.headers.get("Authorization") or self.headers.get("Metadata-Flavor")))
        answer: dict[str, Any] = {"name": "x", "size": "3"}
        if self.path == "/token":
            answer = {"access_token": "secret", "expires_in": 3000}
        elif "pageToken=&" in f"{self.path}&":
            answer = {"items": [{"name": "a"}, {"name": "b"}], "nextPageToken": "n&2"}
        elif "pageToken=n%262" in self.path:
            answer = {"items": [{"name": "c"}]}
        body = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def cloud(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Be the service and the metadata server."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Cloud)
    base = f"http://127.0.0.1:{server.server_address[1]}"
    monkeypatch.setattr(subject, "API", base)
    monkeypatch.setattr(subject, "TOKEN", f"{base}/token")
    monkeypatch.setattr(subject, "_known", ("", 0.0))
    _Cloud.asked.clear()
    with serving(server):
        yield


@pytest.mark.usefixtures("cloud")
def test_a_long_listing_is_read_page_by_page() -> None:
    assert [item.name for item in Storage(token="mine").list("box", "p/")] == ["a", "b", "c"]


@pytest.mark.usefixtures("cloud")
def test_requests_carry_the_platforms_token_which_is_cached() -> None:
    for _ in range(2):
        assert Storage().stat("box", "x").size == 3
    assert Storage(token="mine").stat("box", "x").size == 3
    assert [credential for _, credential in _Cloud.asked] == ["Google", "Bearer secret", "Bearer secret", "Bearer mine"]
