"""Which of a graph's inputs reach which arguments of its operations, through functions, branches and loops.

    flow = Flow(Graph.of(graph), {b"serving_default_r_1": "r_1"}, {b"RaggedTensorToTensor"})
    flow.run([b"StatefulPartitionedCall:0"])
    flow.sinks          [Sink(op=b"RaggedTensorToTensor", arguments=[Reach(as_is={"r_1"}, at_all={"r_1"}), ...], ...)]

An input arrives as it is through operations that hand their argument on, and at all through any operation. Its values
arrive through any operation whose result they decide; what follows from its shape alone, such as a number of rows, is
bounded by the size of the request and is not among them.
"""

from collections.abc import Collection, Iterable, Mapping
from typing import NamedTuple

from serving.savedmodel.graph import MAIN, Graph, Node
from serving.savedmodel.protobuf import each_field, last_field, map_field, message_field, number_field

# Their first argument comes out as it went in: its elements, in their order.
HANDING_ON = frozenset(
    op.encode()
    for op in """
    Cast CheckNumerics DeepCopy EnsureShape Enter Exit ExpandDims Identity IdentityN LoopCond Merge NextIteration
    PreventGradient RefEnter RefExit RefIdentity RefMerge RefNextIteration RefSwitch Reshape Snapshot Squeeze
    StopGradient Switch
    """.split()  # noqa: SIM905 - a list of words is read, and grows, as words
)
# They make strings of strings; of those that are not here, what comes out went in, or has a size that went in.
TRANSFORMING = frozenset(
    op.encode()
    for op in """
    AsString DecodeBase64 DecodeCSV DecodeCompressed DecodeJSONExample DeserializeManySparse DeserializeSparse
    EncodeBase64 ParseExample ParseExampleV2 ParseSequenceExample ParseSequenceExampleV2 ParseSingleExample
    ParseSingleSequenceExample ParseTensor ReduceJoin RegexReplace SerializeManySparse SerializeSparse SerializeTensor
    StaticRegexReplace StringFormat StringJoin StringLower StringNGrams StringSplit StringSplitV2 StringStrip
    StringUpper Substr UnicodeEncode UnicodeTranscode UnsortedSegmentJoin
    """.split()  # noqa: SIM905 - a list of words is read, and grows, as words
)
# The shape of their arguments decides what comes out, or bounds it: indices and counts inside of it, true or false.
STRUCTURAL = frozenset(
    op.encode()
    for op in """
    All Any ApproximateEqual ArgMax ArgMin Bucketize EncodeJpeg EncodeJpegVariableQuality EncodePng Equal Greater
    GreaterEqual IsFinite IsInf IsNan Less LessEqual
    LogicalAnd LogicalNot LogicalOr LowerBound NonMaxSuppression NonMaxSuppressionV2 NonMaxSuppressionV3 NotEqual
    OnesLike Rank RegexFullMatch SetSize Shape ShapeN Size StaticRegexFullMatch StringLength StringToHashBucket
    StringToHashBucketFast StringToHashBucketStrong TensorListLength UpperBound Where ZerosLike
    """.split()  # noqa: SIM905 - a list of words is read, and grows, as words
)
# So it is with some of what comes out of these, marked by a *; behind the = the attribute that says how many there are.
PARTLY = {
    op.encode(): tuple(outputs.split())
    for op, outputs in (
        line.split(maxsplit=1)
        for line in """
        NonMaxSuppressionV4               *selected_indices *valid_outputs
        NonMaxSuppressionV5               *selected_indices selected_scores *valid_outputs
        ParseExample                      *sparse_indices=Nsparse sparse_values=Nsparse *sparse_shapes=Nsparse dense_values=Ndense
        ParseExampleV2                    *sparse_indices=num_sparse sparse_values=num_sparse *sparse_shapes=num_sparse dense_values=Tdense ragged_values=ragged_value_types *ragged_row_splits=ragged_split_types
        ParseSequenceExample              *context_sparse_indices=Ncontext_sparse context_sparse_values=Ncontext_sparse *context_sparse_shapes=Ncontext_sparse context_dense_values=Ncontext_dense *feature_list_sparse_indices=Nfeature_list_sparse feature_list_sparse_values=Nfeature_list_sparse *feature_list_sparse_shapes=Nfeature_list_sparse feature_list_dense_values=Nfeature_list_dense *feature_list_dense_lengths=Nfeature_list_dense
        ParseSingleExample                *sparse_indices=num_sparse sparse_values=num_sparse *sparse_shapes=num_sparse dense_values=Tdense
        ParseSingleSequenceExample        *context_sparse_indices=Ncontext_sparse context_sparse_values=Ncontext_sparse *context_sparse_shapes=Ncontext_sparse context_dense_values=Ncontext_dense *feature_list_sparse_indices=Nfeature_list_sparse feature_list_sparse_values=Nfeature_list_sparse *feature_list_sparse_shapes=Nfeature_list_sparse feature_list_dense_values=Nfeature_list_dense
        RaggedGather                      *output_nested_splits=OUTPUT_RAGGED_RANK output_dense_values
        RaggedRange                       *rt_nested_splits rt_dense_values
        RaggedTensorFromVariant           *output_nested_splits=output_ragged_rank output_dense_values
        StringNGrams                      ngrams *ngrams_splits
        StringSplit                       *indices values *shape
        StringSplitV2                     *indices values *shape
        TopKV2                            values *indices
        UnicodeDecode                     *row_splits char_values
        UnicodeDecodeWithOffsets          *row_splits char_values *char_to_byte_starts
        Unique                            y *idx
        UniqueV2                          y *idx
        UniqueWithCounts                  y *idx *count
        UniqueWithCountsV2                y *idx *count
        """.strip().splitlines()  # noqa: E501
    )
}
OPEN = "a rank that a request decides"  # beside the names of the inputs that arrive at all
# How many dimensions their result has is the length of an argument, or which of its values there are: the place of it.
OPENING = {
    op.encode(): int(place)
    for place, ops in (
        line.split(maxsplit=1)
        for line in """
        0  Empty Fill ParameterizedTruncatedNormal RaggedTensorToTensor RandomStandardNormal RandomUniform
        0  RandomUniformInt
        0  StatelessRandomBinomial StatelessRandomGammaV2 StatelessRandomNormal StatelessRandomNormalV2
        0  StatelessRandomPoisson StatelessRandomUniform StatelessRandomUniformInt StatelessRandomUniformIntV2
        0  StatelessRandomUniformV2 StatelessTruncatedNormal StatelessTruncatedNormalV2 TruncatedNormal
        1  All Any BroadcastTo EuclideanNorm GatherNd Max Mean Min Prod Reshape SparseToDense Sum
        2  ScatterNd
        """.strip().splitlines()
    )
    for op in ops.split()
}
# Their result has a rank of its own: the kernel refuses what would make another.
CLOSING = frozenset({b"CropAndResize", b"ResizeArea", b"ResizeBicubic", b"ResizeBilinear", b"ResizeNearestNeighbor"})
HIDDEN = frozenset({b"StackPop", b"StackPopV2"})  # what they give was put in elsewhere, by no edge of the graph
CALLS = frozenset({b"PartitionedCall", b"StatefulPartitionedCall"})
BRANCHES = frozenset({b"Case", b"If", b"StatelessCase", b"StatelessIf"})
LOOPS = frozenset({b"StatelessWhile", b"While"})
MOST_ROUNDS = 16  # of a loop, until what reaches its variables is known
DEEPEST = 64  # functions inside functions; one that calls itself has no end


