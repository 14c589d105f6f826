"""A program in a fork of the process that has imported TensorFlow ends as one that was started does."""

import os
import subprocess
import sys

import pytest

from tests.conftest import ROOT
from tests.harness.forks import python

# fmt: off
PROGRAMS = [
    # what                            program
    ("it ends well",                  "print('done')"),
    ("a status",                      "import sys; sys.exit(3)"),
    ("a message",                     "import sys; sys.exit('no')"),
    ("a signal",                      "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"),
    ("arguments",                     "import sys; print(sys.argv)"),
    ("the environment",               "import os; print(os.environ['COLOUR'], len(os.environ))"),
    ("standard input",                "import sys; print(sys.stdin.read()); print('told', file=sys.stderr)"),
    ("something at the end",          "import atexit; atexit.register(print, 'the last')"),
    ("the place",                     "import os; print(os.getcwd())"),
    ("its module",                    "import sys, __main__; print(__name__, sys.modules['__main__'] is __main__, sorted(vars(__main__))[-1])"),
]
# fmt: on


@pytest.mark.parametrize("program", [case[1] for case in PROGRAMS], ids=[case[0] for case in PROGRAMS])
def test_a_forked_program_ends_like_one_that_python_starts(program: str) -> None:
    environment = {"COLOUR": "blue", "PATH": os.environ["PATH"], "LC_CTYPE": "C.UTF-8"}
    forked = python("-c", program, "one", "two words", env=environment, input="text é")
    started = subprocess.run(
        [sys.executable, "-c", program, "one", "two words"],
        cwd=ROOT, env=environment, input="text é", capture_output=True, text=True,
    )  # fmt: skip
    seen = [(run.returncode, run.stdout, run.stderr) for run in (forked, started)]
    assert seen[0] == seen[1]


def test_an_error_is_traced_and_gives_status_1() -> None:
    run = python("-c", "raise KeyError('missing')")
    assert (run.returncode, run.stderr.splitlines()[-1]) == (1, "KeyError: 'missing'")


def test_a_module_runs_as_with_python_m() -> None:
    assert python("-m", "json.tool", "--help").stdout.startswith("usage: ")


def test_tensorflow_is_imported_and_programs_do_not_affect_each_other() -> None:
    assert (
        python("-c", "import sys, os; print('tensorflow' in sys.modules); os.environ['A'] = sys.mine = 'x'").stdout
        == "True\n"
    )
    assert python("-c", "import sys, os; print('A' in os.environ, hasattr(sys, 'mine'))").stdout == "False False\n"
