"""Passes events through the function in main.py: the function's argument, and the use of its result."""

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
    """Return a handler of events that calls the function; flask.abort in it refuses the request."""

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
    """An event as functions-framework passes it, and the original event."""

    def __init__(self, event: Event, answer: Any) -> None:
        kind = {"datacontenttype": event.content_type} if event.content_type else {}
        super().__init__({**cloud_events.to_attributes(event), **kind})
        self.answer = answer  # of predict requests
        self._event = event
        self._was = dict(self._attributes)
        self._given = False

    @property
    def data(self) -> Any:
        """Return the data: a value if they are JSON, else bytes."""
        if not self._given:
            self._data, self._given = _value(self._event.data), True
        return self._data

    @data.setter
    def data(self, data: Any) -> None:
        self._data, self._given = data, data is not None

    def unchanged(self) -> Event | None:
        """Return the original event; None if the function has changed its attributes or its data."""
        same = self._attributes == self._was and (not self._given or self._data == _value(self._event.data))
        return self._event if same else None


def _value(data: bytes) -> Any:
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError:
        return data
