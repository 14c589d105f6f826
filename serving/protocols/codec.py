"""The interface of every protocol: functions from a request's bytes to named arrays, and from outputs to bytes.

The modules of this package that read whole requests satisfy `Codec`; a table of routes typed with it lets mypy check
each of them. A codec is pure: its answers depend on its arguments alone.
"""

from collections.abc import Mapping
from typing import Any, Protocol

from serving.core.http import Response
from serving.protocols.call import Arrays, Call, Context
from serving.savedmodel.signature import Contents, Signature


class Codec(Protocol):
    """One protocol. Its functions are those of a module; they may be called from several threads at once."""

    @property
    def __name__(self) -> str: ...

    def decode(self, body: bytes, signatures: Mapping[str, Signature], context: Context) -> Call:
        """Return the call that a body describes: a signature and its inputs by name.

        Each input has the dtype and a shape that its spec declares. Raise BadRequest naming the place in the body,
        what was expected and what was found, and TooLarge beyond a limit of the context.
        """

    def encode(self, call: Call, outputs: Arrays) -> Response:
        """Return the response for a call's outputs by name.

        Raise BadRequest where this protocol cannot hold them, ModelFault where they are not as declared.
        """

    def place(self, call: Call, row: int | None) -> str:
        """Return the position of a call's inputs in its body for an error message: of all, or of one row, from 0 on."""

    def example(self, signature: Signature, saved: Any = None) -> bytes:
        """Return a body to try, empty where there is none.

        `saved`: a body of the exporter's, parsed from JSON, in TensorFlow Serving's form.
        """

    def metadata(self, name: str, version: str, contents: Contents, card: Mapping[str, str]) -> bytes:
        """Return the description of a model in JSON: its signatures, and the card where the protocol can hold it."""
