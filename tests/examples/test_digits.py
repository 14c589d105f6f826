"""The embedded model as committed: it matches its card and its training state, and contains no training."""

import base64
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
MODEL = ROOT / "model"
OBJECT_GRAPH = "_CHECKPOINTABLE_OBJECT_GRAPH"  # the names of the variables, stored beside them
STATE = json.loads((ROOT / "examples" / "digits" / "digits.state.json").read_text())

PICTURES = [
    # file                  digit
    ("digit-3.png",         "3"),
    ("digit-7.jpg",         "7"),
    ("digit-5-alpha.png",   "5"),
    ("digit-0-16bit.png",   "0"),
    ("digit-4-palette.png", "4"),
    ("digit-8-1bit.png",    "8"),
    ("digit-2.gif",         "2"),
    ("digit-6.bmp",         "6"),
    ("digit-9-8x8.png",     "9"),
]  # fmt: skip

PNG = b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR"
LARGE = "the picture is too large"
REFUSED = [
    # what                      bytes                                                               message
    ("an empty file",           b"",                                                                "image"),
    ("no picture",              b"a letter to the reader, in plain text",                           "image"),
    ("a PNG cut short",         PNG + b"\0\0\0\x08\0\0\0\x08\x08\0\0\0\0",                          "PNG"),
    ("a PNG of 2^64 pixels",    PNG + b"\xff\xff\xff\xff\xff\xff\xff\xff\x08\0\0\0\0",              LARGE),
    ("a PNG of 2^30 pixels",    PNG + b"\0\0\x80\0\0\0\x80\0\x08\0\0\0\0",                          LARGE),
    ("a GIF of 2^32 pixels",    b"GIF89a\xff\xff\xff\xff\0\0\0",                                    LARGE),
    ("a JPEG of 2^32 pixels",   b"\xff\xd8\xff\xc0\0\x0b\x08\xff\xdc\xff\xdc\x01\x01\x11\0"
                                b"\xff\xda\0\x08\x01\x01\0\0\x3f\0\0",                              LARGE),
]  # fmt: skip


@pytest.fixture(scope="module")
def tf() -> Any:
    # Here and not above: the modules that serve are tested for never importing it, in the same process.
    return pytest.importorskip("tensorflow")


@pytest.fixture(scope="module")
def model(tf: Any) -> Any:
    return tf.saved_model.load(str(MODEL))


@pytest.fixture(scope="module")
def held_out() -> Any:
    from examples.digits.data import load, split

    return split(load())[1]


def test_the_training_state_belongs_to_this_model() -> None:
    weights = MODEL / "variables" / "variables.data-00000-of-00001"
    assert hashlib.sha256(weights.read_bytes()).hexdigest() == STATE["weights_sha256"]


def test_the_training_state_belongs_to_this_data(held_out: Any) -> None:
    from examples.digits.data import load

    assert load().fingerprint() == STATE["data"]["sha256"]
    assert held_out.fingerprint() == STATE["data"]["held_out"]["sha256"]
    assert len(held_out) == STATE["data"]["held_out"]["scans"]


def test_the_model_has_the_accuracy_that_its_card_states(tf: Any, model: Any, held_out: Any) -> None:
    outputs = model.signatures["pixels"](pixels=tf.constant(held_out.scans))
    accuracy = (outputs["label"].numpy().astype(int) == held_out.labels).mean()
    assert accuracy == STATE["held_out_accuracy"]["pixels"] >= 0.97


@pytest.mark.parametrize("dark_on_light", [False, True])
@pytest.mark.parametrize(("side", "mode", "form"), [(8, "L", "grey PNG, 8x8"), (64, "RGB", "RGB PNG, 64x64")])
def test_the_same_scans_as_pictures(
    tf: Any, model: Any, held_out: Any, side: int, mode: str, form: str, dark_on_light: bool
) -> None:
    from examples.digits.pictures import encode, paint

    files = [encode(paint(scan, side, dark_on_light=dark_on_light).convert(mode)) for scan in held_out.scans]
    labels = model.signatures["serving_default"](image=tf.constant(files))["label"].numpy().astype(int)
    polarity = "dark on light" if dark_on_light else "light on dark"
    assert (labels == held_out.labels).mean() == STATE["held_out_accuracy"][f"{form}, {polarity}"] >= 0.97


def test_every_accuracy_is_in_the_card() -> None:
    card = (MODEL / "README.md").read_text()
    scans = STATE["data"]["held_out"]["scans"]
    for way, accuracy in STATE["held_out_accuracy"].items():
        assert f"| {way} | {accuracy * scans:.0f} of {scans}, {accuracy:.1%} |" in card


