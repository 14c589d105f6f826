"""What deploy.sh does with a stub of gcloud that records its arguments, answers and fails."""

import json
import shlex
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from tests.conftest import Serve
from tests.deploy.conftest import WHERE, Deploy

PLACES = ("--event-input=gs://my-bucket/in", "--event-output=gs://my-answers/out")
MISSING = "ERROR: (gcloud.run.services.describe) Cannot find service [predict]"


def service(*targets: dict[str, Any], newest: str = "predict-2") -> str:
    return json.dumps(
        {"status": {"url": "https://predict.example", "latestReadyRevisionName": newest, "traffic": list(targets)}}
    )


SERVED = service(
    {"revisionName": "predict-2", "percent": 100},
    {"revisionName": "predict-2", "tag": "canary", "url": "https://canary---predict.example"},
)


@pytest.mark.parametrize("command", ["run", "container"])
def test_a_deploy_runs_the_commands_that_the_dry_run_prints(deploy: Deploy, command: str) -> None:
    flags = (*WHERE, "--env", 'A=it\'s, "two" @ words', "--secret=K=s:1", "--public", "--model-dir=model/")
    planned = deploy(command, "--dry-run", *flags).stdout.splitlines()
    deploy.stub().answers("^artifacts repositories describe", "ERROR: not found", 1)
    run = deploy(command, *flags)
    assert run.returncode == 0, run.stderr
    sent = [line for line in planned if not line.startswith("./deploy.sh stage ")]  # the one that sends nothing
    assert len(planned) - len(sent) == (command == "run")
    assert [["gcloud", *call] for call in deploy.changes] == [shlex.split(line) for line in sent]


def test_an_existing_repository_is_not_created_again(deploy: Deploy) -> None:
    assert deploy.stub()("container", *WHERE).returncode == 0
    assert [call[:2] for call in deploy.changes] == [["builds", "submit"], ["run", "deploy"], ["run", "services"]]


def test_project_and_region_default_to_those_of_gcloud(deploy: Deploy) -> None:
    deploy.stub().answers("^config get-value project", "their-project")
    deploy.answers("^config get-value run/region", "us-east1")
    run = deploy("run")
    assert run.returncode == 0, run.stderr
    assert {"--project=their-project", "--region=us-east1"} <= set(deploy.changes[0])


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (WHERE[1:], "project: not set; use --project, or: gcloud config set project PROJECT"),
        (WHERE[:1], "region: not set; use --region, or: gcloud config set run/region REGION"),
    ],
)
def test_a_deploy_without_a_project_or_a_region_is_refused(deploy: Deploy, said: tuple[str, ...], words: str) -> None:
    run = deploy.stub()("run", *said)
    assert run.returncode == 1
    assert run.stderr.splitlines()[-1] == f"deploy.sh: {words}"
    assert deploy.changes == []


def test_an_expired_login_stops_before_anything_is_sent(deploy: Deploy) -> None:
    deploy.stub().answers(
        "^auth print-access-token", "ERROR: Reauthentication failed. cannot prompt during non-interactive execution.", 1
    )
    run = deploy("run", *WHERE)
    assert run.returncode == 1
    assert (
        run.stderr.splitlines()[-1]
        == "deploy.sh: login: gcloud has none, or it has expired; nothing was sent; run: gcloud auth login"
    )
    assert deploy.changes == []


def test_a_deploy_without_gcloud_is_refused(deploy: Deploy) -> None:
    run = deploy("run", *WHERE)
    assert run.returncode == 1
    assert run.stderr.splitlines()[-1].startswith("deploy.sh: gcloud: it is not installed; https://")


def test_a_failed_deploy_lists_what_exists(deploy: Deploy) -> None:
    deploy.stub().answers("^run deploy", "ERROR: (gcloud.run.deploy) Build failed", 3)
    deploy.answers("^run services describe", "https://predict.example\tpredict-1\tpredict-2")
    run = deploy("run", *WHERE)
    assert run.returncode == 3
    lines = run.stderr.splitlines()
    assert "ERROR: (gcloud.run.deploy) Build failed" in lines
    assert lines[-2].startswith(
        "deploy.sh: stopped: exit status 3 of: gcloud run deploy predict --source=.cache/upload "
    )
    assert (
        lines[-1]
        == "deploy.sh: now exists: service predict at https://predict.example, ready revision predict-1, newest revision predict-2"
    )
    assert [call[:2] for call in deploy.changes] == [["run", "deploy"]]


