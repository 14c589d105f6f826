"""Build time: `export`, and `python -m exporting audit` and `bake`.

Imports tensorflow when it is needed; nothing under serving/ imports this."""

from exporting.export import Exported, export
from exporting.function import Function, forward, from_saved_model, function
from exporting.refusal import Refusal
from exporting.state import State, fingerprint, from_keras, resume
from exporting.wrappers import class_names, image_bytes, keyed, probability, text, tf_example, top_k

__all__ = [
    "Exported",
    "Function",
    "Refusal",
    "State",
    "class_names",
    "export",
    "fingerprint",
    "forward",
    "from_keras",
    "from_saved_model",
    "function",
    "image_bytes",
    "keyed",
    "probability",
    "resume",
    "text",
    "tf_example",
    "top_k",
]
