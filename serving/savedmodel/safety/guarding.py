"""Adds checks to a graph for the arguments that a request decides and that TensorFlow's kernels trust: guards.py.

    with guarded(directory, signatures, most) as folder:
        load(folder)        the directory itself where no check is needed

A check is a few operations on the arguments and an Assert on which the operation depends: where it fails, the run ends
with INVALID_ARGUMENT before the kernel starts.
"""

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path

from serving.core.errors import LoadError
from serving.savedmodel.graph import Graph, Node
from serving.savedmodel.protobuf import each_field, last_field, map_field, message_field, number_field
from serving.savedmodel.safety.assertions import Assertions, Attributes, checked, window
from serving.savedmodel.safety.flow import OPEN, OPENING, Flow, Sink, opens
from serving.savedmodel.safety.guards import GUARDED, OF_RANK, Check, checks_of
from serving.savedmodel.safety.rewrite import Piece, edited, field, rewritten
from serving.savedmodel.signature import Signature, served_graph

Needed = Mapping[bytes, Mapping[bytes, tuple[Check, ...]]]  # function, node
DECODERS = frozenset(b"Decode" + kind for kind in b"AndCropJpeg Bmp Gif Image Jpeg Jxl Png WebP".split())
# The operations before a decoder behind which serving/savedmodel/images.py finds the pictures of a request.
UNDERSTOOD = frozenset(
    {"DecodeBase64", "ParseExample", "ParseExampleV2", "ParseSequenceExample", "ParseSequenceExampleV2"}
    | {"ParseSingleExample", "ParseSingleSequenceExample"}
)
PICTURE = Check("picture", (), (), None, 0, False, 1, False, "")
_COMPILED = rb"_XlaMustCompile\x12\x02\x28\x01"  # XLA drops every Assert


@contextmanager
def guarded(directory: Path, signatures: Iterable[Signature], most: int) -> Iterator[Path]:
    """Yield the folder of the SavedModel with its checks; the values of a request may give at most `most` elements.

    Raise LoadError where a check cannot be added.
    """
    try:
        graph = served_graph(directory)
        needed = needs(graph, [message for message in signatures if message.refusal is None])
        reason = unguarded(graph, needed)
    except (ValueError, IndexError, KeyError, RecursionError) as error:
        raise LoadError(f"saved_model.pb is not a SavedModel, or only part of one ({error})") from None
    if reason:
        raise LoadError(f"{reason}; CALLERS=trusted serves it anyway")
    with (
        rewritten(directory, lambda message: guard(message, needed, most))
        if needed
        else nullcontext(directory) as folder
    ):
        yield folder


def needs(graph: memoryview, signatures: Iterable[Signature]) -> dict[bytes, dict[bytes, tuple[Check, ...]]]:
    """Return {function: {node: checks}} for the operations whose arguments a request of these signatures decides.

    The main graph is b"".
    """
    needed: dict[bytes, dict[bytes, tuple[Check, ...]]] = {}
    signatures = [*signatures]
    inputs = [spec for signature in signatures for spec in signature.inputs.values()]
    any_rank = {_source(spec.tensor) for spec in inputs if spec.shape is None}
    operations = GUARDED | DECODERS
    parsed = Graph.of(graph)
    if not _may_decide(parsed, signatures, bool(any_rank)):
        return {}
    flow = Flow(parsed, {}, operations)
    for signature in signatures:
        flow.feed({_source(spec.tensor): "request" for spec in signature.inputs.values()}, any_rank)
        flow.run([spec.tensor.encode() for spec in signature.outputs.values()])
    for sink in flow.sinks:
        if sink.node.op in DECODERS:
            checks: tuple[Check, ...] = (PICTURE,) if sink.arguments[0].ways - UNDERSTOOD else ()
        else:
            checks = tuple(
                check for check in checks_of(sink.node.op) if _decided(check, sink, parsed.nodes(sink.function))
            )
        if checks:
            checks_by_node = needed.setdefault(sink.function, {})
            checks_by_node[sink.node.name] = tuple(dict.fromkeys((*checks_by_node.get(sink.node.name, ()), *checks)))
    return needed


def _source(tensor: str) -> bytes:
    return tensor.rpartition(":")[0].encode()


def _may_decide(graph: Graph, signatures: Iterable[Signature], any_rank: bool) -> bool:
    """Return whether an argument to check is not a constant: in most graphs all are, and no Flow is needed."""
    signatures = [*signatures]
    roots = [spec.tensor.encode() for signature in signatures for spec in signature.outputs.values()]
    fed = {_source(spec.tensor) for signature in signatures for spec in signature.inputs.values()}
    ranked = False
    for function, nodes in graph.running(roots):
        siblings = graph.nodes(function)
        for node in nodes:
            if node.op in DECODERS:
                return True
            for check in _open_checks(node, siblings, fed):
                if check.always or check.kind not in OF_RANK:
                    return True
                ranked = True
            if not any_rank and opens(node):
                any_rank = not _constant(node, [OPENING.get(node.op, 0)], siblings, fed)
    return ranked and any_rank