EXISTS = [
    # what gcloud says of the service                                    what is said
    (MISSING,                                                            "no service predict in europe-west1"),
    ("ERROR: (gcloud.run.services.describe) There was a problem: login", "unknown, gcloud cannot say: ERROR: (gcloud.run.services.describe) There was a problem: login"),
]  # fmt: skip


@pytest.mark.parametrize(("described", "words"), EXISTS)
def test_a_partly_failed_deploy_lists_what_was_done(deploy: Deploy, described: str, words: str) -> None:
    deploy.stub().answers("^run deploy", "ERROR: no quota", 1)
    deploy.answers("^run services describe", described, 1)
    run = deploy("container", *WHERE)
    assert run.returncode == 1
    stopped, done, exists = run.stderr.splitlines()[-3:]
    assert stopped.startswith("deploy.sh: stopped: exit status 1 of: gcloud run deploy")
    assert done.startswith("deploy.sh: done before it: gcloud builds submit")
    assert exists == f"deploy.sh: now exists: {words}"


def test_a_canary_needs_a_service(deploy: Deploy) -> None:
    deploy.stub().answers("^run services describe", MISSING, 1)
    run = deploy("canary", *WHERE)
    assert run.returncode == 1
    assert (
        run.stderr.splitlines()[-1]
        == "deploy.sh: canary: there is no service predict in europe-west1; deploy it first: ./deploy.sh run"
    )
    assert deploy.changes == []


def test_a_canary_gets_no_traffic_and_is_promoted_if_it_is_the_newest(deploy: Deploy) -> None:
    deploy.stub().answers("^run services describe", SERVED)
    assert deploy("canary", *WHERE).returncode == 0
    assert deploy.changes[0][-2:] == ["--no-traffic", "--tag=canary"]
    assert deploy("promote", *WHERE).returncode == 0
    assert deploy.changes[1:] == [
        ["run", "services", "update-traffic", "predict", *WHERE, "--to-latest", "--remove-tags=canary"]
    ]


NOT_PROMOTED = [
    # service                                                                      words
    (service({"revisionName": "predict-1", "tag": "canary"}),                      "promote: expected the tag canary on the newest ready revision, predict-2, got it on predict-1"),
    (service({"revisionName": "predict-1", "percent": 100}),                       "there is no revision with the tag canary; there are: no tags"),
    (service({"revisionName": "predict-1", "percent": 100, "tag": "green"}),       "there is no revision with the tag canary; there are: green"),
]  # fmt: skip


@pytest.mark.parametrize(("described", "words"), NOT_PROMOTED)
def test_a_revision_that_cannot_be_promoted_is_refused(deploy: Deploy, described: str, words: str) -> None:
    deploy.stub().answers("^run services describe", described)
    run = deploy("promote", *WHERE)
    assert (run.returncode, run.stderr) == (1, f"deploy.sh: {words}\n")
    assert deploy.changes == []


def revision(name: str, made: str, ready: str = "True") -> dict[str, object]:
    return {
        "metadata": {"name": name, "creationTimestamp": made},
        "status": {"conditions": [{"type": "Ready", "status": ready}]},
    }


REVISIONS = [
    revision("predict-5", "2026-11-05T00:00:00.000000Z"),
    revision("predict-4", "2026-11-04T00:00:00.000000Z"),
    revision("predict-3", "2026-11-03T00:00:00.000000Z", ready="False"),
    revision("predict-2", "2026-11-02T00:00:00.000000Z"),
    revision("predict-1", "2026-11-01T00:00:00.000000Z"),
]
ROLLBACKS = [
    # what is served                                                                                to what
    ([{"revisionName": "predict-5", "percent": 100}],                                                "predict-4"),
    ([{"revisionName": "predict-4", "percent": 100}, {"revisionName": "predict-5", "tag": "canary"}], "predict-2"),
    ([{"revisionName": "predict-2", "percent": 10}, {"revisionName": "predict-5", "percent": 90}],   "predict-4"),
]  # fmt: skip


