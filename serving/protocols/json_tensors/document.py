"""A parsed JSON body, and what its values are.

A body is parsed by simdjson, whose lists and objects are read without a Python object for each element; by Python's
parser where simdjson refuses it. So a list is one of `LISTS`, an object one of `OBJECTS`.
"""

import json
import math
from collections.abc import Mapping
from functools import cached_property
from typing import Any

import orjson
import simdjson

from serving.core.http import BadRequest
from serving.protocols.json_tensors.brackets import check_nesting, rectangular, skeleton_of, without_numbers
from serving.protocols.json_tensors.dialect import first_repeated, parse_carefully
from serving.protocols.sizes import DefaultLimits, Limits

LISTS = (simdjson.Array, list)
OBJECTS = (simdjson.Object, dict)
MOST_LOOKED_UP = 64  # members that are looked up one by one
PARSED = DefaultLimits(max_nesting=1 << 10)  # of what simdjson writes: its numbers are short, its nesting was checked

_KINDS = {str: "a string", bool: "a boolean", type(None): "null", int: "an integer", float: "a decimal"}


def parse(body: bytes) -> Any:
    """Return a body's value, in simdjson's types; raise ValueError or RuntimeError where simdjson refuses it."""
    return simdjson.Parser().parse(body)


class Document:
    """A parsed body whose root is a JSON object; its values may be used while it lives."""

    def __init__(self, body: bytes, limits: Limits) -> None:
        """Parse a body; raise BadRequest where it is not JSON, nested too deep, or not an object."""
        self._brackets = without_numbers(body)
        check_nesting(self._brackets, limits)
        try:
            root = parse(body)
        except (ValueError, RuntimeError):  # an error of simdjson may be TensorFlow Serving's dialect
            root = parse_carefully(body, limits)
        if not isinstance(root, OBJECTS):
            raise BadRequest(f"body: expected a JSON object, got {kind(root)}")
        # A dictionary: simdjson takes 2 µs to say that it has no such key, and most bodies lack most keys.
        self.root: Mapping[str, Any] = members(root, "body")

    @cached_property
    def rectangular(self) -> bool:
        """Whether every nest of lists in the body is rectangular; False where a string makes it unclear."""
        return rectangular(skeleton_of(self._brackets))


def members(value: Any, place: str) -> dict[str, Any]:
    """Return an object's members by name; raise BadRequest where a key appears twice."""
    names = list(value)
    if len(set(names)) < len(names):
        raise BadRequest(f"{place}: the key {first_repeated(names)!r} appears twice")
    if isinstance(value, simdjson.Object) and (len(names) > MOST_LOOKED_UP or "\0" in "".join(names)):
        # simdjson searches each name from the first member on, and compares it up to a zero byte, as C does
        value = parse_carefully(value.mini, PARSED)  # type: ignore[arg-type]  # bytes, whatever its stub says
    return {name: value[name] for name in names}  # items() would turn every array into lists


def b64(value: Any) -> str | None:
    """Return the text of an object `{"b64": "..."}`, None for any other value."""
    if not isinstance(value, OBJECTS) or len(value) != 1 or next(iter(value)) != "b64":
        return None  # in this order: to look at a member, simdjson makes lists of all its arrays
    text = value["b64"]
    return text if isinstance(text, str) else None


def kind(value: Any) -> str:
    """Return the type of a JSON value in words for an error message, and the value itself if it is short."""
    if isinstance(value, OBJECTS):
        return "base64 bytes" if b64(value) is not None else "an object"
    if isinstance(value, LISTS):
        return "a list"
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    text = json.dumps(value, ensure_ascii=False)
    return f"{_KINDS[type(value)]}" if len(text) > 40 else f"the string {text}" if isinstance(value, str) else text


def unchanged(value: Any) -> orjson.Fragment:
    """Return a list or an object of a body for the JSON writer, with the values that it has."""
    if isinstance(value, (simdjson.Array, simdjson.Object)):
        return orjson.Fragment(value.mini)
    return orjson.Fragment(json.dumps(value, ensure_ascii=False, separators=(",", ":")))


def native(value: Any) -> Any:
    """Return a JSON value in a form that the JSON writer writes unchanged."""
    if isinstance(value, simdjson.Array):
        return value.as_list()
    if isinstance(value, simdjson.Object):
        return value.as_dict()
    # Python's parser takes numbers beyond 64 bits, NaN and the infinities; the writer refuses or changes them.
    if isinstance(value, (list, dict)) or (isinstance(value, (int, float)) and not -(1 << 63) <= value < 1 << 64):
        return orjson.Fragment(json.dumps(value, ensure_ascii=False, separators=(",", ":")))
    return value
