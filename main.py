"""The functions that the platform calls: a TensorFlow SavedModel as a stateless function."""

import os
import sys
from typing import Any

# functions-framework puts this folder last on the path, behind any installed package with a name like ours.
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import flask
import functions_framework

from serving.core import settings
from serving.runtime import opening

try:
    _settings = settings.current()
except settings.SettingError as error:
    sys.exit(f"main.py: {error}")


def _imports() -> None:
    from serving.servers import functions, gunicorn  # noqa: F401


# The library takes as long to open as everything else to import; a thread imports meanwhile.
opening.beside(_settings, _imports)

from serving.core.telemetry import observe
from serving.pipeline.handler import handle, prepare
from serving.servers import gunicorn
from serving.servers.flask import from_flask, to_flask
from serving.servers.functions import take_over

try:
    prepare()
except settings.SettingError as error:
    sys.exit(f"main.py: {error}")

observe.start("functions-framework", _settings)

# functions-framework makes its server after it has run this file. When the server forks its workers, the library is
# open; a session may not be. The first request opens that.
gunicorn.prepare(_settings)


@functions_framework.http  # type: ignore[untyped-decorator]
def predict(request: flask.Request) -> flask.Response:
    """Answer over HTTP, in the protocol that the path names: called for every request, with any method and path."""
    # A check of yours goes here: `flask.abort(401)` refuses the request. Let /readyz pass, which the platform probes.
    # docs/own-checks.md has an example, and one for every server.
    # What `handle` does, layer by layer, is in serving/pipeline/handler.py and routes.py.
    return to_flask(handle(from_flask(request)))


@functions_framework.cloud_event  # type: ignore[untyped-decorator]
def predict_event(event: Any) -> Any:
    """Handle a CloudEvent and return the outcome; raise an exception to have it delivered again."""
    from serving.events.delivery import receive_object  # a process for `predict` does not need it

    return receive_object(event, handle)


# functions-framework runs this file inside its Flask application. From here on each request goes to the function above
# that the application is named after, without Flask's routing before and its hooks behind.
if flask.has_app_context():
    take_over(flask.current_app, globals())