def _open_checks(node: Node, siblings: Mapping[bytes, Node], fed: Collection[bytes]) -> list[Check]:
    """Return the checks of an operation that constants and shapes in the graph do not already satisfy."""
    if node.op not in GUARDED:
        return []
    count = sum(not name.startswith(b"^") for name in node.inputs)
    checks = checks_of(node.op)
    attributes = node.attributes if any(check.kind == "shapes" for check in checks) else {}  # no other kind reads them
    return [
        check
        for check in checks
        if not _constant(node, checked(check, count, attributes), siblings, fed)
        and not (check.kind == "window" and _holds_window(node, siblings))
    ]


def _holds_window(node: Node, siblings: Mapping[bytes, Node]) -> bool:
    """Return whether the shape in the graph proves that a pooling layer's input is never smaller than its window."""
    source = siblings.get(node.inputs[0].partition(b":")[0]) if node.inputs else None
    listed = source.attributes.get("_output_shapes", memoryview(b"")) if source else memoryview(b"")
    shapes = [*each_field(last_field(listed, 1), 7)]
    sizes = [number_field(size, 1) for size in each_field(shapes[0], 2)] if len(shapes) == 1 else []
    least = window(node.attributes)
    return not least or (
        len(sizes) == len(least) and all(size >= minimum or minimum == 1 for size, minimum in zip(sizes, least))
    )


def _constant(node: Node, positions: Iterable[int], siblings: Mapping[bytes, Node], fed: Collection[bytes]) -> bool:
    """Return whether the arguments at these positions are constants of the same graph that no request feeds."""
    inputs = [name for name in node.inputs if not name.startswith(b"^")]
    sources = [siblings.get(inputs[position].partition(b":")[0]) for position in positions if position < len(inputs)]
    return all(source is not None and source.op == b"Const" and source.name not in fed for source in sources)


def unguarded(graph: memoryview, needed: Needed) -> str | None:
    """Return why a check cannot be added to the graph, or None."""
    for function, checks_by_node in needed.items():
        if any(check.kind == "never" for checks in checks_by_node.values() for check in checks):
            return "it reads serialized tensors, which may be of any size"
        if any(PICTURE in checks for checks in checks_by_node.values()):
            return "it decodes pictures that it takes out of other strings, so that their size is not known before"
        if function and re.search(_COMPILED, graph):
            return "XLA compiles it, and leaves out the checks of what a request decides"
    return None


def guard(graph: memoryview, needed: Needed, most: int) -> list[Piece]:
    """Return the MetaGraphDef with the checks; an operation's result may have at most `most` elements."""

    def function(message: memoryview) -> list[Piece] | None:
        name = bytes(last_field(message_field(message, 1), 1))
        arguments = {bytes(last_field(argument, 1)) for argument in each_field(message_field(message, 1), 2)}
        return _guarded(message, 3, needed[name], arguments, most) if name in needed else None

    def definition(message: memoryview) -> list[Piece]:
        pieces = edited(message, 2, lambda library: edited(library, 1, function))
        main = needed.get(b"")
        return _guarded(memoryview(b"".join(pieces)), 1, main, None, most) if main else pieces

    return edited(graph, 2, definition)


def _guarded(
    message: memoryview,
    number: int,
    needed: Mapping[bytes, tuple[Check, ...]],
    arguments: set[bytes] | None,
    most: int,
) -> list[Piece]:
    added: list[Piece] = []

    def change(message_: memoryview) -> list[Piece] | None:
        name = bytes(last_field(message_, 1))
        if name not in needed:
            return None
        body = Assertions(name + b"/guard", arguments, most)
        inputs = [bytes(item) for item in each_field(message_, 3) if not bytes(item).startswith(b"^")]
        asserts = [body.check(check, inputs, map_field(message_, 5)) for check in needed[name]]
        added.extend(piece for item in body.nodes for piece in field(number, item))
        return [message_, *(piece for item in asserts for piece in field(3, b"^" + item))]

    return [*edited(message, number, change), *added]


def _decided(check: Check, sink: Sink, siblings: Mapping[bytes, Node]) -> bool:
    """Return whether a request decides the arguments that are checked."""
    if check.kind == "window" and _holds_window(sink.node, siblings):
        return False
    condition, attributes = check.condition, sink.node.attributes
    if condition and _flag(attributes, condition.lstrip("!")) == condition.startswith("!"):
        return False
    positions = checked(check, len(sink.arguments), attributes)
    reach = [sink.arguments[position] for position in positions if position < len(sink.arguments)]
    if check.always:
        return any(argument.at_all for argument in reach)
    return any(OPEN in argument.at_all if check.kind in OF_RANK else argument.values for argument in reach)


def _flag(attributes: Attributes, name: str) -> bool:
    """Return whether an attribute is true, or a number that is not negative."""
    value = attributes.get(name, memoryview(b""))
    return bool(number_field(value, 5)) or (bytes(value[:1]) == b"\x18" and number_field(value, 3) >= 0)
