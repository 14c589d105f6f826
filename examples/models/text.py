"""Text: sentences in, a class out. The vocabulary is part of the model.

python -m examples.models.text /tmp/text
MODEL_DIR=/tmp/text make serve
curl localhost:8080 -d '{"instances": ["what a great film", "dull and bad"]}'
"""

import sys

import keras
import numpy as np

from exporting import class_names, export, forward, text

NAMES = ["negative", "positive"]
WORDS = {"negative": "bad boring dull awful weak poor", "positive": "good great fine superb lovely strong"}


def sentences(count: int) -> tuple[list[str], np.ndarray]:
    """Return sentences, and for each the index of its class [count]."""
    random = np.random.default_rng(7)
    classes = random.integers(0, 2, count)
    return [f"a {random.choice(WORDS[NAMES[index]].split())} film" for index in classes], classes


def main(folder: str) -> None:
    """Train and export."""
    texts, classes = sentences(200)
    vectorize = keras.layers.TextVectorization(output_sequence_length=8)
    vectorize.adapt(texts)
    model = keras.Sequential([
        keras.Input((8,), dtype="int64", name="words"), keras.layers.Embedding(vectorize.vocabulary_size(), 8),
        keras.layers.GlobalAveragePooling1D(), keras.layers.Dense(2, "softmax"),
    ])  # fmt: skip
    model.compile(keras.optimizers.Adam(0.05), "sparse_categorical_crossentropy")
    model.fit(vectorize(texts), classes, epochs=5, verbose=0)
    served = text(class_names(forward(model), NAMES), encode=vectorize)
    export(model, folder, functions={"serving_default": served},
           examples={"serving_default": {"text": ["what a great film"]}}, labels=NAMES)  # fmt: skip


if __name__ == "__main__":
    main(sys.argv[1])
