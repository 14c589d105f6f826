"""Google's own Pub/Sub emulator, asked through its REST API without any code of ours."""

import base64
import json
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tests.events import emulators

PROJECT = "projects/test-project"


class PubSub:
    """A running emulator; `host` is what PUBSUB_EMULATOR_HOST is set to."""

    def __init__(self, host: str) -> None:
        self.host = host

    def call(self, method: str, path: str, body: Any = None) -> Any:
        """Send one request to /v1/PATH and return its answer."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(
            f"http://{self.host}/v1/{path}", data, {"Content-Type": "application/json"}, method=method
        )
        with urllib.request.urlopen(request, timeout=20) as answer:
            return json.loads(answer.read() or b"{}")

    def topic(self, name: str) -> str:
        """Create a topic and return its whole name."""
        self.call("PUT", f"{PROJECT}/topics/{name}", {})
        return f"{PROJECT}/topics/{name}"

    def subscription(self, name: str, topic: str, push: str = "", **more: Any) -> str:
        """Create a subscription, pushed to an address where one is given, and return its whole name."""
        pushed = {"pushConfig": {"pushEndpoint": push, **more.pop("pushConfig", {})}} if push else {}
        self.call("PUT", f"{PROJECT}/subscriptions/{name}", {"topic": topic, **pushed, **more})
        return f"{PROJECT}/subscriptions/{name}"

    def publish(self, topic: str, data: bytes, **attributes: str) -> str:
        """Publish a message and return its id."""
        message = {"data": base64.b64encode(data).decode(), "attributes": attributes}
        answer = self.call("POST", f"{topic}:publish", {"messages": [message]})
        return str(answer["messageIds"][0])

    def pull(self, subscription: str, wanted: int, seconds: float = 30) -> list[dict[str, Any]]:
        """Return `wanted` messages, acknowledged; fewer where they do not come in time."""
        messages: list[dict[str, Any]] = []
        end = time.monotonic() + seconds
        while len(messages) < wanted and time.monotonic() < end:
            answer = self.call("POST", f"{subscription}:pull", {"maxMessages": 10, "returnImmediately": True})
            came = answer.get("receivedMessages", [])
            messages += [received["message"] for received in came]
            if came:
                ids = [received["ackId"] for received in came]
                self.call("POST", f"{subscription}:acknowledge", {"ackIds": ids})
            else:
                time.sleep(0.05)
        return messages


@contextmanager
def emulator() -> Iterator[PubSub]:
    """Run the emulator on a free port; skip the test where it cannot be run."""
    with emulators.pubsub() as host:
        yield PubSub(host)
