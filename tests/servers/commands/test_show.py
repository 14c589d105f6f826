"""`python -m serving show`: the signatures of a SavedModel as text."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from serving.__main__ import main
from serving.servers.commands.banner import banner
from serving.servers.commands.show import show
from tests.conftest import EMBEDDED, ROOT, Serve, plain_environment
from tests.models.zoo import ZOO, absent, build


def test_the_embedded_model_is_shown_default_first() -> None:
    lines = show(EMBEDDED).splitlines()
    assert lines[0].startswith(f"{EMBEDDED}: version 1, tags serve, written by TensorFlow 2.")
    assert lines[1].startswith("card: ")
    assert lines[3] == "serving_default  (answers when no signature is named)"
    assert "  in   image                string     [?]" in lines
    assert "  out  probabilities        float32    [?, 10]" in lines
    assert "__saved_model_init_op" not in "\n".join(lines)


def test_every_request_that_is_shown_works(serve: Serve) -> None:
    ask = serve()
    requests = re.findall(r"try  (curl .*)", show(EMBEDDED))
    assert len(requests) == 2
    for request in requests:
        words = shlex.split(request)
        assert words[:3] == ["curl", "localhost:8080", "-d"]
        assert ask("POST", "/", words[3].encode()).status == 200


@pytest.mark.parametrize("name", [name for name in ZOO if not name.startswith("dtype") and absent(name) is None])
def test_every_model_of_the_zoo_is_shown_or_refused_in_one_line(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    status = main(["show", str(build() / name)])
    printed = capsys.readouterr()
    if status:
        assert len(printed.err.splitlines()) == 1
    else:
        assert "out  " in printed.out


def test_a_folder_without_a_model_gives_one_line_and_status_1(tmp_path: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-m", "serving", "show", str(tmp_path)],
        cwd=ROOT, env=plain_environment(), capture_output=True, text=True,
    )  # fmt: skip
    assert (run.returncode, run.stdout) == (1, "")
    assert run.stderr == f"serving: {tmp_path}: it holds no saved_model.pb and no numbered version\n"


def test_a_large_example_is_described_and_not_printed() -> None:
    assert len(banner(8080)) < 1000
    text = show(build() / "dense_512")
    assert "-d @request.json    # a body of" in text
    assert "[?, 512]" in text


def test_the_help_says_what_the_command_does_with_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["show", "--help"])
    shown = capsys.readouterr().out
    assert "\nlist the signatures of a SavedModel, with a request for each\n" in shown
    assert "python -m serving show model/" in shown


def test_the_examples_file_is_a_request_for_each_signature(examples: dict[str, object]) -> None:
    assert json.loads(json.dumps(examples)).keys() == {"serving_default", "pixels"}
