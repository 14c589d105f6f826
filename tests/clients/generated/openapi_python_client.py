"""Use a client that openapi-python-client made: PACKAGE ADDRESS, and calls as JSON on stdin; the answers go to stdout."""

import importlib
import json
import sys
from typing import Any, get_args, get_type_hints

package, address = sys.argv[1:]
client = importlib.import_module(f"{package}.client").Client(base_url=address)


def body_of(function: Any, value: Any) -> Any:
    """Return the request that a value is, of the classes that the function takes."""
    for kind in get_args(get_type_hints(function)["body"]):
        try:
            body = kind.from_dict(value)
            assert body.to_dict() == value
        except (AttributeError, AssertionError, KeyError, TypeError, ValueError):
            continue
        return body
    raise AssertionError(f"no class of the client takes {value}")


answers = []
for call in json.load(sys.stdin):
    module = importlib.import_module(f"{package}.api.{call['tag']}.{call['function']}")
    more = {"body": body_of(module.sync_detailed, call["body"])} if "body" in call else {}
    answers.append(module.sync_detailed(client=client, **more).parsed.to_dict())
print(json.dumps(answers))
