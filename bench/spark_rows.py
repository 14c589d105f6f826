"""CPU time of rows on Spark, for `bench.score`: `spark-submit bench/spark_rows.py FOLDER ROUNDS`, on one core.

FOLDER has `small` and `large` files of the same rows, as JSON lines and as Parquet. Both are scored, by turns, by
`predictions` and by the usual function around `import tensorflow`, after a first time that is not counted. The CPU time
is that of the driver's JVM and of the Python processes, at the end of a job less at its beginning; the difference of
the two files over the difference of their rows is a row's. Prints JSON: seconds a row and peak memory of a worker.
"""

import json
import os
import shutil
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERTZ = os.sysconf("SC_CLK_TCK")


def tree() -> list[int]:
    """Return the ids of this program's JVM, and of everything that it started but this process."""
    parents = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
    processes = [os.getppid()]  # the JVM of spark-submit starts this program
    for process in processes:
        processes += [child for child, parent in parents.items() if parent == process]
    return [process for process in processes if process != os.getpid()]


def seconds() -> float:
    """Return the CPU time of the tree so far."""
    ticks = 0
    for process in tree():
        try:
            fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        ticks += sum(map(int, fields[11:15]))  # with that of children that ended
    return ticks / HERTZ


def peak() -> float:
    """Return the peak memory in MB of the largest Python process."""
    sizes = [0]
    for process in tree():
        status = Path(f"/proc/{process}/status").read_text()
        if "python" in status.partition("\n")[0]:
            sizes += [int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")]
    return max(sizes) / 1000


def naive(directory: str) -> Callable[[], Callable[..., Any]]:
    """Return what people give `predict_batch_udf`."""

    def make() -> Callable[..., Any]:
        import tensorflow

        model = tensorflow.saved_model.load(directory)
        function = model.signatures["pixels"]

        def predict(pixels: Any) -> Any:
            outputs = function(pixels=tensorflow.constant(pixels.reshape(-1, 8, 8)))
            return {"label": outputs["label"].numpy().astype(str), "probabilities": outputs["probabilities"].numpy()}

        return predict

    return make


def main() -> None:
    folder, rounds = Path(sys.argv[1]), int(sys.argv[2])
    from pyspark.ml.functions import predict_batch_udf
    from pyspark.sql import SparkSession
    from pyspark.sql import functions as sql
    from pyspark.sql.types import ArrayType, FloatType, StringType, StructField, StructType

    sys.path.insert(0, str(Path(__file__).parents[1]))
    from serving.core import settings
    from serving.scoring.spark import predictions

    spark = SparkSession.builder.master("local[1]").getOrCreate()
    udf = predict_batch_udf(
        naive(str(settings.current().model_dir)), batch_size=64, input_tensor_shapes=[[64]],
        return_type=StructType([StructField("label", StringType()), StructField("probabilities", ArrayType(FloatType()))]),
    )  # fmt: skip

    def lines(name: str, output: str) -> None:
        frame = spark.read.option("lineSep", "\n").text(f"{folder}/{name}.jsonl")
        frame = frame.select("value", sql.col("_metadata.file_path").alias("file"))
        answered = predictions(frame, signature="pixels", lines="value", file="file")
        answered.write.partitionBy("result").text(output)

    def table(name: str, output: str) -> None:
        predictions(spark.read.parquet(f"{folder}/{name}.parquet"), signature="pixels", keep=["key"]).write.parquet(
            output
        )

    def usual(name: str, output: str) -> None:
        frame = spark.read.schema("key long, pixels array<array<float>>").json(f"{folder}/{name}.jsonl")
        frame.select("key", udf(sql.flatten("pixels")).alias("prediction")).write.json(output)

    jobs = {"lines": lines, "parquet": table, "naive": usual}
    rows = json.loads((folder / "rows.json").read_text())
    measured: dict[str, Any] = {}
    for name in sys.argv[3:] or jobs:
        shutil.rmtree(folder / "out", ignore_errors=True)
        jobs[name]("large", f"{folder}/out")  # compiles what the JVM runs often
        used: dict[str, list[float]] = {"small": [], "large": []}
        for _ in range(rounds):
            for size in used:
                shutil.rmtree(folder / "out")
                begin = seconds()
                jobs[name](size, f"{folder}/out")
                used[size].append(seconds() - begin)
        shutil.rmtree(folder / "out")
        small, large = (statistics.median(values) for values in used.values())
        measured[name] = {"seconds": (large - small) / (rows["large"] - rows["small"]), "peak": peak()}
    print(json.dumps(measured))
    spark.stop()


if __name__ == "__main__":
    main()
