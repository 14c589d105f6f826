"""Common pre- and postprocessing for a model: each wrapper takes a serving function and returns another.

    picture = image_bytes(class_names(forward(model), ["cat", "dog"]))      bytes of a picture in, names out
    sentence = text(forward(model), vocabulary=words, length=64)             sentences in
    served = {"serving_default": keyed(picture), "classify": tf_example(top_k(forward(model)))}

All of it becomes part of the graph, so that a caller in any language sends what it has, and nothing about the
preparation can differ between training and serving.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from exporting.function import Function, Tensors, as_function
from exporting.pictures import LARGEST, decode_picture, each_picture
from exporting.refusal import Refusal

PUNCTUATION = r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~]"  # what keras.layers.TextVectorization strips
PADDING, UNKNOWN, FIRST = 0, 1, 2  # and how it numbers: words begin at 2


def image_bytes(
    inner: Any,
    *,
    name: str = "image",
    replaces: str | None = None,
    size: tuple[int, int] | None = None,
    resize: Literal["stretch", "crop", "pad"] = "stretch",
    scale: float = 1.0,
    offset: float = 0.0,
    largest: int = LARGEST,
) -> Function:
    """Take PNG, JPEG, GIF, BMP or WebP files in place of the pixels: decoded, to size, times scale plus offset.

    Height, width and channels are those of the input that is replaced; `size` says those that it leaves open. Without a
    scale, pixels are 0..255. A file that claims more than `largest` pixels is refused before it is decoded, and so is a
    JPEG XL, whose size the graph does not read. The frames of a GIF, which may be larger than its screen, are not
    measured: only this server limits them (MAX_PIXELS).
    """
    import tensorflow as tf

    wrapped = as_function(inner)
    replaced = _replaced(wrapped, replaces, name)
    spec = wrapped.inputs[replaced]
    shape = spec.shape.as_list() if spec.shape.rank is not None else []
    if len(shape) != 4 or shape[3] not in (1, 3, 4):
        raise Refusal(
            f"image_bytes: input {replaced!r} has shape {spec.shape}, expected [rows, height, width, 1, 3 or 4]"
        )
    height, width = (own or requested for own, requested in zip(shape[1:3], size or (None, None)))
    if not height or not width:
        raise Refusal(f"image_bytes: input {replaced!r} leaves its height and width open: give size=(height, width)")
    channels = shape[3]
    decoder = _decoder((height, width, channels), spec.dtype, resize, scale, offset)

    def decoded(files: Any) -> Any:
        return each_picture(decoder, files, tf.TensorSpec((height, width, channels), spec.dtype), largest)

    return _in_place_of(wrapped, replaced, tf.TensorSpec((shape[0],), tf.string, name), decoded)


def _decoder(shape: tuple[int, int, int], dtype: Any, resize: str, scale: float, offset: float) -> Callable[[Any], Any]:
    """Return what decodes one file, bytes as a string scalar, to pixels of this shape: height, width, channels."""
    import tensorflow as tf

    height, width, channels = shape

    def resized(pixels: Any) -> Any:
        if resize == "stretch":
            return tf.image.resize(pixels, (height, width), antialias=True)
        if resize == "pad":
            return tf.image.resize_with_pad(pixels, height, width, antialias=True)
        side = tf.cast(tf.shape(pixels)[:2], tf.float32)
        larger = tf.cast(tf.math.ceil(side * tf.reduce_max((height, width) / side)), tf.int32)
        pixels = tf.image.resize(pixels, tf.maximum(larger, (height, width)), antialias=True)
        return tf.image.resize_with_crop_or_pad(pixels, height, width)

    def decode(file: Any) -> Any:
        pixels = tf.cast(decode_picture(file, channels), tf.float32)
        pixels = resized(pixels) * scale + offset
        if dtype.is_integer:
            pixels = tf.saturate_cast(tf.round(pixels), dtype)
        return tf.ensure_shape(tf.cast(pixels, dtype), shape)

    return decode


def text(
    inner: Any,
    *,
    encode: Callable[[Any], Any] | None = None,
    vocabulary: Sequence[str] | None = None,
    length: int | None = None,
    name: str = "text",
    replaces: str | None = None,
) -> Function:
    """Take sentences in place of the numbers that the model reads.

    `encode` turns strings [rows] into them: an adapted keras.layers.TextVectorization, above all. Or `vocabulary`: the
    sentence is lowered, stripped of punctuation and split at spaces; its words are numbered as that layer does it
    (0 padding, 1 unknown, 2 the first word), cut or padded to `length`, which may also be the input's own.
    """
    import tensorflow as tf

    if (encode is None) == (vocabulary is None):
        raise Refusal("text: expected either encode= or vocabulary=")
    wrapped = as_function(inner)
    replaced = _replaced(wrapped, replaces, name)
    spec = wrapped.inputs[replaced]
    holds: tuple[Any, ...] = (encode,)
    if vocabulary is not None:
        length = length or (spec.shape.as_list()[-1] if spec.shape.rank else None)
        if not length:
            raise Refusal(f"text: input {replaced!r} leaves its length open: give length=")
        encode, table = _numbering(vocabulary, length)
        holds = (table,)
    reading = encode

    def encoded(sentences: Any) -> Any:
        assert reading is not None
        return tf.cast(reading(sentences), spec.dtype)

    rows = spec.shape.as_list()[0] if spec.shape.rank else None
    return _in_place_of(wrapped, replaced, tf.TensorSpec((rows,), tf.string, name), encoded, holds)


def class_names(inner: Any, names: Sequence[str], *, output: str | None = None, logits: bool = False) -> Function:
    """Give the likeliest class's name as `label`, its `probability`, and the `probabilities` of all.

    With `logits`, what the model gives are logits: a softmax makes probabilities of them, or a sigmoid of the only one
    of a binary model, which says how likely the second of two names is. Other outputs stay.
    """
    import tensorflow as tf

    wrapped = as_function(inner)

    def call(**tensors: Any) -> Tensors:
        outputs = wrapped.call(**tensors)
        probabilities = _scores(outputs, output, logits, names)
        labels = tf.constant(list(names), tf.string)
        return {
            "label": tf.gather(labels, tf.argmax(probabilities, axis=-1)),
            "probability": tf.reduce_max(probabilities, axis=-1),
            "probabilities": probabilities,
            **outputs,
        }

    return Function(call, wrapped.inputs, wrapped.holds)


def probability(inner: Any, *, output: str | None = None) -> Function:
    """Give the model's `logits` and their `probability`: the sigmoid of one column, the softmax of several.

    Other outputs stay.
    """
    import tensorflow as tf

    wrapped = as_function(inner)

    def call(**tensors: Any) -> Tensors:
        outputs = wrapped.call(**tensors)
        logits = _taken(outputs, output)
        binary = logits.shape.rank < 2 or logits.shape[-1] == 1
        return {"logits": logits, "probability": tf.sigmoid(logits) if binary else tf.nn.softmax(logits), **outputs}

    return Function(call, wrapped.inputs, wrapped.holds)


def top_k(
    inner: Any, k: int = 5, names: Sequence[str] | None = None, *, output: str | None = None, logits: bool = False
) -> Function:
    """Give the k likeliest `classes`, by name or as numbers in text, and their `scores`, best first; nothing else.

    That is the form of TensorFlow Serving's classify: `tf_example(top_k(...))` can be called by it.
    """
    import tensorflow as tf

    wrapped = as_function(inner)

    def call(**tensors: Any) -> Tensors:
        scores = _scores(wrapped.call(**tensors), output, logits, names)
        best, places = tf.math.top_k(scores, min(k, scores.shape[-1]))
        known = (
            tf.strings.as_string(places) if names is None else tf.gather(tf.constant(list(names), tf.string), places)
        )
        return {"classes": known, "scores": best}

    return Function(call, wrapped.inputs, wrapped.holds)


def _scores(outputs: Tensors, output: str | None, logits: bool, names: Sequence[str] | None) -> Any:
    """Take the scores [rows, classes] out of the outputs; of a binary model's one column, two are made."""
    import tensorflow as tf

    output = next(iter(outputs)) if output is None and len(outputs) == 1 else output
    scores = _taken(outputs, output)
    if scores.shape.rank != 2 or scores.shape[-1] is None:
        raise Refusal(f"output {output!r} has shape {scores.shape}, expected [rows, classes]")
    if scores.shape[-1] == 1:
        if names is not None and len(names) != 2:
            raise Refusal(f"output {output!r} has one column, a binary model's: expected 2 names, got {len(names)}")
        second = tf.sigmoid(scores) if logits else scores
        return tf.concat([1 - second, second], axis=-1)
    if names is not None and len(names) != scores.shape[-1]:
        raise Refusal(f"output {output!r} has {scores.shape[-1]} classes, and {len(names)} names are given")
    return tf.nn.softmax(scores) if logits else scores


