"""The nodes that check the arguments of one operation, and end a run with INVALID_ARGUMENT where a value is refused.

    body = Assertions(b"Fill/guard", None, 1 << 24)
    body.check(check, [b"dims"], attributes)    the name of the Assert on which the operation must depend
    body.nodes                                  NodeDefs to add to the graph

All computations are in float64, so that no product overflows.
"""

from collections.abc import Mapping

from serving.savedmodel.protobuf import each_field, last_field, number_field, read_varint
from serving.savedmodel.safety.guards import Check, Part
from serving.savedmodel.safety.rewrite import DOUBLE, INT32, STRING, constant, node, of_number, of_type, of_types

Attributes = Mapping[str, memoryview]

BOOL, LONG = 10, 9
APART = 1e-37  # just above the least normal float32
SAYS = "the model takes {} from the request: expected {}"


def window(attributes: Attributes) -> list[int]:
    """Return the window sizes of a pooling layer with VALID padding, one for each dimension; else an empty list."""
    padding, ksize = (attributes.get(name, memoryview(b"")) for name in ("padding", "ksize"))
    if bytes(last_field(padding, 2)) != b"VALID":
        return []
    packed, sizes, position = last_field(last_field(ksize, 1), 3), [], 0
    while position < len(packed):
        size, position = read_varint(packed, position)
        sizes.append(size)
    return sizes


