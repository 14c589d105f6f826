"""The binding of LiteRT's C library, names verbatim; every handle is an address."""

import ctypes
import mmap
from ctypes import POINTER, c_char_p, c_int, c_int64, c_size_t, c_uint32, c_void_p
from functools import lru_cache
from pathlib import Path
from typing import Any

from serving.core import files
from serving.runtime.opening import dlopen, opened
from serving.savedmodel.folder.twin import MODEL

MAX_RANK = 8  # LITERT_TENSOR_MAX_RANK


class Layout(ctypes.Structure):
    """LiteRtLayout: the shape of a tensor."""

    _fields_ = [
        ("rank", c_uint32, 7), ("has_strides", c_uint32, 1),
        ("dimensions", ctypes.c_int32 * MAX_RANK), ("strides", c_uint32 * MAX_RANK),
    ]  # fmt: skip


class TensorType(ctypes.Structure):
    """LiteRtRankedTensorType."""

    _fields_ = [("element_type", c_int), ("layout", Layout)]


class Option(ctypes.Structure):
    """LiteRtEnvOption, with a whole number as its value."""

    _fields_ = [("tag", c_int), ("type", c_int64), ("value", c_int64)]


Destroy = ctypes.CFUNCTYPE(None, c_void_p)
Handle, Count, Name = POINTER(c_void_p), POINTER(c_size_t), POINTER(c_char_p)

# fmt: off
FUNCTIONS = (  # each returns 0, or a status that says what failed
    ("LiteRtCreateEnvironment",                 c_int, POINTER(Option), Handle),
    ("LiteRtCreateModelFromBuffer",             c_void_p, c_void_p, c_size_t, Handle),
    ("LiteRtCreateOptions",                     Handle),
    ("LiteRtSetOptionsHardwareAccelerators",    c_void_p, c_int),
    ("LiteRtCreateOpaqueOptions",               c_char_p, c_void_p, Destroy, Handle),
    ("LiteRtAddOpaqueOptions",                  c_void_p, c_void_p),
    ("LiteRtCreateCompiledModel",               c_void_p, c_void_p, c_void_p, Handle),
    ("LiteRtGetNumModelSignatures",             c_void_p, Count),
    ("LiteRtGetModelSignature",                 c_void_p, c_size_t, Handle),
    ("LiteRtGetSignatureKey",                   c_void_p, Name),
    ("LiteRtGetSignatureSubgraph",              c_void_p, Handle),
    ("LiteRtGetNumSignatureInputs",             c_void_p, Count),
    ("LiteRtGetSignatureInputName",             c_void_p, c_size_t, Name),
    ("LiteRtGetSignatureInputTensorByIndex",    c_void_p, c_size_t, Handle),
    ("LiteRtGetNumSignatureOutputs",            c_void_p, Count),
    ("LiteRtGetSignatureOutputName",            c_void_p, c_size_t, Name),
    ("LiteRtGetSignatureOutputTensorByIndex",   c_void_p, c_size_t, Handle),
    ("LiteRtGetNumSubgraphInputs",              c_void_p, Count),
    ("LiteRtGetSubgraphInput",                  c_void_p, c_size_t, Handle),
    ("LiteRtGetNumSubgraphOutputs",             c_void_p, Count),
    ("LiteRtGetSubgraphOutput",                 c_void_p, c_size_t, Handle),
    ("LiteRtGetNumSubgraphOps",                 c_void_p, Count),
    ("LiteRtGetSubgraphOp",                     c_void_p, c_size_t, Handle),
    ("LiteRtGetOpCode",                         c_void_p, POINTER(c_int)),
    ("LiteRtGetNumOpInputs",                    c_void_p, Count),
    ("LiteRtGetOpInput",                        c_void_p, c_size_t, Handle),
    ("LiteRtGetRankedTensorType",               c_void_p, POINTER(TensorType)),
    ("LiteRtGetNumTensorUses",                  c_void_p, Count),
    ("LiteRtGetTensorWeights",                  c_void_p, Handle),
    ("LiteRtGetWeightsBytes",                   c_void_p, Handle, Count),
)
DESTROYING = ("LiteRtDestroyCompiledModel", "LiteRtDestroyOptions", "LiteRtDestroyModel")
# fmt: on


