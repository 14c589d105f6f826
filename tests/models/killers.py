"""Operations whose kernels trust a request: one model for each line of serving/savedmodel/safety/guards.py, and what breaks it.

    build() / "lines"   a SavedModel for each, made once; beside it two that cannot be checked
    LINES[name]         Line(make, good, bad): the graph, a request that is answered, requests that are not

What a bad request does where nothing checks it: `python -m tests.models.killers try [LINE...]` prints a line for each.
It forks for each of them, since most end the process.
"""

import json
import os
import resource
import subprocess
import sys
import threading
import time
from base64 import b64decode
from collections.abc import Iterator, Sequence
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tests.models.killer_graphs import (
    TYPES,
    Make,
    _array,
    _dense,
    _example,
    _fourier,
    _in_a_branch,
    _in_a_loop,
    _in_a_map,
    _in_an_old_loop,
    _listed,
    _of_list,
    _parsed,
    _raw,
    _sparse,
)
from tests.models.once import ROOT, digest, made_once

GROWN = 80 << 20  # bytes: more than a request may take that the checks let through, 1 << 24 elements
MANY = 1 << 26  # elements: 256 MB of them at least
HUGE = 1 << 62


class Line(NamedTuple):
    """One signature: the inputs of a request that is answered, and those that change to break it."""

    make: Make  # of TensorFlow and the inputs
    good: dict[str, Any]
    bad: dict[str, Any]


PICTURE, BOX = [[[[1.0], [1.0]], [[1.0], [1.0]]]], [[0.0, 0.0, 1.0, 1.0]]
AT: dict[str, Any] = {"l_at": [[0, 0], [1, 1]], "f": [1.0, 2.0], "l_shape": [2, 3]}
SCALED = {"scale": [1.0, 1.0], "translation": [0.0, 0.0]}
RANDOM: Any = {"seed": [1, 2]}
NO_WEIGHTS: Any = "f_none"


def _resize(op: str, **more: Any) -> Line:
    return Line(_raw(op, images="f", size="i", **more), {"f": PICTURE, "i": [3, 3]}, {"i": [1 << 13, 1 << 13]})


def _segments(op: str, ids: Any) -> Line:
    return Line(_raw(op, data="f", segment_ids="i"), {"f": [1.0, 2.0], "i": [0, 1]}, {"i": ids})


