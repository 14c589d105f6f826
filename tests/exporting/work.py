"""Audit and bake everything, in one process that imports tensorflow once: `python -m tests.exporting.work FOLDER`.

Leaves FOLDER/results.json: for each model what the audit said and what became of the bake, and what TensorFlow's
Python API answers from what was baked.
"""

import contextlib
import io
import json
import os
import resource
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from exporting.graph import import_tensorflow

import_tensorflow()

import tensorflow as tf  # noqa: E402

from exporting import compare, runner, weights  # noqa: E402
from exporting.audit import audit  # noqa: E402
from exporting.bake import bake  # noqa: E402
from exporting.refusal import Refusal  # noqa: E402
from tests.exporting import odd  # noqa: E402
from tests.models.zoo import BROKEN, ZOO, absent, build, cases  # noqa: E402

# What the made-up inputs do not fit is compared by one of the zoo's own cases.
GIVEN = ("failures", "parse_example", "ragged_inside", "sparse_input", "tf1_classify", "tf1_regress")
TRIED = ("counter", "decode_image", "keras_attention", "random_stateful", "failures", "tf1_passthrough")
PARTLY = ("keras_convolution", "shared_variables", "tf1_ref_variables")  # with weights of any size as variables
TRIED_ODD = ("training_state", "dropout", "files", "mutable_table_written", "aborts")


def said(work: Callable[[], Any]) -> Any:
    """Return what the work returns, or the refusal in one line."""
    with contextlib.redirect_stderr(io.StringIO()):
        try:
            return work()
        except Refusal as refusal:
            return f"{type(refusal).__name__}: {refusal}"


def audited(directory: Path, run: bool) -> Any:
    def work() -> Any:
        report = audit(directory, run)
        trials = {trial.signature: trial.verdict for trial in report.trials or ()}
        no = [finding.text for finding in report.findings if finding.says_no]
        notes = [finding.text for finding in report.findings if not finding.says_no]
        return {"pure": report.pure, "no": no, "notes": notes, "trials": trials, "nodes": report.cost.nodes}

    return said(work)


def baked(directory: Path, out: Path, **options: Any) -> Any:
    def work() -> Any:
        result = bake(directory, out, rounds=0, **options)
        return {"difference": result.difference, "variables": result.variables, "notes": list(result.notes)}

    return said(work)


def given(name: str, folder: Path) -> list[Path]:
    """Write the cases that work as .npz, one for each signature."""
    paths: dict[str, Path] = {}
    for case in cases(name):
        if case["outputs"] is not None and case["inputs"] and case["signature"] not in paths:
            paths[case["signature"]] = folder / f"{name}-{len(paths)}.npz"
            arrays: dict[str, Any] = {k: v.astype("S") if v.dtype == object else v for k, v in case["inputs"].items()}
            np.savez(paths[case["signature"]], **arrays)
    return list(paths.values())


def python_api(name: str, directory: Path) -> str | None:
    """Ask TensorFlow's Python API the zoo's cases; return what differs."""
    answered = [case for case in cases(name) if case["outputs"] is not None]
    if not answered:
        return None
    try:
        loaded = tf.saved_model.load(str(directory), tags=["serve"])
        for case in answered:
            call = loaded.signatures[case["signature"]]
            inputs = {key: tf.constant(value) for key, value in case["inputs"].items()}
            outputs = {key: array(tensor.numpy()) for key, tensor in call(**inputs).items()}
            _, problem = compare.difference(case["outputs"] or {}, outputs, compare.TOLERANCE)
            if problem:
                return f"{case['signature']}: {problem}"
    except Exception as error:
        return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
    return None


def array(value: Any) -> Any:
    return np.array(value, object) if isinstance(value, bytes) else np.asarray(value)


def limited(size: int, work: Callable[[], Any]) -> Any:
    """Work where no file may grow beyond `size` bytes, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        return work()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@contextlib.contextmanager
def with_onednn() -> Iterator[None]:
    """Have models run with oneDNN's kernels, whose rounding is expected here: not every CPU has them by default."""
    runner._keeper(None).close()
    with mock.patch.dict(os.environ, {runner.ONEDNN: "1"}):
        yield
        runner._keeper(None).close()


def everything(folder: Path) -> dict[str, Any]:
    results: dict[str, Any] = {"audit": {}, "bake": {}, "python": {}}
    for name in [*ZOO, *(f"broken/{name}" for name in BROKEN)]:
        if absent(name):
            continue
        model, out = build() / name, folder / name.replace("/", "-")
        results["audit"][name] = audited(model, name in TRIED)
        results["bake"][name] = baked(model, out, inputs=given(name, folder) if name in GIVEN else [])
        if out.exists():
            problem = python_api(name, out)
            results["python"][name] = "as the original" if problem and python_api(name, model) else problem
    odd_ones(folder, results)
    the_rest(folder, results)
    return results


def odd_ones(folder: Path, results: dict[str, Any]) -> None:
    (folder / "odd").mkdir()
    odd.make(folder / "odd")
    for write_model in odd.ODD:
        name = write_model.__name__
        results["audit"][name] = audited(folder / "odd" / name, name in TRIED_ODD)
        results["bake"][name] = baked(folder / "odd" / name, folder / name)
        if name in odd.ASKED and (folder / name).exists():
            results["python"][name] = odd.differences(name, folder / "odd" / name, folder / name)


def the_rest(folder: Path, results: dict[str, Any]) -> None:
    zoo, rest = build(), folder / "rest"
    rest.mkdir()
    model = zoo / "dense_512"
    results["bake"]["disk full"] = limited(100_000, lambda: baked(model, rest / "full"))
    with with_onednn():
        results["bake"]["too strict"] = baked(zoo / "keras_convolution", rest / "strict", tolerance=0.0)
        results["bake"]["smallest runs"] = baked(zoo / "keras_functional", rest / "smallest runs")
    results["bake"]["twice"] = baked(model, rest / "twice")
    results["bake"]["again"] = baked(rest / "twice", rest / "again")
    for name in ("shared_variables", "keras_string_lookup", "tf1_simple_save"):
        kept = folder / f"{name}-kept"
        results["bake"][kept.name] = baked(zoo / name, kept, limit=10)
        results["python"][kept.name] = python_api(name, kept)
    ways: dict[str, dict[str, Any]] = {
        "large": {"large": 10},
        "large but folded": {"large": 10, "keep_variables": False},
        "nothing to save": {"small": 10},
    }
    for way, options in ways.items():
        results["bake"][way] = baked(
            model, folder / "dense_512-kept" if way == "nothing to save" else rest / way, **options
        )
    results["python"]["dense_512-kept"] = python_api("dense_512", folder / "dense_512-kept")
    with mock.patch.multiple(weights, LEAST=1, WORTH=1):
        for name in PARTLY:
            out = folder / f"{name}-partly"
            results["bake"][out.name] = baked(zoo / name, out)
            results["python"][out.name] = python_api(name, out)
    results["bake"]["much to save"] = baked(zoo / "keras_convolution", rest / "much", small=10)
    results["left"] = sorted(path.name for path in rest.iterdir())


def main(folder: Path) -> None:
    tf.get_logger().setLevel("ERROR")
    (folder / "results.json").write_text(json.dumps(everything(folder), indent=1))


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
