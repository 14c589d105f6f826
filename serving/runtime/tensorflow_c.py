"""TensorFlow's C library through ctypes: library, session, tensors, status. Nothing else knows ctypes.

The interface is TensorFlow's public one, tensorflow/c/c_api.h, tf_tensor.h, tf_status.h and tf_tstring.h; names are
verbatim. The wheel carries the library; its Python package stays unimported.

Opening the library before a fork is fine. A session is not: TensorFlow's threads, shared by all sessions, do not
survive a fork, and the next run hangs for ever. So once a process has opened a session, its children may open none.
"""

import ctypes
import importlib.util
import math
import os
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from ctypes import POINTER, c_char, c_char_p, c_int, c_int64, c_size_t, c_void_p
from dataclasses import replace
from functools import cache, lru_cache
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from serving.core.dtypes import BY_CODE, DType
from serving.core.errors import LoadError, RunError
from serving.core.telemetry import phases
from serving.savedmodel.initialization import LOST, NOTHING, Copy, Initialization
from serving.savedmodel.protobuf import write_varint
from serving.savedmodel.signature import Signature, TensorSpec

NAME = "TensorFlow's C library"

CODES = (
    "OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS",
    "PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE", "UNIMPLEMENTED",
    "INTERNAL", "UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED",
)  # fmt: skip

TF_STRING = 7
TSTRING_BYTES = 24  # sizeof(TF_TString), tf_tstring.h

# Arrays of at least so many bytes are handed to TensorFlow as they are; smaller ones are copied, which is cheaper
# than calling back into Python when TensorFlow lets go of them.
SHARED_BYTES = 1 << 16


class TF_Status(ctypes.Structure): ...


class TF_SessionOptions(ctypes.Structure): ...


class TF_Graph(ctypes.Structure): ...


class TF_Session(ctypes.Structure): ...


class TF_Operation(ctypes.Structure): ...


class TF_OperationDescription(ctypes.Structure): ...


class TF_Library(ctypes.Structure): ...


class TF_Buffer(ctypes.Structure):
    """Bytes of the library's."""

    _fields_ = [("data", c_void_p), ("length", c_size_t), ("data_deallocator", c_void_p)]


Status = POINTER(TF_Status)
SessionOptions = POINTER(TF_SessionOptions)
Graph = POINTER(TF_Graph)
SessionHandle = POINTER(TF_Session)
Operation = POINTER(TF_Operation)
Description = POINTER(TF_OperationDescription)
Tensor = c_void_p  # of TF_Tensor; a typed pointer takes twice as long to read and to pass, a dozen times a call
Library = POINTER(TF_Library)
Buffer = POINTER(TF_Buffer)


class TF_Output(ctypes.Structure):
    """One output of an operation."""

    _fields_ = [("oper", Operation), ("index", c_int)]


Deallocator = ctypes.CFUNCTYPE(None, c_void_p, c_size_t, c_void_p)