# fmt: off
LINES: dict[str, Line] = {
    "BroadcastTo":      Line(_raw("BroadcastTo", input="f", shape="i"), {"f": 1.0, "i": [2, 3]}, {"i": [MANY]}),
    "Empty":            Line(lambda tf, i: tf.shape(tf.raw_ops.Empty(shape=i, dtype=tf.float32, init=True)), {"i": [2]}, {"i": [MANY]}),
    "Fill":             Line(_raw("Fill", dims="i", value=1.0), {"i": [2, 0, 3]}, {"i": [MANY]}),
    "Fill_beside_0":    Line(_raw("Fill", dims="l", value=1.0), {"l": [2, 0, 3]}, {"l": [0, 1 << 40, 8]}),
    "LinSpace":         Line(_raw("LinSpace", start=0.0, stop=1.0, num="i"), {"i": 3}, {"i": MANY}),
    "OneHot":           Line(lambda tf, i, i_depth: tf.one_hot(i, i_depth), {"i": [1, 0], "i_depth": 3}, {"i_depth": MANY}),
    "MirrorPad":        Line(lambda tf, i: tf.shape(tf.raw_ops.MirrorPad(input=tf.ones([4000, 4000]), paddings=i, mode="SYMMETRIC")), {"i": [[0, 0], [0, 0]]}, {"i": [[0, 4000], [0, 4000]]}),
    "Pad":              Line(_raw("Pad", input="f", paddings="i"), {"f": [1.0], "i": [[1, 2]]}, {"i": [[0, MANY]]}),
    "PadV2":            Line(_raw("PadV2", input="f", paddings="i", constant_values=1.0), {"f": [1.0], "i": [[1, 2]]}, {"i": [[0, MANY]]}),
    "Range":            Line(_raw("Range", start="i", limit="i_limit", delta="i_delta"), {"i": 0, "i_limit": 5, "i_delta": 1}, {"i_limit": MANY}),
    "Reshape":          Line(_raw("Reshape", tensor="f", shape="l"), {"f": [1.0, 2.0], "l": [-1, 2]}, {"f": [], "l": [0, 1 << 40, 8]}),
    "SpaceToBatchND":   Line(_raw("SpaceToBatchND", input="f", block_shape=[1], paddings="i"), {"f": [[1.0]], "i": [[0, 1]]}, {"i": [[0, MANY]]}),
    "Tile":             Line(_raw("Tile", input="f", multiples="i"), {"f": [1.0, 2.0], "i": [2]}, {"i": [MANY]}),
    "StatelessRandomUniform": Line(_raw("StatelessRandomUniform", shape="i", **RANDOM), {"i": [2]}, {"i": [MANY]}),
    "StatelessRandomUniformV2": Line(_raw("StatelessRandomUniformIntV2", shape="i", key=[1], counter=[1, 2], alg=1, minval=0, maxval=9), {"i": [2]}, {"i": [MANY]}),
    "RandomUniform":    Line(lambda tf, i: tf.shape(tf.raw_ops.RandomUniform(shape=i, dtype=tf.float32)), {"i": [2]}, {"i": [MANY]}),
    "StatelessMultinomial": Line(_raw("StatelessMultinomial", logits="f", num_samples="i", output_dtype=3, **RANDOM), {"f": [[1.0, 2.0]], "i": 2}, {"i": MANY}),
    "MatrixDiagV3":     Line(_raw("MatrixDiagV3", diagonal="f", k=0, num_rows="i", num_cols="i_cols", padding_value=0.0), {"f": [1.0], "i": 1, "i_cols": 2}, {"i": 1, "i_cols": MANY}),
    "DecodePaddedRaw":  Line(_raw("DecodePaddedRaw", input_bytes="s", fixed_length="i", out_type=4), {"s": ["ab"], "i": 4}, {"i": 1 << 29}),
    "ResizeArea":       _resize("ResizeArea"),
    "ResizeBicubic":    _resize("ResizeBicubic"),
    "ResizeBilinear":   _resize("ResizeBilinear"),
    "ResizeNearestNeighbor": _resize("ResizeNearestNeighbor"),
    "ScaleAndTranslate": _resize("ScaleAndTranslate", **SCALED),
    "ExtractGlimpse":   Line(_raw("ExtractGlimpse", input="f", size="i", offsets=[[0.0, 0.0]]), {"f": PICTURE, "i": [2, 2]}, {"i": [1 << 13, 1 << 13]}),
    "ImageProjectiveTransformV3": Line(_raw("ImageProjectiveTransformV3", images="f", transforms=[[1.0] * 8], output_shape="i", fill_value=0.0, interpolation="NEAREST"), {"f": PICTURE, "i": [2, 2]}, {"i": [1 << 13, 1 << 13]}),
    "CropAndResize":    Line(_raw("CropAndResize", image="f", boxes=BOX, box_ind=[0], crop_size="i"), {"f": PICTURE, "i": [2, 2]}, {"i": [1 << 13, 1 << 13]}),
    "NonMaxSuppressionV4": Line(_raw("NonMaxSuppressionV4", 0, boxes=BOX, scores=[1.0], max_output_size="i", iou_threshold=0.5, score_threshold=0.0, pad_to_max_output_size=True), {"i": 2}, {"i": MANY}),
    "NonMaxSuppressionV5": Line(_raw("NonMaxSuppressionV5", 0, boxes=BOX, scores=[1.0], max_output_size="i", iou_threshold=0.5, score_threshold=0.0, soft_nms_sigma=0.0, pad_to_max_output_size=True), {"i": 2}, {"i": MANY}),
    "CombinedNonMaxSuppression": Line(_raw("CombinedNonMaxSuppression", 1, boxes=[[[BOX[0]]]], scores=[[[1.0]]], max_output_size_per_class=3, max_total_size="i", iou_threshold=0.5, score_threshold=0.0), {"i": 2}, {"i": (1 << 31) - 1}),
    "Conv2DBackpropInput": Line(_raw("Conv2DBackpropInput", input_sizes="i", filter=[[[[1.0]]]], out_backprop="f", strides=[1] * 4, padding="VALID"), {"f": PICTURE, "i": [1, 2, 2, 1]}, {"i": [1, -2, 2, 1]}),
    "Conv3DBackpropInputV2": Line(_raw("Conv3DBackpropInputV2", input_sizes="i", filter=[[[[[1.0]]]]], out_backprop="f", strides=[1] * 5, padding="VALID"), {"f": [PICTURE], "i": [1, 1, 2, 2, 1]}, {"i": [1, -1, 2, 2, 1]}),
    "DepthwiseConv2dNativeBackpropInput": Line(_raw("DepthwiseConv2dNativeBackpropInput", input_sizes="i", filter=[[[[1.0]]]], out_backprop="f", strides=[1] * 4, padding="VALID"), {"f": PICTURE, "i": [1, 2, 2, 1]}, {"i": [1, -2, 2, 1]}),
    **{op: Line(_fourier(op), {"f": values, "i_length": [2] * rank}, {"i_length": [0] * rank})
       for rank, values in ((1, [1.0, 2.0]), (2, [[1.0, 2.0]] * 2), (3, [[[1.0, 2.0]] * 2] * 2))
       for op in (f"{kind}FFT{'' if rank == 1 else f'{rank}D'}" for kind in ("R", "IR")) if op != "IRFFT2D" and op != "IRFFT3D"},
    "IRFFT2D":          Line(_fourier("IRFFT2D"), {"f": [[1.0, 2.0]] * 2, "i_length": [2, 2]}, {"f": [[1.0]] * 4, "i_length": [4, 0]}),
    "IRFFT3D":          Line(_fourier("IRFFT3D"), {"f": [[[1.0, 2.0]] * 2] * 2, "i_length": [2, 2, 2]}, {"f": [[[1.0]] * 4] * 4, "i_length": [4, 4, 0]}),
    "RFFT_of_no_element": Line(_fourier("RFFT"), {"f": [1.0, 2.0], "i_length": [2]}, {"f": [], "i_length": [512]}),
    "irfft_of_one":     Line(lambda tf, f: tf.signal.irfft(tf.reshape(tf.complex(f, f), [-1])), {"f": [1.0, 2.0]}, {"f": [1.0]}),
    "SegmentSum":       _segments("SegmentSum", [0, MANY]),
    "SegmentMean":      _segments("SegmentMean", [0, MANY]),
    "UnsortedSegmentSum": Line(_raw("UnsortedSegmentSum", data="f", segment_ids=[0, 1], num_segments="i"), {"f": [1.0, 2.0], "i": 2}, {"i": MANY}),
    "UnsortedSegmentJoin": Line(_raw("UnsortedSegmentJoin", inputs="s", segment_ids=[0], num_segments="i"), {"s": ["a"], "i": 2}, {"i": 1 << 25}),
    "SparseSegmentSum": Line(_raw("SparseSegmentSum", data="f", indices=[0, 1], segment_ids="i"), {"f": [[1.0], [2.0]], "i": [0, 1]}, {"i": [0, MANY]}),
    "SparseSegmentSumWithNumSegments": Line(_raw("SparseSegmentSumWithNumSegments", data="f", indices=[0, 1], segment_ids=[0, 1], num_segments="i"), {"f": [[1.0], [2.0]], "i": 2}, {"i": MANY}),
    "ScatterNd":        Line(_raw("ScatterNd", indices=[[0]], updates="f", shape="i"), {"f": [1.0], "i": [2]}, {"i": [MANY]}),
    "DynamicStitch":    Line(_raw("DynamicStitch", indices=["i", "i_more"], data=["f", "f_more"]), {"i": [0, 1], "i_more": [2], "f": [1.0, 2.0], "f_more": [3.0]}, {"i_more": [MANY]}),
    "ParallelDynamicStitch": Line(_raw("ParallelDynamicStitch", indices=["i"], data=["f"]), {"i": [0, 1], "f": [1.0, 2.0]}, {"i": [0, MANY]}),
    "Bincount":         Line(_raw("Bincount", arr=[0, 1], size="i", weights=NO_WEIGHTS), {"i": 2, "f_none": []}, {"i": MANY}),
    "DenseBincount":    Line(_raw("DenseBincount", input="l", size="l_size", weights=NO_WEIGHTS), {"l": [[0, 1], [1, 1]], "l_size": 2, "f_none": []}, {"l_size": HUGE}),
    "RaggedBincount":   Line(_raw("RaggedBincount", splits=[0, 1, 2], values="l", size="l_size", weights=NO_WEIGHTS), {"l": [0, 1], "l_size": 2, "f_none": []}, {"l_size": HUGE}),
    "SparseBincount":   Line(_raw("SparseBincount", indices="l", values="l_values", dense_shape="l_shape", size="l_size", weights=NO_WEIGHTS), {"l": [[0, 0]], "l_values": [1], "l_shape": [2, 2], "l_size": 2, "f_none": []}, {"l_shape": [1 << 61, 2], "l_size": 50}),
    "HistogramFixedWidth": Line(_raw("HistogramFixedWidth", values="f", value_range=[0.0, 1.0], nbins="i"), {"f": [0.5], "i": 2}, {"i": MANY}),
    "TensorArrayV3":    Line(_array(lambda _ops, _handle, flow: flow), {"i_size": 2}, {"i_size": (1 << 31) - 1}),
    "TensorArrayWriteV3": Line(_array(lambda ops, handle, flow, i, f: ops.TensorArrayWriteV3(handle=handle, index=i, value=f, flow_in=flow)), {"i": 1, "f": 1.0}, {"i": (1 << 31) - 2}),
    "TensorArrayScatterV3": Line(_array(lambda ops, handle, flow, i, f: ops.TensorArrayScatterV3(handle=handle, indices=i, value=f, flow_in=flow)), {"i": [0, 1], "f": [1.0, 2.0]}, {"i": [0, (1 << 31) - 2]}),
    "TensorArraySplitV3": Line(_array(lambda ops, handle, flow, l_n, f: ops.TensorArraySplitV3(handle=handle, lengths=l_n, value=f, flow_in=flow)), {"l_n": [1, 1], "f": [1.0, 2.0]}, {"l_n": [-5, 7]}),
    "TensorListConcatV2": Line(lambda tf, l_n, f: tf.raw_ops.TensorListConcatV2(input_handle=tf.raw_ops.TensorListReserve(element_shape=tf.constant([-1]), num_elements=2, element_dtype=tf.float32), element_shape=tf.constant([-1]), leading_dims=l_n, element_dtype=tf.float32)[0] + tf.reduce_sum(f), {"l_n": [1, 1], "f": 0.0}, {"l_n": [-5, 9]}),
    "TensorListReserve": Line(lambda tf, i: tf.raw_ops.TensorListLength(input_handle=tf.raw_ops.TensorListReserve(element_shape=tf.constant([], tf.int32), num_elements=i, element_dtype=tf.float32)), {"i": 2}, {"i": (1 << 31) - 1}),
    "TensorListResize": Line(_listed(lambda ops, handle, _shape, i: ops.TensorListResize(input_handle=handle, size=i)), {"i": 3}, {"i": (1 << 31) - 1}),
    "TensorListScatterIntoExistingList": Line(_listed(lambda ops, handle, _shape, i, f: ops.TensorListScatterIntoExistingList(input_handle=handle, tensor=f, indices=i)), {"i": [0, 1], "f": [1.0, 2.0]}, {"i": [0, -1]}),
    "TensorListScatterV2": Line(_listed(lambda ops, _handle, shape, i, f: ops.TensorListScatterV2(tensor=f, indices=i, element_shape=shape, num_elements=-1)), {"i": [0, 1], "f": [1.0, 2.0]}, {"i": [0, (1 << 31) - 2]}),
    "TensorListSetItem": Line(_listed(lambda ops, handle, _shape, i, f: ops.TensorListSetItem(input_handle=handle, index=i, item=f, resize_if_index_out_of_bounds=True)), {"i": 3, "f": 1.0}, {"i": 1 << 30}),
    "TensorListGetItem": Line(_of_list("TensorListGetItem", index=1), {"i": [1]}, {"i": [MANY]}),
    "TensorListStack":  Line(_of_list("TensorListStack"), {"i": [1]}, {"i": [MANY]}),
    "BlockLSTMV2":      Line(lambda tf, f, l_n: tf.raw_ops.BlockLSTMV2(seq_len_max=l_n, x=f, cs_prev=[[0.0]], h_prev=[[0.0]], w=[[0.0] * 4] * 2, wci=[0.0], wcf=[0.0], wco=[0.0], b=[0.0] * 4).h, {"f": [[[1.0]]] * 2, "l_n": 2}, {"l_n": -4}),
    "RaggedFillEmptyRows": Line(_raw("RaggedFillEmptyRows", 1, value_rowids="l", values="f", nrows="l_rows", default_value=0.0), {"l": [0, 1], "f": [1.0, 2.0], "l_rows": 3}, {"l_rows": MANY}),
    "RaggedRange":      Line(_raw("RaggedRange", 1, starts="i", limits="i_limits", deltas="i_deltas"), {"i": [0, 0], "i_limits": [2, 3], "i_deltas": [1, 1]}, {"i_limits": [2, (1 << 31) - 1]}),
    "RaggedTensorToTensor": Line(_dense(["ROW_SPLITS"]), {"f": [1.0, 2.0, 3.0], "l_shape": [-1, -1], "l_splits": [0, 2, 3]}, {"l_splits": [0, 1 << 20]}),
    "RaggedTensorToTensor_nested": Line(_dense(["ROW_SPLITS", "ROW_SPLITS"]), {"f": [1.0, 2.0, 3.0], "l_shape": [-1, -1, -1], "l_splits": [0, 1, 2], "l_splits_2": [0, 2, 3]}, {"l_splits_2": [0, 2, 1 << 20]}),
    "RaggedTensorToTensor_rows": Line(_dense(["FIRST_DIM_SIZE", "VALUE_ROWIDS"]), {"f": [1.0, 2.0, 3.0], "l_shape": [-1, -1], "l_size": 2, "l_rows": [0, 0, 1]}, {"l_rows": [0, 0, 1, 1, 1, 1, 1]}),
    "EditDistance":     Line(_sparse("EditDistance"), AT, {"l_shape": [MANY, 3]}),
    "RaggedCross":      Line(_sparse("RaggedCross"), AT, {"l_shape": [-1, 3]}),
    "SerializeManySparse": Line(_sparse("SerializeManySparse"), AT, {"l_shape": [1 << 25, 3]}),
    "SetSize":          Line(_sparse("SetSize"), AT, {"l_at": [[0, 0], [-(1 << 30), -(1 << 30)]]}),
    "SetSize_shape":    Line(_sparse("SetSize"), AT, {"l_shape": [MANY * 2, 3]}),
    "SparseCrossV2":    Line(_sparse("SparseCrossV2"), AT, {"l_shape": [-1, 3]}),
    "SparseFillEmptyRows": Line(_sparse("SparseFillEmptyRows"), AT, {"l_shape": [1 << 25, 3]}),
    "SparseReduceMax":  Line(_sparse("SparseReduceMax"), AT, {"l_shape": [MANY * 2, 3]}),
    "SparseReduceSum":  Line(_sparse("SparseReduceSum"), AT, {"l_shape": [MANY * 2, 3]}),
    "SparseTensorDenseMatMul": Line(_sparse("SparseTensorDenseMatMul"), AT, {"l_shape": [-1, 3]}),
    "SparseToDense":    Line(_sparse("SparseToDense"), AT, {"l_shape": [MANY, 3]}),
    "StatelessRandomGammaV2": Line(_raw("StatelessRandomGammaV2", shape="i", alpha=1.0, **RANDOM), {"i": [2]}, {"i": [MANY]}),
    "StatelessRandomBinomial": Line(_raw("StatelessRandomBinomial", shape="i", counts=1.0, probs=0.5, **RANDOM), {"i": [2]}, {"i": [MANY]}),
    "StatelessRandomGammaV3": Line(lambda tf, i: tf.raw_ops.StatelessRandomGammaV3(shape=i, key=tf.constant([1], tf.uint64), counter=tf.constant([1, 2], tf.uint64), alg=1, alpha=1.0), {"i": [2]}, {"i": [MANY]}),
    "SobolSample":      Line(_raw("SobolSample", dim=2, num_results="i", skip=0), {"i": 2}, {"i": MANY}),
    "StridedSliceGrad": Line(_raw("StridedSliceGrad", shape="i", begin=[0], end=[2], strides=[1], dy="f"), {"i": [2], "f": [1.0, 2.0]}, {"i": [MANY]}),
    "CropAndResizeGradImage": Line(lambda tf, f, i: tf.raw_ops.CropAndResizeGradImage(grads=f, boxes=BOX, box_ind=[0], image_size=i, T=tf.float32), {"f": [[[[1.0]]]], "i": [1, 2, 2, 1]}, {"i": [1, 1 << 13, 1 << 13, 1]}),
    "ResizeNearestNeighborGrad": Line(_raw("ResizeNearestNeighborGrad", grads="f", size="i"), {"f": PICTURE, "i": [2, 2]}, {"i": [1 << 13, 1 << 13]}),
    "NearestNeighbors": Line(_raw("NearestNeighbors", 0, points="f", centers=[[1.0], [2.0]], k="l"), {"f": [[1.0]], "l": 1}, {"l": -3}),
    "SpaceToBatch":     Line(_raw("SpaceToBatch", input="f", paddings="i", block_size=2), {"f": PICTURE, "i": [[0, 0], [0, 0]]}, {"i": [[0, 1 << 13], [0, 1 << 13]]}),
    "SpaceToBatchND_of_two": Line(_raw("SpaceToBatchND", input="f", block_shape=[2, 2], paddings="i"), {"f": PICTURE, "i": [[0, 0], [0, 0]]}, {"i": [[0, 1 << 13], [0, 1 << 13]]}),
    "TensorListGather": Line(_of_list("TensorListGather", indices=[0, 1]), {"i": [1]}, {"i": [MANY]}),
    "TensorListPopBack": Line(lambda tf, i: _of_list("TensorListPopBack")(tf, i)[1], {"i": [1]}, {"i": [MANY]}),
    "TensorListScatter": Line(lambda tf, i, f: tf.raw_ops.TensorListLength(input_handle=tf.raw_ops.TensorListScatter(tensor=f, indices=i, element_shape=tf.constant([], tf.int32))), {"i": [0, 1], "f": [1.0, 2.0]}, {"i": [0, (1 << 31) - 2]}),
    "SparseCountSparseOutput": Line(_sparse("SparseCountSparseOutput"), AT, {"l_shape": [MANY, 3]}),
    "MatrixDiag":       Line(_raw("MatrixDiag", diagonal="f"), {"f": [1.0, 2.0]}, {"f": [1.0] * 9000}),
    "Diag":             Line(_raw("Diag", diagonal="f"), {"f": [1.0, 2.0]}, {"f": [1.0] * 9000}),
    "eye":              Line(lambda tf, i: tf.eye(i), {"i": 2}, {"i": 9000}),
    "Conv2D":           Line(lambda tf, f: tf.nn.conv2d(f, tf.ones([1, 1, 1, 1]), 1, "SAME"), {"f": PICTURE}, {"f": [1.0]}),
    "Conv3D":           Line(lambda tf, f: tf.nn.conv3d(f, tf.ones([1, 1, 1, 1, 1]), [1] * 5, "SAME"), {"f": [PICTURE]}, {"f": [1.0]}),
    "Conv2DBackpropInput_sizes": Line(_raw("Conv2DBackpropInput", input_sizes="i", filter=[[[[1.0]]]], out_backprop=PICTURE, strides=[1] * 4, padding="VALID"), {"i": [1, 2, 2, 1]}, {"i": [1]}),
    "Conv3DBackpropInputV2_sizes": Line(_raw("Conv3DBackpropInputV2", input_sizes="i", filter=[[[[[1.0]]]]], out_backprop=[PICTURE], strides=[1] * 5, padding="VALID"), {"i": [1, 1, 2, 2, 1]}, {"i": 1}),
    "Conv2DBackpropFilter": Line(_raw("Conv2DBackpropFilter", input="f", filter_sizes="i", out_backprop="f_out", strides=[1] * 4, padding="VALID"), {"f": PICTURE, "i": [1, 1, 1, 1], "f_out": PICTURE}, {"f": [1.0]}),
    "DepthwiseConv2dNativeBackpropFilter": Line(_raw("DepthwiseConv2dNativeBackpropFilter", input="f", filter_sizes=[1, 1, 1, 1], out_backprop=PICTURE, strides=[1] * 4, padding="VALID"), {"f": PICTURE}, {"f": [1.0]}),
    "Conv3DBackpropFilterV2": Line(_raw("Conv3DBackpropFilterV2", input="f", filter_sizes=[1] * 5, out_backprop=[PICTURE], strides=[1] * 5, padding="VALID"), {"f": [PICTURE]}, {"f": [1.0]}),
    "AvgPoolGrad":      Line(_raw("AvgPoolGrad", orig_input_shape="i", grad="f", ksize=[1] * 4, strides=[1] * 4, padding="VALID"), {"i": [1, 2, 2, 1], "f": PICTURE}, {"f": [1.0]}),
    "AvgPoolGrad_shape": Line(_raw("AvgPoolGrad", orig_input_shape="i", grad=PICTURE, ksize=[1] * 4, strides=[1] * 4, padding="VALID"), {"i": [1, 2, 2, 1]}, {"i": [1]}),
    "AvgPool3DGrad":    Line(_raw("AvgPool3DGrad", orig_input_shape="i", grad="f", ksize=[1] * 5, strides=[1] * 5, padding="VALID"), {"i": [1, 1, 2, 2, 1], "f": [PICTURE]}, {"i": [1, 1]}),
    "MaxPool3D":        Line(_raw("MaxPool3D", input="f", ksize=[1, 2, 2, 2, 1], strides=[1, 2, 2, 2, 1], padding="SAME"), {"f": [PICTURE]}, {"f": PICTURE}),
    "BiasAdd":          Line(lambda tf, f, f_x, f_w: tf.nn.relu(tf.nn.bias_add(tf.raw_ops.MatMul(a=f_x, b=f_w), f)), {"f": [1.0], "f_x": [[1.0]], "f_w": [[1.0]]}, {"f": 1.0}),
    "LSTMBlockCell":    Line(_raw("LSTMBlockCell", 6, x="f", cs_prev=[[0.0]], h_prev=[[0.0]], w=[[0.0] * 4] * 2, wci=[0.0], wcf=[0.0], wco=[0.0], b=[0.0] * 4), {"f": [[1.0]]}, {"f": 1.0}),
    "MaxPool":          Line(lambda tf, f: tf.nn.max_pool2d(f, 2, 1, "VALID"), {"f": [[[[1.0] * 3] * 2] * 2] * 2}, {"f": [[[[1.0] * 3]] * 2] * 2}),
    "MaxPool3D_window": Line(lambda tf, f: tf.nn.max_pool3d(f, 2, 1, "VALID"), {"f": [[[[[1.0] * 3] * 2] * 2] * 2]}, {"f": [[[[[1.0] * 3]] * 2] * 2]}),
    "FakeQuantWithMinMaxVarsPerChannel": Line(_raw("FakeQuantWithMinMaxVarsPerChannel", inputs="f", min=[0.0], max=[1.0]), {"f": [0.5]}, {"f": 0.5}),
    "FakeQuantWithMinMaxVarsPerChannelGradient": Line(_raw("FakeQuantWithMinMaxVarsPerChannelGradient", 0, gradients="f", inputs="f", min=[0.0], max=[1.0]), {"f": [0.5]}, {"f": 0.5}),
    "ConjugateTranspose": Line(lambda tf, f: tf.raw_ops.ConjugateTranspose(x=f, perm=tf.range(tf.rank(f))), {"f": [0.5]}, {"f": 0.5}),
    "Dequantize":       Line(lambda tf, f, i: tf.raw_ops.Dequantize(input=tf.bitcast(tf.cast(i, tf.uint8), tf.quint8), min_range=f, max_range=f + 1.0, mode="SCALED"), {"f": 0.0, "i": [1, 2]}, {"f": [0.0, 0.0]}),
    "QuantizedInstanceNorm": Line(lambda tf, f: tf.raw_ops.QuantizedInstanceNorm(x=tf.cast(tf.bitcast(tf.cast(f, tf.uint8), tf.quint8), tf.quint8), x_min=0.0, x_max=1.0)[1], {"f": PICTURE}, {"f": [[[[]]]]}),
    "QuantizedMatMulWithBias": Line(lambda tf, f: tf.raw_ops.QuantizedMatMulWithBias(a=tf.bitcast(tf.constant([[1]], tf.uint8), tf.quint8), b=tf.bitcast(tf.cast(f, tf.int8), tf.qint8), bias=[1.0], min_a=0.0, max_a=1.0, min_b=0.0, max_b=1.0)[1], {"f": [[1.0]]}, {"f": [1.0]}),
    "ScatterNd_updates": Line(_raw("ScatterNd", indices=[[[0]]], updates="f", shape=[2]), {"f": [[1.0]]}, {"f": [1.0]}),
    "TensorScatterUpdate": Line(_raw("TensorScatterUpdate", tensor=[0.0, 0.0], indices=[[[0]]], updates="f"), {"f": [[1.0]]}, {"f": [1.0]}),
    "SparseSegmentSqrtNGrad": Line(_raw("SparseSegmentSqrtNGrad", grad=[[1.0]], indices=[0], segment_ids=[0], output_dim0="i"), {"i": 2}, {"i": MANY}),
    "AdjustSaturation": Line(_raw("AdjustSaturation", images="f", scale=0.5), {"f": [[[0.1, 0.5, 1e-36], [0.0, 0.0, 0.0]]]}, {"f": [[[1e-40, 5e-41, 0.0]]]}),
    "AdjustHue":        Line(_raw("AdjustHue", images=[[[0.1, 0.5, 0.9]]], delta="f"), {"f": -1.0}, {"f": 1e30}),
    "Conv2D_of_squeezed": Line(lambda tf, i: tf.nn.conv2d(tf.squeeze(tf.fill(i, 1.0)), tf.ones([1, 1, 2, 1]), 1, "SAME"), {"i": [2, 2, 2, 2]}, {"i": [1, 2, 2, 2]}),
    # Where the values come from, and where the operation is
    "cast":             Line(lambda tf, f: tf.fill(tf.cast(tf.round(f), tf.int32), 1.0), {"f": [2.0]}, {"f": [float(MANY)]}),
    "text":             Line(lambda tf, s: tf.fill(tf.strings.to_number(s, tf.int32), 1.0), {"s": ["2"]}, {"s": [str(MANY)]}),
    "split_text":       Line(lambda tf, s: tf.fill(tf.strings.to_number(tf.strings.split(s, ",").values, tf.int32), 1.0), {"s": ["2,3"]}, {"s": [f"{MANY},2"]}),
    "bytes":            Line(lambda tf, s: tf.fill(tf.reshape(tf.io.decode_raw(s, tf.int32), [-1]), 1.0), {"s": ["\2\0\0\0"]}, {"s": ["\0\0\0\4"]}),
    "example":          Line(_parsed, {"s": _example([0, 2, 3])}, {"s": _example([0, 1 << 20])}),
    "branch":           Line(_in_a_branch, {"i": [2]}, {"i": [MANY]}),
    "loop":             Line(_in_a_loop, {"i": [2]}, {"i": [MANY]}),
    "old_loop":         Line(_in_an_old_loop, {"i": [2]}, {"i": [MANY]}),
    "fed_constant":     Line(_raw("Fill", dims="i", value=1.0), {"i": [2]}, {"i": [MANY]}),
    "map":              Line(_in_a_map, {"i": [2]}, {"i": [MANY]}),
}
# fmt: on

