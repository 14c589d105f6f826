"""Generated inputs: each kind of model accepts one of them, and none is large."""

import base64
import json
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from exporting.inputs import given
from exporting.refusal import Refusal
from serving.core import settings
from serving.core.dtypes import by_code
from serving.core.errors import InputError, RunError
from serving.runtime.model import Model
from serving.runtime.sessions import open_session
from serving.savedmodel import examples, parsing
from serving.savedmodel.signature import Signature, TensorSpec
from serving.savedmodel.source import Source
from tests.models.zoo.kinds import KINDS, build

NEVER = ("answers_nothing", "prints_to_a_file", "trees")
AT_ONCE = 60


@pytest.mark.parametrize("name", [name for name in KINDS if name not in NEVER])
def test_every_signature_of_every_kind_accepts_generated_inputs(name: str) -> None:
    source = Source(build() / name, name)
    model = Model(source, open_session(source, settings.read({})))
    for signature in model.signatures.values():
        if signature.refusal is None:
            assert any(takes(model, source, signature)), signature.name
    model.close()


def takes(model: Model, source: Source, signature: Signature) -> "list[bool]":
    answered = []
    texts = parsing.texts(source.directory, signature)
    ways = examples.recipes(signature, texts, source.parts.get(signature.name, ()))
    for _, recipe in zip(range(AT_ONCE), ways):
        inputs = examples.made(signature, recipe, 2, np.random.default_rng(1))
        assert inputs is not None
        try:
            model.run(signature, inputs)
        except (RunError, InputError):
            answered.append(False)
        else:
            return [*answered, True]
    return answered


FEATURES = {
    "example_features": {b"pair", b"word", b"count", b"ids", b"steps", b"tokens"},
    "example_single": {b"x", b"n"},
    "example_sequence": {b"n", b"x", b"t"},
    "example_required": {b"x"},
}


@pytest.mark.parametrize("name", FEATURES)
def test_every_feature_that_the_graph_parses_is_in_the_example(name: str) -> None:
    directory = build() / name
    (signature,) = (
        usable for usable in Source(directory, name).signatures.values() if usable.refusal is None and usable.inputs
    )
    first = parsing.texts(directory, signature)[0](np.random.default_rng(1))
    assert all(b"\n" + bytes([len(key)]) + key in first for key in FEATURES[name])


@pytest.mark.parametrize("dtype", [1, 7], ids=["floats", "strings"])
@pytest.mark.parametrize("shape", [(None, 1 << 40), (None, None, None, None, None), (1 << 16, 1 << 16)])
def test_no_generated_input_is_large(dtype: int, shape: tuple[int | None, ...]) -> None:
    spec = TensorSpec("x", by_code(dtype), shape, "x:0")
    signature = Signature("serve", {"x": spec}, {}, "")
    tracemalloc.start()
    for recipe in examples.recipes(signature, [lambda random: b"a"]):
        examples.made(signature, recipe, 2, np.random.default_rng(1))
        assert tracemalloc.get_traced_memory()[1] < 400 << 20
    tracemalloc.stop()


SERIALIZED = b"\n\x04\n\x02\n\x00\x00"  # ends with a zero, as a serialized message may
STRINGS = Signature(
    "serving_default",
    {"x": TensorSpec("x", by_code(7), (None,), "x:0")},
    {"y": TensorSpec("y", by_code(1), None, "y:0")},
    "",
)


def test_given_strings_keep_the_zeros_at_their_ends(tmp_path: Path) -> None:
    np.savez(tmp_path / "objects.npz", x=np.array([SERIALIZED], object))
    request = {"instances": [{"b64": base64.b64encode(SERIALIZED).decode()}]}
    (tmp_path / "request.json").write_text(json.dumps(request))
    for name in ("objects.npz", "request.json"):
        ((signature, inputs),) = given(tmp_path / name, {"serving_default": STRINGS})
        assert signature == "serving_default"
        assert inputs["x"].tolist() == [SERIALIZED]


class Runs:
    def __reduce__(self) -> tuple[Any, ...]:
        return print, ("this must not run",)


def test_a_given_file_runs_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.savez(tmp_path / "evil.npz", x=np.array([Runs()], object))
    with pytest.raises(Refusal, match="not an"):
        list(given(tmp_path / "evil.npz", {"serving_default": STRINGS}))
    assert capsys.readouterr().out == ""


def test_generated_words_are_not_names_of_variables() -> None:
    source = Source(build() / "example_features", "model")
    (signature,) = (usable for usable in source.signatures.values() if usable.refusal is None)
    texts = parsing.texts(source.directory, signature)
    assert [b"_CHECKPOINTABLE" in text(np.random.default_rng(1)) for text in texts] == [False] * len(texts)
