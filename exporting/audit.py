"""Audit a SavedModel: is it a pure function, and which operations, variables and files show that it is not.

The graph is read first; then the signatures are run twice on the same generated inputs.
"""

import os
import re
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from exporting import trial
from exporting.graph import (
    MetaGraph,
    Node,
    assets,
    contents,
    functions,
    init_operations,
    node_of,
    output_tensors,
    reached,
    served,
)
from exporting.mark import is_baked
from exporting.origin import Origins
from exporting.refusal import Unreadable
from exporting.report import Cost, Finding, Report, progress
from exporting.runner import UNCALLABLE
from exporting.values import VARIABLES, custom_operations
from serving.core.errors import LoadError
from serving.savedmodel.roots import INIT, LOADING
from serving.savedmodel.safety import purity
from serving.savedmodel.safety.purity import Use
from serving.savedmodel.signature import Contents

NOT_TRIED = purity.DANGEROUS | {
    "outside",
    "missing",
    "unregistered",
}  # running it could do what is reported
CUSTOM = "{} is an operation of a library; its purity was not checked"
SHOWN = 5  # nodes of one function with the same operation that are listed; the rest are counted

# What optimizers and training loops call their variables, in TensorFlow 1, TensorFlow 2 and Keras 3.
TRAINING = re.compile(
    r"(^|/)(optimizer|adam|adamw|adamax|nadam|adagrad|adadelta|rmsprop|ftrl|lion|sgd|momentum|lamb|muon|adafactor)(_\d+)?(/|$)"
    r"|/(Adam|Adam_1|RMSProp|RMSProp_1|Momentum|Adagrad|Ftrl|Ftrl_1|AdaMax)$"
    r"|(^|/)(global_step|save_counter|learning_rate|iterations?|beta[12]_power|current_loss_scale|good_steps)(:0)?$"
    r"|\.OPTIMIZER_SLOT|ExponentialMovingAverage",
    re.IGNORECASE,
)


def audit(directory: Path, run: bool = True, command: str = "audit") -> Report:
    """Return what a SavedModel consists of and whether it is pure; raise Unreadable where none can be served.

    Progress is printed with the name of `command`. Without `run` no signature is run.
    """
    progress(command, "reading the graph")
    offered = contents(directory)
    graph = served(directory)
    findings = list(_static(directory, offered, graph))
    trials = None
    if run and not any(finding.kind in NOT_TRIED for finding in findings):
        progress(command, "trying the signatures")
        trials = tuple(trial.run(directory, offered.signatures))
        for tried in trials:
            if tried.detail.startswith(UNCALLABLE):
                text = f"signature {tried.signature!r}: {tried.detail.removeprefix(UNCALLABLE).lstrip(': ')}"
                findings.append(Finding("signature", text, tried.signature))
            elif tried.verdict not in ("same", "refused"):
                text = f"signature {tried.signature!r}: {trial.VERDICTS[tried.verdict]}: {tried.detail}"
                findings.append(Finding("tried", text, tried.signature))
    return Report(
        directory=directory,
        tags=offered.tags,
        tensorflow_version=offered.tensorflow_version,
        signatures=tuple(sorted(name for name in offered.signatures if name != INIT)),
        baked=is_baked(graph),
        findings=tuple(findings),
        cost=_cost(directory, graph),
        trials=trials,
    )


def _static(directory: Path, offered: Contents, graph: MetaGraph) -> Iterator[Finding]:
    origins = Origins(graph.graph_def)
    yield from files(directory, graph, origins)  # first: it names the files
    lacking = list(unregistered(graph))
    yield from lacking
    yield from _operations(directory, origins, {finding.op for finding in lacking})
    yield from _variables(graph)
    known = {node.name for node in graph.graph_def.node}
    for name, signature in offered.signatures.items():
        if name == INIT:
            continue
        for spec in (*signature.inputs.values(), *signature.outputs.values()):
            if spec.tensor and node_of(spec.tensor) not in known:
                text = f"signature {name!r} names the tensor {spec.tensor!r}, which the graph does not have"
                yield Finding("missing", text, name)
        if signature.refusal:
            yield Finding("signature", f"signature {name!r}: {signature.refusal}", name)
        for spec in signature.inputs.values():
            if spec.shape is None and spec.tensor:
                text = f"signature {name!r}: input {spec.name!r} has no known rank, and a wrong one may end the server"
                yield Finding("rank", text, name)