# fmt: off
SLOW = (  # the interpreter's lock is released while they run
    ("TF_LoadSessionFromSavedModel", SessionHandle,
        SessionOptions, c_void_p, c_char_p, POINTER(c_char_p), c_int, Graph, c_void_p, Status),
    ("TF_SessionRun",           None,
        SessionHandle, c_void_p, POINTER(TF_Output), POINTER(Tensor), c_int,
        POINTER(TF_Output), POINTER(Tensor), c_int, c_void_p, c_int, c_void_p, Status),
    ("TF_CloseSession",         None,       SessionHandle, Status),
    ("TF_DeleteSession",        None,       SessionHandle, Status),
    ("TF_DeleteGraph",          None,       Graph),
    ("TF_LoadLibrary",          Library,    c_char_p, Status),
)
QUICK = (  # shorter than handing the lock over
    ("TF_Version",              c_char_p),
    ("TF_NewStatus",            Status),
    ("TF_DeleteStatus",         None,       Status),
    ("TF_GetCode",              c_int,      Status),
    ("TF_Message",              c_char_p,   Status),
    ("TF_NewSessionOptions",    SessionOptions),
    ("TF_SetConfig",            None,       SessionOptions, c_char_p, c_size_t, Status),
    ("TF_DeleteSessionOptions", None,       SessionOptions),
    ("TF_NewGraph",             Graph),
    ("TF_GraphOperationByName", Operation,  Graph, c_char_p),
    ("TF_OperationNumOutputs",  c_int,      Operation),
    ("TF_OperationOutputType",  c_int,      TF_Output),
    ("TF_GetAllOpList",         Buffer),
    ("TF_GetRegisteredKernelsForOp", Buffer, c_char_p, Status),
    ("TF_DeleteBuffer",         None,       Buffer),
    ("TF_GraphGetTensorNumDims", c_int,     Graph, TF_Output, Status),
    ("TF_GraphGetTensorShape",  None,       Graph, TF_Output, POINTER(c_int64), c_int, Status),
    ("TF_NewOperation",         Description, Graph, c_char_p, c_char_p),
    ("TF_AddInput",             None,       Description, TF_Output),
    ("TF_SetAttrType",          None,       Description, c_char_p, c_int),
    ("TF_FinishOperation",      Operation,  Description, Status),
    ("TF_NewTensor",            Tensor,     c_int, POINTER(c_int64), c_int, c_void_p, c_size_t, Deallocator, c_void_p),
    ("TF_AllocateTensor",       Tensor,     c_int, POINTER(c_int64), c_int, c_size_t),
    ("TF_DeleteTensor",         None,       Tensor),
    ("TF_TensorType",           c_int,      Tensor),
    ("TF_NumDims",              c_int,      Tensor),
    ("TF_Dim",                  c_int64,    Tensor, c_int),
    ("TF_TensorByteSize",       c_size_t,   Tensor),
    ("TF_TensorData",           c_void_p,   Tensor),
    ("TF_StringInit",           None,       c_void_p),
    ("TF_StringCopy",           None,       c_void_p, c_char_p, c_size_t),
    ("TF_StringGetDataPointer", c_void_p,   c_void_p),
    ("TF_StringGetSize",        c_size_t,   c_void_p),
    ("TF_StringDealloc",        None,       c_void_p),
)
# fmt: on


class Api:
    """The library's functions, each declared in full."""

    def __init__(self, path: Path) -> None:
        # Local, not global: with its symbols visible to all, importing numpy.random crashes. Through the loader's own
        # dlopen, which ctypes calls without the interpreter's lock: imports may go on in another thread.
        dlopen = ctypes.CDLL(None).dlopen
        dlopen.restype, dlopen.argtypes = c_void_p, (c_char_p, c_int)
        handle = dlopen(os.fsencode(path), os.RTLD_LOCAL | os.RTLD_NOW)
        library = ctypes.CDLL(str(path), mode=os.RTLD_LOCAL | os.RTLD_NOW, handle=handle)  # which says why it cannot
        quick = ctypes.PyDLL(str(path), handle=library._handle)
        for door, table in ((library, SLOW), (quick, QUICK)):
            for name, result, *arguments in table:
                function = getattr(door, name)
                function.restype, function.argtypes = result, arguments
                setattr(self, name, function)
        self.handle = library._handle
        # Without the declaration: what it checks in 12 arguments takes 3 µs, a quarter of a small model's run.
        self.run_unchecked = library["TF_SessionRun"]
        self.run_unchecked.restype = None

    def __getattr__(self, name: str) -> Callable[..., Any]:
        raise AttributeError(name)


def find(directory: Path | None = None) -> Path | None:
    """Return the library's path: in `directory`, else in the installed wheel; None where there is none."""
    if directory is None:
        spec = importlib.util.find_spec("tensorflow")  # finds the package, and does not import it
        if spec is None or not spec.submodule_search_locations:
            return None
        directory = Path(spec.submodule_search_locations[0])
    path = directory / "libtensorflow_cc.so.2"
    return path if path.is_file() else None


