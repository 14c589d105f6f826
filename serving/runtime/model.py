"""A loaded model: signatures and a session; and the one that this process serves, loaded on first use."""

import gc
import importlib
import importlib.util
import math
import os
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from serving.core import files, inflight, machine, settings
from serving.core.errors import DeadlineError, InputError, LoadError, RunError, plain
from serving.core.settings import Settings
from serving.core.telemetry import metrics, phases
from serving.core.telemetry.log import log
from serving.runtime import litert, tensorflow_c
from serving.savedmodel import graph
from serving.savedmodel.folder import assets, manifest, twin, versions
from serving.savedmodel.folder.card import read as read_card
from serving.savedmodel.initialization import NOTHING, Initialization, needed
from serving.savedmodel.safety.purity import DANGEROUS, HARMLESS, Use, against, impurities
from serving.savedmodel.signature import DEFAULT, Contents, Signature, check, read, served_graph

if TYPE_CHECKING:
    from serving.runtime.trying import Tried
    from serving.savedmodel.composite import Part
    from serving.savedmodel.examples import Recipe

Arrays = Mapping[str, np.ndarray[Any, Any]]
Function = Callable[[Arrays], dict[str, np.ndarray[Any, Any]]]


class Session(Protocol):
    """What a runtime gives for a SavedModel: its signatures as functions of named arrays."""

    def declared(self, signature: Signature) -> Signature: ...

    def function(self, signature: Signature) -> Function: ...

    def close(self) -> None: ...


class Model:
    """A model that can answer. Calls may run in parallel from many threads."""

    def __init__(self, source: "Source", session: Session, batch_rows: int = 0) -> None:
        """Find every signature in the graph; raise LoadError where none can be called.

        Calls that meet run together, up to `batch_rows` rows at once; with 0, each by itself.
        """
        self.name = source.name
        self.version = source.version
        self.signatures = dict(source.signatures)
        self._defaults = {name: _defaults(one) for name, one in self.signatures.items() if one.defaults}
        self.source = source
        self._session = session
        self._functions: dict[str, Function] = {}
        self.answered: dict[str, Arrays] = {}  # by signature, inputs of one row that `tried` found
        for name, signature in list(self.signatures.items()):
            if signature.refusal is None:
                self.signatures[name] = signature = session.declared(signature)
                try:
                    self._functions[name] = session.function(signature)
                except LoadError as error:
                    self.signatures[name] = replace(signature, problem=str(error))
                    log("WARNING", f"the signature {name!r} cannot be called: {error}")
        if not self._functions:
            session.close()
            raise LoadError("; ".join(f"{name!r}: {one.refusal}" for name, one in self.signatures.items()))
        self._parts = source.parts
        if batch_rows:
            from serving.runtime.batching import batched  # not needed for most models

            # The parts of one ragged tensor have rows of their own: those of two calls make no third.
            meet = {name: function for name, function in self._functions.items() if name not in self._parts}
            self._functions |= batched(meet, self.signatures, source.directory, batch_rows)

    def run(self, signature: Signature, inputs: Arrays) -> dict[str, np.ndarray[Any, Any]]:
        """Return the signature's outputs by name.

        Raise InputError where the inputs are not the declared ones in name, dtype and shape, which is checked here
        whoever calls, since TensorFlow would end the process; RunError where TensorFlow refuses them.
        """
        if inputs.keys() != signature.inputs.keys():
            inputs = {**self._defaults.get(signature.name, {}), **inputs}
        if inputs.keys() != signature.inputs.keys():
            raise InputError(f"expected the inputs {', '.join(signature.inputs)}, got {', '.join(inputs) or 'none'}")
        for name, spec in signature.inputs.items():
            array = inputs[name]
            if array.dtype != spec.dtype.numpy:
                raise InputError(f"{name}: expected {spec.dtype.label}, got {array.dtype}")
            if problem := check(spec, array.shape):
                raise InputError(f"{name}: {problem}")
        if self._parts:
            for part in self._parts.get(signature.name, ()):
                if wrong := part.problem(inputs):
                    raise InputError(wrong)
        shapes = ", ".join([f"{name} {[*array.shape]}" for name, array in inputs.items()])
        slot = inflight.begin(f"{signature.name}: {shapes}")
        try:
            return self._functions[signature.name](inputs)
        finally:
            inflight.end(slot)

    def addresses(self, signature: Signature) -> tensorflow_c.Addresses | None:
        """Return where C finds the signature's function, None where it is none of TensorFlow's C library's."""
        function = self._functions.get(signature.name)
        return function.addresses() if isinstance(function, tensorflow_c.Function) else None

    def close(self) -> None:
        """Free what the model holds."""
        self._session.close()