def _operations(directory: Path, origins: Origins, lacking: Collection[str | None]) -> Iterator[Finding]:
    """Name the operations that are not pure, without those in `lacking`, which cannot run here."""
    try:
        uses = [use for use in purity.impurities(directory) if use.op not in lacking]
    except LoadError as error:
        raise Unreadable(f"{directory}: {error}") from None
    shown: dict[tuple[str, str, str, str], int] = {}
    for use in uses:
        key = (use.signature, use.op, use.function, use.kind)
        shown[key] = shown.get(key, 0) + 1
        if shown[key] <= SHOWN:
            yield _finding(use, origins)
    for (signature, op, function, kind), number in shown.items():
        if number > SHOWN:
            text = f"{_where(signature)}: {op} {number - SHOWN} times more{f' in {function}' if function else ''}"
            yield Finding(_kind(kind, op), text, signature or None, op, None, function or None)


def _kind(kind: str, op: str) -> str:
    return "custom" if op in custom_operations() and kind in purity.VOUCHED else kind


def _where(signature: str) -> str:
    return "loading the model" if signature == LOADING else f"signature {signature!r}"


def _finding(use: Use, origins: Origins) -> Finding:
    text, variable = str(use), None
    if use.kind in ("state", "random"):
        holders = _handles(origins, use)
        variable = ", ".join(sorted({_variable_name(node) for node in holders if node.op in VARIABLES})) or None
    if variable:
        text += f": variable {variable}"
    if "dropout" in use.node.lower() or (variable and "seed_generator" in variable):
        text += "; a dropout or another layer is left in training mode"
    kind = _kind(use.kind, use.op)
    if kind == "custom":
        text = CUSTOM.format(use.op)
    return Finding(kind, text, use.signature or None, use.op, use.node, use.function or None, variable)


def _handles(origins: Origins, use: Use) -> list[Any]:
    try:
        return origins.of_input(use.function, use.node, 0)
    except (IndexError, KeyError):  # an operation without inputs
        return []


def _variable_name(node: Any) -> str:
    return node.attr["shared_name"].s.decode(errors="replace") or str(node.name)


def unregistered(graph: MetaGraph) -> Iterator[Finding]:
    """Name the operations for which this TensorFlow has no definition, or no kernel on a CPU."""
    import tensorflow as tf
    from tensorflow.python.framework import kernels, op_def_registry

    custom_operations()  # defines them
    roots = [
        *output_tensors(graph),
        *init_operations(graph),
    ]
    nodes = reached({node.name: node for node in graph.graph_def.node}, roots)
    used = functions(graph.graph_def, nodes)
    library = {function.signature.name for function in graph.graph_def.library.function}
    ops = {node.op for node in nodes} | {node.op for function in used.values() for node in function.node_def}
    for op in sorted(ops - library):
        if op_def_registry.get(op) is None:
            text = f"{op} is not an operation of TensorFlow {tf.__version__}: name its library in CUSTOM_OP_LIBRARIES"
            yield Finding("unregistered", text, op=op)
        elif not any(k.device_type in ("CPU", "DEFAULT") for k in kernels.get_registered_kernels_for_op(op).kernel):
            yield Finding("unregistered", f"TensorFlow {tf.__version__} has no kernel for {op} on a CPU", op=op)