class Reach(NamedTuple):
    """The inputs that arrive at a place, by name."""

    as_is: frozenset[str] = frozenset()
    at_all: frozenset[str] = frozenset()
    values: frozenset[str] = frozenset()
    ways: frozenset[str] = frozenset()  # the operations that made other strings of them


class Sink(NamedTuple):
    """One operation that was asked for, and what reaches its arguments."""

    node: Node
    function: bytes
    arguments: tuple[Reach, ...]


class _Function(NamedTuple):
    arguments: list[bytes]
    nodes: dict[bytes, Node]
    results: list[bytes]


NOTHING = Reach()
_Reached = tuple[Reach, ...]  # one for each output; the last stands for those behind it


class Flow:
    """The flow through one graph. `feeds` are its inputs, by node; `wanted` the operations to find."""

    def __init__(self, graph: Graph, feeds: Mapping[bytes, str], wanted: Collection[bytes]) -> None:
        self.feed(feeds)
        self._wanted = frozenset(wanted)
        self._graph, self._library = graph, graph.functions
        self._main = _Function([], graph.main, [])
        self._functions: dict[bytes, _Function] = {}
        self._called: dict[tuple[bytes, _Reached], _Reached] = {}
        self.sinks: list[Sink] = []

    def feed(self, feeds: Mapping[bytes, str], any_rank: Collection[bytes] = ()) -> None:
        """Begin with other inputs, some `any_rank`; what has been found out about functions holds for these too."""
        names = {node: frozenset({name}) for node, name in feeds.items()}
        self._feeds = {
            node: Reach(name, name | {OPEN} if node in any_rank else name, name) for node, name in names.items()
        }

    def run(self, roots: Iterable[bytes]) -> None:
        """Follow the flow into everything that the roots, tensors or nodes of the main graph, need."""
        self._follow(self._main, MAIN, self._feeds, roots, 0)

    def _function(self, name: bytes) -> _Function:
        if name not in self._functions:
            message = self._library[name]
            signature = message_field(message, 1)
            returned = {name.encode(): bytes(tensor) for name, tensor in map_field(message, 4).items()}
            self._functions[name] = _Function(
                self._graph.arguments(name),
                self._graph.nodes(name),
                [returned.get(bytes(last_field(result, 1)), b"") for result in each_field(signature, 3)],
            )
        return self._functions[name]

    def _call(self, name: bytes, arguments: _Reached, depth: int) -> _Reached:
        if depth > DEEPEST:
            return (_any(arguments),)
        key = name, arguments
        if key not in self._called:
            self._called[key] = (_any(arguments),)  # what one that calls itself gives, at the most
            function = self._function(name)
            given = dict(zip(function.arguments, arguments))
            reached = self._follow(function, name, given, [*function.results, *function.nodes], depth)
            self._called[key] = tuple(_of(result, given, reached) for result in function.results) or (NOTHING,)
        return self._called[key]

    def _follow(
        self, function: _Function, name: bytes, given: Mapping[bytes, Reach], roots: Iterable[bytes], depth: int
    ) -> dict[bytes, _Reached]:
        """Return what reaches each node that the roots need; in a loop of TensorFlow 1, once nothing is added."""
        before: dict[bytes, _Reached] = {}
        wanted = [_name(root) for root in roots]
        for _ in range(MOST_ROUNDS):
            reached, looped = self._round(function, name, given, wanted, depth, before)
            if not looped or reached == before:
                break
            before = reached
        else:  # anything may come round
            reached, _ = self._round(
                function, name, given, wanted, depth, dict.fromkeys(function.nodes, (_any([*self._feeds.values()]),))
            )
        return reached

    def _round(
        self,
        function: _Function,
        name: bytes,
        given: Mapping[bytes, Reach],
        wanted: list[bytes],
        depth: int,
        before: Mapping[bytes, _Reached],
    ) -> tuple[dict[bytes, _Reached], bool]:
        """Go through the nodes in the order of the flow; where one comes round to itself, `before` says what comes."""
        reached: dict[bytes, _Reached] = {}
        begun: set[bytes] = set()
        pending, looped = list(wanted), False
        while pending:
            node = pending[-1]
            if node in reached or node in given or node not in function.nodes:
                pending.pop()
                continue
            parsed = function.nodes[node]
            missing = [name for name in map(_name, parsed.inputs) if name not in reached]
            missing = [one for one in missing if one in function.nodes and one not in given]
            first = node not in begun
            begun.add(node)
            if first and (ahead := [one for one in missing if one not in begun]):
                pending += ahead
                continue
            pending.pop()
            looped = looped or bool(missing)
            arguments = tuple(
                _of(one, given, reached if _name(one) in reached else before)
                for one in parsed.inputs
                if not one.startswith(b"^")
            )
            reached[node] = self._through(parsed, name, arguments, depth)
            if parsed.op in PARTLY:
                named = _partly(parsed, arguments)
                reached |= {node + b":" + output: one for output, one in named}
                reached[node] = tuple(reach for _, one in named for reach in one) or (NOTHING,)
        return reached, looped

    def _through(self, node: Node, function: bytes, arguments: _Reached, depth: int) -> _Reached:
        """Return what reaches the outputs of one node."""
        op = node.op
        if op in self._wanted:
            self.sinks.append(Sink(node, function, arguments))
        arguments = _ranked(node, arguments)
        if op == b"IdentityN":
            return arguments or (NOTHING,)
        if op in HANDING_ON:
            if len(arguments) == 1:
                return arguments
            merged = arguments if op in (b"Merge", b"RefMerge") else arguments[:1]
            as_is = frozenset().union(*(one.as_is for one in merged))
            return (_any(arguments)._replace(as_is=as_is),)
        if op in STRUCTURAL:
            return (_bounded(_any(arguments)),)
        if op in HIDDEN:
            return (_any([*arguments, *self._feeds.values()]),)
        called = [called for called in (op, *node.calls) if called in self._library]
        if not called:
            return (_made(op, arguments),)
        if op in LOOPS:
            for _ in range(MOST_ROUNDS):  # what a round changes is among what the next begins with
                before = arguments
                for one in called:
                    after = self._call(one, arguments, depth + 1)
                    if len(after) == len(arguments):
                        arguments = tuple(map(_either, arguments, after))
                if arguments == before:
                    return arguments
            return (_any(arguments),) * len(arguments)
        given = arguments[1:] if op in BRANCHES else arguments
        if op not in CALLS and op not in BRANCHES and op not in self._library:
            given = tuple(_any(arguments) for _ in range(256))  # in an order of its own
        results = [self._call(one, given, depth + 1) for one in called]
        outputs = range(max(map(len, results)))
        return tuple(_every([result[min(index, len(result) - 1)] for result in results]) for index in outputs)