def _defaults(signature: Signature) -> dict[str, np.ndarray[Any, Any]]:
    from serving.savedmodel.prediction_log import array  # most signatures have no defaults

    return {name: array(memoryview(tensor)) for name, tensor in signature.defaults.items()}


def _with_good_defaults(signature: Signature) -> Signature:
    """Return the signature without the defaults that its own inputs would refuse."""
    good = dict(signature.defaults)
    for name in signature.defaults:
        spec = signature.inputs[name]
        try:
            value = _defaults(replace(signature, defaults={name: good[name]}))[name]
            fits = value.dtype == spec.dtype.numpy and check(spec, value.shape) is None
        except (ValueError, TypeError):
            fits = False
        if not fits:
            del good[name]
            log("WARNING", f"the default of the input {name!r} of {signature.name!r} is not a value for it")
    return signature if len(good) == len(signature.defaults) else replace(signature, defaults=good)


# Parts of the names of operations that are loops, or that never end on some values.
UNEVEN = (b"While", b"NextIteration", b"MapDefun", b"AdjustHue", b"AdjustSaturation")


class Source:
    """A model on disk: where it is and what it offers, without loading it."""

    def __init__(self, directory: Path, name: str) -> None:
        """Find the model in `directory`, or its highest whole version; raise LoadError where there is none."""
        self.name = name
        self.directory, self.passed_over = versions.chosen(directory)
        self.version = self.directory.name if self.directory.name.isdecimal() else "1"
        self.light = twin.holds(self.directory)
        self.contents: Contents = twin.read(self.directory) if self.light else read(self.directory)
        if any(one.defaults for one in self.contents.signatures.values()):
            checked = {name: _with_good_defaults(one) for name, one in self.contents.signatures.items()}
            self.contents = replace(self.contents, signatures=checked)
        self.signatures = self.contents.signatures
        self.may_try = True  # a run that no request asked for changes nothing, as far as is known: `judge` finds out

    @cached_property
    def parts(self) -> "Mapping[str, tuple[Part, ...]]":
        """Return which inputs of each signature are parts of one ragged or sparse tensor."""
        if self.light or not any(len(one.inputs) > 1 for one in self.signatures.values()):
            return {}
        from serving.savedmodel.composite import parts  # most models have none

        return parts(self.directory, self.signatures)

    @cached_property
    def even(self) -> bool:
        """Say whether no operation of the graph is known to run longer for some values than for others: a loop."""
        if self.light:
            return False
        data: Any = served_graph(self.directory).obj  # bytes, or a file in memory
        return not any(data.find(word) >= 0 for word in UNEVEN)

    @cached_property
    def initialization(self) -> Initialization:
        """Return what is left to do after TensorFlow has loaded the model."""
        return NOTHING if self.light else needed(self.directory)

    def recipes(self, signature: Signature) -> "Iterator[Recipe]":
        """Yield ways to fill a signature's inputs, the likeliest first: see `savedmodel.examples`."""
        from serving.savedmodel import examples, parsing  # not needed for an answer

        strings = any(spec.dtype.kind == "S" for spec in signature.inputs.values())
        texts = parsing.texts(self.directory, signature) if strings and not self.light else parsing.GUESSES
        return examples.recipes(signature, texts, self.parts.get(signature.name, ()))

    @cached_property
    def pictures(self) -> frozenset[str]:
        """Say what the graph does with encoded pictures, see `savedmodel.images`; nothing where it decodes none."""
        strings = any(spec.dtype.kind == "S" for one in self.signatures.values() for spec in one.inputs.values())
        if self.light or not strings:
            return frozenset()
        from serving.savedmodel.images import operations  # of the models that take strings alone

        return operations(served_graph(self.directory))

    @cached_property
    def exported(self) -> Mapping[str, Any]:
        """Return the exporter's example requests, by signature."""
        import json  # not needed for an answer

        try:
            found = json.loads(manifest.extra(self.directory, "examples.json") or b"")
        except (LoadError, ValueError, RecursionError):
            found = {}
        return found if isinstance(found, dict) else {}

    @cached_property
    def examples(self) -> Mapping[str, Any]:
        """Return example requests by signature: the exporter's, and those that zeros alone would not make."""
        if not self.parts:
            return self.exported
        from serving.savedmodel.composite import example  # imported already

        made = {name: example(self.signatures[name], parts) for name, parts in self.parts.items()}
        return {**made, **self.exported}

    @cached_property
    def labels(self) -> tuple[str, ...]:
        """Return the names of the classes that the exporter put beside the model, one a line; none where it did not."""
        try:
            text = manifest.extra(self.directory, "labels.txt") or b""
            return tuple(str(text, "utf-8").splitlines())
        except (LoadError, ValueError):
            return ()

    @cached_property
    def card(self) -> Mapping[str, str]:
        """Return what the exporter says of the model's making, see `folder.card`; empty where it says nothing."""
        return read_card(self.directory)


