"""Inputs for comparisons: generated from a signature, reproducibly, or read from a file."""

import json
import pickle
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from exporting.refusal import Refusal
from serving.core import settings
from serving.core.http import BadRequest
from serving.protocols import tensorflow_serving
from serving.protocols.call import Context
from serving.savedmodel import composite, examples, parsing
from serving.savedmodel.examples import Recipe, recipes
from serving.savedmodel.signature import Signature, TensorSpec, check
from serving.savedmodel.source import Source

Array = np.ndarray[Any, Any]
Inputs = dict[str, Array]


def ways(directory: Path, signature: Signature) -> Iterator[Recipe]:
    """Yield ways to fill a signature's inputs, the likeliest first."""
    strings = any(spec.dtype.kind == "S" for spec in signature.inputs.values())
    texts = parsing.texts(directory, signature) if strings else []
    parts = composite.parts(directory, {signature.name: signature}) if len(signature.inputs) > 1 else {}
    for recipe in recipes(signature, texts, parts.get(signature.name, ())):
        if examples.made(signature, recipe, 2, np.random.default_rng(0)) is not None:
            yield recipe


def made(signature: Signature, recipe: Recipe, rows: int, seed: int) -> Inputs:
    """Return inputs that fit the signature, with `rows` rows where that is open."""
    inputs = examples.made(signature, recipe, rows, np.random.default_rng(seed))
    if inputs is None:
        raise Refusal(f"signature {signature.name!r}: its inputs are larger than generated inputs may be")
    return inputs


def batched(signature: Signature) -> bool:
    """Say whether all inputs and outputs have rows: a free first dimension."""
    specs = [*signature.inputs.values(), *signature.outputs.values()]
    return bool(signature.inputs) and all(spec.shape and spec.shape[0] is None for spec in specs)


def joined(first: Inputs, second: Inputs) -> Inputs:
    """Return the rows of both."""
    return {name: np.concatenate([first[name], second[name]]) for name in first}


def given(path: Path, signatures: dict[str, Signature]) -> Iterator[tuple[str, Inputs]]:
    """Read inputs from a file; yield every signature that they fit, with them.

    An .npz holds arrays named as a signature's inputs, strings as arrays of objects: NumPy's own strings lose the
    zeros at their ends. A .json holds a predict request of TensorFlow Serving.
    """
    if path.suffix == ".json":
        yield _from_json(path, signatures)
        return
    try:
        arrays = dict(_arrays(path))
    except (OSError, ValueError, EOFError, zlib.error, zipfile.BadZipFile, pickle.UnpicklingError) as error:
        raise Refusal(f"{path}: not an .npz of plain arrays that can be read ({error})") from None
    problems = []
    fits = False
    for name, signature in signatures.items():
        if arrays.keys() != signature.inputs.keys():
            problems.append(f"{name} takes {', '.join(signature.inputs) or 'nothing'}")
            continue
        fitted = {key: _fitted(array, signature.inputs[key]) for key, array in arrays.items()}
        wrong = []
        for key, array in fitted.items():
            spec = signature.inputs[key]
            problem = check(spec, array.shape)
            if array.dtype != spec.dtype.numpy:
                problem = f"expected {spec.dtype.label}, got {array.dtype}"
            if problem:
                wrong.append(f"{name}.{key}: {problem}")
        problems += wrong
        if not wrong:
            fits = True
            yield name, fitted
    if not fits:
        raise Refusal(f"{path}: its arrays ({', '.join(arrays)}) fit no signature: {'; '.join(problems)}")


def exported(directory: Path, signatures: dict[str, Signature]) -> Iterator[tuple[str, Inputs]]:
    """Yield the examples that the exporter left beside the model, where they fit its signatures."""
    for body in Source(directory, "model").exported.values():
        with suppress(BadRequest, TypeError, ValueError):
            yield _decoded(json.dumps(body).encode(), signatures)


def _from_json(path: Path, signatures: dict[str, Signature]) -> tuple[str, Inputs]:
    try:
        return _decoded(path.read_bytes(), signatures)
    except (OSError, BadRequest) as error:
        raise Refusal(f"{path}: {error}") from None


def _decoded(body: bytes, signatures: dict[str, Signature]) -> tuple[str, Inputs]:
    call = tensorflow_serving.decode(body, signatures, Context(limits=settings.current()))
    return call.signature.name, dict(call.inputs)


def _arrays(path: Path) -> Iterator[tuple[str, Array]]:
    npy: Any = np.lib.format
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            with archive.open(name) as file:
                header = npy.read_array_header_1_0 if npy.read_magic(file) == (1, 0) else npy.read_array_header_2_0
                shape, _, dtype = header(file)
                if dtype.hasobject:
                    array = np.asarray(_Strings(file).load(), object).reshape(shape)
            if not dtype.hasobject:
                with archive.open(name) as file:
                    array = npy.read_array(file, allow_pickle=False)
            yield name.removesuffix(".npy"), array


class _Strings(pickle.Unpickler):
    """Reads pickled arrays of strings, and nothing that could run code."""

    def find_class(self, module: str, name: str) -> Any:
        """Return the functions that construct an array; refuse all others."""
        if (module.partition(".")[0], name) in {
            ("numpy", "_reconstruct"), ("numpy", "ndarray"), ("numpy", "dtype"), ("_codecs", "encode"),
        }:  # fmt: skip
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"an array of objects of {module}.{name}")


def _fitted(array: Array, spec: TensorSpec) -> Array:
    if spec.dtype.kind == "S" and array.dtype.kind in "SUO":
        strings = np.empty(array.size, object)
        strings[:] = [text.encode() if isinstance(text, str) else text for text in array.ravel().tolist()]
        return strings.reshape(array.shape)
    return array
