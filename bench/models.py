"""The models that are served: the folder, the request and the right response of each."""

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

from serving.core.comparison import difference

ROOT = Path(__file__).resolve().parent.parent
CACHE = ROOT / ".cache" / "bench"
EMBEDDED = ROOT / "model"
MOST_ROWS = 16384  # in a request
BATCH = 32  # rows of the request of many rows


@dataclass(frozen=True)
class Plan:
    """How much is asked of a model: a picture of 1.3 MB takes a thousand times a row's time."""

    title: str
    requests: int  # on one connection, before memory is read
    seconds: float  # of load


# fmt: off
PLANS = {
    "mlp":       Plan("MLP 64→128→10, one row",                          1000, 2.0),
    "digits":    Plan("embedded digits model, one picture as base64",    1000, 2.0),
    "mobilenet": Plan("MobileNetV2, one 224x224x3 picture as JSON numbers", 40, 4.0),
    "transformer": Plan("transformer, 2 layers of 128, 32 words",         300, 2.0),
    "text":      Plan("classifier of texts, table of 50,000 words, one row", 300, 2.0),
    "loop":      Plan("TensorFlow 1, recurrent, while loop",              300, 2.0),
    "dense":     Plan("200 MB of dense layers, 4096x4096, one row",       100, 4.0),
    "dense16":   Plan("16 MB of dense layers, one row",                   300, 2.0),
    "dense96":   Plan("96 MB of dense layers, one row",                   100, 2.0),
    "large":     Plan("500 MB of dense layers, one row",                   50, 2.0),
}
# fmt: on
SERVED = ["mlp", "digits", "mobilenet"]  # those of the main table


@dataclass(frozen=True)
class Rows:
    """Many rows for one signature, and what TensorFlow's Python API answers."""

    signature: str
    input: str
    output: str
    file: Path  # an .npz of `inputs` and `outputs`


@dataclass(frozen=True)
class Model:
    name: str
    plan: Plan
    saved_model: Path
    input: str  # of serving_default
    request_file: Path
    answer_file: Path  # of the HTTP function
    floor_arguments: tuple[str, ...]
    floor_answer: Any
    rows: Rows | None = None

    @property
    def batch_file(self) -> Path | None:
        """The request of BATCH rows, None where it would be too large."""
        file = self.request_file.with_name("request-batch.json")
        return file if file.exists() else None

    def answers(self, body: bytes) -> bool:
        """Whether this is what TensorFlow's Python API answered."""
        return difference(json.loads(self.answer_file.read_bytes()), read(body)) is None

    def batch_answers(self, body: bytes) -> bool:
        return difference(json.loads(self.answer_file.with_name("answer-batch.json").read_bytes()), read(body)) is None

    def floor_answers(self, line: bytes) -> bool:
        return difference(self.floor_answer, read(line)) is None


def read(body: bytes) -> Any:
    try:
        return json.loads(body)
    except ValueError:
        return None


def versions(*packages: str) -> list[str]:
    """Name those of the packages that are installed, each with its version."""
    installed = {each.name.lower().replace("_", "-"): each.version for each in distributions()}
    return [f"{package} {installed[package]}" for package in packages if package in installed]


def recipe_of(name: str) -> str:
    """Identify one making of a model by the code, TensorFlow's version, and the embedded model's bytes."""
    digest = hashlib.sha256(" ".join([name, *versions("tensorflow-cpu", "tensorflow")]).encode())
    digest.update((ROOT / "bench" / "making.py").read_bytes())
    if name == "digits":
        for file in sorted(EMBEDDED.rglob("*")):
            digest.update(file.read_bytes() if file.is_file() else b"")
    return digest.hexdigest()


def load(name: str, say: Callable[[str], None]) -> Model:
    """Give a model, made first if the cache has none of this recipe."""
    folder = CACHE / name
    facts_file = folder / "model.json"
    if not facts_file.exists() or json.loads(facts_file.read_bytes())["recipe"] != recipe_of(name):
        say(f"making {name}")
        folder.mkdir(parents=True, exist_ok=True)
        with open(CACHE / f"{name}.log", "wb") as log:
            subprocess.run(
                [sys.executable, "-m", "bench.making", name], cwd=ROOT, stdout=log, stderr=subprocess.STDOUT, check=True
            )
    facts = json.loads(facts_file.read_bytes())
    floor = facts["floor"]
    return Model(
        name=name,
        plan=PLANS[name],
        saved_model=Path(facts["saved_model"]),
        input=facts["input"],
        request_file=folder / "request.json",
        answer_file=folder / "answer.json",
        floor_arguments=(f"{floor['input']}={folder / 'input.npy'}", *floor["outputs"]),
        floor_answer=floor["answer"],
        rows=Rows(**facts["rows"], file=folder / "rows.npz") if facts["rows"] else None,
    )
