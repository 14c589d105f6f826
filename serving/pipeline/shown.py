"""An example request for a signature: one that was answered, or else a template.

A body is said to work only if this process has tried it or the model's exporter stored it. For a model that parses its
strings (pictures, tf.Examples, base64) and has no example, a template is shown, and what to put into it.
"""

import json
import math
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from threading import Lock
from typing import Any
from weakref import WeakKeyDictionary

import orjson

from serving.core import settings
from serving.core.errors import LoadError
from serving.core.http import JSON, BadRequest
from serving.protocols import answers, classify, open_inference, raw, regress, requests, sagemaker, tensorflow_serving
from serving.protocols.call import Context, option
from serving.protocols.codec import Codec
from serving.runtime.loading import tried
from serving.runtime.model import Model
from serving.savedmodel import parsing
from serving.savedmodel.signature import DEFAULT, Signature
from serving.savedmodel.source import Source

LONGEST = 600  # characters of a body in an error message

_tried: "WeakKeyDictionary[Model, dict[tuple[str, str], bytes]]" = WeakKeyDictionary()
_lock = Lock()


def examples(served: Model, error: BadRequest, context: Context, codec: Codec) -> str:
    """Return the end of an error message: a body that works, and a template where the model parses its strings."""
    callable_ = {name: signature for name, signature in served.signatures.items() if signature.refusal is None}
    asked = option(context, "signature_name")
    if asked and error.signature not in (None, asked):
        return ""  # the address names a signature that there is not: no body helps
    name = error.signature or asked
    signature = callable_.get(name or DEFAULT) or (None if name else next(iter(callable_.values())))
    if signature is None:
        return ""
    label = f", as {JSON}" if codec is raw else ""  # under the request's content type it would not
    if codec in (raw, sagemaker):
        codec = tensorflow_serving
    hint = ""
    if codec not in (classify, regress) and not exported(served.source, signature, codec):
        text = form(served.source, signature, codec)
        hint = f"; the form of a body{label}: {text}" if text else ""
    body = working(served, signature, codec).decode()
    return hint + (f"; a body that works{label}: {body}" if body else "")


def exported(source: Source, signature: Signature, protocol: Codec = tensorflow_serving) -> bytes:
    """Return the exporter's example in a protocol's form, empty where there is none."""
    saved = source.exported.get(signature.name)
    return protocol.example(signature, saved) if isinstance(saved, dict) else b""


def working(served: Model, signature: Signature, protocol: Codec = tensorflow_serving) -> bytes:
    """Return a short body that the model has answered, empty where none is known; it is tried when first needed.

    It is the exporter's, or else the simplest; if the model refuses that, it is made from inputs that the model has
    answered. A model in which a run may change the next answer is not tried.
    """
    key = (protocol.__name__, signature.name)
    with _lock:
        bodies = _tried.setdefault(served, {})
    if key not in bodies:
        candidates = _bodies(served, signature, protocol)
        bodies[key] = next((body for body in candidates if _answers(served, protocol, body)), b"")
    return bodies[key]


def _bodies(served: Model, signature: Signature, protocol: Codec) -> Iterator[bytes]:
    """Yield bodies that may work."""
    if saved := exported(served.source, signature, protocol):
        yield saved
        return
    plain = protocol.example(signature, served.source.examples.get(signature.name))
    if not plain:
        return  # the protocol has no body for such a signature
    yield plain
    if signature.name not in served.answered:
        with suppress(Exception):  # the inputs are generated, so every exception means that they do not work
            tried(served, signature, math.inf)  # by number alone, so that every instance shows the same
    if (inputs := served.answered.get(signature.name)) is not None:
        yield protocol.example(signature, orjson.loads(requests.predict(signature, inputs)))


def _answers(served: Model, protocol: Codec, body: bytes) -> bool:
    if not 0 < len(body) <= LONGEST or not served.source.may_try:
        return False
    context = Context(name=served.name, version=served.version, labels=served.source.labels, limits=settings.current())
    try:
        call = protocol.decode(body, served.signatures, context)
        protocol.encode(call, served.run(call.signature, call.inputs))
    except Exception:  # no client sent it: with any error it is a body that does not work
        return False
    return True


