"""`python -m serving score`: the bytes of the event path, resuming after a crash, and constant memory."""

import gzip
import json
import os
import pty
import random
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serving import scoring
from serving.__main__ import main
from serving.protocols.call import Context
from serving.scoring import formats
from serving.scoring.faults import TemporaryFailure
from serving.scoring.outputs import LocalOutput
from serving.servers.commands.score import EXAMPLE
from tests.conftest import EMBEDDED, ROOT, Serve, plain_environment
from tests.events.emulators import Store, storage
from tests.models.zoo import build

COMMAND = [sys.executable, "-m", "serving", "score"]


@pytest.fixture(scope="module")
def store() -> Iterator[Store]:
    with storage() as running:
        running.bucket("in")
        running.bucket("out")
        yield running


def pictures(count: int) -> bytes:
    """Return JSON lines for the signature `pixels`, with a bad one here and there."""
    digits = np.random.default_rng(3).integers(0, 17, (count, 8, 8)).tolist()
    rows = [{"key": number, "pixels": "x" if number % 997 == 5 else digit} for number, digit in enumerate(digits)]
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def test_the_example_of_the_help_runs_as_printed(tmp_path: Path) -> None:
    shown = subprocess.run([*COMMAND, "--help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert EXAMPLE in shown
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = plain_environment(PATH=path, PYTHONPATH=str(ROOT))
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    commands = EXAMPLE.removeprefix("example:\n")
    done = subprocess.run(["bash", "-e", "-c", commands], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    said, streamed = done.stdout.splitlines()
    assert re.fullmatch(
        r"predictions\.jsonl: 2 rows, 0 errors, [0-9.]+ s, [0-9]+ rows/s, up to 64 rows together, .*", said
    )
    lines = map(json.loads, (tmp_path / "predictions.jsonl").read_text().splitlines())
    assert [line["prediction"]["label"] for line in lines] == ["3", "7"]
    assert json.loads(streamed)["prediction"]["label"] == "3"


def test_files_and_objects_get_the_bytes_of_the_event_path(serve: Serve, store: Store, tmp_path: Path) -> None:
    content = pictures(700)
    generation = store.put("in", "a.jsonl", content)
    (tmp_path / "a.jsonl").write_bytes(content)
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(content))
    more = {"EVENT_INPUT": "gs://inbox", "EVENT_OUTPUT": "gs://out/scored", "STORAGE_EMULATOR_HOST": store.address}
    serve(EMBEDDED, **more, SCORE_OPTIONS="signature_name=pixels")
    by_event = scoring.score_object("gs://in/a.jsonl", generation).output.removeprefix("gs://out/")
    serve(EMBEDDED, **more, SCORE_PART_BYTES="20000")
    for source, output in [
        (str(tmp_path / "a.jsonl"), str(tmp_path / "of-a")),
        (str(tmp_path / "b.jsonl.gz"), str(tmp_path / "of-b")),
        ("gs://in/a.jsonl", str(tmp_path / "of-object")),
        (str(tmp_path / "a.jsonl"), "gs://out/of-a"),
        ("gs://in/a.jsonl", "gs://out/deep/of-object"),
    ]:
        assert main(["score", source, "-o", output, "--signature", "pixels"]) == 3
        object_name = output.removeprefix("gs://out/")
        written = store.get("out", object_name) if "gs://" in output else Path(output).read_bytes()
        assert written == store.get("out", by_event)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.jsonl", "b.jsonl.gz", "of-a", "of-b", "of-object"]
    assert store.names("out") == sorted(["of-a", "deep/of-object", by_event])
    assert store.about("out", "of-a")["metadata"]["errors"] == "1"


@pytest.mark.parametrize("target", ["file", "bucket"])
def test_killed_at_random_moments_the_command_resumes(serve: Serve, store: Store, tmp_path: Path, target: str) -> None:
    (tmp_path / "rows.jsonl").write_bytes(pictures(8_000))
    # Two rows and more have the same bytes in any company, and 64 at once are quicker.
    environment = plain_environment(
        STORAGE_EMULATOR_HOST=store.address, SCORE_PART_BYTES="100000", SCORE_OPTIONS="signature_name=pixels",
        SCORE_BATCH_ROWS="64",
    )  # fmt: skip
    output = str(tmp_path / "out") if target == "file" else "gs://out/killed"
    command = [*COMMAND, str(tmp_path / "rows.jsonl"), "-o", output]
    journal = tmp_path / "out.part.journal"
    steps = random.Random(target)
    begun = 0
    for _ in range(2):
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        goal = begun + steps.randint(1, 2)
        while process.poll() is None and begun < goal:
            time.sleep(0.002)
            begun = len(journal.read_bytes().splitlines()) if journal.exists() else 0
            begun = begun if target == "file" else len(store.names("out", ".partial/killed"))
        process.kill()
        process.wait()
    assert begun
    end = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert end.returncode == 3, end.stderr
    went_on = re.search(r"continuing after ([0-9]+) rows", end.stderr)
    assert went_on
    assert int(went_on[1]) > 0
    whole = tmp_path / "whole"
    serve(EMBEDDED)
    arguments = ["--signature", "pixels", "--batch-rows", "64"]
    assert main(["score", str(tmp_path / "rows.jsonl"), "-o", str(whole), *arguments]) == 3
    written = Path(output).read_bytes() if target == "file" else store.get("out", "killed")
    assert written == whole.read_bytes()
    assert [json.loads(line)["key"] for line in written.splitlines()] == list(range(8_000))


STATUSES = [
    # input             output            more                              status  words
    ("rows.jsonl",      "out",            [],                               0,      "out: 2 rows, 0 errors"),
    ("bad.jsonl",       "out",            [],                               3,      "out: 2 rows, 1 errors"),
    ("rows.jsonl",      "bad.jsonl",      [],                               1,      "-o: expected a new file or object, got"),
    ("rows.jsonl",      "gs://out/there", [],                               1,      "-o: expected a new file or object, got"),
    ("rows.jsonl",      "./rows.jsonl",   [],                               2,      "-o: expected another file than the input"),
    ("gs://in/x",       "gs://in/x",      [],                               2,      "-o: expected another file than the input"),
    ("gs://in",         "out",            [],                               2,      "expected gs://BUCKET/NAME, got 'gs://in'"),
    ("rows.jsonl",      "out",            ["--batch-rows", "65537"],        2,      "--batch-rows: expected a whole number from 0 to 65536"),
    ("rows.jsonl",      "out",            ["--batch-rows", "-1"],           2,      "--batch-rows: expected a whole number"),
    ("rows.jsonl",      "out",            ["--options", "a b"],             2,      "expected options as in the query"),
    ("rows.jsonl",      "out",            ["--signature", "serving"],       1,      "did you mean 'serving_default'"),
    ("none.jsonl",      "out",            [],                               1,      "No such file"),
    ("gs://in/none.csv", "out",           [],                               1,      "404"),
    (".",               "out",            [],                               1,      "expected a file, got a folder"),
    ("empty.csv",       "out",            [],                               1,      "the file is empty"),
    ("rows",            "out",            [],                               1,      "expected a name that ends with one of"),
    ("rows",            "out",            ["--content-type", "text/csv; header=absent"], 0, "out: 2 rows, 0 errors"),
    ("rows.jsonl",      "no/folder/out",  [],                               1,      "-o: expected a file in a folder that exists, got 'no/folder/out'"),
]  # fmt: skip


@pytest.mark.parametrize(("source", "output", "more", "status", "words"), STATUSES)
def test_the_exit_status_tells_success_failure_and_bad_rows(
    serve: Serve, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    source: str, output: str, more: list[str], status: int, words: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("serving.core.storage.PAUSES", (0.0,))
    Path("rows.jsonl").write_text('"cat"\n"dog"\n')
    Path("bad.jsonl").write_text('"cat"\n7\n')
    Path("rows").write_text("cat\ndog\n")
    Path("empty.csv").touch()
    store.put("out", "there", b"")
    before = sorted(tmp_path.iterdir())
    serve(build() / "lookup_table", STORAGE_EMULATOR_HOST=store.address)
    assert main(["score", source, "-o", output, *more]) == status
    printed = capsys.readouterr()
    assert words in (printed.out if status in (0, 3) else printed.err)
    left = sorted({*tmp_path.iterdir()} - {*before})
    assert [path.name for path in left] == (["out"] if status in (0, 3) else [])


def test_only_intact_partial_output_of_the_same_work_is_resumed(tmp_path: Path) -> None:
    first = LocalOutput(tmp_path / "out", "identity")
    first.write(b"1\n2\n", 2, 0)
    first.write(b"3\n", 1, 1)
    with pytest.raises(TemporaryFailure, match="another process writes"):
        LocalOutput(tmp_path / "out", "identity")
    first.close()
    part, journal = tmp_path / "out.part", tmp_path / "out.part.journal"
    part.write_bytes(part.read_bytes() + b"4\n5")  # killed before the journal was written
    journal.write_text(journal.read_text() + "5 1")  # or while it was
    second = LocalOutput(tmp_path / "out", "identity")
    assert (second.rows, second.failed) == (3, 1)
    second.write(b"4\n", 1, 0)
    second.close()
    part.write_bytes(part.read_bytes()[:5])  # the disk lost what the journal records
    third = LocalOutput(tmp_path / "out", "identity")
    assert (third.rows, third.failed, part.read_bytes()) == (2, 0, b"1\n2\n")
    third.close()
    other = LocalOutput(tmp_path / "out", "another")
    assert (other.rows, part.read_bytes()) == (0, b"")
    other.write(b"x\n", 1, 0)
    assert other.finish({})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]
    late = LocalOutput(tmp_path / "out", "another")
    late.write(b"y\n", 1, 0)
    assert not late.finish({})
    assert (tmp_path / "out").read_bytes() == b"x\n"


def test_progress_is_shown_on_a_terminal(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_bytes(b'"cat"\n' * 60_000)
    mine, theirs = pty.openpty()
    process = subprocess.Popen(
        [*COMMAND, str(tmp_path / "rows.jsonl"), "-o", str(tmp_path / "out")], cwd=ROOT, stderr=theirs,
        stdout=subprocess.PIPE, env=plain_environment(MODEL_DIR=str(build() / "lookup_table")),
    )  # fmt: skip
    os.close(theirs)
    shown = b""
    with suppress(OSError):  # when the other end is closed
        while part := os.read(mine, 4096):
            shown += part
    said, _ = process.communicate()
    os.close(mine)
    assert process.returncode == 0
    assert b"60000 rows, 0 errors" in said
    assert re.search(rb"\r\[#* *\] +[0-9]+%  [0-9,]+ rows  [0-9,]+ rows/s  [0-9]+:[0-9]{2} left", shown)


INTERRUPTED = """if True:
    import os, signal, sys
    from serving import __main__; from serving.core import terminal
    from serving.servers.commands import score
    score._Bar.__call__ = lambda *_: os.kill(os.getpid(), signal.SIGINT)  # after the first batch
    sys.exit(terminal.run("serving", __main__.main))
"""


def test_an_interrupted_command_says_that_it_will_resume(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_bytes(pictures(3_000))
    more = [str(tmp_path / "rows.jsonl"), "-o", str(tmp_path / "out"), "--signature", "pixels", "--batch-rows", "100"]
    first, second = (
        subprocess.run([*command, *more], cwd=ROOT, capture_output=True, env=plain_environment(), text=True)
        for command in ([sys.executable, "-c", INTERRUPTED, "score"], COMMAND)
    )
    assert first.returncode == 130, first.stderr
    assert "interrupted; the same command continues from here" in first.stderr
    assert "continuing after" in second.stderr
    assert len((tmp_path / "out").read_bytes().splitlines()) == 3_000


def score_rows(folder: Path, *more: str, **environment: str) -> bytes:
    """Score `rows.jsonl` of a folder in a process of its own; return the predictions."""
    (folder / "out").unlink(missing_ok=True)
    command = [*COMMAND, str(folder / "rows.jsonl"), "-o", str(folder / "out"), "--signature", "pixels", *more]
    done = subprocess.run(command, cwd=ROOT, env=plain_environment(**environment), capture_output=True, text=True)
    assert done.returncode in (0, 3), done.stderr
    return (folder / "out").read_bytes()


def test_several_processes_write_the_bytes_of_one(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_bytes(pictures(6_000))
    for more in ([], ["--exact"]):
        by_one, by_three = (score_rows(tmp_path, "--processes", count, *more) for count in ("1", "3"))
        assert by_one == by_three
        assert len(by_one.splitlines()) == 6_000
    (tmp_path / "table.csv").write_text("pixels\n" + "1\n" * 6_000)
    with (tmp_path / "table.csv").open("rb") as table:  # its header is refused in the process that reads
        done = subprocess.run([*COMMAND, "-", "-o", "-", "--content-type", "text/csv", "--signature", "pixels"],
                              cwd=ROOT, env=plain_environment(), stdin=table, capture_output=True, text=True)  # fmt: skip
    assert (done.returncode, done.stdout) == (1, "")
    assert "line 1: the rows of 'pixels' have shape [8, 8], which has no CSV form" in done.stderr


DYING = """if True:
    import dying, sys
    from serving import __main__
    from serving.scoring import workers
    from serving.core import terminal
    workers._answer = dying.answer
    sys.exit(terminal.run("serving", __main__.main))
"""


def test_a_process_that_dies_ends_the_work_with_an_error(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_bytes(pictures(6_000))
    (tmp_path / "dying.py").write_text("import os\ndef answer(batch): os._exit(9)")
    command = [sys.executable, "-c", DYING, "score", str(tmp_path / "rows.jsonl"), "-o", str(tmp_path / "out"),
               "--signature", "pixels", "--processes", "2"]  # fmt: skip
    environment = plain_environment(PYTHONPATH=str(tmp_path))
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 1
    assert "a process that scores rows died" in done.stderr


def test_standard_input_and_output_have_the_bytes_of_files(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_bytes(pictures(5_000))
    with (tmp_path / "rows.jsonl").open("rb") as rows:
        done = subprocess.run([*COMMAND, "-", "-o", "-", "--signature", "pixels"], cwd=ROOT, stdin=rows,
                              capture_output=True, env=plain_environment())  # fmt: skip
    assert done.returncode == 3, done.stderr
    assert done.stdout == score_rows(tmp_path)
    assert b"-: 5000 rows, 6 errors" in done.stderr


def peak(source: Path, output: Path) -> int:
    """Return the peak memory, in kB, of a process that scores a file."""
    environment = plain_environment(MODEL_DIR=str(build() / "lookup_table"), MALLOC_ARENA_MAX="1")
    process = subprocess.Popen([*COMMAND, str(source), "-o", str(output)], cwd=ROOT, env=environment,
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # fmt: skip
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    return used.ru_maxrss


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    row = b'"' + b"cat " * 10_000 + b'"\n'
    for name, rows in (("small", 25), ("large", 5000)):  # 1 MB, 200 MB
        with gzip.open(tmp_path / f"{name}.jsonl.gz", "wb", compresslevel=1) as file:
            for _ in range(rows):
                file.write(row)
    small, large = (peak(tmp_path / f"{name}.jsonl.gz", tmp_path / name) for name in ("small", "large"))
    assert large - small < 40_000
    assert len((tmp_path / "large").read_bytes().splitlines()) == 5000


def test_a_batch_holds_a_bounded_part_of_the_file() -> None:
    def endless() -> Iterator[bytes]:
        while True:
            yield b"x" * (1 << 20)

    def lines() -> Iterator[Any]:
        context = Context(query={"on_error": "row"})
        chunks = (b"\n" if number % 64 == 63 else b'"' * (1 << 20) for number in range(640))
        form: Any = formats.Lines(None, context, 8 << 20)  # type: ignore[arg-type]
        yield from form.batches(chunks, 1)

    assert [line for batch in lines() for line in batch.rows] == [None] * 10
    form: Any = formats.Whole(None, None, 8 << 20)  # type: ignore[arg-type]
    with pytest.raises(formats.BadFile, match="expected at most 8388608 bytes"):
        next(form.batches(endless(), 1))
