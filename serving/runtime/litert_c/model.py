"""A model for LiteRT, opened for the native codec: which of its signatures that can run, and where it finds them."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from serving.runtime.litert_c import shapes
from serving.runtime.litert_c.library import CPU, MAX_RANK, Api, Failed, Memory, add_options, environment
from serving.runtime.model import Addresses
from serving.savedmodel.signature import Signature

# TF_DataType by LiteRtElementType
CODES = {1: 1, 2: 3, 3: 4, 4: 9, 6: 10, 7: 5, 9: 6, 11: 2, 13: 23, 16: 22, 17: 17}


class Unusable(Exception):
    """The model cannot be run so: LiteRT's interpreter runs it, or says what is wrong with it."""


class Tensor(NamedTuple):
    """A tensor of a signature: its handle, its name, its position among the subgraph's, and its type."""

    handle: int
    name: str
    position: int
    code: int  # TF_DataType
    rank: int


class Runnable(NamedTuple):
    """A signature that native code can run: its number in the model, and its tensors by name."""

    number: int
    inputs: Mapping[str, Tensor]
    outputs: Mapping[str, Tensor]


class Compiled:
    """A model, compiled once; the native codec compiles it again for calls at the same time."""

    def __init__(self, library: Api, directory: Path, threads: int, most: int) -> None:
        """Open the twin in a folder, of which an operation runs on `threads` threads; raise Unusable."""
        self._library, self._most = library, most
        self._model = self._options = self._compiled = 0
        try:
            self._environment = environment(library)
            self._memory = Memory(directory)  # which LiteRT reads while the model lives
            # Made from memory it is verified; LiteRtCreateModelFromFile reads past the end of a damaged file.
            self._model = library.handle_of(
                "LiteRtCreateModelFromBuffer", self._environment, self._memory.address, self._memory.size
            )
            self.signatures = dict(_runnable(library, self._model))
            if not self.signatures:
                raise Unusable("it has no signature whose shapes follow from its inputs")
            self._options = library.handle_of("LiteRtCreateOptions")
            library.call("LiteRtSetOptionsHardwareAccelerators", self._options, CPU)
            add_options(library, self._options, b"xnnpack", b"num_threads = %d\n" % threads)
            # Errors are kept, not printed: Python runs what has failed again, and says why it fails.
            add_options(library, self._options, b"runtime_options_string", b"error_reporter_mode = 2\n")
            self._compiled = library.handle_of(
                "LiteRtCreateCompiledModel", self._environment, self._model, self._options
            )
        except (Failed, OSError, ValueError) as error:
            raise Unusable(str(error)) from None

    def addresses(self, key: str, signature: Signature, renamed: Mapping[str, str]) -> Addresses | None:
        """Return where native code finds a signature; None where it cannot run it.

        `key` is its name in the model, `renamed` says which inputs have other names there.
        """
        runnable = self.signatures.get(key)
        if runnable is None:
            return None
        inputs = [runnable.inputs.get(renamed.get(name, name)) for name in signature.inputs]
        outputs = [runnable.outputs.get(name) for name in signature.outputs]
        if len(inputs) != len(runnable.inputs) or len(outputs) != len(runnable.outputs):
            return None
        feeds, fetches = [], []
        for spec, tensor in zip(signature.inputs.values(), inputs):
            if tensor is None or tensor.code != spec.dtype.code or tensor.rank != len(spec.shape or ()):
                return None
            feeds.append((runnable.number, tensor.position))
        for tensor in outputs:
            if tensor is None:
                return None
            fetches.append((tensor.name, tensor.code, runnable.number, tensor.position))
        handles = (self._environment, self._model, self._options, self._compiled, self._most)
        return Addresses(("litert", self._library.handle, handles), feeds, fetches)

    def __del__(self) -> None:  # when no native code has the addresses any more
        self._library.destroy("LiteRtDestroyCompiledModel", self._compiled)
        self._library.destroy("LiteRtDestroyOptions", self._options)
        self._library.destroy("LiteRtDestroyModel", self._model)


def _runnable(library: Api, model: int) -> "list[tuple[str, Runnable]]":
    runnable = []
    for index in range(library.count_of("LiteRtGetNumModelSignatures", model)):
        signature = library.handle_of("LiteRtGetModelSignature", model, index)
        subgraph = library.handle_of("LiteRtGetSignatureSubgraph", signature)
        inputs = _tensors(library, signature, subgraph, "Input")
        outputs = _tensors(library, signature, subgraph, "Output")
        returned = {tensor.handle for tensor in inputs.values()} & {tensor.handle for tensor in outputs.values()}
        if inputs and outputs and not returned and shapes.follow(library, subgraph):
            key = library.name_of("LiteRtGetSignatureKey", signature)
            runnable.append((key, Runnable(index, inputs, outputs)))
    return runnable


def _tensors(library: Api, signature: int, subgraph: int, kind: str) -> Mapping[str, Tensor]:
    """Return the inputs or outputs by name; nothing where one of them is not a tensor of the subgraph's own."""
    order = [
        library.handle_of(f"LiteRtGetSubgraph{kind}", subgraph, position)
        for position in range(library.count_of(f"LiteRtGetNumSubgraph{kind}s", subgraph))
    ]
    tensors = {}
    for index in range(library.count_of(f"LiteRtGetNumSignature{kind}s", signature)):
        name = library.name_of(f"LiteRtGetSignature{kind}Name", signature, index)
        handle = library.handle_of(f"LiteRtGetSignature{kind}TensorByIndex", signature, index)
        tensor_type = library.tensor_type(handle)
        code, rank = CODES.get(tensor_type.element_type), tensor_type.layout.rank
        if code is None or rank > MAX_RANK or not _is_own(library, kind, handle, order):
            return {}
        tensors[name] = Tensor(handle, name, order.index(handle), code, rank)
    return tensors if len(tensors) == len(order) else {}


def _is_own(library: Api, kind: str, tensor: int, order: Sequence[int]) -> bool:
    """Say whether an input is used, or an output computed, once in the subgraph's order."""
    if Counter(order)[tensor] != 1:
        return False
    return kind == "Output" or library.count_of("LiteRtGetNumTensorUses", tensor) > 0
