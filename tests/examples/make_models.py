"""Train and export every example of examples/models/, in one process: `python -m tests.examples.make_models FOLDER`."""

import importlib
import os
import sys
from pathlib import Path

MODELS = ("text", "tabular", "series", "two_inputs", "binary", "tensorflow_1", "keras_file")


def main(folder: Path) -> None:
    """Make FOLDER/NAME of each."""
    os.environ |= {"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1"}
    for name in MODELS:
        path = folder / ("model.keras" if name == "keras_file" else name)
        importlib.import_module(f"examples.models.{name}").main(str(path))
    from exporting.__main__ import main as exporting

    assert exporting(["keras", str(folder / "model.keras"), str(folder / "keras_file")]) == 0


if __name__ == "__main__":
    main(Path(sys.argv[1]))
