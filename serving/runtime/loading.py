"""The model that this process serves: loaded once, when it is first needed."""

import gc
import math
import os
import threading
import time
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from serving.core import settings
from serving.core.errors import LoadError, LoadingError
from serving.core.settings import Settings
from serving.core.telemetry import metrics, phases
from serving.core.telemetry.log import log, log_exception
from serving.runtime import heap
from serving.runtime.model import Model
from serving.runtime.sessions import judge, open_session
from serving.savedmodel import graph
from serving.savedmodel.folder import manifest
from serving.savedmodel.signature import DEFAULT, Signature
from serving.savedmodel.source import Source

if TYPE_CHECKING:
    from serving.runtime.batching import Batching
    from serving.runtime.trying import Tried


PATIENCE = 5.0  # seconds to wait for another thread's download, where the request itself sets no deadline
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 30.0  # seconds after a failed load; each failure doubles it
TOO_LATE = "the model was still being loaded when the time for this request had passed"


class Cache:
    """The served model: loaded once, by the first request, while the other requests wait for that load.

    After a failed load there is a pause: requests within it share the failure, the first one after it tries again.
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
        """Return whether the model is there already."""
        return self._model is not None

    @property
    def warm(self) -> bool:
        """Return whether the model is there already, and warmed up."""
        return self._warm

    def source(self) -> Source:
        """Return the model on disk without loading it; raise LoadError where it cannot be served."""
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
            raise self._failure.with_traceback(None)  # a stored traceback would keep the objects of every caller alive

    def _fail(self, error: Exception) -> LoadError:
        """Return a failure to find, read or load the model as a LoadError; log it once, and keep it for a while.

        Every exception of a reader of the model's files is a failure of the model, and ends here.
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
    def _source(self) -> Source:  # a failure is not cached: cached_property stores only results
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
            names = ", ".join(sorted(left))
            log("WARNING", f"files that belong to another model are ignored: {names}")
        _ = source.parts  # read here, where a failure counts as a failed load
        return source

    def get(self, until: float = math.inf) -> Model:
        """Return the model, loading it if no request has; raise LoadError where it cannot be.

        Raise LoadingError where another still loads it at `until` (time.monotonic).
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
                    raise self._failure.with_traceback(None)  # requests that waited for a load share its failure
                self._load()
            assert self._model is not None
            return self._model
        finally:
            self._lock.release()

    def ready(self, until: float = math.inf) -> Model:
        """Return the model as `get` does, warmed up unless WARMUP=off; meanwhile requests are answered.

        Raise LoadError where every signature fails for every input.
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
        # These objects stay: without this, the collector visits all of them again and again while it collects
        # the many small lists of a large request.
        gc.freeze()
        heap.release()
        phases.loaded()
        metrics.loaded("loaded")
        source = self._model.source
        log("INFO", f"serving {source.name} version {source.version}", seconds=round(time.perf_counter() - begin, 3),
            directory=str(source.directory), process=os.getpid())  # fmt: skip

    def _loaded(self) -> Model:
        source = self._find(-1)
        with phases.measured("model"):
            manifest.check(source.directory, self._options.manifest)
            judge(source, self._options)
            _ = source.pictures  # the first request would read them
            model = Model(source, open_session(source, self._options))
        if self._options.batch_rows:
            from serving.runtime.batching import decide  # not needed for most models

            decide(model, self._options.batch_rows)
        if self._options.warmup == "load":
            self._warm = _warm_up(model) > 0
        return model


def _unexpected(error: Exception) -> LoadError:
    """Return the text for the client of an unexpected error; the log has the whole error."""
    log_exception(f"the load failed: {error!r}")
    if isinstance(error, MemoryError):
        return LoadError("out of memory")
    if isinstance(error, OSError) and error.strerror:  # without the name of the file
        return LoadError(f"a file of it cannot be read or written: {error.strerror}")
    return LoadError("the log has the reason")


def _wait(lock: threading.Lock, until: float) -> None:
    left = until - time.monotonic()
    if not lock.acquire(timeout=min(max(0.0, left), threading.TIMEOUT_MAX)):
        raise LoadingError(TOO_LATE)


def _warm_up(model: Model) -> int:
    from serving.runtime.warmup import warm  # a request that loads the model does not wait for it, unless WARMUP=load

    return warm(model.source.directory, model.signatures, model.run)


FEW, SECONDS = 8, 3.0  # generated inputs that a probe runs for each signature, and its time limit


def tried(model: Model, signature: Signature, seconds: float) -> "Tried":
    """Run a signature on a few generated inputs until one is answered, and keep the result for later requests.

    A signature that may change the next answer is not tried, nor one with an input of unknown rank, since a wrong rank
    can end the process.
    """
    from serving.runtime import trying  # not needed for an answer

    if not model.source.may_try or any(spec.shape is None for spec in signature.inputs.values()):
        return trying.Tried(None, "it was not tried")
    trial = trying.tried(model, signature, model.source.recipes(signature), FEW, seconds)
    if trial.inputs is not None:
        model.answered[signature.name] = trial.inputs
    return trial


def _prove(model: Model) -> None:
    """Run a signature on generated inputs, which also warms it up; raise LoadError if all of them fail."""
    if not model.source.may_try:
        return
    usable = [entry for entry in model.signatures.values() if not (entry.refusal or entry.name.startswith("__"))]
    begin, reasons, faults = time.monotonic(), [], 0
    for signature in sorted(usable, key=lambda entry: entry.name != DEFAULT):
        if any(spec.shape is None for spec in signature.inputs.values()):
            continue  # a wrong rank can end the process
        left = SECONDS - (time.monotonic() - begin)
        trial = tried(model, signature, left)
        if trial.inputs is not None:
            return
        reasons.append(f"{signature.name!r}: {trial.reason}")
        faults += trial.fault
    if usable and faults == len(usable):
        log("ERROR", f"the model is not ready: every request fails: {'; '.join(reasons)}")
        raise LoadError("every request fails because of the model; the log has the reason")
    if usable:
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


def batching() -> "Batching | None":
    """Return the batching of the loaded model; None where no signature is batched, or not yet."""
    cached = cache()
    served = cached.get().batching if cached.loaded else None
    return served if served is not None and served.sizes else None


def forget() -> None:
    """Reset: the next call loads again; a loaded model is not closed."""
    global _cache, _cache_lock
    _cache, _cache_lock = None, threading.Lock()
    phases.unloaded()


# A forked child cannot use its parent's session, and its lock may be held by a thread that the child does not have.
os.register_at_fork(after_in_child=forget)