KERNELS = {"TF_ENABLE_ONEDNN_OPTS": "1"}  # Eigen's, which some CPUs have by default, check more, and lack one


@cache
def build() -> Path:
    """Return the folder of the models, made first if this source has never made it here."""
    return made_once(
        "killers",
        digest(Path(__file__), Path(__file__).with_name("killer_graphs.py"), version("numpy")),
        "tests.models.killers",
        "make",
    )


def unchecked(lines: Sequence[str]) -> dict[str, str]:
    """Return what TensorFlow does with the bad request of each line: "killed by signal N", "grew", or what it says."""
    return dict(line.split(" ", 1) for line in _output("try", *lines))


def checked() -> dict[str, list[str]]:
    """Return what the good and the bad request of each line get from the served model."""
    return dict(json.loads(line) for line in _output("serve") if line.startswith("["))  # the others are the log


def _output(*arguments: str) -> list[str]:
    command, environment = [sys.executable, "-m", "tests.models.killers", *arguments], {**os.environ, **KERNELS}
    done = subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return done.stdout.splitlines()


def _make(folder: Path) -> None:
    os.environ |= {"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1"}
    import tensorflow as tf

    for number, (name, line) in enumerate(LINES.items()):
        with tf.Graph().as_default() as graph:
            places = {key: tf.compat.v1.placeholder(TYPES[key[0]], None, key) for key in line.good}
            if name == "fed_constant":  # a signature may feed any tensor
                places = {key: tf.constant(value, TYPES[key[0]], name=key) for key, value in line.good.items()}

            def serve(*given: Any, line: Line = line) -> Any:
                return line.make(tf, **dict(zip(line.good, given)))

            inside = (
                tf.function(serve) if number % 2 and name != "old_loop" else serve
            )  # in a function, every other one
            y = tf.identity(inside(*places.values()), "y")
            builder = tf.compat.v1.saved_model.Builder(str(folder / "lines" / name))
            signature = tf.compat.v1.saved_model.predict_signature_def(places, {"y": y})
            with tf.compat.v1.Session(graph=graph) as session:
                builder.add_meta_graph_and_variables(session, ["serve"], {"serving_default": signature})
            builder.save()

    @tf.function(input_signature=[tf.TensorSpec(None, tf.string, "s")])
    def parsed(s: Any) -> Any:
        return {"y": tf.io.parse_tensor(s, tf.float32)}

    @tf.function(input_signature=[tf.TensorSpec([2], tf.int32, "i")])
    def compiled(i: Any) -> Any:
        return {"y": tf.function(lambda i: tf.fill(i, 1.0), jit_compile=True)(i)}

    def decoded(take: Make) -> Any:
        return tf.function(lambda s: {"y": tf.map_fn(lambda picture: tf.shape(tf.io.decode_image(picture)), take(s), tf.int32)},
                           input_signature=[tf.TensorSpec([None], tf.string, "s")])  # fmt: skip

    images = {"image": tf.io.FixedLenFeature([], tf.string)}
    for name, take in {
        "data_url": lambda s: tf.io.decode_base64(tf.strings.split(s, ",").values[1::2]),
        "zlib": lambda s: tf.io.decode_compressed(s, "ZLIB"),
        "picture": lambda s: s,
        "picture_base64": lambda s: tf.io.decode_base64(tf.gather(s, [0])),
        "picture_example": lambda s: tf.io.parse_example(s, images)["image"],
    }.items():
        tf.saved_model.save(tf.Module(), str(folder / name), signatures=decoded(take))
    tf.saved_model.save(tf.Module(), str(folder / "parse_tensor"), signatures=parsed)
    tf.saved_model.save(tf.Module(), str(folder / "compiled"), signatures=compiled)


