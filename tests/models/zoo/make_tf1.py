"""Entries of the zoo: models that TensorFlow 1 wrote."""

from pathlib import Path
from typing import Any

import tensorflow as tf

from tests.models.zoo.entries import (
    DEFAULT,
    SERVE,
    Calls,
    ask_session,
    entry_asking,
    example,
    floats,
    int32,
    text,
    v1,
    vocabulary,
)
from tests.models.zoo.make_graphs import parsed, table_of


def info(tensor: Any) -> Any:
    return v1.saved_model.utils.build_tensor_info(tensor)


def predicts(inputs: dict[str, Any], outputs: dict[str, Any]) -> Any:
    named = ({name: info(tensor) for name, tensor in tensors.items()} for tensors in (inputs, outputs))
    return v1.saved_model.build_signature_def(*named, "tensorflow/serving/predict")


def build_v1(path: Path, signatures: dict[str, Any], tags: list[str] = SERVE, **options: Any) -> None:
    """Save the default graph, its variables freshly initialized."""
    builder = v1.saved_model.Builder(str(path))
    with v1.Session() as session:
        session.run([v1.global_variables_initializer(), v1.tables_initializer()])
        assets = v1.get_collection(v1.GraphKeys.ASSET_FILEPATHS)
        options = {"assets_collection": assets or None} | options
        builder.add_meta_graph_and_variables(session, tags, signatures, **options)
    builder.save()


@entry_asking(ask_session)
def tf1_simple_save(path: Path) -> Calls:
    with tf.Graph().as_default(), v1.Session() as session:
        x = v1.placeholder(tf.float32, [None, 3], "x")
        weight = v1.get_variable("weight", initializer=floats(3, 2))
        session.run(v1.global_variables_initializer())
        v1.saved_model.simple_save(session, str(path), {"x": x}, {"y": x @ weight})
    return [(DEFAULT, {"x": floats(rows, 3)}) for rows in (0, 2)]


@entry_asking(ask_session)
def tf1_ref_variables(path: Path) -> Calls:
    with tf.Graph().as_default():
        x = v1.placeholder(tf.float32, [None, 3], "x")
        weight = v1.get_variable("weight", initializer=floats(3, 2), use_resource=False)
        reference = weight._ref()  # dtype float32_ref: DT_FLOAT_REF in the SignatureDef
        build_v1(path, {DEFAULT: predicts({"x": x}, {"y": x @ weight, "weight": reference})})
    return [(DEFAULT, {"x": floats(2, 3)})]


@entry_asking(ask_session)
def tf1_passthrough(path: Path) -> Calls:
    with tf.Graph().as_default():
        x = v1.placeholder(tf.float32, [None], "x")
        twice = x * 2
        fed = predicts({"x": x}, {"x": x, "twice": twice})
        fed_only = predicts({"x": x}, {"x": x})
        same = predicts({"x": x}, {"one": twice, "two": twice})
        # An input may be any tensor, not only a placeholder
        inner = predicts({"twice": twice}, {"y": twice + 1})
        twins = predicts({"a": x, "b": x}, {"y": twice})
        build_v1(path, {"fed": fed, "fed_only": fed_only, "same": same, "inner": inner, "twins": twins})
    calls: Calls = [(name, {"x": floats(2)}) for name in ("fed", "fed_only", "same")]
    return [*calls, ("inner", {"twice": floats(2)}), ("twins", {"a": floats(2), "b": floats(2)})]


@entry_asking(ask_session)
def tf1_names(path: Path) -> Calls:
    names = ["", " ", "é水", "a/b:0", 'quote"', "\n", "x" * 300]
    with tf.Graph().as_default():
        inputs = {name: v1.placeholder(tf.float32, [None]) for name in names}
        outputs = {name: inputs[name] + number for number, name in enumerate(names)}
        build_v1(path, {"": predicts(inputs, outputs), "a b/c:é": predicts(inputs, outputs)})
    return [(signature, {name: floats(2) for name in names}) for signature in ("", "a b/c:é")]


