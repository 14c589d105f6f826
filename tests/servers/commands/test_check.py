"""`check` and readiness pass a model that was seen to answer, and no other."""

import subprocess
import sys
from pathlib import Path

import pytest

from serving.__main__ import main
from serving.servers.commands.check import UNPROVED
from tests.conftest import ROOT, Serve, plain_environment
from tests.models import answer_models, zoo
from tests.models.zoo.kinds import KINDS, build
from tools.verify.checks import DIFFERS, SAME, graph

NOTHING = ("answers_nothing", "prints_to_a_file", "trees")


def checked(directory: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    status = main(["check", str(directory)])
    out, err = capsys.readouterr()
    return status, out + err


@pytest.mark.parametrize("name", [name for name in KINDS if name not in NOTHING])
def test_check_passes_a_model_that_answers(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    status, said = checked(build() / name, capsys)
    assert status == 0, said
    assert "not shown to answer" not in said


def test_check_fails_where_every_request_would(capsys: pytest.CaptureFixture[str]) -> None:
    status, said = checked(build() / "answers_nothing", capsys)
    assert status == UNPROVED
    assert "no signature could be shown to answer: 'serving_default': FAILED_PRECONDITION: Could not find" in said
    assert "examples=" not in said  # no example would help


def test_a_model_of_which_every_request_fails_is_not_ready(serve: Serve, capsys: pytest.CaptureFixture[str]) -> None:
    ask = serve(build() / "answers_nothing")
    response = ask("GET", "/readyz")
    assert response.status == 503
    assert b"every request fails" in response.body
    assert b"lost" not in response.body  # a variable's name
    assert "Could not find variable lost" in capsys.readouterr().out
    assert ask("GET", "/readyz").status == 503
    assert serve(build() / "answers_nothing", WARMUP="off")("GET", "/readyz").status == 200


@pytest.mark.parametrize("name", [name for name in KINDS if name not in NOTHING])
def test_a_model_that_answers_is_ready(name: str, serve: Serve, capsys: pytest.CaptureFixture[str]) -> None:
    assert serve(build() / name)("GET", "/readyz").status == 200
    unproved = "no signature was shown to answer" in capsys.readouterr().out
    assert unproved == (name in ("rank_unknown", "example_any_rank"))


CHANGED = """
import os, signal, sys, threading, time
from serving.runtime import tensorflow_c
from serving.__main__ import main

timers, begin = [], threading.Timer.start
threading.Timer.start = lambda timer: (timers.append(timer), begin(timer))
signal.signal(signal.SIGUSR1, lambda *_: [timer.function() for timer in timers])

def hang():  # until the time is over, which is now
    os.kill(os.getppid(), signal.SIGUSR1)
    time.sleep(1000)

tensorflow_c.{} = lambda *_, **__: {}
sys.exit(main())
"""
ENDS = [
    # what does not come back      what it does          RUN_TIMEOUT    what is said                      where it was
    ("Function.__call__",          "os.abort()",         "300",         "tried it died of SIGABRT",       " in a run of serving_default: x [1, 25];"),
    ("Function.__call__",          "hang()",             "300",         "tried it took more than 300 s",  " in a run of serving_default: x [1, 25];"),
    ("Session.__init__",           "os.abort()",         "300",         "loaded it died of SIGABRT",      "; a server would, too"),
    ("Session.__init__",           "time.sleep(1000)",   "3",           "loaded it took more than 3 s",   "; a server would, too"),
]  # fmt: skip


@pytest.mark.parametrize(("function", "does", "seconds", "reason", "where"), ENDS)
def test_a_check_in_which_tensorflow_does_not_come_back_fails_with_a_sentence(
    function: str, does: str, seconds: str, reason: str, where: str
) -> None:
    directory = build() / "float_indices"
    command = [sys.executable, "-c", CHANGED.format(function, does), "check", str(directory)]
    environment = plain_environment() | {"RUN_TIMEOUT": seconds}
    run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 1
    *_, last = run.stderr.splitlines()
    assert last.startswith(f"serving: {directory}: the process that {reason}{where}")
    assert ("examples=" in last) == ("tried" in last)


@pytest.mark.parametrize("name", ["columns", "short"])
def test_check_passes_a_model_that_answers_in_columns_or_in_float8(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    status, said = checked(answer_models.build() / name, capsys)
    assert (status, "serving_default answered" in said) == (0, True), said


def test_check_names_the_signatures_that_cannot_be_called(capsys: pytest.CaptureFixture[str]) -> None:
    status, said = checked(build() / "variable_lost", capsys)
    assert (status, "kept answered" in said) == (0, True), said
    assert "; cannot be called: 'lost': it reads the variable" in said


def test_check_advises_no_example_where_a_placeholder_is_no_input(capsys: pytest.CaptureFixture[str]) -> None:
    status, said = checked(answer_models.build() / "unfed", capsys)
    assert status == UNPROVED
    assert "'serving_default': FAILED_PRECONDITION: You must feed a value for placeholder" in said
    assert "examples=" not in said


def test_verify_says_of_an_operation_without_a_kernel_that_it_cannot_run(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", "--quick", str(build() / "trees")]) == 2
    said = "".join(capsys.readouterr())
    assert "it uses BoostedTreesBucketize, for which this TensorFlow has no kernel on a CPU" in said
    assert "keeps or changes state" not in said


def test_verify_does_not_object_to_a_print() -> None:
    verdict = graph(build() / "prints")
    assert verdict.verdict == SAME
    assert "PrintV2 prints what it is given, to the log" in verdict.detail
    assert graph(build() / "prints_to_a_file").verdict == DIFFERS


def test_a_stateful_model_is_not_tried(serve: Serve) -> None:
    ask = serve(zoo.build() / "counter", DANGEROUS_OPS="allow")
    assert ask("GET", "/readyz").status == 200
    assert ask("POST", "/", {"inputs": 1.0}).body == serve(zoo.build() / "counter")("POST", "/", {"inputs": 1.0}).body