def _serve() -> Iterator[str]:
    from serving.core import settings
    from serving.core.errors import InputError, RunError, plain
    from serving.runtime.model import Model
    from serving.runtime.sessions import open_session
    from serving.savedmodel.source import Source

    for name, line in LINES.items():
        source, answers = Source(build() / "lines" / name, "model"), []
        model = Model(source, open_session(source, settings.read({})))
        signature = model.signatures["serving_default"]
        for inputs in (line.good, {**line.good, **line.bad}):
            arrays = {key: np.array(_plain(value), signature.inputs[key].dtype.numpy) for key, value in inputs.items()}
            try:
                answers.append(f"answered {[*model.run(signature, arrays)]}")
            except RunError as error:
                answers.append(f"{error.code} {plain(str(error))}")
            except InputError as error:
                answers.append(f"INVALID_ARGUMENT {error}")
        model.close()
        yield json.dumps([name, answers])


def _plain(value: Any) -> Any:
    """Return an input as TensorFlow takes it: {"b64": ...} as bytes."""
    if isinstance(value, list):
        return [_plain(element) for element in value]
    return b64decode(value["b64"]) if isinstance(value, dict) else value.encode() if isinstance(value, str) else value


def _try(chosen: list[str]) -> Iterator[str]:
    os.environ |= {"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1"}
    import tensorflow as tf

    for name in chosen or LINES:
        line = LINES[name]
        reading, writing = os.pipe()
        child = os.fork()
        if not child:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            resource.setrlimit(resource.RLIMIT_AS, (12 << 30, 12 << 30))
            resource.setrlimit(resource.RLIMIT_CPU, (1, 2))  # seconds that a busy machine does not shorten
            os.write(writing, _ask(tf, line, writing).encode())
            os._exit(0)
        os.close(writing)
        _, status = os.waitpid(child, 0)
        said = os.read(reading, 1000).decode().replace("\n", " ")
        os.close(reading)
        yield f"{name} {f'killed by signal {os.WTERMSIG(status)}' if os.WIFSIGNALED(status) else said}"