def judge(source: Source, options: Settings) -> None:
    """Refuse a model that touches files, the network or Python; warn of one that is not a pure function."""
    if options.dangerous_ops == "refuse":
        judge_files(source)
    if source.light:
        return  # only a pure model becomes a twin
    uses = impurities(source.directory)
    judge_operations(uses, options)
    impure = against(uses, bool(options.custom_op_libraries))
    dangerous = [use for use in impure if use.kind in DANGEROUS]
    if dangerous and options.dangerous_ops == "refuse":
        told = "; ".join(dict.fromkeys(f"{use.op} ({use.kind})" for use in dangerous))
        raise LoadError(f"it uses {told}, which a pure function does not; DANGEROUS_OPS=allow serves it anyway")
    source.may_try = all(use.kind in HARMLESS | {"random"} for use in uses)
    if uses and all(use.kind in HARMLESS for use in uses):
        log("WARNING", f"the model prints its inputs: {uses[0].op}, node {uses[0].node}")
    elif uses:
        told = ", ".join(dict.fromkeys(f"{use.op} ({use.kind})" for use in uses))
        log("WARNING", f"the model is not a pure function of its inputs: {told[:500]}")


def judge_operations(uses: Iterable[Use], options: Settings) -> None:
    """Refuse operations that cannot run here: a library of the user's has them, or nothing."""
    kinds = {use.op: use.kind for use in uses}
    ops = list(kinds)
    path = None if options.runtime == "python" or not ops else tensorflow_c.find(options.tensorflow_library_dir)
    if path is None:
        return
    tf = tensorflow_c.api(path)
    tensorflow_c.load_custom_ops(tf, options.custom_op_libraries)
    if custom := tensorflow_c.unregistered(tf, ops):
        names = ", ".join(custom)
        raise LoadError(f"it uses {names}, no operation of this TensorFlow: name its library in CUSTOM_OP_LIBRARIES")
    # A process that has imported TensorFlow's Python package has a kernel for these, and nothing that it could call.
    if python := [op for op in ops if kinds[op] == "python" and "PyFunc" in op]:
        raise LoadError(f"it calls Python ({', '.join(python)}), which is not part of an exported model")
    if lacking := tensorflow_c.without_kernel(tf, ops):
        raise LoadError(f"it uses {', '.join(lacking)}, for which this TensorFlow has no kernel on a CPU")


def judge_files(source: Source) -> None:
    """Refuse a model whose files are not its own: one that names files elsewhere, or has links, pipes or devices."""
    problem = None if source.light else assets.problem(source.directory)
    if problem := problem or files.problem(source.directory):
        raise LoadError(f"{problem}; DANGEROUS_OPS=allow serves it anyway")


