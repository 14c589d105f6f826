"""Run a model with the TensorFlow libraries of a folder, and print digests of its outputs.

    PYTHONPATH=FUNCTION python trial.py LIBRARIES MODEL         {"serving_default": ["float32 (1, 10) 5f…"], …}

Run by backend.py, in a process of its own: what the libraries do to the process is then no matter. The inputs are
generated and the same each time. Of an output that differs between two runs in one process, as of a model that draws
random numbers, only the type and the shape are compared.
"""

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from serving.core import settings
from serving.runtime.loading import Cache
from serving.runtime.trying import tried

SECONDS = 60.0  # for finding inputs that a signature answers


def outputs(libraries: Path, folder: Path) -> dict[str, list[str]]:
    """Return the digests of the outputs of each signature that answers; exit where none does."""
    options = settings.read({"MODEL_DIR": str(folder), "TENSORFLOW_LIBRARY_DIR": str(libraries)})
    options = options._replace(intra_op_threads=1, runtime="c")  # so that sums are added in one order
    model = Cache(options).get()
    digests, reasons = {}, ["it may not be tried, because a run can change the next answer"]
    for name, signature in model.signatures.items() if model.source.may_try else ():
        if signature.refusal or any(spec.shape is None for spec in signature.inputs.values()):
            continue
        trial = tried(model, signature, model.source.recipes(signature), seconds=SECONDS)
        if trial.inputs is None:
            reasons.append(f"{name}: {trial.reason}")
            continue
        first, second = (model.run(signature, trial.inputs) for _ in range(2))
        digests[name] = [
            value if value == again else value.rpartition(" ")[0]
            for value, again in ((digest(first[output]), digest(second[output])) for output in sorted(first))
        ]
    if not digests:
        sys.exit(f"no signature of the model was seen to answer: {reasons[-1]}")
    return digests


def digest(array: np.ndarray[Any, Any]) -> str:
    """Return an array's type, shape and digest."""
    data = b"".join(b"%d:%b" % (len(text), text) for text in array.flat) if array.dtype == object else array.tobytes()
    return f"{array.dtype} {array.shape} {hashlib.sha256(data).hexdigest()}"


if __name__ == "__main__":
    print(json.dumps(outputs(Path(sys.argv[1]), Path(sys.argv[2]))))
