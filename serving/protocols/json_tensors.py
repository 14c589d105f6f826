"""JSON ↔ arrays, strictly: every element is checked against the spec before it becomes a number.

Two ways to the same array. The quick one hands a whole parsed array to NumPy as one buffer, without a Python object
per number; where it meets anything unusual it gives up. The careful one walks the values and names the first that
is wrong: `instances[3].x[0][2]: expected float32, got null`.

JSON is RFC 8259 and what TensorFlow Serving adds to it: the tokens NaN, Infinity and -Infinity, and a byte-order
mark. A key that stands twice in an object is refused.
"""

import base64
import binascii
import json
import math
import re
from collections.abc import Mapping, Sequence
from functools import cached_property, lru_cache
from itertools import chain
from typing import Any

import numpy as np
import orjson
import simdjson

from serving.core.dtypes import DType
from serving.core.http import BadRequest, to_json
from serving.protocols.sizes import DefaultLimits, Limits
from serving.savedmodel.signature import Shape, TensorSpec, check, fits, shape_text

Array = np.ndarray[Any, Any]

LISTS = (simdjson.Array, list)
TYPES = frozenset(LISTS)
MAX_RANK = 32  # NumPy 1's limit, and deeper than any tensor

_BUFFERS: dict[str, tuple[Any, Any]] = {"f": ("d", np.float64), "i": ("i", np.int64), "u": ("u", np.uint64)}
_KINDS = {str: "a string", bool: "a boolean", type(None): "null", int: "an integer", float: "a decimal"}


def _parse(body: bytes) -> Any:
    return simdjson.Parser().parse(body)


class Document:
    """A parsed body. Its root is a JSON object."""

    def __init__(self, body: bytes, limits: Limits) -> None:
        """Parse; raise BadRequest for what is not JSON, or not an object."""
        self._body = body
        if body.count(b"[") + body.count(b"{") > limits.max_nesting:
            check_nesting(self._skeleton, limits)
        try:
            root = _parse(body)
        except (ValueError, RuntimeError):  # what simdjson calls an error may be TensorFlow Serving's dialect
            root = parse_carefully(body, limits)
        if not isinstance(root, (dict, simdjson.Object)):
            raise BadRequest(f"body: expected a JSON object, got {kind(root)}")
        # A dictionary: simdjson takes 2 µs to say that it has no such key, and most bodies lack most keys.
        self.root: Mapping[str, Any] = members(root, "body")

    @cached_property
    def _skeleton(self) -> bytes:
        return self._body.translate(None, NUMBERS)

    @cached_property
    def rectangular(self) -> bool:
        """Say whether every nest of numbers in the body is: no row longer, shorter or deeper than its neighbours.

        What is left of the body without its numbers and white space is brackets and commas, a hundredth of the work
        of walking the rows (an image of 224 × 224 × 3: 1 ms, 40 ms as Python lists).
        """
        skeleton = self._skeleton
        return (_remembered if len(skeleton) <= REMEMBERED_BYTES else _all_rectangular)(skeleton)


def check_nesting(body: bytes, limits: Limits) -> None:
    """Refuse JSON of more levels than MAX_NESTING, wherever they are: before a parser sees it, without recursion."""
    most = limits.max_nesting
    if body.count(b"[") + body.count(b"{") > most and _depth(body) > most:
        message = f"body: nested too deep: expected at most {most} levels (MAX_NESTING), got more"
        raise BadRequest(message, example=False)


_NO_BRACKETS = bytes(set(range(256)) - set(b'[]{}"'))
_SQUARE = bytes.maketrans(b"{}", b"[]")


def _depth(body: bytes) -> int:
    """Return how deep a parser of JSON may get in a body, be it JSON or not."""
    if b"\\" in body:
        body = body.replace(b"\\\\", b"").replace(b'\\"', b"")  # an escaped quote ends no string
    brackets = b"".join(body.translate(_SQUARE, _NO_BRACKETS).split(b'"')[::2])  # those outside of strings
    steps = ord("\\") - np.frombuffer(brackets, np.int8)  # [ and ] stand on either side of it: 1 and -1
    return int(np.cumsum(steps, dtype=np.int32).max(initial=0))


NUMBERS = b"0123456789+-.eE \t\r\n"  # what they are written with, and white space
_NO_NEST = bytes(ord(" ") if code not in b"[]," else code for code in range(256))


