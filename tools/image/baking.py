"""The model of an image or of an upload: the given one, or its baked form (`python -m exporting bake`)."""

import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from serving.core.errors import LoadError
from serving.savedmodel.source import Source
from tools.image.bind import ROOT
from tools.image.elf import Refused

NO, YES, AUTO = "no", "yes", "auto"  # auto: the model as it is where it cannot be baked


def served(model: Path) -> Path:
    """Return the folder of the SavedModel that would be served; raise Refused where there is none."""
    try:
        return Source(model, "model").directory
    except LoadError as error:
        raise Refused(f"{model}: {error}") from None


def write(model: Path, out: Path, bake: str, options: Sequence[str] = ()) -> str:
    """Write a model to a new folder, baked with these options unless `bake` is NO; return a line about it.

    Raise Refused where it cannot be baked and `bake` is YES.
    """
    if bake == NO:
        shutil.copytree(model, out)
        return ""
    directory = served(model)
    baked = out / directory.relative_to(model)
    baked.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "exporting", "bake", *options, str(directory.absolute()), str(baked.absolute())]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if not ran.returncode:
        return ran.stdout.strip()
    reason = (ran.stderr.strip() or f"baking ended with status {ran.returncode}").splitlines()[-1]
    shutil.rmtree(out, ignore_errors=True)
    if bake == YES:
        raise Refused(reason)
    shutil.copytree(model, out)
    return f"the model is not baked: {reason}"
