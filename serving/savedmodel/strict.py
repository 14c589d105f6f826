"""Refuse a saved_model.pb that two parsers could read differently.

Protobuf merges a message written in parts, skips a known field with another wire type and takes the last of two map
entries; a parser of a few fields handles each of these differently. No protobuf writer produces such bytes, so they are
refused before anything else reads the file, and every parser after this check reads what TensorFlow reads.

    check(data)         raises ValueError: NodeDef.attr at byte 5120: the key b'dtype' appears twice
"""

from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import mmap

DEEPEST = 100  # nested messages, the limit of protobuf's own parsers
KNOWN_BYTES = 256  # messages up to this size are cached once they are checked
KNOWN_MOST = 1 << 16  # cached messages of a type

# A message type and its fields, name:number:type, as TensorFlow's .proto files have them. A type ends with * where the
# field is repeated, with # where its elements also differ in their first field (maps, nodes, functions). Fields behind
# a bar are the members of one oneof. `message` is a message that no reader here looks into.
TYPES = """
SavedModel         saved_model_schema_version:1:int64 meta_graphs:2:MetaGraphDef*
MetaGraphDef       meta_info_def:1:MetaInfoDef graph_def:2:GraphDef saver_def:3:SaverDef
                   collection_def:4:CollectionEntry# signature_def:5:SignatureEntry# asset_file_def:6:AssetFileDef*
                   object_graph_def:7:message
MetaInfoDef        meta_graph_version:1:string stripped_op_list:2:message any_info:3:message tags:4:string#
                   tensorflow_version:5:string tensorflow_git_version:6:string stripped_default_attrs:7:bool
                   function_aliases:8:StringEntry#
CollectionEntry    key:1:string value:2:CollectionDef
CollectionDef      | node_list:1:NodeList bytes_list:2:BytesList int64_list:3:Int64List float_list:4:FloatList
                   any_list:5:AnyList
NodeList           value:1:string*
BytesList          value:1:bytes*
Int64List          value:1:packed
FloatList          value:1:packed
AnyList            value:1:Any*
Any                type_url:1:string value:2:bytes
AssetFileDef       tensor_info:1:TensorInfo filename:2:string
SignatureEntry     key:1:string value:2:SignatureDef
SignatureDef       inputs:1:TensorEntry# outputs:2:TensorEntry# method_name:3:string defaults:4:DefaultEntry#
TensorEntry        key:1:string value:2:TensorInfo
DefaultEntry       key:1:string value:2:TensorProto
TensorInfo         dtype:2:int32 tensor_shape:3:TensorShapeProto
                   | name:1:string coo_sparse:4:CooSparse composite_tensor:5:CompositeTensor
CooSparse          values_tensor_name:1:string indices_tensor_name:2:string dense_shape_tensor_name:3:string
CompositeTensor    type_spec:1:message components:2:TensorInfo*
TensorShapeProto   dim:2:Dim* unknown_rank:3:bool
Dim                size:1:int64 name:2:string
TensorProto        dtype:1:int32 tensor_shape:2:TensorShapeProto version_number:3:int32 tensor_content:4:bytes
                   float_val:5:packed double_val:6:packed int_val:7:packed string_val:8:bytes* scomplex_val:9:packed
                   int64_val:10:packed bool_val:11:packed dcomplex_val:12:packed half_val:13:packed
                   resource_handle_val:14:message* variant_val:15:message* uint32_val:16:packed uint64_val:17:packed
                   float8_val:18:bytes
SaverDef           filename_tensor_name:1:string save_tensor_name:2:string restore_op_name:3:string max_to_keep:4:int32
                   sharded:5:bool keep_checkpoint_every_n_hours:6:float version:7:int32
GraphDef           node:1:NodeDef# library:2:FunctionDefLibrary version:3:int32 versions:4:message debug_info:5:message
NodeDef            name:1:string op:2:string input:3:string* device:4:string attr:5:AttrEntry#
                   experimental_debug_info:6:message experimental_type:7:message
AttrEntry          key:1:string value:2:AttrValue
AttrValue          | list:1:ListValue s:2:bytes i:3:int64 f:4:float b:5:bool type:6:int32 shape:7:TensorShapeProto
                   tensor:8:TensorProto placeholder:9:string func:10:NameAttrList
ListValue          s:2:bytes* i:3:packed f:4:packed b:5:packed type:6:packed shape:7:TensorShapeProto*
                   tensor:8:TensorProto* func:9:NameAttrList*
NameAttrList       name:1:string attr:2:AttrEntry#
FunctionDefLibrary function:1:FunctionDef# gradient:2:GradientDef# registered_gradients:3:message*
GradientDef        function_name:1:string gradient_func:2:string
FunctionDef        signature:1:OpDef node_def:3:NodeDef# ret:4:StringEntry# attr:5:AttrEntry# control_ret:6:StringEntry#
                   arg_attr:7:message* resource_arg_unique_id:8:message*
StringEntry        key:1:string value:2:string
OpDef              name:1:string input_arg:2:ArgDef# output_arg:3:ArgDef# attr:4:message* summary:5:string
                   description:6:string deprecation:8:message is_stateful:17:bool is_aggregate:16:bool
                   is_commutative:18:bool allows_uninitialized_input:19:bool control_output:20:string*
                   is_distributed_communication:21:bool
ArgDef             name:1:string description:2:string type:3:int32 type_attr:4:string number_attr:5:string
                   type_list_attr:6:string is_ref:16:bool handle_data:7:message* experimental_full_type:17:message
"""
WIRES = {"int64": 0, "int32": 0, "bool": 0, "float": 5}  # all others are 2, with a length before them