def _all_rectangular(skeleton: bytes) -> bool:
    runs = set(skeleton.translate(_NO_NEST).split())  # of brackets and commas, each once: most rows are alike
    nests = {run[run.find(b"[") : run.rfind(b"]") + 1] for run in runs if b"[" in run}
    return all(_shape(nest) is not None for nest in nests if nest)


def _shape(nest: bytes) -> tuple[int, ...] | None:
    """Return the shape that a nest shows, None where it is not rectangular or deeper than a tensor.

    An empty row looks like one with one number.
    """
    depth = len(nest[: MAX_RANK + 1]) - len(nest[: MAX_RANK + 1].lstrip(b"["))
    if depth > MAX_RANK:
        return None
    item, shape = b"", list[int]()
    for level in range(depth, 0, -1):  # the first innermost row, the first row of such rows, ..., the whole
        closing = b"]" * (depth - level + 1)
        row = nest[level - 1 : nest.find(closing) + len(closing)]
        count = (len(row) - 1) // (len(item) + 1)
        if not row or row != b"[" + (item + b",") * (count - 1) + item + b"]":
            return None
        item = row
        shape.insert(0, count)
    return tuple(shape) if item == nest else None


def sole_numbers(body: bytes, name: str, spec: TensorSpec, limits: Limits) -> Array | None:
    """Return the tensor `spec` from a body that holds it and nothing else: {"name": [[1, 2], [3, 4]]}.

    None for any other body, and for one with something wrong in it: see `Document`.
    """
    if spec.dtype.kind not in _BUFFERS:
        return None
    skeleton = body.translate(None, NUMBERS)
    shape = (_remembered_shape if len(skeleton) <= REMEMBERED_BYTES else _sole_shape)(skeleton, name, spec.shape)
    if shape is None or len(shape) >= limits.max_nesting:
        return None
    try:
        return _from_buffer(_parse(body)[name], shape, spec.dtype)
    except (ValueError, RuntimeError, TypeError, KeyError):
        return None


def _sole_shape(skeleton: bytes, name: str, declared: Shape | None) -> tuple[int, ...] | None:
    """Return the shape of a body's one member, None where it has others, or one that is no nest of a declared shape."""
    before = b'{"%b":' % name.encode().translate(None, NUMBERS)
    if not (skeleton.startswith(before) and skeleton.endswith(b"}")):
        return None
    shape = _shape(skeleton[len(before) : -1])
    return shape if shape and fits(declared, shape) else None


REMEMBERED_BYTES = 4096  # requests to one model are of few forms: looking one up takes a tenth of working it out
_remembered = lru_cache(maxsize=256)(_all_rectangular)
_remembered_shape = lru_cache(maxsize=256)(_sole_shape)


def _from_buffer(value: Any, shape: tuple[int, ...], dtype: DType) -> Array | None:
    """Return a parsed nest of numbers as an array of the shape that its brackets show; None where they do not fit."""
    letter, wide = _BUFFERS[dtype.kind]
    flat = np.frombuffer(value.as_buffer(of_type=letter), wide)
    if flat.size != math.prod(shape):
        return None
    array = _narrow(flat, dtype)
    return None if array is None else array.reshape(shape)


def to_array(document: Document, value: Any, spec: TensorSpec, place: str) -> Array:
    """Return the tensor `spec` from one JSON value, all dimensions included."""
    array = nest_to_array(document, value, spec.dtype, place)
    if problem := check(spec, array.shape):
        raise BadRequest(f"{place}: {problem}")
    return array


def nest_to_array(document: Document, value: Any, dtype: DType, place: str) -> Array:
    """Return one JSON value as an array of the shape that it has."""
    array = _numbers(document, value, dtype)
    return _named(value, dtype, place) if array is None else array


def rows_to_array(document: Document, rows: Any, spec: TensorSpec, place: str, name: str = "") -> Array:
    """Return the tensor `spec` from one JSON value for each index of its first dimension.

    `name` stands in error messages behind the row: `instances[3].x`.
    """
    array = _numbers(document, rows, spec.dtype)
    if array is None:
        try:
            array = _carefully(rows, spec.dtype)
        except _Wrong as wrong:
            raise _row_error(rows, wrong, spec, place, name) from None
    if problem := check(spec, array.shape):
        raise BadRequest(_row_problem(spec, array.shape[1:], f"{place}[0]{name}") or f"{place}{name}: {problem}")
    return array


