"""Which of a graph's inputs reach which arguments of its operations, through functions, branches and loops.

    flow = Flow(Graph.of(graph), {b"serving_default_r_1": "r_1"}, {b"RaggedTensorToTensor"})
    flow.run([b"StatefulPartitionedCall:0"])
    flow.sinks          [Sink(op=b"RaggedTensorToTensor", arguments=[Reach(as_is={"r_1"}, at_all={"r_1"}), ...], ...)]

An input arrives as it is through operations that pass their argument on unchanged, and at all through any operation.
Its values arrive through operations whose result depends on them; results that depend on its shape alone, such as a
number of rows, are bounded by the size of the request and do not count.
"""

from collections.abc import Collection, Iterable, Mapping
from typing import NamedTuple

from serving.savedmodel.graph import MAIN, Graph, Node
from serving.savedmodel.protobuf import each_field, last_field, map_field, message_field, number_field

# Operations whose result is their first argument: the same elements in the same order.
PASSING_ON = frozenset(
    op.encode()
    for op in """
    Cast CheckNumerics DeepCopy EnsureShape Enter Exit ExpandDims Identity IdentityN LoopCond Merge NextIteration
    PreventGradient RefEnter RefExit RefIdentity RefMerge RefNextIteration RefSwitch Reshape Snapshot Squeeze
    StopGradient Switch
    """.split()  # noqa: SIM905 - a list of words is read, and grows, as words
)
# Operations that make new strings of strings. The results of all others were in the input, or their size was.
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
# Operations whose result the shape of their arguments decides or bounds: indices and counts inside it, true or false.
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
# The same for single outputs, marked by a *; an attribute after the = says how many outputs of that name there are.
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
OPEN = "a rank that a request decides"  # a marker among the names of the inputs that arrive at all
# Operations whose result's rank is the length of an argument, or depends on its values: the position of the argument.
OPENING = {
    op.encode(): int(position)
    for position, ops in (
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
# Operations whose result has a fixed rank: the kernel refuses arguments that would give another.
CLOSING = frozenset({b"CropAndResize", b"ResizeArea", b"ResizeBicubic", b"ResizeBilinear", b"ResizeNearestNeighbor"})
HIDDEN = frozenset({b"StackPop", b"StackPopV2"})  # their result was pushed elsewhere, without an edge in the graph
CALLS = frozenset({b"PartitionedCall", b"StatefulPartitionedCall"})
BRANCHES = frozenset({b"Case", b"If", b"StatelessCase", b"StatelessIf"})
LOOPS = frozenset({b"StatelessWhile", b"While"})
MOST_ROUNDS = 16  # of a loop, until the inputs that reach its variables no longer change
DEEPEST = 64  # nested function calls, since recursion may not end


class Reach(NamedTuple):
    """The names of the inputs that reach a tensor: unchanged, in any form, and by their values."""

    as_is: frozenset[str] = frozenset()
    at_all: frozenset[str] = frozenset()
    values: frozenset[str] = frozenset()
    ways: frozenset[str] = frozenset()  # the TRANSFORMING operations on the way


class Sink(NamedTuple):
    """One of the searched operations, and what reaches its arguments."""

    node: Node
    function: bytes
    arguments: tuple[Reach, ...]


class _Function(NamedTuple):
    arguments: list[bytes]
    nodes: dict[bytes, Node]
    results: list[bytes]


NOTHING = Reach()
_Reached = tuple[Reach, ...]  # by output; the last holds for all further outputs


class Flow:
    """The flow through one graph. `feeds` are its inputs, by node; `operations` those to record in `sinks`."""

    def __init__(self, graph: Graph, feeds: Mapping[bytes, str], operations: Collection[bytes]) -> None:
        self.feed(feeds)
        self._operations = frozenset(operations)
        self._graph, self._library = graph, graph.functions
        self._main = _Function([], graph.main, [])
        self._functions: dict[bytes, _Function] = {}
        self._called: dict[tuple[bytes, _Reached], _Reached] = {}
        self.sinks: list[Sink] = []

    def feed(self, feeds: Mapping[bytes, str], any_rank: Collection[bytes] = ()) -> None:
        """Replace the inputs, some of them of `any_rank`; the results for functions stay valid."""
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
            self._called[key] = (_any(arguments),)  # the upper bound for a recursive call
            function = self._function(name)
            arguments_by_name = dict(zip(function.arguments, arguments))
            reached = self._follow(function, name, arguments_by_name, [*function.results, *function.nodes], depth)
            self._called[key] = tuple(_of(result, arguments_by_name, reached) for result in function.results) or (
                NOTHING,
            )
        return self._called[key]

    def _follow(
        self, function: _Function, name: bytes, arguments: Mapping[bytes, Reach], roots: Iterable[bytes], depth: int
    ) -> dict[bytes, _Reached]:
        """Return what reaches each node that the roots need; TensorFlow 1 loops are repeated until nothing changes."""
        before: dict[bytes, _Reached] = {}
        targets = [_name(root) for root in roots]
        for _ in range(MOST_ROUNDS):
            reached, looped = self._round(function, name, arguments, targets, depth, before)
            if not looped or reached == before:
                break
            before = reached
        else:  # no fixed point: assume that every input reaches every node
            reached, _ = self._round(
                function,
                name,
                arguments,
                targets,
                depth,
                dict.fromkeys(function.nodes, (_any([*self._feeds.values()]),)),
            )
        return reached

    def _round(
        self,
        function: _Function,
        name: bytes,
        arguments_by_name: Mapping[bytes, Reach],
        targets: list[bytes],
        depth: int,
        before: Mapping[bytes, _Reached],
    ) -> tuple[dict[bytes, _Reached], bool]:
        """Visit the nodes in topological order; on a cycle, `before` has the result of the previous round.

        Return what reaches each node, and whether there is a cycle.
        """
        reached: dict[bytes, _Reached] = {}
        begun: set[bytes] = set()
        pending, looped = list(targets), False
        while pending:
            node = pending[-1]
            if node in reached or node in arguments_by_name or node not in function.nodes:
                pending.pop()
                continue
            parsed = function.nodes[node]
            missing = [source for source in map(_name, parsed.inputs) if source not in reached]
            missing = [source for source in missing if source in function.nodes and source not in arguments_by_name]
            first = node not in begun
            begun.add(node)
            if first and (ahead := [source for source in missing if source not in begun]):
                pending += ahead
                continue
            pending.pop()
            looped = looped or bool(missing)
            arguments = tuple(
                _of(tensor, arguments_by_name, reached if _name(tensor) in reached else before)
                for tensor in parsed.inputs
                if not tensor.startswith(b"^")
            )
            reached[node] = self._through(parsed, name, arguments, depth)
            if parsed.op in PARTLY:
                outputs = _partly(parsed, arguments)
                reached |= {node + b":" + name: reaches for name, reaches in outputs}
                reached[node] = tuple(reach for _, reaches in outputs for reach in reaches) or (NOTHING,)
        return reached, looped

    def _through(self, node: Node, function: bytes, arguments: _Reached, depth: int) -> _Reached:
        """Return what reaches the outputs of one node."""
        op = node.op
        if op in self._operations:
            self.sinks.append(Sink(node, function, arguments))
        arguments = _ranked(node, arguments)
        if op == b"IdentityN":
            return arguments or (NOTHING,)
        if op in PASSING_ON:
            if len(arguments) == 1:
                return arguments
            merged = arguments if op in (b"Merge", b"RefMerge") else arguments[:1]
            as_is = frozenset().union(*(argument.as_is for argument in merged))
            return (_any(arguments)._replace(as_is=as_is),)
        if op in STRUCTURAL:
            return (_bounded(_any(arguments)),)
        if op in HIDDEN:
            return (_any([*arguments, *self._feeds.values()]),)
        called = [called for called in (op, *node.calls) if called in self._library]
        if not called:
            return (_made(op, arguments),)
        if op in LOOPS:
            for _ in range(MOST_ROUNDS):  # the results of a round are arguments of the next
                before = arguments
                for function_name in called:
                    after = self._call(function_name, arguments, depth + 1)
                    if len(after) == len(arguments):
                        arguments = tuple(map(_either, arguments, after))
                if arguments == before:
                    return arguments
            return (_any(arguments),) * len(arguments)
        passed = arguments[1:] if op in BRANCHES else arguments
        if op not in CALLS and op not in BRANCHES and op not in self._library:
            passed = tuple(_any(arguments) for _ in range(256))  # its order of arguments is unknown
        results = [self._call(function_name, passed, depth + 1) for function_name in called]
        outputs = range(max(map(len, results)))
        return tuple(_every([result[min(index, len(result) - 1)] for result in results]) for index in outputs)


def opens(node: Node) -> bool:
    """Return whether the values of an argument may decide the rank of a node's result."""
    if node.op == b"Squeeze":
        return not len(last_field(last_field(node.attributes.get("squeeze_dims", memoryview(b"")), 1), 3))
    if node.op == b"DecodeImage":  # a GIF may give a batch of pictures
        animations = node.attributes.get("expand_animations")
        return animations is None or bool(number_field(animations, 5))
    return node.op in OPENING


def _ranked(node: Node, arguments: _Reached) -> _Reached:
    """Return what reaches the arguments, with OPEN added or removed as the result's rank is open or fixed."""
    op = node.op
    if op in (b"Squeeze", b"DecodeImage") and opens(node):
        return tuple(reach._replace(at_all=reach.at_all | {OPEN}) if reach.at_all else reach for reach in arguments)
    position = OPENING.get(op)
    if position is not None and position < len(arguments):
        decides = arguments[position]
        if decides.values and OPEN not in decides.at_all:
            opened = decides._replace(at_all=decides.at_all | {OPEN})
            return (*arguments[:position], opened, *arguments[position + 1 :])
    if op in CLOSING or (op in (b"Reshape", b"BroadcastTo") and OPEN not in arguments[position or 0].at_all):
        return tuple(
            reach._replace(at_all=reach.at_all - {OPEN}) if OPEN in reach.at_all else reach for reach in arguments
        )
    return arguments


def _made(op: bytes, arguments: _Reached) -> Reach:
    """Return what reaches the outputs of an operation that passes no argument on unchanged."""
    reach = _any(arguments)
    return reach._replace(ways=reach.ways | {op.decode()}) if op in TRANSFORMING else reach


def _bounded(reach: Reach) -> Reach:
    """Return what reaches a result that depends only on the shape of the arguments, or is bounded by it."""
    return reach._replace(values=frozenset(), ways=frozenset()) if reach.values or reach.ways else reach


def _partly(node: Node, arguments: _Reached) -> list[tuple[bytes, _Reached]]:
    """Return what reaches the outputs of one node, by their names in a function."""
    attributes, reach_of_all = node.attributes, _made(node.op, arguments)
    outputs = []
    for output in PARTLY[node.op]:
        name, _, counted = output.partition("=")
        value = attributes.get(counted, memoryview(b""))
        dtypes = last_field(last_field(value, 1), 6)  # a byte for each
        count = (number_field(value, 3) or len(dtypes)) if counted else 1
        reach = _bounded(reach_of_all) if name.startswith("*") else reach_of_all
        outputs.append((name.lstrip("*").encode(), (reach,) * count))
    return outputs


def _name(tensor: bytes) -> bytes:
    return tensor.lstrip(b"^").partition(b":")[0]


def _of(tensor: bytes, arguments: Mapping[bytes, Reach], reached: Mapping[bytes, _Reached]) -> Reach:
    name = _name(tensor)
    if name in arguments:
        return arguments[name]
    output, _, index = tensor.rpartition(b":")
    outputs = reached.get(output) or reached.get(name) or (NOTHING,)
    return outputs[min(int(index) if index.isdigit() and b":" in tensor else 0, len(outputs) - 1)]


def _any(reached: Iterable[Reach]) -> Reach:
    union = _every(reached)
    return union._replace(as_is=frozenset()) if union.as_is else union


def _either(first: Reach, second: Reach) -> Reach:
    return _every((first, second))


def _every(reached: Iterable[Reach]) -> Reach:
    union = NOTHING
    for reach in reached:
        if reach is not NOTHING and reach is not union:  # nearly always it is one of these
            union = reach if union is NOTHING else Reach(*map(frozenset.union, union, reach))
    return union
