"""The checks: what happens between two equal requests must not change the answer."""

import json
import math
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from serving.core.comparison import largest, share
from serving.core.settings import ROOT
from serving.protocols.requests import in_rows
from serving.savedmodel.safety.purity import against, impurities
from serving.savedmodel.signature import Signature
from tools.verify.cases import LARGEST, Asked
from tools.verify.client import Answer, Case, Client, VerifyError, leave
from tools.verify.compare import by_output, described, output_name, tolerance

SAME, ROUNDS, DIFFERS, UNTESTED = "same", "rounds", "differs", "untested"
CONNECTIONS = 4
SHOWN = 3  # differences

Progress = Callable[[str, int, int], None]


class Verdict(NamedTuple):
    """The result of one check: `compared` answers were compared with the first ones, `differing` of them differed."""

    check: str
    verdict: str
    detail: str
    compared: int = 0
    differing: int = 0


class Subject(NamedTuple):
    """What is verified: requests with their first answers, and the servers."""

    asked: Sequence[Asked]
    right: dict[Case, Answer]
    urls: Sequence[str]  # of instances; the first gave the answers
    headers: dict[str, str]
    directory: Path | None  # the model, where it is here
    progress: Progress

    @property
    def cases(self) -> list[Case]:
        return list(self.right)

    @property
    def others(self) -> list[Case]:
        return [case for entry in self.asked for case in entry.others] or self.cases

    def signature(self, case: Case) -> Signature | None:
        return next((entry.signature for entry in self.asked if entry.signature.name == case.signature), None)

    def client(self, index: int = 0) -> Client:
        return Client(self.urls[index], self.headers)


class Tally:
    """Compares answers and counts differences; threads may share it."""

    def __init__(self, subject: Subject, check: str, total: int) -> None:
        self._subject, self._check, self._total = subject, check, total
        self._lock = threading.Lock()
        self.compared = self.differing = 0
        self._shown: list[str] = []

    def look(self, case: Case, answer: Answer) -> None:
        right = self._subject.right[case]
        with self._lock:
            self.compared += 1
            if answer != right:
                self.differing += 1
                if len(self._shown) < SHOWN:
                    self._shown.append(f"{case.name}: {_difference(right, answer, self._subject.signature(case))}")
        if not self.compared % 50:
            self._subject.progress(self._check, self.compared, self._total)

    def verdict(self, detail: str) -> Verdict:
        verdict = DIFFERS if self.differing else SAME
        return Verdict(self._check, verdict, "; ".join(self._shown) or detail, self.compared, self.differing)


def _difference(right: Answer, answer: Answer, signature: Signature | None) -> str:
    if right.status != answer.status:
        return f"expected status {right.status}, got {answer.status}: {answer.body[:120].decode(errors='replace')}"
    if right.body == answer.body:
        return f"expected {right.content_type}, got {answer.content_type}"
    return described(right.body, answer.body, signature)


def graph(directory: Path, vouched: bool = False) -> Verdict:
    """Check the model's operations, before any request; with `vouched` those of custom libraries pass."""
    if not (directory / "saved_model.pb").is_file():
        return Verdict("graph", UNTESTED, "it is not a SavedModel")
    impure = impurities(directory)
    refused = against(impure, vouched)
    if refused:
        more = f"; and {len(refused) - SHOWN} more" if len(refused) > SHOWN else ""
        return Verdict("graph", DIFFERS, "; ".join(map(str, refused[:SHOWN])) + more)
    detail = "; ".join(map(str, impure[:SHOWN]))
    return Verdict("graph", SAME, detail or "every operation that signatures and loading reach is pure")


def again(subject: Subject) -> Verdict:
    """Send each request twice more, on a new connection."""
    tally = Tally(subject, "again", 2 * len(subject.right))
    for case in subject.cases:
        with subject.client() as client:
            for _ in range(2):
                tally.look(case, client.post(case))
    return tally.verdict("twice more, each on a new connection")


