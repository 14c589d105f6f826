"""No gate passes what was not seen to answer, and every gate passes what answers."""

from pathlib import Path

import pytest

from serving.__main__ import UNPROVED, main
from tests.zoo.kinds import KINDS, build

NOTHING = ("answers_nothing",)


def checked(directory: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    status = main(["check", str(directory)])
    out, err = capsys.readouterr()
    return status, out + err


@pytest.mark.parametrize("name", [name for name in KINDS if name not in NOTHING])
def test_check_passes_what_answers(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    status, said = checked(build() / name, capsys)
    assert status == 0, said
    assert "not shown to answer" not in said


def test_check_fails_where_every_request_would(capsys: pytest.CaptureFixture[str]) -> None:
    status, said = checked(build() / "answers_nothing", capsys)
    assert status == UNPROVED
    assert "no signature could be shown to answer: 'serving_default': FAILED_PRECONDITION: Could not find" in said
    assert "examples=" not in said  # no example would help
