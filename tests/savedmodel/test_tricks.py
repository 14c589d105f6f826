"""Models that would pass the examination and run something else are refused with a reason: see `tests.models.tricks`."""

import json

import pytest

from tests.conftest import Serve, plain_environment
from tests.harness.forks import python
from tests.models.tricks import TABLES, TRICKS, WIRES, build

# fmt: off
REFUSED = [
    # model                                       what is said
    ("value_in_parts",                            "AttrEntry.value"),
    ("function_in_parts",                         "AttrValue.func"),
    ("list_of_functions_in_parts",                "AttrValue.list"),
    ("graph_in_parts",                            "MetaGraphDef.graph_def"),
    ("attribute_twice",                           "the key b'f' appears twice"),
    ("name_of_another_wire_type",                 "field 1 has the wire type 1"),
    ("overlong_numbers",                          "longer than its value needs"),
    ("graph_with_a_tag_twice",                    "the key b'serve' appears twice"),
    ("two_graphs_of_the_same_tags",               "SavedModel.saved_model_schema_version"),
    ("gradient_of_a_function",                    "ReadFile (files)"),
    ("another_implementation",                    "ReadFile (files)"),
    ("function_inside_a_function",                "ReadFile (files)"),
    ("restore_from_elsewhere",                    "RestoreV2 (files)"),
    ("saver_that_names_another_tensor",           "RestoreV2 (files)"),
    ("asset_of_another_output",                   "InitializeTableFromTextFileV2 (files)"),
    ("asset_merged_with_a_constant",              "InitializeTableFromTextFileV2 (files)"),
    ("asset_in_a_collection_that_is_not_read",    "InitializeTableFromTextFileV2 (files)"),
    ("graph_in_a_string",                         "DatasetFromGraph (hidden)"),
    ("vocabulary_of_an_attribute",                "FixedUnigramCandidateSampler (files)"),
    ("debug_address_of_an_attribute",             "DebugNumericSummary (files)"),
]
# fmt: on


@pytest.mark.parametrize(("name", "words"), REFUSED)
def test_a_hostile_model_is_refused_with_its_reason(serve: Serve, name: str, words: str) -> None:
    answer = serve(build() / name)("GET", "/readyz")
    assert answer.status == 503
    assert words in json.loads(answer.body)["error"]


def test_every_trick_has_its_refusal() -> None:
    assert {name for name, _ in REFUSED} >= TRICKS.keys() | TABLES.keys() | WIRES.keys()


@pytest.mark.parametrize("name", WIRES)
def test_an_ambiguous_model_is_refused_even_with_DANGEROUS_OPS_allow(serve: Serve, name: str) -> None:
    assert serve(build() / name, DANGEROUS_OPS="allow")("GET", "/readyz").status == 503


@pytest.mark.parametrize("name", ["base", "table"])
def test_the_models_that_the_tricks_change_are_served(serve: Serve, name: str) -> None:
    assert serve(build() / name)("GET", "/readyz").status == 200


ANSWER = """
import sys
from pathlib import Path
import numpy as np
from serving.core import settings
from serving.runtime.model import Model
from serving.runtime.sessions import judge, open_session
from serving.savedmodel.source import Source
source, options = Source(Path(sys.argv[1]), "model"), settings.read({"RUNTIME": sys.argv[2]})
judge(source, options)
model = Model(source, open_session(source, options))
print(model.run(model.signatures["serving_default"], {"x": np.float32(1)})["y"])
"""


@pytest.mark.parametrize("runtime", ["c", "python"])
def test_the_signatures_that_run_are_those_that_were_examined(runtime: str) -> None:
    run = python("-c", ANSWER, build() / "another_object_graph", runtime, env=plain_environment())
    assert run.stdout.splitlines()[-1:] == ["2.0"], run.stderr[-2000:]
