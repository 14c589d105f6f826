"""A model's LiteRT twin on disk: its signatures, read and written without LiteRT.

`python -m exporting bake --litert MODEL TWIN` writes it, having compared it with the SavedModel:

    model.tflite       the signatures' graphs, their variables inside
    signatures.json    the signatures of saved_model.pb, and which of them were left out, and why
    assets.extra/      examples, labels, digests, as beside the SavedModel

    {"format": 1, "bytes": 39252, "tags": ["serve"], "tensorflow_version": "2.21.0",
     "signatures": {"serving_default": {"runs": "pixels", "method_name": "tensorflow/serving/predict",
         "inputs": {"pixels": {"dtype": "DT_FLOAT", "shape": [null, 8, 8], "tensor": "pixels:0"}}, "outputs": {...}},
       "image": {"problem": "its input 'image' holds strings, ...", ...}}}

`bytes` is the size of model.tflite; `runs` names the graph where it is another signature's, and `names` the inputs that
have other names there.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from serving.core import files
from serving.core.dtypes import DTYPES
from serving.core.errors import LoadError
from serving.savedmodel.signature import Contents, Signature, TensorSpec

MODEL, SIGNATURES = "model.tflite", "signatures.json"
FORMAT = 1
BY_NAME = {dtype.name: dtype for dtype in DTYPES}


def holds(directory: Path) -> bool:
    """Return whether the folder holds a twin and no SavedModel beside it."""
    complete = (directory / SIGNATURES).is_file() and (directory / MODEL).is_file()
    return complete and not (directory / "saved_model.pb").exists()


def read(directory: Path) -> Contents:
    """Read the signatures of the twin in `directory`; raise LoadError where it cannot be used."""
    facts = description(directory)
    try:
        signatures = {name: _signature(name, facts["signatures"][name]) for name in sorted(facts["signatures"])}
        tags, version, size = tuple(facts["tags"]), str(facts["tensorflow_version"]), int(facts["bytes"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise LoadError(f"{SIGNATURES} is not what `bake --litert` writes ({type(error).__name__}: {error})") from None
    if (actual_size := (directory / MODEL).stat().st_size) != size:
        raise LoadError(f"{MODEL}: expected {size} bytes ({SIGNATURES}), got {actual_size}: a part of it, or another's")
    if not any(signature.refusal is None for signature in signatures.values()):
        reasons = [f"{name!r}: {signature.refusal}" for name, signature in signatures.items()]
        raise LoadError("; ".join(["the twin has no signature that can be served", *reasons]))
    return Contents(tags, signatures, version, restores=False)


def write(
    directory: Path,
    contents: Contents,
    runs: Mapping[str, str],
    names: Mapping[str, Mapping[str, str]] = MappingProxyType({}),
) -> None:
    """Write the signatures beside the twin's model.

    `runs` maps a signature to the one whose graph it shares; `names` maps its inputs to their names in that graph.
    """
    facts = {
        "format": FORMAT,
        "bytes": (directory / MODEL).stat().st_size,
        "tags": contents.tags,
        "tensorflow_version": contents.tensorflow_version,
        "signatures": {
            name: {
                **({"runs": runs[name]} if name in runs else {}),
                **({"names": names[name]} if name in names else {}),
                **({"problem": signature.refusal} if signature.refusal else {}),
                "method_name": signature.method_name,
                "inputs": {key: _facts_of(spec) for key, spec in signature.inputs.items()},
                "outputs": {key: _facts_of(spec) for key, spec in signature.outputs.items()},
            }
            for name, signature in contents.signatures.items()
        },
    }
    (directory / SIGNATURES).write_text(json.dumps(facts, indent=1) + "\n")


def description(directory: Path) -> Any:
    """Return the content of signatures.json; raise LoadError where it is not in this format."""
    try:
        facts = json.loads(files.content(directory, SIGNATURES) or b"")
        version = facts["format"]
    except (ValueError, KeyError, TypeError) as error:
        raise LoadError(f"{SIGNATURES} cannot be read ({type(error).__name__}: {error})") from None
    if version != FORMAT:
        raise LoadError(f"{SIGNATURES}: expected format {FORMAT}, got {version!r}")
    return facts


def _signature(name: str, facts: Any) -> Signature:
    inputs = {key: _spec(key, value) for key, value in facts["inputs"].items()}
    outputs = {key: _spec(key, value) for key, value in facts["outputs"].items()}
    return Signature(name, inputs, outputs, facts["method_name"], facts.get("problem"))


def _spec(name: str, facts: Any) -> TensorSpec:
    shape = None if facts["shape"] is None else tuple(None if size is None else int(size) for size in facts["shape"])
    dimensions = tuple(facts.get("dimensions", [""] * len(shape or ())))
    return TensorSpec(name, BY_NAME[facts["dtype"]], shape, facts["tensor"], dimensions)


def _facts_of(spec: TensorSpec) -> dict[str, Any]:
    labels = {"dimensions": spec.dimensions} if any(spec.dimensions) else {}
    return {"dtype": spec.dtype.name, "shape": spec.shape, "tensor": spec.tensor, **labels}
