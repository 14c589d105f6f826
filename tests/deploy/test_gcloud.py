"""deploy.sh with the real gcloud: its linter, its upload list, and a deploy to a server that imitates Google's API.

Nothing leaves the machine. Each test skips where there is no gcloud.
"""

import json
import os
import shlex
import shutil
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT
from tests.deploy.conftest import PARTS, STUB, WHERE, Deploy, gcloud_environment
from tests.deploy.test_dry_run import CASES
from tools.server import free_port

GCLOUD = shutil.which("gcloud")
pytestmark = pytest.mark.skipif(GCLOUD is None, reason="gcloud is not installed")


def gcloud(folder: Path, *arguments: str, cwd: Path = ROOT) -> str:
    run = subprocess.run(
        [str(GCLOUD), *arguments], cwd=cwd, env=gcloud_environment(folder), capture_output=True, text=True, timeout=120
    )
    assert run.returncode == 0, run.stderr
    return run.stdout


def kinds(lines: list[str]) -> list[str]:
    """Return one line of each command and set of flags: the linter takes a second for three."""
    by_kind = {}
    for line in lines:
        words = shlex.split(line)
        plain = [word for word in words if not word.startswith("--")]
        flags = frozenset(word.partition("=")[0] for word in words if word.startswith("--"))
        by_kind[tuple(plain[:-1] if len(plain) > 3 else plain), flags - {"--project", "--region"}] = line
    return list(by_kind.values())


def test_gclouds_linter_knows_every_command_and_flag(tmp_path: Path) -> None:
    lines = kinds([line for _, lines in CASES for line in lines if line.startswith("gcloud ")])
    (created,) = (line for line in lines if "subscriptions create" in line and "--push-endpoint" in line)
    lines.append(
        created.replace(" create ", " update ").replace(" --expiration-period=never", "").replace(" --topic=files", "")
    )
    wrong = ["gcloud run deploy x --no-such-flag=1", "gcloud run deploy x --image=y --ingress=banana"]
    file = tmp_path / "commands.json"
    file.write_text(json.dumps([{"command_string": line} for line in lines + wrong]))
    results = json.loads(gcloud(tmp_path, "meta", "lint-gcloud-commands", f"--commands-file={file}"))
    failed = {result["command_string"]: result["error_message"] for result in results if not result["success"]}
    assert set(failed) == set(wrong), failed
    assert len(results) == len(lines) + len(wrong)


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the repository with all that a person has in it, and secrets."""
    folder = tmp_path_factory.mktemp("tree") / "source"
    ignored = shutil.ignore_patterns(".git", ".venv", ".cache", "__pycache__", ".*_cache", ".hypothesis")
    shutil.copytree(ROOT, folder, ignore=ignored)
    for name in (
        ".env",
        "deploy.env",
        ".venv/bin/python",
        ".git/config",
        "serving/__pycache__/x.pyc",
        ".cache/x",
        ".mypy_cache/x",
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("x")
    return folder


def listed(folder: Path, tree: Path) -> set[str]:
    return set(gcloud(folder, "meta", "list-files-for-upload", cwd=tree).split())


def everything(*places: str) -> set[str]:
    files = (path for entry in places for path in [ROOT / entry, *(ROOT / entry).rglob("*")])
    return {str(path.relative_to(ROOT)) for path in files if path.is_file() and "__pycache__" not in path.parts}


SPARK = [f"serving/scoring/{name}.py" for name in ("arrow", "spark", "spark_files")]  # for files, not for requests


def test_only_what_serving_needs_is_uploaded(tmp_path: Path, tree: Path) -> None:
    expected = everything("main.py", "requirements.txt", ".python-version", "serving", "fallback", "model")
    expected -= everything("serving/pipeline/native", *SPARK)  # nothing is compiled there
    assert listed(tmp_path, tree) == expected
    # deploy.sh reads the same rules with git's matcher where there is no gcloud
    command = ["bash", "-c", ". deploy/values.sh; . deploy/check.sh; upload_list"]
    bare = tmp_path / "programs"
    bare.mkdir()
    for tool in ("bash", "git", "mktemp", "rm"):
        (bare / tool).symlink_to(str(shutil.which(tool)))
    listing = subprocess.run(
        command, cwd=tree, env={"PATH": str(bare)}, capture_output=True, text=True, check=True
    ).stdout
    assert set(listing.split()) == expected


def test_cloud_build_gets_what_the_dockerfile_copies(tmp_path: Path, tree: Path) -> None:
    copied = set()
    for line in (ROOT / "deploy" / "Dockerfile").read_text().splitlines():
        if line.startswith("COPY ") and "--from" not in line:
            copied |= {word.rstrip("/").replace("${MODEL}", "model") for word in line.split()[1:-1]}
    assert {"serving", "requirements.txt"} <= copied
    shutil.move(tree / ".gcloudignore", tree / "kept")
    try:
        # It includes .gcloudignore, whose name it takes for this question.
        shutil.copy(tree / "kept", tree / "rules")
        text = (tree / ".gcloudignore.container").read_text().replace("#!include:.gcloudignore", "#!include:rules")
        (tree / ".gcloudignore").write_text(text)
        uploaded = listed(tmp_path, tree) - {"rules", "kept"}
    finally:
        shutil.move(tree / "kept", tree / ".gcloudignore")
        (tree / "rules").unlink()
    assert everything(*copied, "deploy/Dockerfile") - set(SPARK) <= uploaded
    assert not [file for file in uploaded if file.startswith(("tests/", ".venv/", ".git/", "bench/", "deploy.sh"))]
    assert {file for file in uploaded if file.startswith(("deploy", "tools/plan", "tools/verify"))} == {
        "deploy/Dockerfile", "deploy/Dockerfile.dockerignore",
    }  # fmt: skip


class Cloud(ThreadingHTTPServer):
    """Cloud Run's API as far as a deploy needs it: what is put is kept, and is ready at once."""

    def __init__(self) -> None:
        self.service: dict[str, Any] = {}
        self.put: list[dict[str, Any]] = []
        super().__init__(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def answer(self, method: str, path: str, body: bytes) -> tuple[int, dict[str, Any]]:
        if "serviceusage" in path:
            return 200, {"state": "ENABLED"}
        if "/services" not in path:
            return 200, {}
        if method in ("POST", "PUT"):
            self.service = json.loads(body)
            self.put.append(json.loads(body))
            self.service["metadata"]["generation"] = len(self.put)
            self.service["spec"].setdefault("traffic", [{"latestRevision": True, "percent": 100}])
            conditions = [{"type": kind, "status": "True"} for kind in ("Ready", "ConfigurationsReady", "RoutesReady")]
            self.service["status"] = {
                "observedGeneration": len(self.put), "url": "https://predict.example", "conditions": conditions,
                "latestReadyRevisionName": "predict-1", "latestCreatedRevisionName": "predict-1",
                "traffic": [{"latestRevision": True, "revisionName": "predict-1", "percent": 100}],
            }  # fmt: skip
        if not self.service:
            return 404, {"error": {"code": 404, "status": "NOT_FOUND", "message": "there is none"}}
        return 200, self.service


class Handler(BaseHTTPRequestHandler):
    server: Cloud

    def reply(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        status, document = self.server.answer(self.command, self.path, body)
        sent = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(sent)))
        self.end_headers()
        self.wfile.write(sent)

    do_GET = do_POST = do_PUT = reply

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def cloud() -> Iterator[Cloud]:
    server = Cloud()
    yield server
    server.shutdown()
    server.server_close()