def open_library(options: Settings) -> None:
    """Open the model's library before it is needed, if it is there; whoever needs it is told what is wrong with it."""
    directory, light = options.model_dir, options.runtime == "litert"
    with suppress(OSError, LoadError):  # the load will tell
        light = light or (isinstance(directory, Path) and twin.holds(versions.chosen(directory).directory))
    if light:
        with suppress(LoadError):
            litert.open_library()
        return
    path = None if options.runtime == "python" else tensorflow_c.find(options.tensorflow_library_dir)
    if path is not None:
        with suppress(LoadError):
            tensorflow_c.api(path)


def open_session(source: Source, options: Settings) -> Session:
    """Load a model into a session of the C library, or, where the wheel lacks it, of TensorFlow's Python package.

    A light twin is LiteRT's alone.
    """
    if options.runtime == "litert" and not source.light:
        raise LoadError("it is a SavedModel (RUNTIME=litert): `python -m exporting bake --litert` makes a twin of it")
    if source.light:
        if options.runtime not in ("auto", "litert"):
            raise LoadError(f"it is a twin for LiteRT, which TensorFlow cannot run (RUNTIME={options.runtime})")
        most = min(options.threads, machine.cores())  # more would wait for a core, and need memory for it
        return litert.Session(source.directory, options.intra_op_threads, most)
    path = None if options.runtime == "python" else tensorflow_c.find(options.tensorflow_library_dir)
    if path is None and options.runtime == "c":
        raise LoadError(f"{tensorflow_c.NAME} is not installed (RUNTIME=c)")
    if path is None and options.runtime == "auto" and options.tensorflow_library_dir:
        raise LoadError(f"{tensorflow_c.NAME} is not in TENSORFLOW_LIBRARY_DIR")
    if problem := versions.missing(source.directory, served_graph(source.directory)):
        raise LoadError(problem)
    try:
        if path is None:
            log("WARNING", f"serving through TensorFlow's Python package: {_why_python(options)}")
            python = _fallback(options)
            with _guarded(source, options) as directory:
                session: Session = python.Session(directory, source.contents.tags, options, source.initialization)
            return session
        tf = tensorflow_c.api(path)
        tensorflow_c.load_custom_ops(tf, options.custom_op_libraries)
        config = tensorflow_c.config(
            options.intra_op_threads, options.inter_op_threads, optimize=not source.contents.baked
        )
        with _guarded(source, options) as directory:
            return tensorflow_c.Session(tf, directory, source.contents.tags, config, source.initialization)
    except RunError as error:
        reason = versions.lacking(source.directory) or f"{error.code}: {plain(str(error))}"
        if "Op type not registered" in reason:
            reason += "; CUSTOM_OP_LIBRARIES names the libraries of operations that are not TensorFlow's own"
        raise LoadError(f"TensorFlow cannot load it: {reason}") from error


def _guarded(source: Source, options: Settings) -> AbstractContextManager[Path]:
    if options.callers == "trusted":
        return nullcontext(source.directory)
    from serving.savedmodel.safety.guarding import guarded  # not needed once the model is loaded

    return guarded(source.directory, source.signatures.values(), options.max_elements)


def _fallback(options: Settings) -> Any:
    package = importlib.util.find_spec("tensorflow")
    if package is None or package.origin is None:  # without a file: the folder of a pruned environment
        other = "" if options.runtime == "python" else f", nor is {tensorflow_c.NAME}"
        raise LoadError(f"TensorFlow's Python package is not installed{other} (RUNTIME={options.runtime})")
    return importlib.import_module("fallback.tensorflow_python")


def _why_python(options: Settings) -> str:
    return "RUNTIME=python" if options.runtime == "python" else f"{tensorflow_c.NAME} is not in the installed wheel"


PATIENCE = 5.0  # seconds that somebody waits for what another fetches, where the request itself sets no end
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 30.0  # seconds after a failed load; each failure doubles it