def _taken(outputs: Tensors, output: str | None) -> Any:
    """Take one output out of them."""
    if output is None:
        if len(outputs) > 1:
            raise Refusal(f"it gives {', '.join(outputs)}: say which are the scores, output=")
        (output,) = outputs
    elif output not in outputs:
        raise Refusal(f"it gives {', '.join(outputs)}, and no {output!r}")
    return outputs.pop(output)


def keyed(inner: Any, *, name: str = "key", dtype: Any = "string") -> Function:
    """Take a key for each row and return it unchanged, so that answers can be matched to rows in any order."""
    import tensorflow as tf

    wrapped = as_function(inner)
    _fresh(wrapped, name)

    def call(**tensors: Any) -> Tensors:
        keys = tensors.pop(name)
        outputs = wrapped.call(**tensors)
        if name in outputs:
            raise Refusal(f"keyed: it gives an output {name!r} of its own")
        return {name: tf.identity(keys), **outputs}

    inputs = {name: tf.TensorSpec((None,), dtype, name), **wrapped.inputs}
    return Function(call, inputs, wrapped.holds)


def tf_example(inner: Any, *, name: str = "examples", defaults: Mapping[str, Any] | None = None) -> Function:
    """Take serialized tf.train.Examples: each input is the feature of its name; `defaults` for what may be absent."""
    import tensorflow as tf

    wrapped = as_function(inner)
    features = {}
    for key, spec in wrapped.inputs.items():
        shape = spec.shape.as_list()[1:] if spec.shape.rank else [None]
        if None in shape:
            raise Refusal(f"tf_example: input {key!r} has shape {spec.shape}; all but the rows must be known")
        parsed = tf.string if spec.dtype == tf.string else tf.float32 if spec.dtype.is_floating else tf.int64
        features[key] = tf.io.FixedLenFeature(shape, parsed, (defaults or {}).get(key))

    def call(**tensors: Any) -> Tensors:
        features_of_rows = tf.io.parse_example(tensors[name], features)
        return wrapped.call(**{key: tf.cast(features_of_rows[key], spec.dtype) for key, spec in wrapped.inputs.items()})

    return Function(call, {name: tf.TensorSpec((None,), tf.string, name)}, wrapped.holds)


