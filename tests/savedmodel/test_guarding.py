"""Values of a request are checked in the graph before the kernels that do not check them; nothing else is."""

import ctypes
import json
from typing import Any

import pytest

from serving.core import settings
from serving.core.errors import LoadError
from serving.runtime import tensorflow_c
from serving.runtime.sessions import open_session
from serving.savedmodel.protobuf import each_field, last_field, number_field
from serving.savedmodel.safety import guards
from serving.savedmodel.safety.guarding import needs
from serving.savedmodel.signature import served_graph
from serving.savedmodel.source import Source
from tests.conftest import Serve
from tests.fuzz import ROUNDS
from tests.models import killers
from tests.models.zoo import ZOO
from tests.models.zoo import absent as zoo_absent
from tests.models.zoo import build as zoo


@pytest.fixture(scope="module")
def checked() -> dict[str, list[str]]:
    return killers.checked()


LINES = list(killers.LINES)
# Tried without our checks, which changes with TensorFlow's version alone: one in eight, and all of them in `make fuzz`.
TRIED = LINES if ROUNDS > 1 else LINES[::8]


@pytest.fixture(scope="module")
def unchecked() -> dict[str, str]:
    return killers.unchecked(TRIED)


# Answered with what happens to be in the memory of the process, where it is mapped, or with huge dimensions beside a 0.
ANSWERED = {"Fill_beside_0", "RFFT_of_no_element", "RaggedTensorToTensor_rows", "Reshape"}
ANSWERED |= {"RaggedTensorToTensor", "RaggedTensorToTensor_nested", "example"}


@pytest.mark.parametrize("name", TRIED)
def test_tensorflow_itself_does_not_check_the_bad_request(unchecked: dict[str, str], name: str) -> None:
    """Where TensorFlow checks an operation itself, its row can be removed from the table."""
    expected = ("grew", "killed by signal", *(["answered"] if name in ANSWERED else []))
    assert unchecked[name].startswith(expected)


@pytest.mark.parametrize("name", LINES)
def test_a_bad_request_is_refused_and_a_good_one_answered(checked: dict[str, list[str]], name: str) -> None:
    good, bad = checked[name]
    assert good == "answered ['y']"
    assert bad.startswith("INVALID_ARGUMENT ")
    assert "expected" in bad
    assert "got" in bad or name == "RaggedTensorToTensor_rows"  # whose parts are inputs: serving.savedmodel.composite


def test_over_http_a_bad_value_is_400(serve: Serve) -> None:
    ask, line = serve(killers.build() / "lines" / "example"), killers.LINES["example"]
    assert ask("POST", "/", {"inputs": line.good}).status == 200
    answer = ask("POST", "/", {"inputs": line.bad})
    assert answer.status == 400
    assert (
        "the model takes row splits from the request: expected such as never decrease"
        in json.loads(answer.body)["error"]
    )


def test_each_operation_of_the_table_is_tried_or_shares_its_check_with_one_that_is() -> None:
    tried = {name.partition("_")[0] for name in LINES}
    kinds: dict[Any, list[str]] = {}
    for op, checks in {op: guards.checks_of(op) for op in guards.GUARDED}.items():
        kinds.setdefault(checks, []).append(op.decode())
    # In the table for the same check of the same arguments, the operations stand in one line.
    assert [ops for ops in kinds.values() if not tried.intersection(ops) and ops != ["ParseTensor"]] == []


def declared() -> dict[str, list[str]]:
    """Return the dtype of each argument of each operation, as TensorFlow's library declares them, in the table's form."""
    path = tensorflow_c.find()
    assert path is not None
    api = tensorflow_c.api(path)
    buffer = api.TF_GetAllOpList()
    operations = memoryview(ctypes.string_at(buffer.contents.data, buffer.contents.length))
    api.TF_DeleteBuffer(buffer)
    declarations = {}
    for operation in each_field(operations, 1):
        attributes = {str(last_field(attr, 1), "utf-8"): last_field(attr, 3) for attr in each_field(operation, 4)}
        declarations[str(last_field(operation, 1), "utf-8")] = [
            dtype_of(argument, attributes) for argument in each_field(operation, 2)
        ]
    return declarations


def dtype_of(argument: memoryview, attributes: dict[str, memoryview]) -> str:
    if code := number_field(argument, 3):
        return str(code)
    name = str(last_field(argument, 4) or last_field(argument, 6), "utf-8")
    default = number_field(attributes[name], 6)
    return f"{name}={default}" if default else name


# The cross of rows reads its arguments as lists, by its own rule.
LISTED = {"RaggedCross", "SparseCross", "SparseCrossHashed", "SparseCrossV2"}


def test_the_table_declares_arguments_as_tensorflow_does() -> None:
    """An exporter leaves out an attribute that has its default: the check has to know it."""
    declarations = declared()
    differing = {}
    for line in guards.TABLE.strip().splitlines():
        *operations, arguments, _ = (part.strip() for part in line.split("  ") if part.strip())
        dtypes = [argument.partition(":")[2] for argument in arguments.split()]
        for operation in set(" ".join(operations).split()) - LISTED:
            if dtypes != (expected := declarations[operation][: len(dtypes)]):
                differing[operation] = (dtypes, expected)
    assert differing == {}


# What the zoo's models take from a request, by their makers' own words; every other model is loaded as it is.
GUARDED = {"failures", "ragged_input", "ragged_inside", "sparse_input"}


def test_models_without_guarded_operations_are_not_changed() -> None:
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
def test_a_model_that_cannot_be_checked_is_refused_unless_callers_are_trusted(name: str, reason: str) -> None:
    source = Source(killers.build() / name, "model")
    with pytest.raises(LoadError, match=f"{reason}.*CALLERS=trusted serves it anyway"):
        open_session(source, settings.read({}))
    open_session(source, settings.read({"CALLERS": "trusted"})).close()


@pytest.mark.parametrize("name", ["picture", "picture_base64", "picture_example"])
def test_a_model_whose_pictures_are_measured_before_the_run_is_served(name: str) -> None:
    open_session(Source(killers.build() / name, "model"), settings.read({})).close()