def checked(check: Check, count: int, attributes: Attributes) -> range | list[int]:
    """Return the positions of the arguments that are checked; `count` is the number of arguments."""
    if check.kind == "stitch":
        return range(count // 2)
    if check.kind == "partitions":
        return range(3, count)
    if check.kind == "shapes":
        listed = sum(_length(attributes, name) for name in ("ragged_values_types", "ragged_splits_types"))
        values = max(_length(attributes, name) for name in ("sparse_values_types", "sparse_types"))
        sparse = number_field(attributes.get("N") or attributes.get("Nsparse") or memoryview(b""), 3)
        return range(listed + sparse + values, min(listed + sparse + values + sparse, count))
    return [part.argument for part in check.values]


def _length(attributes: Attributes, name: str) -> int:
    return len(last_field(last_field(attributes.get(name, memoryview(b"")), 1), 6))  # a byte for each dtype


# The names of the outputs of the added operations: inside a function, a tensor is named by them.
_OUTPUTS = {
    b"Abs": b"y", b"AddV2": b"z", b"All": b"output", b"Cast": b"y", b"Const": b"output", b"Equal": b"z",
    b"ExpandDims": b"output", b"FloorMod": b"z", b"Greater": b"z", b"GreaterEqual": b"z", b"Less": b"z",
    b"LessEqual": b"z", b"LogicalAnd": b"z", b"LogicalNot": b"y", b"Max": b"output", b"Maximum": b"z",
    b"Min": b"output", b"Mul": b"z", b"OnesLike": b"y", b"Prod": b"output", b"RealDiv": b"z", b"Reshape": b"output",
    b"Shape": b"output", b"Size": b"output", b"StridedSlice": b"output", b"Sub": b"z", b"Sum": b"output",
    b"TensorScatterUpdate": b"output",
}  # fmt: skip
_T = {b"T": of_type(DOUBLE)}


class Assertions:
    """The nodes that are added before one operation."""

    def __init__(self, stem: bytes, arguments: set[bytes] | None, most: int) -> None:
        """Prefix the names with `stem`; `arguments` are the function's, None in the main graph."""
        self.nodes: list[bytes] = []
        self._stem, self._arguments, self._most = stem, arguments, most
        self._after: list[bytes] = []
        self._inputs: list[bytes] = []
        self._attributes: Attributes = {}

    def check(self, check: Check, inputs: list[bytes], attributes: Attributes) -> bytes:
        """Add a check, and return the name of its Assert."""
        self._inputs, self._attributes = inputs, attributes
        positions = checked(check, len(inputs), attributes)
        first = inputs[positions[0]]
        name = first.partition(b":")[0]
        # A constant gets its loop frame from a control input: the value that it is compared with.
        self._after = [] if self._arguments is not None and name in self._arguments else [b"^" + name]
        good, what, expected = getattr(self, check.kind)(check)
        message = self.constant(SAYS.format(what, expected).encode())
        dtype = self.code(check.values[0].dtype) if check.values else LONG
        if check.kind == "stitch":
            dtype = INT32
        elif check.kind == "partitions":
            dtype = self.code("Tindex")
        types = {b"T": of_types(STRING, dtype), b"summarize": of_number(8)}
        return self.add(b"Assert", [good, message, first], types, output=False)

    def add(self, op: bytes, inputs: list[bytes], attributes: Mapping[bytes, bytes] = _T, output: bool = True) -> bytes:
        name = self._stem + b"_%d" % len(self.nodes)
        self.nodes.append(node(name, op, inputs, attributes))
        if not output:
            return name
        return name + b":" + _OUTPUTS[op] + b":0" if self._arguments is not None else name

    def constant(self, value: float | bytes | tuple[int, ...]) -> bytes:
        dtype, tensor = constant(value)
        return self.add(b"Const", self._after, {b"dtype": of_type(dtype), b"value": tensor})

    def code(self, dtype: str) -> int:
        """Return the dtype of an argument: a code, or an attribute and its default."""
        name, _, default = dtype.partition("=")
        if name.isdecimal():
            return int(name)
        return number_field(self._attributes.get(name, memoryview(b"")), 6) or int(default or 0)

    def double(self, argument: int, dtype: str) -> bytes:
        cast = {b"SrcT": of_type(self.code(dtype)), b"DstT": of_type(DOUBLE)}
        return self.add(b"Cast", [self._inputs[argument]], cast)

    def values(self, part: Part) -> bytes:
        """Return an argument's values, flattened."""
        flat = [self.double(part.argument, part.dtype), self.constant((-1,))]
        return self.cut(self.add(b"Reshape", flat, {**_T, b"Tshape": of_type(INT32)}), part.cut)

    def cut(self, values: bytes, cut: tuple[int | None, int | None, int]) -> bytes:
        begin, end, step = cut
        if cut == (None, None, 1):
            return values
        positions = [self.constant((position,)) for position in (begin or 0, end or 0, step)]
        masks = {b"begin_mask": of_number(begin is None), b"end_mask": of_number(end is None)}
        return self.add(b"StridedSlice", [values, *positions], {**_T, b"Index": of_type(INT32), **masks})

    def shape(self, part: Part) -> bytes:
        given = {b"T": of_type(self.code(part.dtype)), b"out_type": of_type(LONG)}
        sizes = self.add(b"Shape", [self._inputs[part.argument]], given)
        cast = {b"SrcT": of_type(LONG), b"DstT": of_type(DOUBLE)}
        return self.cut(self.add(b"Cast", [sizes], cast), part.cut)

    def reduce(self, op: bytes, values: bytes) -> bytes:
        attributes = {b"Tidx": of_type(INT32)} if op == b"All" else {**_T, b"Tidx": of_type(INT32)}
        return self.add(op, [values, self.constant((0,))], attributes)

    def product(self, sizes: bytes) -> bytes:
        """Return the product; a 0 counts as 1, since the other sizes still cost time."""
        return self.reduce(b"Prod", self.add(b"Maximum", [sizes, self.constant(1.0)]))

    def all(self, compared: bytes, first: bytes, second: bytes) -> bytes:
        return self.reduce(b"All", self.add(compared, [first, second]))

    def both(self, *conditions: bytes) -> bytes:
        good = conditions[0]
        for condition in conditions[1:]:
            good = self.add(b"LogicalAnd", [good, condition], {})
        return good

    def few(self, check: Check, size: bytes) -> bytes:
        """Return whether the result is small enough; its size is `size` times and by the other parts of the check."""
        for part in check.beside:
            size = self.add(b"Mul", [size, self.product(self.shape(part))])
        if check.per:
            size = self.add(b"RealDiv", [size, self.product(self.shape(check.per))])
        return self.add(b"LessEqual", [size, self.constant(float(self._most // check.weight))])

    # The kinds of checks: each returns (condition, what is checked, what is expected).

    def sizes(self, check: Check) -> tuple[bytes, str, str]:
        least, size, conditions = self.constant(float(check.least)), b"", []
        for part in check.values:
            values = self.values(part)
            conditions.append(self.all(b"GreaterEqual", values, least))
            product = self.product(values)
            size = self.add(b"Mul", [size, product]) if size else product
        most = f"{check.least} or more, and at most {self._most // check.weight} elements in the result"
        return self.both(*conditions, self.few(check, size)), "sizes", most

    def reshape(self, check: Check) -> tuple[bytes, str, str]:
        values = self.values(check.values[0])
        small = self.add(b"Maximum", [self.constant(float(self._most)), self.product(self.shape(check.beside[0]))])
        good = self.both(
            self.all(b"GreaterEqual", values, self.constant(-1.0)),
            self.add(b"LessEqual", [self.product(values), small]),
        )
        return good, "a shape", f"sizes of -1 or more, and at most {self._most} as their product"

    def indices(self, check: Check) -> tuple[bytes, str, str]:
        values = self.values(check.values[0])
        rows = self.add(b"AddV2", [self.reduce(b"Max", values), self.constant(1.0)])
        good = self.both(self.all(b"GreaterEqual", values, self.constant(0.0)), self.few(check, rows))
        return good, "indices", f"0 or more, and at most {self._most // check.weight} elements up to the largest"

    def total(self, check: Check) -> tuple[bytes, str, str]:
        values = self.values(check.values[0])
        good = self.both(
            self.all(b"GreaterEqual", values, self.constant(0.0)), self.few(check, self.reduce(b"Sum", values))
        )
        return good, "lengths", f"0 or more, and at most {self._most} elements in all"

    def padding(self, check: Check) -> tuple[bytes, str, str]:
        paddings = self.double(check.values[0].argument, check.values[0].dtype)
        added = self.add(b"Sum", [paddings, self.constant((1,))], {**_T, b"Tidx": of_type(INT32)})
        size = self.product(self.add(b"AddV2", [self.shape(check.beside[0]), added]))
        good = self.both(
            self.all(b"GreaterEqual", self.values(check.values[0]), self.constant(0.0)),
            self.few(check._replace(beside=()), size),
        )
        return good, "paddings", f"0 or more, and at most {self._most} elements with them"

    def blocks(self, check: Check) -> tuple[bytes, str, str]:
        """Check the paddings of the dimensions after the first, one dimension for each padding."""
        shape, paddings = self.shape(check.beside[0]), self.double(check.values[0].argument, check.values[0].dtype)
        added = self.add(b"Sum", [paddings, self.constant((1,))], {**_T, b"Tidx": of_type(INT32)})
        end = self.add(b"AddV2", [self._length(added), self.constant(1.0)])
        end = self.add(b"Cast", [end], {b"SrcT": of_type(DOUBLE), b"DstT": of_type(INT32)})
        end = self.add(b"Reshape", [end, self.constant((1,))], {b"T": of_type(INT32), b"Tshape": of_type(INT32)})
        step = self.constant((1,))
        padded = self.add(b"StridedSlice", [shape, step, end, step], {**_T, b"Index": of_type(INT32)})
        size = self.add(b"RealDiv", [self.product(shape), self.product(padded)])
        size = self.add(b"Mul", [size, self.product(self.add(b"AddV2", [padded, added]))])
        good = self.both(
            self.all(b"GreaterEqual", self.values(check.values[0]), self.constant(0.0)),
            self.few(check._replace(beside=()), size),
        )
        return good, "paddings", f"0 or more, and at most {self._most} elements with them"

    def square(self, check: Check) -> tuple[bytes, str, str]:
        return self.few(check, self.constant(1.0)), "a diagonal", f"at most {self._most} elements in its matrices"

    def rank(self, check: Check) -> tuple[bytes, str, str]:
        size = self._length(self.shape(check.values[0]))
        good = self.add(b"Equal" if check.exact else b"GreaterEqual", [size, self.constant(float(check.least))])
        return good, "a tensor", f"{check.least} dimensions{'' if check.exact else ' or more'}"

    def window(self, check: Check) -> tuple[bytes, str, str]:
        least = window(self._attributes)
        minimum = self.add(b"Cast", [self.constant(tuple(least))], {b"SrcT": of_type(INT32), b"DstT": of_type(DOUBLE)})
        good = self.all(b"GreaterEqual", self.shape(check.values[0]), minimum)
        return good, "a tensor", f"{' x '.join(map(str, least))} or more, the window of a pooling layer"

    def count(self, check: Check) -> tuple[bytes, str, str]:
        size = self._length(self.values(check.values[0]))
        good = self.add(b"Equal" if check.exact else b"GreaterEqual", [size, self.constant(float(check.least))])
        return good, "a list", f"{check.least} elements{'' if check.exact else ' or more'}"

    def under(self, check: Check) -> tuple[bytes, str, str]:
        updates, indices = (self._length(self.shape(part)) for part in check.values)
        good = self.add(b"GreaterEqual", [self.add(b"AddV2", [updates, self.constant(1.0)]), indices])
        return good, "updates", "as many dimensions as the indices have, but the last"

    def range(self, check: Check) -> tuple[bytes, str, str]:
        start, limit, delta = map(self.values, check.values)
        count = self.add(b"RealDiv", [self.add(b"Sub", [limit, start]), delta])
        count = self.reduce(b"Sum", self.add(b"Maximum", [count, self.constant(0.0)]))
        return self.few(check, count), "the limits of a range", f"at most {self._most} numbers between them"

    def filled(self, check: Check) -> tuple[bytes, str, str]:
        good = self.all(b"GreaterEqual", self.shape(check.values[0]), self.constant(1.0))
        return good, "a tensor", "an element at least in each of its rows"

    def apart(self, check: Check) -> tuple[bytes, str, str]:
        """Check the largest difference between the channels of each pixel: dividing by it must not overflow."""
        values, last = self.double(check.values[0].argument, check.values[0].dtype), self.constant((-1,))
        most, least = (self.add(op, [values, last], {**_T, b"Tidx": of_type(INT32)}) for op in (b"Max", b"Min"))
        apart = self.add(b"Reshape", [self.add(b"Sub", [most, least]), last], {**_T, b"Tshape": of_type(INT32)})
        above = self.add(b"Greater", [apart, self.constant(0.0)])
        below = self.add(b"Less", [apart, self.constant(APART)])
        good = self.reduce(b"All", self.add(b"LogicalNot", [self.add(b"LogicalAnd", [above, below], {})], {}))
        return good, "pixels", f"channels that are equal, or differ by {APART} or more"

    def bounded(self, check: Check) -> tuple[bytes, str, str]:
        values = self.add(b"Abs", [self.values(check.values[0])])
        good = self.all(b"LessEqual", values, self.constant(float(check.least)))
        return good, "an amount", f"a number from -{check.least} to {check.least}"

    def within(self, check: Check) -> tuple[bytes, str, str]:
        values, most = self.values(check.values[0]), self.reduce(b"Prod", self.shape(check.beside[0]))
        good = self.both(self.all(b"GreaterEqual", values, self.constant(0.0)), self.all(b"LessEqual", values, most))
        return good, "a number of steps", "0 or more, and no more than there are"

    def inside(self, check: Check) -> tuple[bytes, str, str]:
        indices, sizes = (self.double(part.argument, part.dtype) for part in check.values)
        flat = {**_T, b"Tshape": of_type(INT32)}
        low = self.add(
            b"Reshape", [self.add(b"Less", [indices, sizes]), self.constant((-1,))], {**flat, b"T": of_type(BOOL)}
        )
        good = self.both(
            self.all(b"GreaterEqual", self.values(check.values[0]), self.constant(0.0)), self.reduce(b"All", low)
        )
        return good, "indices", "every one inside the shape"

    def reduced(self, check: Check) -> tuple[bytes, str, str]:
        sizes, axes = map(self.values, check.values)
        rank = self.add(b"Size", [sizes], {**_T, b"out_type": of_type(INT32)})
        rank = self.add(b"Cast", [rank], {b"SrcT": of_type(INT32), b"DstT": of_type(DOUBLE)})
        positions = self.add(b"FloorMod", [axes, rank])
        positions = self.add(b"Cast", [positions], {b"SrcT": of_type(DOUBLE), b"DstT": of_type(INT32)})
        positions = self.add(
            b"ExpandDims", [positions, self.constant((1,))], {b"T": of_type(INT32), b"Tdim": of_type(INT32)}
        )
        update = [sizes, positions, self.add(b"OnesLike", [axes])]
        kept = self.add(b"TensorScatterUpdate", update, {**_T, b"Tindices": of_type(INT32)})
        good = self.both(self.all(b"GreaterEqual", sizes, self.constant(0.0)), self.few(check, self.product(kept)))
        return good, "sizes", f"0 or more, and at most {self._most} elements in the result"

    def stitch(self, check: Check) -> tuple[bytes, str, str]:
        half, conditions = len(self._inputs) // 2, []
        for position in range(half):
            indices = Part(position, "3")
            one_check = check._replace(values=(indices,), beside=(Part(half + position, "T"),), per=indices)
            conditions.append(self.indices(one_check)[0])
        return self.both(*conditions), "indices", f"0 or more, and at most {self._most} elements up to the largest"

    def shapes(self, check: Check) -> tuple[bytes, str, str]:
        conditions = []
        for position in checked(check, len(self._inputs), self._attributes):
            conditions.append(self.sizes(check._replace(values=(Part(position, "9", (None, 1, 1)),)))[0])
        return self.both(*conditions), "the number of rows", f"0 or more, and at most {self._most}"

    def partitions(self, _check: Check) -> tuple[bytes, str, str]:
        """Check that row splits, or the row of each value, fit their values, from the outermost to the innermost."""
        listed = last_field(self._attributes.get("row_partition_types", memoryview(b"")), 1)
        kinds = [bytes(kind) for kind in each_field(listed, 2)]
        partitions = [self.values(Part(3 + position, "Tindex")) for position in range(len(kinds))]
        conditions = []
        for position, (kind, values) in enumerate(zip(kinds, partitions)):
            following = kinds[position + 1] if position + 1 < len(kinds) else b""
            conditions.append(self.all(b"GreaterEqual", values, self.constant(0.0)))
            if kind == b"FIRST_DIM_SIZE":
                continue
            later, earlier = self.cut(values, (1, None, 1)), self.cut(values, (None, -1, 1))
            conditions.append(self.all(b"GreaterEqual", later, earlier))
            count = self._count(partitions[position + 1] if following else b"", following)
            if kind == b"ROW_SPLITS":
                last = self.cut(values, (-1, None, 1))
                conditions.append(self.all(b"Equal", self.cut(values, (None, 1, 1)), self.constant(0.0)))
                conditions.append(self.all(b"Equal", last, count) if count else self.all(b"GreaterEqual", last, last))
                conditions.append(self.add(b"GreaterEqual", [self._length(values), self.constant(1.0)]))
            elif count:
                conditions.append(self.add(b"Equal", [self._length(values), count]))
        return self.both(*conditions), "row splits", "such as never decrease and end with the rows that they part"

    def _count(self, following: bytes, kind: bytes) -> bytes:
        """Return the number of rows in the next partition or the values; b"" where VALUE_ROWIDS leave it open."""
        if kind == b"VALUE_ROWIDS":
            return b""
        if kind == b"ROW_SPLITS":
            return self.add(b"Sub", [self._length(following), self.constant(1.0)])
        return self.reduce(b"Prod", self.shape(Part(1, "T", (None, 1, 1))))

    def _length(self, values: bytes) -> bytes:
        size = self.add(b"Size", [values], {**_T, b"out_type": of_type(INT32)})
        return self.add(b"Cast", [size], {b"SrcT": of_type(INT32), b"DstT": of_type(DOUBLE)})
