"""Export a trained model as a stateless SavedModel with its signatures; the training state goes into another file.

    from exporting import class_names, export, forward, from_keras, image_bytes

    read = class_names(forward(model), ["cat", "dog"])
    export(
        model, "model/",
        functions={"serving_default": image_bytes(read, scale=1 / 255), "pixels": read},
        examples={"serving_default": {"image": [open("cat.png", "rb").read()]}},
        labels=["cat", "dog"],
        state=from_keras(model, epoch=20, seed=7),
    )

The SavedModel has a graph for every function and the variables that those graphs read, without the optimizer. Before
the folder gets its name, the audit must find a pure function, and the server's runtime must give the answers of the
functions in memory, on the examples and on generated inputs.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from exporting import card as model_card
from exporting import compare, golden, manifest, trial
from exporting.audit import audit
from exporting.function import Function, served_functions
from exporting.graph import contents, import_tensorflow
from exporting.inputs import Inputs
from exporting.placing import folder_beside, put_in_place
from exporting.refusal import Refusal
from exporting.report import progress
from exporting.runner import Answer, Job, ask
from exporting.state import State, save
from serving.core.errors import plain
from serving.runtime.warmup import PLACE as WARMUP
from serving.savedmodel.signature import Signature, check, shape_text

Tensors = dict[str, Any]
FATAL = frozenset({"signature", "rank"})  # notes in an audit; reasons to refuse an export


@dataclass(frozen=True, slots=True)
class Exported:
    """The result of an export."""

    folder: Path
    signatures: tuple[str, ...]
    compared: int  # calls
    tolerance: float
    difference: float  # the largest, relative to the output's largest number
    state: Path | None
    notes: tuple[str, ...] = ()


def export(
    model: Any,
    out: Path | str,
    *,
    functions: Mapping[str, Any] | None = None,
    examples: Mapping[str, Mapping[str, Any]] | None = None,
    labels: Sequence[str] | None = None,
    card: str | Callable[[Path], str] | None = None,
    state: State | Mapping[str, Any] | Callable[[Path], State | Mapping[str, Any]] | None = None,
    state_path: Path | str | None = None,
    force: bool = False,
    tolerance: float = compare.TOLERANCE,
) -> Exported:
    """Write the model to the folder `out` for serving; or raise Refusal with the reason and leave nothing behind.

    `functions` are the signatures by name: Functions, tf.functions with an input signature, Keras models. Without a
    "serving_default" among them, that is the model's forward pass, or the only function.
    `examples` are inputs by name for some of the signatures, a small batch each; they are written with their answers.
    `labels` are the names of the classes, `card` is the text of README.md. `state`, the state of the training, is
    written to `state_path`, by default `out` with ".state.json" appended. Card and state may be functions of the
    finished folder, so that they can measure what is served.
    `force` replaces an existing SavedModel, in one step.
    """
    out = Path(out)
    beside = _state_path(out, state, state_path)
    _check_place(out, force)
    import_tensorflow()
    served = served_functions(model, functions or {})
    inputs = _examples(served, examples or {})
    with folder_beside(out) as folder:
        progress("export", f"writing {', '.join(served)}")
        notes = _save(model, served, folder)
        _refuse_impure(folder)
        progress("export", "comparing with the model in memory")
        compared, difference, generated = _prove(served, inputs, folder, tolerance)
        _write_beside(folder, inputs, labels, served, tolerance)
        golden.write_warmup(folder / WARMUP, {**generated, **inputs})
        golden.write_smallest_runs(folder)
        facts = state(folder) if callable(state) else state
        text = card(folder) if callable(card) else card
        if text is not None:
            (folder / "README.md").write_text(text)
        model_card.write_exported(folder, [model, *(held for function in served.values() for held in function.holds)])
        manifest.write(folder)
        if facts is not None and beside is not None:
            save(beside, facts)
        put_in_place(folder, out, force)
    exported = Exported(out, tuple(sorted(served)), compared, tolerance, difference, beside, tuple(notes))
    _report(exported)
    return exported


def _report(exported: Exported) -> None:
    for note in exported.notes:
        progress("export", note)
    beside = f", and {exported.state}" if exported.state else ""
    progress("export", f"wrote {exported.folder} with {', '.join(exported.signatures)}{beside}")


def _state_path(out: Path, state: Any, path: Path | str | None) -> Path | None:
    if state is None:
        if path is not None:
            raise Refusal(f"{path}: there is no state= to write there")
        return None
    target = Path(path) if path is not None else out.with_name(f"{out.absolute().name}.state.json")
    if target.resolve().is_relative_to(out.resolve()):
        raise Refusal(f"{target}: it is inside {out}, and what is served holds nothing of the training")
    if not target.absolute().parent.is_dir():
        raise Refusal(f"{target}: there is no folder to write it in")
    return target


def _check_place(out: Path, force: bool) -> None:
    there = out.exists() or out.is_symlink()
    if there and not force:
        raise Refusal(f"{out}: it exists; force=True replaces it")
    if there and not (out / "saved_model.pb").exists() and (not out.is_dir() or any(out.iterdir())):
        raise Refusal(f"{out}: it exists and is not a SavedModel; force=True replaces SavedModels only")
    if not out.absolute().parent.is_dir():
        raise Refusal(f"{out}: there is no folder {out.absolute().parent} to write it in")


def _examples(served: Mapping[str, Function], examples: Mapping[str, Mapping[str, Any]]) -> dict[str, Inputs]:
    arrays = {}
    for name, inputs in examples.items():
        if name not in served:
            raise Refusal(f"examples: there is no function {name!r}; there are {', '.join(served)}")
        specs = served[name].inputs
        if inputs.keys() != specs.keys():
            raise Refusal(f"examples[{name!r}]: expected {', '.join(specs)}, got {', '.join(inputs) or 'nothing'}")
        try:
            arrays[name] = dict(golden.arrays(inputs, specs))
        except (TypeError, ValueError) as error:
            raise Refusal(f"examples[{name!r}]: {error}") from None
        for key, array in arrays[name].items():
            if not specs[key].shape.is_compatible_with(array.shape):
                expected, actual = shape_text(tuple(specs[key].shape.as_list())), shape_text(array.shape)
                raise Refusal(f"examples[{name!r}].{key}: expected shape {expected}, got {actual}")
    return arrays


def _save(model: Any, served: Mapping[str, Function], folder: Path) -> list[str]:
    """Write the graphs and the variables that they read, nothing else of the model; return notes."""
    import tensorflow as tf

    concrete = {name: _traced(name, function) for name, function in served.items()}
    root = tf.Module()
    root.weights = _variables(model, concrete.values())
    root.tables = _tables(
        [model, *(held for function in served.values() for held in function.holds)], concrete.values()
    )
    try:
        tf.saved_model.save(root, str(folder), signatures=concrete)
    except (AssertionError, ValueError, TypeError, RuntimeError, tf.errors.OpError) as error:
        reason = plain(str(error)) if isinstance(error, tf.errors.OpError) else " ".join(str(error).split())
        if "'untracked' resource" in reason:
            reason = (
                "a function refers to a table or to a variable that the model does not hold: make it an attribute of "
                f"the tf.Module that is exported, or name it in exporting.function(..., holds=[it]) ({reason[:200]})"
            )
        raise Refusal(f"TensorFlow cannot write it: {reason[:600]}") from error
    _settle_fingerprint(folder)
    kept = sum(variable.shape.num_elements() or 0 for variable in root.weights)
    return [f"{len(root.weights)} variables of {kept:,} numbers written", *_left_out(model, root.weights)]


def _left_out(model: Any, written: Iterable[Any]) -> Iterable[str]:
    """Name the variables of the model that no function reads: optimizers, their slots, counters."""
    import tensorflow as tf

    if not isinstance(model, tf.__internal__.tracking.Trackable):
        return
    optimizer = getattr(model, "optimizer", None)
    held = [*tf.train.TrackableView(model).descendants(), *(getattr(optimizer, "variables", None) or ())]
    there = {id(variable) for variable in written}
    values = (item.value if _is_keras_variable(item) else item for item in held)
    unread = {id(item): item for item in values if isinstance(item, tf.Variable) and id(item) not in there}
    if unread:
        names = [variable.name.removesuffix(":0") for variable in unread.values()]
        more = f" and {len(names) - 5} more" if len(names) > 5 else ""
        yield f"left out, for no function reads them: {', '.join(names[:5])}{more}"


def _is_keras_variable(item: Any) -> bool:
    return type(item).__module__.startswith("keras.") and hasattr(item, "value")


def _settle_fingerprint(folder: Path) -> None:
    """Replace the random id of an export by a digest of it: the same model gives the same bytes."""
    from tensorflow.core.protobuf import fingerprint_pb2

    path = folder / "fingerprint.pb"
    message = fingerprint_pb2.FingerprintDef.FromString(path.read_bytes())
    message.uuid = str(int(manifest.sha256(folder / "saved_model.pb")[:32], 16))
    path.write_bytes(message.SerializeToString(deterministic=True))


def _traced(name: str, function: Function) -> Any:
    import tensorflow as tf

    if function.concrete is not None:
        _check_outputs(name, function.concrete.structured_outputs)
        return function.concrete
    specs = {key: tf.TensorSpec(spec.shape, spec.dtype, key) for key, spec in function.inputs.items()}

    def call(**tensors: Any) -> Tensors:
        outputs = function.call(**tensors)
        _check_outputs(name, outputs)
        return {key: tf.identity(tensor, key) for key, tensor in outputs.items()}

    try:
        return tf.function(call, autograph=False).get_concrete_function(**specs)
    except Refusal as refusal:
        reason = str(refusal)
        raise Refusal(reason if reason.startswith(name) else f"{name}: {reason}") from None
    except Exception as error:  # the model's own code may raise anything
        text = " ".join(str(error).split())[:600]
        raise Refusal(f"{name}: no graph can be made of it: {type(error).__name__}: {text}") from error


def _check_outputs(name: str, outputs: Mapping[Any, Any]) -> None:
    for key, tensor in outputs.items():
        if not isinstance(key, str) or not re.fullmatch(r"[A-Za-z0-9_.][A-Za-z0-9_.\\/>-]*", key):
            raise Refusal(f"{name}: an output is named {key!r}; letters, digits, _ . - / are understood")
        kind = type(tensor).__name__
        if isinstance(tensor, (Mapping, list, tuple)) or any(word in kind for word in ("Sparse", "Ragged")):
            raise Refusal(f"{name}: its output {key!r} is a {kind}, which has no plain array form: make a tensor of it")


def _variables(model: Any, concrete: Iterable[Any]) -> list[Any]:
    """Return the variables that the graphs read, in the model's own order, then in that of their use."""
    used = {id(variable): variable for graph in concrete for variable in graph.variables}
    own = [getattr(variable, "value", variable) for variable in getattr(model, "variables", ())]
    first = {id(variable): variable for variable in own if id(variable) in used}
    return list((first | used).values())


