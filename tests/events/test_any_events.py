"""Whatever the header fields and the body are, the parser returns an event or what is wrong with it."""

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from serving.events.cloud_events import Event, Malformed, parse
from tests.events.test_cloud_events import BATCHED, BINARY, STRUCTURED


@given(
    st.dictionaries(
        st.sampled_from([*BINARY, "content-type", "x-goog-pubsub-message-id", "eventtype", "bucketid", "objectid"]),
        st.text(),
    ),
    st.binary(),
)
def test_any_headers_and_bytes_give_an_event_or_an_error(headers: dict[str, str], body: bytes) -> None:
    for event in parse(headers, body):
        assert isinstance(event, (Event, Malformed))


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["message", "data", "attributes", "messageId", "context", "eventId", "eventType", "specversion"]
            ),
            inner,
            max_size=6,
        )
    ),
)


@given(JSON_VALUES, st.sampled_from(["application/json", STRUCTURED["content-type"], BATCHED["content-type"]]))
def test_any_json_gives_an_event_or_an_error(value: Any, kind: str) -> None:
    for event in parse({"content-type": kind}, json.dumps(value).encode()):
        assert isinstance(event, (Event, Malformed))
