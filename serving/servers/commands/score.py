"""`python -m serving score INPUT -o OUTPUT`: score a file, an object or standard input, on every core.

After an interruption, the same command continues where the last one ended. Exit status 0: every row is answered; 3:
done, and some lines are errors; 1: not done, the last line says why; 2: the arguments are wrong.
"""

import argparse
import sys
import time
from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path
from typing import BinaryIO
from uuid import uuid4

from serving.core import settings
from serving.core.machine import cores
from serving.core.storage import NotThere, Storage, StorageError, split
from serving.scoring.faults import BadFile, Gone, TemporaryFailure
from serving.scoring.formats import CHUNK, GZIP, JSON_LINES, content_type_of
from serving.scoring.outputs import BucketOutput, LocalOutput, Output, StreamOutput
from serving.scoring.run import Source, prepare, score
from serving.scoring.workers import PARQUET

EXAMPLE = """\
example:
  python -m serving score examples/rows.jsonl -o predictions.jsonl --signature pixels
  head -1 examples/rows.jsonl | python -m serving score - -o - --signature pixels
"""
PARQUET_NAME = ".parquet"
STANDARD = "-"  # input or output
DONE, NOT_DONE, WRONG, WITH_ERRORS, INTERRUPTED = 0, 1, 2, 3, 130


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command."""
    parser.description = (
        "Predict every row of a file with the model of MODEL_DIR: JSON lines, CSV with a header, or a picture;\n"
        "each may be compressed with gzip. After an interruption, the same command continues where it stopped.\n\n"
        "Exit status 0: every row is answered; 3: done, and some lines are errors; 1: not done; 2: wrong arguments."
    )
    parser.epilog = EXAMPLE
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("input", metavar="INPUT", help="a file, gs://BUCKET/NAME, or - for standard input")
    parser.add_argument(
        "-o", "--output", required=True, metavar="OUTPUT",
        help="a new file, gs://BUCKET/NAME, or - for standard output",
    )  # fmt: skip
    parser.add_argument("--signature", metavar="NAME", help="a signature other than serving_default")
    parser.add_argument(
        "--options", metavar="QUERY", help="options as in a request's query: top_k=3&arrays=base64 (SCORE_OPTIONS)"
    )
    together = parser.add_mutually_exclusive_group()
    together.add_argument("--exact", action="store_true", help=(
        "run each row alone: predictions have the bytes of online answers (SCORE_BATCH_ROWS=1)"))  # fmt: skip
    together.add_argument("--batch-rows", type=int, metavar="N", help=(
        "run N rows together, unchecked (SCORE_BATCH_ROWS; default: up to 64, while samples stay within 1e-5 of each "
        "row alone)"))  # fmt: skip
    parser.add_argument("--processes", type=int, metavar="N", help=(
        "processes, each with a copy of the model (default: one for each core)"))  # fmt: skip
    parser.add_argument("--keep", metavar="NAMES", help=(
        "columns of a Parquet file to write beside the outputs and the key, separated by commas"))  # fmt: skip
    parser.add_argument("--instances", action="store_true", default=None, help="write each row beside its prediction")
    parser.add_argument("--content-type", metavar="TYPE", help=(
        "type of INPUT, if its name does not show it: text/csv, image/png (default for -: JSON lines)"))  # fmt: skip
    parser.add_argument("--quiet", action="store_true", help="show no progress")


def main(arguments: argparse.Namespace) -> int:
    """Score one file; return the exit status."""
    try:
        options = _options(arguments)
        storage = Storage(options.storage_emulator_host, options.google_oauth_access_token)
        _check_places(arguments.input, arguments.output)
        keep = _keep(arguments)
        processes = cores() if arguments.processes is None else arguments.processes
        if processes < 1:
            raise settings.SettingError(f"--processes: expected a whole number from 1, got {processes}")
    except settings.SettingError as error:
        print(f"serving: {error}", file=sys.stderr)
        return WRONG
    bar = _Bar(arguments.input, shown=not arguments.quiet)
    try:
        with redirect_stdout(sys.stderr):  # the log goes to standard error, as the progress does
            source = _source(arguments.input, arguments.content_type or "", storage)
            _check_output(arguments.output, storage)
            work = prepare(source, options, keep)

            def make(identity: str) -> Output:
                output = _output(arguments.output, identity, storage, options)
                bar.begin(source.size, output.rows)
                return output

            output, new, how = score(work, make, bar, processes)
    except BrokenPipeError:  # `| head` has read enough
        raise
    except (BadFile, Gone, TemporaryFailure, StorageError, OSError) as error:
        bar.end()
        print(f"serving: {arguments.input}: {error}", file=sys.stderr)
        return NOT_DONE
    except KeyboardInterrupt:
        bar.end()
        print("serving: interrupted; the same command continues from here", file=sys.stderr)
        return INTERRUPTED
    bar.end()
    if not new:
        print(
            f"serving: {arguments.output}: expected a new file or object, got one that now exists",
            file=sys.stderr,
        )
        return NOT_DONE
    seconds = time.monotonic() - bar.began
    rate = (output.rows - bar.rows_before) / seconds
    print(
        f"{arguments.output}: {output.rows} rows, {output.failed} errors, {seconds:.1f} s, {rate:.0f} rows/s, {how}",
        file=sys.stderr if arguments.output == STANDARD else sys.stdout,
    )
    return WITH_ERRORS if output.failed else DONE


def _options(arguments: argparse.Namespace) -> settings.Settings:
    options = settings.current()
    query = options.score_options
    if arguments.options is not None:
        try:
            query = settings.VARIABLES["SCORE_OPTIONS"][1](arguments.options)
        except ValueError as error:
            raise settings.SettingError(f"--options: expected {error}, got {arguments.options!r}") from None
    if arguments.signature:
        query = "&".join(filter(None, [query, f"signature_name={arguments.signature}"]))
    rows = options.score_batch_rows if arguments.batch_rows is None else arguments.batch_rows
    if arguments.exact:
        rows = 1
    try:
        settings.VARIABLES["SCORE_BATCH_ROWS"][1](str(rows))
    except ValueError as error:
        raise settings.SettingError(f"--batch-rows: expected {error}, got {rows}") from None
    instances = options.score_instances if arguments.instances is None else True
    return options._replace(score_options=query, score_batch_rows=rows, score_instances=instances)


def _keep(arguments: argparse.Namespace) -> tuple[str, ...] | None:
    """Return the columns to keep in a Parquet file of predictions; None where lines are written."""
    names = tuple(filter(None, (arguments.keep or "").split(",")))
    if not arguments.output.endswith(PARQUET_NAME):
        if names:
            raise settings.SettingError(f"--keep: expected an output {PARQUET_NAME}, got {arguments.output!r}")
        return None
    if _in_bucket(arguments.output):
        raise settings.SettingError(f"-o: expected a file on this machine for Parquet, got {arguments.output!r}")
    if names and not arguments.input.endswith(PARQUET_NAME):
        raise settings.SettingError(f"--keep: expected an input {PARQUET_NAME}, got {arguments.input!r}")
    return names


def _in_bucket(address: str) -> bool:
    return address.startswith("gs://")


def _check_places(source: str, output: str) -> None:
    for address in (source, output):
        if _in_bucket(address) and not all(split(address)):
            raise settings.SettingError(f"expected gs://BUCKET/NAME, got {address!r}")
    elsewhere = _in_bucket(source) or _in_bucket(output) or STANDARD in (source, output)
    same = source == output != STANDARD if elsewhere else Path(source).resolve() == Path(output).resolve()
    if same:
        raise settings.SettingError(f"-o: expected another file than the input, got {output!r}")


def _source(address: str, content_type: str, storage: Storage) -> Source:
    if address == STANDARD:
        kind = content_type_of("", content_type or JSON_LINES)
        # Nothing says what was read before, so no attempt continues another.
        return Source("-", uuid4().hex, 0, kind, False, lambda: _chunks(sys.stdin.buffer))
    if _in_bucket(address):
        stored = storage.stat(*split(address))
        packed = stored.encoding == "gzip" or stored.name.endswith(GZIP)
        kind = content_type or content_type_of(stored.name, stored.content_type)
        return Source(address, stored.generation, stored.size, kind, packed, lambda: storage.read(stored))
    path = Path(address)
    if path.is_dir():
        raise BadFile("expected a file, got a folder")
    about = path.stat()
    if path.suffix == PARQUET_NAME and not content_type:
        return Source(
            str(path.resolve()), str(about.st_mtime_ns), about.st_size, PARQUET, False, lambda: iter(()), path
        )
    kind = content_type_of("", content_type) if content_type else content_type_of(path.name)

    def read() -> Iterator[bytes]:
        with path.open("rb") as file:
            yield from _chunks(file)

    return Source(str(path.resolve()), str(about.st_mtime_ns), about.st_size, kind, path.name.endswith(GZIP), read)


def _chunks(file: BinaryIO) -> Iterator[bytes]:
    while chunk := file.read(CHUNK):
        yield chunk


def _check_output(address: str, storage: Storage) -> None:
    try:
        if address == STANDARD:
            return
        if _in_bucket(address):
            storage.stat(*split(address))
        elif not Path(address).parent.is_dir():
            raise BadFile(f"-o: expected a file in a folder that exists, got {address!r}")
        elif not Path(address).exists():
            return
    except NotThere:
        return
    raise BadFile(f"-o: expected a new file or object, got {address!r}, which exists")


def _output(address: str, identity: str, storage: Storage, options: settings.Settings) -> Output:
    if address == STANDARD:
        return StreamOutput(open(1, "wb", closefd=False))  # sys.stdout is standard error meanwhile
    if not _in_bucket(address):
        if address.endswith(PARQUET_NAME):
            from serving.scoring.arrow import ParquetOutput  # needs pyarrow

            return ParquetOutput(Path(address))
        return LocalOutput(Path(address), identity)
    bucket, name = split(address)
    folder = name.rpartition("/")[0]
    return BucketOutput(storage, bucket, name, f"{folder}/" if folder else "", identity, options.score_part_bytes)


class _Bar:
    """Progress: how far, how many rows, how fast, how long still. A bar on a terminal, else a line now and then."""

    WIDTH = 30
    SECONDS, SECONDS_ELSEWHERE = 0.2, 10.0  # between two updates, on a terminal and in a log

    def __init__(self, name: str, *, shown: bool) -> None:
        self._name, self._shown, self._size = name, shown, 0
        self._terminal = sys.stderr.isatty()
        self.rows_before = 0
        self._read_before: int | None = None
        self.began = self._drawn = time.monotonic()

    def begin(self, size: int, rows: int) -> None:
        """Begin to count: the first batch is answered, and `rows` rows were written by an earlier attempt."""
        self._size, self.rows_before = size, rows
        if rows:
            print(f"serving: continuing after {rows} rows", file=sys.stderr)

    def __call__(self, read: int, rows: int) -> None:
        now = time.monotonic()
        if self._read_before is None:
            self._read_before = 0 if not self.rows_before else read
        if not self._shown or now - self._drawn < (self.SECONDS if self._terminal else self.SECONDS_ELSEWHERE):
            return
        self._drawn = now
        seconds = max(now - self.began, 1e-9)
        rate = f"{rows:,} rows  {(rows - self.rows_before) / seconds:,.0f} rows/s"
        if not self._size:
            self._print("", rate)
            return
        share = min(read / self._size, 1)
        left = (self._size - read) * seconds / max(read - self._read_before, 1)
        rate += f"  {_clock(left)} left"
        done = "#" * int(share * self.WIDTH)
        self._print(f"[{done:<{self.WIDTH}}] {share:4.0%}  " if self._terminal else f"{share:.0%}  ", rate)

    def _print(self, begin: str, rate: str) -> None:
        if self._terminal:
            print(f"\r{begin}{rate} \x1b[K", end="", file=sys.stderr)
        else:
            print(f"serving: {self._name}: {begin}{rate}", file=sys.stderr)
        sys.stderr.flush()

    def end(self) -> None:
        if self._shown and self._terminal:
            print("\r\x1b[K", end="", file=sys.stderr)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
