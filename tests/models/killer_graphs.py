"""Graphs around one operation that ends a process on some inputs, if nothing checks them."""

from base64 import b64encode
from collections.abc import Callable
from typing import Any

TYPES = {"i": "int32", "l": "int64", "f": "float32", "s": "string"}  # of an input, by the first letter of its name
Make = Callable[..., Any]


def _raw(op: str, take: int | None = None, **names: Any) -> Make:
    """Return a graph of one operation: argument → the name of an input, or a constant."""

    def make(tf: Any, **inputs: Any) -> Any:
        def value(argument_value: Any) -> Any:
            return (
                [value(each) for each in argument_value]
                if isinstance(argument_value, list)
                else inputs.get(argument_value, argument_value)
                if isinstance(argument_value, str)
                else argument_value
            )

        out = getattr(tf.raw_ops, op)(**{argument: value(given) for argument, given in names.items()})
        return out if take is None else out[take]

    return make


def _listed(use: Make) -> Make:
    """Return a graph that uses a list of two tensors."""

    def make(tf: Any, **inputs: Any) -> Any:
        shape = tf.constant([], tf.int32)
        handle = tf.raw_ops.TensorListReserve(element_shape=shape, num_elements=2, element_dtype=tf.float32)
        return tf.raw_ops.TensorListLength(input_handle=use(tf.raw_ops, handle, shape, **inputs))

    return make


def _array(use: Make) -> Make:
    """Return a graph that uses an array of two tensors, as TensorFlow 1 has them."""

    def make(tf: Any, **inputs: Any) -> Any:
        made = tf.raw_ops.TensorArrayV3(size=inputs.pop("i_size", 2), dtype=tf.float32, dynamic_size=True)
        flow = use(tf.raw_ops, made.handle, made.flow, **inputs)
        return tf.raw_ops.TensorArraySizeV3(handle=made.handle, flow_in=flow)

    return make


def _of_list(op: str, **more: Any) -> Make:
    """Return a graph that reads a list in which nothing has been put: it gives zeros of the shape that is asked for."""

    def make(tf: Any, i: Any) -> Any:
        empty = tf.raw_ops.TensorListReserve(element_shape=tf.constant([-1]), num_elements=2, element_dtype=tf.float32)
        return getattr(tf.raw_ops, op)(input_handle=empty, element_shape=i, element_dtype=tf.float32, **more)

    return make


def _fourier(op: str) -> Make:
    def make(tf: Any, f: Any, i_length: Any) -> Any:
        given = tf.complex(f, f) if op.startswith("I") else f
        return tf.abs(getattr(tf.raw_ops, op)(input=given, fft_length=i_length))

    return make


def _sparse(op: str, take: int | None = None, **more: Any) -> Make:
    def make(tf: Any, l_at: Any, f: Any, l_shape: Any) -> Any:
        if op in ("SparseReduceSum", "SparseReduceMax"):
            return getattr(tf.raw_ops, op)(input_indices=l_at, input_values=f, input_shape=l_shape, reduction_axes=[1])
        if op == "SparseFillEmptyRows":
            return tf.raw_ops.SparseFillEmptyRows(indices=l_at, values=f, dense_shape=l_shape, default_value=0.0)[1]
        if op == "SparseToDense":
            return tf.raw_ops.SparseToDense(
                sparse_indices=l_at, sparse_values=f, output_shape=l_shape, default_value=0.0
            )
        if op == "SparseTensorDenseMatMul":
            return tf.raw_ops.SparseTensorDenseMatMul(a_indices=l_at, a_values=f, a_shape=l_shape, b=tf.ones([3, 2]))
        if op == "SerializeManySparse":
            return tf.raw_ops.SerializeManySparse(sparse_indices=l_at, sparse_values=f, sparse_shape=l_shape)
        if op == "SetSize":
            return tf.raw_ops.SetSize(
                set_indices=l_at, set_values=tf.cast(f, tf.int64), set_shape=l_shape, validate_indices=False
            )
        if op == "EditDistance":
            hypothesis = {"hypothesis_indices": l_at, "hypothesis_values": f, "hypothesis_shape": l_shape}
            return tf.raw_ops.EditDistance(
                **hypothesis, **{k.replace("hypothesis", "truth"): v for k, v in hypothesis.items()}
            )
        if op == "SparseCountSparseOutput":
            return tf.raw_ops.SparseCountSparseOutput(
                indices=l_at, values=tf.cast(f, tf.int64), dense_shape=l_shape, weights=tf.constant([], tf.float32), binary_output=False
            )[1]  # fmt: skip
        words = tf.strings.as_string(f)
        if op == "RaggedCross":
            return tf.raw_ops.RaggedCross(
                ragged_values=[], ragged_row_splits=[], sparse_indices=[l_at], sparse_values=[words], sparse_shape=[l_shape],
                dense_inputs=[], input_order="S", hashed_output=False, num_buckets=0, hash_key=0,
                out_values_type=tf.string, out_row_splits_type=tf.int64,
            ).output_values  # fmt: skip
        return tf.raw_ops.SparseCrossV2(indices=[l_at], values=[words], shapes=[l_shape], dense_inputs=[], sep="_")[1]

    return make


def _dense(kinds: list[str]) -> Make:
    def make(tf: Any, f: Any, l_shape: Any, **partitions: Any) -> Any:
        return tf.raw_ops.RaggedTensorToTensor(
            shape=l_shape, values=f, default_value=0.0, row_partition_tensors=list(partitions.values()),
            row_partition_types=kinds,
        )  # fmt: skip

    return make


def _parsed(tf: Any, s: Any) -> Any:
    """Parse an example with row splits of its own, as tf.io.RaggedFeature does, which does not check them."""
    rows = tf.io.RaggedFeature(tf.float32, "value", partitions=[tf.io.RaggedFeature.RowSplits("splits")])
    return tf.io.parse_example(tf.ensure_shape(s, [None]), {"rows": rows})["rows"].to_tensor()


def _in_a_branch(tf: Any, i: Any) -> Any:
    return tf.cond(tf.size(i) > 0, lambda: tf.fill(i, 1.0), lambda: tf.fill([1], 1.0))


def _in_a_loop(tf: Any, i: Any) -> Any:
    return tf.while_loop(lambda step, _: step < 2, lambda step, _: (step + 1, tf.fill(i, 1.0)), (0, tf.fill([1], 0.0)),
                         shape_invariants=(tf.TensorShape([]), tf.TensorShape(None)))[1]  # fmt: skip


def _in_an_old_loop(tf: Any, i: Any) -> Any:
    from tensorflow.python.ops import control_flow_util

    control_flow_util.ENABLE_CONTROL_FLOW_V2, before = False, control_flow_util.ENABLE_CONTROL_FLOW_V2
    try:
        return _in_a_loop(tf, i)
    finally:
        control_flow_util.ENABLE_CONTROL_FLOW_V2 = before


def _in_a_map(tf: Any, i: Any) -> Any:
    return tf.map_fn(lambda size: tf.reduce_sum(tf.ones([size])), i, fn_output_signature=tf.float32)


def _example(splits: list[int]) -> Any:
    """Write a tf.Example of three values and these row splits, and give it in base64."""
    from serving.savedmodel.protobuf import write_field as string
    from serving.savedmodel.protobuf import write_varint

    values = string(2, string(1, b"\0\0\x80\x3f" * 3))
    lists = string(3, string(1, *(write_varint(split) for split in splits)))
    features = (string(1, string(1, key), string(2, of)) for key, of in ((b"value", values), (b"splits", lists)))
    return [{"b64": b64encode(string(1, *features)).decode()}]
