"""A SavedModel that starts and runs faster and means the same.

Variables become constants, TensorFlow's graph optimizer runs now instead of at the first call, and what no signature
reaches is left out. Nothing is written that has not answered as the original does.
"""

import json
import os
import shutil
import statistics
import tempfile
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from exporting import card as model_card
from exporting import compare, manifest, trial
from exporting.audit import CUSTOM, files, unregistered
from exporting.freeze import freeze
from exporting.graph import MetaGraph, contents, functions, init_operations, names, reached, served, signatures
from exporting.inputs import Inputs, exported, given
from exporting.mark import is_baked
from exporting.origin import Origins
from exporting.refusal import Refusal
from exporting.report import progress, size
from exporting.runner import UNCALLABLE, Answer, Answers, Job, ask
from exporting.values import VARIABLES, bytes_of, custom_operations, values_of
from serving.core.errors import LoadError
from serving.core.files import problem as foreign_file
from serving.savedmodel.folder import twin
from serving.savedmodel.folder.manifest import leftovers
from serving.savedmodel.safety import purity
from serving.savedmodel.signature import DEFAULT, Contents, Signature

PROTOBUF_BYTES = (1 << 31) - (1 << 20)  # a message holds less than 2 GB; the graph itself needs some of it
# Constants take five times their size in memory for as long as the model is loaded, variables little more than once;
# and layers in which nothing can be computed ahead start faster as variables: docs/benchmarks/bake.md.
LARGE = 100_000_000  # bytes of variables that are never folded unasked
SMALL = 8_000_000  # and that always are; between the two, where operations are saved
FREE = frozenset({"Const", "Identity", "NoOp", "Placeholder", "ReadVariableOp", *VARIABLES})
ROUNDS, REPEAT = 3, 30  # fresh processes each way, and calls in each, for the figures
OTHER_CPU = 1e-4  # what other kernels may differ by at least: the original's answers differ from CPU to CPU, too
AS_MUCH = 2  # times what the original itself differs by between the two; there, the kernels decide
NOT_CARRIED = frozenset({"saved_model.pb", "fingerprint.pb", "keras_metadata.pb", "variables"})
MUTABLE = ("MutableHashTable", "MutableDenseHashTable", "AnonymousMutable")


@dataclass(frozen=True, slots=True)
class Figures:
    """What a model costs, through the runtime in fresh processes; seconds are medians."""

    bytes: int
    load: float
    first_call: float
    steady_call: float


@dataclass(frozen=True, slots=True)
class Baked:
    """What came of a bake."""

    out: Path
    frozen: bool
    signature: str  # that was timed
    before: Figures
    after: Figures
    tolerance: float
    difference: float
    compared: int  # calls
    notes: tuple[str, ...]


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
    """Write the SavedModel in `directory` to `out`, baked; or raise Refusal and leave nothing behind.

    Variables are folded into constants where `keep_variables` is False, left where it is True; where it is None, left
    beyond `large` bytes, and beyond `small` where folding saves no operation.
    """
    _check_places(directory, out, force)
    offered = contents(directory)
    wanted = _callable(offered)
    own = [*exported(directory, wanted), *(call for path in inputs for call in given(path, wanted))]
    graph = served(directory)
    notes = _check_graph(directory, graph)
    questions = _ask_original(directory, offered, own)
    notes += questions.notes
    if questions.unproved:
        keep_variables = True
        notes += [
            f"signature {name!r}: its graph is kept as it is, and the variables in their own file, for nothing shows "
            f"that it works: {why}"
            for name, why in questions.unproved.items()
        ]
    result, kept, why = _frozen(directory, graph, keep_variables, limit, large, small, questions.unproved)
    notes += why
    with folder_beside(out) as folder:
        _write(result, directory, folder, kept)
        _say("comparing with the original")
        allowed = compare.TOLERANCE if tolerance is None else tolerance
        difference = _compare(directory, folder, questions, allowed)
        _say("measuring")
        before, after = _measure(directory, folder, questions.timed, rounds)
        baked = Baked(
            out=out,
            frozen=not kept,
            signature=questions.timed[0],
            before=before,
            after=after,
            tolerance=allowed,
            difference=difference,
            compared=len(questions.calls),
            notes=tuple(notes),
        )
        _write_card(baked, graph, folder)
        model_card.write_baked(folder, "bake", directory)
        if (folder / manifest.PLACE).exists():
            manifest.write(folder)
        put_in_place(folder, out, force)
    return baked