def _ask(tf: Any, line: Line, output: int) -> str:
    """Run both requests in a session without optimizations, as a served graph is run; say what the bad one does.

    As soon as it takes too much memory, `grew` is written to the file descriptor `output`, and the process ends.
    """
    config = tf.compat.v1.ConfigProto(inter_op_parallelism_threads=-1, intra_op_parallelism_threads=1)
    with tf.Graph().as_default(), tf.compat.v1.Session(config=config) as session:
        places = {key: tf.compat.v1.placeholder(TYPES[key[0]], None, key) for key in line.good}
        y = line.make(tf, **places)
        if (good := _run(session, y, places, line.good)) != "answered":
            return f"good request: {good}"
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss + (GROWN >> 10)  # KiB
        threading.Thread(target=_end_if_it_grows, args=(most, output), daemon=True).start()
        bad = _run(session, y, places, {**line.good, **line.bad})
        return "grew" if resource.getrusage(resource.RUSAGE_SELF).ru_maxrss > most else bad


def _end_if_it_grows(most: int, output: int) -> None:
    while resource.getrusage(resource.RUSAGE_SELF).ru_maxrss <= most:
        time.sleep(0.005)
    os.write(output, b"grew")
    os._exit(0)


def _run(session: Any, y: Any, places: dict[str, Any], inputs: dict[str, Any]) -> str:
    try:
        session.run(y, {places[key]: _plain(value) for key, value in inputs.items()})
    except Exception as error:
        return f"{type(error).__name__}: {str(error)[:200]}"
    return "answered"


if __name__ == "__main__":
    if sys.argv[1] == "make":
        _make(Path(sys.argv[2]))
    else:
        for result in _try(sys.argv[2:]) if sys.argv[1] == "try" else _serve():
            print(result, flush=True)
