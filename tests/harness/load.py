"""Clients that never stop, know what is right, and count what happens to each request."""

import http.client
import random
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from tests.harness.balancer import Balancer
from tools.verify.client import Answer, Case

PATIENCE = 30.0  # seconds after which an unanswered request counts as lost
PAUSE = 0.02  # between two attempts
REFUSALS = (429, 502, 503, 504)


@dataclass
class Counts:
    """What happened: to requests, and to the attempts that they took."""

    sent: int = 0  # requests
    right: int = 0  # answered with the right bytes
    wrong: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)  # not answered within PATIENCE
    attempts: int = 0
    refused: Counter[int] = field(default_factory=Counter)  # attempts by status, each with a JSON body
    broken: int = 0  # attempts whose connection ended without an answer
    unclean: list[str] = field(default_factory=list)  # attempts refused without a JSON body
    retried: int = 0  # requests that took more than one attempt
    slowest: float = 0.0  # seconds from the first attempt to the answer


class Load:
    """Several clients, each with one request at a time, each request on a new connection."""

    def __init__(self, balancer: Balancer, right: Mapping[Case, Answer], clients: int = 4, pause: float = 0.0) -> None:
        """`right` has the requests and what each is answered, `pause` is between two requests of a client."""
        self._balancer, self._right, self._pause = balancer, right, pause
        self.counts = Counts()
        self._lock = threading.Lock()
        self._end = threading.Event()
        self._threads = [threading.Thread(target=self._work, args=(seed,), daemon=True) for seed in range(clients)]

    def start(self) -> None:
        """Begin."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> Counts:
        """Begin no more requests, wait for those under way, and return the counts."""
        self._end.set()
        for thread in self._threads:
            thread.join(PATIENCE + 15)
            if thread.is_alive():
                self.counts.lost.append("a client still waits")
        return self.counts

    def _work(self, seed: int) -> None:
        choose, cases = random.Random(seed), list(self._right)
        while not self._end.is_set():
            self._one(choose.choice(cases))
            if self._pause:
                self._end.wait(self._pause)

    def _one(self, case: Case) -> None:
        begin, attempt = time.monotonic(), 0
        with self._lock:
            self.counts.sent += 1
        while True:
            attempt += 1
            answer = self._attempt(case)
            now = time.monotonic()
            with self._lock:
                counts = self.counts
                counts.attempts += 1
                if answer is None:
                    counts.broken += 1
                elif answer.status in REFUSALS and answer != self._right[case]:
                    counts.refused[answer.status] += 1
                    if not (answer.content_type.startswith("application/json") and answer.body.startswith(b'{"error"')):
                        counts.unclean.append(f"{answer}"[:300])
                else:
                    if answer == self._right[case]:
                        counts.right += 1
                    else:
                        counts.wrong.append(f"{case.name}: expected {self._right[case]}, got {answer}"[:1000])
                    counts.retried += attempt > 1
                    counts.slowest = max(counts.slowest, now - begin)
                    return
                if now - begin > PATIENCE:
                    counts.lost.append(case.name)
                    return
            time.sleep(PAUSE)

    def _attempt(self, case: Case) -> Answer | None:
        port = self._balancer.port()
        if port is None:
            return Answer(503, "application/json", b'{"error":"there is no instance"}')
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
        try:
            connection.request("POST", case.path, case.body, {**dict(case.headers), "Connection": "close"})
            response = connection.getresponse()
            body = response.read()
            if len(body) != int(response.getheader("Content-Length") or len(body)):
                return None
            return Answer(response.status, response.getheader("Content-Type") or "", body)
        except (OSError, http.client.HTTPException):
            return None
        finally:
            connection.close()


def ask_all(port: int, cases: Sequence[Case]) -> dict[Case, Answer]:
    """Return what one instance, left in peace, answers."""
    quiet = Load(_Fixed(port), {})
    answers = {case: quiet._attempt(case) for case in cases}
    missing = [case.name for case, answer in answers.items() if answer is None]
    if missing:
        raise AssertionError(f"no answer to {missing}")
    return {case: answer for case, answer in answers.items() if answer is not None}


class _Fixed:
    def __init__(self, port: int) -> None:
        self._port = port

    def port(self) -> int | None:
        return self._port

    def route(self, ports: Sequence[int]) -> None: ...

    def close(self) -> None: ...
