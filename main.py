"""What the platform calls: a TensorFlow SavedModel as a stateless function."""

import os
import sys
from typing import Any

# functions-framework puts this folder last on the path, behind any installed package with a name like ours.
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import flask
import functions_framework

from serving import gunicorn, model, observe, settings, wsgi
from serving.flask import from_flask, to_flask
from serving.handler import handle

try:
    _settings = settings.current()
except settings.SettingError as error:
    sys.exit(f"main.py: {error}")

observe.start("functions-framework", _settings)

# functions-framework makes its server after it has run this file.
gunicorn.prepare(_settings)

# This runs before the server forks its workers: the library may be open by then (it saves each of them 0.2 s),
# a session may not. The first request opens that.
model.open_library(_settings)

# functions-framework runs this file inside its Flask application. The plain WSGI door goes before it, with the same
# handler and the same bytes in half the time; `predict` answers wherever a platform calls the function itself.
# The application is named after its target, and a process with the target predict_event is there for events alone.
if flask.has_app_context():
    _events_only = flask.current_app.name == "predict_event"
    flask.current_app.wsgi_app = wsgi.event_app if _events_only else wsgi.app  # type: ignore[method-assign]


@functions_framework.http  # type: ignore[untyped-decorator]
def predict(request: flask.Request) -> flask.Response:
    """Answer over HTTP, in the protocol that the path names."""
    return to_flask(handle(from_flask(request)))


@functions_framework.cloud_event  # type: ignore[untyped-decorator]
def predict_event(event: Any) -> None:
    """Act on a CloudEvent that a platform has parsed; raise where it has to be delivered again."""
    from serving.events import receive_object  # where the door above is in use, nothing calls this

    receive_object(event, handle)