def opens(node: Node) -> bool:
    """Say whether the values of an argument may decide the rank of a node's result."""
    if node.op == b"Squeeze":
        return not len(last_field(last_field(node.attributes.get("squeeze_dims", memoryview(b"")), 1), 3))
    if node.op == b"DecodeImage":  # of a GIF, all its pictures
        animations = node.attributes.get("expand_animations")
        return animations is None or bool(number_field(animations, 5))
    return node.op in OPENING


def _ranked(node: Node, arguments: _Reached) -> _Reached:
    """Return what reaches the arguments, and so the result, with OPEN among it or not, as the result's rank is."""
    op = node.op
    if op in (b"Squeeze", b"DecodeImage") and opens(node):
        return tuple(one._replace(at_all=one.at_all | {OPEN}) if one.at_all else one for one in arguments)
    place = OPENING.get(op)
    if place is not None and place < len(arguments):
        decides = arguments[place]
        if decides.values and OPEN not in decides.at_all:
            opened = decides._replace(at_all=decides.at_all | {OPEN})
            return (*arguments[:place], opened, *arguments[place + 1 :])
    if op in CLOSING or (op in (b"Reshape", b"BroadcastTo") and OPEN not in arguments[place or 0].at_all):
        return tuple(one._replace(at_all=one.at_all - {OPEN}) if OPEN in one.at_all else one for one in arguments)
    return arguments


