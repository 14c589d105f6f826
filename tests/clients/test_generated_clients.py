"""Clients that four generators make of /openapi.json: each is made, checked for its types, and asks a running server.

openapi-python-client and openapi-generator (which needs Java) come from PyPI; openapi-typescript with openapi-fetch, and
Hey API's openapi-ts, from npm, into .cache/.
"""

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.clients.conftest import Served
from tests.conftest import ROOT
from tests.server import Server

HERE = Path(__file__).parent / "generated"
BIN = Path(sys.executable).parent
MODELS = [
    "model",  # pictures and pixels: two signatures
    "keras_functional",  # two inputs, two outputs
]
DEEP = {"name": "deep", "shape": [1, 3], "datatype": "INT32", "data": [1, 2, 3]}
WIDE = {"name": "wide", "shape": [1, 2], "datatype": "FP32", "data": [0.5, 1]}
POSTED: dict[str, list[Any]] = {  # what to post where the exporter left no examples, which the document would show
    "Predict": [
        {"instances": [{"deep": [1, 2, 3], "wide": [0.5, 1]}, {"deep": [1, 2, 3], "wide": [0.5, 1]}]},
        {"signature_name": "serve", "inputs": {"deep": [[1, 2, 3]], "wide": [[0.5, 1]]}},
    ],
    "Infer": [{"inputs": [WIDE, DEEP]}, {"inputs": [DEEP, WIDE], "parameters": {"signature_name": "serve"}}],
}


