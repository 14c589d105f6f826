"""What deploy.sh refuses before it sends anything: one test and one clear line for each."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from serving.core.errors import LoadError
from serving.core.settings import read
from tests.conftest import EMBEDDED, ROOT, plain_environment
from tests.deploy.conftest import Deploy
from tests.models.zoo import kinds


def refusal(deploy: Deploy, *flags: str) -> str:
    """Return the one line with which `check` refuses."""
    run = deploy("check", *flags)
    assert (run.returncode, run.stdout) == (1, ""), run
    lines = [line for line in run.stderr.splitlines() if not line.startswith("deploy.sh: check: model: version")]
    assert len(lines) == 1, run.stderr
    return lines[0].removeprefix("deploy.sh: ")


def test_a_complete_function_passes_and_nothing_is_sent(deploy: Deploy) -> None:
    run = deploy.whole().stub()("check")
    assert run.returncode == 0, run.stderr
    lines = run.stderr.splitlines()
    assert lines[0].startswith("deploy.sh: check: model: version 1, pixels, serving_default answered, 1 MiB")
    assert lines[-1] == "deploy.sh: check: passed"
    assert deploy.calls == [["meta", "list-files-for-upload"]]


@pytest.mark.parametrize("name", ["Dockerfile", "Procfile"])
def test_a_file_that_would_change_the_build_is_refused(deploy: Deploy, name: str) -> None:
    (deploy.folder / name).touch()
    assert (
        refusal(deploy)
        == f"{name}: expected none in this folder, where it changes what is built; the image's is deploy/Dockerfile"
    )


@pytest.mark.parametrize("version", ["3.14", "3.9", "3.131", "", "python3"])
def test_a_python_version_without_a_tensorflow_wheel_is_refused(deploy: Deploy, version: str) -> None:
    (deploy.folder / ".python-version").write_text(version + "\n")
    assert (
        refusal(deploy) == f".python-version: expected 3.10 to 3.13, for which TensorFlow has wheels, got '{version}'"
    )


def test_a_missing_python_version_is_refused(deploy: Deploy) -> None:
    (deploy.folder / ".python-version").unlink()
    assert refusal(deploy).startswith(".python-version: it is missing")


def test_missing_requirements_are_refused(deploy: Deploy) -> None:
    (deploy.folder / "requirements.txt").unlink()
    assert refusal(deploy) == "requirements.txt: it is missing"


@pytest.mark.parametrize("line", ["numpy", "numpy>=2", "numpy==2.2.6 # why", "-r others.txt"])
def test_a_requirement_that_is_not_pinned_is_refused(deploy: Deploy, line: str) -> None:
    with (deploy.folder / "requirements.txt").open("a") as file:
        file.write(line + "\n")
    assert refusal(deploy) == f"requirements.txt: expected NAME==VERSION in each line, got '{line}'"


def test_a_missing_model_is_refused(deploy: Deploy) -> None:
    (deploy.folder / "model").rename(deploy.folder / "elsewhere")
    assert refusal(deploy) == "model-dir: there is no folder 'model' (default)"


def test_a_folder_that_is_not_a_savedmodel_is_refused(deploy: Deploy) -> None:
    (deploy.whole().folder / "model" / "saved_model.pb").unlink()
    assert refusal(deploy) == "check: model: saved_model.pb is missing: the folder holds only part of a SavedModel"


def test_an_incomplete_model_is_refused(deploy: Deploy) -> None:
    path = deploy.whole().folder / "model" / "saved_model.pb"
    path.write_bytes(path.read_bytes()[:2000])
    assert "saved_model.pb is not a SavedModel, or only part of one" in refusal(deploy)


def test_a_model_without_its_variables_is_refused(deploy: Deploy) -> None:
    (deploy.whole().folder / "model" / "variables" / "variables.data-00000-of-00001").unlink()
    assert refusal(deploy).startswith("check: model: ")


def test_a_model_that_refuses_its_own_example_is_refused(deploy: Deploy) -> None:
    path = deploy.whole().folder / "model" / "assets.extra" / "examples.json"
    path.write_text(json.dumps({"serving_default": {"instances": [{"b64": "AAAA"}]}}))
    line = refusal(deploy, "--env", "MANIFEST=off")
    assert line.startswith("check: model: signature 'serving_default' refuses its own example: "), line


def test_a_model_whose_answers_differ_from_those_of_its_export_fails(deploy: Deploy) -> None:
    path = deploy.whole().folder / "model" / "assets.extra" / "answers.json"
    answers = json.loads(path.read_bytes())
    answers["pixels"]["predictions"][0]["label"] = "8"
    path.write_text(json.dumps(answers))
    assert refusal(deploy, "--env", "MANIFEST=off") == (
        "check: model: signature 'pixels' answers its example differently than when it was exported: "
        'predictions[0].label: expected "8", got "3"'
    )


def test_a_model_that_differs_from_its_manifest_is_refused(deploy: Deploy) -> None:
    with (deploy.whole().folder / "model" / "variables" / "variables.index").open("ab") as file:
        file.write(b"x")
    assert refusal(deploy).startswith("check: model: it is not as it was exported: variables/variables.index")


def test_a_setting_that_the_server_would_refuse_is_refused(deploy: Deploy) -> None:
    assert refusal(deploy.whole(), "--env", "MAX_BODY_BYTES=8M").startswith(
        "check: MAX_BODY_BYTES: expected a whole number"
    )


def test_without_a_python_environment_the_model_check_is_refused(deploy: Deploy) -> None:
    deploy.variables["PYTHON"] = deploy._program("bare-python", "#!/usr/bin/env bash\nexit 1\n")
    assert refusal(deploy) == "check: this Python lacks the packages of serving; run: make setup"


@pytest.mark.parametrize("folder", ["/somewhere/else", "../model", "model/../../x"])
def test_a_model_outside_of_the_uploaded_folder_is_refused(deploy: Deploy, folder: str) -> None:
    line = refusal(deploy, "--model-dir", folder)
    assert (
        line
        == f"model-dir: expected a folder in this one, which is what is uploaded, got '{folder}' (flag); copy it here: cp -R {folder}/. model/"
    )


def test_a_model_in_the_uploaded_folder_may_be_named_by_its_absolute_path(deploy: Deploy) -> None:
    run = deploy("run", "--dry-run", "--model-dir", f"{deploy.folder}/model/")
    assert run.returncode == 0, run.stderr
    assert "MODEL_DIR" not in run.stdout


@pytest.mark.parametrize("lister", ["gcloud", "git"])
def test_a_model_that_gcloudignore_excludes_is_refused(deploy: Deploy, lister: str) -> None:
    if lister == "gcloud":
        kept = [path for path in deploy.folder.rglob("*") if path.is_file() and "variables" not in path.parts]
        deploy.stub().answers("^meta list-files", "\n".join(str(path.relative_to(deploy.folder)) for path in kept))
    else:
        with (deploy.folder / ".gcloudignore").open("a") as file:
            file.write("variables/\n")
    line = refusal(deploy)
    assert line.startswith("upload: expected model/variables/variables.")
    assert line.endswith(" in it; .gcloudignore keeps it out")


def test_without_gcloudignore_the_files_that_git_ignores_are_excluded(deploy: Deploy) -> None:
    (deploy.folder / ".gcloudignore").unlink()
    (deploy.folder / ".gitignore").write_text("model/\n")
    assert refusal(deploy).startswith("upload: expected model/")


def test_a_module_of_serving_that_gcloudignore_excludes_is_refused(deploy: Deploy) -> None:
    with (deploy.folder / ".gcloudignore").open("a") as file:
        file.write("serving/core/http.py\n")
    assert refusal(deploy) == "upload: expected serving/core/http.py in it; .gcloudignore keeps it out"


def test_a_model_that_answers_no_request_is_refused(deploy: Deploy) -> None:
    model = deploy.whole().folder / "model"
    shutil.rmtree(model)
    shutil.copytree(kinds.build() / "answers_nothing", model)
    line = refusal(deploy)
    assert line.startswith(
        "check: model: no signature could be shown to answer: 'serving_default': FAILED_PRECONDITION"
    )


def test_an_upload_above_the_limit_is_refused(deploy: Deploy) -> None:
    with (deploy.folder / "model" / "large").open("wb") as file:
        file.truncate(3 << 30)  # a hole: it takes no room here
    line = refusal(deploy)
    assert line.startswith("upload: expected at most 1024 MiB (--max-upload), got 307")
    assert line.endswith("; a large model can stay in a bucket: --model-dir gs://BUCKET/FOLDER")
    assert deploy("check", "--max-upload", "4096").returncode == 0


def test_without_gcloud_and_git_the_upload_cannot_be_listed_and_is_refused(deploy: Deploy) -> None:
    (deploy.programs / "git").unlink()
    assert refusal(deploy) == "upload: gcloud or git must list what is uploaded; neither could"
    staged = deploy("stage")
    assert (staged.returncode, staged.stderr) == (
        1, "deploy.sh: upload: gcloud or git must list what is uploaded; neither could\n",
    )  # fmt: skip


def test_a_model_in_a_bucket_is_not_looked_for_on_the_disk(deploy: Deploy) -> None:
    run = deploy.whole()("check", "--model-dir", "gs://bucket/folder")
    assert run.returncode == 0, run.stderr
    assert "gs://bucket/folder: in a bucket; it is checked by the instance that loads it" in run.stderr


# The model's check by itself: `python -m serving check`.


def test_a_model_that_is_not_a_pure_function_is_refused() -> None:
    from serving.servers.commands.check import check
    from tests.models import zoo

    directory = zoo.build() / "counter"
    with pytest.raises(LoadError, match=r"it is not a pure function: .* keeps or changes state between calls"):
        check(directory, read({}))
    assert check(directory, read({"DANGEROUS_OPS": "allow"}))


def test_the_check_command_accepts_a_savedmodel_and_refuses_another_folder(tmp_path: Path) -> None:
    def run(folder: Path) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [sys.executable, "-m", "serving", "check", str(folder)],
            cwd=ROOT,
            env=plain_environment(),
            capture_output=True,
            text=True,
            timeout=60,
        )

    good, bad = run(EMBEDDED), run(tmp_path / "none")
    assert good.returncode == 0
    said, _, batches = good.stdout.partition("; ")
    assert said.strip() == f"{EMBEDDED}: version 1, pixels, serving_default answered, 1 MiB"
    gain = r"serving_default runs [0-9.]+ times as many rows a second in batches \(BATCH_ROWS=(auto|16)\)\n"
    assert not batches or re.fullmatch(gain, batches)
    assert bad.returncode == 1
    assert bad.stderr == f"serving: {tmp_path / 'none'}: there is no such folder\n"


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from serving.servers.commands.check import check

    copy = tmp_path / "model"
    shutil.copytree(EMBEDDED, copy)
    real = os.open

    def deny(path: Any, *arguments: Any, **named: Any) -> int:
        if os.fsdecode(path).endswith("labels.txt"):
            raise PermissionError(13, "Permission denied")
        return real(path, *arguments, **named)

    monkeypatch.setattr(os, "open", deny)
    with pytest.raises(LoadError, match=r"assets.extra/labels.txt cannot be read \(Permission denied\)"):
        check(copy, read({}))