class Memory:
    """The file of a twin's model, mapped: its pages are read when they are used, and shared between processes.

    Raise OSError or ValueError where it cannot be mapped, LoadError as `files.opened` does.
    """

    def __init__(self, directory: Path) -> None:
        with files.opened(directory, MODEL, files.ANY) as file:
            self._mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)  # ctypes takes no read-only memory
        self._first = ctypes.c_char.from_buffer(self._mapped)
        self.address, self.size = ctypes.addressof(self._first), len(self._mapped)


class Failed(Exception):
    """A function failed; the text has its name and its status."""


class Api:
    """The functions of the C library, each with its argument types declared; a call that fails raises Failed.

    Raise OSError where the library cannot be opened, AttributeError where it lacks a function.
    """

    def __init__(self, path: Path) -> None:
        library = ctypes.CDLL(str(path), handle=dlopen(path))  # without a handle: OSError with the reason
        self.handle: int = library._handle
        self._functions: dict[str, Any] = {}
        for name, *arguments in FUNCTIONS:
            function = getattr(library, name)
            function.restype, function.argtypes = c_int, arguments
            self._functions[name] = function
        for name in DESTROYING:
            function = getattr(library, name)
            function.restype, function.argtypes = None, (c_void_p,)
            self._functions[name] = function

    def call(self, name: str, *arguments: Any) -> None:
        """Call a function; raise Failed."""
        if status := self._functions[name](*arguments):
            raise Failed(f"{name}: status {status}")

    def destroy(self, name: str, handle: int) -> None:
        """Free what a handle, where not 0, stands for."""
        if handle:
            self._functions[name](handle)

    def handle_of(self, name: str, *arguments: Any) -> int:
        """Return the handle that a function gives."""
        handle = c_void_p()
        self.call(name, *arguments, ctypes.byref(handle))
        return handle.value or 0

    def count_of(self, name: str, *arguments: Any) -> int:
        """Return the number that a function gives."""
        count = c_size_t()
        self.call(name, *arguments, ctypes.byref(count))
        return count.value

    def name_of(self, name: str, *arguments: Any) -> str:
        """Return the text that a function gives."""
        text = c_char_p()
        self.call(name, *arguments, ctypes.byref(text))
        return (text.value or b"").decode()

    def tensor_type(self, tensor: int) -> TensorType:
        """Return the type of a tensor."""
        tensor_type = TensorType()
        self.call("LiteRtGetRankedTensorType", tensor, ctypes.byref(tensor_type))
        return tensor_type

    def code_of(self, operation: int) -> int:
        """Return the code of an operation: BuiltinOperator of tflite's schema.fbs."""
        code = c_int()
        self.call("LiteRtGetOpCode", operation, ctypes.byref(code))
        return code.value

    def is_constant(self, tensor: int) -> bool:
        """Say whether the model has the values of a tensor."""
        values, size = c_void_p(), c_size_t()
        weights = self.handle_of("LiteRtGetTensorWeights", tensor)
        self.call("LiteRtGetWeightsBytes", weights, ctypes.byref(values), ctypes.byref(size))
        return size.value > 0


@lru_cache(maxsize=1)
def api(path: Path) -> Api:
    """Open the library, or wait until the thread that opens it has; raise LoadError where it cannot be opened."""
    return opened(Api, path)


AUTO_REGISTERED, LOWEST_SEVERITY = 24, 25  # kLiteRtEnvOptionTag...
CPU, SILENT, WHOLE_NUMBER = 1, 4, 2  # kLiteRtHwAcceleratorCpu, kLiteRtLogSeveritySilent, kLiteRtAnyTypeInt


@lru_cache(maxsize=1)
def environment(library: Api) -> int:
    """Return the process's LiteRtEnvironment, which runs models on CPUs and logs nothing: what fails has a status."""
    options = (Option * 2)(Option(AUTO_REGISTERED, WHOLE_NUMBER, CPU), Option(LOWEST_SEVERITY, WHOLE_NUMBER, SILENT))
    return library.handle_of("LiteRtCreateEnvironment", len(options), options)


_kept: dict[int, Any] = {}  # by address, texts that LiteRT reads until it calls the function below


@Destroy  # type: ignore[untyped-decorator]
def _forget(address: int) -> None:
    _kept.pop(address, None)


def add_options(library: Api, options: int, kind: bytes, text: bytes) -> None:
    """Add options of a kind, as TOML, to a LiteRtOptions."""
    buffer = ctypes.create_string_buffer(text)
    address = ctypes.addressof(buffer)
    _kept[address] = buffer
    opaque = library.handle_of("LiteRtCreateOpaqueOptions", kind, address, _forget)
    library.call("LiteRtAddOpaqueOptions", options, opaque)