def table_v1(path: Path, initialized_by: str) -> Calls:
    with tf.Graph().as_default(), vocabulary("ant", "bee", "cat") as words:
        word = v1.placeholder(tf.string, [None], "word")
        number = table_of(words).lookup(word)
        build_v1(path, {DEFAULT: predicts({"word": word}, {"number": number})}, **{
            initialized_by: v1.tables_initializer()})  # fmt: skip
    return [(DEFAULT, {"word": text(b"cat", b"cow")})]


@entry_asking(ask_session)
def tf1_table_main_op(path: Path) -> Calls:
    return table_v1(path, "main_op")


@entry_asking(ask_session)
def tf1_table_legacy(path: Path) -> Calls:
    return table_v1(path, "legacy_init_op")


@entry_asking(ask_session)
def tf1_classify(path: Path) -> Calls:
    with tf.Graph().as_default():
        examples = v1.placeholder(tf.string, [None], "examples")
        scores = tf.nn.softmax(parsed(examples)["x"] @ v1.get_variable("weight", initializer=floats(2, 3)))
        classes = tf.tile(tf.constant([[b"ant", b"bee", b"cat"]]), [tf.shape(scores)[0], 1])
        classify = v1.saved_model.classification_signature_def
        signatures = {
            DEFAULT: classify(examples, classes, scores),
            "scores": classify(examples, None, scores),
            "classes": classify(examples, classes, None),
        }
        build_v1(path, signatures)
    given = text(example(x=[1.0, 2.0]), example(x=[0.0, -1.0]))
    calls: Calls = [(signature, {"inputs": given}) for signature in (DEFAULT, "scores", "classes")]
    return [*calls, (DEFAULT, {"inputs": text(b"junk")}), (DEFAULT, {"inputs": text(example(word=[b"x"]))})]


@entry_asking(ask_session)
def tf1_regress(path: Path) -> Calls:
    with tf.Graph().as_default():
        examples = v1.placeholder(tf.string, [None], "examples")
        value = parsed(examples)["x"] @ v1.get_variable("weight", initializer=floats(2, 1))
        build_v1(path, {DEFAULT: v1.saved_model.regression_signature_def(examples, value)})
    return [(DEFAULT, {"inputs": text(example(x=[1.0, 2.0]), example(x=[0.0, -1.0]))})]


@entry_asking(ask_session)
def tf1_control_flow(path: Path) -> Calls:
    v1.disable_control_flow_v2()
    try:
        with tf.Graph().as_default():
            n, x = v1.placeholder(tf.int32, [], "n"), v1.placeholder(tf.float32, [None], "x")
            _, powers = v1.while_loop(lambda i, _: i < n, lambda i, value: (i + 1, value * x), (0, tf.ones_like(x)))
            chosen = v1.cond(n > 2, lambda: powers, lambda: -powers)
            build_v1(path, {DEFAULT: predicts({"n": n, "x": x}, {"powers": powers, "chosen": chosen})})
    finally:
        v1.enable_control_flow_v2()
    return [(DEFAULT, {"n": int32(n), "x": floats(3)}) for n in (0, 2, 5)]


@entry_asking(ask_session)
def tf1_tags(path: Path) -> Calls:
    builder = v1.saved_model.Builder(str(path))
    for factor, tags in ((2, ["serve"]), (3, ["serve", "gpu"])):
        with tf.Graph().as_default(), v1.Session() as session:
            x = v1.placeholder(tf.float32, [None], "x")
            offset = v1.get_variable("offset", initializer=0.5)
            session.run(v1.global_variables_initializer())
            signatures = {DEFAULT: predicts({"x": x}, {"y": x * factor + offset})}
            if factor == 2:
                builder.add_meta_graph_and_variables(session, tags, signatures)
            else:
                builder.add_meta_graph(tags, signatures)
    builder.save()
    return [(DEFAULT, {"x": floats(2)})]


@entry_asking(ask_session)
def tf1_sparse_input(path: Path) -> Calls:
    with tf.Graph().as_default():
        sparse = v1.sparse_placeholder(tf.float32, [None, 3])
        build_v1(path, {DEFAULT: predicts({"s": sparse}, {"y": tf.sparse.to_dense(sparse)})})
    return []
