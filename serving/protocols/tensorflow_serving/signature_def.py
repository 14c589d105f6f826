"""A model's signatures as protobuf's JSON form writes a SignatureDef: TensorFlow Serving's metadata.

<https://www.tensorflow.org/tfx/serving/api_rest#model_metadata_api>, tensorflow/core/protobuf/meta_graph.proto and
tensorflow/core/framework/tensor.proto; the JSON form: <https://protobuf.dev/programming-guides/json/>.
"""

import base64
from typing import Any

from serving.core.dtypes import by_code
from serving.savedmodel import prediction_log
from serving.savedmodel.protobuf import number_field
from serving.savedmodel.signature import Signature, TensorSpec

# TF_DataType: the field of a TensorProto that holds its values
FIELDS = {
    1: "float_val", 2: "double_val", 3: "int_val", 4: "int_val", 5: "int_val", 6: "int_val", 9: "int64_val",
    10: "bool_val", 17: "int_val", 22: "uint32_val", 23: "uint64_val",
}  # fmt: skip


def signature_def(signature: Signature) -> dict[str, Any]:
    """Return one signature: its inputs and outputs as TensorInfo, the default values of inputs as TensorProto."""
    return {
        "inputs": {spec.name: _tensor_info(spec) for spec in signature.inputs.values()},
        "outputs": {spec.name: _tensor_info(spec) for spec in signature.outputs.values()},
        "method_name": signature.method_name,
        "defaults": {name: _tensor_proto(tensor) for name, tensor in signature.defaults.items()},
    }


def _tensor_info(spec: TensorSpec) -> dict[str, Any]:
    names = spec.dimensions or ("",) * len(spec.shape or ())
    dimensions = [
        {"size": str(-1 if size is None else size), "name": name} for size, name in zip(spec.shape or (), names)
    ]
    return {
        "dtype": spec.dtype.name,
        "tensor_shape": {"dim": dimensions, "unknown_rank": spec.shape is None},
        "name": spec.tensor,
    }


def _tensor_proto(tensor: bytes) -> dict[str, Any]:
    array = prediction_log.array(memoryview(tensor))
    dtype = by_code(number_field(memoryview(tensor), 1))
    values: Any = array.ravel().tolist()
    if dtype.kind == "S":
        field, values = "string_val", [base64.b64encode(value).decode() for value in values]
    elif dtype.code in FIELDS:
        field = FIELDS[dtype.code]
        values = [str(value) for value in values] if "64" in field else values
    else:
        field, values = "tensor_content", base64.b64encode(array.tobytes()).decode()
    shape = {"dim": [{"size": str(size), "name": ""} for size in array.shape], "unknown_rank": False}
    return {"dtype": dtype.name, "tensor_shape": shape, "version_number": 0, field: values}
