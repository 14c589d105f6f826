"""Ask every baked model the zoo's cases, through the runtime, in one process: `python -m tests.exporting.ask FOLDER`.

Prints, as JSON, what differs from the oracle's answers.
"""

import json
import sys
from pathlib import Path

from exporting import compare
from exporting.runner import Answer, _call
from serving.core.errors import RunError
from serving.runtime import tensorflow_c
from serving.savedmodel.signature import read
from tests.models.zoo import ZOO, cases


def main(folder: Path) -> None:
    path = tensorflow_c.find()
    assert path
    tf = tensorflow_c.api(path)
    config = tensorflow_c.config(1, -1, optimize=False)
    problems: dict[str, list[str]] = {}
    asked = 0
    for directory in sorted(folder.iterdir()):
        name = directory.name.partition("-")[0]  # without -kept or -partly
        if name not in ZOO or not directory.is_dir():
            continue
        contents = read(directory)
        session = tensorflow_c.Session(tf, directory, contents.tags, config)
        for case in cases(name):
            signature = contents.signatures[case["signature"]]
            try:
                answer = _call(session.function(signature), signature, case["inputs"])
            except (RunError, Exception) as error:
                answer = Answer(None, type(error).__name__)
            asked += 1
            if case["outputs"] is None:
                problem = None if answer.error == case["error"] else f"{answer.error}, not {case['error']}"
            elif answer.outputs is None:
                problem = f"{answer.error}: {answer.message}"
            else:
                _, problem = compare.difference(case["outputs"], answer.outputs, compare.TOLERANCE)
            if problem:
                problems.setdefault(directory.name, []).append(f"{case['signature']}: {problem}")
        session.close()
    print(json.dumps({"asked": asked, "differ": problems}))


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
