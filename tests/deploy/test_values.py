"""Where a value comes from, and which are refused before anything is sent."""

import pytest

from tests.deploy.conftest import Deploy


def configured(config: str) -> dict[str, list[str]]:
    rows = [line.split() for line in config.splitlines()]
    return {row[0]: row[1:] for row in rows}


def test_flag_then_environment_then_file_then_default(deploy: Deploy) -> None:
    (deploy.folder / "deploy.env").write_text("# mine\n\nMEMORY=4Gi\nCPU=4\nREGION=us-east1\n")
    run = deploy("config", "--memory", "2Gi", MEMORY="3Gi", CPU="2")
    assert run.returncode == 0, run.stderr
    values = configured(run.stdout)
    assert values["MEMORY"] == ["2Gi", "flag"]
    assert values["CPU"] == ["2", "environment"]
    assert values["REGION"] == ["us-east1", "deploy.env"]
    assert values["SERVICE"] == ["predict", "default"]


def test_variables_of_the_service_come_from_flags_and_from_the_file(deploy: Deploy) -> None:
    (deploy.folder / "deploy.env").write_text("ENV_A=from file\nENV_B=b=c\nSECRET_KEY=api-key:3\n")
    run = deploy("config", "--env", "A=from flag", "--env", "A=the last", "--secret=OTHER=x:latest")
    values = configured(run.stdout)
    assert values["ENV_A"] == ["the\\", "last", "flag"]
    assert values["ENV_B"] == ["b=c", "deploy.env"]
    assert values["SECRET_KEY"] == ["api-key:3", "deploy.env"]
    assert values["SECRET_OTHER"] == ["x:latest", "flag"]


@pytest.mark.parametrize("flag", ["--concurrency", "--threads"])
def test_concurrency_and_threads_are_one_number(deploy: Deploy, flag: str) -> None:
    (deploy.folder / "deploy.env").write_text("THREADS=4\n")
    values = configured(deploy("config", flag, "16").stdout)
    assert values["CONCURRENCY"] == values["THREADS"] == ["16", "flag"]
    values = configured(deploy("config").stdout)
    assert values["CONCURRENCY"] == values["THREADS"] == ["4", "deploy.env"]


