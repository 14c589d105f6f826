"""The standalone server on one core, whose shared runs hang for some requests: `python -m tests.servers.standalone.hanging`.

A body with HOLDS in it holds its run until BEHIND others queue; one with HANGS never ends its run.
"""

import os
import time
from collections.abc import Mapping, Sequence
from typing import Any

from serving.core import inflight
from serving.pipeline.accelerator import Quick
from serving.runtime.batching import Batching, Queue
from serving.servers.standalone.__main__ import main

HOLDS, HANGS, BEHIND = -1.125, -2.125, 7

together, run = Quick.together, Batching._run


def wait_as_asked(queue: Queue, is_asked: Any) -> None:
    if is_asked(HANGS):
        inflight.begin("a run that hangs")
        time.sleep(3600)
    if is_asked(HOLDS):
        print("a run is held", flush=True)
        end = time.monotonic() + 30
        while len(queue._waiting) < BEHIND and time.monotonic() < end:
            time.sleep(0.01)


def natively(self: Quick, requests: Sequence[Any]) -> Any:
    queue = self.served.batching.queue  # type: ignore[union-attr]
    wait_as_asked(queue, lambda value: any(f"[{value}]".encode() in body for body, *_ in requests))
    return together(self, requests)


def in_python(self: Batching, name: str, group: Sequence[Mapping[str, Any]], size: int) -> Any:
    wait_as_asked(self.queue, lambda value: any(value in array for inputs in group for array in inputs.values()))
    return run(self, name, group, size)


if __name__ == "__main__":
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # one run at a time
    Quick.together, Batching._run = natively, in_python  # type: ignore[method-assign]
    main()