class Cache:
    """The served model: loaded once, by the first who asks, while everybody else who comes waits for that load.

    A failed load is tried again by whoever comes after a pause; those who come within it share the failure.
    """

    def __init__(self, options: Settings) -> None:
        self._options = options
        self._lock = threading.Lock()
        self._source_lock = threading.Lock()
        self._model: Model | None = None
        self._warm_lock = threading.Lock()
        self._warm = False
        self._failure: LoadError | None = None
        self._pause = 0.0
        self._again = 0.0  # time.monotonic() of the next attempt
        self._attempts = 0

    @property
    def loaded(self) -> bool:
        """Say whether the model is there already."""
        return self._model is not None

    @property
    def warm(self) -> bool:
        """Say whether the model is there already, and warmed up."""
        return self._warm

    def source(self) -> Source:
        """Return what is on disk, without loading it; raise LoadError where nothing can be served."""
        if (source := self.__dict__.get("_source")) is not None:
            return source  # type: ignore[no-any-return]
        return self._find(PATIENCE)

    def _find(self, patience: float) -> Source:
        if not self._source_lock.acquire(timeout=patience):
            raise LoadError("it is still being fetched")
        try:
            if "_source" not in self.__dict__:
                self._share_failure()
            return self._source
        except Exception as error:
            raise self._fail(error) from None
        finally:
            self._source_lock.release()

    def _share_failure(self) -> None:
        if self._failure is not None and time.monotonic() < self._again:
            raise self._failure.with_traceback(None)  # it would hold what every caller held

    def _fail(self, error: Exception) -> LoadError:
        """Return a failure to find, read or load the model as a LoadError; log it once, and let it stand for a while.

        Whatever the model's files make a reader raise is a failure of the model, and ends here.
        """
        if isinstance(error, LoadError) and error is self._failure:
            return error
        failure = error if isinstance(error, LoadError) else _unexpected(error)
        self._pause = min(self._pause * 2, LONGEST_PAUSE) or FIRST_PAUSE
        metrics.loaded("failed")
        self._failure, self._again = failure, time.monotonic() + self._pause
        where = str(self._options.model_dir)
        log("ERROR", f"the model cannot be loaded: {failure}", directory=where, again_in_seconds=self._pause)
        return failure

    @cached_property
    def _source(self) -> Source:  # a failure is not kept: cached_property stores results alone
        options = self._options
        if isinstance(options.model_dir, Path):
            return self._read(options.model_dir)
        import shutil  # most models are on disk

        from serving.core.storage import Storage
        from serving.savedmodel.folder.fetch import fetch

        storage = Storage(options.storage_emulator_host, options.google_oauth_access_token)
        fetched = fetch(options.model_dir, storage)
        try:
            return self._read(fetched)
        except BaseException:
            shutil.rmtree(fetched, ignore_errors=True)  # the next attempt fetches it again
            raise

    def _read(self, directory: Path) -> Source:
        source = Source(directory, self._options.model_name)
        for version in source.passed_over:
            log("WARNING", f"{version}; version {source.version} is served")
        if left := manifest.leftovers(source.directory):
            told = ", ".join(sorted(left))
            log("WARNING", f"files that belong to another model are ignored: {told}")
        _ = source.parts  # read here, where a failure is a failed load for whatever asks
        return source

    def get(self, until: float = math.inf) -> Model:
        """Return the model, loading it if nobody has; raise LoadError where it cannot be.

        Raise DeadlineError where another still loads it at `until` (time.monotonic).
        """
        model = self._model
        if model is not None:
            return model
        attempt = self._attempts
        self._share_failure()
        _wait(self._lock, until)
        try:
            if self._model is None:
                if self._failure is not None and self._attempts > attempt:
                    raise self._failure.with_traceback(None)  # those who waited for a load share its failure too
                self._load()
            assert self._model is not None
            return self._model
        finally:
            self._lock.release()

    def ready(self, until: float = math.inf) -> Model:
        """Return the model as `get` does, warmed up unless WARMUP=off; requests that come meanwhile are answered.

        Raise LoadError where every signature fails whatever it is given.
        """
        model = self.get(until)
        if not self._warm:
            _wait(self._warm_lock, until)
            try:
                if not self._warm and self._options.warmup != "off" and not _warm_up(model):
                    _prove(model)
                self._warm = True
            finally:
                self._warm_lock.release()
        return model

    def _load(self) -> None:
        begin = time.perf_counter()
        try:
            self._model = self._loaded()
        except Exception as error:  # running out of memory, too
            raise self._fail(error) from None
        finally:
            self._attempts += 1
            graph.forget()
        # What is there now stays: without this, the collector walks all of it again and again while it looks
        # through the many small lists of a large request.
        gc.freeze()
        phases.loaded()
        metrics.loaded("loaded")
        source = self._model.source
        log("INFO", f"serving {source.name} version {source.version}", seconds=round(time.perf_counter() - begin, 3))

    def _loaded(self) -> Model:
        source = self._find(-1)
        with phases.measured("model"):
            manifest.check(source.directory, self._options.manifest)
            judge(source, self._options)
            _ = source.pictures  # the first request would read them
            model = Model(source, open_session(source, self._options), self._options.batch_rows)
        if self._options.warmup == "load":
            self._warm = _warm_up(model) > 0
        return model


