"""Logged predictions and their labels: read, and joined by key.

Predictions are lines of JSON as LOG_PREDICTIONS writes them: files, folders, gs://BUCKET/FOLDER, or a log, whose other
lines are ignored. Labels are CSV with a header, or lines of JSON; a row has a key and a label.

Keys are compared as text: 7 and "7" are the same key.
"""

import csv
import json
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from serving.core.storage import Storage, StorageError, split

ENDS = (".jsonl", ".ndjson", ".json", ".log")
MOST_SHOWN = 5  # keys, names


class EvaluateError(Exception):
    """Nothing can be evaluated; the message says why."""


class Prediction(NamedTuple):
    """One logged prediction."""

    key: str | None
    time: float  # seconds since 1970
    digest: str  # of the model
    signature: str
    outputs: Mapping[str, Any]  # as JSON


class Joined(NamedTuple):
    """The predictions with a label, in the order of their times, and the numbers of unmatched ones."""

    pairs: list[tuple[Prediction, Any]]
    counts: dict[str, int]


def key_text(value: Any) -> str:
    """Return a key as text, for comparison."""
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True, separators=(",", ":"))


def predictions(addresses: Iterable[str], storage: Storage) -> tuple[list[Prediction], int]:
    """Return the predictions of files, folders and buckets, and the number of other lines; raise EvaluateError."""
    logged: list[Prediction] = []
    others = 0
    for address in addresses:
        for line in _lines(address, storage):
            prediction = _prediction(line)
            if prediction is None:
                others += 1
            else:
                logged.append(prediction)
    return logged, others


def _lines(address: str, storage: Storage) -> Iterator[bytes]:
    for content in _contents(address, storage):
        yield from (line for line in content.splitlines() if line.strip())


def _contents(address: str, storage: Storage) -> Iterator[bytes]:
    """Yield the content of each file at an address; raise EvaluateError where there is none."""
    if address == "-":
        yield sys.stdin.buffer.read()
        return
    if address.startswith("gs://"):
        yield from _objects(address, storage)
        return
    path = Path(address)
    files = sorted(file for file in path.rglob("*") if file.suffix in ENDS) if path.is_dir() else [path]
    if not files:
        raise EvaluateError(f"{address}: expected files that end with one of {', '.join(ENDS)}, got none")
    for file in files:
        try:
            yield file.read_bytes()
        except OSError as error:
            raise EvaluateError(f"{file}: {error.strerror}") from None


def _objects(address: str, storage: Storage) -> Iterator[bytes]:
    bucket, prefix = split(address)
    try:
        objects = [object_ for object_ in storage.list(bucket, prefix) if object_.name.endswith(ENDS)]
        if not objects:
            raise EvaluateError(f"{address}: expected objects that end with one of {', '.join(ENDS)}, got none")
        for object_ in objects:
            yield b"".join(storage.read(object_))
    except StorageError as error:
        raise EvaluateError(f"{address}: {error}") from None


def _prediction(line: bytes) -> Prediction | None:
    """Return the prediction in a line, None where it holds none."""
    try:
        entry = orjson.loads(line)
        # Cloud Logging's own entries have ours inside, without its time.
        entry = {"time": entry.get("timestamp"), **entry["jsonPayload"]} if "jsonPayload" in entry else entry
        when = datetime.fromisoformat(re.sub(r"(\.[0-9]+)|Z$", _as_python_reads, entry["time"]))
        outputs = entry["outputs"]
        if not isinstance(outputs, dict):
            return None
        key = key_text(entry["key"]) if "key" in entry else None
        return Prediction(key, when.timestamp(), str(entry["digest"]), str(entry["signature"]), outputs)
    except (ValueError, TypeError, KeyError, AttributeError):
        return None


def _as_python_reads(match: re.Match[str]) -> str:
    """Return a part of a time as Python 3.10 reads it: a fraction of six digits, an offset for Z."""
    return match[1][:7].ljust(7, "0") if match[1] else "+00:00"


def labels(address: str, key: str, label: str, storage: Storage) -> list[tuple[str, Any]]:
    """Return each row's key and label, from the columns of these names; raise EvaluateError naming a wrong row."""
    content = b"\n".join(_contents(address, storage))
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise EvaluateError(f"{address}: not UTF-8 at byte {error.start}") from None
    rows = list(_json_rows(address, text) if text.lstrip().startswith("{") else _csv_rows(address, text))
    if not rows:
        raise EvaluateError(f"{address}: expected rows with {key!r} and {label!r}, got none")
    for number, row in rows:
        for name in (key, label):
            if row.get(name) is None:
                names = ", ".join(map(repr, row)) or "nothing"
                raise EvaluateError(f"{address}, line {number}: expected {name!r}, got {names} (--key, --label)")
    return [(key_text(row[key]), row[label]) for _, row in rows]


def _json_rows(address: str, text: str) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        if not isinstance(row, dict):
            raise EvaluateError(f"{address}, line {number}: expected an object as JSON, got {line[:40]!r}")
        yield number, row


def _csv_rows(address: str, text: str) -> Iterator[tuple[int, dict[str, Any]]]:
    reader = csv.DictReader(text.splitlines(), strict=True)
    try:
        for row in reader:
            yield reader.line_num, {name: value for name, value in row.items() if name is not None}
    except csv.Error as error:
        raise EvaluateError(f"{address}, line {reader.line_num}: {error}") from None


def join(logged: list[Prediction], labelled: list[tuple[str, Any]]) -> Joined:
    """Join by key. Of several predictions with one key the last counts; a key with different labels is left out."""
    by_key: dict[str, Prediction] = {}
    repeated = set()
    for prediction in sorted(logged, key=lambda prediction: prediction.time):
        if prediction.key is not None:
            if prediction.key in by_key:
                repeated.add(prediction.key)
            by_key[prediction.key] = prediction
    label_of: dict[str, Any] = {}
    contradicting = set()
    for key, label in labelled:
        if label_of.setdefault(key, label) != label:
            contradicting.add(key)
    usable = label_of.keys() - contradicting
    pairs = [(prediction, label_of[key]) for key, prediction in by_key.items() if key in usable]
    counts = {
        "predictions": len(logged),
        "without_key": sum(prediction.key is None for prediction in logged),
        "repeated_keys": len(repeated),
        "labels": len(labelled),
        "contradicting_labels": len(contradicting),
        "labels_without_prediction": len(usable - by_key.keys()),
        "predictions_without_label": len(by_key.keys() - label_of.keys()),
        "joined": len(pairs),
    }
    if not pairs:
        raise EvaluateError(
            f"no prediction has a label: keys of predictions: {_some(by_key)}; keys of labels: {_some(label_of)}"
        )
    return Joined(sorted(pairs, key=lambda pair: pair[0].time), counts)


def _some(keys: Iterable[str]) -> str:
    shown = [repr(key) for key, _ in zip(keys, range(MOST_SHOWN + 1))]
    return ", ".join(shown[:MOST_SHOWN]) + (", ..." if len(shown) > MOST_SHOWN else "") or "none"


def utc(seconds: float) -> datetime:
    """Return a time of a prediction as a date and time in UTC."""
    return datetime.fromtimestamp(seconds, timezone.utc)
