"""Inputs made up from what a signature declares, always the same, to compare answers by; and inputs from a file."""

import hashlib
import math
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from exporting.refusal import Refusal
from serving.signature import Signature, TensorSpec, check

Array = np.ndarray[Any, Any]
Inputs = dict[str, Array]


@dataclass(frozen=True, slots=True)
class Recipe:
    """How what a signature leaves open is filled: sizes, and what strings say. One fits most models."""

    size: int
    text: bytes


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _png(side: int) -> bytes:
    """Return a grey picture, light on dark."""
    rows = b"".join(b"\0" + bytes((x * 7 + y * 13) % 256 for x in range(side)) for y in range(side))
    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    parts = _chunk(b"IHDR", header) + _chunk(b"IDAT", zlib.compress(rows)) + _chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


RECIPES = (
    Recipe(4, b"the cat sat"),
    Recipe(4, b"1"),
    Recipe(32, _png(32)),
    Recipe(8, b""),  # also a tf.train.Example without features
    Recipe(224, _png(64)),
    Recipe(1, b"a"),
)


def made(signature: Signature, recipe: Recipe, rows: int, seed: int) -> Inputs:
    """Return inputs that fit the signature, with `rows` rows where that is open."""
    return {name: _array(spec, recipe, rows, seed) for name, spec in signature.inputs.items()}


def _array(spec: TensorSpec, recipe: Recipe, rows: int, seed: int) -> Array:
    declared = (None,) if spec.shape is None else spec.shape
    shape = tuple(size if size is not None else (recipe.size if axis else rows) for axis, size in enumerate(declared))
    count = math.prod(shape)
    digest = hashlib.sha256(f"{spec.name} {seed}".encode()).digest()
    random = np.random.Generator(np.random.PCG64(int.from_bytes(digest[:8], "big")))
    if spec.dtype.kind == "S":
        array = np.empty(count, object)
        array[:] = [recipe.text] * count
        return array.reshape(shape)
    if spec.dtype.kind == "f":
        return random.normal(size=shape).astype(spec.dtype.numpy)
    if spec.dtype.kind == "c":
        return (random.normal(size=shape) + 1j * random.normal(size=shape)).astype(spec.dtype.numpy)
    return random.integers(0, 2, size=shape).astype(spec.dtype.numpy)  # small: they may be indices


def batched(signature: Signature) -> bool:
    """Say whether all inputs and outputs have rows: a free first dimension."""
    specs = [*signature.inputs.values(), *signature.outputs.values()]
    return bool(signature.inputs) and all(spec.shape and spec.shape[0] is None for spec in specs)


def joined(first: Inputs, second: Inputs) -> Inputs:
    """Return the rows of both."""
    return {name: np.concatenate([first[name], second[name]]) for name in first}


def given(path: Path, signatures: dict[str, Signature]) -> Iterator[tuple[str, Inputs]]:
    """Read an .npz of arrays named as a signature's inputs; yield every signature that they fit."""
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError, zlib.error) as error:
        raise Refusal(f"{path}: not an .npz of plain arrays that can be read ({error})") from None
    problems = []
    found = False
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
            found = True
            yield name, fitted
    if not found:
        raise Refusal(f"{path}: its arrays ({', '.join(arrays)}) fit no signature: {'; '.join(problems)}")


def _fitted(array: Array, spec: TensorSpec) -> Array:
    if spec.dtype.kind == "S" and array.dtype.kind in "SU":
        strings = np.empty(array.size, object)
        strings[:] = [text.encode() if isinstance(text, str) else text for text in array.ravel().tolist()]
        return strings.reshape(array.shape)
    return array