@lru_cache(maxsize=1)
def api(path: Path) -> Api:
    """Open the library, once a process; 0.2 s, most of a cold start."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # errors alone; read when the library is opened
    try:
        with phases.measured("library"):
            _read_ahead(path)
            return Api(path)
    except (OSError, AttributeError) as error:
        raise LoadError(f"{path.name} cannot be opened: {error}") from error


def _read_ahead(path: Path) -> None:
    """Ask for the pages that a first answer touches, where an image lists them: a disk gives many at once sooner.

    NAME.pages holds pairs of 64-bit numbers, the start and the size of a piece of the file NAME.
    """
    for listed in path.parent.glob("*.pages"):
        with suppress(OSError, struct.error), listed.with_suffix("").open("rb") as file:
            for start, size in struct.iter_unpack("<QQ", listed.read_bytes()):
                os.posix_fadvise(file.fileno(), start, size, os.POSIX_FADV_WILLNEED)


@contextmanager
def checked(tf: Api) -> Iterator[Any]:
    """Lend a status, and raise what it says at the end."""
    status = tf.TF_NewStatus()
    try:
        yield status
        if code := tf.TF_GetCode(status):
            raise run_error(code, tf.TF_Message(status))
    finally:
        tf.TF_DeleteStatus(status)


def run_error(code: int, text: bytes) -> RunError:
    """Return the error that a status of this code and this message is."""
    name = CODES[code] if code < len(CODES) else str(code)
    message = text.decode("utf-8", "backslashreplace")
    if "No OpKernel was registered" in message:
        name = "UNIMPLEMENTED"  # said as INVALID_ARGUMENT, though no input can mend it
    return RunError(name, message)


def load_custom_ops(tf: Api, libraries: Sequence[Path]) -> None:
    """Register the ops of custom-op libraries, once a process; they cannot be unloaded."""
    for path in libraries:
        _load_custom_op(tf, path)


@cache
def _load_custom_op(tf: Api, path: Path) -> None:
    try:
        with checked(tf) as status:
            tf.TF_LoadLibrary(os.fsencode(path), status)
    except RunError as error:
        raise LoadError(f"the custom-op library {path.name} cannot be loaded: {error}") from None


def unregistered(tf: Api, ops: Iterable[str]) -> list[str]:
    """Return which operations the library does not have, nor any custom-op library that was loaded."""
    listed = _taken(tf, tf.TF_GetAllOpList())  # of OpDefs, which begin with their names
    return [op for op in ops if b"\x0a" + write_varint(len(op.encode())) + op.encode() not in listed]


def without_kernel(tf: Api, ops: Iterable[str]) -> list[str]:
    """Return which operations the library knows and cannot run on a CPU."""
    found = []
    for op in ops:
        with checked(tf) as status:
            kernels = _taken(tf, tf.TF_GetRegisteredKernelsForOp(op.encode(), status))
        if not any(b"\x12" + write_varint(len(device)) + device in kernels for device in (b"CPU", b"DEFAULT")):
            found.append(op)
    return found


def _taken(tf: Api, buffer: Any) -> bytes:
    """Return what a buffer holds, and delete it."""
    try:
        return ctypes.string_at(buffer.contents.data, buffer.contents.length) if buffer.contents.length else b""
    finally:
        tf.TF_DeleteBuffer(buffer)


# allow_soft_placement: nodes that name a GPU, as builders of TensorFlow 1 leave them, run where there is none
SOFT_PLACEMENT = b"\x38\x01"
# graph_options { optimizer_options { opt_level: L0 } rewrite_options { disable_meta_optimizer: true } }
UNOPTIMIZED = bytes.fromhex("5212 1a0b18ffffffffffffffffff01 5203980101")


def config(intra_op_threads: int, inter_op_threads: int, *, optimize: bool = True) -> bytes:
    """Return a ConfigProto (tensorflow/core/protobuf/config.proto) with the numbers of threads set.

    Without `optimize` the graph runs as it is: MobileNetV2 baked answers its first call in 0.07 s and not in 0.26 s.
    """
    threads = b"\x10" + write_varint(intra_op_threads) + b"\x28" + write_varint(inter_op_threads)
    return threads + SOFT_PLACEMENT + (b"" if optimize else UNOPTIMIZED)


_used = False  # a session has been opened in this process, or in one that it was forked from
_forked = False  # this process was forked from one that had opened a session


def _after_fork() -> None:
    global _forked
    _forked = _used


os.register_at_fork(after_in_child=_after_fork)


class Session:
    """A loaded SavedModel. Calls may run in parallel; `close` only when none does."""

    def __init__(
        self, tf: Api, directory: Path, tags: Sequence[str], config: bytes, left: Initialization = NOTHING
    ) -> None:
        """Load the graph tagged exactly `tags`, and do what is left to do after that.

        Raise RunError where TensorFlow cannot.
        """
        global _used
        if _forked:
            raise LoadError(
                "TensorFlow was in use before this process was forked, and would hang: fork first, then load"
            )
        _used = True
        self._tf = tf
        self._lost = left.lost
        with ExitStack() as frees, checked(tf) as status:
            options = tf.TF_NewSessionOptions()
            frees.callback(tf.TF_DeleteSessionOptions, options)
            tf.TF_SetConfig(options, config, len(config), status)
            self._graph = tf.TF_NewGraph()
            with ExitStack() as undo:
                undo.callback(tf.TF_DeleteGraph, self._graph)
                names = (c_char_p * len(tags))(*[tag.encode() for tag in tags])
                self._session = tf.TF_LoadSessionFromSavedModel(
                    options, None, os.fsencode(directory), names, len(tags), self._graph, None, status
                )
                if self._session:
                    undo.pop_all()
        try:
            if left.copies:
                self._fill(left.copies)
            if left.operations:
                self._run(left.operations, {tensor: directory / "assets" / name for tensor, name in left.assets})
        except BaseException:
            self.close()
            raise

    def _fill(self, copies: Sequence[Copy]) -> None:
        """Assign to each variable the value of its copy; the two share the memory from then on."""
        names = []
        for position, copy in enumerate(copies):
            value = self._add("ReadVariableOp", f"fill/read_{position}", copy.dtype, self._endpoint(f"{copy.source}:0"))
            names.append(f"fill/assign_{position}")
            inputs = (self._endpoint(f"{copy.variable}:0"), TF_Output(value, 0))
            self._add("AssignVariableOp", names[-1], copy.dtype, *inputs)
        self._run(names, {})

    def _run(self, names: Sequence[str], paths: Mapping[str, Path]) -> None:
        """Run operations for what they do, where tensors are fed the paths of files."""
        tf = self._tf
        operations = [tf.TF_GraphOperationByName(self._graph, name.encode()) for name in names]
        if not all(operations):
            raise LoadError(f"it names an operation to load it by that the graph does not have: {', '.join(names)}")
        feeds = (TF_Output * len(paths))(*map(self._endpoint, paths))
        with ExitStack() as frees, checked(tf) as status:
            tensors = []
            for path in paths.values():
                text = np.empty((), object)
                text[()] = os.fsencode(path)
                tensors.append(to_tensor(tf, text, TF_STRING))
                frees.callback(tf.TF_DeleteTensor, tensors[-1])
            fed = (Tensor * len(tensors))(*tensors)
            targets = (Operation * len(operations))(*operations)
            tf.TF_SessionRun(
                self._session, None, feeds, fed, len(feeds), None, None, 0,
                ctypes.cast(targets, c_void_p), len(targets), None, status,
            )  # fmt: skip

    def _add(self, op: str, name: str, dtype: int, *inputs: TF_Output) -> Any:
        """Add an operation on a variable to the graph."""
        tf = self._tf
        with checked(tf) as status:
            description = tf.TF_NewOperation(self._graph, op.encode(), name.encode())
            for one in inputs:
                tf.TF_AddInput(description, one)
            tf.TF_SetAttrType(description, b"dtype", dtype)
            return tf.TF_FinishOperation(description, status)

    def declared(self, signature: Signature) -> Signature:
        """Return the signature with what the graph knows better: shapes that it lacks, and dtypes of its outputs."""
        try:
            inputs = {name: self._with_shape(spec) for name, spec in signature.inputs.items()}
            outputs = {name: self._with_dtype(spec) for name, spec in signature.outputs.items()}
        except LoadError:
            return signature  # of a tensor that is not there; the signature is refused for it
        return replace(signature, inputs=inputs, outputs=outputs)

    def _with_shape(self, spec: TensorSpec) -> TensorSpec:
        if spec.shape is not None:
            return spec
        tf, tensor = self._tf, self._endpoint(spec.tensor)
        with checked(tf) as status:
            rank = tf.TF_GraphGetTensorNumDims(self._graph, tensor, status)
            sizes = (c_int64 * max(rank, 0))()
            if rank > 0:
                tf.TF_GraphGetTensorShape(self._graph, tensor, sizes, rank, status)
        return spec if rank < 0 else replace(spec, shape=tuple(size if size >= 0 else None for size in sizes))

    def _with_dtype(self, spec: TensorSpec) -> TensorSpec:
        dtype = BY_CODE.get(self._tf.TF_OperationOutputType(self._endpoint(spec.tensor)) % 100)
        return spec if dtype is None or dtype == spec.dtype else replace(spec, dtype=dtype)

    def function(self, signature: Signature) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
        """Return the signature as a function of named arrays; raise LoadError where it cannot be called.

        Arrays must have the declared dtypes and shapes: the C library feeds what it is given, and a tensor of the
        wrong rank can end the process.
        """
        if signature.name in self._lost:
            raise LoadError(LOST.format(self._lost[signature.name]))
        return Function(self, signature)

    def close(self) -> None:
        """Free the session and its variables."""
        if _forked or not self._session:
            return
        session, self._session = self._session, None
        with checked(self._tf) as status:
            self._tf.TF_CloseSession(session, status)
            self._tf.TF_DeleteSession(session, status)
        self._tf.TF_DeleteGraph(self._graph)

    def _endpoint(self, tensor: str) -> TF_Output:
        name, _, index = tensor.rpartition(":")
        operation = self._tf.TF_GraphOperationByName(self._graph, name.encode())
        if not operation or not index.isdigit() or int(index) >= self._tf.TF_OperationNumOutputs(operation):
            raise LoadError(f"it names the tensor {tensor!r}, which the graph does not have")
        return TF_Output(operation, int(index))


class Function:
    """A signature with its feeds and fetches found once; a call allocates the tensors and nothing else."""

    def __init__(self, session: Session, signature: Signature) -> None:
        tf = session._tf
        self._session = session
        fed = {spec.tensor: spec.name for spec in signature.inputs.values()}
        if len(fed) < len(signature.inputs):
            raise LoadError("two of its inputs are the same tensor")
        self._inputs = [(spec.name, spec.dtype.code) for spec in signature.inputs.values()]
        self._feeds = (TF_Output * len(fed))(*map(session._endpoint, fed))
        for (name, code), feed in zip(self._inputs, self._feeds):
            if tf.TF_OperationOutputType(feed) % 100 != code:  # 100 and more: a TensorFlow 1 reference to the type
                raise LoadError(f"its input {name!r} has another dtype in the graph")
        # TensorFlow fetches no tensor twice, and none that is fed.
        outputs = signature.outputs.values()
        fetched = list(dict.fromkeys(spec.tensor for spec in outputs if spec.tensor not in fed))
        self._fetches = (TF_Output * len(fetched))(*map(session._endpoint, fetched))
        self._outputs = [
            (spec.name, fed.get(spec.tensor), fetched.index(spec.tensor) if spec.tensor not in fed else -1)
            for spec in outputs
        ]
        self._dtypes = [BY_CODE[tf.TF_OperationOutputType(fetch) % 100] for fetch in self._fetches]
        self._idle: list[_Run] = []  # a run's arrays and status serve the next one too

    def __call__(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """Run once: name → array in, name → array out; raise RunError where TensorFlow refuses."""
        if _forked:
            raise RuntimeError("a TensorFlow session cannot be used after a fork")
        tf = self._session._tf
        try:
            run = self._idle.pop()
        except IndexError:
            run = _Run(tf, self._session._session, self._feeds, self._fetches)
        held = []  # to be deleted
        try:
            fed = run.fed
            for position, (name, code) in enumerate(self._inputs):
                tensor = to_tensor(tf, inputs[name], code)
                held.append(tensor)
                fed[position] = tensor
            if self._fetches:
                tf.run_unchecked(*run.arguments)
            outputs = run.fetched[:]
            run.fetched[:] = run.nothing  # TF_SessionRun does so too, but not where it returns before it begins
            if None in outputs:  # "On failure, output_values[] contains NULLs" - c_api.h
                raise run_error(tf.TF_GetCode(run.status), tf.TF_Message(run.status))
            held += outputs
            arrays = [from_tensor(tf, tensor, dtype) for tensor, dtype in zip(outputs, self._dtypes)]
        finally:
            for tensor in held:
                tf.TF_DeleteTensor(tensor)
            self._idle.append(run)
        return {
            name: arrays[position] if source is None else inputs[source] for name, source, position in self._outputs
        }

    def addresses(self) -> "Addresses | None":
        """Return where in memory a run finds what it needs, None where it would not fetch every output."""
        if any(source is not None for _, source, _ in self._outputs):
            return None
        session = self._session
        feeds, fetches = ([(_address(one.oper), one.index) for one in some] for some in (self._feeds, self._fetches))
        return Addresses(
            session._tf.handle, _address(session._session), feeds,
            [(name, self._dtypes[position].code, *fetches[position]) for name, _, position in self._outputs],
        )  # fmt: skip


class Addresses(NamedTuple):
    """A signature for C: pointers as numbers. They hold for as long as its function does."""

    library: int  # dlopen's handle
    session: int
    feeds: list[tuple[int, int]]  # TF_Output, one for each input in order
    fetches: list[tuple[str, int, int, int]]  # one for each output in order: its name, TF_DataType, TF_Output


def _address(pointer: Any) -> int:
    return ctypes.cast(pointer, c_void_p).value or 0


class _Run:
    """What one run needs beside its tensors: TF_SessionRun's arguments, with places for those, and a status."""

    __slots__ = ("_delete", "arguments", "fed", "fetched", "nothing", "status")

    def __init__(self, tf: Api, session: Any, feeds: Any, fetches: Any) -> None:
        self._delete = tf.TF_DeleteStatus
        self.status = tf.TF_NewStatus()
        self.fed, self.fetched = (c_void_p * len(feeds))(), (c_void_p * len(fetches))()
        self.nothing: list[Any] = [None] * len(fetches)
        self.arguments = (
            session, None,
            feeds, self.fed, len(feeds),
            fetches, self.fetched, len(fetches),
            None, 0, None, self.status,
        )  # fmt: skip
        declaration: Any = tf.TF_SessionRun
        for declared, argument in zip(declaration.argtypes, self.arguments, strict=True):
            declared.from_param(argument)  # raises where C would be given another type

    def __del__(self) -> None:
        self._delete(self.status)