@pytest.mark.parametrize(("targets", "former"), ROLLBACKS)
def test_a_rollback_goes_to_the_ready_revision_before(
    deploy: Deploy, targets: list[dict[str, object]], former: str
) -> None:
    deploy.stub().answers("^run services describe", service(*targets))
    deploy.answers("^run revisions list", json.dumps(REVISIONS))
    assert deploy("rollback", *WHERE).returncode == 0
    assert deploy.changes == [["run", "services", "update-traffic", "predict", *WHERE, f"--to-revisions={former}=100"]]


def test_a_rollback_from_the_first_revision_is_refused(deploy: Deploy) -> None:
    deploy.stub().answers("^run services describe", service({"revisionName": "predict-1", "percent": 100}))
    deploy.answers("^run revisions list", json.dumps(REVISIONS))
    run = deploy("rollback", *WHERE)
    assert (run.returncode, run.stderr) == (1, "deploy.sh: rollback: there is no ready revision before predict-1\n")
    assert deploy.changes == []


def test_events_creates_what_is_missing_and_updates_what_exists(deploy: Deploy) -> None:
    planned = deploy("events", "--dry-run", *WHERE, *PLACES, "--project-number=42").stdout.splitlines()
    deploy.stub().answers("^run services describe", SERVED)
    deploy.answers("^projects describe", "42")
    deploy.answers(" describe ", "NOT_FOUND", 1)
    run = deploy("events", *WHERE, *PLACES)
    assert run.returncode == 0, run.stderr
    assert [["gcloud", *call] for call in deploy.changes] == [shlex.split(line) for line in planned]


def test_events_run_twice_creates_nothing_twice(deploy: Deploy) -> None:
    deploy.stub().answers("^run services describe", SERVED)
    deploy.answers("^projects describe", "42")
    deploy.answers(
        "notifications list",
        '[{"Notification Configuration": {"id": "7", "topic": "//pubsub.googleapis.com/projects/my-project/topics/predict-events"}}]',
    )
    assert deploy("events", *WHERE, *PLACES).returncode == 0
    assert [call for call in deploy.changes if "create" in call] == []
    assert deploy.changes[0][:4] == ["pubsub", "subscriptions", "update", "predict-events"]


def test_events_resumes_after_a_partial_failure(deploy: Deploy) -> None:
    deploy.stub().answers("^run services describe.*json", SERVED)
    deploy.answers("^run services describe", "https://predict.example\tpredict-2\tpredict-2")
    deploy.answers("^iam service-accounts create", "ERROR: PERMISSION_DENIED", 1)
    deploy.answers(" describe ", "NOT_FOUND", 1)
    run = deploy("events", *WHERE, *PLACES, "--project-number=42")
    assert run.returncode == 1
    lines = run.stderr.splitlines()
    assert sum("done before it: gcloud pubsub" in line for line in lines) == 3
    assert lines[-1] == "deploy.sh: nothing is undone; the same command continues from there"


def test_delete_asks_and_deletes_only_what_was_made(deploy: Deploy) -> None:
    planned = deploy("delete", "--dry-run", *WHERE, *PLACES).stdout.replace("NOTIFICATION", "7").splitlines()
    deploy.stub()
    listed = [
        {
            "Notification Configuration": {
                "id": "7",
                "topic": "//pubsub.googleapis.com/projects/my-project/topics/predict-events",
            }
        },
        {
            "Notification Configuration": {
                "id": "8",
                "topic": "//pubsub.googleapis.com/projects/my-project/topics/theirs",
            }
        },
    ]
    deploy.answers("notifications list", json.dumps(listed))
    for said in ("", "no\n", "yes\n"):
        run = deploy("delete", *WHERE, *PLACES, said=said)
        assert run.returncode == 1
        assert run.stderr.endswith("deploy.sh: delete: nothing was deleted\n")
    assert deploy.changes == []
    assert deploy("delete", *WHERE, *PLACES, said="predict\n").returncode == 0
    assert [["gcloud", *call] for call in deploy.changes] == [shlex.split(line) for line in planned]


