"""What a folder or a file holds instead of a SavedModel, and the command that converts it to one."""

from pathlib import Path

KERAS = "python -c \"import keras; keras.saving.load_model({name!r}).export('saved')\""

TORCH = "weights of PyTorch, {name}; export the model to ONNX (torch.onnx.export), then: onnx2tf -i model.onnx -o saved"
LITE = "a .tflite without its signatures.json; `python -m exporting bake --litert` writes both from a SavedModel"

FINGERPRINT = "fingerprint.pb"  # TensorFlow writes it beside saved_model.pb
POINTER = b"version https://git-lfs"  # of Git LFS

# The first bytes of a file.
BEGINNINGS = (
    (POINTER,                    "a Git LFS pointer, not the file itself: git lfs pull"),
    (b"PK\x03\x04",              "a zip archive, as .keras and .pt files are, too"),
    (b"\x1f\x8b",                "packed with gzip: unpack it"),
    (b"\x89HDF\r\n\x1a\n",       "an HDF5 file, as Keras writes .h5: load it with Keras and export it"),
    (b"<!DOCTYPE",               "an HTML page, as a failed download leaves: fetch the file again"),
    (b"<!doctype",               "an HTML page, as a failed download leaves: fetch the file again"),
    (b"<html",                   "an HTML page, as a failed download leaves: fetch the file again"),
    (b"<?xml",                   "an XML document, as a failed download leaves: fetch the file again"),
    (b"{",                       "a JSON document"),
    (b"\x80\x02",                "a Python pickle, as .pt and .pkl files are"),
    (b"\x80\x04",                "a Python pickle, as .pt and .pkl files are"),
)  # fmt: skip

# What a folder holds, by the suffixes of its file names: the first match is reported.
ENDS = (
    ((".keras", ".h5", ".hdf5"), "a Keras archive, {name}; export a SavedModel of it: " + KERAS),
    ((".onnx",),                 "an ONNX model, {name}; convert it: pip install onnx2tf; onnx2tf -i {name} -o saved"),
    ((".pt", ".pth", ".safetensors"), TORCH),
    ((".zip", ".tar.gz", ".tgz", ".tar"), "an archive, {name}; unpack it here"),
    ((".tflite",),               LITE),
)  # fmt: skip


def folder(directory: Path) -> str:
    """Return a description of a folder, or a file, that holds no SavedModel, for an error message."""
    if directory.is_file():
        text = next((text for ends, text in ENDS if directory.name.endswith(ends)), None)
        kind = text.format(name=directory.name) if text else file(directory)
        return f"it is a file ({kind}); expected the folder of a saved_model.pb"
    if not directory.is_dir():
        return "there is no such folder"
    names = sorted(path.name for path in directory.iterdir())
    if "saved_model.pb" in names:
        link = (directory / "saved_model.pb").is_symlink()
        return f"saved_model.pb {'is a link to a file that is not there' if link else 'cannot be read'}"
    if name := next((name for name in names if name.lower() == "saved_model.pb"), None):
        return f"it holds {name}; rename it to saved_model.pb"
    if "saved_model.pbtxt" in names:
        return "it holds saved_model.pbtxt; export it in binary form, as saved_model.pb"
    if "saved_model.cpb" in names:
        return "it holds saved_model.cpb, a SavedModel in chunks; export it in one piece, as saved_model.pb"
    if "model.weights.h5" in names and "config.json" in names:
        return f"it holds an unpacked .keras archive; pack it again and export it: {KERAS.format(name='model.keras')}"
    if "model.json" in names:
        converter = "tensorflowjs_converter --input_format=tfjs_layers_model --output_format=tf_saved_model"
        return f"it holds a TensorFlow.js model; convert it: {converter} model.json saved"
    for ends, text in ENDS:
        if name := next((name for name in names if name.endswith(ends)), None):
            return f"it holds {text.format(name=name)}"
    if "checkpoint" in names or any(name.endswith(".index") for name in names):
        return "it holds a checkpoint, weights without a graph; load it into the model and call model.export('saved')"
    if "variables" in names or FINGERPRINT in names:
        return "saved_model.pb is missing: the folder holds only part of a SavedModel"
    if name := next((name for name in names if name.endswith(".pb")), None):
        return (
            f"it holds {name}, a frozen graph perhaps, and no saved_model.pb; import it with tf.compat.v1 and save it "
            "with tf.compat.v1.saved_model.simple_save"
        )
    if inner := next((name for name in names if (directory / name / "saved_model.pb").is_file()), None):
        return f"the SavedModel is one folder down, in {inner}: MODEL_DIR={directory.name}/{inner}"
    return "it holds no saved_model.pb and no numbered version"


def variables(directory: Path) -> str:
    """Return where the files of variables are instead, for a folder without variables/variables.index."""
    names = {path.name for path in directory.iterdir()}
    if "variables.index" in names:
        return "it is beside saved_model.pb; make the folder variables/ and move variables.* into it"
    if "variables\\variables.index" in names:
        return "a zip archive of Windows was unpacked without its folders; move variables\\NAME to variables/NAME"
    return "the folder holds only part of a SavedModel"


def file(path: Path) -> str:
    """Return what a file is, by its first bytes, else by its suffix."""
    try:
        with path.open("rb") as opened:
            beginning = opened.read(64)
    except OSError as error:
        return f"it cannot be read: {error.strerror}"
    return content(beginning) or f"{path.suffix or 'without a suffix'}"


def content(beginning: bytes) -> str | None:
    """Return what a file with this beginning is, None where it is unknown; `beginning` are its first 64 bytes."""
    if beginning[4:8] == b"TFL3":
        return "a LiteRT model: expected beside its signatures.json, as `python -m exporting bake --litert` writes it"
    if beginning[:1] == b"\x0a" and b"\x12" in beginning:
        return "a graph without signatures, a frozen one perhaps: save it with tf.compat.v1.saved_model.simple_save"
    if (
        beginning[:1] == b"\x08"
        and len(beginning) > 2
        and 3 <= beginning[1] <= 20
        and beginning[2:3] in (b"\x12", b":")
    ):
        return "an ONNX model; convert it: pip install onnx2tf; onnx2tf -i model.onnx -o saved"
    start = beginning.lstrip()
    return next((text for magic, text in BEGINNINGS if start.startswith(magic)), None)