def _row_error(rows: Sequence[Any], wrong: "_Wrong", spec: TensorSpec, place: str, name: str) -> BadRequest:
    """Say what is wrong with the first row that is, by itself or beside the first one."""
    if not wrong.path:
        return wrong.at(f"{place}[0]{name}")  # of every row
    index, first = wrong.path[0], _leading_shape(rows[0])
    if index and (problem := _row_problem(spec, first, f"{place}[0]{name}")):
        return BadRequest(problem)
    row = f"{place}[{index}]{name}"
    try:
        shape = _carefully(rows[index], spec.dtype).shape
    except _Wrong as inside:
        return inside.at(row)
    as_first = f"expected shape {shape_text(first)} as in {place}[0]{name}, got {shape_text(shape)}"
    return BadRequest(_row_problem(spec, shape, row) or f"{row}: {as_first}")


def _row_problem(spec: TensorSpec, shape: tuple[int, ...], place: str) -> str | None:
    """Say how one row's shape differs from the declared one, or None where it fits."""
    if spec.shape is None:
        return None
    if not spec.shape:
        return f"{place}: {spec.name!r} has no batch dimension, so it cannot be sent as rows; send it as a column"
    wanted = spec.shape[1:]
    problem = check(TensorSpec(spec.name, spec.dtype, wanted, spec.tensor), shape)
    if problem and len(shape) == len(wanted) - 1:
        problem += "; a single row needs brackets of its own"
    return problem and f"{place}: {problem}"


def _leading_shape(value: Any) -> tuple[int, ...]:
    """Return the shape that the first elements tell, of lists of lists."""
    shape: list[int] = []
    while isinstance(value, LISTS) and len(shape) <= MAX_RANK:
        size = len(value)
        shape.append(size)
        value = value[0] if size else None
    return tuple(shape)


def _numbers(document: Document, value: Any, dtype: DType) -> Array | None:
    """Return a nest of numbers as an array, or None where the careful way must look.

    An image of 224 × 224 × 3 takes an eighth of the time of `json.loads` and `numpy.asarray`.
    """
    if dtype.kind not in _BUFFERS or not isinstance(value, simdjson.Array):
        return None
    shape = _leading_shape(value)
    try:
        array = _from_buffer(value, shape, dtype) if len(shape) <= MAX_RANK else None
    except (TypeError, ValueError):
        return None
    return array if array is not None and document.rectangular else None


def _narrow(wide: Array, dtype: DType) -> Array | None:
    """Return 64-bit numbers in the type `dtype`, or None where one is beyond its range."""
    if wide.dtype == dtype.numpy:
        return wide
    if dtype.kind != "f":
        array = wide.astype(dtype.numpy)
        return array if (array == wide).all() else None
    try:
        with np.errstate(over="raise"):
            array = wide.astype(dtype.numpy)
    except FloatingPointError:
        return None
    # NumPy's own types raise; ml_dtypes' do not.
    return array if array.dtype.kind == "f" or (np.isfinite(array) | ~np.isfinite(wide)).all() else None


def _scalars(values: list[Any], dtype: DType) -> Array | None:
    """Return elements of usual types as an array; None where each must be looked at."""
    types = set(map(type, values))
    if dtype.kind == "f" and types <= {float, int}:
        try:
            return _narrow(np.array(values, np.float64), dtype)
        except OverflowError:
            return None
    if dtype.kind in "iu" and types <= {int, float}:
        try:
            whole = list(map(int, values))
            return np.array(whole, dtype.numpy) if whole == values else None
        except (OverflowError, ValueError):  # beyond the type's range; NaN or infinite
            return None
    if dtype.kind == "b" and types == {bool}:
        return np.array(values, bool)
    if dtype.kind == "S" and types == {str}:
        return _objects([value.encode() for value in values])
    return None


class _Wrong(Exception):
    """The element or list at these indexes is wrong."""

    def __init__(self, problem: str, path: Sequence[int] = ()) -> None:
        super().__init__(problem)
        self.path = path

    def at(self, place: str) -> BadRequest:
        """Return the error of the value that stands at a place of the body."""
        return BadRequest(f"{place}{''.join(f'[{index}]' for index in self.path)}: {self}")