def run(command: list[str], folder: Path, text: str = "", **environment: str) -> str:
    path = os.pathsep.join([str(BIN), os.environ.get("PATH", "")])
    ended = subprocess.run(
        command,
        cwd=folder,
        input=text,
        env={**os.environ, "PATH": path, **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert ended.returncode == 0, f"{command}\n{ended.stdout[-4000:]}\n{ended.stderr[-4000:]}"
    return ended.stdout


def described(server: Server, folder: Path) -> Any:
    """Write the document into the folder, and return it."""
    answer = server.ask("GET", "/openapi.json")
    (folder / "openapi.json").write_bytes(answer.body)
    return answer.json


def calls(document: Any) -> list[dict[str, Any]]:
    """Return a call of every operation that needs no version, several where it takes a predict request."""
    requests = []
    for path, item in document["paths"].items():
        for method, operation in item.items():
            kind = operation.get("requestBody", {}).get("$ref", "").rpartition("/")[2]
            if "{" in path or (method == "post" and kind not in POSTED):
                continue
            function = re.sub(r"(?<!^)(?=[A-Z])", "_", operation["operationId"]).lower()
            call = {"method": method, "path": path, "kind": kind, "function": function, "id": operation["operationId"],
                    "tag": {"TensorFlow Serving": "tensor_flow_serving"}.get(operation["tags"][0], operation["tags"][0].lower().replace(" ", "_"))}  # fmt: skip
            if not kind:
                requests.append(call)
                continue
            content = document["components"]["requestBodies"][kind]["content"]["application/json"]
            bodies = [example["value"] for example in content.get("examples", {}).values()] or POSTED[kind]
            requests += [{**call, "body": body} for body in bodies]
    return requests


def wanted(server: Server, asked: list[dict[str, Any]]) -> list[Any]:
    answers = [server.ask(call["method"].upper(), call["path"], call.get("body", b"")) for call in asked]
    assert {answer.status for answer in answers} == {200}
    return [answer.json for answer in answers]


@pytest.mark.parametrize("name", MODELS)
def test_openapi_python_client_makes_a_client_that_works(served: Served, tmp_path: Path, name: str) -> None:
    if importlib.util.find_spec("openapi_python_client") is None:
        pytest.skip("openapi-python-client is not installed: pip install -r requirements/dev.txt")
    server = served(name)
    asked = calls(described(server, tmp_path))
    command = ["openapi-python-client", "generate", "--path", "openapi.json", "--output-path", "made", "--meta", "none"]
    run([str(BIN / command[0]), *command[1:]], tmp_path)
    use = [sys.executable, str(HERE / "openapi_python_client.py"), "made", f"http://127.0.0.1:{server.port}"]
    answers = json.loads(run(use, tmp_path, json.dumps(asked), PYTHONPATH=str(tmp_path)))
    assert answers == wanted(server, asked)


def test_openapi_generator_makes_a_client_that_works(served: Served, tmp_path: Path) -> None:
    if importlib.util.find_spec("openapi_generator_cli") is None or not shutil.which("java"):
        pytest.skip("openapi-generator is not installed: pip install -r requirements/dev.txt, and Java 11 or later")
    server = served("model")
    asked = calls(described(server, tmp_path))
    make = [
        "openapi-generator-cli",
        "generate",
        "-g",
        "python",
        "-i",
        "openapi.json",
        "-o",
        "made",
        "--package-name",
        "made",
    ]
    run([str(BIN / make[0]), *make[1:]], tmp_path, JAVA_OPTS="-Xmx512m")
    use = [sys.executable, str(HERE / "openapi_generator.py"), "made", f"http://127.0.0.1:{server.port}"]
    answers = json.loads(run(use, tmp_path, json.dumps(asked), PYTHONPATH=str(tmp_path / "made")))
    for call, answer, right in zip(asked, answers, wanted(server, asked)):
        assert given(answer) == given(right) or call["id"] == "describe_openapi_json", call


def given(answer: Any) -> Any:
    """Return an answer without nulls, which this client puts where nothing stands."""
    if isinstance(answer, dict):
        return {name: given(value) for name, value in answer.items() if value is not None}
    return [given(value) for value in answer] if isinstance(answer, list) else answer


@pytest.fixture(scope="session")
def npm() -> Path:
    """Return a folder with the generators of npm, which are installed there once."""
    folder = ROOT / ".cache" / "generators"
    written = (HERE / "package.json").read_text()
    installed = folder / "installed.json"  # what was installed, written when it was
    if not (installed.is_file() and installed.read_text() == written):
        if not shutil.which("npm"):
            pytest.skip("npm is not installed")
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        (folder / "package.json").write_text(written)
        command = ["npm", "install", "--no-audit", "--no-fund", "--silent"]
        ended = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)
        if ended.returncode:
            pytest.skip(f"npm cannot install the generators: {ended.stderr[-200:]}")
        installed.write_text(written)
    return folder / "node_modules"


FETCH = """
import createClient from "openapi-fetch";
import type { paths } from "./schema";
const client = createClient<paths>({ baseUrl: process.argv[2] });
"""
FETCH_CALL = "await client.{upper}({path}, {{ {body} }})"
HEY = """
import { createClient } from "./made/client";
import * as made from "./made";
const client = createClient({ baseUrl: process.argv[2] });
"""
HEY_CALL = "await made.{camel}({{ client, {body} }})"
MAIN = """
declare const process: { argv: string[] };
async function main(): Promise<void> {
  const answers: unknown[] = [];
CALLS
  console.log(JSON.stringify(answers));
}
main();
"""
TSC = ["--strict", "--skipLibCheck", "--target", "es2022", "--module", "commonjs", "--moduleResolution", "node10",
       "--esModuleInterop", "--lib", "es2022,dom,dom.iterable", "--outDir", "js"]  # fmt: skip


def program(head: str, call: str, asked: list[dict[str, Any]]) -> str:
    """Return a program in TypeScript that makes the calls; the compiler holds each body against its schema."""
    lines = []
    for request in asked:
        body = f"body: {json.dumps(request['body'])}" if "body" in request else ""
        camel = re.sub(r"_(\w)", lambda match: match[1].upper(), request["function"])
        text = call.format(upper=request["method"].upper(), path=json.dumps(request["path"]), camel=camel, body=body)
        lines.append(f"  {{ const {{ data, error }} = {text}; if (error) throw error; answers.push(data); }}")
    return head + MAIN.replace("CALLS", "\n".join(lines))


@pytest.mark.parametrize(
    ("generate", "head", "call"),
    [
        (["openapi-typescript", "openapi.json", "-o", "schema.d.ts"], FETCH, FETCH_CALL),
        (["openapi-ts", "-i", "openapi.json", "-o", "made", "-c", "@hey-api/client-fetch"], HEY, HEY_CALL),
    ],
    ids=["openapi-typescript", "hey-api"],
)
def test_generators_for_typescript_make_clients_that_work(
    served: Served, tmp_path: Path, npm: Path, generate: list[str], head: str, call: str
) -> None:
    server = served("keras_functional")
    asked = calls(described(server, tmp_path))
    (tmp_path / "node_modules").symlink_to(npm)
    run([str(npm / ".bin" / generate[0]), *generate[1:]], tmp_path)
    (tmp_path / "use.ts").write_text(program(head, call, asked))
    run([str(npm / ".bin" / "tsc"), *TSC, "use.ts"], tmp_path)
    answers = json.loads(run(["node", "js/use.js", f"http://127.0.0.1:{server.port}"], tmp_path))
    assert answers == wanted(server, asked)
