"""The log: one JSON object a line on standard output, in the form that Cloud Logging reads."""

import sys
from typing import Any

import orjson


def log(severity: str, message: str, **fields: Any) -> None:
    """Write one entry; `severity` is Cloud Logging's: INFO, WARNING, ERROR."""
    entry = orjson.dumps({"severity": severity, "message": message, **fields}, default=str)
    sys.stdout.write(entry.decode() + "\n")
    sys.stdout.flush()