REFUSED = [
    # flags                                             words
    (["--cpu", "banana"],                               "cpu: expected 1, 2, 4, 6 or 8, got 'banana' (flag)"),
    (["--cpu", ""],                                     "cpu: expected 1, 2, 4, 6 or 8, got '' (flag)"),
    (["--cpu", "0.5"],                                  "cpu: expected 1, 2, 4, 6 or 8, got '0.5' (flag)"),
    (["--memory", "2GB"],                               "memory: expected a size such as 512Mi or 2Gi, got '2GB' (flag)"),
    (["--memory", "256Mi"],                             "memory: expected from 512Mi to 4Gi with 1 CPU, got '256Mi' (flag)"),
    (["--memory", "8Gi"],                               "memory: expected from 512Mi to 4Gi with 1 CPU, got '8Gi' (flag)"),
    (["--memory", "9Gi", "--cpu", "2"],                 "memory: expected from 512Mi to 8Gi with 2 CPU, got '9Gi' (flag)"),
    (["--cpu", "4"],                                    "memory: expected from 2048Mi to 16Gi with 4 CPU, got '1Gi' (default)"),
    (["--memory", "25Gi", "--cpu", "6"],                "memory: expected from 4096Mi to 24Gi with 6 CPU, got '25Gi' (flag)"),
    (["--memory", "33Gi", "--cpu", "8"],                "memory: expected from 4096Mi to 32Gi with 8 CPU, got '33Gi' (flag)"),
    (["--concurrency", "0"],                            "concurrency: expected a whole number from 1 to 1000, got '0' (flag)"),
    (["--concurrency", "1001"],                         "concurrency: expected a whole number from 1 to 1000, got '1001' (flag)"),
    (["--concurrency", "4", "--threads", "8"],          "concurrency: expected the number of threads, 8, got '4' (flag); give one of the two"),
    (["--min", "-1"],                                   "min: expected a whole number, got '-1' (flag)"),
    (["--max", "0"],                                    "max: expected a whole number from 1, got '0' (flag)"),
    (["--min", "3", "--max", "2"],                      "min: expected at most --max, 2, got 3"),
    (["--timeout", "5m"],                               "timeout: expected seconds from 1 to 3600, got '5m' (flag)"),
    (["--tensorflow", "none"],                          "tensorflow: expected library or package, got 'none' (flag)"),
    (["--env", "RUNTIME=python"],                       "env: RUNTIME=python needs TensorFlow's Python package; upload it: --tensorflow package"),
    (["--timeout", "3601"],                             "timeout: expected seconds from 1 to 3600, got 3601"),
    (["--ingress", "some"],                             "ingress: expected all, internal or internal-and-cloud-load-balancing, got 'some' (flag)"),
    (["--public=maybe"],                                "public: expected yes or no, got 'maybe' (flag)"),
    (["--service", "Predict"],                          "service: expected 1 to 49 small letters, digits and hyphens, a letter first, no hyphen last, got 'Predict' (flag)"),
    (["--service", "a" * 50],                           "service: expected 1 to 49"),
    (["--service", "a b"],                              "service: expected 1 to 49"),
    (["--service", "x;rm -r ."],                        "service: expected 1 to 49"),
    (["--project", "My Project"],                       "project: expected a project's id: 6 to 30"),
    (["--region", "europe"],                            "region: expected a region such as europe-west1, got 'europe' (flag)"),
    (["--service-account", "me@example.com"],           "service-account: expected a service account's address"),
    (["--image", "UPPER/x y"],                          "image: expected an image"),
    (["--repository", "-x"],                            "repository: expected 1 to 63"),
    (["--tag", "s1"],                                   "tag: expected at least 3"),
    (["--revision", "A"],                               "revision: expected a revision's name"),
    (["--url", "example.com"],                          "url: expected https://HOST"),
    (["--max-upload", "1G"],                            "max-upload: expected a number of MiB, got '1G' (flag)"),
    (["--bake=perhaps"],                                "bake: expected yes, no or auto"),
    (["--litert=perhaps"],                              "litert: expected yes or no"),
    (["--signature=pixels"],                            "signature: expected --litert yes with it"),
    (["--litert=yes", "--signature=a b"],               "signature: expected the name of one of the model's signatures"),
    (["--project-number", "my-project"],                "project-number: expected the project's number"),
    (["--event-topic", "goog-x"],                       "event-topic: expected a name that does not begin with goog"),
    (["--event-topic", "x"],                            "event-topic: expected a topic's name"),
    (["--event-input", "s3://b/in"],                    "event-input: expected gs://BUCKET/FOLDER, got 's3://b/in' (flag)"),
    (["--event-input", "gs://bkt/in"],                  "event-output: not set; use --event-output gs://BUCKET/FOLDER"),
    (["--event-output", "gs://bkt/in"],                 "event-input: not set; use --event-input gs://BUCKET/FOLDER"),
    (["--event-input", "gs://bkt/in", "--event-output", "gs://bkt/in/"], "event-output: expected a folder that does not contain --event-input, gs://bkt/in/, got 'gs://bkt/in/'"),
    (["--event-input", "gs://bkt/in", "--event-output", "gs://bkt"],     "event-output: expected a folder that does not contain --event-input"),
    (["--event-input", "gs://bkt/in", "--event-output", "gs://bkt/out", "--timeout", "601"], "timeout: expected at most 600 seconds with events, got 601 (flag)"),
    (["--env", "NOVALUE"],                              "--env: expected KEY=VALUE, got 'NOVALUE'"),
    (["--env", "2X=1"],                                 "--env: expected KEY=VALUE, got '2X=1'"),
    (["--env", "X=\x07"],                               "--env: X: expected text, got a control character"),
    (["--env", "PORT=80"],                              "--env: PORT is the platform's own and cannot be set"),
    (["--env", "K_SERVICE=x"],                          "--env: K_SERVICE is the platform's own and cannot be set"),
    (["--env", "THREADS=4"],                            "--env: THREADS is the same number as the concurrency; use --concurrency"),
    (["--env", "MODEL_DIR=x"],                          "--env: use --model-dir, which is checked and uploaded"),
    (["--env", "EVENT_INPUT=x"],                        "--env: use --event-input and --event-output"),
    (["--env", "EVENT_TIMEOUT=9"],                      "--env: EVENT_TIMEOUT is the same number as the service's own; use --timeout"),
    (["--env", "LOG_EXECUTION_ID=true"],                "--env: LOG_EXECUTION_ID would mix the logs"),
    (["--secret", "K=name"],                            "--secret: K: expected SECRET:VERSION, got 'name'"),
    (["--secret", "K=a b:1"],                           "--secret: K: expected SECRET:VERSION, got 'a b:1'"),
    (["--env", "K=1", "--secret", "K=s:1"],             "secret: K is also given by --env; give one of the two"),
]  # fmt: skip


