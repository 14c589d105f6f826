"""Logs a sample of the predictions, one line of JSON for each row, to evaluate them later (LOG_PREDICTIONS).

    {"time": "2026-11-30T00:12:03.123456Z", "model": "model", "version": "1", "digest": "0f3c...",
     "signature": "pixels", "key": 7, "inputs": {"pixels": [0.0, 1.0]}, "outputs": {"scores": [0.1, 0.9]}}

`key` is that of the row, else the id of the request (Open Inference's `id`, or X-Request-Id), followed by /ROW where
the request has several rows. A signature that does not go by rows has one line for each request. NaN and the infinities
are null.

A request is in the sample if the BLAKE2b hash of its body, a number from 0 to 1, is below the share: every instance
decides the same, and a larger share holds the smaller sample.
"""

import os
import threading
import time
from collections.abc import Iterator
from datetime import datetime, timezone
from functools import lru_cache
from time import perf_counter_ns
from typing import Any

from serving.core import settings
from serving.core.errors import did_you_mean
from serving.core.http import Response, to_line
from serving.core.storage import Storage
from serving.core.telemetry import log, metrics
from serving.core.telemetry.lines import Lines, to_bucket, to_folder
from serving.pipeline import accelerator
from serving.pipeline.exchange import Answer, Exchange
from serving.protocols.answers import has_rows
from serving.protocols.call import MISSING, Arrays, Call
from serving.protocols.json_tensors.writer import to_values
from serving.savedmodel.folder import card
from serving.savedmodel.source import Source

SECONDS = 5.0  # between two writes to a folder or a bucket
MOST = 16 << 20  # bytes of lines that wait for that
HASH = 8  # bytes
PERIOD = 60.0  # seconds between two warnings that requests cause


def answered(answer: Answer, exchange: Exchange) -> Response:
    """Answer a sampled request in Python, and log its predictions."""
    accelerator.tally.add(accelerator.LOGGED, perf_counter_ns())
    response = answer(exchange)
    _log(exchange)
    return response


def is_sampled(body: bytes, share: float) -> bool:
    """Return whether a body is in the sample of this share of all bodies, from 0 to 1."""
    from hashlib import blake2b  # it loads OpenSSL, which nothing else needs

    return int.from_bytes(blake2b(body, digest_size=HASH).digest(), "big") < share * (1 << (8 * HASH))


def _log(exchange: Exchange) -> None:
    """Write the lines of an answered request; lines that cannot be written are counted and raise nothing."""
    options, source = settings.current(), exchange.model.source
    assert exchange.call is not None
    if problem := _unknown(source, options.log_predictions_without):
        _lost(1, problem)
        return
    try:
        lines = _lines(exchange, exchange.call, options.log_predictions_without)
        if options.log_predictions_to == "log":
            for line in lines:
                _to_log(line)
            return
        writer = _writer()
        for line in lines:
            if not writer.add(to_line(line)):
                writer.refuse(sum(1 for _ in lines))  # of the same request
    except (TypeError, ValueError, UnicodeError) as error:  # a key that the JSON writer refuses
        _lost(1, f"{error}")


def _lines(exchange: Exchange, call: Call, without: frozenset[str]) -> Iterator[dict[str, Any]]:
    """Yield the logged values of each row, or of the whole request where the signature has no rows."""
    source = exchange.model.source
    described = {
        "time": datetime.now(timezone.utc), "model": source.name, "version": source.version, "digest": _digest(source),
        "signature": call.signature.name,
    }  # fmt: skip
    inputs = {name: array for name, array in call.inputs.items() if name not in without}
    outputs = {name: array for name, array in exchange.outputs.items() if name not in without}
    if not exchange.outputs:
        return  # every row failed
    identity = getattr(call.form, "id", None) or exchange.request.headers.get("x-request-id")
    sizes = {array.shape[:1] for array in (*call.inputs.values(), *exchange.outputs.values())}
    if not has_rows(call.signature) or len(sizes) != 1 or sizes == {()}:
        yield {**described, **_keyed(identity), "inputs": _values(inputs), "outputs": _values(outputs)}
        return
    count = sizes.pop()[0]
    rows = [row for row in range(count + len(call.failed)) if row not in call.failed]
    for index, row in enumerate(rows):
        key = MISSING if call.keys is None else call.keys[row]
        if key is MISSING and identity:
            key = identity if len(rows) == 1 else f"{identity}/{row}"
        yield {
            **described, **_keyed(None if key is MISSING else key),
            "inputs": _values(inputs, index), "outputs": _values(outputs, index),
        }  # fmt: skip


def _keyed(key: Any) -> dict[str, Any]:
    return {} if key is None else {"key": key}


def _values(arrays: Arrays, row: int | None = None) -> dict[str, Any]:
    if row is None:
        return {name: to_values(array, name, null=True) for name, array in arrays.items()}
    # Of shape [1, ...], so that a row that is one value has the form of the others.
    return {name: to_values(array[row : row + 1], name, rows=True, null=True)[0] for name, array in arrays.items()}


@lru_cache(maxsize=2)
def _digest(source: Source) -> str:
    return card.digest(source.directory)


@lru_cache(maxsize=2)
def _unknown(source: Source, without: frozenset[str]) -> str:
    """Return the problem of LOG_PREDICTIONS_WITHOUT for this model: a misspelt name would log what must be left out."""
    known = {name for signature in source.signatures.values() for name in (*signature.inputs, *signature.outputs)}
    unknown = sorted(without - known)
    if not unknown:
        return ""
    return f"LOG_PREDICTIONS_WITHOUT: no input or output is named {unknown[0]!r}{did_you_mean(unknown[0], known)}"


def _to_log(line: dict[str, Any]) -> None:
    text = to_line({"severity": "INFO", "message": "prediction", **line})
    if len(text) > log.LONGEST:  # a longer line may mix with those of other processes
        _lost(1, f"a line of the log has at most {log.LONGEST} bytes; set LOG_PREDICTIONS_TO to a folder or a bucket")
        return
    log.write(text)
    _written(1)


def _written(count: int) -> None:
    metrics.count_logged("written", count)


def _report(count: int, reason: str) -> None:
    """Count lines as lost, 0 where they are tried again, and say why."""
    metrics.count_logged("lost", count)
    log.log("WARNING", f"predictions are not logged: {reason}", lost=count)


def _lost(count: int, reason: str) -> None:
    """Call `_report`, once a minute at most, because a request may cause this."""
    global _missing, _due
    with _lock:
        _missing += count
        if time.monotonic() < _due:
            return
        count, _missing, _due = _missing, 0, time.monotonic() + PERIOD
    _report(count, reason)


_lock = threading.Lock()
_missing, _due = 0, 0.0  # lost since the last warning, and when the next may come
_process: Lines | None = None


def _writer() -> Lines:
    """Return the writer of this process; its thread starts with the first line, after any fork."""
    global _process
    with _lock:
        if _process is None:
            options = settings.current()
            target = options.log_predictions_to
            if isinstance(target, str):
                storage = Storage(options.storage_emulator_host, options.google_oauth_access_token)
                write = to_bucket(storage, target)
            else:
                write = to_folder(target)
            _process = Lines(write, _written, _report, SECONDS, MOST)
        return _process


def forget() -> None:
    """Reset: there is no writer, as at the start of a process."""
    global _lock, _process, _missing, _due
    _lock, _process, _missing, _due = threading.Lock(), None, 0, 0.0


os.register_at_fork(after_in_child=forget)
