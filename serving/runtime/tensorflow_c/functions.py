"""The binding of tensorflow/c/c_api.h, tf_tensor.h, tf_status.h and tf_tstring.h; names are verbatim."""

import ctypes
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ctypes import POINTER, c_char_p, c_int, c_int64, c_size_t, c_void_p
from pathlib import Path
from typing import Any

from serving.core.errors import RunError
from serving.runtime.opening import dlopen

CODES = (
    "OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS",
    "PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE", "UNIMPLEMENTED",
    "INTERNAL", "UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED",
)  # fmt: skip


class TF_Status(ctypes.Structure): ...


class TF_SessionOptions(ctypes.Structure): ...


class TF_Graph(ctypes.Structure): ...


class TF_Session(ctypes.Structure): ...


class TF_Operation(ctypes.Structure): ...


class TF_OperationDescription(ctypes.Structure): ...


class TF_Library(ctypes.Structure): ...


class TF_Buffer(ctypes.Structure):
    """Bytes that the library owns until TF_DeleteBuffer."""

    _fields_ = [("data", c_void_p), ("length", c_size_t), ("data_deallocator", c_void_p)]


Status = POINTER(TF_Status)
SessionOptions = POINTER(TF_SessionOptions)
Graph = POINTER(TF_Graph)
SessionHandle = POINTER(TF_Session)
Operation = POINTER(TF_Operation)
Description = POINTER(TF_OperationDescription)
Tensor = c_void_p  # of TF_Tensor; a typed pointer takes twice as long to read and to pass, a dozen times a call
Library = POINTER(TF_Library)
Buffer = POINTER(TF_Buffer)


class TF_Output(ctypes.Structure):
    """One output of an operation."""

    _fields_ = [("oper", Operation), ("index", c_int)]


Deallocator = ctypes.CFUNCTYPE(None, c_void_p, c_size_t, c_void_p)

# fmt: off
RELEASING_GIL = (  # called without the interpreter's lock, so that other threads run meanwhile
    ("TF_LoadSessionFromSavedModel", SessionHandle,
        SessionOptions, c_void_p, c_char_p, POINTER(c_char_p), c_int, Graph, c_void_p, Status),
    ("TF_SessionRun",           None,
        SessionHandle, c_void_p, POINTER(TF_Output), POINTER(Tensor), c_int,
        POINTER(TF_Output), POINTER(Tensor), c_int, c_void_p, c_int, c_void_p, Status),
    ("TF_CloseSession",         None,       SessionHandle, Status),
    ("TF_DeleteSession",        None,       SessionHandle, Status),
    ("TF_DeleteGraph",          None,       Graph),
    ("TF_LoadLibrary",          Library,    c_char_p, Status),
)
HOLDING_GIL = (  # shorter than releasing and taking the lock
    ("TF_Version",              c_char_p),
    ("TF_NewStatus",            Status),
    ("TF_DeleteStatus",         None,       Status),
    ("TF_GetCode",              c_int,      Status),
    ("TF_Message",              c_char_p,   Status),
    ("TF_NewSessionOptions",    SessionOptions),
    ("TF_SetConfig",            None,       SessionOptions, c_char_p, c_size_t, Status),
    ("TF_DeleteSessionOptions", None,       SessionOptions),
    ("TF_NewGraph",             Graph),
    ("TF_GraphOperationByName", Operation,  Graph, c_char_p),
    ("TF_OperationNumOutputs",  c_int,      Operation),
    ("TF_OperationOutputType",  c_int,      TF_Output),
    ("TF_GetAllOpList",         Buffer),
    ("TF_GetRegisteredKernelsForOp", Buffer, c_char_p, Status),
    ("TF_DeleteBuffer",         None,       Buffer),
    ("TF_GraphGetTensorNumDims", c_int,     Graph, TF_Output, Status),
    ("TF_GraphGetTensorShape",  None,       Graph, TF_Output, POINTER(c_int64), c_int, Status),
    ("TF_NewOperation",         Description, Graph, c_char_p, c_char_p),
    ("TF_AddInput",             None,       Description, TF_Output),
    ("TF_SetAttrType",          None,       Description, c_char_p, c_int),
    ("TF_FinishOperation",      Operation,  Description, Status),
    ("TF_NewTensor",            Tensor,     c_int, POINTER(c_int64), c_int, c_void_p, c_size_t, Deallocator, c_void_p),
    ("TF_AllocateTensor",       Tensor,     c_int, POINTER(c_int64), c_int, c_size_t),
    ("TF_DeleteTensor",         None,       Tensor),
    ("TF_TensorType",           c_int,      Tensor),
    ("TF_NumDims",              c_int,      Tensor),
    ("TF_Dim",                  c_int64,    Tensor, c_int),
    ("TF_TensorByteSize",       c_size_t,   Tensor),
    ("TF_TensorData",           c_void_p,   Tensor),
    ("TF_StringInit",           None,       c_void_p),
    ("TF_StringCopy",           None,       c_void_p, c_char_p, c_size_t),
    ("TF_StringGetDataPointer", c_void_p,   c_void_p),
    ("TF_StringGetSize",        c_size_t,   c_void_p),
    ("TF_StringDealloc",        None,       c_void_p),
)
# fmt: on


class Api:
    """The functions of the C library, each with its result and argument types declared.

    Raise OSError where the library cannot be opened, AttributeError where it lacks a function.
    """

    def __init__(self, path: Path) -> None:
        mode = os.RTLD_LOCAL | os.RTLD_NOW
        library = ctypes.CDLL(str(path), mode=mode, handle=dlopen(path))  # without a handle: OSError with the reason
        holding = ctypes.PyDLL(str(path), handle=library._handle)
        for opened, declarations in ((library, RELEASING_GIL), (holding, HOLDING_GIL)):
            for name, result, *arguments in declarations:
                function = getattr(opened, name)
                function.restype, function.argtypes = result, arguments
                setattr(self, name, function)
        self.handle = library._handle
        # Without declared types: checking 12 arguments takes 3 µs, a quarter of a small model's run.
        self.run_unchecked = library["TF_SessionRun"]
        self.run_unchecked.restype = None

    def __getattr__(self, name: str) -> Callable[..., Any]:
        raise AttributeError(name)


@contextmanager
def checked(tf: Api) -> Iterator[Any]:
    """Yield a TF_Status for the calls of a block; at its end raise RunError where it is an error, and free it."""
    status = tf.TF_NewStatus()
    try:
        yield status
        if code := tf.TF_GetCode(status):
            raise run_error(code, tf.TF_Message(status))
    finally:
        tf.TF_DeleteStatus(status)


UNFED = "You must feed a value for placeholder tensor"


def run_error(code: int, text: bytes) -> RunError:
    """Return the error for a TF_Code and the message of its status."""
    name = CODES[code] if code < len(CODES) else str(code)
    message = text.decode("utf-8", "backslashreplace")
    if "No OpKernel was registered" in message:
        name = "UNIMPLEMENTED"  # TensorFlow reports INVALID_ARGUMENT, but no input would run
    elif message.startswith(UNFED):
        name = "FAILED_PRECONDITION"  # a request cannot feed it: the signature does not have it as an input
    return RunError(name, message)
