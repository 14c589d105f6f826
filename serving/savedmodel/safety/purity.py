"""The side effects of operations: which are pure, and which write state, draw random numbers, or reach outside.

A SavedModel is a program. PURE lists what is allowed, not what is forbidden, so an operation that has not been reviewed
counts as impure. `impurities` reads saved_model.pb as `signature` does, without TensorFlow, and follows a signature, or
the loading of the model, through the graph and its function library.

    for use in impurities(directory):
        print(use)          signature 'serving_default': ReadFile touches files (node read, in __inference_serve_12)
"""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from serving.core.errors import LoadError
from serving.savedmodel.graph import Graph, Node, reached
from serving.savedmodel.protobuf import last_field, message_field
from serving.savedmodel.roots import LOADING, asset_definitions, roots_of
from serving.savedmodel.safety import filenames
from serving.savedmodel.safety.filenames import READING
from serving.savedmodel.signature import served_graph


class Use(NamedTuple):
    """One impure operation, and its location."""

    signature: str  # LOADING for operations that run when the model is loaded
    op: str
    kind: str  # a key of DOES
    node: str
    function: str  # "" for the main graph

    @property
    def place(self) -> str:
        """Return when it runs."""
        return f"signature {self.signature!r}" if self.signature != LOADING else "loading the model"

    def __str__(self) -> str:
        inside = f", in {self.function}" if self.function else ""
        return f"{self.place}: {self.op} {DOES[self.kind]} (node {self.node}{inside})"


# fmt: off
DOES = {
    "state":   "keeps or changes state between calls",
    "random":  "draws random numbers that no input decides",
    "files":   "touches files",
    "network": "talks to other processes",
    "python":  "calls Python, which is not part of the exported model",
    "hidden":  "runs operations that are stored in a value, where they cannot be checked",
    "unknown": "is not on the list of pure operations",
    "prints":  "prints what it is given, to the log",
}
DANGEROUS = frozenset({"files", "network", "python", "hidden", "unknown"})  # refused, unless DANGEROUS_OPS=allow

# A model with these still counts as pure: prints go to the log, like the server's own lines.
HARMLESS = frozenset({"prints"})
# The operations of a custom library are on no list: a user who names the library accepts them.
VOUCHED = HARMLESS | {"unknown"}

# The kinds of operations that are not in PURE, by name; the first match counts.
KINDS = (
    ("python",  r"(Eager)?PyFunc(Stateless)?|GeneratorDataset"),
    ("hidden",  r"DatasetFromGraph|DeserializeIterator"),
    ("files",   r"(Read|Write|Matching)Files?|.*Reader(V2)?|Reader.*|(Save|Restore)(V2|Slices?)?|MergeV2Checkpoints"
                r"|PrintV2|(Distributed)?Save|.*(CSV|Sql|LMDB|Snapshot\w*|Cache|MatchingFiles|TextLine|Record|Load|Save)"
                r"Dataset(V\d|Reader)?"
                r"|.*DatasetToTFRecord|ListSnapshotChunksDataset|InitializeTableFromTextFile(V2)?|LoadAndRemapMatrix"
                r"|RecordInput|GenerateVocabRemapping|ImmutableConst|DecodeProtoV2|EncodeProto|FileSystemSetConfiguration|DumpTensor"
                r"|CreateSummary(File|Db)Writer|Debug(Identity|NumericSummary).*|Skipgram|FixedUnigramCandidateSampler|CalibrationStatisticsSaver|CustomAggregator"),
    ("network", r"Rpc.*|Collective.*|_?Nccl.*|_?(Host)?(Send|Recv)|RemoteCall|DataService.*|RegisterDataset(V2)?"),
    ("random",  r"Random\w*(?<!Dataset)(?<!DatasetV2)(?<!Queue)(?<!QueueV2)|.*CandidateSampler|Multinomial"
                r"|Timestamp|(Parameterized)?TruncatedNormal|SampleDistortedBoundingBox(V2)?|Fractional(Avg|Max)Pool"
                r"|NonDeterministicInts|Stateful(Random|Standard|Truncated|Uniform).*|Rng\w+|Anonymous(Random)?SeedGenerator"),
    ("state",   r"Assign.*|(Resource)?((Sparse)?Apply|Scatter).*|ResourceStridedSliceAssign"
                r"|StridedSliceAssign|(Resource)?CountUpTo|.*(Queue|Barrier|Accumulator|Iterator|Summary|Mutex|SessionHandle|SessionTensor).*"
                r"|.*Summary|Stack.*|TensorArray.*|(Ordered)?Map(Clear|IncompleteSize|Peek|Size|Stage|Unstage).*|Stage.*"
                r"|Unstage|LookupTable(Insert|Import|Remove).*|InitializeTable.*|DestroyResourceOp|.*TemporaryVariable|BoostedTrees.*"
                r"|.*SparseTo?TensorsMap|TakeManySparseFromTensorsMap|.*Dataset.*|ImportEvent|BatchFunction|Unbatch"),
)
# fmt: on