@lru_cache(maxsize=256)
def _dimensions(shape: tuple[int, ...]) -> Any:
    return (c_int64 * len(shape))(*shape)  # TensorFlow reads it, and never writes


@lru_cache(maxsize=256)
def _buffer(size: int) -> Any:
    return c_char * size


def to_tensor(tf: Api, array: np.ndarray[Any, Any], code: int) -> Any:
    """Return a tensor of the type `code` with the array's elements; the caller deletes it."""
    shape = _dimensions(array.shape)
    if code == TF_STRING:
        return _to_string_tensor(tf, array, shape)
    size = array.nbytes
    if size < SHARED_BYTES:
        elements = array.tobytes()  # may fail, for want of memory: before there is a tensor to delete
        tensor = tf.TF_AllocateTensor(code, shape, len(shape), size)
        if size:
            _buffer(size).from_address(tf.TF_TensorData(tensor)).raw = elements
        return tensor
    array = array if array.flags.c_contiguous else array.copy()
    key = next(_keys)
    _lent[key] = (tf, array, 0)
    return tf.TF_NewTensor(code, shape, len(shape), array.ctypes.data, size, _release, key)


def _to_string_tensor(tf: Api, array: np.ndarray[Any, Any], shape: Any) -> Any:
    strings = array.ravel().tolist()
    buffer = ctypes.create_string_buffer(max(1, len(strings)) * TSTRING_BYTES)
    place = start = ctypes.addressof(buffer)
    for string in strings:
        tf.TF_StringInit(place)
        tf.TF_StringCopy(place, string, len(string))
        place += TSTRING_BYTES
    key = next(_keys)
    _lent[key] = (tf, buffer, len(strings))
    return tf.TF_NewTensor(TF_STRING, shape, len(shape), start, len(strings) * TSTRING_BYTES, _release, key)