def _named(value: Any, dtype: DType, place: str) -> Array:
    try:
        return _carefully(value, dtype)
    except _Wrong as wrong:
        raise wrong.at(place) from None


def _carefully(value: Any, dtype: DType) -> Array:
    """Return any JSON value as an array; raise _Wrong for the first that is wrong, in the order of the body.

    Level by level: all lists of one level are checked and opened together. Behind the first that is wrong nothing is
    looked at any more: what comes before it may still be wrong further inside.
    """
    if dtype.kind == "c":
        raise _Wrong(f"{dtype.label} has no JSON form")
    values: list[Any] = [value]
    shape: list[int] = []
    wrong: _Wrong | None = None
    while values and isinstance(values[0], LISTS):
        if len(shape) == MAX_RANK:
            raise _Wrong(f"expected lists nested at most {MAX_RANK} deep, got more")
        size = len(values[0])
        if not set(map(type, values)) <= TYPES or set(map(len, values)) != {size}:
            first = next(index for index, item in enumerate(values) if not isinstance(item, LISTS) or len(item) != size)
            wrong = _Wrong(_unlike(values[first], size), _indexes(first, shape))
            del values[first:]
        values = list(chain.from_iterable(values))
        shape.append(size)
    array = _elements(values, dtype, shape)
    if wrong:
        raise wrong
    return array.reshape(shape)


def _indexes(flat: int, shape: Sequence[int]) -> list[int]:
    return [int(index) for index in np.unravel_index(flat, shape)]


def _unlike(value: Any, size: int) -> str:
    if not isinstance(value, LISTS):
        return f"expected a list of {size} as its neighbours are, got {kind(value)}"
    return f"expected {size} elements as in the first of its neighbours, got {len(value)}"


def _elements(values: list[Any], dtype: DType, shape: Sequence[int]) -> Array:
    """Return the elements of an array of some shape, flat; raise _Wrong for the first that is wrong."""
    array = _scalars(values, dtype)
    if array is not None:
        return array
    elements: list[Any] = []
    wrong: _Wrong | None = None
    try:
        for value in values:
            elements.append(_element(value, dtype))
    except _Wrong as error:
        wrong = _Wrong(str(error), _indexes(len(elements), shape))
    if dtype.kind == "f":
        wide = np.array(elements, np.float64)
        array = _narrow(wide, dtype)
        if array is None:
            with np.errstate(over="ignore"):
                first = int(np.argmax(np.isinf(wide.astype(dtype.numpy)) & np.isfinite(wide)))
            problem = f"expected {dtype.label}, got {wide[first]:g}, which is out of its range"
            raise _Wrong(problem, _indexes(first, shape))
    if wrong:
        raise wrong
    if array is None:
        array = _objects(elements) if dtype.kind == "S" else np.array(elements, dtype.numpy)
    return array


def _element(value: Any, dtype: DType) -> Any:
    """Return one element in Python's form; raise _Wrong for any other type than the one that JSON has for `dtype`."""
    came = type(value)
    if dtype.kind == "f" and came in (int, float):
        try:
            return float(value)
        except OverflowError:
            raise _Wrong(f"expected {dtype.label}, got {kind(value)}, which is out of its range") from None
    if dtype.kind in "iu" and (came is int or (came is float and value.is_integer())):
        value = int(value)  # 3.0 is an integer: protobuf's JSON, as Vertex AI sends it, has doubles alone
        least, most = limits(dtype)
        if not least <= value <= most:
            raise _Wrong(f"expected {dtype.label}, from {least} to {most}, got {kind(value)}")
        return value
    if dtype.kind == "b" and came is bool:
        return value
    if dtype.kind == "S":
        if came is str:
            return value.encode()
        if (text := b64(value)) is not None:
            return _from_base64(text)
    elif b64(value) is not None:
        raise _Wrong(f"expected {dtype.label}, got base64 bytes; only a string input takes them")
    wanted = 'a string or {"b64": "..."}' if dtype.kind == "S" else dtype.label
    raise _Wrong(f"expected {wanted}, got {kind(value)}")


@lru_cache(maxsize=16)
def limits(dtype: DType) -> tuple[int, int]:
    """Return the least and the greatest number of a type of integers."""
    info = np.iinfo(dtype.numpy)  # type: ignore[type-var]
    return int(info.min), int(info.max)


