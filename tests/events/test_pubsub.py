"""The real Pub/Sub emulator: push, wrapped and not, answers on a topic, retry with back-off, dead letter."""

import base64
import json
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest
from cloudevents.http import from_http

from tests.conftest import Serve
from tests.events.pubsub import PubSub, emulator
from tests.events.sink import Sink, sink
from tests.harness.waiting import until
from tests.pipeline.test_handler import PREDICT
from tests.server import Server, running


@pytest.fixture(scope="module")
def pubsub() -> Iterator[PubSub]:
    with emulator() as started:
        yield started


BACK_OFF = {"minimumBackoff": "0.1s", "maximumBackoff": "0.2s"}


class Failing(NamedTuple):
    """A function whose sink refuses an answer, and a message that it can therefore never be done with."""

    server: Server
    sink: Sink
    letters: str  # the subscription of the dead letter topic
    cause: str


@pytest.fixture(scope="module")
def failing(pubsub: PubSub, examples: dict[str, Any]) -> Iterator[Failing]:
    """Begin what takes the emulator thirteen seconds, while the other tests run."""
    with sink() as receiver, running("standalone", EVENT_REPLY=receiver.address) as server:
        topic, dead = pubsub.topic("failing"), pubsub.topic("dead")
        letters = pubsub.subscription("dead", dead)
        policy = {"deadLetterTopic": dead, "maxDeliveryAttempts": 5}
        address = f"http://127.0.0.1:{server.port}/events"
        name = pubsub.subscription("failing", topic, address, retryPolicy=BACK_OFF, deadLetterPolicy=policy)
        receiver.status = 503
        id_ = pubsub.publish(topic, json.dumps(examples["pixels"]).encode())
        cause = f"//pubsub.googleapis.com/{name}#{id_}"
        receiver.refused.add(cause)
        receiver.status = 202
        yield Failing(server, receiver, letters, cause)


@pytest.fixture(scope="module")
def answered(pubsub: PubSub, failing: Failing) -> Iterator[tuple[Server, str]]:
    """Return a function that answers on a topic, and a subscription to that."""
    topic = pubsub.topic("answers")
    subscription = pubsub.subscription("answers", topic)
    with running("predict_event", EVENT_REPLY=topic, PUBSUB_EMULATOR_HOST=pubsub.host) as server:
        yield server, subscription


SHAPES = [
    # name          push configuration beside the address
    ("wrapped",     {}),
    ("unwrapped",   {"noWrapper": {"writeMetadata": True}}),
]  # fmt: skip


@pytest.mark.parametrize(("name", "config"), SHAPES)
def test_messages_are_pushed_and_their_answers_published(
    pubsub: PubSub,
    answered: tuple[Server, str],
    serve: Serve,
    examples: dict[str, Any],
    name: str,
    config: dict[str, Any],
) -> None:
    server, answers = answered
    asks = pubsub.topic(f"asks-{name}")
    asked_by = pubsub.subscription(f"asks-{name}", asks, f"http://127.0.0.1:{server.port}/", pushConfig=config)
    ids = [
        pubsub.publish(asks, json.dumps(examples["pixels"]).encode()),
        pubsub.publish(asks, b"{"),  # malformed
        pubsub.publish(asks, b"", only="attributes"),
        pubsub.publish(asks, b'{"inputs": []}', path="/v2/models/model/infer"),
    ]
    published = {}
    for message in pubsub.pull(answers, 4):
        data = base64.b64decode(message["data"])
        event = from_http(message["attributes"], data)
        published[event["subject"]] = (event["type"], data)
    assert published.keys() == {f"//pubsub.googleapis.com/{asked_by}#{id_}" for id_ in ids}
    first, malformed, empty, other = (published[f"//pubsub.googleapis.com/{asked_by}#{id_}"] for id_ in ids)
    assert first == ("savedmodel.predicted.v1", serve()("POST", PREDICT, examples["pixels"]).body)
    assert (malformed[0], empty[0], other[0]) == ("savedmodel.failed.v1",) * 3
    assert json.loads(other[1])["error"].startswith("inputs")
    assert (
        pubsub.pull(answers, 1, seconds=1) == []
    )  # all are acknowledged, the malformed one too: none is delivered again


def test_a_transient_failure_is_delivered_again_until_it_succeeds(
    pubsub: PubSub, failing: Failing, examples: dict[str, Any]
) -> None:
    topic = pubsub.topic("passing")
    address = f"http://127.0.0.1:{failing.server.port}/events"
    name = pubsub.subscription("passing", topic, address, retryPolicy=BACK_OFF)
    failing.sink.status = 503
    id_ = pubsub.publish(topic, json.dumps(examples["pixels"]).encode())
    cause = f"//pubsub.googleapis.com/{name}#{id_}"

    def came() -> list[str]:
        return [headers["ce-id"] for _, headers, _ in failing.sink.received if headers["ce-subject"] == cause]

    until(lambda: len(came()) >= 2)
    failing.sink.status = 202
    before = len(came())
    until(lambda: len(came()) > before)
    assert len(set(came())) == 1  # the same answer each time


def test_a_permanent_failure_ends_in_the_dead_letter_topic(
    pubsub: PubSub, failing: Failing, examples: dict[str, Any]
) -> None:
    (letter,) = pubsub.pull(failing.letters, 1)
    assert letter["attributes"]["CloudPubSubDeadLetterSourceSubscription"] == "failing"
    assert json.loads(base64.b64decode(letter["data"])) == examples["pixels"]
    asked = [headers for _, headers, _ in failing.sink.received if headers["ce-subject"] == failing.cause]
    assert len(asked) == 5
