"""What becomes of each kind of model: `python -m tests.models.zoo.outcomes [NAME ...]` finds out and prints it as JSON lines.

serve    every case is answered as TensorFlow's Python API answers it, or why the model is refused
check    the exit status of `python -m serving check`
audit    pure, or the first reason why not
bake     baked, or the refusal
twin     converted for LiteRT, or the refusal
verify   the exit status of `python -m serving verify --quick`
"""

import contextlib
import io
import json
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.models.zoo.kinds import KINDS, build, cases


def serve(directory: Path) -> str:
    from serving.core import settings
    from serving.core.errors import LoadError
    from serving.runtime.model import Model
    from serving.runtime.sessions import judge, open_session
    from serving.savedmodel.source import Source
    from tests.models.zoo_check import compare

    options = settings.read({})
    try:
        source = Source(directory, "model")
        judge(source, options)
        model = Model(source, open_session(source, options))
    except LoadError as error:
        return f"refused: {error}"
    asked = cases(directory.name)
    wrong = [
        problem
        for case in asked
        for problem in compare(case["outputs"] or {}, model.run(model.signatures[case["signature"]], case["inputs"]))
    ]
    refused = [
        f"{name!r}: {signature.refusal}"
        for name, signature in model.signatures.items()
        if signature.refusal and name[:2] != "__"
    ]
    model.close()
    return "; ".join(wrong or refused) or ("as TensorFlow" if asked else "served")


def check(directory: Path) -> str:
    from serving.__main__ import main

    return str(quietly(lambda: main(["check", str(directory)])))


def verify(directory: Path) -> str:
    from serving.__main__ import main

    return str(quietly(lambda: main(["verify", "--quick", str(directory)])))


def audit(directory: Path) -> str:
    from exporting.audit import audit as audited
    from exporting.refusal import Refusal

    try:
        report = quietly(lambda: audited(directory, False))
    except Refusal as refusal:
        return f"refused: {refusal}"
    return "pure" if report.pure else next(finding.text for finding in report.findings if finding.says_no)


def bake(directory: Path) -> str:
    from exporting.bake import bake as baked

    return written(lambda out: baked(directory, out, rounds=0), "baked")


def twin(directory: Path) -> str:
    from exporting.litert import convert

    return written(lambda out: convert(directory, out, rounds=0), "converted")


def written(work: Callable[[Path], Any], word: str) -> str:
    from exporting.refusal import Refusal

    folder = Path(tempfile.mkdtemp())
    try:
        quietly(lambda: work(folder / "out"))
    except Refusal as refusal:
        return f"refused: {' '.join(str(refusal).split())}"
    finally:
        shutil.rmtree(folder)
    return word


def quietly(work: Callable[[], Any]) -> Any:
    with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
        return work()


COLUMNS = {"serve": serve, "check": check, "audit": audit, "bake": bake, "twin": twin, "verify": verify}


def main(names: list[str], columns: list[str]) -> None:
    from exporting.graph import import_tensorflow

    if {"audit", "bake", "twin"} & set(columns):
        import_tensorflow()
    for name in names:
        directory = build() / name
        outcomes = {column: COLUMNS[column](directory).replace(f"{directory}: ", "") for column in columns}
        print(json.dumps({"name": name, **outcomes}), flush=True)


if __name__ == "__main__":
    wanted = [name for name in sys.argv[1:] if name in COLUMNS]
    main([name for name in sys.argv[1:] if name in KINDS] or list(KINDS), wanted or list(COLUMNS))