# Memory lent to TensorFlow, until it lets go: a graph may hand an input on as an output, or keep it in a variable.
# Each is (library, memory, number of strings in it).
_lent: dict[int, tuple[Api, Any, int]] = {}
_keys = count(1)


@Deallocator  # type: ignore[untyped-decorator]
def _release(start: int, _size: int, key: int) -> None:
    tf, _memory, strings = _lent.pop(key)
    for position in range(strings):
        tf.TF_StringDealloc(start + position * TSTRING_BYTES)


def from_tensor(tf: Api, tensor: Any, dtype: DType) -> np.ndarray[Any, Any]:
    """Return a copy of the tensor's elements as a read-only array; strings as an array of bytes objects."""
    shape = tuple([tf.TF_Dim(tensor, axis) for axis in range(tf.TF_NumDims(tensor))])
    start = tf.TF_TensorData(tensor)
    if dtype.code != TF_STRING:
        numpy = dtype.numpy
        size = math.prod(shape) * numpy.itemsize
        return np.ndarray(shape, numpy, _buffer(size).from_address(start).raw if size else b"")
    array = np.empty(math.prod(shape), object)
    for position in range(len(array)):
        place = start + position * TSTRING_BYTES
        array[position] = ctypes.string_at(tf.TF_StringGetDataPointer(place), tf.TF_StringGetSize(place))
    return array.reshape(shape)
