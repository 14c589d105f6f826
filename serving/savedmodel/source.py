"""A model on disk, and what its files say without loading it."""

from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from serving.core.errors import LoadError
from serving.core.telemetry.log import log
from serving.savedmodel.folder import manifest, twin, versions
from serving.savedmodel.folder.card import read as read_card
from serving.savedmodel.initialization import NOTHING, Initialization, needed
from serving.savedmodel.signature import Contents, Signature, check, read, served_graph

if TYPE_CHECKING:
    import numpy as np

    from serving.savedmodel.composite import Part
    from serving.savedmodel.examples import Recipe


def default_arrays(signature: Signature) -> "dict[str, np.ndarray[Any, Any]]":
    """Return the default values of a signature's inputs, by name."""
    from serving.savedmodel.prediction_log import array  # most signatures have no defaults

    return {name: array(memoryview(tensor)) for name, tensor in signature.defaults.items()}


def with_good_defaults(signature: Signature) -> Signature:
    """Return the signature without the defaults whose dtype or shape its own inputs would refuse."""
    good = dict(signature.defaults)
    for name in signature.defaults:
        spec = signature.inputs[name]
        try:
            value = default_arrays(signature._replace(defaults={name: good[name]}))[name]
            fits = value.dtype == spec.dtype.numpy and check(spec, value.shape) is None
        except (ValueError, TypeError):
            fits = False
        if not fits:
            del good[name]
            log("WARNING", f"the default of the input {name!r} of {signature.name!r} is not a value for it")
    return signature if len(good) == len(signature.defaults) else signature._replace(defaults=good)


SMALLEST_RUNS = "smallest_runs.json"  # in assets.extra

# Parts of the names of operations that loop, or that do not terminate for some values.
UNEVEN = (b"While", b"NextIteration", b"AdjustHue", b"AdjustSaturation")


class Source:
    """A model on disk: its folder, version and signatures, without loading it."""

    def __init__(self, directory: Path, name: str) -> None:
        """Find the model in `directory`, or its highest whole version; raise LoadError where there is none."""
        self.name = name
        self.directory, self.passed_over = versions.chosen(directory)
        self.version = self.directory.name if self.directory.name.isdecimal() else "1"
        self.light = twin.holds(self.directory)
        self.contents: Contents = twin.read(self.directory) if self.light else read(self.directory)
        if any(signature.defaults for signature in self.contents.signatures.values()):
            checked = {name: with_good_defaults(signature) for name, signature in self.contents.signatures.items()}
            self.contents = self.contents._replace(signatures=checked)
        self.signatures = self.contents.signatures
        self.may_try = True  # runs without a request are safe: they change no state. `judge` sets it

    @cached_property
    def parts(self) -> "Mapping[str, tuple[Part, ...]]":
        """Return which inputs of each signature are parts of one ragged or sparse tensor; empty for a LiteRT twin."""
        if self.light or not any(len(signature.inputs) > 1 for signature in self.signatures.values()):
            return {}
        from serving.savedmodel.composite import parts  # most models have none

        return parts(self.directory, self.signatures)

    @cached_property
    def even(self) -> bool:
        """Return whether the run time is independent of the values: no operation is known to loop on them.

        Except for pictures, whose time depends on their pixels.
        """
        if self.light:
            return False
        data: Any = served_graph(self.directory).obj  # bytes, or a file in memory
        return not any(data.find(word) >= 0 for word in UNEVEN)

    @cached_property
    def initialization(self) -> Initialization:
        """Return the steps that remain after TensorFlow has loaded the model."""
        return NOTHING if self.light else needed(self.directory)

    def recipes(self, signature: Signature) -> "Iterator[Recipe]":
        """Yield ways to fill a signature's inputs, the likeliest first: see `savedmodel.examples`."""
        from serving.savedmodel import examples, parsing  # not needed for an answer

        strings = any(spec.dtype.kind == "S" for spec in signature.inputs.values())
        texts = parsing.texts(self.directory, signature) if strings and not self.light else parsing.GUESSES
        return examples.recipes(signature, texts, self.parts.get(signature.name, ()))

    @cached_property
    def pictures(self) -> frozenset[str]:
        """Return how the graph uses encoded pictures, see `savedmodel.images`; empty where it decodes none."""
        inputs = [spec for signature in self.signatures.values() for spec in signature.inputs.values()]
        if self.light or not any(spec.dtype.kind == "S" for spec in inputs):
            return frozenset()
        from serving.savedmodel.images import operations  # only models that take strings need it

        return operations(served_graph(self.directory))

    @cached_property
    def exported(self) -> Mapping[str, Any]:
        """Return the exporter's example requests, by signature."""
        import json  # not needed for an answer

        try:
            requests = json.loads(manifest.extra(self.directory, "examples.json") or b"")
        except (LoadError, ValueError, RecursionError):
            requests = {}
        return requests if isinstance(requests, dict) else {}

    @cached_property
    def examples(self) -> Mapping[str, Any]:
        """Return example requests by signature: the exporter's, and those for inputs that zeros would not satisfy."""
        if not self.parts:
            return self.exported
        from serving.savedmodel.composite import example  # imported already

        requests = {name: example(self.signatures[name], parts) for name, parts in self.parts.items()}
        return {**requests, **self.exported}

    @cached_property
    def labels(self) -> tuple[str, ...]:
        """Return the class names in assets.extra/labels.txt, one per line; empty where there are none."""
        try:
            text = manifest.extra(self.directory, "labels.txt") or b""
            return tuple(str(text, "utf-8").splitlines())
        except (LoadError, ValueError):
            return ()

    @cached_property
    def smallest_runs(self) -> Mapping[str, int]:
        """Return how many rows a run of a signature has at least, with dynamic batching; of most models nothing.

        Where one row is rounded differently from several, the exporter says here that it runs as several.
        Raise LoadError for anything but numbers of rows.
        """
        content = manifest.extra(self.directory, SMALLEST_RUNS)
        if content is None:
            return {}
        import json  # most models have none

        try:
            stated = json.loads(content)
        except (ValueError, RecursionError):
            stated = None
        if not isinstance(stated, dict) or any(type(rows) is not int or not 1 < rows <= 16 for rows in stated.values()):
            raise LoadError(
                f"assets.extra/{SMALLEST_RUNS}: expected {{signature: rows from 2 to 16}}, got {content[:60]!r}"
            )
        return stated

    @cached_property
    def card(self) -> Mapping[str, str]:
        """Return the model's card, see `folder.card`; empty where there is none."""
        return read_card(self.directory)
