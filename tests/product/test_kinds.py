"""Models of the common kinds: served with TensorFlow's own answers, or refused with the remedy."""

from pathlib import Path

import numpy as np
import pytest

from serving.core import settings
from serving.runtime.model import Model
from serving.runtime.sessions import open_session
from serving.savedmodel.source import Source
from tests.conftest import EMBEDDED
from tests.models.zoo.kinds import KINDS, build, cases
from tests.models.zoo_check import compare


def load(directory: Path, **environment: str) -> Model:
    options = settings.read(environment)
    source = Source(directory, "model")
    return Model(source, open_session(source, options))


@pytest.mark.parametrize("name", [name for name in KINDS if cases(name)])
def test_a_model_answers_as_tensorflows_python_api_does(name: str) -> None:
    model = load(build() / name)
    for case in cases(name):
        outputs = model.run(model.signatures[case["signature"]], case["inputs"])
        assert compare(case["outputs"] or {}, outputs) == []
    model.close()


def test_a_signature_whose_variable_was_not_saved_is_refused_at_load() -> None:
    model = load(build() / "variable_lost")
    assert "which the SavedModel holds no value" not in str(model.signatures["kept"].refusal)
    assert "model.export" in str(model.signatures["lost"].refusal)
    outputs = model.run(model.signatures["kept"], {"x": np.ones((2, 3), np.float32)})
    assert outputs["y"].tolist() == [[1, 1, 1]] * 2
    model.close()


def test_each_variable_of_each_keras_model_is_filled_once() -> None:
    assert len(Source(build() / "keras3_module", "model").initialization.copies) == 16
    assert Source(EMBEDDED, "model").initialization.copies == ()


def test_shape_and_dtype_come_from_the_graph() -> None:
    model = load(build() / "no_tensor_shape")
    predict, regress = (model.signatures[name] for name in ("serving_default", "tensorflow/serving/regress"))
    assert predict.inputs["x"].shape == (None, 1)
    assert regress.inputs["inputs"].dtype.name == "DT_STRING"
    model.close()
    model = load(build() / "output_dtype")
    assert model.signatures["serving_default"].outputs["y"].dtype.name == "DT_INT64"
    model.close()
