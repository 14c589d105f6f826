"""The record of one request for the log, the metrics and the traces; request handling itself never reads it."""

from time import perf_counter_ns
from typing import Any


class Record:
    """The steps of a request, each with the time of its end: `perf_counter_ns`, 0 for a step that was not reached."""

    route: Any = None  # the route of its address; None where there is none, or before routing
    protocol: Any = None  # the protocol of the body, if it is not the route's
    entered: Any = None  # the pipeline.admission.Slot of a request that was admitted before it was handled
    until = 0.0  # time.monotonic by which the model must begin for that request
    refused: Any = None  # the error of a request that admission refused before it was handled
    signature: str | None = None  # the name of the called signature, once the body is decoded
    prepared: Any = None  # what the native codec has answered already (pipeline.accelerator.Prepared)
    rows = 0  # the size of the batch
    waited = 0  # nanoseconds that this request waited for a load of the model
    decoding = decoded = ran = encoded = 0
    events: tuple[str, ...] = ()  # their ids
    children: tuple["Record", ...] = ()  # the predict requests inside events

    def __init__(self) -> None:
        self.began = perf_counter_ns()


UNWATCHED = Record()  # shared by requests that are not observed