class Field(NamedTuple):
    """One field of a message type."""

    name: str
    once: int  # the bit of a field, or of a oneof, that may stand once; 0 for a repeated field
    type: str
    unique: bool  # its elements differ in their first field


class Odd(ValueError):
    """Bytes that no protobuf writer produces; the text says where they are and what is wrong."""


def check(data: "bytes | mmap.mmap", type_: str = "SavedModel") -> None:
    """Raise Odd, a ValueError, where parsers could read a serialized message differently."""
    reader = _Reader(data)
    try:
        reader.message(type_, 0, len(data), 0)
    except IndexError:
        raise Odd("it ends in the middle of a field") from None
    if len(set(reader.tags)) < len(reader.tags):
        ((repeated, _),) = Counter(reader.tags).most_common(1)
        tags = ", ".join(sorted(str(tag, "utf-8") for tag in repeated)) or "none"
        raise Odd(f"two graphs have the same tags ({tags})")


def parsed(text: str) -> dict[str, dict[int, Field]]:
    """Return the fields of each message type by their key on the wire: number << 3 | wire type."""
    types: dict[str, dict[int, Field]] = {}
    fields: dict[int, Field] = {}
    bit = oneof = 0
    for word in text.split():
        if word == "|":
            oneof = bit = bit + 1
        elif ":" not in word:
            fields = types[word] = {}
            bit = oneof = 0
        else:
            name, number, kind = word.split(":")
            many = kind[-1] in "*#"
            bit += not (many or oneof)
            once = 0 if many else 1 << (oneof or bit)
            plain = kind.rstrip("*#")
            fields[int(number) << 3 | WIRES.get(plain, 2)] = Field(name, once, plain, kind[-1] == "#")
    return types


FIELDS = parsed(TYPES)
_NUMBERS = {name: frozenset(key >> 3 for key in fields) for name, fields in FIELDS.items()}
_TAGS = next(key for key, field in FIELDS["MetaInfoDef"].items() if field.name == "tags")
_NAMED = frozenset({"ArgDef", "AttrEntry", "StringEntry"})  # their name is the first field
_ARGUMENT_NAMED = FIELDS["ArgDef"][0x0A].once
_NODE_NAMED = sum({FIELDS["NodeDef"][key].once for key in (0x0A, 0x12)})  # its name and its operation come first


