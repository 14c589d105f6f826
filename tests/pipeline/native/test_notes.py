"""The notes that the native codec makes about a run, to be read after a crash."""

from pathlib import Path

import numpy as np
import pytest

from serving.core import inflight
from tests.conftest import Serve
from tests.models.zoo import build

HALF = build() / "versions" / "1"
INFER = {"inputs": [{"name": "x", "shape": [2], "datatype": "FP32", "data": [3.0, 4.0]}]}


def test_the_shapes_are_noted_while_they_run(serve: Serve, extension: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ask = serve(HALF, ACCELERATOR=str(extension))
    assert ask("GET", "/readyz").status == 200
    table, noted, end = bytearray(inflight.HEAD + inflight.SLOTS * inflight.SIZE), list[str](), inflight.end
    memory = np.frombuffer(table, np.uint8)  # kept, for the address is of it
    monkeypatch.setattr(inflight, "_table", table)
    monkeypatch.setattr(inflight, "_address", memory.__array_interface__["data"][0])

    def look(slot: int) -> None:
        noted.append(inflight._text(table, inflight.HEAD + slot * inflight.SIZE))  # type: ignore[arg-type]
        end(slot)

    monkeypatch.setattr(inflight, "end", look)
    assert ask("POST", "/", {"instances": [1.0, 2.0, 3.0]}).status == 200
    assert ask("POST", "/v2/models/model/infer", INFER).status == 200
    assert noted == ["serving_default: x [3]", "serving_default: x [2]"]
    assert not any(table[inflight.HEAD + slot * inflight.SIZE] for slot in range(inflight.SLOTS))  # all have ended
