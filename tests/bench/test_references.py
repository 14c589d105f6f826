"""What the figures are compared with is what its name says."""

import sys

import pytest

from bench.subjects import TWO_BYTES
from tests.conftest import ROOT
from tests.server import COMMANDS, running


def test_the_server_of_two_bytes_answers_without_a_model(monkeypatch: pytest.MonkeyPatch) -> None:
    command = [sys.executable, str(ROOT / "bench" / "functions" / "two_bytes" / "main.py")]
    monkeypatch.setitem(COMMANDS, "two bytes", command)
    with running("two bytes") as server:
        for body in ({"instances": [1]}, {"instances": [2]}):
            assert server.ask("POST", "/v1/models/model:predict", body).body == TWO_BYTES
        assert "serving model" not in server.log