# Allowed only while the model is loaded.
INITIALIZING = frozenset(
    """
    Assign AssignVariableOp InitializeTable InitializeTableFromTextFile InitializeTableFromTextFileV2 InitializeTableV2
    LookupTableImport LookupTableImportV2 LookupTableInsert LookupTableInsertV2 Restore RestoreSlice RestoreV2
    """.split()  # noqa: SIM905 - a list of words is read, and grows, as words
)

# Of TensorFlow 2.21's 1,908 operations: the stateless ones that reach nothing outside the graph, the stateful ones that
# only read, check, call a function or live as long as one call (TensorArray...V3, Stack...V2), and what TensorFlow's
# graph optimizer replaces them by (_Fused...). A mutable table may be read; operations that write it are not listed.
# Keras 2 exports CudnnRNN beside an LSTM for a GPU; it draws random numbers only in training.
PURE = frozenset(
    """
    Abs AccumulateNV2 Acos Acosh Add AddN AddV2 AdjustContrast AdjustContrastv2 AdjustHue AdjustSaturation All Angle
    AnonymousHashTable AnonymousMutableDenseHashTable AnonymousMutableHashTable AnonymousMutableHashTableOfTensors Any
    ApproxTopK ApproximateEqual ArgMax ArgMin AsString Asin Asinh Assert Atan Atan2 Atanh AudioSpectrogram AvgPool
    AvgPool3D AvgPool3DGrad AvgPoolGrad BandedTriangularSolve BatchCholesky BatchCholeskyGrad BatchFFT BatchFFT2D
    BatchFFT3D BatchIFFT BatchIFFT2D BatchIFFT3D BatchMatMul BatchMatMulV2 BatchMatMulV3 BatchMatrixBandPart
    BatchMatrixDeterminant BatchMatrixDiag BatchMatrixDiagPart BatchMatrixInverse BatchMatrixSetDiag BatchMatrixSolve
    BatchMatrixSolveLs BatchMatrixTriangularSolve BatchNormWithGlobalNormalization
    BatchNormWithGlobalNormalizationGrad BatchSelfAdjointEig BatchSelfAdjointEigV2 BatchSvd BatchToSpace
    BatchToSpaceND BesselI0 BesselI0e BesselI1 BesselI1e BesselJ0 BesselJ1 BesselK0 BesselK0e BesselK1 BesselK1e
    BesselY0 BesselY1 Betainc BiasAdd BiasAddGrad BiasAddV1 Bincount Bitcast BitwiseAnd BitwiseOr BitwiseXor BlockLSTM
    BlockLSTMGrad BlockLSTMGradV2 BlockLSTMV2 BroadcastArgs BroadcastGradientArgs BroadcastTo Bucketize
    CSRSparseMatrixComponents CSRSparseMatrixToDense CSRSparseMatrixToSparseTensor CTCBeamSearchDecoder
    CTCGreedyDecoder CTCLoss CTCLossV2 Case Cast Ceil CheckNumerics CheckNumericsV2 Cholesky CholeskyGrad ClipByValue
    CombinedNonMaxSuppression Complex ComplexAbs CompositeTensorVariantFromComponents
    CompositeTensorVariantToComponents ComputeAccidentalHits Concat ConcatOffset ConcatV2 Conj ConjugateTranspose
    Const ControlTrigger Conv Conv2D Conv2DBackpropFilter Conv2DBackpropFilterV2 Conv2DBackpropInput
    Conv2DBackpropInputV2 Conv3D Conv3DBackpropFilter Conv3DBackpropFilterV2 Conv3DBackpropInput Conv3DBackpropInputV2
    Cos Cosh CropAndResize CropAndResizeGradBoxes CropAndResizeGradImage Cross CudnnRNN CudnnRNNCanonicalToParams
    CudnnRNNCanonicalToParamsV2 CudnnRNNParamsSize CudnnRNNParamsToCanonical CudnnRNNParamsToCanonicalV2 CudnnRNNV2
    CudnnRNNV3 Cumprod Cumsum CumulativeLogsumexp
    DataFormatDimMap DataFormatVecPermute Dawsn DecodeAndCropJpeg DecodeBase64 DecodeBmp DecodeCSV DecodeCompressed
    DecodeGif DecodeImage DecodeJSONExample DecodeJpeg DecodeJxl DecodePaddedRaw DecodePng DecodeRaw DecodeWav
    DecodeWebP DeepCopy DenseBincount DenseCountSparseOutput DenseToCSRSparseMatrix DenseToDenseSetOperation
    DenseToSparseSetOperation DepthToSpace DepthwiseConv2dNative DepthwiseConv2dNativeBackpropFilter
    DepthwiseConv2dNativeBackpropInput Dequantize DeserializeManySparse DeserializeSparse DeviceIndex Diag DiagPart
    Digamma Dilation2D Dilation2DBackpropFilter Dilation2DBackpropInput DisableCopyOnRead Div DivNoNan
    DrawBoundingBoxes DrawBoundingBoxesV2 DynamicPartition DynamicStitch EditDistance Eig Einsum Elu EluGrad Empty
    EmptyTensorList EmptyTensorMap EncodeBase64 EncodeJpeg EncodeJpegVariableQuality EncodePng EncodeWav EnsureShape
    Enter Equal Erf Erfc Erfinv EuclideanNorm Exit Exp ExpandDims Expint Expm1 ExtractGlimpse ExtractGlimpseV2
    ExtractImagePatches ExtractJpegShape ExtractVolumePatches FFT FFT2D FFT3D FFTND FakeParam FakeQuantWithMinMaxArgs
    FakeQuantWithMinMaxArgsGradient FakeQuantWithMinMaxVars FakeQuantWithMinMaxVarsGradient
    FakeQuantWithMinMaxVarsPerChannel FakeQuantWithMinMaxVarsPerChannelGradient Fill Fingerprint Floor FloorDiv
    FloorMod For FresnelCos FresnelSin FusedBatchNorm FusedBatchNormGrad FusedBatchNormGradV2 FusedBatchNormGradV3
    FusedBatchNormV2 FusedBatchNormV3 FusedPadConv2D FusedResizeAndPadConv2D GRUBlockCell GRUBlockCellGrad Gather
    GatherNd GatherV2 GenerateBoundingBoxProposals Greater GreaterEqual GuaranteeConst HSVToRGB HashTable HashTableV2
    HistogramFixedWidth IFFT IFFT2D IFFT3D IFFTND IRFFT IRFFT2D IRFFT3D IRFFTND Identity IdentityN If Igamma
    IgammaGradA Igammac Imag ImageProjectiveTransformV2 ImageProjectiveTransformV3 InTopK InTopKV2 InplaceAdd
    InplaceSub InplaceUpdate Inv InvGrad Invert InvertPermutation IsFinite IsInf IsNan IsTensorFloat32Enabled
    IsVariableInitialized IsotonicRegression KthOrderStatistic L2Loss LRN LRNGrad LSTMBlockCell LSTMBlockCellGrad
    LeakyRelu LeakyReluGrad LeftShift Less LessEqual Lgamma LinSpace ListDiff Log Log1p LogMatrixDeterminant
    LogSoftmax LogicalAnd LogicalNot LogicalOr LookupTableExport LookupTableExportV2 LookupTableFind LookupTableFindV2
    LookupTableSize LookupTableSizeV2 LoopCond LowerBound Lu MakeUnique MapDefun MatMul MatrixBandPart
    MatrixDeterminant MatrixDiag MatrixDiagPart MatrixDiagPartV2 MatrixDiagPartV3 MatrixDiagV2 MatrixDiagV3
    MatrixExponential MatrixInverse MatrixLogarithm MatrixSetDiag MatrixSetDiagV2 MatrixSetDiagV3 MatrixSolve
    MatrixSolveLs MatrixSquareRoot MatrixTriangularSolve Max MaxPool MaxPool3D MaxPool3DGrad MaxPool3DGradGrad
    MaxPoolGrad MaxPoolGradGrad MaxPoolGradGradV2 MaxPoolGradGradWithArgmax MaxPoolGradV2 MaxPoolGradWithArgmax
    MaxPoolV2 MaxPoolWithArgmax Maximum Mean Merge Mfcc Min Minimum MirrorPad MirrorPadGrad Mod Mul MulNoNan
    MutableDenseHashTable MutableDenseHashTableV2 MutableHashTable MutableHashTableOfTensors
    MutableHashTableOfTensorsV2 MutableHashTableV2 Ndtri NearestNeighbors Neg NextAfter NextIteration NoOp
    NonMaxSuppression NonMaxSuppressionV2 NonMaxSuppressionV3 NonMaxSuppressionV4 NonMaxSuppressionV5
    NonMaxSuppressionWithOverlaps NotEqual NthElement OneHot OnesLike OptionalFromValue OptionalGetValue
    OptionalHasValue OptionalNone Pack Pad PadV2 ParallelConcat ParallelDynamicStitch ParseExample ParseExampleV2
    ParseSequenceExample ParseSequenceExampleV2 ParseSingleExample ParseSingleSequenceExample ParseTensor
    PartitionedCall Placeholder PlaceholderV2 PlaceholderWithDefault Polygamma PopulationCount Pow PreventGradient
    Prod Qr QuantizeAndDequantize QuantizeAndDequantizeV2 QuantizeAndDequantizeV3 QuantizeAndDequantizeV4
    QuantizeAndDequantizeV4Grad QuantizeDownAndShrinkRange QuantizeV2 QuantizedAdd QuantizedAvgPool
    QuantizedBatchNormWithGlobalNormalization QuantizedBiasAdd QuantizedConcat QuantizedConcatV2 QuantizedConv2D
    QuantizedConv2DAndRelu QuantizedConv2DAndReluAndRequantize QuantizedConv2DAndRequantize QuantizedConv2DPerChannel
    QuantizedConv2DWithBias QuantizedConv2DWithBiasAndRelu QuantizedConv2DWithBiasAndReluAndRequantize
    QuantizedConv2DWithBiasAndRequantize QuantizedConv2DWithBiasSignedSumAndReluAndRequantize
    QuantizedConv2DWithBiasSumAndRelu QuantizedConv2DWithBiasSumAndReluAndRequantize QuantizedDepthwiseConv2D
    QuantizedDepthwiseConv2DWithBias QuantizedDepthwiseConv2DWithBiasAndRelu
    QuantizedDepthwiseConv2DWithBiasAndReluAndRequantize QuantizedInstanceNorm QuantizedMatMul QuantizedMatMulWithBias
    QuantizedMatMulWithBiasAndDequantize QuantizedMatMulWithBiasAndRelu QuantizedMatMulWithBiasAndReluAndRequantize
    QuantizedMatMulWithBiasAndRequantize QuantizedMaxPool QuantizedMul QuantizedRelu QuantizedRelu6 QuantizedReluX
    QuantizedReshape QuantizedResizeBilinear RFFT RFFT2D RFFT3D RFFTND RGBToHSV RaggedBincount RaggedCountSparseOutput
    RaggedCross RaggedFillEmptyRows RaggedFillEmptyRowsGrad RaggedGather RaggedRange RaggedTensorFromVariant
    RaggedTensorToSparse RaggedTensorToTensor RaggedTensorToVariant RaggedTensorToVariantGradient RandomGammaGrad
    RandomIndexShuffle Range Rank ReadVariableOp Real RealDiv Reciprocal ReciprocalGrad ReduceJoin RefEnter RefExit
    RefIdentity RefMerge RefNextIteration RefSelect RefSwitch RegexFullMatch RegexReplace Relu Relu6 Relu6Grad
    ReluGrad RequantizationRange RequantizationRangePerChannel Requantize RequantizePerChannel Reshape ResizeArea
    ResizeBicubic ResizeBicubicGrad ResizeBilinear ResizeBilinearGrad ResizeNearestNeighbor ResizeNearestNeighborGrad
    ResourceGather ResourceGatherNd Reverse ReverseSequence ReverseV2 RightShift Rint Roll Round Rsqrt RsqrtGrad
    ScaleAndTranslate ScaleAndTranslateGrad ScatterNd ScatterNdNonAliasingAdd SegmentMax SegmentMaxV2 SegmentMean
    SegmentMin SegmentMinV2 SegmentProd SegmentProdV2 SegmentSum SegmentSumV2 Select SelectV2 SelfAdjointEig
    SelfAdjointEigV2 Selu SeluGrad SerializeManySparse SerializeSparse SerializeTensor SetSize Shape ShapeN
    ShardedFilename ShardedFilespec Sigmoid SigmoidGrad Sign Sin Sinh Size Slice Snapshot SobolSample Softmax
    SoftmaxCrossEntropyWithLogits Softplus SoftplusGrad Softsign SoftsignGrad SpaceToBatch SpaceToBatchND SpaceToDepth
    SparseAdd SparseAddGrad SparseBincount SparseConcat SparseCountSparseOutput SparseCross SparseCrossHashed
    SparseCrossV2 SparseDenseCwiseAdd SparseDenseCwiseDiv SparseDenseCwiseMul SparseFillEmptyRows
    SparseFillEmptyRowsGrad SparseMatMul SparseMatrixAdd SparseMatrixMatMul SparseMatrixMul SparseMatrixNNZ
    SparseMatrixOrderingAMD SparseMatrixSoftmax SparseMatrixSoftmaxGrad SparseMatrixSparseCholesky
    SparseMatrixSparseMatMul SparseMatrixTranspose SparseMatrixZeros SparseReduceMax SparseReduceMaxSparse
    SparseReduceSum SparseReduceSumSparse SparseReorder SparseReshape SparseSegmentMean SparseSegmentMeanGrad
    SparseSegmentMeanGradV2 SparseSegmentMeanWithNumSegments SparseSegmentSqrtN SparseSegmentSqrtNGrad
    SparseSegmentSqrtNGradV2 SparseSegmentSqrtNWithNumSegments SparseSegmentSum SparseSegmentSumGrad
    SparseSegmentSumGradV2 SparseSegmentSumWithNumSegments SparseSlice SparseSliceGrad SparseSoftmax
    SparseSoftmaxCrossEntropyWithLogits SparseSparseMaximum SparseSparseMinimum SparseSplit SparseTensorDenseAdd
    SparseTensorDenseMatMul SparseTensorToCSRSparseMatrix SparseToDense SparseToSparseSetOperation Spence Split SplitV
    Sqrt SqrtGrad Square SquaredDifference Squeeze StackCloseV2 StackPopV2 StackPushV2 StackV2 StatefulPartitionedCall
    StatelessCase StatelessIf StatelessMultinomial StatelessParameterizedTruncatedNormal StatelessRandomBinomial
    StatelessRandomGammaV2 StatelessRandomGammaV3 StatelessRandomGetAlg StatelessRandomGetKeyCounter
    StatelessRandomGetKeyCounterAlg StatelessRandomNormal StatelessRandomNormalV2 StatelessRandomPoisson
    StatelessRandomUniform StatelessRandomUniformFullInt StatelessRandomUniformFullIntV2 StatelessRandomUniformInt
    StatelessRandomUniformIntV2 StatelessRandomUniformV2 StatelessSampleDistortedBoundingBox StatelessShuffle
    StatelessTruncatedNormal StatelessTruncatedNormalV2 StatelessWhile StaticRegexFullMatch StaticRegexReplace
    StochasticCastToInt StopGradient StridedSlice StridedSliceGrad StringFormat StringJoin StringLength StringLower
    StringNGrams StringSplit StringSplitV2 StringStrip StringToHashBucket StringToHashBucketFast
    StringToHashBucketStrong StringToNumber StringUpper Sub Substr Sum Svd Switch SymbolicGradient Tan Tanh TanhGrad
    TensorArrayCloseV3 TensorArrayConcatV3 TensorArrayGatherV3 TensorArrayGradV3 TensorArrayGradWithShape
    TensorArrayReadV3 TensorArrayScatterV3 TensorArraySizeV3 TensorArraySplitV3 TensorArrayV3 TensorArrayWriteV3
    TensorListConcat TensorListConcatLists TensorListConcatV2 TensorListElementShape TensorListFromTensor
    TensorListGather TensorListGetItem TensorListLength TensorListPopBack TensorListPushBack TensorListPushBackBatch
    TensorListReserve TensorListResize TensorListScatter TensorListScatterIntoExistingList TensorListScatterV2
    TensorListSetItem TensorListSplit TensorListStack TensorMapErase TensorMapHasKey TensorMapInsert TensorMapLookup
    TensorMapSize TensorMapStackKeys TensorScatterAdd TensorScatterMax TensorScatterMin TensorScatterSub
    TensorScatterUpdate TensorStridedSliceUpdate Tile TileGrad ToBool TopK TopKUnique TopKV2 TopKWithUnique Transpose
    TridiagonalMatMul TridiagonalSolve TruncateDiv TruncateMod UnicodeDecode UnicodeDecodeWithOffsets UnicodeEncode
    UnicodeScript UnicodeTranscode UniformDequantize UniformQuantize UniformQuantizedAdd UniformQuantizedClipByValue
    UniformQuantizedConvolution UniformQuantizedConvolutionHybrid UniformQuantizedDot UniformQuantizedDotHybrid
    UniformRequantize Unique UniqueV2 UniqueWithCounts UniqueWithCountsV2 Unpack UnravelIndex UnsortedSegmentJoin
    UnsortedSegmentMax UnsortedSegmentMin UnsortedSegmentProd UnsortedSegmentSum UpperBound VarHandleOp
    VarIsInitializedOp Variable VariableShape VariableV2 Where While WindowOp Xdivy XlaBroadcastHelper XlaCallModule
    XlaClusterOutput XlaConcatND XlaConv XlaConvV2 XlaDot XlaDotV2 XlaDynamicSlice XlaDynamicUpdateSlice XlaEinsum
    XlaGather XlaIf XlaKeyValueSort XlaOptimizationBarrier XlaPad XlaReduce XlaReducePrecision XlaReduceWindow
    XlaRemoveDynamicDimensionSize XlaRngBitGenerator XlaScatter XlaSelectAndScatter XlaSelfAdjointEig XlaSetBound
    XlaSetDynamicDimensionSize XlaSharding XlaSort XlaSplitND XlaSvd XlaVariadicReduce XlaVariadicReduceV2
    XlaVariadicSort XlaWhile Xlog1py Xlogy ZerosLike Zeta _FusedBatchNormEx _FusedConv2D _FusedConv3D
    _FusedDepthwiseConv2dNative _FusedMatMul _FusedQuantizedConv2D _FusedQuantizedDepthwiseConv2D
    _MklFusedBatchMatMulV2 _MklFusedMish _MklLayerNorm _MklSwish _QuantizedMatMul _QuantizedMaxPool3D _SwitchN
    _UnaryOpsComposition
    """.split()  # noqa: SIM905 - a list of words is read, and grows, as words
)