def _tables(roots: Iterable[Any], concrete: Iterable[Any]) -> list[Any]:
    """Return the tables and asset files, among all that the roots hold, that the graphs refer to."""
    import tensorflow as tf

    used = {id(external) for graph in concrete for external, _ in graph.graph.captures}
    tables: dict[int, Any] = {}
    for root in roots:
        if not isinstance(root, tf.__internal__.tracking.Trackable):
            continue
        for held in tf.train.TrackableView(root).descendants():
            handle = getattr(held, "resource_handle", getattr(held, "asset_path", None))
            if handle is not None and id(handle) in used and not isinstance(held, tf.Variable):
                tables[id(held)] = held
    return list(tables.values())


def _refuse_impure(folder: Path) -> None:
    """Raise Refusal with the audit's reasons, where there are any."""
    report = audit(folder, command="export")
    reasons = [finding.text for finding in report.findings if finding.says_no or finding.kind in FATAL]
    if reasons:
        raise Refusal(f"it is not a pure function of its inputs: {'; '.join(dict.fromkeys(reasons))}")


def _prove(
    served: Mapping[str, Function], examples: Mapping[str, Inputs], folder: Path, tolerance: float
) -> tuple[int, float, dict[str, Inputs]]:
    """Raise Refusal where the server's runtime answers differently from the functions in memory.

    Return the number of calls, the largest difference, and the generated inputs of one row.
    """
    signatures = {name: signature for name, signature in contents(folder).signatures.items() if name in served}
    accepted, wrong = trial.inputs_that_run(folder, signatures, easily=examples)
    calls = [*examples.items(), *((name, inputs) for name, entry in accepted.items() for inputs in entry.inputs)]
    for name, problem in wrong.items():
        if name not in examples:
            raise Refusal(
                f"{name}: nothing shows that it works: {trial.VERDICTS[problem.verdict]} ({problem.detail}); give one "
                f"that does, examples={{{name!r}: {{...}}}}"
            )
    for name, inputs in examples.items():
        for key, array in inputs.items():
            if text := check(signatures[name].inputs[key], array.shape):
                raise Refusal(f"examples[{name!r}].{key}: {text}")
    answers = ask(Job(folder, calls))
    if answers.failure:
        raise Refusal(f"the exported model cannot be run: {answers.failure}")
    largest = 0.0
    for position, ((name, inputs), answer) in enumerate(zip(calls, answers.answers)):
        where = f"{name}, its example" if position < len(examples) else f"{name}, generated inputs"
        if answer.outputs is None:
            raise Refusal(f"{where}: {answer.error}: {answer.message}")
        distance, text = compare.answers(Answer(_in_memory(served[name], inputs)), answer, tolerance)
        if text:
            raise Refusal(f"{where}: exported, it gives other answers than in memory: {text} (allowed: {tolerance:g})")
        largest = max(largest, distance)
    return len(calls), largest, {name: entry.row for name, entry in accepted.items()}


