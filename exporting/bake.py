"""Bake a SavedModel: an equivalent one that starts and runs faster.

Variables become constants, TensorFlow's graph optimizer runs now instead of at the first call, and what no signature
reaches is left out. Nothing is written before its answers equal those of the original.
"""

import shutil
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from exporting import compare, weights
from exporting.derived import (
    PROTOBUF_BYTES,
    ROUNDS,
    Baked,
    Questions,
    Variables,
    ask_original,
    callable_signatures,
    check_graph,
    finish,
    measure,
    say,
)
from exporting.freeze import freeze
from exporting.graph import MetaGraph, contents, functions, output_tensors, reached, served
from exporting.inputs import exported, given
from exporting.placing import NOT_CARRIED, check_places, copy_folder, folder_beside
from exporting.refusal import Refusal
from exporting.report import size
from exporting.runner import Answer, Job, ask
from exporting.values import VARIABLES, bytes_of, values_of
from serving.savedmodel.folder.manifest import leftovers

# Constants take five times their size in memory for as long as the model is loaded, variables little more than once;
# and layers in which nothing can be computed ahead start faster as variables: docs/benchmarks/bake.md.
LARGE = 100_000_000  # bytes; more are folded on request only
SMALL = 8_000_000  # bytes; fewer are always folded; between the two, where it saves operations
FREE = frozenset({"Const", "Identity", "NoOp", "Placeholder", "ReadVariableOp", *VARIABLES})
OTHER_CPU = 1e-4  # least tolerance for other kernels: the original's answers depend on the CPU too
AS_MUCH = 2  # times the difference of the original between the two kinds of kernels


def bake(
    directory: Path,
    out: Path,
    *,
    force: bool = False,
    tolerance: float | None = None,
    inputs: Iterable[Path] = (),
    keep_variables: bool | None = None,
    limit: int = PROTOBUF_BYTES,
    large: int = LARGE,
    small: int = SMALL,
    rounds: int = ROUNDS,
) -> Baked:
    """Write the SavedModel in `directory` to `out`, baked; or raise Refusal and write nothing.

    Variables are folded into constants where `keep_variables` is False, left where it is True; where it is None, left
    beyond `large` bytes, and beyond `small` where folding saves no operation, else folded except for large weights
    (`exporting.weights`).
    """
    check_places(directory, out, force)
    offered = contents(directory)
    usable = callable_signatures(offered)
    own = [*exported(directory, usable), *(call for path in inputs for call in given(path, usable))]
    graph = served(directory)
    notes = check_graph(directory, graph)
    questions = ask_original(directory, offered, own)
    notes += questions.notes
    if questions.unproved:
        keep_variables = True
        notes += [
            f"signature {name!r}: its graph is kept as it is, and the variables in their own file, for nothing shows "
            f"that it works: {why}"
            for name, why in questions.unproved.items()
        ]
    frozen = _frozen(directory, graph, keep_variables, limit, large, small, questions.unproved)
    notes += frozen.notes
    with folder_beside(out) as folder:
        _write(frozen, directory, folder)
        say("comparing with the original")
        allowed = compare.TOLERANCE if tolerance is None else tolerance
        difference = _compare(directory, folder, questions, allowed)
        before, after = measure(directory, folder, questions.timed, rounds)
        signature, compared = questions.timed[0], len(questions.calls)
        baked = Baked(out, frozen.variables, signature, before, after, allowed, difference, compared, tuple(notes))
        finish(baked, graph, folder, directory, "bake", force)
    return baked


@dataclass(frozen=True, slots=True)
class Frozen:
    """The optimized graph, and where its variables are."""

    graph: MetaGraph
    variables: Variables
    notes: list[str] = field(default_factory=list)
    weights: Mapping[str, Any] = field(default_factory=dict)  # arrays by name, of a partly folded graph