# Operations that call functions; they are pure if the functions are.
CALLING = frozenset(
    """
    Case For If MapDefun PartitionedCall StatefulPartitionedCall StatelessCase StatelessIf StatelessWhile
    SymbolicGradient While XlaCallModule XlaIf XlaReduce XlaReduceWindow XlaScatter XlaSelectAndScatter
    XlaVariadicReduce XlaVariadicReduceV2 XlaVariadicSort XlaWhile
    """.split()  # noqa: SIM905 - a list of words is read, and grows, as words
)

_PURE = frozenset(op.encode() for op in PURE)


def kind(op: str, loading: bool = False) -> str | None:
    """Return the kind of an operation, a key of DOES, or None for a pure one."""
    if op in PURE or (loading and op in INITIALIZING):
        return None
    return next((name for name, pattern in KINDS if re.fullmatch(pattern, op)), "unknown")


def impurities(directory: Path) -> list[Use]:
    """Return the impure operations that signatures and loading reach, sorted; raise LoadError if unreadable."""
    try:
        return sorted(_impurities(served_graph(directory)))
    except (ValueError, IndexError, RecursionError) as error:
        raise LoadError(f"saved_model.pb is not a SavedModel, or only part of one ({error})") from None


def against(uses: Iterable[Use], custom: bool) -> list[Use]:
    """Return the uses that make a model impure; `custom`: CUSTOM_OP_LIBRARIES is set."""
    allowed = VOUCHED if custom else HARMLESS
    return [use for use in uses if use.kind not in allowed]


