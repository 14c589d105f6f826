"""Use a client that openapi-generator made: PACKAGE ADDRESS, and calls as JSON on stdin; the answers go to stdout."""

import importlib
import json
import sys

package, address = sys.argv[1:]
made = importlib.import_module(package)
client = made.ApiClient(made.Configuration(host=address))
apis = [getattr(made, name)(client) for name in dir(made) if name.endswith("Api")]

answers = []
for call in json.load(sys.stdin):
    (function,) = [getattr(api, call["function"]) for api in apis if hasattr(api, call["function"])]
    body = [getattr(made, call["kind"]).from_dict(call["body"])] if "body" in call else []
    answers.append(function(*body).to_dict())
print(json.dumps(answers))