def _frozen(
    directory: Path,
    graph: MetaGraph,
    keep: bool | None,
    limit: int,
    large: int,
    small: int,
    unproved: Collection[str],
) -> Frozen:
    """Return the optimized graph."""
    needed = bytes_of(graph)
    if keep:
        return Frozen(freeze(graph, None, say, unproved), "kept")
    if needed > limit:
        return Frozen(freeze(graph, None, say), "kept", [_stay(needed, "do not fit protobuf's 2 GB")])
    if keep is None and needed > large:
        why = "would take five times their size in memory as constants; --fold-variables folds them anyway"
        return Frozen(freeze(graph, None, say), "kept", [_stay(needed, why)])
    say("loading the variables")
    folded = freeze(graph, values_of(directory, graph), say)
    if keep is None and needed > small:
        say("once more, with variables")
        unfolded = freeze(graph, None, say)
        if _operations(unfolded) <= _operations(folded):
            return Frozen(unfolded, "kept", [_stay(needed, "would save no operation as constants, and start slower")])
    if folded.ByteSize() > max(limit, 1 << 20):
        raise Refusal(
            f"{directory}: with its variables the graph takes {size(folded.ByteSize())}; try --keep-variables"
        )
    apart = weights.make_variables(folded) if keep is None else {}
    if not apart:
        return Frozen(folded, "folded")
    why = "are large weights of products or lookups, which would only take more memory as constants"
    return Frozen(folded, "partly folded", [_stay(sum(value.nbytes for value in apart.values()), why)], apart)


def _stay(needed: int, why: str) -> str:
    return f"{size(needed)} of variables {why}: they stay in their own file"


def _operations(graph: MetaGraph) -> int:
    """Count the operations of the signatures, without those that only read a value."""
    outputs = output_tensors(graph)
    nodes = reached({node.name: node for node in graph.graph_def.node}, outputs)
    bodies = functions(graph.graph_def, nodes).values()
    return sum(node.op not in FREE for node in [*nodes, *(node for body in bodies for node in body.node_def)])


def as_text(baked: Baked) -> str:
    """Return the result as a table for people."""
    rows = [
        ("size", *(size(figures.bytes) for figures in (baked.before, baked.after))),
        ("load", *(f"{figures.load:.3f} s" for figures in (baked.before, baked.after))),
        ("first call", *(f"{figures.first_call:.3f} s" for figures in (baked.before, baked.after))),
        ("later calls", *(f"{figures.steady_call * 1000:.2f} ms" for figures in (baked.before, baked.after))),
    ]
    lines = [f"{baked.out}: {baked.signature}, one row{'':<12}{'before':>12}{'after':>12}"]
    width = len(lines[0]) - 24
    lines += [f"  {name:<{width - 2}}{before:>12}{after:>12}" for name, before, after in rows]
    same = "the same bits" if baked.difference == 0 else f"within {baked.difference:.1g} of the largest number"
    lines.append(f"  {baked.compared} calls answered as by the original, {same} (allowed: {baked.tolerance:g})")
    return "\n".join([*lines, *(f"  note: {note}" for note in baked.notes)])


def _compare(directory: Path, folder: Path, questions: Questions, tolerance: float) -> float:
    largest = 0.0
    for onednn, kernels in ((None, ""), ("1", " with oneDNN"), ("0", " without oneDNN")):
        allowed = tolerance if onednn is None else max(tolerance, OTHER_CPU)
        copy = ask(Job(folder, questions.calls, optimized=True, onednn=onednn))
        if copy.failure:
            raise Refusal(f"{directory}: baked, it cannot be run{kernels}: {copy.failure}")
        own: list[Answer] = []  # the original's answers with these kernels
        for position, (right, answer) in enumerate(zip(questions.answers, copy.answers)):
            distance, problem = compare.answers(right, answer, allowed)
            if problem and onednn:
                own = own or ask(Job(directory, questions.calls, onednn=onednn)).answers
                if position < len(own) and distance <= AS_MUCH * compare.answers(right, own[position], allowed)[0]:
                    continue
            if problem:
                name = questions.calls[position][0]
                text = f"baked, signature {name!r} gives other answers{kernels}: {problem} (allowed: {tolerance:g})"
                raise Refusal(f"{directory}: {text}")
            largest = max(largest, distance)
    return largest


def _write(frozen: Frozen, directory: Path, folder: Path) -> None:
    from tensorflow.core.protobuf import saved_model_pb2

    variables = frozen.variables == "kept"
    for path in sorted(directory.iterdir()):
        if path.name in NOT_CARRIED and not (variables and path.name == "variables"):
            continue
        if path.is_dir():
            if path.name in ("assets", "assets.extra", "variables"):
                copy_folder(path, folder / path.name)
        elif path.is_file():
            shutil.copyfile(path, folder / path.name)
    for name in leftovers(directory):
        (folder / name).unlink(missing_ok=True)
    message = saved_model_pb2.SavedModel(saved_model_schema_version=1, meta_graphs=[frozen.graph])
    (folder / "saved_model.pb").write_bytes(message.SerializeToString(deterministic=True))
    if frozen.weights:
        weights.write(frozen.weights, folder)