def _made(op: bytes, arguments: _Reached) -> Reach:
    """Return what reaches the outputs of an operation that hands on nothing as it is."""
    reach = _any(arguments)
    return reach._replace(ways=reach.ways | {op.decode()}) if op in TRANSFORMING else reach


def _bounded(reach: Reach) -> Reach:
    """Return what reaches a result that the shape of the arguments decides or bounds."""
    return reach._replace(values=frozenset(), ways=frozenset()) if reach.values or reach.ways else reach


def _partly(node: Node, arguments: _Reached) -> list[tuple[bytes, _Reached]]:
    """Return what reaches the outputs of one node, by the names that they have in a function."""
    attributes, given = node.attributes, _made(node.op, arguments)
    named = []
    for output in PARTLY[node.op]:
        name, _, counted = output.partition("=")
        value = attributes.get(counted, memoryview(b""))
        dtypes = last_field(last_field(value, 1), 6)  # a byte for each
        count = (number_field(value, 3) or len(dtypes)) if counted else 1
        reach = _bounded(given) if name.startswith("*") else given
        named.append((name.lstrip("*").encode(), (reach,) * count))
    return named


def _name(tensor: bytes) -> bytes:
    return tensor.lstrip(b"^").partition(b":")[0]


def _of(tensor: bytes, given: Mapping[bytes, Reach], reached: Mapping[bytes, _Reached]) -> Reach:
    name = _name(tensor)
    if name in given:
        return given[name]
    output, _, index = tensor.rpartition(b":")
    outputs = reached.get(output) or reached.get(name) or (NOTHING,)
    return outputs[min(int(index) if index.isdigit() and b":" in tensor else 0, len(outputs) - 1)]


def _any(reached: Iterable[Reach]) -> Reach:
    found = _every(reached)
    return found._replace(as_is=frozenset()) if found.as_is else found


def _either(one: Reach, other: Reach) -> Reach:
    return _every((one, other))


def _every(reached: Iterable[Reach]) -> Reach:
    found = NOTHING
    for one in reached:
        if one is not NOTHING and one is not found:  # nearly always the same, or nothing
            found = one if found is NOTHING else Reach(*map(frozenset.union, found, one))
    return found
