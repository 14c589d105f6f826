"""What is seen of one request on its way, for the log, the metrics and the traces; the way itself never reads it."""

from time import perf_counter_ns
from typing import Any


class Record:
    """The steps of a request, and when each was done: by `perf_counter_ns`, 0 for one that was not reached."""

    route: Any = None  # the handler's entry for its address; None where nothing is there, or nobody looked
    protocol: Any = None  # the codec that read the body, where that is another than the route's
    entered: float | None = None  # time.monotonic, where a request was admitted before it was handled
    signature: str | None = None  # the one that was called, once the body is decoded
    rows = 0  # the size of the batch
    waited = 0  # nanoseconds for a load of the model that this request has begun or found under way
    decoding = decoded = ran = encoded = 0
    events: tuple[str, ...] = ()  # their ids
    children: tuple["Record", ...] = ()  # the predict requests that events asked for

    def __init__(self) -> None:
        self.began = perf_counter_ns()


UNWATCHED = Record()  # stands where nobody looks
