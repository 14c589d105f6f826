"""The YAML for Kubernetes and Knative: read by a YAML parser, checked with Kubernetes' own schemas."""

import json
import re
from collections.abc import Iterator
from typing import Any

import kubernetes_validate
import pytest
import yaml

from tests.conftest import ROOT
from tests.deploy.conftest import Deploy

VERSION = "1.34"
IMAGE = "registry.example/predict:1"
ODD = ['it\'s "quoted" \\', "yes", "1e3", "a: b # c", "{x}", "two\nlines\ttab", "ü€", "null", " spaces ", ""]
WORDS = ["null", "true", "no", "on", "y", "n", "off", "yes", "nan", "inf"]  # what a YAML reader may take for no string


def documents(deploy: Deploy, *arguments: str) -> list[dict[str, Any]]:
    run = deploy("yaml", *arguments, f"--image={IMAGE}")
    assert run.returncode == 0, run.stderr
    return list(yaml.safe_load_all(run.stdout))


def odd(*more: str) -> list[str]:
    return [
        *more,
        *(word for number, text in enumerate(ODD) for word in ("--env", f"V{number}={text}")),
        "--secret=KEY=api-key:latest",
    ]


def values(container: dict[str, Any]) -> dict[str, Any]:
    return {variable["name"]: variable.get("value", variable.get("valueFrom")) for variable in container["env"]}


def hardened(container: dict[str, Any]) -> bool:
    said = container["securityContext"]
    return bool(
        said["runAsNonRoot"]
        and said["readOnlyRootFilesystem"]
        and not said["allowPrivilegeEscalation"]
        and said["capabilities"] == {"drop": ["ALL"]}
    )


def test_the_kubernetes_yaml_fits_the_api_and_holds_the_values(deploy: Deploy) -> None:
    resources = documents(deploy, "kubernetes", *odd("--cpu=2", "--memory=2Gi", "--threads=16", "--min=0", "--max=40"))
    for document in resources:
        kubernetes_validate.validate(document, VERSION, strict=True)
    deployment, service, scaler = resources
    assert [resource["kind"] for resource in resources] == ["Deployment", "Service", "HorizontalPodAutoscaler"]
    pod = deployment["spec"]["template"]
    (container,) = pod["spec"]["containers"]
    assert container["image"] == IMAGE
    assert hardened(container)
    assert container["resources"] == {
        "requests": {"cpu": "2", "memory": "2Gi"},
        "limits": {"cpu": "2", "memory": "2Gi"},
    }
    assert container["startupProbe"]["httpGet"]["path"] == container["readinessProbe"]["httpGet"]["path"] == "/readyz"
    assert container["livenessProbe"]["httpGet"]["path"] == "/healthz"
    environment = values(container)
    assert environment["THREADS"] == "16"
    assert [environment[f"V{number}"] for number in range(len(ODD))] == ODD
    assert environment["KEY"] == {"secretKeyRef": {"name": "api-key", "key": "latest"}}
    labels = pod["metadata"]["labels"]
    assert labels.items() >= deployment["spec"]["selector"]["matchLabels"].items()
    assert labels.items() >= service["spec"]["selector"].items()
    assert service["spec"]["ports"][0]["targetPort"] == container["ports"][0]["name"]
    assert scaler["spec"]["scaleTargetRef"]["name"] == deployment["metadata"]["name"]
    assert (scaler["spec"]["minReplicas"], scaler["spec"]["maxReplicas"]) == (1, 40)


def test_the_knative_yaml_fits_the_api_and_holds_the_values(deploy: Deploy) -> None:
    (service,) = documents(deploy, *odd("--threads=16", "--min=2", "--max=40", "--timeout=60"))
    assert (service["apiVersion"], service["kind"]) == ("serving.knative.dev/v1", "Service")
    template = service["spec"].pop("template")
    assert set(service) == {"apiVersion", "kind", "metadata", "spec"}
    assert service["spec"] == {}
    assert set(template) == {"metadata", "spec"}
    spec = template["spec"]
    assert spec.pop("containerConcurrency") == 16
    assert spec.pop("timeoutSeconds") == 60
    # What is left is a pod's specification, but that Knative chooses the probe's port.
    spec["containers"][0]["readinessProbe"]["httpGet"]["port"] = 8080
    for metadata in (service["metadata"], {"name": "x", **template["metadata"]}):
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}
        kubernetes_validate.validate(pod, VERSION, strict=True)
    (container,) = spec["containers"]
    assert hardened(container)
    assert container["readinessProbe"]["httpGet"]["path"] == "/readyz"
    environment = values(container)
    assert [environment[f"V{number}"] for number in range(len(ODD))] == ODD
    annotations = template["metadata"]["annotations"]
    assert all(isinstance(value, str) for value in annotations.values())
    assert annotations["autoscaling.knative.dev/min-scale"] == "2"
    assert annotations["autoscaling.knative.dev/max-scale"] == "40"
    assert annotations["autoscaling.knative.dev/target"] == "16"


