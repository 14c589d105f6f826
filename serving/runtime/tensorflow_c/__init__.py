"""TensorFlow's C library through ctypes: the functions, the library, tensors, the session.

The interface is TensorFlow's public one, tensorflow/c/c_api.h. The wheel has the library; its Python package is not
imported.

The library may be opened before a fork, a session may not: TensorFlow's threads, which all sessions share, do not
survive a fork, and the next run would hang. After a process has opened a session, its children can open none.
"""

from serving.runtime.opening import find
from serving.runtime.tensorflow_c.functions import Api, run_error
from serving.runtime.tensorflow_c.library import NAME, api, load_custom_ops, unregistered, without_kernel
from serving.runtime.tensorflow_c.session import Function, Session, config
from serving.runtime.tensorflow_c.tensors import SHARED_BYTES, TF_STRING, TSTRING_BYTES

__all__ = [
    "NAME", "SHARED_BYTES", "TF_STRING", "TSTRING_BYTES", "Api", "Function", "Session", "api", "config",
    "find", "load_custom_ops", "run_error", "unregistered", "without_kernel",
]  # fmt: skip