def _replaced(wrapped: Function, replaces: str | None, name: str) -> str:
    if replaces is None:
        if len(wrapped.inputs) != 1:
            raise Refusal(f"it takes {', '.join(wrapped.inputs)}: say which {name!r} replaces, replaces=")
        (replaces,) = wrapped.inputs
    elif replaces not in wrapped.inputs:
        raise Refusal(f"it takes {', '.join(wrapped.inputs)}, and no {replaces!r}")
    if name != replaces:
        _fresh(wrapped, name)
    return replaces


def _fresh(wrapped: Function, name: str) -> None:
    if name in wrapped.inputs:
        raise Refusal(f"it takes an input {name!r} already: say another name=")


def _in_place_of(
    wrapped: Function, replaced: str, spec: Any, make: Callable[[Any], Any], holds: tuple[Any, ...] = ()
) -> Function:
    """Return the function with one input made of another."""
    inputs = {
        (spec.name if key == replaced else key): (spec if key == replaced else own)
        for key, own in wrapped.inputs.items()
    }

    def call(**tensors: Any) -> Tensors:
        value = make(tensors.pop(spec.name))
        return wrapped.call(**tensors, **{replaced: value})

    return Function(call, inputs, (*wrapped.holds, *holds))


def _numbering(vocabulary: Sequence[str], length: int) -> tuple[Callable[[Any], Any], Any]:
    """Return what numbers the words of sentences, strings [rows] to int64 [rows, length], and the table for that."""
    import tensorflow as tf

    if len(set(vocabulary)) != len(vocabulary):
        raise Refusal("text: a word appears twice in the vocabulary")
    numbers = tf.range(FIRST, FIRST + len(vocabulary), dtype=tf.int64)
    words = tf.lookup.KeyValueTensorInitializer(tf.constant(list(vocabulary), tf.string), numbers)
    table = tf.lookup.StaticHashTable(words, UNKNOWN)

    def numbered(sentences: Any) -> Any:
        lowered = tf.strings.regex_replace(tf.strings.lower(sentences, encoding="utf-8"), PUNCTUATION, "")
        split = tf.strings.split(lowered).to_tensor("")
        ids = tf.where(split == "", tf.constant(PADDING, tf.int64), table.lookup(split))[:, :length]
        ids = tf.pad(ids, [[0, 0], [0, length - tf.shape(ids)[1]]], constant_values=PADDING)
        return tf.ensure_shape(ids, (None, length))

    return numbered, table
