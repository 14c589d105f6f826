"""The arguments of TensorFlow's operations that need a check: a table, tested line by line.

Some kernels trust their arguments. They crash the process at a negative or huge size or at a tensor of another rank,
read past the end of the rows where a row split points there, allocate as much as a number says, or never end.
`guarding` finds where a request decides such an argument, and adds a check before the operation.

Each line was tested with TensorFlow 2.21. Arguments that its kernels check themselves (the splits of RaggedGather, the
indices of ScatterNd, ...) are not in the table. The form of a line:

    Operation Operation    argument:dtype argument:dtype    check, check

A dtype is an attribute, with the code of its default after a =, or a code. A check is a method of
assertions.Assertions and its arguments, or a part of one as a Python slice. Then, in any order:

    *image[::3]     these dimensions of another argument multiply the size
    /ids            the elements of another argument divide it
    >=-1            the smallest value, or the smallest rank; 0 by default
    =4              the rank, the number of elements, or the largest absolute value
    x16             each counts as 16 elements, since it takes as much memory
    always          checked wherever the argument is not a constant: a value that depends only on a shape can be wrong
    if=padded       matters only where this attribute is set; if=!padded only where it is not
                    (a number of 0 or more counts as set)
"""

from functools import cache
from typing import NamedTuple

TABLE = """
BroadcastTo                           input:T shape:Tidx=3                                       sizes shape
Empty                                 shape:3                                                    sizes shape
Fill                                  dims:index_type=3                                          sizes dims
LinSpace                              start:T stop:T num:Tidx=3                                  sizes num
OneHot                                indices:TI=9 depth:3                                       sizes depth *indices
MirrorPad Pad PadV2                   input:T paddings:Tpaddings=3                               padding paddings *input
Range                                 start:Tidx=3 limit:Tidx=3 delta:Tidx=3                     range start limit delta
Reshape                               tensor:T shape:Tshape=3                                    reshape shape >=-1 *tensor
ResizeNearestNeighborGrad             grads:T size:3                                             sizes size *grads[::3]
SobolSample                           dim:3 num_results:3                                        sizes dim num_results
SpaceToBatch                          input:T paddings:Tpaddings=3                               blocks paddings *input
SpaceToBatchND                        input:T block:Tblock_shape=3 paddings:Tpaddings=3          blocks paddings *input
StridedSliceGrad                      shape:Index                                                sizes shape
Tile                                  input:T multiples:Tmultiples=3                             sizes multiples *input
StatelessRandomNormal StatelessRandomUniform StatelessRandomUniformFullInt StatelessTruncatedNormal  shape:T=3  sizes shape
RandomStandardNormal RandomUniform RandomUniformInt StatelessRandomGammaV2 StatelessRandomPoisson StatelessRandomUniformInt TruncatedNormal  shape:T  sizes shape
StatelessParameterizedTruncatedNormal StatelessRandomBinomial  shape:S  sizes shape
StatelessRandomGammaV3                shape:shape_dtype=3                                        sizes shape
StatelessRandomNormalV2 StatelessRandomUniformFullIntV2 StatelessRandomUniformIntV2 StatelessRandomUniformV2 StatelessTruncatedNormalV2  shape:Tshape=3  sizes shape
Multinomial StatelessMultinomial      logits:T num_samples:3                                     sizes num_samples *logits[:1]
MatrixDiagV2 MatrixDiagV3             diagonal:T k:3 num_rows:3 num_cols:3                       sizes num_rows num_cols >=-1 *diagonal[:-1], square diagonal *diagonal *diagonal[-1:]
BatchMatrixDiag MatrixDiag            diagonal:T                                                 square diagonal *diagonal *diagonal[-1:]
Diag                                  diagonal:T                                                 square diagonal *diagonal *diagonal
DecodePaddedRaw                       input_bytes:7 fixed_length:3                               sizes fixed_length *input_bytes
ResizeArea ResizeBicubic ResizeBilinear ResizeNearestNeighbor ScaleAndTranslate  images:T size:3  sizes size *images[::3]
ExtractGlimpse ExtractGlimpseV2       input:1 size:3                                             sizes size *input[::3]
ImageProjectiveTransformV2 ImageProjectiveTransformV3  images:dtype transforms:1 output_shape:3  sizes output_shape *images[::3]
CropAndResize                         image:T boxes:1 box_ind:3 crop_size:3                      sizes crop_size *boxes[:1] *image[3:]
CropAndResizeGradImage                grads:1 boxes:1 box_ind:3 image_size:3                     sizes image_size
NearestNeighbors                      points:1 centers:1 k:9                                     sizes k *points[:1]
NonMaxSuppressionV4 NonMaxSuppressionV5  boxes:T=1 scores:T=1 max_output_size:3                  sizes max_output_size if=pad_to_max_output_size
CombinedNonMaxSuppression             boxes:1 scores:1 per_class:3 max_total_size:3              sizes max_total_size *boxes[:1] x8
AdjustSaturation                      images:T=1 scale:1                                         apart images
AdjustHue                             images:T=1 delta:1                                         bounded delta =1
Conv2D DepthwiseConv2dNative _FusedConv2D _FusedDepthwiseConv2dNative  input:T                   rank input =4
Conv3D _FusedConv3D                   input:T                                                    rank input =5
Conv2DBackpropInput DepthwiseConv2dNativeBackpropInput  input_sizes:3                            sizes input_sizes always, rank input_sizes =1, count input_sizes >=2 always
Conv3DBackpropInputV2                 input_sizes:Tshape=3                                       sizes input_sizes always, rank input_sizes =1, count input_sizes >=2 always
Conv2DBackpropFilter DepthwiseConv2dNativeBackpropFilter  input:T filter_sizes:3 out_backprop:T  sizes filter_sizes, rank input =4, rank out_backprop =4
Conv3DBackpropFilterV2                input:T filter_sizes:3 out_backprop:T                      sizes filter_sizes, rank input =5, rank out_backprop =5
AvgPoolGrad                           orig_input_shape:3 grad:T                                  sizes orig_input_shape always, count orig_input_shape =4 always, rank grad =4
AvgPool3DGrad                         orig_input_shape:3 grad:T                                  sizes orig_input_shape always, count orig_input_shape =5 always, rank grad =5
MaxPool                               input:T=1                                                  window input always
MaxPool3D                             input:T                                                    rank input =5, window input always
BiasAdd                               value:T bias:T                                             rank bias =1
LSTMBlockCell LSTMBlockCellGrad       x:T cs_prev:T h_prev:T                                     rank x =2, rank cs_prev =2, rank h_prev =2
FakeQuantWithMinMaxVarsPerChannel     inputs:1                                                   rank inputs >=1
FakeQuantWithMinMaxVarsPerChannelGradient  gradients:1                                           rank gradients >=1
ConjugateTranspose                    x:T                                                        rank x >=1
Dequantize                            input:T min_range:1 max_range:1                            count min_range =1 if=!axis always, count max_range =1 if=!axis always
QuantizedInstanceNorm                 x:T                                                        filled x always
QuantizedMatMulWithBias QuantizedMatMulWithBiasAndDequantize QuantizedMatMulWithBiasAndRelu QuantizedMatMulWithBiasAndReluAndRequantize QuantizedMatMulWithBiasAndRequantize  a:T1 b:T2  rank a =2, rank b =2
RFFT                                  input:Treal=1 fft_length:3                                 sizes fft_length >=1 *input[:-1] always, filled input[-1:] always
RFFT2D                                input:Treal=1 fft_length:3                                 sizes fft_length >=1 *input[:-2] always, filled input[-2:] always
RFFT3D                                input:Treal=1 fft_length:3                                 sizes fft_length >=1 *input[:-3] always, filled input[-3:] always
IRFFT                                 input:Tcomplex=8 fft_length:3                              sizes fft_length >=1 *input[:-1] always, filled input[-1:] always
IRFFT2D                               input:Tcomplex=8 fft_length:3                              sizes fft_length >=1 *input[:-2] always, filled input[-2:] always
IRFFT3D                               input:Tcomplex=8 fft_length:3                              sizes fft_length >=1 *input[:-3] always, filled input[-3:] always
SegmentMax SegmentMean SegmentMin SegmentProd SegmentSum  data:T segment_ids:Tindices            indices segment_ids *data /segment_ids
SegmentMaxV2 SegmentMinV2 SegmentProdV2 SegmentSumV2  data:T segment_ids:Tindices num_segments:Tnumsegments=3  sizes num_segments *data /segment_ids
UnsortedSegmentMax UnsortedSegmentMin UnsortedSegmentProd UnsortedSegmentSum  data:T segment_ids:Tindices num_segments:Tnumsegments=3  sizes num_segments *data /segment_ids
UnsortedSegmentJoin                   inputs:7 segment_ids:Tindices num_segments:Tnumsegments=3  sizes num_segments *inputs /segment_ids
SparseSegmentMean SparseSegmentSqrtN SparseSegmentSum  data:T indices:Tidx=3 segment_ids:Tsegmentids=3  indices segment_ids *data[1:]
SparseSegmentMeanWithNumSegments SparseSegmentSqrtNWithNumSegments SparseSegmentSumWithNumSegments  data:T indices:Tidx=3 segment_ids:Tsegmentids=3 num_segments:Tnumsegments=3  sizes num_segments *data[1:]
ScatterNd                             indices:Tindices updates:T shape:Tindices                  sizes shape, under updates indices
TensorScatterAdd TensorScatterMax TensorScatterMin TensorScatterSub TensorScatterUpdate  tensor:T indices:Tindices updates:T  under updates indices
SparseSegmentMeanGrad SparseSegmentSqrtNGrad SparseSegmentSumGrad  grad:T indices:Tidx=3 segment_ids:Tsegmentids=3 output_size:3  sizes output_size *grad[1:]
DynamicStitch ParallelDynamicStitch   indices:3                                                  stitch
Bincount                              arr:3 size:3                                               sizes size
DenseBincount                         input:Tidx size:Tidx                                       sizes size *input[:-1]
RaggedBincount                        splits:9 values:Tidx size:Tidx                             sizes size *splits
SparseBincount                        indices:9 values:Tidx dense_shape:9 size:Tidx              sizes size dense_shape[:-1]
HistogramFixedWidth                   values:T value_range:T nbins:3                             sizes nbins
TensorArrayV3                         size:3                                                     sizes size x16
TensorArrayWriteV3                    handle:20 index:3                                          indices index x16
TensorArrayScatterV3                  handle:20 indices:3                                        indices indices x16
TensorArraySplitV3                    handle:20 value:T lengths:9                                total lengths
TensorListConcatV2                    handle:21 element_shape:shape_type leading_dims:9          total leading_dims
TensorListReserve                     element_shape:shape_type num_elements:3                    sizes num_elements x16
TensorListResize                      handle:21 size:3                                           sizes size x16
TensorListScatterIntoExistingList     handle:21 tensor:element_dtype indices:3                   indices indices x16
TensorListScatterV2                   tensor:element_dtype indices:3 element_shape:shape_type num_elements:3  indices indices x16, sizes num_elements >=-1 x16
TensorListSetItem                     handle:21 index:3                                          indices index x16 if=resize_if_index_out_of_bounds
TensorListGather                      handle:21 indices:3 element_shape:3                        sizes element_shape >=-1 *indices
TensorListPopBack                     handle:21 element_shape:3                                  sizes element_shape >=-1
TensorListScatter                     tensor:element_dtype indices:3                             indices indices x16
TensorListGetItem                     handle:21 index:3 element_shape:Tshape=3                   sizes element_shape >=-1
TensorListStack                       handle:21 element_shape:3                                  sizes element_shape >=-1
BlockLSTM BlockLSTMV2                 seq_len_max:9 x:T                                          within seq_len_max *x[:1]
RaggedFillEmptyRows                   value_rowids:9 values:T nrows:9                            sizes nrows
RaggedRange                           starts:T=3 limits:T=3 deltas:T=3                           range starts limits deltas
RaggedTensorToTensor                  shape:Tshape values:T default_value:T partitions:Tindex    sizes shape >=-1, partitions
EditDistance                          a:9 b:T hypothesis_shape:9 c:9 d:T truth_shape:9           sizes hypothesis_shape[:-1], sizes truth_shape[:-1]
RaggedCross SparseCross SparseCrossHashed SparseCrossV2  first:9                                 shapes
SerializeManySparse                   sparse_indices:9 sparse_values:T sparse_shape:9            sizes sparse_shape[:1]
SetSize                               set_indices:9 set_values:T set_shape:9                     sizes set_shape[:-1], inside set_indices set_shape
SparseCountSparseOutput               indices:9 values:T dense_shape:9                           sizes dense_shape[:-1]
SparseFillEmptyRows                   indices:9 values:T dense_shape:9                           sizes dense_shape[:1]
SparseReduceMax SparseReduceSum       indices:9 values:T input_shape:9 reduction_axes:3          reduced input_shape reduction_axes
SparseTensorDenseMatMul               a_indices:Tindices=9 a_values:T a_shape:9 b:T              sizes a_shape[:1] *b[1:] if=!adjoint_a, sizes a_shape[1:] *b[1:] if=adjoint_a
SparseToDense                         sparse_indices:Tindices output_shape:Tindices              sizes output_shape
ParseTensor                           serialized:7                                               never serialized
"""  # noqa: E501


