"""What the clients of the harness ask: every protocol and both signatures of the embedded model, and nonsense."""

import json
from pathlib import Path

from tools.verify.client import Case

JSON = (("Content-Type", "application/json"),)


def cases(model: Path) -> list[Case]:
    """Return the requests, from the examples beside the model."""
    examples = json.loads((model / "assets.extra" / "examples.json").read_bytes())
    predict, infer = "/v1/models/model:predict", "/v2/models/model/infer"
    picture = examples["serving_default"]["instances"][0]["b64"]
    pixels = examples["pixels"]["instances"][0]
    event = (("ce-specversion", "1.0"), ("ce-id", "1"), ("ce-source", "/harness"), ("ce-type", "com.example.asked"))
    default = json.dumps(examples["serving_default"]).encode()
    requests = [
        Case("picture", "serving_default", predict, default),
        Case("pixels", "pixels", predict, json.dumps(examples["pixels"]).encode()),
        Case("event", "serving_default", "/events", default, (*JSON, *event)),
        Case("infer", "serving_default", infer, json.dumps({"id": "7", "inputs": [
            {"name": "image", "shape": [1], "datatype": "BYTES", "data": [{"b64": picture}]}]}).encode()),
        Case("no JSON", "", predict, b"{"),
        Case("a wrong shape", "pixels", predict, b'{"signature_name": "pixels", "instances": [[1, 2]]}'),
        Case("an unknown model", "", "/v1/models/nobody:predict", default),
    ]  # fmt: skip
    for row in range(8):  # each other numbers, so that no two answers are alike
        turned = [*pixels[row:], *pixels[:row]]
        body = json.dumps({"signature_name": "pixels", "instances": [turned]}).encode()
        requests.append(Case(f"pixels turned by {row}", "pixels", predict, body))
    batch = {"signature_name": "pixels", "instances": [[*pixels[row:], *pixels[:row]] for row in range(8)]}
    requests.append(Case("a batch", "pixels", predict, json.dumps(batch).encode()))
    return requests
