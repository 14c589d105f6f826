"""What baking and the conversion to LiteRT share: checks of the original, its answers, and the measurements.

No derived model is written before its answers equal those of the original.
"""

import json
import statistics
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from exporting import card as model_card
from exporting import golden, manifest, trial
from exporting.audit import CUSTOM, files, unregistered
from exporting.graph import MetaGraph, functions, init_operations, output_tensors, reached, signatures
from exporting.inputs import Inputs
from exporting.mark import is_baked
from exporting.origin import Origins
from exporting.placing import put_in_place
from exporting.refusal import Refusal
from exporting.report import progress
from exporting.runner import UNCALLABLE, Answer, Answers, Job, ask
from exporting.values import VARIABLES, custom_operations
from serving.core.errors import LoadError
from serving.core.files import problem as foreign_file
from serving.savedmodel.roots import INIT
from serving.savedmodel.safety import purity
from serving.savedmodel.signature import DEFAULT, Contents, Signature

PROTOBUF_BYTES = (1 << 31) - (1 << 20)  # a message holds less than 2 GB; the graph itself needs some of it
ROUNDS, REPEAT = 3, 30  # fresh processes each way, and calls in each, for the figures
Variables = Literal["folded", "partly folded", "kept"]  # kept in a file of their own
MUTABLE = ("MutableHashTable", "MutableDenseHashTable", "AnonymousMutable")


@dataclass(frozen=True, slots=True)
class Figures:
    """The size in bytes and times in seconds of a model, medians over fresh processes."""

    bytes: int
    load: float
    first_call: float
    steady_call: float


@dataclass(frozen=True, slots=True)
class Baked:
    """The result of a bake."""

    out: Path
    variables: Variables
    signature: str  # that was timed
    before: Figures
    after: Figures
    tolerance: float
    difference: float
    compared: int  # calls
    notes: tuple[str, ...]


def say(text: str) -> None:
    """Print progress."""
    progress("bake", text)


def check_graph(directory: Path, graph: MetaGraph) -> list[str]:
    """Return notes on the model; raise Refusal where it cannot be baked or verified."""
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
    outputs = output_tensors(graph)
    return [*outputs, *init_operations(graph)]


@dataclass(frozen=True, slots=True)
class Questions:
    """The calls for both models, the answers of the original, and the call that is timed."""

    calls: list[tuple[str, Inputs]]
    answers: list[Answer]
    timed: tuple[str, Inputs]
    notes: list[str]
    unproved: dict[str, str]  # the signatures that no inputs were found for, and why


def callable_signatures(offered: Contents) -> dict[str, Signature]:
    """Return the signatures that can be called, without the one that initializes."""
    return trial.callable_signatures(
        {name: signature for name, signature in offered.signatures.items() if name != INIT}
    )


def ask_original(directory: Path, offered: Contents, own: list[tuple[str, Inputs]]) -> Questions:
    """Run the given and generated calls on the original; raise Refusal where nothing could be compared."""
    usable, calls = callable_signatures(offered), list(own)
    original = ask(Job(directory, calls)) if calls else Answers()
    if original.failure:
        raise Refusal(f"{directory}: the given inputs: {original.failure}")
    settled = {name for (name, _), answer in zip(calls, original.answers) if answer.outputs is not None}
    accepted, wrong = trial.inputs_that_run(directory, usable, easily=settled)
    for name, problem in wrong.items():
        if problem.verdict == "unusable" and not problem.detail.startswith(UNCALLABLE):
            raise Refusal(f"{directory}: signature {name!r} does not work as it is: {problem.detail}")
    unproved = {
        name: f"{trial.VERDICTS[problem.verdict]} ({problem.detail}); give one that works with --input FILE"
        for name, problem in wrong.items()
        if problem.verdict != "unusable" and name not in settled
    }
    timed = next(iter(calls), None)
    for name in sorted(accepted, key=lambda name: (name == DEFAULT, name)):
        calls += [(name, inputs) for inputs in accepted[name].inputs]
        original.answers += accepted[name].answers
        timed = (name, accepted[name].row)
    if timed is None:
        whys = "; ".join(f"signature {name!r} cannot be compared: {why}" for name, why in unproved.items())
        raise Refusal(f"{directory}: {whys or 'no signature of it can be called, so nothing could be compared'}")
    notes = [
        f"signature {name!r} {'is left out' if signature.problem else 'was not compared'}: {signature.refusal}"
        for name, signature in offered.signatures.items()
        if name not in usable and name != INIT
    ]
    notes += [
        f"signature {name!r} was not compared: {problem.detail.removeprefix(UNCALLABLE).lstrip(': ')}"
        for name, problem in wrong.items()
        if name not in settled and name not in unproved
    ]
    return Questions(calls, original.answers, timed, notes, unproved)


def measure(directory: Path, folder: Path, call: tuple[str, Inputs], rounds: int) -> tuple[Figures, Figures]:
    """Return what the original and the new model cost for one call, timed in turns in fresh processes."""
    say("measuring")
    pairs = [
        (ask(Job(directory, [call], repeat=REPEAT)), ask(Job(folder, [call], optimized=True, repeat=REPEAT)))
        for _ in range(rounds)
    ]
    both = []
    for position, path in enumerate((directory, folder)):
        runs = [pair[position] for pair in pairs]
        fields = ("load", "first", "steady")
        median = [statistics.median(getattr(run, field) for run in runs) if runs else 0.0 for field in fields]
        size_there = sum(p.stat().st_size for p in path.rglob("*") if p.is_file() and p.parent.name != "assets.extra")
        both.append(Figures(size_there, *median))
    return both[0], both[1]


def _write_figures(baked: Baked, graph: MetaGraph, folder: Path) -> None:
    """Write `assets.extra/baked.json`: what was compared, and what both models cost."""
    import numpy
    import tensorflow as tf

    extra = folder / "assets.extra"
    extra.mkdir(exist_ok=True)
    card = {
        "variables": baked.variables,
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


def finish(baked: Baked, graph: MetaGraph, folder: Path, original: Path, command: str, force: bool) -> None:
    """Write the figures, the smallest runs, the card and the manifest into a finished folder, and give it its name."""
    _write_figures(baked, graph, folder)
    golden.write_smallest_runs(folder, optimized=True)
    model_card.write_baked(folder, command, original)
    if (folder / manifest.PLACE).exists():
        manifest.write(folder)
    put_in_place(folder, baked.out, force)