PICTURE = "a picture's file"
# Operations that parse a string, what the string is then, and whether it is bytes, which JSON holds in base64.
PARSERS: Sequence[tuple[str, str, bool]] = (
    (r"Decode(Image|Png|Jpeg|Gif|Bmp|WebP|AndCropJpeg)",   PICTURE,                             True),
    (r"Parse(Single)?(Sequence)?Example(V2)?",             "a serialized tf.train.Example",     True),
    (r"Decode(Wav|Audio)",                                 "a sound's file",                    True),
    (r"ParseTensor",                                       "a serialized tensor",               True),
    (r"DecodeCompressed",                                  "compressed bytes",                  True),
    (r"DecodeRaw|DecodePaddedRaw",                         "the bytes of an array",             True),
    (r"DecodeJSONExample",                                 "a tf.train.Example in JSON",        False),
    (r"DecodeCSV",                                         "a line of CSV",                     False),
    (r"StringToNumber",                                    "a number as text",                  False),
)  # fmt: skip
BASE64 = b"DecodeBase64"


def form(source: Source, signature: Signature, protocol: Codec = tensorflow_serving) -> str:
    """Return a template of a body whose strings the model parses, empty where the signature alone describes it."""
    if not any(spec.dtype.kind == "S" for spec in signature.inputs.values()) or is_complex(signature):
        return ""
    what, as_bytes = _meaning(source, signature)
    if not what:
        return ""
    value: Any = {"b64": "..."} if as_bytes else "..."
    body = _body(signature, value, protocol)
    text = f'{body}, where "..." is {what}{" in base64" if as_bytes else ""}'
    method = signature.method_name.rpartition("/")[2]
    if method in ("classify", "regress") and list(signature.inputs) == ["inputs"]:
        text += f'; or {{"examples": [{{"FEATURE": VALUE}}]}} to :{method}'
    return text


def media_type(source: Source, signature: Signature) -> str | None:
    """Return image/* where a signature decodes its strings as pictures, None where it does not, or in base64."""
    if not any(spec.dtype.kind == "S" for spec in signature.inputs.values()):
        return None
    return "image/*" if _meaning(source, signature) == (PICTURE, True) else None


def is_complex(signature: Signature) -> bool:
    """Return whether a tensor of the signature is complex, which JSON cannot hold."""
    return any(spec.dtype.kind == "c" for side in (signature.inputs, signature.outputs) for spec in side.values())


def _meaning(source: Source, signature: Signature) -> tuple[str, bool]:
    try:
        ops = frozenset() if source.light else parsing.parsed(source.directory, signature)
    except LoadError:
        return "", False
    names = [op.decode("utf-8", "replace") for op in ops]
    for pattern, what, as_bytes in PARSERS:
        if any(re.fullmatch(pattern, name) for name in names):
            return (f"{what} in web-safe base64", False) if BASE64 in ops else (what, as_bytes)
    return ("text in web-safe base64", False) if BASE64 in ops else ("", False)


def _body(signature: Signature, value: Any, protocol: Codec) -> str:
    strings = {spec.name for spec in signature.inputs.values() if spec.dtype.kind == "S"}
    if protocol is open_inference:
        tensors = [
            {"name": spec.name, "shape": [size or 1 for size in spec.shape or ()], "datatype": spec.dtype.v2_name,
             "data": [value if spec.name in strings else 0]}
            for spec in signature.inputs.values()
        ]  # fmt: skip
        return json.dumps({"inputs": tensors})
    named = {} if signature.name == "serving_default" else {"signature_name": signature.name}
    values = {name: value if name in strings else 0 for name in signature.inputs}
    only = next(iter(values.values())) if len(values) == 1 else values
    if answers.has_rows(signature):
        return json.dumps({**named, "instances": [only]})
    return json.dumps({**named, "inputs": only})
