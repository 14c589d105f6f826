"""Element types: one table of their names in TensorFlow, NumPy and the Open Inference Protocol.

TensorFlow's numbers and names: tensorflow/core/framework/types.proto.
"""

from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import numpy as np


class Names(NamedTuple):
    """The names of an element type: `numpy_name` is None if no array holds it, `v2_name` if Open Inference lacks it."""

    code: int
    name: str
    numpy_name: str | None
    v2_name: str | None
    kind: str  # NumPy's: b bool, i int, u unsigned, f float, c complex, S bytes; "" without a NumPy type


class DType(Names):
    """An element type."""

    @property
    def label(self) -> str:
        """Return the name for messages: float32, string."""
        return "string" if self.kind == "S" else self.numpy_name or self.name

    @cached_property
    def numpy(self) -> "np.dtype[np.generic]":
        """Return NumPy's type; strings are arrays of `bytes` objects. Raise TypeError where there is none."""
        if self.numpy_name is None:
            raise TypeError(f"{self.name} has no NumPy type")
        import numpy as np  # the native codec's requests do without

        if self.name in EXTENDED:
            import ml_dtypes  # only for models that need it: 10 ms of a cold start

            extended: np.dtype[np.generic] = np.dtype(getattr(ml_dtypes, self.numpy_name))
            return extended
        return np.dtype(self.numpy_name)


EXTENDED = frozenset({"DT_BFLOAT16", "DT_FLOAT8_E5M2", "DT_FLOAT8_E4M3FN"})

# fmt: off
DTYPES = (
    #     code  TensorFlow             NumPy            Open Inference  kind
    DType(0,    "DT_INVALID",          None,            None,     ""),
    DType(1,    "DT_FLOAT",            "float32",       "FP32",   "f"),
    DType(2,    "DT_DOUBLE",           "float64",       "FP64",   "f"),
    DType(3,    "DT_INT32",            "int32",         "INT32",  "i"),
    DType(4,    "DT_UINT8",            "uint8",         "UINT8",  "u"),
    DType(5,    "DT_INT16",            "int16",         "INT16",  "i"),
    DType(6,    "DT_INT8",             "int8",          "INT8",   "i"),
    DType(7,    "DT_STRING",           "object",        "BYTES",  "S"),
    DType(8,    "DT_COMPLEX64",        "complex64",     None,     "c"),
    DType(9,    "DT_INT64",            "int64",         "INT64",  "i"),
    DType(10,   "DT_BOOL",             "bool",          "BOOL",   "b"),
    DType(11,   "DT_QINT8",            None,            None,     ""),
    DType(12,   "DT_QUINT8",           None,            None,     ""),
    DType(13,   "DT_QINT32",           None,            None,     ""),
    DType(14,   "DT_BFLOAT16",         "bfloat16",      "BF16",   "f"),
    DType(15,   "DT_QINT16",           None,            None,     ""),
    DType(16,   "DT_QUINT16",          None,            None,     ""),
    DType(17,   "DT_UINT16",           "uint16",        "UINT16", "u"),
    DType(18,   "DT_COMPLEX128",       "complex128",    None,     "c"),
    DType(19,   "DT_HALF",             "float16",       "FP16",   "f"),
    DType(20,   "DT_RESOURCE",         None,            None,     ""),
    DType(21,   "DT_VARIANT",          None,            None,     ""),
    DType(22,   "DT_UINT32",           "uint32",        "UINT32", "u"),
    DType(23,   "DT_UINT64",           "uint64",        "UINT64", "u"),
    DType(24,   "DT_FLOAT8_E5M2",      "float8_e5m2",   None,     "f"),
    DType(25,   "DT_FLOAT8_E4M3FN",    "float8_e4m3fn", None,     "f"),
    DType(26,   "DT_FLOAT8_E4M3FNUZ",  None,            None,     ""),
    DType(27,   "DT_FLOAT8_E4M3B11FNUZ", None,          None,     ""),
    DType(28,   "DT_FLOAT8_E5M2FNUZ",  None,            None,     ""),
    DType(29,   "DT_INT4",             None,            None,     ""),
    DType(30,   "DT_UINT4",            None,            None,     ""),
    DType(31,   "DT_INT2",             None,            None,     ""),
    DType(32,   "DT_UINT2",            None,            None,     ""),
    DType(33,   "DT_FLOAT4_E2M1FN",    None,            None,     ""),
)
# fmt: on


def is_extended(dtype: "np.dtype[Any]") -> bool:
    """Return whether ml_dtypes defines the type, which writers of JSON and Arrow do not know.

    NumPy's kind does not say so: that of bfloat16 is "V", that of float8_e5m2 is "f".
    """
    return dtype.isbuiltin == 2


BY_CODE = {dtype.code: dtype for dtype in DTYPES}


def by_code(code: int) -> DType:
    """Return the type with TensorFlow's number `code`; one without a NumPy type if the number is unknown."""
    return BY_CODE.get(code) or DType(code, f"DT_{code}", None, None, "")
