"""LiteRT's C library through ctypes: a twin's model, opened for the native codec, which runs it.

The interface is LiteRT's public one, litert/c/litert_model.h and litert_compiled_model.h. The wheel has the library;
its Python package, which imports NumPy, is not imported. Only versions are opened whose interface and answers are
tested: opening.LITERT_VERSIONS.
"""

from serving.runtime.litert_c.library import api
from serving.runtime.litert_c.model import Compiled, Unusable

__all__ = ["Compiled", "Unusable", "api"]
