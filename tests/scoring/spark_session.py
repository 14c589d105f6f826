"""What `test_spark` asks of one Spark session, as a user's program: `spark-submit spark_session.py FOLDER`.

FOLDER holds the inputs, and gets what came out, one folder or file for each case.
"""

import json
import sys
from pathlib import Path
from typing import Any

MODELS = {"lines": 2, "csv": 3}  # the arguments that name them; the embedded one otherwise

if __name__ == "__main__":
    from pyspark.sql import SparkSession
    from pyspark.sql import functions as sql

    sys.path.insert(0, str(Path(__file__).parents[2]))
    from serving.core import settings
    from serving.runtime import loading
    from serving.scoring import spark as ours
    from serving.scoring.faults import BadFile
    from serving.scoring.spark_files import reason_of

    folder = Path(sys.argv[1])
    session = SparkSession.builder.getOrCreate()
    session.conf.set("spark.sql.execution.arrow.maxRecordsPerBatch", 300)

    # Typed columns, several Arrow batches in a partition.
    frame = session.read.parquet(str(folder / "table.parquet")).coalesce(1)
    frame = frame.withColumn("place", sql.col("_metadata.file_path"))
    answered = ours.predictions(frame, signature="pixels", exact=True, keep=["id"], file="place")
    answered.write.parquet(str(folder / "columns"))

    # Lines, with a column beside them.
    lines = session.read.option("lineSep", "\n").text(str(folder / "rows.jsonl")).withColumn("day", sql.lit(7))
    answered = ours.predictions(lines, signature="pixels", exact=True, lines="value", keep=["day"])
    rows = [row.asDict() for row in answered.collect()]
    (folder / "lines.json").write_text(json.dumps(rows))

    problems = []
    refused: list[dict[str, Any]] = [
        {"signature": "pixel"}, {"signature": "pixels", "keep": ["label"]}, {"signature": "pixels", "options": "top_k=2"},
    ]  # fmt: skip
    for arguments in refused:
        try:
            ours.predictions(frame.withColumn("label", sql.lit(1)), **arguments)
        except BadFile as error:
            problems.append(str(error))
    try:
        ours.predictions(frame.drop("pixels"), signature="pixels")
    except BadFile as error:
        problems.append(str(error))

    for source, output, options in json.loads((folder / "refused.json").read_text()):
        try:
            ours.score(session, ours.parse([str(folder / source), str(folder / output), *options]))
        except Exception as error:
            problems.append(reason_of(error))
    (folder / "problems.json").write_text(json.dumps(problems))

    # The other formats, as the program reads them, and other models in the same processes.
    for form in ("images", "tfrecord", "lines", "csv"):
        if form in MODELS:
            settings.adopt({"MODEL_DIR": sys.argv[MODELS[form]]})
            loading.forget()
        given = ours.parse([str(folder / form), str(folder / f"{form}-out"), "--format", form])
        ours.score(session, given)
    (folder / "application").write_text(session.sparkContext.applicationId)
    session.stop()
