"""Write the zoo: `python -m tests.models.zoo.make FOLDER`. Imports tensorflow, so it runs in a process of its own."""

import os

os.environ |= {"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1", "KERAS_BACKEND": "tensorflow"}

import pickle
import random
import shutil
import sys
import warnings
from pathlib import Path

import keras
import tensorflow as tf
from google.protobuf import text_format
from tensorflow.core.protobuf import saved_model_pb2

from tests.models.zoo import BROKEN, VERSIONS, ZOO, make_graphs, make_keras, make_signatures, make_tf1
from tests.models.zoo.entries import DEFAULT, ENTRIES, Absent, function, save, spec, v1
from tests.models.zoo.make_tf1 import build_v1, predicts

MODULES = (make_signatures, make_keras, make_graphs, make_tf1)  # each registers its entries


def break_things(zoo: Path) -> None:
    broken = zoo / "broken"

    def copy(source: str, name: str) -> Path:
        return Path(shutil.copytree(zoo / source, broken / name))

    def pb(name: str, content: bytes) -> None:
        (copy("shared_variables", name) / "saved_model.pb").write_bytes(content)

    def folder(name: str, **files: str) -> Path:
        (broken / name).mkdir(parents=True)
        for file, content in files.items():
            (broken / name / file.replace("_", ".")).write_text(content)
        return broken / name

    good = (zoo / "shared_variables" / "saved_model.pb").read_bytes()
    assert b"AddV2" in good
    pb("truncated_pb", good[: len(good) // 2])
    pb("empty_pb", b"")
    pb("random_pb", random.Random(1).randbytes(5000))
    pb("html_pb", b"<!DOCTYPE html>\n<html><head><title>404</title></head><body>Not Found</body></html>\n")
    pb("lfs_pb", b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 123456\n")
    pb("unknown_op", good.replace(b"AddV2", b"AddV9"))
    folder("empty")
    folder("text_files", README_md="# A model\n", model_txt="weights: many\n")
    keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)]).save(folder("keras_file") / "model.keras")

    message = saved_model_pb2.SavedModel.FromString(good)
    message.meta_graphs[0].signature_def["affine"].outputs["y"].name = "Nowhere:0"
    pb("dangling_output", message.SerializeToString(deterministic=True))
    written = copy("shared_variables", "text_format") / "saved_model.pb"
    message = saved_model_pb2.SavedModel.FromString(good)
    written.with_suffix(".pbtxt").write_text(text_format.MessageToString(message))
    written.unlink()

    shutil.rmtree(copy("dense_512", "no_variables") / "variables")
    (copy("dense_512", "no_index") / "variables" / "variables.index").unlink()
    (data,) = copy("dense_512", "truncated_variables").glob("variables/*.data-*")
    os.truncate(data, data.stat().st_size // 2)
    (asset,) = copy("lookup_table", "no_asset").glob("assets/*")
    asset.unlink()

    tf.saved_model.save(tf.Module(), str(broken / "no_signatures"))
    with tf.Graph().as_default():
        x = v1.placeholder(tf.float32, [None], "x")
        bias = v1.get_variable("bias", initializer=1.0)
        build_v1(broken / "train_tag", {DEFAULT: predicts({"x": x}, {"y": x + bias})}, ["train"])
    assert set(BROKEN) == {path.name for path in broken.iterdir()}


def number_versions(zoo: Path) -> None:
    def add(path: Path, version: int) -> None:
        save(path, serving_default=function(spec("x"))(lambda x: {"y": x + version}))

    for name, versions in VERSIONS.items():
        for version in versions:
            add(zoo / name / str(version), version)
    junk = zoo / "versions_with_junk"
    (junk / "11").mkdir()
    (junk / "12" / "variables").mkdir(parents=True)
    (junk / "12" / "variables" / "variables.index").write_bytes(b"")
    add(junk / "v13", 13)
    (junk / "README.md").write_text("# Versions\n")
    (junk / "14").write_text("a file, not a version\n")
    (junk / ".DS_Store").write_bytes(b"\0\0\0\1Bud1")


def main(zoo: Path) -> None:
    assert set(ENTRIES) == set(ZOO), set(ENTRIES) ^ set(ZOO)
    warnings.simplefilter("ignore")
    v1.logging.set_verbosity(v1.logging.ERROR)
    tf.autograph.set_verbosity(0)
    for name, entry in ENTRIES.items():
        keras.utils.set_random_seed(1)
        try:
            calls = entry.make(zoo / name)
        except Absent as reason:
            shutil.rmtree(zoo / name, ignore_errors=True)
            (zoo / f"{name}.absent.txt").write_text(str(reason))
            continue
        (zoo / f"{name}.cases.pkl").write_bytes(pickle.dumps(entry.ask(zoo / name, calls)))
    break_things(zoo)
    number_versions(zoo)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