def _impurities(graph: memoryview) -> set[Use]:
    parsed = Graph.of(graph)
    uses = set()
    reads = False  # loading reads a file
    for signature, roots in roots_of(graph).items():
        for function, nodes in parsed.running(roots):
            for node in nodes:
                if node.op not in _PURE and node.op not in parsed.functions:
                    reads = reads or (signature == LOADING and node.op in READING)
                    does = kind(str(node.op, "utf-8", "replace"), loading=signature == LOADING)
                    if node.op == b"PrintV2" and _to_the_log(node):
                        does = "prints"
                    if does:
                        uses.add(_use(signature, does, node.op, node.name, function))
    return uses | _other_files(parsed) if reads else uses


STREAMS = (b"", b"stderr", b"stdout", b"log(info)", b"log(warning)", b"log(error)")


def _to_the_log(node: Node) -> bool:
    """Return whether a PrintV2 prints to a stream, not to a file."""
    return bytes(last_field(node.attributes.get("output_stream", memoryview(b"")), 2)) in STREAMS


def _other_files(parsed: Graph) -> set[Use]:
    """Return the operations that read a file that is not the model's own while the model is loaded."""
    graph = parsed.meta
    assets = {filenames.tensor(bytes(last_field(last_field(asset, 1), 1))) for asset in asset_definitions(graph)}
    saver = filenames.tensor(bytes(last_field(message_field(graph, 3), 1)))
    fed = assets | (filenames.kept(parsed, assets) if assets else set()) | {saver}
    locations = filenames.foreign(parsed, fed, reached(parsed.main, roots_of(graph)[LOADING]))
    return {_use(LOADING, "files", *location) for location in locations}


def _use(signature: str, does: str, *location: bytes) -> Use:
    op, node, function = (str(part, "utf-8", "replace") for part in location)
    return Use(signature, op, does, node, function)
