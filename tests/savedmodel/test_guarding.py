"""What a request decides is checked in the graph before the kernels that trust it; nothing else is."""

import json
from typing import Any

import pytest

from serving.core import settings
from serving.core.errors import LoadError
from serving.runtime.sessions import open_session
from serving.savedmodel.safety import guards
from serving.savedmodel.safety.guarding import needs
from serving.savedmodel.signature import served_graph
from serving.savedmodel.source import Source
from tests.conftest import Serve
from tests.models import killers
from tests.models.zoo import ZOO
from tests.models.zoo import absent as zoo_absent
from tests.models.zoo import build as zoo


@pytest.fixture(scope="module")
def checked() -> dict[str, list[str]]:
    return killers.checked()


LINES = list(killers.LINES)


@pytest.fixture(scope="module")
def unchecked() -> dict[str, str]:
    return killers.unchecked()


# Answered with what happens to be in the memory of the process, where it is mapped, or with huge dimensions beside a 0.
ANSWERED = {"Fill_beside_0", "RFFT_of_no_element", "RaggedTensorToTensor_rows", "Reshape"}
ANSWERED |= {"RaggedTensorToTensor", "RaggedTensorToTensor_nested", "example"}


@pytest.mark.parametrize("name", LINES)
def test_tensorflow_trusts_the_request(unchecked: dict[str, str], name: str) -> None:
    """A line that TensorFlow has learnt to check itself can go from the table."""
    expected = ("grew", "killed by signal", *(["answered"] if name in ANSWERED else []))
    assert unchecked[name].startswith(expected)


@pytest.mark.parametrize("name", LINES)
def test_the_bad_request_is_refused_and_the_good_one_answered(checked: dict[str, list[str]], name: str) -> None:
    good, bad = checked[name]
    assert good == "answered ['y']"
    assert bad.startswith("INVALID_ARGUMENT ")
    assert "expected" in bad
    assert "got" in bad or name == "RaggedTensorToTensor_rows"  # whose parts are inputs: serving.savedmodel.composite


def test_over_http_it_is_a_bad_request(serve: Serve) -> None:
    ask, line = serve(killers.build() / "lines" / "example"), killers.LINES["example"]
    assert ask("POST", "/", {"inputs": line.good}).status == 200
    answer = ask("POST", "/", {"inputs": line.bad})
    assert answer.status == 400
    assert (
        "the model takes row splits from the request: expected such as never decrease"
        in json.loads(answer.body)["error"]
    )


def test_each_operation_of_the_table_is_tried_or_is_one_of_a_kind_that_is() -> None:
    tried = {name.partition("_")[0] for name in LINES}
    kinds: dict[Any, list[str]] = {}
    for op, checks in {op: guards.checks_of(op) for op in guards.GUARDED}.items():
        kinds.setdefault(checks, []).append(op.decode())
    # In the table for the same check of the same arguments, the operations stand in one line.
    assert [ops for ops in kinds.values() if not tried.intersection(ops) and ops != ["ParseTensor"]] == []


# What the zoo's models take from a request, by their makers' own words; every other model is loaded as it is.
GUARDED = {"failures", "ragged_input", "ragged_inside", "sparse_input"}


def test_no_ordinary_model_is_changed() -> None:
    changed = set()
    for name in ZOO:
        if zoo_absent(name) is None and name not in ("ragged_output", "tf1_sparse_input"):
            source = Source(zoo() / name, name)
            if needs(
                served_graph(source.directory),
                [signature for signature in source.signatures.values() if not signature.refusal],
            ):
                changed.add(name)
    assert changed == GUARDED


# fmt: off
UNCHECKED = [
    # model          reason
    ("parse_tensor", "it reads serialized tensors"),
    ("compiled",     "XLA compiles it"),
    ("data_url",     "it decodes pictures that it takes out of other strings"),
    ("zlib",         "it decodes pictures that it takes out of other strings"),
]
# fmt: on


@pytest.mark.parametrize(("name", "reason"), UNCHECKED)
def test_what_cannot_be_checked_is_refused_unless_the_callers_are_trusted(name: str, reason: str) -> None:
    source = Source(killers.build() / name, "model")
    with pytest.raises(LoadError, match=f"{reason}.*CALLERS=trusted serves it anyway"):
        open_session(source, settings.read({}))
    open_session(source, settings.read({"CALLERS": "trusted"})).close()


@pytest.mark.parametrize("name", ["picture", "picture_base64", "picture_example"])
def test_a_model_whose_pictures_are_measured_before_the_run_is_served(name: str) -> None:
    open_session(Source(killers.build() / name, "model"), settings.read({})).close()