def b64(value: Any) -> str | None:
    """Return the text of an object `{"b64": "..."}` and of no other value."""
    if not isinstance(value, (simdjson.Object, dict)) or len(value) != 1 or next(iter(value)) != "b64":
        return None  # asked in this order: to look at a member, simdjson makes lists of all its arrays
    text = value["b64"]
    return text if isinstance(text, str) else None


def bytes_of(value: Any, place: str) -> bytes:
    """Return the bytes of a string or of an object `{"b64": "..."}`."""
    try:
        return value.encode() if isinstance(value, str) else _from_base64(b64(value) or "")
    except _Wrong as wrong:
        raise BadRequest(f"{place}: {wrong}") from None


_SPACE = str.maketrans("", "", " \t\r\n")


def _from_base64(text: str) -> bytes:
    """Decode the standard alphabet; white space and missing padding are let pass, as TensorFlow Serving does."""
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        bare = text.translate(_SPACE).rstrip("=")
    if wrong := re.search(r"[^A-Za-z0-9+/]", bare):
        hint = "; it looks like the web-safe alphabet: use '+' and '/'" if wrong[0] in "-_" else ""
        raise _Wrong(f"expected base64, got the character {wrong[0]!r} in it{hint}")
    if len(bare) % 4 == 1:
        raise _Wrong(f"expected base64, got {len(bare)} characters, which no bytes are written as")
    return base64.b64decode(bare + "=" * (-len(bare) % 4))


def _objects(elements: list[Any]) -> Array:
    array = np.empty(len(elements), object)
    array[:] = elements
    return array


def kind(value: Any) -> str:
    """Say what a JSON value is, and show it where it is short."""
    if isinstance(value, (simdjson.Object, dict)):
        return "base64 bytes" if b64(value) is not None else "an object"
    if isinstance(value, LISTS):
        return "a list"
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    text = json.dumps(value, ensure_ascii=False)
    return f"{_KINDS[type(value)]}" if len(text) > 40 else f"the string {text}" if isinstance(value, str) else text


def _twice(names: Sequence[str]) -> str:
    seen = set[str]()
    return next(name for name in names if name in seen or seen.add(name))  # type: ignore[func-returns-value]


def native(value: Any) -> Any:
    """Return what the JSON writer takes for a JSON value, so that it goes out as it came in."""
    if isinstance(value, simdjson.Array):
        return value.as_list()
    if isinstance(value, simdjson.Object):
        return value.as_dict()
    # Python's parser takes numbers beyond 64 bits, NaN and the infinities; the writer refuses or changes them.
    if isinstance(value, (list, dict)) or (isinstance(value, (int, float)) and not -(1 << 63) <= value < 1 << 64):
        return orjson.Fragment(json.dumps(value, ensure_ascii=False, separators=(",", ":")))
    return value


MOST_MEMBERS = 64  # that are looked up one by one
PARSED = DefaultLimits(max_nesting=1 << 10)  # of what simdjson writes: its numbers are short, its nesting was checked


def members(value: Any, place: str) -> dict[str, Any]:
    """Return an object's members; raise BadRequest where a key stands twice."""
    names = list(value)
    if len(set(names)) < len(names):
        raise BadRequest(f"{place}: the key {_twice(names)!r} stands twice")
    if isinstance(value, simdjson.Object) and (len(names) > MOST_MEMBERS or "\0" in "".join(names)):
        # simdjson looks each name up from the first member on, and as C does: to the first zero
        value = parse_carefully(value.mini, PARSED)  # type: ignore[arg-type]  # bytes, whatever its stub says
    return {name: value[name] for name in names}  # items() would turn every array into lists


class _NotJson(ValueError): ...


def parse_carefully(body: bytes, limits: Limits) -> Any:
    """Parse any JSON value with Python's own parser: for the added tokens, and for a message with a place."""
    if not body.strip():
        raise BadRequest("body: expected a JSON object, got nothing")
    check_nesting(body, limits)
    try:
        text = body.removeprefix(b"\xef\xbb\xbf").decode()
        value = _decoder(limits.max_number_length).decode(text)
        if re.search(r"\\u[dD][89a-fA-F]", text):
            json.dumps(value, ensure_ascii=False).encode()  # half a surrogate pair is no text
    except UnicodeEncodeError:
        raise BadRequest("body: not JSON: half a surrogate pair in a string") from None
    except UnicodeDecodeError as error:
        raise BadRequest(f"body: not JSON: not UTF-8 at byte {error.start}") from None
    except RecursionError:
        raise BadRequest("body: nested too deep") from None
    except json.JSONDecodeError as error:
        raise BadRequest(f"body: not JSON: {error.msg} at line {error.lineno}, column {error.colno}") from None
    except _NotJson as error:
        raise BadRequest(f"body: {error}") from None
    return value


