"""The floor of a cold start: NumPy, TensorFlow's C library, one SavedModel, one run; no HTTP.

    python floor.py SAVED_MODEL input:0=array.npy [...] output:0 [...]

Nothing is checked and nothing is freed. It prints the outputs as one JSON list and lives until its standard
input closes, so that what it has used can be read.
"""

import ctypes
import importlib.util
import sys
from ctypes import POINTER, c_char_p, c_int, c_int64, c_size_t, c_void_p

import numpy as np

NO_INTER_OP_THREADS = b"\x28" + b"\xff" * 9 + b"\x01"  # ConfigProto: field 5, inter_op_parallelism_threads, is -1
STRING = 7
NUMBERS = {"float32": 1, "int32": 3, "int64": 9}  # TF_DataType


class TF_Output(ctypes.Structure):
    _fields_ = (("operation", c_void_p), ("index", c_int))


(package,) = importlib.util.find_spec("tensorflow").submodule_search_locations
tf = ctypes.CDLL(f"{package}/libtensorflow_cc.so.2")
# fmt: off
PROTOTYPES = (
    ("TF_NewStatus",            c_void_p, ()),
    ("TF_GetCode",              c_int,    (c_void_p,)),
    ("TF_Message",              c_char_p, (c_void_p,)),
    ("TF_NewGraph",             c_void_p, ()),
    ("TF_GraphOperationByName", c_void_p, (c_void_p, c_char_p)),
    ("TF_NewSessionOptions",    c_void_p, ()),
    ("TF_SetConfig",            None,     (c_void_p, c_char_p, c_size_t, c_void_p)),
    ("TF_LoadSessionFromSavedModel", c_void_p,
     (c_void_p, c_void_p, c_char_p, POINTER(c_char_p), c_int, c_void_p, c_void_p, c_void_p)),
    ("TF_SessionRun",           None,
     (c_void_p, c_void_p, POINTER(TF_Output), POINTER(c_void_p), c_int,
      POINTER(TF_Output), POINTER(c_void_p), c_int, c_void_p, c_int, c_void_p, c_void_p)),
    ("TF_AllocateTensor",       c_void_p, (c_int, POINTER(c_int64), c_int, c_size_t)),
    ("TF_TensorData",           c_void_p, (c_void_p,)),
    ("TF_TensorByteSize",       c_size_t, (c_void_p,)),
    ("TF_NumDims",              c_int,    (c_void_p,)),
    ("TF_Dim",                  c_int64,  (c_void_p, c_int)),
    ("TF_StringInit",           None,     (c_void_p,)),
    ("TF_StringCopy",           None,     (c_void_p, c_char_p, c_size_t)),
)
# fmt: on
for name, result, arguments in PROTOTYPES:
    function = getattr(tf, name)
    function.restype, function.argtypes = result, arguments

status, graph, options = tf.TF_NewStatus(), tf.TF_NewGraph(), tf.TF_NewSessionOptions()


def done() -> None:
    if tf.TF_GetCode(status):
        sys.exit(tf.TF_Message(status).decode())


def output(name: str) -> TF_Output:
    operation, _, index = name.partition(":")
    return TF_Output(tf.TF_GraphOperationByName(graph, operation.encode()), int(index))


def to_tensor(array: np.ndarray) -> int:
    shape = (c_int64 * array.ndim)(*array.shape)
    if number := NUMBERS.get(array.dtype.name):
        tensor = tf.TF_AllocateTensor(number, shape, array.ndim, array.nbytes)
        ctypes.memmove(tf.TF_TensorData(tensor), array.ctypes.data, array.nbytes)
        return tensor
    tensor = tf.TF_AllocateTensor(STRING, shape, array.ndim, 24 * array.size)
    for position, value in enumerate(array.flat):
        address = tf.TF_TensorData(tensor) + 24 * position
        tf.TF_StringInit(address)
        tf.TF_StringCopy(address, value, len(value))
    return tensor


def to_list(tensor: int) -> list:
    shape = [tf.TF_Dim(tensor, axis) for axis in range(tf.TF_NumDims(tensor))]
    data = ctypes.string_at(tf.TF_TensorData(tensor), tf.TF_TensorByteSize(tensor))
    return np.frombuffer(data, np.float32).reshape(shape).tolist()


saved_model, *names = sys.argv[1:]
tf.TF_SetConfig(options, NO_INTER_OP_THREADS, len(NO_INTER_OP_THREADS), status)
done()
tags = (c_char_p * 1)(b"serve")
session = tf.TF_LoadSessionFromSavedModel(options, None, saved_model.encode(), tags, 1, graph, None, status)
done()

feeds = {name: np.load(file) for name, _, file in (text.partition("=") for text in names if "=" in text)}
fetches = [name for name in names if "=" not in name]
results = (c_void_p * len(fetches))()
tf.TF_SessionRun(
    session, None,
    (TF_Output * len(feeds))(*map(output, feeds)), (c_void_p * len(feeds))(*map(to_tensor, feeds.values())), len(feeds),
    (TF_Output * len(fetches))(*map(output, fetches)), results, len(fetches),
    None, 0, None, status,
)  # fmt: skip
done()
print([to_list(tensor) for tensor in results], flush=True)
sys.stdin.read()