def test_only_the_weights_are_exported(tf: Any) -> None:
    variables = tf.train.list_variables(str(MODEL / "variables" / "variables"))
    numbers = sum(tf.TensorShape(shape).num_elements() for name, shape in variables if name != OBJECT_GRAPH)
    assert {name.split("/")[0] for name, _ in variables} == {"weights", OBJECT_GRAPH}
    assert numbers == STATE["parameters"]
    assert [file.name for file in MODEL.rglob("*state*")] == []


def test_the_model_is_below_a_megabyte() -> None:
    assert sum(file.stat().st_size for file in MODEL.rglob("*") if file.is_file()) < 1_000_000


def test_signatures(tf: Any, model: Any) -> None:
    def specs(signature: str) -> tuple[dict[str, Any], dict[str, Any]]:
        function = model.signatures[signature]
        inputs = function.structured_input_signature[1]
        return tuple(
            {name: (spec.dtype.name, spec.shape.as_list()) for name, spec in part.items()}
            for part in (inputs, function.structured_outputs)
        )

    outputs = {
        "label": ("string", [None]),
        "probability": ("float32", [None]),
        "probabilities": ("float32", [None, 10]),
    }
    assert set(model.signatures) == {"serving_default", "pixels"}
    assert specs("serving_default") == ({"image": ("string", [None])}, outputs)
    assert specs("pixels") == ({"pixels": ("float32", [None, 8, 8])}, outputs)


def test_a_batch_of_no_rows_is_answered(tf: Any, model: Any) -> None:
    image, pixels = model.signatures["serving_default"], model.signatures["pixels"]
    for outputs in (image(image=tf.zeros(0, tf.string)), pixels(pixels=tf.zeros((0, 8, 8)))):
        shapes = {name: tuple(array.shape) for name, array in outputs.items()}
        assert shapes == {"label": (0,), "probability": (0,), "probabilities": (0, 10)}


@pytest.mark.parametrize(("file", "digit"), PICTURES)
def test_a_picture(tf: Any, model: Any, file: str, digit: str) -> None:
    content = (ROOT / "tests" / "data" / file).read_bytes()
    outputs = model.signatures["serving_default"](image=tf.constant([content]))
    assert outputs["label"].numpy().tolist() == [digit.encode()]
    assert outputs["probability"].numpy()[0] == outputs["probabilities"].numpy().max() > 0.9


def test_pictures_in_one_batch_are_read_as_each_alone(tf: Any, model: Any) -> None:
    files = [(ROOT / "tests" / "data" / file).read_bytes() for file, _ in PICTURES]
    labels = model.signatures["serving_default"](image=tf.constant(files))["label"].numpy()
    assert [label.decode() for label in labels] == [digit for _, digit in PICTURES]


def test_a_large_photograph(tf: Any, model: Any, held_out: Any) -> None:
    from examples.digits.pictures import encode, paint

    large = paint(held_out.scans[0], 4000, margin=500, dark_on_light=True).convert("RGB")  # 25 million pixels
    outputs = model.signatures["serving_default"](image=tf.constant([encode(large, "JPEG")]))
    assert outputs["label"].numpy().tolist() == [str(held_out.labels[0]).encode()]


@pytest.mark.parametrize(("what", "content", "message"), REFUSED)
def test_a_string_that_is_not_a_picture_is_refused(
    tf: Any, model: Any, what: str, content: bytes, message: str
) -> None:
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        model.signatures["serving_default"](image=tf.constant([content]))


def test_the_examples_get_their_answers(tf: Any, model: Any) -> None:
    examples = json.loads((MODEL / "assets.extra" / "examples.json").read_text())
    answers = json.loads((MODEL / "assets.extra" / "answers.json").read_text())
    png = base64.b64decode(examples["serving_default"]["instances"][0]["b64"])
    got = {
        "serving_default": model.signatures["serving_default"](image=tf.constant([png])),
        "pixels": model.signatures["pixels"](pixels=tf.constant(examples["pixels"]["instances"], tf.float32)),
    }
    for signature, outputs in got.items():
        (right,) = answers[signature]["predictions"]
        assert right["label"] == outputs["label"].numpy()[0].decode() == "3"
        assert right["probability"] == pytest.approx(outputs["probability"].numpy()[0], abs=1e-5)
        assert right["probabilities"] == pytest.approx(outputs["probabilities"].numpy()[0].tolist(), abs=1e-5)


def test_every_file_matches_the_manifest() -> None:
    from exporting.manifest import differences

    assert differences(MODEL) == []


def test_the_pictures_are_of_held_out_scans(held_out: Any) -> None:
    from examples.digits.pictures import FOLDER, draw

    assert sorted(draw(held_out)) == sorted(file.name for file in FOLDER.glob("digit-*"))