def _unexpected(error: Exception) -> LoadError:
    """Return what the client sees of an error that no reader of the model raises on purpose; the log has all of it."""
    log("ERROR", f"the load failed: {error!r}", traceback=traceback.format_exc())
    if isinstance(error, MemoryError):
        return LoadError("out of memory")
    if isinstance(error, OSError) and error.strerror:  # without the name of the file
        return LoadError(f"a file of it cannot be read or written: {error.strerror}")
    return LoadError("the log has the reason")


def _wait(lock: threading.Lock, until: float) -> None:
    left = until - time.monotonic()
    if not lock.acquire(timeout=min(max(0.0, left), threading.TIMEOUT_MAX)):
        raise DeadlineError("the model was still being loaded when the time for this request had passed")


def _warm_up(model: Model) -> int:
    from serving.runtime.warmup import warm  # a request that loads the model does not wait for it, unless WARMUP=load

    return warm(model.source.directory, model.signatures, model.run)


FEW, SECONDS = 8, 3.0  # made inputs that a probe has run of each signature, and until when


def tried(model: Model, signature: Signature, seconds: float) -> "Tried":
    """Run a signature on a few made inputs until one is answered, and keep what was found for those who ask later.

    A signature that may change the next answer is not tried, nor one with an input of unknown rank, since a wrong rank
    can end the process.
    """
    from serving.runtime import trying  # not needed for an answer

    if not model.source.may_try or any(spec.shape is None for spec in signature.inputs.values()):
        return trying.Tried(None, "it was not tried")
    found = trying.tried(model, signature, model.source.recipes(signature), FEW, seconds)
    if found.inputs is not None:
        model.answered[signature.name] = found.inputs
    return found


def _prove(model: Model) -> None:
    """Run a signature on made inputs, which also warms it up; raise LoadError where each of them has a fault."""
    if not model.source.may_try:
        return
    wanted = [one for one in model.signatures.values() if one.refusal is None and not one.name.startswith("__")]
    begin, reasons, faults = time.monotonic(), [], 0
    for signature in sorted(wanted, key=lambda one: one.name != DEFAULT):
        if any(spec.shape is None for spec in signature.inputs.values()):
            continue  # a wrong rank can end the process
        left = SECONDS - (time.monotonic() - begin)
        found = tried(model, signature, left)
        if found.inputs is not None:
            return
        reasons.append(f"{signature.name!r}: {found.reason}")
        faults += found.fault
    if wanted and faults == len(wanted):
        log("ERROR", f"the model is not ready: every request fails: {'; '.join(reasons)}")
        raise LoadError("every request fails because of the model; the log has the reason")
    if wanted:
        log(
            "WARNING", f"no signature was shown to answer; export the model with examples=: {'; '.join(reasons)}"[:1000]
        )


_cache: Cache | None = None
_cache_lock = threading.Lock()


def cache() -> Cache:
    """Return this process's model cache."""
    global _cache
    if _cache is None:
        with _cache_lock:
            if _cache is None:
                _cache = Cache(settings.current())
    return _cache


def forget() -> None:
    """Begin anew: what is loaded is left alone, and the next call loads again."""
    global _cache, _cache_lock
    _cache, _cache_lock = None, threading.Lock()
    phases.unloaded()


# A forked child cannot use its parent's session, and its lock may be held by a thread that the child does not have.
os.register_at_fork(after_in_child=forget)