def _frozen(
    directory: Path,
    graph: MetaGraph,
    keep: bool | None,
    limit: int,
    large: int,
    small: int,
    unproved: Collection[str],
) -> tuple[MetaGraph, bool, list[str]]:
    """Return the optimized graph, whether it still has its variables, and what is worth a note about that."""
    needed = bytes_of(graph)
    if keep:
        return freeze(graph, None, _say, unproved), True, []
    if needed > limit:
        return freeze(graph, None, _say), True, [_stay(needed, "do not fit protobuf's 2 GB")]
    if keep is None and needed > large:
        why = "would take five times their size in memory as constants; --fold-variables does it still"
        return freeze(graph, None, _say), True, [_stay(needed, why)]
    _say("loading the variables")
    folded = freeze(graph, values_of(directory, graph), _say)
    if keep is None and needed > small:
        _say("once more, with variables")
        left = freeze(graph, None, _say)
        if _operations(left) <= _operations(folded):
            return left, True, [_stay(needed, "would save no operation as constants, and start slower")]
    if folded.ByteSize() > max(limit, 1 << 20):
        raise Refusal(
            f"{directory}: with its variables the graph takes {size(folded.ByteSize())}; try --keep-variables"
        )
    return folded, False, []


def _stay(needed: int, why: str) -> str:
    return f"{size(needed)} of variables {why}: they stay in their own file"


def _operations(graph: MetaGraph) -> int:
    """Count what signatures compute, without what only fetches a value."""
    outputs = names(info for one in signatures(graph).values() for info in one.outputs.values())
    nodes = reached({node.name: node for node in graph.graph_def.node}, outputs)
    bodies = functions(graph.graph_def, nodes).values()
    return sum(node.op not in FREE for node in [*nodes, *(node for body in bodies for node in body.node_def)])


def as_text(baked: Baked) -> str:
    """Return what came of it for people."""
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


def _say(text: str) -> None:
    progress("bake", text)


def _check_places(directory: Path, out: Path, force: bool) -> None:
    source, target = directory.resolve(), out.resolve()
    if target == source or target.is_relative_to(source):
        raise Refusal(f"{out}: it is inside {directory}; write beside it")
    if source.is_relative_to(target):
        raise Refusal(f"{out}: it holds {directory}; write beside it")
    if (out.exists() or out.is_symlink()) and not force:
        raise Refusal(f"{out}: it exists; --force replaces it")
    known = (out / "saved_model.pb").exists() or twin.holds(out)
    if force and out.exists() and not known and (not out.is_dir() or any(out.iterdir())):
        raise Refusal(f"{out}: it exists and is no SavedModel; --force replaces SavedModels and twins only")
    if not out.absolute().parent.is_dir():
        raise Refusal(f"{out}: there is no folder {out.absolute().parent} to write it in")


def _check_graph(directory: Path, graph: MetaGraph) -> list[str]:
    """Raise Refusal for what cannot be baked or could not be verified; return what is worth a note."""
    if is_baked(graph):
        raise Refusal(f"{directory}: it is baked already")
    if not signatures(graph):
        raise Refusal(f"{directory}: it has no signatures")
    try:
        uses = purity.impurities(directory)
    except LoadError as error:
        raise Refusal(f"{directory}: {error}") from None
    if problem := foreign_file(directory):
        raise Refusal(f"{directory}: {problem}")
    for finding in unregistered(graph):
        raise Refusal(f"{directory}: {finding.text}")
    custom = custom_operations()
    wrong = [use for use in purity.against(uses, custom=False) if use.op not in custom]
    if wrong:
        more = f"; {len(wrong) - 1} more: python -m exporting audit {directory}" if len(wrong) > 1 else ""
        raise Refusal(f"{directory}: {wrong[0]}, so it cannot be baked{more}")
    nodes = reached({node.name: node for node in graph.graph_def.node}, _roots(graph))
    bodies = functions(graph.graph_def, nodes).values()
    for node in [*nodes, *(node for body in bodies for node in body.node_def)]:
        if node.op.startswith(MUTABLE):
            raise Refusal(
                f"{directory}: {node.op} (node {node.name}) is a table that can change, and cannot be folded into "
                "constants: export the model with a StaticHashTable"
            )
    for finding in files(directory, graph, Origins(graph.graph_def)):
        raise Refusal(f"{directory}: {finding.text}")
    index = directory / "variables" / "variables.index"
    if any(node.op in VARIABLES for node in nodes) and not index.is_file():
        raise Refusal(f"{directory}: variables/variables.index is missing: copy the whole folder variables/ again")
    extra = [op for op in sorted({use.op for use in uses}) if op in custom]
    return [CUSTOM.format(op) for op in extra]


