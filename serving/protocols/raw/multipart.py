"""Forms <https://www.rfc-editor.org/rfc/rfc7578>: a part is an input, by its name.

    curl ADDRESS -F image=@a.png -F image=@b.png        two rows of the string input `image`
    curl ADDRESS -F image=@a.png -F 'box=[0, 0, 8, 8]'  one row of two inputs
    answered:   {"predictions": [...]}

Parts of the same name are the rows of a batch, in their order. A part for a string input is its bytes; one for any
other input, or for a row of several strings, is the row in JSON. A part of the key's name is the key of its row.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence

from serving.core.errors import did_you_mean
from serving.core.http import BadRequest
from serving.protocols.call import Call, Context
from serving.protocols.json_tensors.reader import rows_to_array, to_array
from serving.protocols.raw.bodies import Array, Form, bytes_shape, joined, parameter, placed, to_strings, to_text
from serving.protocols.raw.parts import Part, split
from serving.protocols.sizes import Limits
from serving.protocols.tensorflow_serving.inputs import COLUMN, ROW
from serving.savedmodel.signature import Signature, TensorSpec, check

Parts = Mapping[str, Sequence[Part]]  # by name, each name's in their order


def decode(body: bytes, signature: Signature, context: Context) -> Call:
    """Return the call that a form describes; raise BadRequest naming the part that is wrong."""
    single = all(_is_single(spec) for spec in signature.inputs.values())  # no rows, so no keys
    named = _named(split(body, context.headers.get("content-type") or ""), signature, None if single else context.key)
    batched = {name: parts for name, parts in named.items() if not _is_single(signature.inputs.get(name))}
    if len({len(parts) for parts in batched.values()}) > 1:
        counts = ", ".join(f"{name!r} {len(parts)}" for name, parts in batched.items())
        raise BadRequest(f"parts: expected the same number of parts for each input, one per row, got {counts}")
    inputs = {
        name: _input(spec, named[name], context.limits) for name, spec in signature.inputs.items() if name in named
    }
    if single:
        return Call(signature, inputs, Form(COLUMN, _place(named)), context)
    keys = None
    if context.key not in signature.inputs and context.key in named:
        keys = [to_text(part.data, part.content_type, f"part {part.number}") for part in named[context.key]]
    return Call(signature, inputs, Form(ROW, _place(batched)), context, keys)


def _named(parts: Iterable[Part], signature: Signature, key: str | None) -> Parts:
    """Return the parts by name; raise BadRequest for one that is neither an input nor the key, or is missing."""
    named: dict[str, list[Part]] = {}
    for part in parts:
        if part.name not in signature.inputs and part.name != key:
            rest = [name for name in signature.inputs if name not in named]
            raise BadRequest(
                f"part {part.number}: the signature has no input {part.name[:200]!r}"
                f"{did_you_mean(part.name, rest or signature.inputs)}"
            )
        named.setdefault(part.name, []).append(part)
    for name in signature.required:
        if name not in named:
            wanted = ", ".join(map(repr, signature.inputs))
            raise BadRequest(f"parts: the input {name!r} is missing; expected {wanted}")
    return named


def _is_single(spec: TensorSpec | None) -> bool:
    return spec is not None and spec.shape == ()


def _place(named: Parts) -> Callable[[int | None], str]:
    def place(row: int | None) -> str:
        if row is None:
            return "parts"
        numbers = [f"part {parts[row].number}" for parts in named.values() if row < len(parts)]
        return " and ".join(numbers[:3]) or "parts"

    return place


def _input(spec: TensorSpec, parts: Sequence[Part], limits: Limits) -> Array:
    single = _is_single(spec)
    if single and len(parts) > 1:
        raise BadRequest(
            f"part {parts[1].number}: the input {spec.name!r} has no batch dimension: expected one part, "
            f"got {len(parts)}"
        )
    shape = bytes_shape(spec)
    if shape is None:
        return _from_json(spec, parts, limits)
    array = to_strings([_string(part) for part in parts], shape)
    if single:
        return array.reshape(())
    if problem := check(spec, array.shape):
        raise BadRequest(f"parts, {spec.name}: {problem}")
    return array


def _string(part: Part) -> bytes:
    """Return the bytes of a part; text that says its charset becomes UTF-8."""
    if part.content_type.lower().startswith("text/") and parameter(part.content_type, "charset"):
        return to_text(part.data, part.content_type, f"part {part.number}").encode()
    return part.data


def _from_json(spec: TensorSpec, parts: Sequence[Part], limits: Limits) -> Array:
    document, problems = joined([part.data for part in parts], limits)
    for index, problem in problems.items():
        raise BadRequest(f"part {parts[index].number}, {spec.name}: expected {spec.dtype.label} in JSON: {problem}")
    rows = document.root[ROW]
    try:
        if _is_single(spec):
            return to_array(document, rows[0], spec, f"{ROW}[0].{spec.name}")
        return rows_to_array(document, rows, spec, ROW, f".{spec.name}")
    except BadRequest as error:
        raise BadRequest(placed(str(error), _place({spec.name: parts}), len(parts))) from None