def test_delete_with_yes_succeeds_where_nothing_exists(deploy: Deploy) -> None:
    deploy.stub().answers(" describe ", "NOT_FOUND", 1)
    run = deploy("delete", "--yes", *WHERE)
    assert run.returncode == 0, run.stderr
    assert deploy.changes == []
    assert run.stderr.splitlines()[-1] == "deploy.sh: delete: there is no service predict in europe-west1"


class Service(ThreadingHTTPServer):
    """The embedded model behind a socket, for clients with the token."""

    def __init__(self, ask: object, broken: int = 0) -> None:
        seen = self.seen = []

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                seen.append((self.command, self.path))
                status, sent = 403, b"Forbidden"
                if self.headers.get("Authorization") == "Bearer a-token":
                    status, sent = ask(self.command, self.path, body)[:2]  # type: ignore[operator]
                self.send_response(broken or status)
                self.send_header("Content-Length", str(len(sent)))
                self.end_headers()
                self.wfile.write(sent)

            do_GET = do_POST = answer

            def log_message(self, *arguments: object) -> None:
                pass

        super().__init__(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.serve_forever, daemon=True).start()

    seen: list[tuple[str, str]]


@pytest.fixture
def listening(serve: Serve) -> Iterator[Service]:
    server = Service(serve())
    yield server
    server.shutdown()
    server.server_close()


def test_smoke_asks_for_readiness_and_a_prediction_with_a_token(deploy: Deploy, listening: Service) -> None:
    deploy.stub().answers(
        "^run services describe", json.dumps({"status": {"url": f"http://127.0.0.1:{listening.server_port}"}})
    )
    run = deploy("smoke", *WHERE)
    assert run.returncode == 0, run.stderr
    ready, predicted, answer = run.stdout.splitlines()
    assert ready.startswith("ready in ")
    assert predicted.startswith("predicted in ")
    assert json.loads(answer)["predictions"][0]["label"] == "3"
    assert listening.seen == [("GET", "/readyz"), *([("POST", "/")] * 11)]


def test_smoke_asks_the_canary_by_its_own_address(deploy: Deploy, listening: Service) -> None:
    target = {"tag": "canary", "url": f"http://127.0.0.1:{listening.server_port}", "revisionName": "predict-2"}
    deploy.stub().answers("^run services describe", service(target))
    assert deploy("smoke", "--tag=canary", *WHERE).returncode == 0


def test_smoke_fails_on_an_answer_that_differs_from_the_exporters(deploy: Deploy, listening: Service) -> None:
    path = deploy.stub().folder / "model" / "assets.extra" / "answers.json"
    answers = json.loads(path.read_bytes())
    answers["pixels"]["predictions"][0]["label"] = "8"
    path.write_text(json.dumps(answers))
    url = f"--url=http://127.0.0.1:{listening.server_port}"
    assert deploy("smoke", url, *WHERE).returncode == 0  # the default signature's is right
    run = deploy("smoke", url, "--litert=yes", "--signature=pixels", *WHERE)
    assert run.returncode == 1
    assert run.stderr.endswith("""differs from the exported model's: predictions[0].label: expected "8", got "3"\n""")


def test_smoke_without_permission_says_which_role_is_missing(deploy: Deploy, listening: Service) -> None:
    deploy.stub().answers("^auth print-identity-token", "another-token")
    run = deploy("smoke", f"--url=http://127.0.0.1:{listening.server_port}", *WHERE)
    assert run.returncode == 1
    assert (
        run.stderr
        == "deploy.sh: smoke: GET /readyz: expected 200, got 403; this account may not call it: roles/run.invoker: Forbidden\n"
    )


def test_smoke_fails_where_no_server_listens(deploy: Deploy) -> None:
    run = deploy.stub()("smoke", "--url=http://127.0.0.1:1", *WHERE)
    assert run.returncode == 1
    assert run.stderr.startswith("deploy.sh: smoke: GET /readyz: http://127.0.0.1:1 does not answer: ")


def test_smoke_before_a_deploy_is_refused(deploy: Deploy) -> None:
    deploy.stub().answers("^run services describe", MISSING, 1)
    run = deploy("smoke", *WHERE)
    assert run.returncode == 1
    assert (
        run.stderr
        == "deploy.sh: smoke: there is no service predict in europe-west1; deploy it first: ./deploy.sh run\n"
    )