class Part(NamedTuple):
    """An argument, or a slice of its values or of its dimensions."""

    argument: int
    dtype: str
    cut: tuple[int | None, int | None, int] = (None, None, 1)


class Check(NamedTuple):
    """A condition on the arguments of an operation, as a line of TABLE describes it."""

    kind: str
    values: tuple[Part, ...]
    beside: tuple[Part, ...]
    per: Part | None
    least: int
    exact: bool
    weight: int
    always: bool
    condition: str


_LINES: dict[bytes, tuple[str, str]] = {}  # parsed on demand, since a model needs few of them
for _line in TABLE.strip().splitlines():
    *_operations, _signature, _checks = (_part.strip() for _part in _line.split("  ") if _part.strip())
    _LINES.update({operation.encode(): (_signature, _checks) for operation in " ".join(_operations).split()})
GUARDED = frozenset(_LINES)
OF_RANK = frozenset({"count", "rank", "under"})  # kinds of checks that matter only where a request decides the rank


@cache
def checks_of(operation: bytes) -> tuple[Check, ...]:
    """Return the checks of an operation in the table."""
    signature, checks = _LINES[operation]
    arguments = {
        name: Part(position, dtype)
        for position, (name, _, dtype) in enumerate(argument.partition(":") for argument in signature.split())
    }
    return tuple(_check(check.split(), arguments) for check in checks.split(", "))


def _check(words: list[str], arguments: dict[str, Part]) -> Check:
    kind, *rest = words

    def parts(prefix: str) -> tuple[Part, ...]:
        words = [word.removeprefix(prefix) for word in rest if word.startswith(prefix)]
        return tuple(_part(word, arguments) for word in words if word.partition("[")[0] in arguments)

    condition = next((word[3:] for word in rest if word.startswith("if=")), "")
    least = next((int(word.lstrip(">=")) for word in rest if word.startswith((">=", "="))), 0)
    exact = any(word.startswith("=") for word in rest)
    weight = next((int(word[1:]) for word in rest if word[0] == "x" and word[1:].isdecimal()), 1)
    per = next(iter(parts("/")), None)
    return Check(kind, parts(""), parts("*"), per, least, exact, weight, "always" in rest, condition)


def _part(word: str, arguments: dict[str, Part]) -> Part:
    name, _, cut = word.rstrip("]").partition("[")
    begin, end, step = (*(int(bound) if bound else None for bound in cut.split(":")), None, None)[:3]
    return arguments[name]._replace(cut=(begin, end, step or 1))
