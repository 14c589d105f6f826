"""Waiting for what another thread or process does."""

import time
from collections.abc import Callable
from typing import TypeVar

PATIENCE = 60.0  # seconds

Value = TypeVar("Value")


def until(
    holds: Callable[[], Value], what: str | Callable[[], str] = "it", *, seconds: float = PATIENCE, pause: float = 0.002
) -> Value:
    """Return what `holds` returns once it is true; fail where it is not in time, and say `what` was waited for."""
    end = time.monotonic() + seconds
    while not (value := holds()):
        assert time.monotonic() < end, f"waited in vain for {what if isinstance(what, str) else what()}"
        time.sleep(pause)
    return value
