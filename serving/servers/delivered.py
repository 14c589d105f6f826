"""Events on their way through the function of main.py: what it is handed, and what comes of it."""

from collections.abc import Callable
from typing import Any

import orjson
from cloudevents.http import CloudEvent
from werkzeug.exceptions import HTTPException

from serving.core.http import HttpError
from serving.events import cloud_events
from serving.events.cloud_events import Event
from serving.events.delivery import DONE, Answer, Outcome, Redelivery


def through(function: Callable[[CloudEvent], Any]) -> Callable[[Event, Answer], Outcome]:
    """Return what acts on an event by calling the function; flask.abort in it refuses the request."""

    def deliver(event: Event, answer: Answer) -> Outcome:
        try:
            outcome = function(Delivered(event, answer))
            return outcome if isinstance(outcome, Outcome) else DONE
        except Redelivery as error:
            return error.outcome
        except HTTPException as error:
            refusal = HttpError(error.description or error.name)
            refusal.status = error.code or error.get_response().status_code
            raise refusal from error

    return deliver


class Delivered(CloudEvent):
    """An event as functions-framework hands it over; with it, what came, as it came."""

    def __init__(self, event: Event, answer: Any) -> None:
        kind = {"datacontenttype": event.content_type} if event.content_type else {}
        super().__init__({**cloud_events.to_attributes(event), **kind})
        self.answer = answer  # of predict requests
        self._event = event
        self._was = dict(self._attributes)
        self._given = False

    @property
    def data(self) -> Any:
        """Return the data: a value where they are JSON, else bytes."""
        if not self._given:
            self._data, self._given = _value(self._event.data), True
        return self._data

    @data.setter
    def data(self, data: Any) -> None:
        self._data, self._given = data, data is not None

    def unchanged(self) -> Event | None:
        """Return the event that came; None where the function has changed its attributes or its data."""
        same = self._attributes == self._was and (not self._given or self._data == _value(self._event.data))
        return self._event if same else None


def _value(data: bytes) -> Any:
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError:
        return data
