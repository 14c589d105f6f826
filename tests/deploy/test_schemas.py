"""What other programs read: each file agrees with that program's own schema."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.conftest import ROOT
from tests.deploy.test_prometheus import program

CHECK = Path(sys.executable).parent / "check-jsonschema"
FILES = [
    # file                           schema                     a change that the schema refuses
    ("deploy/compose.yaml",          "vendor.compose-spec",     ("cpus: 1", "cpu: 1")),
    ("deploy/cloudbuild.yaml",       "vendor.cloudbuild",       ("- name: gcr", "- nam: gcr")),
    (".github/workflows/ci.yml",     "vendor.github-workflows", ("runs-on:", "run-on:")),
]  # fmt: skip


@pytest.mark.parametrize(("file", "schema", "change"), FILES)
def test_a_file_satisfies_its_schema_and_a_typo_in_it_does_not(
    tmp_path: Path, file: str, schema: str, change: tuple[str, str]
) -> None:
    if not CHECK.exists():
        pytest.skip("check-jsonschema is not installed: it needs Python 3.11")
    text = (ROOT / file).read_text()
    assert change[0] in text
    (tmp_path / "good.yaml").write_text(text)
    (tmp_path / "bad.yaml").write_text(text.replace(*change))
    statuses = [
        subprocess.run(
            [CHECK, "--builtin-schema", schema, tmp_path / name], capture_output=True, check=False
        ).returncode
        for name in ("good.yaml", "bad.yaml")
    ]
    assert statuses == [0, 1]


def test_the_files_that_compose_names_exist(tmp_path: Path) -> None:
    compose = yaml.safe_load((ROOT / "deploy" / "compose.yaml").read_text())
    function = compose["services"]["function"]
    dockerfile = (ROOT / function["build"]["dockerfile"]).read_text()
    assert all(f"ARG {name}=" in dockerfile for name in function["build"]["args"])
    folder = ROOT / "deploy"
    assert (folder / function["build"]["context"]).resolve() == ROOT
    assert (folder / compose["configs"]["alerts"]["file"]).is_file()
    (tmp_path / "alerts.yaml").write_text((folder / "alerts.yaml").read_text())
    (tmp_path / "prometheus.yml").write_text(compose["configs"]["prometheus"]["content"])
    run = subprocess.run(
        [program("promtool"), "check", "config", str(tmp_path / "prometheus.yml")], capture_output=True, text=True, check=False
    )  # fmt: skip
    assert run.returncode == 0, run.stdout + run.stderr
    probe = function["healthcheck"]["test"]
    assert probe[:3] == ["CMD", "python", "-c"]
    compile(probe[3], "healthcheck", "exec")
