"""The protocols by name. A codec is imported by the first request that needs it.

A codec imports NumPy and the JSON readers, 60 ms of a cold start, and the native codec answers most requests without
them.
"""

from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from serving.protocols.codec import Codec


class Named:
    """A protocol."""

    def __init__(self, name: str, load: "Callable[[], Codec]") -> None:
        """Store the name, and the function that imports the codec."""
        self.name, self._load = name, load

    def __repr__(self) -> str:
        return self.name

    @cached_property
    def codec(self) -> "Codec":
        """Return the codec, imported at the first call."""
        return self._load()


def _tensorflow_serving() -> "Codec":
    from serving.protocols import tensorflow_serving

    return tensorflow_serving


def _classify() -> "Codec":
    from serving.protocols import classify

    return classify


def _regress() -> "Codec":
    from serving.protocols import regress

    return regress


def _open_inference() -> "Codec":
    from serving.protocols import open_inference

    return open_inference


def _sagemaker() -> "Codec":
    from serving.protocols import sagemaker

    return sagemaker


def _raw() -> "Codec":
    from serving.protocols import raw

    return raw


TENSORFLOW_SERVING = Named("tensorflow_serving", _tensorflow_serving)
CLASSIFY = Named("classify", _classify)
REGRESS = Named("regress", _regress)
OPEN_INFERENCE = Named("open_inference", _open_inference)
SAGEMAKER = Named("sagemaker", _sagemaker)
RAW = Named("raw", _raw)
