"""The schemas that are the same for every signature."""

from serving.pipeline.openapi.schemas import Schema, object_with, schema_ref
from serving.savedmodel.folder import card
from serving.savedmodel.source import Source

TEXT: Schema = {"type": "string"}
TEXTS: Schema = {"type": "array", "items": TEXT}


def fixed_schemas(source: Source) -> dict[str, Schema]:
    """Return what does not depend on the signatures."""
    return {
        "Any": {},
        "Event": {"description": "A CloudEvent, a push of Pub/Sub or a legacy event; anything else is refused."},
        "Replied": {"description": "The data of the CloudEvent that answers; its attributes are ce- header fields."},
        "OpenAPI": object_with({"openapi": TEXT, "info": {"type": "object"}, "paths": {"type": "object"}}),
        "Error": object_with({"error": TEXT}, closed=True),
        "Live": object_with({"live": {"const": True}}),
        "Ready": object_with({"ready": {"const": True}}),
        **_of_tensorflow_serving({"const": source.name}, {"const": source.version}),
        **_of_open_inference({"const": source.name}),
    }


def _of_tensorflow_serving(name: Schema, version: Schema) -> dict[str, Schema]:
    tensors = {"type": "object", "additionalProperties": schema_ref("TensorInfo")}
    signature = object_with({
        "inputs": tensors, "outputs": tensors, "method_name": TEXT, "defaults": {"type": "object"},
    })  # fmt: skip
    signatures = {"type": "object", "additionalProperties": signature}
    state = object_with({
        "version": version,
        "state": {"const": "AVAILABLE"},
        "status": object_with({"error_code": {"const": "OK"}, "error_message": TEXT}),
    })  # fmt: skip
    return {
        "Models": object_with({"models": {"type": "array", "items": name}}),
        "Index": object_with({"status": TEXT, "model": name, "addresses": TEXTS}),
        "Status": object_with({
            "model_version_status": {"type": "array", "items": state}, "name": name, "ready": {"const": True},
        }),
        "Metadata": object_with({
            "model_spec": object_with({"name": name, "signature_name": TEXT, "version": version}),
            "metadata": object_with({
                "signature_def": object_with({"signature_def": signatures}),
                "card": object_with(dict.fromkeys(card.FIELDS, TEXT), card.REQUIRED),
            }, ("signature_def",)),
        }),
        "TensorInfo": object_with({
            "dtype": TEXT,
            "tensor_shape": object_with({
                "dim": {"type": "array", "items": object_with({"size": TEXT, "name": TEXT})},
                "unknown_rank": {"type": "boolean"},
            }),
            "name": TEXT,
        }),
    }  # fmt: skip


def _of_open_inference(name: Schema) -> dict[str, Schema]:
    tensors = {"type": "array", "items": schema_ref("TensorMetadata")}
    signature = object_with({"inputs": tensors, "outputs": tensors})
    return {
        "ServerMetadata": object_with({"name": TEXT, "version": TEXT, "extensions": TEXTS}),
        "ModelReady": object_with({"name": TEXT, "live": {"type": "boolean"}, "ready": {"const": True}}, ("ready",)),
        "ModelMetadata": object_with({
            "name": name,
            "versions": TEXTS,
            "platform": TEXT,
            "inputs": tensors,
            "outputs": tensors,
            "signatures": {"type": "object", "additionalProperties": signature},
        }, ("name", "versions", "platform", "inputs", "outputs")),
        "TensorMetadata": object_with({
            "name": TEXT, "datatype": TEXT, "shape": {"type": "array", "items": {"type": "integer"}},
            "optional": {"type": "boolean"},
        }, ("name", "datatype", "shape")),
    }  # fmt: skip
