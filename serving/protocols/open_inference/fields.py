"""The members of a request that inputs and outputs share: names, parameters, sizes; each checked for its JSON type."""

from collections.abc import Mapping
from typing import Any

from serving.core.dtypes import DType
from serving.core.errors import did_you_mean
from serving.core.http import BadRequest
from serving.protocols.json_tensors.document import OBJECTS, kind, members
from serving.savedmodel.signature import TensorSpec

BINARY_ONLY = frozenset({"BF16"})  # datatypes without a JSON form


def parameters_of(value: Any, place: str) -> Mapping[str, Any]:
    """Return an object's parameters by name, none for null; raise BadRequest for anything else."""
    if value is None:
        return {}
    if not isinstance(value, OBJECTS):
        raise BadRequest(f"{place}: expected an object, got {kind(value)}")
    return members(value, place)


def flag(parameters: Mapping[str, Any], name: str, place: str, default: bool) -> bool:
    """Return a boolean parameter; raise BadRequest for another type."""
    value = parameters.get(name)
    if value is None:
        return default
    if not isinstance(value, bool):
        raise BadRequest(f"{place}.{name}: expected true or false, got {kind(value)}")
    return value


def fields_of(entry: Any, place: str) -> dict[str, Any]:
    """Return the members of an input or output; raise BadRequest where it is no object."""
    if not isinstance(entry, OBJECTS):
        raise BadRequest(f"{place}: expected an object with a name, got {kind(entry)}")
    return members(entry, place)


def spec_of(
    fields: Mapping[str, Any], specs: Mapping[str, TensorSpec], earlier: Mapping[str, Any], place: str, side: str
) -> TensorSpec:
    """Return the spec that `fields` name.

    `earlier` has the names that stand before it in the request, `side` is "input" or "output" for messages. Raise
    BadRequest for a name that is unknown or appears twice.
    """
    name = fields.get("name")
    if not isinstance(name, str):
        raise BadRequest(f"{place}.name: expected a string, got {kind(name) if 'name' in fields else 'nothing'}")
    spec = specs.get(name)
    if spec is None:
        rest = [known for known in specs if known not in earlier]
        name = name[:200]
        raise BadRequest(f"{place}.name: the signature has no {side} {name!r}{did_you_mean(name, rest or specs)}")
    if name in earlier:
        raise BadRequest(f"{place}.name: {name!r} appears twice")
    return spec


def size_of(value: Any, place: str) -> int:
    """Return a whole number of 0 or more, which may be written 5.0; raise BadRequest for anything else."""
    if type(value) is float and value.is_integer():
        value = int(value)
    if type(value) is not int or value < 0:
        raise BadRequest(f"{place}: expected a whole number of 0 or more, got {kind(value)}")
    return value


def datatype_of(dtype: DType) -> str:
    """Return this protocol's name of an input's dtype; raise BadRequest where it has none."""
    if dtype.v2_name is None:
        raise BadRequest(f"the model takes {dtype.label}, which this protocol lacks", example=False)
    return dtype.v2_name
