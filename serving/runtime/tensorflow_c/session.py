"""A loaded SavedModel and its signatures as functions, in TensorFlow's C library."""

import ctypes
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from ctypes import c_char_p, c_int64, c_void_p
from pathlib import Path
from typing import Any

from serving.core.dtypes import BY_CODE
from serving.core.errors import LoadError
from serving.runtime.model import Addresses
from serving.runtime.tensorflow_c.functions import Api, Operation, Tensor, TF_Output, checked, run_error
from serving.runtime.tensorflow_c.tensors import from_tensor, string_tensor, to_tensor
from serving.savedmodel.initialization import LOST, NOTHING, Copy, Initialization
from serving.savedmodel.protobuf import write_varint
from serving.savedmodel.signature import Signature, TensorSpec

# allow_soft_placement: nodes that name a GPU, as in exports of TensorFlow 1, run on a CPU where there is none
SOFT_PLACEMENT = b"\x38\x01"
# graph_options { optimizer_options { opt_level: L0 } rewrite_options { disable_meta_optimizer: true } }
UNOPTIMIZED = bytes.fromhex("5212 1a0b18ffffffffffffffffff01 5203980101")


def config(intra_op_threads: int, inter_op_threads: int, *, optimize: bool = True) -> bytes:
    """Return a ConfigProto (tensorflow/core/protobuf/config.proto) with the numbers of threads; 0: one per core.

    Without `optimize` TensorFlow does not optimize the graph again: a baked MobileNetV2 takes 0.07 s for its first call
    instead of 0.26 s.
    """
    threads = b"\x10" + write_varint(intra_op_threads) + b"\x28" + write_varint(inter_op_threads)
    return threads + SOFT_PLACEMENT + (b"" if optimize else UNOPTIMIZED)


_used = False  # a session was opened in this process or in an ancestor
_forked = False  # this process was forked after a session was opened


def _after_fork() -> None:
    global _forked
    _forked = _used


os.register_at_fork(after_in_child=_after_fork)