@pytest.mark.parametrize("kind", ["knative", "kubernetes"])
@pytest.mark.parametrize("word", WORDS)
def test_a_name_such_as_true_stays_a_string(deploy: Deploy, kind: str, word: str) -> None:
    run = deploy(
        "yaml", kind, f"--service={word}", f"--image={word}", f"--env={word.upper()}=x", f"--secret={word}={word}:1"
    )
    for resource in yaml.safe_load_all(run.stdout):
        assert resource["metadata"]["name"] == word
        assert all(isinstance(text, str) for text in names(resource)), resource
        if resource["kind"] in ("Service", "Deployment") and "template" in resource["spec"]:
            container = resource["spec"]["template"]["spec"]["containers"][0]
            assert container["image"] == word
            assert values(container)[word.upper()] == "x"
            assert values(container)[word] == {"secretKeyRef": {"name": word, "key": "1"}}


def names(value: Any) -> Iterator[Any]:
    """Yield the strings of a document at any depth."""
    if isinstance(value, list):
        for item in value:
            yield from names(item)
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield key
            if key in ("name", "app", "image", "key", "value"):
                yield inner if isinstance(inner, str) or not isinstance(inner, dict) else inner.get("name", "")
            yield from names(inner)


@pytest.mark.parametrize("image", ["1e3", "0x1f", "12", "1.5", "2026-01-31", "0o17", "1_000"])
def test_an_image_that_looks_like_a_number_stays_a_string(deploy: Deploy, image: str) -> None:
    resources = list(yaml.safe_load_all(deploy("yaml", "kubernetes", f"--image={image}").stdout))
    assert resources[0]["spec"]["template"]["spec"]["containers"][0]["image"] == image


@pytest.mark.parametrize(
    ("flags", "private"), [([], True), (["--public"], False), (["--public", "--ingress=internal"], True)]
)
def test_a_knative_service_is_private_to_the_cluster_by_default(
    deploy: Deploy, flags: list[str], private: bool
) -> None:
    (service,) = documents(deploy, "knative", *flags)
    assert (service["metadata"]["labels"].get("networking.knative.dev/visibility") == "cluster-local") is private


def test_a_model_in_a_bucket_is_named_in_the_yaml(deploy: Deploy) -> None:
    deployment = documents(deploy, "kubernetes", "--model-dir=gs://my-bucket/m")[0]
    assert values(deployment["spec"]["template"]["spec"]["containers"][0])["MODEL_DIR"] == "gs://my-bucket/m"


def test_event_input_and_event_output_need_each_other(deploy: Deploy) -> None:
    for flag, missing in (
        ("--event-input=gs://bkt/in", "event-output"),
        ("--event-output=gs://bkt/out", "event-input"),
    ):
        run = deploy("yaml", "kubernetes", flag, f"--image={IMAGE}")
        assert (run.returncode, run.stdout) == (1, "")
        assert run.stderr.startswith(f"deploy.sh: {missing}: not set")


def test_without_an_image_the_one_that_container_builds_is_used(deploy: Deploy) -> None:
    run = deploy("yaml", "--project=my-project", "--region=europe-west1")
    assert 'image: "europe-west1-docker.pkg.dev/my-project/cloud-run-source-deploy/predict"\n' in run.stdout
    run = deploy("yaml")
    assert (run.returncode, run.stdout) == (1, "")
    assert run.stderr.startswith("deploy.sh: project: not set; use --project")


def test_cloud_build_gives_the_arguments_that_the_dockerfile_takes() -> None:
    build = yaml.safe_load((ROOT / "deploy" / "cloudbuild.yaml").read_text())
    (step,) = build["steps"]
    said = {
        word.removeprefix("--build-arg=").partition("=")[0] for word in step["args"] if word.startswith("--build-arg=")
    }
    asked = set(re.findall(r"^ARG (\w+)", (ROOT / "deploy" / "Dockerfile").read_text(), re.MULTILINE))
    assert said <= asked
    used = set(re.findall(r"\$\{(_\w+)\}", json.dumps(build)))
    assert used == {*build["substitutions"], "_IMAGE"}
