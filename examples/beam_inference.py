"""Predictions in an Apache Beam pipeline, with the code that scores files.

    .venv/bin/pip install apache-beam
    MODEL_DIR=model/ .venv/bin/python -m examples.beam_inference examples/rows.jsonl predictions.jsonl pixels

Beam's own handler for TensorFlow loads a SavedModel with Keras, which Keras 3 cannot (apache/beam#30616).
This one takes lines of JSON and gives lines of JSON: a bad row is a line with its error, and ends no pipeline.
"""

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import apache_beam as beam
from apache_beam.ml.inference.base import ModelHandler, RunInference

from serving.core import settings
from serving.scoring.formats import JSON_LINES, Batch, Format, format_of, free
from serving.scoring.rows import Scorer, as_lines, opened


@dataclass
class Loaded:
    """What answers rows; Beam shares one among the threads of a process, by a weak reference."""

    scorer: Scorer
    form: Format


class SavedModelHandler(ModelHandler[bytes, bytes, Loaded]):
    """Answers lines of JSON with the model of MODEL_DIR, which each process of a worker loads once."""

    def __init__(self, signature: str = "", *, exact: bool = False) -> None:
        """Answer with a signature; `exact` runs each row alone, with the bytes of the online answer."""
        super().__init__()
        self._signature, self._exact = signature, exact

    def load_model(self) -> Loaded:
        options = settings.current()
        if self._signature:
            options = options._replace(score_options=f"signature_name={self._signature}")
        scorer, (signature, context) = opened(options, alone=self._exact)
        return Loaded(scorer, format_of(JSON_LINES, free(signature), context, options.max_body_bytes))

    def run_inference(
        self, batch: Sequence[bytes], model: Loaded, inference_args: dict[str, Any] | None = None
    ) -> Iterable[bytes]:
        answered = model.scorer.answer(model.form, Batch(0, list(batch), 0))
        return [line.rstrip(b"\n") for line in as_lines(answered, numbered=False)]

    def batch_elements_kwargs(self) -> dict[str, int]:
        return {"min_batch_size": 1, "max_batch_size": 1024}


def main(source: str, output: str, signature: str = "") -> None:
    """Write a line for each line of a file."""
    with beam.Pipeline() as pipeline:
        lines = pipeline | beam.io.ReadFromText(source, coder=beam.coders.BytesCoder())
        answers = lines | RunInference(SavedModelHandler(signature))
        answers | beam.io.WriteToText(output, coder=beam.coders.BytesCoder(), num_shards=1, shard_name_template="")


if __name__ == "__main__":
    main(*sys.argv[1:])