class _Reader:
    def __init__(self, data: "bytes | mmap.mmap") -> None:
        self._data = data
        # By type: the messages that passed the check, and the first field of each.
        self._good: dict[str, dict[bytes, bytes]] = {name: {} for name in FIELDS}
        self._arguments: set[bytes] = set()  # what passed after the name of an ArgDef
        self.tags: list[frozenset[bytes]] = []

    def message(self, type_: str, position: int, end: int, depth: int, seen: int = 0) -> bytes:
        """Check a message, and return its first field, its name or key; `seen`: bits (`Field.once`) of those before."""
        if depth > DEEPEST:
            raise Odd(f"{type_} at byte {position}: more than {DEEPEST} messages inside each other")
        data, fields, name = self._data, FIELDS[type_], b""
        names: dict[int, set[bytes]] = {}
        while position < end:
            start = position
            key, position = data[position], position + 1
            if key > 0x7F:
                key, position = self._number(start, end)
            field = fields.get(key)
            if field is None:
                position = self._unknown(type_, key, start, position, end)
                continue
            if seen & field.once:
                raise Odd(f"{type_}.{field.name} at byte {start}: it appears twice, or together with another value")
            seen |= field.once
            if key & 7 != 2:
                position = self._scalar(field, position, end)
                continue
            size, position = data[position], position + 1
            if size > 0x7F:
                size, position = self._number(position - 1, end)
            begin, position = position, position + size
            if position > end:
                raise Odd(f"{type_}.{field.name} at byte {start}: it runs past the end")
            kind = field.type
            if kind == "string":
                text = data[begin:position]
                if not text.isascii():
                    _check_text(text, begin)
            elif kind == "NodeDef":
                text = self._node(begin, position, depth)
            elif kind in FIELDS:
                text = self._inside(kind, begin, position, depth)
            else:
                continue
            if key == 0x0A:
                name = text
            if field.unique:
                before = names.setdefault(key, set())
                if text in before:
                    raise Odd(f"{type_}.{field.name} at byte {start}: the key {text[:80]!r} appears twice")
                before.add(text)
        if type_ == "MetaInfoDef":
            self.tags.append(frozenset(names.get(_TAGS, ())))
        return name

    def _inside(self, kind: str, position: int, stop: int, depth: int) -> bytes:
        """Check the message in a field; most small messages, usually attributes, appear many times in a graph."""
        if stop - position > KNOWN_BYTES or kind == "MetaInfoDef":
            return self.message(kind, position, stop, depth + 1)
        known, data = self._good[kind], self._data[position:stop]
        name = known.get(data)
        if name is None:
            name = self._usual(kind, data, position, depth)
            if name is None:
                name = self.message(kind, position, stop, depth + 1)
            if len(known) < KNOWN_MOST:
                known[data] = name
        return name

    def _usual(self, kind: str, data: bytes, position: int, depth: int) -> bytes | None:
        """Return what `message` returns, faster, for a small message in the usual form; None for any other."""
        size = len(data)
        if size < 2 or data[1] > 0x7F or depth > DEEPEST - 2:
            return None
        if kind == "AttrValue":
            return b"" if data[0] == 0x12 and data[1] == size - 2 else None  # AttrValue.s
        if kind not in _NAMED or data[0] != 0x0A or data[1] > size - 2:
            return None
        behind = data[1] + 2
        name, rest = data[2:behind], data[behind:]
        if not name.isascii():
            return None
        if kind == "ArgDef":
            if rest not in self._arguments:
                self.message(kind, position + behind, position + size, depth + 1, _ARGUMENT_NAMED)
                self._arguments.add(rest)
        elif len(rest) < 2 or rest[0] != 0x12 or rest[1] != len(rest) - 2 or rest[1] > 0x7F:
            return None
        elif kind == "AttrEntry":
            self._inside("AttrValue", position + behind + 2, position + size, depth + 1)
        elif not rest.isascii():
            return None
        return name

    def _node(self, position: int, end: int, depth: int) -> bytes:
        """Check a NodeDef, the bulk of a file: name, operation and inputs, then the rest, which many nodes share."""
        data, start, name = self._data, position, b""
        for key in (0x0A, 0x12, 0x1A):
            while position < end and data[position] == key:
                size, after = data[position + 1], position + 2
                if size > 0x7F:
                    size, after = self._number(position + 1, end)
                position = after + size
                if key == 0x1A:
                    continue
                if key == 0x0A:
                    name = data[after:position]
                break
        if position > end:
            raise Odd(f"NodeDef at byte {start}: a field runs past the end")
        if not data[start:position].isascii():  # text of other scripts, or more than 127 bytes of it
            self.message("NodeDef", start, position, depth + 1)
        known, rest = self._good["NodeDef"], data[position : min(end, position + KNOWN_BYTES * 4)]
        if position + len(rest) < end or rest not in known:
            self.message("NodeDef", position, end, depth + 1, _NODE_NAMED)
            if position + len(rest) == end and len(known) < KNOWN_MOST:
                known[rest] = b""
        return name

    def _scalar(self, field: Field, position: int, end: int) -> int:
        if field.type == "float":
            if position + 4 > end:
                raise Odd(f"{field.name} at byte {position}: it runs past the end")
            return position + 4
        value, after = self._number(position, end)
        if field.type == "bool" and value > 1:
            raise Odd(f"{field.name} at byte {position}: expected a bool, got {value}")
        if field.type == "int32" and 1 << 31 <= value < (1 << 64) - (1 << 31):
            raise Odd(f"{field.name} at byte {position}: expected 32 bits, got {value}")
        return after

    def _number(self, position: int, end: int) -> tuple[int, int]:
        """Read a number of seven bits a byte, the lowest first, as short as it can be written."""
        data, start, value, shift = self._data, position, 0, 0
        while position < end:
            byte = data[position]
            position += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                if (shift and not byte) or value >= 1 << 64:
                    raise Odd(f"byte {start}: a number that is longer than its value needs, or too large")
                return value, position
            shift += 7
            if shift == 70:
                break
        raise Odd(f"byte {start}: a number of more than ten bytes, or cut off")

    def _unknown(self, type_: str, key: int, start: int, position: int, end: int) -> int:
        """Skip a field that only a later version of TensorFlow has, as both parsers do.

        In the entry of a map it is refused: it has a key and a value only, and protobuf's libraries differ there.
        """
        number, wire = key >> 3, key & 7
        if number in _NUMBERS[type_]:
            raise Odd(f"{type_} at byte {start}: field {number} has the wire type {wire}, which is another type's")
        if not 0 < number < 1 << 29 or wire not in (0, 1, 2, 5) or type_.endswith("Entry"):
            raise Odd(f"{type_} at byte {start}: field {number} of wire type {wire}, which protobuf does not write")
        if wire == 0:
            return self._number(position, end)[1]
        size = 4 if wire == 5 else 8
        if wire == 2:
            size, position = self._number(position, end)
        if position + size > end:
            raise Odd(f"{type_} at byte {start}: field {number} runs past the end")
        return position + size


def _check_text(text: bytes, position: int) -> None:
    try:
        text.decode()
    except UnicodeDecodeError:
        raise Odd(f"byte {position}: expected text in UTF-8") from None
