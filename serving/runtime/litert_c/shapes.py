"""Whether all shapes in a graph follow from the shapes of its inputs: then the sizes of its outputs are known early.

LiteRT's C interface writes outputs into memory that the caller has made before the run. Where a shape depends on values
it writes past the end of that memory, so such a graph is not run through it.
"""

from collections.abc import Iterator

from serving.runtime.litert_c.library import Api

# Operations by their code, BuiltinOperator of tflite's schema.fbs, whose outputs have shapes that follow from those of
# the inputs and from attributes.
BY_SHAPES = frozenset(
    {
        0, 1, 2, 3, 4, 5, 6, 8, 9, 11, 12, 14, 17, 18, 19, 20, 21, 25, 26, 28,  # add, convolutions, dense, tanh
        36, 41, 42, 43, 47, 50, 53, 54, 55, 57, 58, 59, 61, 62, 63, 64, 66,  # gather, sub, div, exp, cast, less
        71, 72, 73, 75, 76, 78, 83, 84, 86, 87, 88, 90, 92, 93, 95, 98, 99,  # equal, log, sqrt, pack, logical, square
        101, 104, 105, 106, 107, 108, 111, 114, 116, 117, 123, 126, 128, 150, 152, 156, 158,  # abs, reverse, cumsum
    }
)  # fmt: skip

# Others, whose shapes follow from the values of these inputs too: constants, then.
BY_CONSTANTS = {
    22: (1,),  # reshape
    23: (1,), 97: (1,),  # resize_bilinear, resize_nearest_neighbor
    34: (1,), 60: (1,), 100: (1,),  # pad, padv2, mirror_pad
    37: (1, 2), 38: (1, 2),  # batch_to_space_nd, space_to_batch_nd
    39: (1,),  # transpose
    40: (1,), 74: (1,), 81: (1,), 82: (1,),  # mean, sum, reduce_prod, reduce_max
    89: (1,), 91: (1,), 140: (1,),  # reduce_min, reduce_any, reduce_all
    45: (1, 2, 3), 65: (1, 2),  # strided_slice, slice
    49: (0,), 102: (1, 2),  # split, split_v
    56: (1,), 79: (1,),  # arg_max, arg_min
    67: (0,),  # transpose_conv
    69: (1,), 130: (1,),  # tile, broadcast_to
    70: (1,),  # expand_dims
    85: (1,),  # one_hot
}  # fmt: skip


def follow(library: Api, subgraph: int) -> bool:
    """Say whether every shape in the LiteRtSubgraph follows from those of its inputs."""
    return all(_follows(library, operation) for operation in _operations(library, subgraph))


def _operations(library: Api, subgraph: int) -> Iterator[int]:
    for index in range(library.count_of("LiteRtGetNumSubgraphOps", subgraph)):
        yield library.handle_of("LiteRtGetSubgraphOp", subgraph, index)


def _follows(library: Api, operation: int) -> bool:
    code = library.code_of(operation)
    if code in BY_SHAPES:
        return True
    count = library.count_of("LiteRtGetNumOpInputs", operation)
    positions = BY_CONSTANTS.get(code)
    return positions is not None and all(
        position < count and library.is_constant(library.handle_of("LiteRtGetOpInput", operation, position))
        for position in positions
    )