def _roots(graph: MetaGraph) -> list[str]:
    outputs = names(info for one in signatures(graph).values() for info in one.outputs.values())
    return [*outputs, *init_operations(graph)]


@dataclass(frozen=True, slots=True)
class _Questions:
    """What both models are asked, what the original answered, and what is timed."""

    calls: list[tuple[str, Inputs]]
    answers: list[Answer]
    timed: tuple[str, Inputs]
    notes: list[str]
    unproved: dict[str, str]  # the signatures that no inputs were found for, and why


def _callable(offered: Contents) -> dict[str, Signature]:
    return trial.callable_signatures({name: one for name, one in offered.signatures.items() if name != purity.INIT})


def _ask_original(directory: Path, offered: Contents, own: list[tuple[str, Inputs]]) -> _Questions:
    wanted, calls = _callable(offered), list(own)
    original = ask(Job(directory, calls)) if calls else Answers()
    if original.failure:
        raise Refusal(f"{directory}: the given inputs: {original.failure}")
    settled = {name for (name, _), answer in zip(calls, original.answers) if answer.outputs is not None}
    found, wrong = trial.inputs_that_run(directory, wanted, easily=settled)
    for name, problem in wrong.items():
        if problem.verdict == "unusable" and not problem.detail.startswith(UNCALLABLE):
            raise Refusal(f"{directory}: signature {name!r} does not work as it is: {problem.detail}")
    unproved = {
        name: f"{trial.VERDICTS[problem.verdict]} ({problem.detail}); give one that works with --input FILE"
        for name, problem in wrong.items()
        if problem.verdict != "unusable" and name not in settled
    }
    timed = next(iter(calls), None)
    for name in sorted(found, key=lambda name: (name == DEFAULT, name)):
        calls += [(name, inputs) for inputs in found[name].inputs]
        original.answers += found[name].answers
        timed = (name, found[name].row)
    if timed is None:
        whys = "; ".join(f"signature {name!r} cannot be compared: {why}" for name, why in unproved.items())
        raise Refusal(f"{directory}: {whys or 'no signature of it can be called, so nothing could be compared'}")
    notes = [
        f"signature {name!r} {'is left out' if one.problem else 'was not compared'}: {one.refusal}"
        for name, one in offered.signatures.items()
        if name not in wanted and name != purity.INIT
    ]
    notes += [
        f"signature {name!r} was not compared: {one.detail.removeprefix(UNCALLABLE).lstrip(': ')}"
        for name, one in wrong.items()
        if name not in settled and name not in unproved
    ]
    return _Questions(calls, original.answers, timed, notes, unproved)


def _compare(directory: Path, folder: Path, questions: _Questions, tolerance: float) -> float:
    largest = 0.0
    for onednn, kernels in ((None, ""), ("1", " with oneDNN"), ("0", " without oneDNN")):
        allowed = tolerance if onednn is None else max(tolerance, OTHER_CPU)
        copy = ask(Job(folder, questions.calls, optimized=True, onednn=onednn))
        if copy.failure:
            raise Refusal(f"{directory}: baked, it cannot be run{kernels}: {copy.failure}")
        own: list[Answer] = []  # what the original answers with these kernels
        for place, (one, other) in enumerate(zip(questions.answers, copy.answers)):
            distance, problem = compare.answers(one, other, allowed)
            if problem and onednn:
                own = own or ask(Job(directory, questions.calls, onednn=onednn)).answers
                if place < len(own) and distance <= AS_MUCH * compare.answers(one, own[place], allowed)[0]:
                    continue
            if problem:
                name = questions.calls[place][0]
                text = f"baked, signature {name!r} answers otherwise{kernels}: {problem} (allowed: {tolerance:g})"
                raise Refusal(f"{directory}: {text}")
            largest = max(largest, distance)
    return largest


