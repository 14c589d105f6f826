"""The image's own files, in a folder: what deploy/Dockerfile copies, and the same without Docker.

    python -m tools.image.build /tmp/function
    cd /tmp/function && PYTHONPATH=packages python3.13 -S -m serving.servers.standalone

    packages/   the packages that serving needs (prune.py), TensorFlow's libraries bound, their pages listed
    serving/    the code, bytecode for both, and the native codec if there is a C++ compiler
    model/      the model; with --bake 1, baked; with --litert 1, its LiteRT twin, and no TensorFlow in packages/

The folder is read-only and readable for every user. The server is started on it and must give the same answers as with
the whole environment; otherwise the folder is removed.
"""

import argparse
import compileall
import py_compile
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from serving.pipeline.native import build as native
from serving.savedmodel.folder import twin
from tools.image import baking, pages, prune
from tools.image.bind import ROOT
from tools.image.elf import Refused
from tools.image.trial import answers, differences

BAKE = {"0": baking.NO, "1": baking.YES, "auto": baking.AUTO}
LIGHT = (ROOT / "requirements" / "light.txt",)
OBSERVE = ROOT / "requirements" / "observe.txt"


def build(
    environment: Path,
    out: Path,
    model: Path,
    bake: str = baking.NO,
    options: Sequence[str] = (),
    *,
    bound: bool = True,
    observe: bool = False,
) -> str:
    """Write the folder `out`, which must not exist or be empty; return the table of sizes. Raise Refused.

    The model is baked as `baking.write` says; one of the options may be --litert. With `observe`, the
    packages for metrics and traces are there, too.
    """
    prune.must_be_new(out)
    site = prune.packages_of(environment)
    light = "--litert" in options or twin.holds(baking.served(model))
    pruned = prune.plan(site, [*(LIGHT if light else prune.REQUIREMENTS), *([OBSERVE] if observe else [])])
    before = prune.sizes(site, pruned)
    try:
        packages = out / "packages"
        prune.copy(site, pruned, packages, bound=bound)
        shutil.copytree(ROOT / "serving", out / "serving", ignore=_not_serving)
        notes = [] if light else [_accelerate(out / "serving")]
        print(baking.write(model, out / "model", bake, options))
        notes.append(_list_pages(packages / "tensorflow", out / "model"))
        mode = py_compile.PycInvalidationMode.UNCHECKED_HASH
        compileall.compile_dir(out / "serving", quiet=2, force=True, invalidation_mode=mode)
        for path in out.rglob("*"):
            path.chmod(0o755 if path.is_dir() else 0o644)
        if problem := differences(answers(site, out / "model"), answers(packages, out / "model", root=out)):
            raise Refused(f"{out}: the server's answer differs from that from {environment}: {problem}")
        return "\n".join([prune.table(pruned, before, prune.sizes(packages, pruned)), _rest(out), *notes])
    except BaseException:
        shutil.rmtree(out, ignore_errors=True)
        raise


def _not_serving(folder: str, names: list[str]) -> set[str]:
    """Return the files that an image does not need: bytecode, the codec's sources, and scoring on Spark."""
    spark = {"arrow.py", "spark.py", "spark_files.py"} if Path(folder) == ROOT / "serving" / "scoring" else set()
    return {"__pycache__", "native"} | spark


def _accelerate(serving: Path) -> str:
    try:
        path = native.build(serving / "pipeline" / "native")
    except native.Refused as refused:
        return f"no accelerator, so plain requests take twice as long: {refused}"
    return f"{path.name}: answers plain requests"


def _list_pages(libraries: Path, model: Path) -> str:
    if not libraries.is_dir():
        return "no TensorFlow, and no pages of it to list"
    try:
        lists = pages.record(libraries, baking.served(model))
    except Refused as refused:  # advice, which a server does without
        return f"no pages listed, so the first start on a new host reads more: {refused}"
    return f"{' and '.join(path.name for path in lists)}: what a first answer touches"


def _rest(out: Path) -> str:
    sizes = {
        name: sum(path.stat().st_size for path in (out / name).rglob("*") if path.is_file()) / 1e6
        for name in ("packages", "serving", "model")
    }
    lines = [f"{f'{name}/, with everything in it':<36}{'':>9}{size:>9.1f}" for name, size in sizes.items()]
    return "\n".join([*lines, f"{'the folder':<36}{'':>9}{sum(sizes.values()):>9.1f}"])


def main(arguments: Sequence[str] | None = None) -> int:
    """Build the folder; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.image.build",
        description="Write the contents of the image, except Python, into a folder.",
        epilog="example: python -m tools.image.build /tmp/function",
    )
    parser.add_argument("out", type=Path, metavar="OUT", help="the folder to write")
    parser.add_argument(
        "--environment", type=Path, default=Path(sys.prefix), metavar="DIR",
        help="the virtual environment to take packages from (default: that of the Python that runs this)",
    )  # fmt: skip
    parser.add_argument("--model", type=Path, default=ROOT / "model", metavar="DIR", help="default: model/")
    parser.add_argument(
        "--bake", choices=BAKE, default="0", help="1: bake the model first; auto: where that can be done"
    )
    parser.add_argument(
        "--litert", choices=("0", "1"), default="0", help="1: bake a twin for LiteRT, without TensorFlow"
    )
    parser.add_argument("--signature", default="", metavar="NAME", help="of the twin: what answers as serving_default")
    parser.add_argument("--observe", choices=("0", "1"), default="0", help="1: with what metrics and traces need")
    parser.add_argument("--no-bind", action="store_true", help="leave TensorFlow's libraries as they are")
    options = parser.parse_args(arguments)
    try:
        bake, twins = BAKE[options.bake], list[str]()
        if options.litert == "1":
            bake, twins = baking.YES, ["--litert", *(["--signature", options.signature] if options.signature else [])]
        elif options.signature:
            raise Refused("--signature: it goes with --litert 1")
        bound, observe = not options.no_bind, options.observe == "1"
        print(build(options.environment, options.out, options.model, bake, twins, bound=bound, observe=observe))
    except (Refused, OSError) as error:
        print(f"tools.image.build: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