@pytest.mark.parametrize(("flags", "words"), REFUSED, ids=[" ".join(flags)[:60] for flags, _ in REFUSED])
def test_a_bad_value_is_refused_in_one_line(deploy: Deploy, flags: list[str], words: str) -> None:
    run = deploy("check", *flags)
    assert run.returncode == 1
    assert run.stdout == ""
    assert len(run.stderr.splitlines()) == 1, run.stderr
    assert run.stderr.startswith(f"deploy.sh: {words}")


def test_a_tag_and_a_name_that_are_too_long_together_are_refused(deploy: Deploy) -> None:
    run = deploy("canary", "--dry-run", "--service", "a" * 41)
    assert run.returncode == 1
    assert run.stderr == "deploy.sh: tag: expected at most 46 characters together with the service's name, got 47\n"


FILES = [
    # deploy.env                words
    ("nonsense\n",              "deploy.env, line 1: expected NAME=VALUE, got 'nonsense'"),
    ("# x\nMEMROY=1Gi\n",       "deploy.env, line 2: there is no value 'MEMROY'; ./deploy.sh config names them all"),
    ("MEMORY=\"1Gi\"\n",        "deploy.env, line 1: MEMORY: expected a value without quotes around it, got \"1Gi\""),
    ("MEMORY=1Gi\r\n",          "deploy.env, line 1: expected lines that end with a line feed, got a carriage return"),
    ("ENV_A=1\nENV_A=2\n",      "deploy.env, line 2: A appears twice"),
    ("SECRET_A=x\n",            "deploy.env, line 1: A: expected SECRET:VERSION, got 'x'"),
    ("CPU=3\n",                 "cpu: expected 1, 2, 4, 6 or 8, got '3' (deploy.env)"),
    ("MEMORY=$(touch pwned)\n", "memory: expected a size such as 512Mi or 2Gi, got '$(touch pwned)' (deploy.env)"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "words"), FILES)
def test_a_bad_line_of_the_file_is_refused_and_none_is_executed(deploy: Deploy, text: str, words: str) -> None:
    (deploy.folder / "deploy.env").write_bytes(text.encode())
    run = deploy("check")
    assert (run.returncode, run.stdout, run.stderr) == (1, "", f"deploy.sh: {words}\n")
    assert not (deploy.folder / "pwned").exists()


def test_a_service_is_made_public_by_an_explicit_setting_and_not_by_an_inherited_variable(deploy: Deploy) -> None:
    def flag(*flags: str) -> list[str]:
        words = deploy("run", "--dry-run", *flags, PUBLIC="yes").stdout.split()
        return [word for word in words if "unauthenticated" in word]

    assert flag() == ["--no-allow-unauthenticated"]
    (deploy.folder / "deploy.env").write_text("PUBLIC=yes\n")
    assert flag() == ["--allow-unauthenticated"]
    assert flag("--public=no") == ["--no-allow-unauthenticated"]


MISUSED = [
    # arguments             words
    (["fly"],               "'fly': there is no such command"),
    (["--speed", "9"],      "--speed: there is no such flag"),
    (["--speed=9"],         "--speed: there is no such flag"),
    (["-x"],                "-x: there is no such flag"),
    (["--memory"],          "--memory: expected a value after it"),
    (["run", "service"],    "run: expected flags after it, got 'service'"),
    (["canary", "function"], "canary: expected run or container, got 'function'"),
    (["yaml", "helm"],      "yaml: expected knative or kubernetes, got 'helm'"),
    (["canary", "run", "x"], "'x': expected flags"),
]  # fmt: skip


@pytest.mark.parametrize(("arguments", "words"), MISUSED)
def test_a_wrong_command_line_is_refused_with_a_message(deploy: Deploy, arguments: list[str], words: str) -> None:
    run = deploy(*arguments)
    assert (run.returncode, run.stdout, run.stderr) == (2, "", f"deploy.sh: {words}; see ./deploy.sh help\n")


def test_the_example_file_is_valid_and_names_every_value(deploy: Deploy) -> None:
    from tests.conftest import ROOT

    text = (ROOT / "deploy.env.example").read_text()
    (deploy.folder / "deploy.env").write_text(
        "\n".join(line.removeprefix("#") if "=" in line and " " not in line else line for line in text.splitlines())
    )
    (deploy.folder / "models").mkdir()
    (deploy.folder / "model").rename(deploy.folder / "models" / "digits")
    run = deploy("check")
    assert run.returncode == 0, run.stderr
    assert configured(deploy("config").stdout)["MODEL_DIR"] == ["models/digits", "deploy.env"]