def order(subject: Subject, rounds: int) -> Verdict:
    """Send the requests in other orders."""
    tally, shuffled = Tally(subject, "order", rounds * len(subject.right)), subject.cases
    with subject.client() as client:
        for seed in range(rounds):
            shuffled.reverse() if seed == 0 else random.Random(seed).shuffle(shuffled)
            for case in shuffled:
                tally.look(case, client.post(case))
    return tally.verdict(f"backwards, and in {rounds - 1} shuffled order{'s' if rounds > 2 else ''}")


def instance(subject: Subject) -> Verdict:
    """Send the requests to another instance, which has answered none yet, in reverse order."""
    if len(subject.urls) < 2:
        return Verdict("instance", UNTESTED, "one address was given; another instance's is a second --url")
    indices = range(1, len(subject.urls))
    tally = Tally(subject, "instance", len(indices) * len(subject.right))
    for index in indices:
        with subject.client(index) as client:
            for case in reversed(subject.cases):
                tally.look(case, client.post(case))
    return tally.verdict(f"backwards, on {'another instance' if len(indices) == 1 else f'{len(indices)} others'}")


def beside(subject: Subject, requests: int) -> Verdict:
    """Send the requests on several connections at once, each in its own order."""
    rounds = max(requests // (CONNECTIONS * len(subject.right)), 2)
    tally = Tally(subject, "beside", rounds * CONNECTIONS * len(subject.right))

    def work(seed: int) -> None:
        cases = subject.cases
        with subject.client() as client:
            for number in range(rounds):
                random.Random(seed * 1000 + number).shuffle(cases)
                for case in cases:
                    tally.look(case, client.post(case))

    _together(work)
    return tally.verdict(f"from {CONNECTIONS} connections at once, each in orders of its own")


def _together(work: Callable[[int], None]) -> None:
    problems: list[Exception] = []

    def safely(seed: int) -> None:
        try:
            work(seed)
        except Exception as error:  # threads lose what they raise
            problems.append(error)

    threads = [threading.Thread(target=safely, args=(seed,)) for seed in range(CONNECTIONS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if problems:
        raise problems[0]


def after_others(subject: Subject, count: int) -> Verdict:
    """Send the requests again after many others."""
    others, done = subject.others, [0] * CONNECTIONS

    def work(seed: int) -> None:
        with subject.client() as client:
            for number in range(seed, count, CONNECTIONS):
                client.post(others[number % len(others)])
                done[seed] += 1
                if seed == 0 and not done[0] % 50:
                    subject.progress("others", sum(done), count)

    _together(work)
    tally = Tally(subject, "others", len(subject.right))
    with subject.client() as client:
        for case in subject.cases:
            tally.look(case, client.post(case))
    return tally.verdict(f"after {sum(done):,} other requests")


JSON = (("Content-Type", "application/json"),)


def _errors(case: Case) -> Iterable[Case]:
    """Yield invalid requests, each derived from a valid one."""
    bodies = (
        b"", b"{", b"[" * 5000, b'{"instances": []}', b'{"instances": [{"no such input": 1}]}',
        b'{"inputs": {"no such input": [1]}}', b'{"signature_name": "no such signature", "instances": [1]}',
        b'{"instances": [[[[[[[[[1]]]]]]]]]}', case.body[: len(case.body) // 2], case.body + b"}", b"\xff\xfe\x00",
    )  # fmt: skip
    for number, body in enumerate(bodies):
        yield Case(f"error {number}", case.signature, case.path, body, JSON)
    yield Case("an unknown model", case.signature, "/v1/models/no%20such%20model:predict", case.body, JSON)
    yield Case("an unknown path", case.signature, "/no/such/path", case.body, JSON)
    yield Case("broken gzip", case.signature, case.path, b"\x1f\x8b\x08\x00junk", (*JSON, ("Content-Encoding", "gzip")))


def _cut_short(case: Case) -> bytes:
    return (
        f"POST {case.path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(case.body) + 1000}\r\n\r\n".encode() + case.body
    )


def after_errors(subject: Subject) -> Verdict:
    """Send the requests after invalid ones, which must get equal refusals, and after clients that disconnect."""
    tally, refused = Tally(subject, "errors", 2 * len(subject.right)), 0
    refusals: dict[Case, Answer] = {}
    wrong = []
    with subject.client() as client:
        for case in [*subject.cases, *subject.cases]:
            for error in _errors(case):
                answer = client.post(error)
                refused += 1
                if not 400 <= answer.status < 500:
                    wrong.append(f"{error.name}: expected to be refused, got {answer.status}")
                elif refusals.setdefault(error, answer) != answer:
                    wrong.append(f"{error.name}: refused in other words than before")
            leave(subject.urls[0], _cut_short(case))
            tally.look(case, client.post(case))
    clients = ", and after clients that went away" if subject.urls[0].startswith("http://") else ""
    verdict = tally.verdict(f"after {refused} refused requests{clients}")
    return verdict._replace(verdict=DIFFERS, detail="; ".join(wrong[:SHOWN])) if wrong else verdict


def events(subject: Subject) -> Verdict:
    """Send each request as the data of an event: the answer must have the same bytes."""
    compared, wrong = 0, []
    with subject.client() as client:
        for number, (case, right) in enumerate(subject.right.items()):
            headers = (
                *case.headers, ("ce-specversion", "1.0"), ("ce-id", str(number)), ("ce-source", "/verify"),
                ("ce-type", "com.example.asked"), ("ce-path", case.path),
            )  # fmt: skip
            answer = client.post(case._replace(path="/events", headers=headers))
            if answer.status == 404 or (answer.status == 204 and not answer.body):
                return Verdict("event", UNTESTED, "the server sends the answers to events elsewhere, or takes none")
            compared += 1
            answer = answer._replace(content_type=right.content_type)
            if answer != right:
                wrong.append(f"{case.name}: {_difference(right, answer, subject.signature(case))}")
    detail = "; ".join(wrong[:SHOWN]) or "POST /events answers with the bytes of POST predict"
    return Verdict("event", DIFFERS if wrong else SAME, detail, compared, len(wrong))


def in_batch(subject: Subject, sizes: Sequence[int], wide: float) -> list[Verdict]:
    """Send each row alone and in batches; one verdict for each signature with free rows."""
    return [_in_batch(subject, entry, sizes, wide) for entry in subject.asked if entry.cases]


def _alone(client: Client, entry: Asked) -> list[tuple[Any, Any, bytes]]:
    """Return (row, prediction, the prediction's bytes) for rows of one form; others cannot share a batch."""
    predicted, forms = [], set()
    path = next((case.path for case in entry.cases if case.path.endswith(":predict")), "")
    for row in entry.rows:
        answer = client.post(Case("", entry.signature.name, path, in_rows(entry.signature, [row])))
        body = answer.body
        predictions = json.loads(body)["predictions"] if answer.status == 200 else []
        if len(predictions) == 1:  # a model may drop rows
            forms.add(_form(row))
            if len(forms) == 1:
                predicted.append((row, predictions[0], body[len(b'{"predictions":[') : -len(b"]}")]))
            else:
                forms = {_form(predicted[0][0])}
    return predicted


def _form(value: Any) -> Any:
    """Return what must be equal in the rows of a batch: names and sizes."""
    if isinstance(value, list):
        return (len(value), _form(value[0]) if value else None)
    if isinstance(value, dict) and value.keys() != {"b64"}:
        return tuple(sorted((name, _form(element)) for name, element in value.items()))
    return None


def _in_batch(subject: Subject, entry: Asked, sizes: Sequence[int], wide: float) -> Verdict:
    with subject.client() as client:
        return _batches(subject, entry, client, sizes, wide)


def _batches(subject: Subject, entry: Asked, client: Client, sizes: Sequence[int], wide: float) -> Verdict:
    name, rows = f"batch, {entry.signature.name}", _alone(client, entry)
    if not rows:
        return Verdict(name, UNTESTED, "it does not go by rows" if not entry.rows else "no row is answered alone")
    path = next(case.path for case in entry.cases if case.path.endswith(":predict"))
    pairs: dict[str, list[tuple[Any, Any, int]]] = {}
    compared, refused = 0, ""
    for size in sizes:
        batch = [rows[index % len(rows)] for index in range(size)]
        random.Random(size).shuffle(batch)
        body = in_rows(entry.signature, [row for row, _, _ in batch])
        if len(body) > LARGEST:
            break
        answer = client.post(Case("", entry.signature.name, path, body))
        if answer.status != 200:
            refused = f"{size} rows together: {answer.status} {answer.body[:120].decode(errors='replace')}"
            continue
        predictions = json.loads(answer.body)["predictions"]
        if len(predictions) != size:
            refused = f"{size} rows together: {len(predictions)} predictions"
            continue
        for (_, alone, _), together in zip(batch, predictions):
            compared += 1
            for output, value in by_output(together).items():
                pairs.setdefault(output, []).append((by_output(alone).get(output), value, size))
        subject.progress(name, compared, sum(sizes))
    if not compared:
        return Verdict(name, UNTESTED, f"rows are answered alone only: {refused}")
    return _judged(name, entry, pairs, compared, wide, refused)


def _judged(
    name: str, entry: Asked, pairs: dict[str, list[tuple[Any, Any, int]]], compared: int, wide: float, refused: str
) -> Verdict:
    worst, details, differing = SAME, [], 0
    for output, values in pairs.items():
        scale = max(largest(alone) for alone, _, _ in values)
        off, size = max((share(alone, together, scale), size) for alone, together, size in values)
        if not off:
            continue
        differing += sum(1 for alone, together, _ in values if share(alone, together, scale))
        limit = tolerance(entry.signature, output, wide)
        rounds = off <= limit
        worst = ROUNDS if rounds and worst != DIFFERS else DIFFERS
        by = "by more than rounding" if math.isinf(off) else f"by at most {off:.1e} of its largest value"
        allowed = "" if rounds else f", {limit:g} are allowed"
        details.append(f"{output_name(entry.signature, output)} {by}{allowed}, in a batch of {size}")
    detail = "; ".join(details) or f"{compared} rows in batches, each as alone{f'; {refused}' if refused else ''}"
    return Verdict(name, worst, detail, compared, differing)


def scored(subject: Subject, environment: dict[str, str]) -> list[Verdict]:
    """Score the rows as a file with `serving score --exact`: each line must have the bytes of the online answer."""
    return [_scored(subject, entry, environment) for entry in subject.asked if entry.cases]


def _scored(subject: Subject, entry: Asked, environment: dict[str, str]) -> Verdict:
    name = f"file, {entry.signature.name}"
    with subject.client() as client:
        rows = _alone(client, entry)
    if not rows:
        return Verdict(name, UNTESTED, "it does not go by rows")
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "rows.jsonl", Path(folder) / "predictions.jsonl"
        source.write_text("".join(json.dumps(row) + "\n" for row, _, _ in rows))
        command = [sys.executable, "-m", "serving", "score", str(source), "-o", str(target), "--quiet",
                   "--exact", "--signature", entry.signature.name]  # fmt: skip
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        if not target.is_file():
            last = (done.stderr.strip().splitlines() or ["the command wrote no reason"])[-1]
            return Verdict(name, UNTESTED, last.replace(str(source), "a file"))
        lines = target.read_bytes().splitlines()
    wrong = [
        f"line {number}: expected {right[:100]!r}, got {line[:120]!r}"
        for number, (line, (_, _, right)) in enumerate(zip(lines, rows, strict=True))
        if line != b'{"prediction":' + right + b"}"
    ]
    detail = "; ".join(wrong[:SHOWN]) or "python -m serving score --exact writes the bytes of the answer online"
    return Verdict(name, DIFFERS if wrong else SAME, detail, len(rows), len(wrong))


def first_answers(entries: Sequence[Asked], client: Client) -> dict[Case, Answer]:
    """Return each request's first answer, with which later ones are compared."""
    right = {case: client.post(case) for entry in entries for case in entry.cases}
    for case, answer in right.items():
        if answer.status != 200:
            raise VerifyError(f"{case.name}: answered once, then with {answer.status}: {answer.body[:200]!r}")
    return right


def timed(check: Callable[[], Verdict | list[Verdict]]) -> tuple[list[Verdict], float]:
    """Return the verdicts of a check, and its seconds."""
    begin = time.monotonic()
    verdicts = check()
    return (verdicts if isinstance(verdicts, list) else [verdicts]), time.monotonic() - begin