class Session:
    """A loaded SavedModel. Calls may run in parallel; `close` only while none runs."""

    def __init__(
        self, tf: Api, directory: Path, tags: Sequence[str], config: bytes, initialization: Initialization = NOTHING
    ) -> None:
        """Load the graph with exactly these tags, then run what `initialization` says; `config` is a ConfigProto.

        Raise RunError where TensorFlow cannot load it, LoadError after a fork or where an operation is missing.
        """
        global _used
        if _forked:
            raise LoadError(
                "TensorFlow was in use before this process was forked, and would hang: fork first, then load"
            )
        _used = True
        self._tf = tf
        self._lost = initialization.lost
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
            if initialization.copies:
                self._fill(initialization.copies)
            if initialization.operations:
                self._run(
                    initialization.operations,
                    {tensor: directory / "assets" / name for tensor, name in initialization.assets},
                )
        except BaseException:
            self.close()
            raise

    def _fill(self, copies: Sequence[Copy]) -> None:
        """Assign to each variable the value of its copy; both share the memory afterwards."""
        names = []
        for position, copy in enumerate(copies):
            value = self._add("ReadVariableOp", f"fill/read_{position}", copy.dtype, self._endpoint(f"{copy.source}:0"))
            names.append(f"fill/assign_{position}")
            inputs = (self._endpoint(f"{copy.variable}:0"), TF_Output(value, 0))
            self._add("AssignVariableOp", names[-1], copy.dtype, *inputs)
        self._run(names, {})

    def _run(self, names: Sequence[str], paths: Mapping[str, Path]) -> None:
        """Run operations for their effect, with file paths fed to string tensors: tensor → path."""
        tf = self._tf
        operations = [tf.TF_GraphOperationByName(self._graph, name.encode()) for name in names]
        if not all(operations):
            raise LoadError(f"it names an initialization operation that the graph does not have: {', '.join(names)}")
        feeds = (TF_Output * len(paths))(*map(self._endpoint, paths))
        with ExitStack() as frees, checked(tf) as status:
            tensors = []
            for path in paths.values():
                tensors.append(string_tensor(tf, [os.fsencode(path)], ()))
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
            for tensor in inputs:
                tf.TF_AddInput(description, tensor)
            tf.TF_SetAttrType(description, b"dtype", dtype)
            return tf.TF_FinishOperation(description, status)

    def declared(self, signature: Signature) -> Signature:
        """Return the signature completed from the graph: input shapes that it lacks, and the dtypes of its outputs."""
        try:
            inputs = {name: self._with_shape(spec) for name, spec in signature.inputs.items()}
            outputs = {name: self._with_dtype(spec) for name, spec in signature.outputs.items()}
        except LoadError:
            return signature  # it names a tensor that is not in the graph; `function` refuses it
        return signature._replace(inputs=inputs, outputs=outputs)

    def _with_shape(self, spec: TensorSpec) -> TensorSpec:
        if spec.shape is not None:
            return spec
        tf, tensor = self._tf, self._endpoint(spec.tensor)
        with checked(tf) as status:
            rank = tf.TF_GraphGetTensorNumDims(self._graph, tensor, status)
            sizes = (c_int64 * max(rank, 0))()
            if rank > 0:
                tf.TF_GraphGetTensorShape(self._graph, tensor, sizes, rank, status)
        return spec if rank < 0 else spec._replace(shape=tuple(size if size >= 0 else None for size in sizes))

    def _with_dtype(self, spec: TensorSpec) -> TensorSpec:
        dtype = BY_CODE.get(self._tf.TF_OperationOutputType(self._endpoint(spec.tensor)) % 100)
        return spec if dtype is None or dtype == spec.dtype else spec._replace(dtype=dtype)

    def function(self, signature: Signature) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
        """Return the signature as a function of named arrays; raise LoadError where it cannot be called.

        Arrays must have the declared dtypes and shapes: the C library does not check them, and a tensor of the
        wrong rank can abort the process.
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
    """A signature with its feeds and fetches resolved once; a call allocates only the tensors."""

    def __init__(self, session: Session, signature: Signature) -> None:
        tf = session._tf
        self._session = session
        fed = {spec.tensor: spec.name for spec in signature.inputs.values()}
        if len(fed) < len(signature.inputs):
            raise LoadError("two of its inputs are the same tensor")
        self._inputs = [(spec.name, spec.dtype.code) for spec in signature.inputs.values()]
        self._feeds = (TF_Output * len(fed))(*map(session._endpoint, fed))
        for (name, code), feed in zip(self._inputs, self._feeds):
            if tf.TF_OperationOutputType(feed) % 100 != code:  # above 100: a reference type of TensorFlow 1
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
        self._idle: list[_Run] = []  # the arrays and the status of a run are reused

    def __call__(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """Run the graph once: name → array in, name → array out; raise RunError where TensorFlow fails.

        The arrays must have the declared dtypes and shapes; threads may call it at once.
        """
        if _forked:
            raise RuntimeError("a TensorFlow session cannot be used after a fork")
        tf = self._session._tf
        try:
            run = self._idle.pop()
        except IndexError:
            run = _Run(tf, self._session._session, self._feeds, self._fetches)
        tensors = []  # to be deleted
        try:
            fed = run.fed
            for position, (name, code) in enumerate(self._inputs):
                tensor = to_tensor(tf, inputs[name], code)
                tensors.append(tensor)
                fed[position] = tensor
            if self._fetches:
                tf.run_unchecked(*run.arguments)
            outputs = run.fetched[:]
            run.fetched[:] = run.nothing  # TF_SessionRun does so too, except where it returns before the run
            if None in outputs:  # "On failure, output_values[] contains NULLs" - c_api.h
                raise run_error(tf.TF_GetCode(run.status), tf.TF_Message(run.status))
            tensors += outputs
            arrays = [from_tensor(tf, tensor, dtype) for tensor, dtype in zip(outputs, self._dtypes)]
        finally:
            for tensor in tensors:
                tf.TF_DeleteTensor(tensor)
            self._idle.append(run)
        return {
            name: arrays[position] if source is None else inputs[source] for name, source, position in self._outputs
        }

    def addresses(self) -> Addresses | None:
        """Return the pointers that a run needs, for native code; None where an input is returned as an output."""
        if any(source is not None for _, source, _ in self._outputs):
            return None
        session = self._session
        feeds, fetches = (
            [(_address(tensor.oper), tensor.index) for tensor in tensors] for tensors in (self._feeds, self._fetches)
        )
        return Addresses(
            ("tensorflow", session._tf.handle, (_address(session._session),)), feeds,
            [(name, self._dtypes[position].code, *fetches[position]) for name, _, position in self._outputs],
        )  # fmt: skip


def _address(pointer: Any) -> int:
    return ctypes.cast(pointer, c_void_p).value or 0


class _Run:
    """The arguments of TF_SessionRun, with arrays for the tensors that go in and come out, and a status."""

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
            declared.from_param(argument)  # raises where a type is wrong

    def __del__(self) -> None:
        self._delete(self.status)
