"""A client in Python with requests: `python requests_client.py http://localhost:8080 ../three.json`."""

import json
import sys
import time
from pathlib import Path
from typing import Any

import requests

TRIES = 5


def predict(session: requests.Session, url: str, body: Any) -> Any:
    """Return the answer to a predict request; raise RuntimeError with the server's message."""
    for attempt in range(TRIES):
        response = session.post(f"{url}/v1/models/model:predict", json=body, timeout=60)
        if response.status_code not in (429, 503) or attempt == TRIES - 1:
            break
        time.sleep(float(response.headers.get("Retry-After", 1)))  # the server is busy, or loads the model
    if not response.ok:
        raise RuntimeError(f"{response.status_code}: {response.json()['error']}")
    return response.json()


if __name__ == "__main__":
    with requests.Session() as session:  # keeps the connection for further requests
        answer = predict(session, sys.argv[1], json.loads(Path(sys.argv[2]).read_text()))
    for prediction in answer["predictions"]:
        print(prediction["label"])
