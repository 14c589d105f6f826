"""The list of operations against TensorFlow's own registry, in a process of its own."""

import json
from functools import cache
from typing import Any

from serving.savedmodel.safety.purity import CALLING, DANGEROUS, DOES, kind
from tests.conftest import plain_environment
from tests.harness.forks import python

OPERATIONS = """
import json
from tensorflow.core.framework import op_def_pb2
from tensorflow.python.client import pywrap_tf_session as session
found = op_def_pb2.OpList.FromString(session.TF_GetBuffer(session.TF_GetAllOpList()))
print(json.dumps({
    op.name: {**{attr.name: attr.type for attr in op.attr}, **{one.name: "argument" for one in op.input_arg}}
    for op in found.op
}))
"""


@cache
def operations() -> dict[str, dict[str, str]]:
    """Return the attributes of every operation of the installed TensorFlow, with their types, and its arguments."""
    run = python("-c", OPERATIONS, env=plain_environment())
    assert run.returncode == 0, run.stderr
    content: dict[str, dict[str, str]] = json.loads(run.stdout.splitlines()[-1])
    return content


def allowed() -> dict[str, Any]:
    """Return the operations that a served model may run: pure ones, and those of which it is only warned."""
    return {op: attributes for op, attributes in operations().items() if kind(op) not in DANGEROUS}


# What the texts of allowed operations say; none of them names a file, an address or a program.
TEXTS = frozenset(
    """
    activation_mode align allowed_devices bad_indices_policy batch_padding_policy batching_queue cardinality_options
    compression_type config config_proto container context_dense_keys context_sparse_keys data_format dct_method
    debug_name dense_keys density_unit description deterministic device_names devices dim_args_spec
    dimension_numbers direction disabled_checks display_name dst_format encoding equation errors executor_type
    feature_list_dense_keys feature_list_dense_missing_assumed_empty feature_list_sparse_keys field_delim fill
    fill_mode filter_format format frame_name fused_ops input_encoding input_mode input_order input_quant_mode
    interpolation kernel_type labels left_pad message metadata method mixed_priority_policy mode module na_value
    noise op_names optimization_configs output_encoding output_quant_mode padding pattern placeholder platforms
    precision_config ragged_keys reduction_type rewrite right_pad rnn_mode round_mode row_partition_types separator
    serialized_options set_operation sharding shared_name source sparse_keys split_type src_format stack_name
    stateful_whitelist template tensor_array_name unit var_name xmp_metadata
    """.split()  # noqa: SIM905 - a list of words is read, and grows, as words
)


def test_no_text_of_an_allowed_operation_names_a_file() -> None:
    texts = {
        (op, name)
        for op, attributes in allowed().items()
        for name, type_ in attributes.items()
        if type_ in ("string", "list(string)") and name not in TEXTS
    }
    assert texts == set()


def test_no_argument_of_an_allowed_operation_is_a_file_name() -> None:
    words = ("file", "path", "dir", "address", "url")
    named = {(op, name) for op, of in allowed().items() for name, type_ in of.items() if type_ == "argument"}
    assert {(op, name) for op, name in named if any(word in name for word in words)} == set()


def test_every_pure_operation_that_calls_functions_is_followed() -> None:
    calling = {op for op, attributes in operations().items() if {"func", "list(func)"} & set(attributes.values())}
    assert {op for op in calling if kind(op) is None} == CALLING


KINDS = [
    # operation                      kind
    ("MatMul",                       None),
    ("CudnnRNNV3",                   None),
    ("RandomUniform",                "random"),
    ("MapDataset",                   "state"),
    ("DatasetFromGraph",             "hidden"),
    ("DeserializeIterator",          "hidden"),
    ("Skipgram",                     "files"),
    ("FixedUnigramCandidateSampler", "files"),
    ("DebugNumericSummary",          "files"),
    ("ImmutableConst",               "files"),
    ("MergeV2Checkpoints",           "files"),
    ("SnapshotDatasetV2",            "files"),
    ("DataServiceDatasetV4",         "network"),
    ("GeneratorDataset",             "python"),
    ("SomethingNew",                 "unknown"),
]  # fmt: skip


def test_operations_have_their_kinds() -> None:
    assert [(op, kind(op)) for op, _ in KINDS] == KINDS
    assert {kind(op) for op in operations()} <= {None, *DOES}