def test_the_deployed_service_has_the_requested_values(deploy: Deploy, tmp_path: Path, cloud: Cloud) -> None:
    token = tmp_path / "token"
    token.write_text("made up")
    environment = gcloud_environment(tmp_path) | {
        "CLOUDSDK_AUTH_ACCESS_TOKEN_FILE": str(token),
        "CLOUDSDK_PROXY_TYPE": "http_no_tunnel",
        "CLOUDSDK_PROXY_ADDRESS": "127.0.0.1",
        "CLOUDSDK_PROXY_PORT": str(cloud.server_port),
        "CLOUDSDK_API_ENDPOINT_OVERRIDES_RUN": "http://run.invalid/",
        "CLOUDSDK_API_ENDPOINT_OVERRIDES_SERVICEUSAGE": "http://serviceusage.invalid/",
        "CLOUDSDK_API_ENDPOINT_OVERRIDES_CLOUDRESOURCEMANAGER": "http://resources.invalid/",
        "PYTHON": deploy.variables["PYTHON"],
    }
    odd = 'b, "c" @ it\'s ^|\n# $HOME'
    run = deploy(
        "container", "--image=europe-docker.pkg.dev/my-project/images/predict", *WHERE, "--cpu=2", "--memory=2Gi", "--threads=16",
        "--min=1", "--max=50", "--timeout=60", "--ingress=internal", "--service-account=me@my-project.iam.gserviceaccount.com",
        "--env", f"ODD={odd}", "--secret=KEY=api-key:latest", **environment,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    sent = cloud.put[0]
    assert sent["metadata"]["name"] == "predict"
    assert sent["metadata"]["namespace"] == "my-project"
    assert sent["metadata"]["annotations"]["run.googleapis.com/ingress"] == "internal"
    template = sent["spec"]["template"]
    annotations = template["metadata"]["annotations"]
    assert annotations["run.googleapis.com/startup-cpu-boost"] in ("true", "True")
    assert annotations["run.googleapis.com/execution-environment"] == "gen2"
    assert annotations["autoscaling.knative.dev/minScale"] == "1"
    assert annotations["autoscaling.knative.dev/maxScale"] == "50"
    spec = template["spec"]
    assert spec["containerConcurrency"] == 16
    assert spec["timeoutSeconds"] == 60
    assert spec["serviceAccountName"] == "me@my-project.iam.gserviceaccount.com"
    (container,) = spec["containers"]
    assert container["image"] == "europe-docker.pkg.dev/my-project/images/predict"
    assert container["resources"]["limits"] == {"cpu": "2", "memory": "2Gi"}
    assert container["startupProbe"] == {
        "httpGet": {"path": "/readyz"},
        "periodSeconds": 1,
        "timeoutSeconds": 1,
        "failureThreshold": 240,
    }
    values = {variable["name"]: variable.get("value", variable.get("valueFrom")) for variable in container["env"]}
    assert values == {
        "THREADS": "16", "LOG_EXECUTION_ID": "false", "ODD": odd, "KEY": {"secretKeyRef": {"name": "api-key", "key": "latest"}},
    }  # fmt: skip
    assert cloud.put[-1]["spec"]["traffic"] == [{"latestRevision": True, "percent": 100}]


@pytest.fixture(scope="module")
def emulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Start Google's emulator of Pub/Sub; yield its address."""
    program = (
        Path(os.path.realpath(str(GCLOUD))).parents[1]
        / "platform"
        / "pubsub-emulator"
        / "bin"
        / "cloud-pubsub-emulator"
    )
    if not program.exists() or shutil.which("java") is None:
        pytest.skip("the Pub/Sub emulator, or Java, is not installed")
    port = free_port()
    log = (tmp_path_factory.mktemp("emulator") / "log").open("wb")
    process = subprocess.Popen(
        [program, "--host=127.0.0.1", f"--port={port}"], stdout=log, stderr=log, start_new_session=True
    )
    address = f"http://127.0.0.1:{port}/"
    try:
        for _ in range(300):
            with suppress(OSError):
                urllib.request.urlopen(address + "v1/projects/my-project/topics", timeout=5).close()
                break
            time.sleep(0.1)
        yield address
    finally:
        os.killpg(process.pid, 15)
        process.wait()
        log.close()


def test_events_creates_topics_and_subscriptions_in_pubsub(deploy: Deploy, tmp_path: Path, emulator: str) -> None:
    deploy.stub()
    # The stub passes on commands about topics and subscriptions; the emulator has no permissions.
    passed_on = '[[ "$1 $4" == pubsub* && "$*" != *iam-policy* ]] && exec ' + shlex.quote(str(GCLOUD)) + ' "$@"\n'
    (deploy.programs / "gcloud").write_text(STUB.replace("for answer in", passed_on + "for answer in", 1))
    deploy.answers("^run services describe", '{"status": {}}')
    deploy.answers("^iam service-accounts describe", "NOT_FOUND", 1)
    token = tmp_path / "token"
    token.write_text("made up")
    environment = gcloud_environment(tmp_path) | {
        "CLOUDSDK_AUTH_ACCESS_TOKEN_FILE": str(token),
        "CLOUDSDK_API_ENDPOINT_OVERRIDES_PUBSUB": emulator,
        "CLOUDSDK_PYTHON": os.environ.get("CLOUDSDK_PYTHON", ""),
        "PATH": f"{deploy.programs}:{os.environ['PATH']}",
        "PYTHON": sys.executable,
    }
    flags = (*WHERE, "--project-number=42", "--event-input=gs://my-bucket/in", "--event-output=gs://my-answers/out")
    run = deploy("events", *flags, **environment)
    assert run.returncode == 0, run.stderr

    def get(kind: str) -> list[dict[str, Any]]:
        with urllib.request.urlopen(f"{emulator}v1/projects/my-project/{kind}", timeout=10) as answer:
            resources: list[dict[str, Any]] = json.load(answer).get(kind, [])
        return sorted(resources, key=lambda resource: resource["name"])

    assert [topic["name"] for topic in get("topics")] == [
        f"projects/my-project/topics/predict-events{end}" for end in ("", "-dead")
    ]
    push, dead = get("subscriptions")
    assert push["topic"] == "projects/my-project/topics/predict-events"
    assert push["pushConfig"]["pushEndpoint"] == "https://predict-42.europe-west1.run.app/events"
    assert push["pushConfig"]["oidcToken"] == {
        "serviceAccountEmail": "predict-events@my-project.iam.gserviceaccount.com", "audience": "https://predict-42.europe-west1.run.app",
    }  # fmt: skip
    assert push["ackDeadlineSeconds"] == 600
    assert push["retryPolicy"] == {"minimumBackoff": "10s", "maximumBackoff": "600s"}
    assert push["deadLetterPolicy"] == {
        "deadLetterTopic": "projects/my-project/topics/predict-events-dead",
        "maxDeliveryAttempts": 10,
    }
    assert dead["topic"] == "projects/my-project/topics/predict-events-dead"
    assert dead["messageRetentionDuration"] == "604800s"


def test_the_parts_of_the_repository_that_the_tests_copy_exist() -> None:
    assert all((ROOT / part).exists() for part in PARTS)