def files(directory: Path, graph: MetaGraph, origins: Origins) -> Iterator[Finding]:
    """Name the files that the model would read from elsewhere, and the assets that are not there."""
    folder = directory.absolute() / "assets"
    fed = {graph.saver_def.filename_tensor_name.partition(":")[0]}
    for asset in assets(graph):
        fed.add(asset.tensor_info.name.partition(":")[0])
        path = Path(os.path.normpath(folder / asset.filename))
        if not path.is_relative_to(folder) or path == folder:
            yield Finding("outside", f"asset {asset.filename!r} is outside assets/")
        elif not path.is_file():
            yield Finding("missing", f"assets/{asset.filename} is not there")
    for function, node in _run(graph):
        position = {"InitializeTableFromTextFile": 1, "InitializeTableFromTextFileV2": 1}.get(node.op)
        position = 0 if node.op in ("RestoreV2", "Restore", "RestoreSlice") else position
        if position is None:
            continue
        for source in origins.of_input(function, node.name, position):
            if source.name not in fed and source.op != "Placeholder":
                value = source.attr["value"].tensor.string_val[:1] if source.op == "Const" else []
                file = repr(value[0].decode(errors="replace")) if value else f"what {source.op} {source.name} says"
                inside = f", in {function}" if function else ""
                text = f"{node.op} reads {file}, which is not an asset (node {node.name}{inside})"
                yield Finding("outside", text, op=node.op, node=node.name, function=function or None)


def _run(graph: MetaGraph) -> Iterator[tuple[str, Node]]:
    """Yield what signatures, the init operation and the restore run, with the function that it is in.

    A saver of the author's own, as in TensorFlow 1 models, is excluded.
    """
    outputs = output_tensors(graph)
    roots = [*outputs, *init_operations(graph), graph.saver_def.restore_op_name]
    nodes = reached({node.name: node for node in graph.graph_def.node}, roots)
    yield from (("", node) for node in nodes)
    for name, function in functions(graph.graph_def, nodes).items():
        yield from ((name, node) for node in function.node_def)


def _variables(graph: MetaGraph) -> Iterator[Finding]:
    """Name the variables that belong to the training, and those that no signature reads."""
    roots = output_tensors(graph)
    nodes = {node.name: node for node in graph.graph_def.node}
    used = {_variable_name(node) for node in reached(nodes, [*roots, *init_operations(graph)]) if node.op in VARIABLES}
    unused = sorted({_variable_name(node) for node in nodes.values() if node.op in VARIABLES} - used)
    training = [name for name in unused if TRAINING.search(name)]
    if training:
        yield Finding("training", f"no signature reads the training's {_shortened(training)}")
    if others := [name for name in unused if name not in training]:
        yield Finding("unused", f"no signature reads the variable {_shortened(others)}")


def _shortened(names: list[str]) -> str:
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")


def _cost(directory: Path, graph: MetaGraph) -> Cost:
    from tensorflow import errors, train

    definition = graph.graph_def
    nodes = {node.name: node for node in definition.node}
    roots = output_tensors(graph)
    needed = reached(nodes, [*roots, *init_operations(graph), graph.saver_def.restore_op_name])
    used = functions(definition, needed)
    variables = {_variable_name(node) for node in definition.node if node.op in VARIABLES}
    size = 0
    prefix = directory / "variables" / "variables"
    if prefix.with_suffix(".index").is_file():
        try:
            checkpoint = train.load_checkpoint(str(prefix))
            shapes, dtypes = checkpoint.get_variable_to_shape_map(), checkpoint.get_variable_to_dtype_map()
            for name, shape in shapes.items():
                if dtypes[name].is_numpy_compatible and dtypes[name].name != "string":
                    count = 1
                    for length in shape:
                        count *= length
                    size += count * dtypes[name].size
        except (errors.OpError, RuntimeError, ValueError):
            size = 0  # a broken checkpoint; loading it raises the error
    return Cost(
        variables=len(variables),
        variable_bytes=size,
        functions=len(definition.library.function),
        nodes=len(nodes) + sum(len(function.node_def) for function in definition.library.function),
        reached_nodes=len(needed) + sum(len(function.node_def) for function in used.values()),
        file_bytes=sum(path.stat().st_size for path in directory.rglob("*") if path.is_file()),
    )
