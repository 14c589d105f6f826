"""Fuzzing of every parser: `make fuzz`, or `python -m tests.fuzz --seconds 60 json events`.

targets.py      what is fuzzed: functions of bytes, each with what has to hold, and an oracle where there is one
libfuzzer.py    the native code, guided by its coverage, under sanitizers (driver.cc)
mutate.py       new inputs out of old ones: bytes, JSON, protobuf and HTTP messages, each by its own structure
corpus/NAME/    the seeds of a target, and every input that once broke it; `make test` replays them
"""

import os

ROUNDS = int(
    os.environ.get("FUZZ_ROUNDS", "1")
)  # how many times as many random inputs the tests try; `make fuzz` sets it


def rounds(count: int) -> int:
    """Return how many random inputs a test tries, where `make test` tries `count`."""
    return count * ROUNDS
