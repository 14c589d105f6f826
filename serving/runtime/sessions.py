"""Decides whether a model may be served, and opens it in TensorFlow's C library, its Python package or LiteRT."""

import importlib
import importlib.util
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from serving.core import files, machine
from serving.core.errors import LoadError, RunError, plain
from serving.core.settings import Settings
from serving.core.telemetry.log import log
from serving.runtime import opening, tensorflow_c
from serving.runtime.model import Session
from serving.savedmodel.folder import assets, versions
from serving.savedmodel.graph import Graph
from serving.savedmodel.roots import roots_of
from serving.savedmodel.safety.purity import DANGEROUS, HARMLESS, Use, against, impurities
from serving.savedmodel.signature import served_graph
from serving.savedmodel.source import Source


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
        names = "; ".join(dict.fromkeys(f"{use.op} ({use.kind})" for use in dangerous))
        raise LoadError(f"it uses {names}, which a pure function does not; DANGEROUS_OPS=allow serves it anyway")
    source.may_try = all(use.kind in HARMLESS | {"random"} for use in uses)
    if uses and all(use.kind in HARMLESS for use in uses):
        log("WARNING", f"the model prints its inputs: {uses[0].op}, node {uses[0].node}")
    elif uses:
        names = ", ".join(dict.fromkeys(f"{use.op} ({use.kind})" for use in uses))
        log("WARNING", f"the model is not a pure function of its inputs: {names[:500]}")


def judge_operations(uses: Collection[Use], options: Settings) -> None:
    """Refuse operations that neither TensorFlow nor a custom-op library can run here."""
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
    if python := [use for use in uses if use.kind == "python" and "PyFunc" in use.op]:
        names = ", ".join(dict.fromkeys(f"{use.op}, in {use.place}" for use in python))
        advice = "write that step with TensorFlow's operations, or export without it"
        raise LoadError(f"it calls Python ({names}), which is not part of an exported model: {advice}")
    if lacking := tensorflow_c.without_kernel(tf, ops):
        raise LoadError(f"it uses {', '.join(lacking)}, for which this TensorFlow has no kernel on a CPU")


def judge_files(source: Source) -> None:
    """Refuse a model that names files outside of its folder, or has links out of it, pipes or devices."""
    problem = None if source.light else assets.problem(source.directory)
    if problem := problem or files.problem(source.directory):
        raise LoadError(f"{problem}; DANGEROUS_OPS=allow serves it anyway")


def open_library(options: Settings) -> None:
    """Open the model's library before it is needed, if it is installed; the load reports its errors."""
    if opening.is_light(options):
        from serving.runtime import litert

        with suppress(LoadError):
            litert.open_library(options.accelerator is not None)
        return
    path = None if options.runtime == "python" else tensorflow_c.find(options.tensorflow_library_dir)
    if path is not None:
        with suppress(LoadError):
            tensorflow_c.api(path)


def open_session(source: Source, options: Settings) -> Session:
    """Load a model into a session of the C library, or, where the wheel lacks it, of TensorFlow's Python package.

    A twin is opened in LiteRT only.
    """
    if options.runtime == "litert" and not source.light:
        raise LoadError("it is a SavedModel (RUNTIME=litert): `python -m exporting bake --litert` makes a twin of it")
    if source.light:
        if options.runtime not in ("auto", "litert"):
            raise LoadError(f"it is a twin for LiteRT, which TensorFlow cannot run (RUNTIME={options.runtime})")
        from serving.runtime import litert

        most = min(options.threads, machine.cores())  # more would wait for a core, and need memory for it
        return litert.Session(source.directory, options.intra_op_threads, most, native=options.accelerator is not None)
    path = None if options.runtime == "python" else tensorflow_c.find(options.tensorflow_library_dir)
    if path is None and options.runtime == "c":
        raise LoadError(f"{tensorflow_c.NAME} is not installed (RUNTIME=c)")
    if path is None and options.runtime == "auto" and options.tensorflow_library_dir:
        raise LoadError(f"{tensorflow_c.NAME} is not in TENSORFLOW_LIBRARY_DIR")
    if problem := versions.missing(source.directory, served_graph(source.directory)) or _recursion(source):
        raise LoadError(problem)
    with explained(source):
        if path is None:
            log("WARNING", f"serving through TensorFlow's Python package: {_why_python(options)}")
            python = _fallback(options)
            with _prepared(source, options) as directory:
                session: Session = python.Session(directory, source.contents.tags, options, source.initialization)
            return session
        tf = tensorflow_c.api(path)
        tensorflow_c.load_custom_ops(tf, options.custom_op_libraries)
        config = tensorflow_c.config(
            options.intra_op_threads, options.inter_op_threads, optimize=not source.contents.baked
        )
        with _prepared(source, options) as directory:
            return tensorflow_c.Session(tf, directory, source.contents.tags, config, source.initialization)


@contextmanager
def explained(source: Source) -> Iterator[None]:
    """Raise LoadError with the reason where TensorFlow cannot load the model: its own message names no file."""
    try:
        yield
    except RunError as error:
        problem = versions.lacking(source.directory)
        problem = problem or versions.without_content(source.directory, served_graph(source.directory))
        reason = problem or f"{error.code}: {plain(str(error))}"
        if "Op type not registered" in reason:
            reason += "; CUSTOM_OP_LIBRARIES names the libraries of operations that are not TensorFlow's own"
        raise LoadError(f"TensorFlow cannot load it: {reason}") from error


def _recursion(source: Source) -> str | None:
    """Return what is wrong with functions that call themselves: TensorFlow inlines them until its stack overflows."""
    try:
        graph = served_graph(source.directory)
        is_recursive = Graph.of(graph).is_recursive(root for roots in roots_of(graph).values() for root in roots)
    except (ValueError, IndexError, RecursionError) as error:
        raise LoadError(f"saved_model.pb is not a SavedModel, or only part of one ({error})") from None
    return "a function in its graph calls itself, which TensorFlow cannot load" if is_recursive else None


@contextmanager
def _prepared(source: Source, options: Settings) -> Iterator[Path]:
    """Yield the folder that TensorFlow loads: the model's own, or one with a changed graph."""
    from serving.savedmodel.safety.guarding import guarded  # neither is needed once the model is loaded
    from serving.savedmodel.safety.rewrite import with_each_asset_once

    with with_each_asset_once(source.directory) as directory:
        if options.callers == "trusted":
            yield directory
            return
        with guarded(directory, source.signatures.values(), options.max_elements) as folder:
            yield folder


def _fallback(options: Settings) -> Any:
    package = importlib.util.find_spec("tensorflow")
    if package is None or package.origin is None:  # without a file: the folder of a pruned environment
        other = "" if options.runtime == "python" else f", nor is {tensorflow_c.NAME}"
        raise LoadError(f"TensorFlow's Python package is not installed{other} (RUNTIME={options.runtime})")
    return importlib.import_module("fallback.tensorflow_python")


def _why_python(options: Settings) -> str:
    return "RUNTIME=python" if options.runtime == "python" else f"{tensorflow_c.NAME} is not in the installed wheel"
