"""What schemathesis must know beside the document, because JSON Schema cannot express it."""

import json
from typing import Any

import schemathesis

REFUSED = (
    b"the model refuses it",  # bytes that are no picture
    b"top_k: expected one float output",  # an option that needs another one, or another signature
    b" of scores",  # an option for another signature
    b" in the address and ",  # an option given twice
    b" as the first value is",  # a list of 1.5 and 2
)
ROW_REFUSED = b'"error":"instances'  # with on_error=row a wrong row has its error in a 200 response


@schemathesis.hook
def before_load_schema(_context: Any, raw_schema: Any) -> None:
    """Leave the bodies that are not JSON to tests of their own: what a picture is, no schema says."""
    for body in raw_schema["components"]["requestBodies"].values():
        body["content"] = {kind: media for kind, media in body["content"].items() if kind == "application/json"}


@schemathesis.hook
def filter_failure(_context: Any, failure: Any, _case: Any, response: Any) -> bool:
    """Say whether a failure counts."""
    if type(failure).__name__ == "RejectedPositiveData":
        return not (response.status_code == 400 and any(words in response.content for words in REFUSED))
    if type(failure).__name__ == "AcceptedNegativeData":  # 413 is a refusal too: of a body that is wrong and too large
        return ROW_REFUSED not in response.content and response.status_code != 413
    return True


@schemathesis.deserializer("application/octet-stream", "application/x-ndjson")
def binary(_context: Any, response: Any) -> str:
    """Return a binary answer as text of as many characters."""
    content: bytes = response.content
    return content.decode("latin-1")


@schemathesis.hook
def before_call(_context: Any, case: Any, _kwargs: Any) -> None:
    """Write the integers of a valid body without a point, and let a tensor's shape give its number of elements."""
    if not case.meta.generation.mode.is_positive or not isinstance(case.body, dict):
        return
    body = json.loads(json.dumps(case.body), parse_float=_number)
    for tensor in body.get("inputs") if isinstance(body.get("inputs"), list) else []:
        if isinstance(tensor, dict) and isinstance(tensor.get("shape"), list) and isinstance(tensor.get("data"), list):
            _fit(tensor)
    case.body = body


def _number(text: str) -> float:
    value = float(text)
    return int(value) if value.is_integer() and abs(value) < 1 << 53 else value


def _fit(tensor: dict[str, Any]) -> None:
    """Set the first dimension, the free one."""
    data, (_, *sizes) = tensor["data"], tensor["shape"]
    if not data or not isinstance(data[0], list):
        row = 1
        for size in sizes:
            row *= size
        tensor["data"] = data = data[: len(data) // row * row]
        tensor["shape"] = [len(data) // row, *sizes]
    else:
        tensor["shape"] = [len(data), *sizes]
