"""What `./deploy.sh run` uploads, in a folder: the function's files, with what can be made for them before the upload.

    git ls-files ... | python -m deploy.staging OUT --model model --bake auto

    serving/pipeline/native/    the native codec, compiled for the platform: nothing is compiled there
    model/                      the model, baked where that is asked for
    requirements.txt            without TensorFlow's Python package and what only that needs
    tensorflow_library/         a package of TensorFlow's C library, which the build makes and binds

The names of the files come on standard input, one per line. requirements.txt stays as it is where the Python package is
needed, or asked for by `--tensorflow package`. The codec is left out, with a line that says why, where there
is no C++ compiler, where the platform could not load what it makes, or where the server does not give the same answers
with it: Python answers then.
"""

import argparse
import shutil
import sys
import sysconfig
from collections.abc import Iterable, Sequence
from pathlib import Path

from deploy.requirements import with_library
from serving.core.settings import ACCELERATOR, ROOT
from serving.pipeline.native import build as native
from tools.image import baking
from tools.image.elf import Elf, Refused
from tools.image.trial import answers, differences

GLIBC = (2, 35)  # of Ubuntu 22.04, which the base images of Python 3.10 to 3.13 are made of


LIBRARY, PACKAGE = "library", "package"  # of TensorFlow: its C library alone, or its Python package


def stage(out: Path, files: Iterable[str], model: str, bake: str, tensorflow: str = LIBRARY) -> list[str]:
    """Write the folder in place of what is there; return lines about what was made. Raise Refused."""
    shutil.rmtree(out, ignore_errors=True)
    notes = []
    for name in files:
        if bake == baking.NO or not Path(name).is_relative_to(model):
            (out / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, out / name)
    if bake != baking.NO:
        notes.append(baking.write(ROOT / model, out / model, bake))
    notes.append(_with_codec(out, model))
    if tensorflow == LIBRARY:
        notes.append(_with_library(out, model))
    return [note for note in notes if note]


def _with_library(folder: Path, model: str) -> str:
    try:
        with_library(folder, model if (folder / model).is_dir() else "model")  # else it is in a bucket
    except Refused as refused:
        return f"with TensorFlow's Python package, so the start takes longer and the build installs 1.6 GB: {refused}"
    return "with TensorFlow's C library alone, which the build binds"


def _with_codec(folder: Path, model: str) -> str:
    """Put the native codec into the folder, where that can be done and it answers as Python does; say what was done."""
    path = folder / ACCELERATOR.relative_to(ROOT)
    try:
        compiled = native.cached()
        check_portable(compiled)
        path.parent.mkdir(parents=True)
        shutil.copy2(compiled, path)
        if (folder / model).is_dir():  # else it is in a bucket
            site = Path(sysconfig.get_path("purelib"))
            if problem := differences(answers(site, folder / model), answers(site, folder / model, root=folder)):
                raise Refused(f"the server's answer differs with it: {problem}")
    except (native.Refused, Refused) as refused:
        shutil.rmtree(path.parent, ignore_errors=True)
        return f"no native codec, so plain requests take twice as long: {refused}"
    return "with the native codec, which answers plain requests"


def check_portable(path: Path) -> None:
    """Raise Refused unless the platform can load a library: for x86-64, with no other versions than GLIBC has."""
    library = Elf(path)
    strings = library.strings()
    for need in library.needs():
        for *_, start in need.versions:
            name = strings[start : strings.index(b"\0", start)].decode()
            kind, _, number = name.partition("_")
            if kind != "GLIBC" or tuple(map(int, number.split("."))) > GLIBC:
                raise library.refuse(f"it needs {name}, and the platform has GLIBC_{'.'.join(map(str, GLIBC))}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Make the folder; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m deploy.staging", description="Make what ./deploy.sh run uploads.")
    parser.add_argument("out", type=Path, metavar="OUT", help="the folder, which is replaced")
    parser.add_argument("--model", default="model", metavar="DIR", help="the model's folder in this one, or gs://...")
    parser.add_argument("--bake", choices=(baking.YES, baking.NO, baking.AUTO), default=baking.NO)
    parser.add_argument("--tensorflow", choices=(LIBRARY, PACKAGE), default=LIBRARY)
    options = parser.parse_args(arguments)
    bake = baking.NO if options.model.startswith("gs://") else options.bake
    try:
        notes = stage(options.out, sys.stdin.read().splitlines(), options.model, bake, options.tensorflow)
    except (Refused, OSError) as error:
        print(f"deploy.sh: stage: {error}", file=sys.stderr)
        return 1
    for note in notes:
        print(f"deploy.sh: stage: {note}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
