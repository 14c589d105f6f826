"""An asynchronous client in Python with httpx: `python httpx_client.py http://localhost:8080 ../three.json`."""

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import httpx

TRIES = 5
SIDE_BY_SIDE = 3  # requests


async def predict(client: httpx.AsyncClient, body: Any) -> Any:
    """Return the answer to a predict request; raise RuntimeError with the server's message."""
    for attempt in range(TRIES):
        response = await client.post("/v1/models/model:predict", json=body)
        if response.status_code not in (429, 503) or attempt == TRIES - 1:
            break
        await asyncio.sleep(float(response.headers.get("Retry-After", 1)))  # the server is busy, or loads the model
    if response.is_error:
        raise RuntimeError(f"{response.status_code}: {response.json()['error']}")
    return response.json()


async def main(url: str, file: str) -> None:
    body = json.loads(Path(file).read_text())
    async with httpx.AsyncClient(base_url=url, timeout=60) as client:
        answers = await asyncio.gather(*(predict(client, body) for _ in range(SIDE_BY_SIDE)))
    for prediction in answers[0]["predictions"]:
        print(prediction["label"])


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
