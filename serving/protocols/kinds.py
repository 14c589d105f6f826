"""The format of a body, recognised by its header fields and first bytes, before a codec is chosen or imported."""

import re
from typing import TYPE_CHECKING

from serving.core.http import JSON, BadRequest, Headers, Response

if TYPE_CHECKING:
    from serving.protocols.sizes import Limits

# The bodies of `raw`, by their content types

BYTES, TEXT, PARTS, JSON_LINES, TABLE = "bytes", "text", "parts", "JSON lines", "table"
KINDS = {
    "image": BYTES,
    "audio": BYTES,
    "video": BYTES,
    "application/octet-stream": BYTES,
    "application/x-image": BYTES,  # as SageMaker's clients say
    "text/plain": TEXT,
    "multipart/form-data": PARTS,
    "application/x-ndjson": JSON_LINES,
    "application/ndjson": JSON_LINES,
    "application/jsonl": JSON_LINES,
    "application/x-jsonl": JSON_LINES,
    "application/jsonlines": JSON_LINES,
    "application/x-jsonlines": JSON_LINES,
    "text/csv": TABLE,
}
OFTEN_JSON = frozenset({"application/octet-stream", "text/plain", "text/csv", "multipart/form-data"})
OBJECT = rb'(?:\xef\xbb\xbf)?[ \t\r\n]*\{[ \t\r\n]*["}]'  # the beginning of a JSON object


def kind_of(media: str) -> str | None:
    """Return the kind of a media type, one of KINDS, or None."""
    return KINDS.get(media) or KINDS.get(media.partition("/")[0])


def is_raw(content_type: str, body: bytes) -> bool:
    """Return whether a body of this content type is for `raw` and not for a codec of JSON."""
    if content_type == JSON:
        return False  # the type of most requests
    media = content_type.partition(";")[0].strip().lower()
    return kind_of(media) is not None and not (media in OFTEN_JSON and re.match(OBJECT, body))


# Those of `open_inference`

HEADER = "Inference-Header-Content-Length"
BINARY = "application/octet-stream"


def is_open_inference(body: bytes, limits: "Limits") -> bool:
    """Return whether a body is of this protocol at any address: named tensors, each with a datatype."""
    if b'"datatype"' not in body:
        return False  # as most bodies are
    from serving.protocols.json_tensors.document import LISTS, OBJECTS, Document

    try:
        document = Document(body, limits)
    except BadRequest:
        return False
    inputs = document.root.get("inputs")
    return (
        isinstance(inputs, LISTS)
        and len(inputs) > 0
        and all(isinstance(entry, OBJECTS) and "datatype" in entry for entry in inputs)
    )


def json_size(headers: Headers, length: int) -> int | None:
    """Return how many bytes of a body are JSON, None where all are; raise BadRequest for more than it has."""
    text = headers.get(HEADER)
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        raise BadRequest(f"{HEADER}: expected a number of bytes, got {text[:40]!r}", example=False)
    if int(text) > length:
        raise BadRequest(f"{HEADER}: expected at most {length}, the length of the body, got {text}", example=False)
    return int(text)


def with_binary(body: bytes, size: int) -> Response:
    """Return the answer whose JSON, of `size` bytes, is followed by binary tensors."""
    return Response(200, body, BINARY, ((HEADER, str(size)),))