def _in_memory(function: Function, inputs: Inputs) -> Inputs:
    import tensorflow as tf

    outputs = function.call(**{name: tf.constant(array, function.inputs[name].dtype) for name, array in inputs.items()})
    return {name: _array(tensor) for name, tensor in outputs.items()}


def _array(tensor: Any) -> Any:
    value = tensor.numpy()
    return np.array(value, object) if isinstance(value, bytes) else np.asarray(value)


def _write_beside(
    folder: Path,
    examples: Mapping[str, Inputs],
    labels: Sequence[str] | None,
    served: Mapping[str, Function],
    tolerance: float,
) -> None:
    import tensorflow as tf

    extra = folder / "assets.extra"
    extra.mkdir()
    if labels is not None:
        if any("\n" in label or "\r" in label or not label for label in labels):
            raise Refusal("labels: each is one line of text")
        (extra / "labels.txt").write_text("".join(f"{label}\n" for label in labels), "utf-8")
    signatures: Mapping[str, Signature] = contents(folder).signatures
    examples = {name: inputs for name, inputs in examples.items() if _has_json_form(signatures[name])}
    if not examples:
        return
    loaded = tf.saved_model.load(str(folder))
    answers = {}
    for name, inputs in examples.items():
        outputs = loaded.signatures[name](**{key: tf.constant(array) for key, array in inputs.items()})
        of = _in_memory(served[name], inputs)  # in the function's own order
        answers[name] = {key: _array(outputs[key]) for key in of}
        _, text = compare.difference(of, answers[name], tolerance)
        if text:
            raise Refusal(f"{name}, its example: TensorFlow's Python API gives other answers: {text}")
    golden.write(folder, signatures, examples, answers)


def _has_json_form(signature: Signature) -> bool:
    return all(spec.dtype.kind != "c" for spec in (*signature.inputs.values(), *signature.outputs.values()))
