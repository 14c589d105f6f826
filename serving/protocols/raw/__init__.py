"""Bodies that are not one JSON document, on the addresses of predict.

image/*, audio/*, video/*, application/octet-stream, application/x-image    the bytes are the one row of a string input
text/plain                                             the text is, in UTF-8
    answered:   {"predictions": [...]}, or {"outputs": ...} where the input has no batch dimension
multipart/form-data         a part is an input, by its name: see `multipart`;    answered:   {"predictions": [...]}
application/x-ndjson, jsonl, jsonlines     a line is a row: see `lines`;         answered line by line
text/csv                                   a line is a row: see `table`;         answered line by line, in JSON

?signature_name= chooses a signature other than `serving_default`; the options of `tensorflow_serving` hold here too.

curl labels JSON as a form and fetch() labels it as text: a body that begins as a JSON object does is JSON with any
label, but for pictures, sound and JSON lines, which may begin so.
"""

from collections.abc import Callable, Mapping

from serving.core.http import BadRequest, Response, media_type, to_line
from serving.protocols import answers, tensorflow_serving
from serving.protocols.call import NOTHING, Arrays, Call, Context, choose, option
from serving.protocols.kinds import BYTES, JSON_LINES, PARTS, TEXT, kind_of
from serving.protocols.raw.bodies import LINES, Form, bytes_shape, to_strings, to_text
from serving.protocols.tensorflow_serving import example, metadata
from serving.protocols.tensorflow_serving.inputs import COLUMN, ROW
from serving.protocols.unclear import cut
from serving.savedmodel.signature import Signature, TensorSpec, shape_text

__all__ = ["decode", "encode", "example", "metadata", "place"]

NDJSON = "application/x-ndjson"


def decode(body: bytes, signatures: Mapping[str, Signature], context: Context = NOTHING) -> Call:
    """Return the call that a body describes; raise BadRequest naming what is wrong with it."""
    signature = choose(signatures, option(context, "signature_name"), "signature_name")
    kind = kind_of(media_type(context.headers))
    try:
        tensorflow_serving.check_outputs(signature)
        answers.check(signature, context)
        if answers.repeats(context):
            raise BadRequest(
                f"instances: expected a body in JSON, got {media_type(context.headers)[:60]}", example=False
            )
        if kind in (BYTES, TEXT):
            return answers.check_fields(_whole(body, signature, signatures, context))
        return answers.check_fields(_reader(kind)(body, signature, context))
    except BadRequest as error:
        if kind not in (BYTES, TEXT):
            error.example = False  # it would be JSON
        error.signature = signature.name
        raise


def _reader(kind: str | None) -> Callable[[bytes, Signature, Context], Call]:
    """Return the decoder for a kind of body; import it at first need, since most functions never need it."""
    if kind == PARTS:
        from serving.protocols.raw import multipart

        return multipart.decode
    if kind == JSON_LINES:
        from serving.protocols.raw import lines

        return lines.decode
    from serving.protocols.raw import table

    return table.decode


def _whole(body: bytes, signature: Signature, signatures: Mapping[str, Signature], context: Context) -> Call:
    """Return the call whose one string input is the body."""
    spec = _string(signature)
    if spec is None:
        raise BadRequest(_refusal(signature, signatures, context))
    content_type = context.headers.get("content-type") or ""
    if kind_of(media_type(context.headers)) == TEXT:
        body = to_text(body, content_type).encode()
    if not body:
        raise BadRequest(f"body: expected the content of {spec.name!r}, got nothing", example=False)
    if lost := cut(body):
        raise BadRequest(f"body: {lost}", example=False)
    batch = to_strings([body], bytes_shape(spec) or ())
    if spec.shape == ():
        return Call(signature, {spec.name: batch.reshape(())}, Form(COLUMN, _body), context)
    return Call(signature, {spec.name: batch}, Form(ROW, _body), context)


def _body(_row: int | None) -> str:
    return "body"


def _string(signature: Signature) -> TensorSpec | None:
    """Return the only input of a signature if it takes one string, None otherwise."""
    spec = signature.only
    if spec is None:
        return None
    fits = bytes_shape(spec) is not None and (spec.shape or (1,))[0] in (None, 1)
    return spec if fits else None


def _refusal(signature: Signature, signatures: Mapping[str, Signature], context: Context) -> str:
    specs = signature.inputs.values()
    inputs = [f"{spec.name!r} ({spec.dtype.label}, shape {shape_text(spec.shape)})" for spec in specs]
    others = [other.name for other in signatures.values() if other.refusal is None and _string(other)]
    media = media_type(context.headers)
    if others:
        how = f"these take bytes: {', '.join(f'?signature_name={name}' for name in others[:10])}"
    elif len(inputs) > 1:
        how = "send each input as a part: curl -F NAME=@FILE, or -F NAME=VALUE"
    else:
        how = "send JSON"
    given = f"{'text' if kind_of(media) == TEXT else 'bytes'} ({media[:60]})"
    return f"body: the signature {signature.name!r} takes {', '.join(inputs) or 'no input'}, got {given}; {how}"


def encode(call: Call, outputs: Arrays) -> Response:
    """Return the answer: line by line where the body had lines, else as TensorFlow Serving does."""
    form: Form = call.form
    if form.answer != LINES:
        return tensorflow_serving.encode(call._replace(form=form.answer), outputs)
    rows = tensorflow_serving.predictions(call, outputs)
    return Response(200, b"".join([to_line(row) for row in rows]), NDJSON)


def place(call: Call, row: int | None) -> str:
    """Name one row of the request in its body, or all of them."""
    form: Form = call.form
    return form.place(row)