def _measure(directory: Path, folder: Path, call: tuple[str, Inputs], rounds: int) -> tuple[Figures, Figures]:
    """Time both, in turns."""
    pairs = [
        (ask(Job(directory, [call], repeat=REPEAT)), ask(Job(folder, [call], optimized=True, repeat=REPEAT)))
        for _ in range(rounds)
    ]
    both = []
    for place, path in enumerate((directory, folder)):
        runs = [pair[place] for pair in pairs]
        fields = ("load", "first", "steady")
        median = [statistics.median(getattr(run, field) for run in runs) if runs else 0.0 for field in fields]
        size_there = sum(p.stat().st_size for p in path.rglob("*") if p.is_file() and p.parent.name != "assets.extra")
        both.append(Figures(size_there, *median))
    return both[0], both[1]


@contextmanager
def folder_beside(out: Path) -> Iterator[Path]:
    """Lend a folder beside `out`, gone afterwards unless it was renamed."""
    try:
        folder = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.absolute().parent))
        mask = os.umask(0)
        os.umask(mask)
        folder.chmod(0o777 & ~mask)
    except OSError as error:
        raise Refusal(f"{out}: cannot be written: {error.strerror}") from None
    try:
        yield folder
    except OSError as error:  # a full disk, above all
        raise Refusal(f"{out}: cannot be written: {error.strerror or error}; nothing of it was kept") from None
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _write(result: MetaGraph, directory: Path, folder: Path, variables: bool) -> None:
    from tensorflow.core.protobuf import saved_model_pb2

    for path in sorted(directory.iterdir()):
        if path.name in NOT_CARRIED and not (variables and path.name == "variables"):
            continue
        if path.is_dir():
            if path.name in ("assets", "assets.extra", "variables"):
                _copy(path, folder / path.name)
        elif path.is_file():
            shutil.copyfile(path, folder / path.name)
    for name in leftovers(directory):
        (folder / name).unlink(missing_ok=True)
    message = saved_model_pb2.SavedModel(saved_model_schema_version=1, meta_graphs=[result])
    (folder / "saved_model.pb").write_bytes(message.SerializeToString(deterministic=True))


def _copy(source: Path, target: Path) -> None:
    try:
        shutil.copytree(source, target, copy_function=shutil.copyfile)
    except shutil.Error as error:  # a list of (source, target, why)
        raise OSError(error.args[0][0][2]) from None


def _write_card(baked: Baked, graph: MetaGraph, folder: Path) -> None:
    import numpy
    import tensorflow as tf

    extra = folder / "assets.extra"
    extra.mkdir(exist_ok=True)
    card = {
        "variables_folded": baked.frozen,
        "exported_by_tensorflow": graph.meta_info_def.tensorflow_version,
        "baked_by_tensorflow": tf.__version__,
        "numpy": numpy.__version__,
        "compared_calls": baked.compared,
        "tolerance": baked.tolerance,
        "largest_difference": baked.difference,
        "timed": baked.signature,
        "before": asdict(baked.before),
        "after": asdict(baked.after),
        "notes": list(baked.notes),
    }
    (extra / "baked.json").write_text(json.dumps(card, indent=2) + "\n")


def put_in_place(folder: Path, out: Path, force: bool) -> None:
    if not out.exists() and not out.is_symlink():
        folder.rename(out)
        return
    if not force:
        raise Refusal(f"{out}: it came to exist meanwhile; --force replaces it")
    old = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.absolute().parent))
    try:
        out.rename(old / "old")
        try:
            folder.rename(out)
        except OSError:
            (old / "old").rename(out)
            raise
    finally:
        shutil.rmtree(old, ignore_errors=True)