def parse_short(text: bytes, limits: Limits) -> Any:
    """Parse a short JSON value; raise ValueError for what is none, and for what needs `parse_carefully`."""
    line = text.decode().strip(" \t\r\n")
    if len(line) > limits.max_nesting or "\\u" in line:
        raise ValueError
    value, end = _decoder(limits.max_number_length).raw_decode(line)
    if end < len(line):
        raise ValueError
    return value


@lru_cache(maxsize=4)
def _decoder(max_number_length: int) -> json.JSONDecoder:
    """Return Python's parser of JSON, with our refusals; it takes numbers of so many characters."""

    # Python takes time quadratic in the digits of an integer; what simdjson reads itself, it reads in linear time.
    def bounded(token: str) -> str:
        if len(token) > max_number_length:
            expected = f"expected at most {max_number_length} (MAX_NUMBER_LENGTH)"
            raise _NotJson(f"a number of {len(token)} digits, {expected}")
        return token

    def decimal(token: str) -> float:
        value = float(bounded(token))
        if math.isinf(value):
            raise _NotJson(f"the number {token[:40]} is too large for a double")
        return value

    return json.JSONDecoder(
        parse_int=lambda token: int(bounded(token)), parse_float=decimal, object_pairs_hook=_unique_members
    )


def _unique_members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members_ = dict(pairs)
    if len(members_) < len(pairs):
        raise _NotJson(f"the key {_twice([name for name, _ in pairs])!r} stands twice")
    return members_


def to_values(array: Array, name: str, *, rows: bool = False, null: bool = False) -> Any:
    """Return what the JSON writer takes for an array: itself where it can, else nested lists.

    Strings are text, or {"b64": "..."} where `name` ends with `_bytes` or the bytes are not UTF-8. NaN and the
    infinities are written as TensorFlow Serving does, as bare tokens, or, with `null`, as strict parsers want them.
    With `rows`, something to take apart by rows.
    """
    if array.dtype == object:
        as_bytes = name.endswith("_bytes")
        return _nest([text_of(value, as_bytes) for value in array.ravel().tolist()], array.shape)
    if array.dtype.kind not in "biuf":
        array = array.astype(np.float32)  # bfloat16 and smaller: every value of theirs is a float32 too
    if array.dtype.kind == "f" and not null and not np.isfinite(array).all():
        return [_with_tokens(row) for row in array] if rows else _with_tokens(array)
    return array if array.ndim else array[()]  # the writer takes a scalar, and no array of rank 0


def sole_rows(array: Array, name: str, *, null: bool) -> bytes | None:
    """Write {"name": array}, None for strings, for scalars and for what a number cannot say: see `to_values`."""
    if array.dtype.kind not in "biuf" or not array.ndim:
        return None
    body = to_json({name: array})
    return body if null or array.dtype.kind != "f" or b"null" not in body else None


def text_of(value: bytes, as_bytes: bool) -> Any:
    """Return a string of a tensor as JSON has it: text where it is UTF-8, {"b64": "..."} else and where asked for."""
    if not as_bytes:
        try:
            return value.decode()
        except UnicodeDecodeError:
            pass
    return {"b64": base64.b64encode(value).decode()}


def _nest(flat: list[Any], shape: tuple[int, ...]) -> Any:
    if not shape:
        return flat[0]
    for size in reversed(shape[1:]):
        flat = [flat[start : start + size] for start in range(0, len(flat), size)] if size else flat
    if 0 in shape[1:]:
        return np.empty(shape, np.int8).tolist()
    return flat


def _with_tokens(array: Array) -> orjson.Fragment:
    # Through the writer for the shortest decimals of the array's own precision; it writes null for what is not finite.
    finite = orjson.loads(orjson.dumps(np.ravel(array), option=orjson.OPT_SERIALIZE_NUMPY))
    tokens = [float(came) if value is None else value for value, came in zip(finite, np.ravel(array))]
    return orjson.Fragment(json.dumps(_nest(tokens, array.shape), separators=(",", ":")))
