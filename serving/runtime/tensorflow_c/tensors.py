"""Arrays as tensors of TensorFlow's C library, and back."""

import ctypes
import math
from collections.abc import Sequence
from ctypes import c_char, c_int64
from functools import lru_cache
from itertools import count
from typing import TYPE_CHECKING, Any

from serving.core.dtypes import DType
from serving.runtime.tensorflow_c.functions import Api, Deallocator

if TYPE_CHECKING:
    import numpy as np

TF_STRING = 7
TSTRING_BYTES = 24  # sizeof(TF_TString), tf_tstring.h

# Arrays of at least this many bytes are shared with TensorFlow; smaller ones are copied, which is cheaper than calling
# back into Python when TensorFlow releases them.
SHARED_BYTES = 1 << 16


@lru_cache(maxsize=256)
def _dimensions(shape: tuple[int, ...]) -> Any:
    return (c_int64 * len(shape))(*shape)  # TensorFlow only reads it


@lru_cache(maxsize=256)
def _buffer(size: int) -> Any:
    return c_char * size


def to_tensor(tf: Api, array: "np.ndarray[Any, Any]", code: int) -> Any:
    """Return a TF_Tensor of the TF_DataType `code` with the array's shape and elements; the caller deletes it.

    The array's dtype must match `code`; for TF_STRING it is an object array of bytes.
    """
    if code == TF_STRING:
        return string_tensor(tf, array.ravel().tolist(), array.shape)
    shape = _dimensions(array.shape)
    size = array.nbytes
    if size < SHARED_BYTES:
        elements = array.tobytes()  # may raise MemoryError: done before there is a tensor to delete
        tensor = tf.TF_AllocateTensor(code, shape, len(shape), size)
        if size:
            _buffer(size).from_address(tf.TF_TensorData(tensor)).raw = elements
        return tensor
    array = array if array.flags.c_contiguous else array.copy()
    key = next(_keys)
    _lent[key] = (tf, array, 0)
    return tf.TF_NewTensor(code, shape, len(shape), array.ctypes.data, size, _release, key)


def string_tensor(tf: Api, strings: Sequence[bytes], shape: tuple[int, ...]) -> Any:
    """Return a TF_STRING tensor of these strings, row by row; the caller deletes it."""
    buffer = ctypes.create_string_buffer(max(1, len(strings)) * TSTRING_BYTES)
    address = start = ctypes.addressof(buffer)
    for string in strings:
        tf.TF_StringInit(address)
        tf.TF_StringCopy(address, string, len(string))
        address += TSTRING_BYTES
    key = next(_keys)
    _lent[key] = (tf, buffer, len(strings))
    size = len(strings) * TSTRING_BYTES
    return tf.TF_NewTensor(TF_STRING, _dimensions(shape), len(shape), start, size, _release, key)


# Memory shared with TensorFlow until it calls the deallocator: a graph may return an input as an output, or keep it in
# a variable. Each value is (functions, memory, number of strings in it).
_lent: dict[int, tuple[Api, Any, int]] = {}
_keys = count(1)


@Deallocator  # type: ignore[untyped-decorator]
def _release(start: int, _size: int, key: int) -> None:
    tf, _memory, strings = _lent.pop(key)
    for position in range(strings):
        tf.TF_StringDealloc(start + position * TSTRING_BYTES)


def from_tensor(tf: Api, tensor: Any, dtype: DType) -> "np.ndarray[Any, Any]":
    """Return a copy of the tensor as a read-only array of its shape; TF_STRING as a writable object array of bytes."""
    import numpy as np  # the native codec's requests do without

    shape = tuple([tf.TF_Dim(tensor, axis) for axis in range(tf.TF_NumDims(tensor))])
    start = tf.TF_TensorData(tensor)
    if dtype.code != TF_STRING:
        numpy = dtype.numpy
        size = math.prod(shape) * numpy.itemsize
        return np.ndarray(shape, numpy, _buffer(size).from_address(start).raw if size else b"")
    array = np.empty(math.prod(shape), object)
    for position in range(len(array)):
        address = start + position * TSTRING_BYTES
        array[position] = ctypes.string_at(tf.TF_StringGetDataPointer(address), tf.TF_StringGetSize(address))
    return array.reshape(shape)
