"""The whole chain: an object, its notification, a topic, a push, the real functions-framework, the output object."""

import http.client
import json
import os
import random
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import psutil
import pytest

from serving import scoring
from tests.conftest import Serve
from tests.events.emulators import Store, pubsub, storage
from tests.harness.waiting import until
from tests.models.zoo import build
from tests.server import Server, running
from tests.servers.commands.test_score import pictures

KILLS = int(os.environ.get("KILLS", "4"))  # `make soak` sets more
FINALIZED = "google.cloud.storage.object.v1.finalized"
# Two rows and more have the same bytes in any company, and 64 at once are quicker.
OPTIONS: Any = {"SCORE_OPTIONS": "signature_name=pixels", "SCORE_BATCH_ROWS": "64", "EVENT_OUTPUT": "gs://box/out"}


@pytest.fixture(scope="module")
def store() -> Iterator[Store]:
    with storage() as running_store:
        running_store.bucket("box")
        yield running_store


class Delivery(threading.Thread):
    """An event about an object, delivered as Eventarc does; `status` is the answer's, 0 where none came."""

    def __init__(self, server: Server, name: str, generation: str) -> None:
        super().__init__()
        self.status = 0
        self._server, self._name, self._generation = server, name, generation
        self.start()

    def run(self) -> None:
        data = {"bucket": "box", "name": self._name, "generation": self._generation, "metageneration": "1"}
        headers = {
            "ce-specversion": "1.0", "ce-id": f"{self._name}-{self._generation}", "ce-type": FINALIZED,
            "ce-source": "//storage.googleapis.com/projects/_/buckets/box", "ce-subject": f"objects/{self._name}",
            "content-type": "application/json",
        }  # fmt: skip
        with suppress(OSError, http.client.HTTPException):
            self.status = self._server.ask("POST", "/events", data, 60, **headers).status

    def end(self) -> int:
        self.join()
        return self.status


def worker(server: Server) -> psutil.Process:
    """Return the process that answers, a child of the one that was started."""
    return until(psutil.Process(server.process.pid).children)[0]


def test_after_kills_at_random_moments_every_row_is_written_once_and_in_order(serve: Serve, store: Store) -> None:
    words = ["cat", "dog", 7, "bird"]
    rows = [{"key": number, "word": words[number % 4]} for number in range(20_000)]
    generation = store.put("box", "in/rows.jsonl", b"".join(json.dumps(row).encode() + b"\n" for row in rows))
    places = {"EVENT_INPUT": "gs://box/in", "EVENT_OUTPUT": "gs://box/out"}
    options: Any = {"STORAGE_EMULATOR_HOST": store.address, **places}
    serve(build() / "lookup_table", **{**options, "EVENT_OUTPUT": "gs://box/whole"})
    whole = scoring.score_object("gs://box/in/rows.jsonl", generation).output  # when nobody dies
    wanted = store.get("box", whole.removeprefix("gs://box/"))
    assert [json.loads(line)["key"] for line in wanted.splitlines()] == list(range(20_000))
    output = f"out/in/rows.jsonl.{generation}.predictions.jsonl"
    moments = random.Random(20)
    kills = ends = gone_on = 0
    takes = 0.0

    def kills_on() -> bool:
        return kills < KILLS or (not gone_on and kills < 10 * KILLS)

    with running("functions-framework", build() / "lookup_table", **options, SCORE_PART_BYTES="50000") as server:
        while kills_on() or not ends:
            process = worker(server)
            server.ask("GET", "/readyz")
            parts = len(store.names("box", "out/.partial/"))
            begin = time.monotonic()
            delivery = Delivery(server, "in/rows.jsonl", generation)
            delivery.join(moments.uniform(0, takes) if takes and kills_on() else None)
            if delivery.is_alive():
                process.kill()
                process.wait()
                kills += 1
                delivery.join()
                gone_on += parts > 0
                continue
            assert delivery.status == 200
            ends += 1
            takes = takes or time.monotonic() - begin
            assert store.get("box", output) == wanted
            assert Delivery(server, "in/rows.jsonl", generation).end() == 200  # it comes again, and changes nothing
            assert store.get("box", output) == wanted
            assert store.names("box", "out/") == [output]
            store.delete("box", output)  # and from the beginning
    assert gone_on  # a delivery began where the one before had ended


def rest(host: str, method: str, path: str, body: Any = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(
        f"http://{host}/v1/{path}", data, {"Content-Type": "application/json"}, method=method
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer)


def test_an_object_becomes_predictions_by_notification_topic_and_push() -> None:
    topic, subscription = "projects/test/topics/uploads", "projects/test/subscriptions/to-function"
    with pubsub() as host:
        rest(host, "PUT", topic)
        notify = ["-event.pubsub-project-id", "test", "-event.pubsub-topic", "uploads",
                  "-event.object-prefix", "in/", "-event.list", "finalize"]  # fmt: skip
        emulator = {**os.environ, "PUBSUB_EMULATOR_HOST": host}
        with (
            storage(*notify, **emulator) as store,
            running(
                "functions-framework", **OPTIONS, EVENT_INPUT="gs://box/in", EVENT_REPLY="none",
                STORAGE_EMULATOR_HOST=store.address,
            ) as server,
        ):  # fmt: skip
            store.bucket("box")
            push = {"pushEndpoint": f"http://127.0.0.1:{server.port}/events"}
            rest(host, "PUT", subscription, {"topic": topic, "pushConfig": push})
            good = store.put("box", "in/a b.jsonl", pictures(100))
            bad = store.put("box", "in/bad.csv", b"no,input\n1,2\n")
            wanted = {f"out/in/a b.jsonl.{good}.predictions.jsonl", f"out/in/bad.csv.{bad}.error.json"}
            until(lambda: wanted <= {*store.names("box", "out/")}, lambda: server.log, pause=0.05)
            assert {*store.names("box", "out/")} == wanted, server.log
            written = store.get("box", f"out/in/a b.jsonl.{good}.predictions.jsonl")
            assert [json.loads(line)["key"] for line in written.splitlines()] == list(range(100))
            record = json.loads(store.get("box", f"out/in/bad.csv.{bad}.error.json"))
            assert record["error"].startswith("line 1: the signature has no input 'no'")
