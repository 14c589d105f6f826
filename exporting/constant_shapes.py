"""Replace shapes that a converted model computes by constants, if only the number of rows is unknown.

Flattening in Keras becomes four operations in LiteRT: SHAPE of x, its first element, PACK of that and of constants, and
RESHAPE of x. The number of elements decides the first dimension, so RESHAPE of x to [-1, constants] is the same. The
native codec runs only models without computed shapes: see serving/runtime/litert_c/shapes.py.
"""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

RESHAPE, STRIDED_SLICE, SHAPE, PACK = 22, 45, 77, 83  # BuiltinOperator of tflite's schema.fbs
INT32 = 2  # TensorType


def with_constant_shapes(model: bytes) -> bytes:
    """Return the LiteRT model with such shapes as constants; the model itself if it has none."""
    from tensorflow.lite.tools import flatbuffer_utils

    parsed = flatbuffer_utils.convert_bytearray_to_object(bytearray(model))
    changed = [_replace(parsed, graph) for graph in parsed.subgraphs]
    return bytes(flatbuffer_utils.convert_object_to_bytearray(parsed)) if any(changed) else model


def _replace(model: Any, graph: Any) -> bool:
    """Make the shapes of a subgraph constants, and remove the operations that are then unused; say whether any were."""
    makers = {output: operator for operator in graph.operators for output in operator.outputs}
    shapes = {}
    for shape in {int(operator.inputs[1]) for operator in graph.operators if _is_reshape(model, operator)}:
        readers = [operator for operator in graph.operators if shape in operator.inputs]
        if all(_is_reshape(model, reader) for reader in readers) and shape not in graph.outputs:
            sizes = [_sizes(model, graph, makers, int(reader.inputs[0]), shape) for reader in readers]
            if sizes[0] is not None and None not in sizes:
                shapes[shape] = [-1, *sizes[0]]
    for tensor, values in shapes.items():
        graph.tensors[tensor].buffer = len(model.buffers)
        buffer = type(model.buffers[0])()
        buffer.data = np.frombuffer(np.array(values, "<i4").tobytes(), np.uint8)
        model.buffers.append(buffer)
        graph.operators = [operator for operator in graph.operators if tensor not in operator.outputs]
    while unused := [operator for operator in _shape_operators(model, graph) if not _is_used(graph, operator)]:
        graph.operators = [operator for operator in graph.operators if not any(operator is other for other in unused)]
    return bool(shapes)


def _sizes(model: Any, graph: Any, makers: dict[int, Any], data: int, shape: int) -> list[int] | None:
    """Return the sizes behind the first of a computed shape that keeps the rows of `data`; None for any other shape."""
    pack = makers.get(shape)
    if pack is None or _code(model, pack) != PACK or pack.builtinOptions.axis != 0 or len(pack.inputs) < 2:
        return None
    first, *rest = pack.inputs
    sizes = [_constant(model, graph, tensor) for tensor in rest]
    if not _is_row_count(model, graph, makers, first, data) or not all(size and len(size) == 1 for size in sizes):
        return None
    behind = [size[0] for size in sizes if size]
    signature = graph.tensors[data].shapeSignature
    known = [] if signature is None else [int(size) for size in signature]
    fits = known[:1] == [-1] and min(known[1:], default=0) > 0 and math.prod(known[1:]) == math.prod(behind)
    return behind if fits and min(behind) > 0 else None


def _is_row_count(model: Any, graph: Any, makers: dict[int, Any], tensor: int, data: int) -> bool:
    """Say whether a tensor is the first element of the shape of `data`."""
    part = makers.get(tensor)
    if part is None or _code(model, part) != STRIDED_SLICE:
        return False
    whole, *bounds = part.inputs
    options = part.builtinOptions
    masks = (options.ellipsisMask, options.newAxisMask, options.endMask, options.shrinkAxisMask)
    if [_constant(model, graph, bound) for bound in bounds] != [[0], [1], [1]] or masks != (0, 0, 0, 1):
        return False
    shape = makers.get(whole)
    return shape is not None and _code(model, shape) == SHAPE and shape.inputs[0] == data


def _constant(model: Any, graph: Any, tensor: int) -> list[int] | None:
    """Return the numbers of a constant of 32-bit integers; None for any other tensor."""
    data = model.buffers[graph.tensors[tensor].buffer].data
    if data is None or not len(data) or graph.tensors[tensor].type != INT32:
        return None
    numbers: list[int] = np.frombuffer(np.array(data, np.uint8).tobytes(), "<i4").tolist()
    return numbers


def _is_reshape(model: Any, operator: Any) -> bool:
    return _code(model, operator) == RESHAPE and len(operator.inputs) == 2


def _shape_operators(model: Any, graph: Any) -> Iterator[Any]:
    return (operator for operator in graph.operators if _code(model, operator) in (STRIDED_SLICE, SHAPE, PACK))


def _is_used(graph: Any, operator: Any) -> bool:
    read = {int(tensor) for other in graph.operators for tensor in other.inputs} | {
        int(tensor) for tensor in graph.outputs
    }
    return any(int(output) in read for output in operator.outputs)


def _code(model: Any, operator: Any) -> int:
    code = model.operatorCodes[operator.opcodeIndex]
    return int(max(code.builtinCode, code.deprecatedBuiltinCode))
