"""Sends the answer to an event to an address that takes CloudEvents, or to a Pub/Sub topic.

Both get the binary form. An address, such as Knative's K_SINK, gets `ce-` header fields. A message has attributes of
the same names and `content-type`, and its data are the event's, so a subscriber without CloudEvents reads the
prediction itself.
"""

import base64
import json
from http.client import HTTPException
from urllib.error import HTTPError, URLError
from urllib.request import HTTPRedirectHandler, Request, build_opener

from serving.core.settings import Settings
from serving.core.storage import StorageError, access_token
from serving.events.cloud_events import Event, to_attributes, to_binary

API = "https://pubsub.googleapis.com"
SECONDS = 20  # timeout of a connection and of each read


class SinkError(Exception):
    """A sink did not accept an event; the text says why, without the sink's address."""


def send(event: Event, options: Settings) -> None:
    """Send an event to EVENT_REPLY, http(s)://... or projects/PROJECT/topics/TOPIC; raise SinkError."""
    if "://" in options.event_reply:
        _post(options.event_reply, event.data, {"Content-Type": event.content_type, **to_binary(event)})
    else:
        _publish(event, options)


def _publish(event: Event, options: Settings) -> None:
    """Publish one message <https://cloud.google.com/pubsub/docs/reference/rest/v1/projects.topics/publish>."""
    attributes = {f"ce-{name}": value for name, value in to_attributes(event).items()}
    attributes["content-type"] = event.content_type
    message = {"data": base64.b64encode(event.data).decode(), "attributes": attributes}
    headers = {"Content-Type": "application/json"}
    if not options.pubsub_emulator_host:
        try:
            headers["Authorization"] = f"Bearer {options.google_oauth_access_token or access_token()}"
        except StorageError as error:
            raise SinkError(str(error)) from None
    url = f"{options.pubsub_emulator_host or API}/v1/{options.event_reply}:publish"
    _post(url, json.dumps({"messages": [message]}).encode(), headers)


class _NoRedirects(HTTPRedirectHandler):
    """A redirected POST would become a GET, and the event would be lost."""

    def redirect_request(self, *_: object) -> None:
        return None


_opener = build_opener(_NoRedirects)


def _post(url: str, body: bytes, headers: dict[str, str]) -> None:
    try:
        with _opener.open(Request(url, body, headers, method="POST"), timeout=SECONDS):
            pass  # only the status matters; a body might never end
    except HTTPError as error:
        with error:
            raise SinkError(f"the sink answers {error.code}") from None
    except (URLError, OSError, HTTPException) as error:
        raise SinkError(f"the sink cannot be reached: {getattr(error, 'reason', error)}") from None
