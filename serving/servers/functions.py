"""The WSGI application that calls the functions of main.py for every request, of any method and path.

What functions-framework and Flask do around a function (routing, hooks, sessions) takes longer than a prediction, and
their own errors are HTML. `Application` replaces them, for the worker of gunicorn.py and for any other WSGI server.
The function runs inside Flask's contexts, so flask.request, flask.g, flask.abort and the like work in it. An exception
in it is answered in JSON.
"""

from collections.abc import Iterable
from functools import cached_property
from typing import Any

import flask
import functions_framework
from flask.ctx import RequestContext
from flask.globals import _cv_app, _cv_request
from functions_framework.execution_id import WsgiMiddleware
from werkzeug.exceptions import HTTPException

from serving.core.http import Headers, HttpError, Request, Response, to_json
from serving.core.telemetry.log import log_exception
from serving.pipeline import origins
from serving.pipeline.handler import handle
from serving.pipeline.routes import is_probe
from serving.servers import wsgi
from serving.servers.flask import PlainRequest, PlainResponse, from_flask, to_flask
from serving.servers.wsgi import Environ


def take_over(app: Any, functions: dict[str, Any]) -> None:
    """Install an Application; called at the end of main.py, with flask.current_app and main's globals."""
    app = app._get_current_object()
    app.wsgi_app = Application(app, functions)


def application_of(app: Any) -> "Application | Other":
    """Return the Application of a functions-framework application, or a wrapper of the WSGI middleware in main.py."""
    before = app.wsgi_app
    return before if isinstance(before, Application) else Other(app)


class Other:
    """A WSGI application that is not ours."""

    may_block = True

    def __init__(self, app: wsgi.Application) -> None:
        self._app = app

    def answer(self, request: Request) -> Response:
        """Answer one request."""
        return wsgi.through(self._app, wsgi.to_environ(request))


class Context(RequestContext):
    """The context of a request and of its application, whose contents are made when they are first used.

    It does no routing. Flask's own two contexts take 10 µs.
    """

    flashes = None

    def __init__(self, app: flask.Flask, request: flask.Request) -> None:
        self.app = app
        self.request = request

    @cached_property
    def g(self) -> Any:
        return self.app.app_ctx_globals_class()

    @cached_property
    def url_adapter(self) -> Any:  # type: ignore[override]
        return self.app.create_url_adapter(self.request)

    @cached_property
    def _session(self) -> Any:  # type: ignore[override]
        interface = self.app.session_interface
        opened = interface.open_session(self.app, self.request)
        return interface.make_null_session(self.app) if opened is None else opened

    @cached_property
    def _after_request_functions(self) -> list[Any]:  # type: ignore[override]
        return []

    @cached_property
    def _cv_tokens(self) -> list[Any]:  # type: ignore[override]
        return []

    @property
    def changes_the_answer(self) -> bool:
        """Return whether the function has used a session or flask.after_this_request."""
        return "_after_request_functions" in self.__dict__ or "_session" in self.__dict__

    def copy(self) -> RequestContext:
        """Return a context of the same request for another thread."""
        return RequestContext(self.app, self.request.environ, self.request, self._session)


class Application:
    """Calls the function of main.py that functions-framework serves."""

    def __init__(self, app: flask.Flask, functions: dict[str, Any]) -> None:
        """Store the application and the globals in which its function will be: main.py has not run to its end."""
        self._app = app
        self._functions = functions
        self._flask = app.wsgi_app

    @cached_property
    def _kind(self) -> str:
        """Return the kind of function: "http", "event", or "flask" if Flask must process the request itself."""
        wrapped = type(self._flask) is not WsgiMiddleware  # functions-framework's own
        if wrapped or not _is_plain(self._app):
            return "flask"
        return "event" if "cloudevent" in self._app.view_functions else "http"

    @property
    def may_block(self) -> bool:
        """Return whether a call may wait for anything but the model, because main.py has been changed."""
        return self._kind != "http" or not _only_handles(self._functions[self._app.name])

    def answer(self, request: Request) -> Response:
        """Answer one request of the standalone server."""
        if self._kind == "flask":
            return wsgi.through(self._flask, wsgi.to_environ(request))
        flask_request = PlainRequest(request)
        response = self._respond(flask_request)
        if type(response) is PlainResponse:
            return response.__dict__["plain"]  # type: ignore[no-any-return]
        _share(response, request.headers)
        # Like GET: the server leaves out the body of the response to HEAD, and sends its length.
        return wsgi.through(response, {**flask_request.environ, "REQUEST_METHOD": "GET"})

    def __call__(self, environ: Environ, start_response: Any) -> Iterable[bytes]:
        """Answer one request (PEP 3333)."""
        if self._kind == "flask":
            return self._flask(environ, start_response)
        response = self._respond(PlainRequest(environ))
        if type(response) is PlainResponse:
            return wsgi.respond(environ, start_response, response.__dict__["plain"])
        _share(response, wsgi.Headers(environ))
        return wsgi.and_drop(environ, response.status_code, response(environ, start_response))

    def _respond(self, request: PlainRequest) -> flask.Response:
        context: Any = Context(self._app, request)  # it is both contexts
        in_app, in_request = _cv_app.set(context), _cv_request.set(context)
        try:
            return self._call(request, context)
        except Exception as error:
            return self._failed(error)
        finally:
            _cv_request.reset(in_request)
            _cv_app.reset(in_app)

    def _call(self, request: flask.Request, context: Context) -> flask.Response:
        if self._kind == "event":
            answer: Any = to_flask(self._receive(from_flask(request)))
        else:
            answer = self._functions[self._app.name](request)
        response = answer if isinstance(answer, flask.Response) else self._app.make_response(answer)
        if context.changes_the_answer:
            request._cached_data = b""  # functions-framework reads the body again
            response = self._app.process_response(response)
        return response

    def _failed(self, error: Exception) -> flask.Response:
        """Answer an exception of the function: by an error handler of the application, or in JSON."""
        try:
            answer: Any = self._app.handle_user_exception(error)
        except HttpError as failure:
            return to_flask(Response(failure.status, to_json({"error": str(failure)}), headers=failure.headers))
        except Exception as failure:
            flask.got_request_exception.send(self._app, exception=failure)
            log_exception(f"{self._app.name} failed: {failure!r}")
            return to_flask(Response(500, to_json({"error": "internal error; the log has the reason"})))
        return self._app.make_response(_in_json(answer) if isinstance(answer, HTTPException) else answer)

    def _receive(self, request: Request) -> Response:
        """Pass each event of a request to the function; such a process also answers health checks."""
        from serving.servers.delivered import through  # a process with an HTTP function does not need it

        if request.method == "POST":
            return handle(request._replace(path="/events", deliver=through(self._functions[self._app.name])))
        if is_probe(request.method, request.path):
            return handle(request)
        error = {"error": f"{request.path[:200]}: expected POST, with an event, got {request.method[:20]}"}
        return Response(405, to_json(error), headers=(("Allow", "POST"),))


def _share(response: flask.Response, headers: Headers) -> None:
    """Let the pages of CORS_ORIGINS read the function's own answers, such as a refusal by a check of the user."""
    for name, text in origins.fields(headers):
        response.headers.setdefault(name, text)
    if origins.depends():
        response.vary.add("Origin")


def _only_handles(function: Any) -> bool:
    """Return whether a function is the unchanged `predict` of main.py, which only passes requests to the handler."""
    if function.__code__.co_filename == functions_framework.__file__:  # its decorator
        function = function.__wrapped__
    names = {"from_flask": from_flask, "handle": handle, "to_flask": to_flask}
    code, given = function.__code__, function.__globals__
    if {*code.co_names} != {*names} or code.co_freevars or len(code.co_varnames) != 1:
        return False  # it uses something else: a name, a variable of an outer function, or a parameter's default
    return all(given.get(name) is names[name] for name in names)


def _in_json(error: HTTPException) -> flask.Response:
    """Return the error of flask.abort in JSON, or the response that it was called with."""
    response: Any = error.get_response()
    if error.response is None:
        response.data = to_json({"error": error.description or error.name})
        response.content_type = "application/json"
    return response  # type: ignore[no-any-return]


def _is_plain(app: flask.Flask) -> bool:
    """Return whether only the function must be called, because main.py has added no hook to the application.

    functions-framework's error handler, which answers in plain text, is ignored, and so is its hook that reads the body
    after the answer.
    """
    framework = (functions_framework.read_request, functions_framework.crash_handler)
    after = [
        function
        for functions in app.after_request_funcs.values()
        for function in functions
        if function not in framework
    ]
    hooks = (app.before_request_funcs, app.teardown_request_funcs, app.url_value_preprocessors)
    added = after or any(any(hook.values()) for hook in hooks) or app.teardown_appcontext_funcs
    kinds = app.request_class is not flask.Request or app.response_class is not flask.Response
    called = "cloudevent" in app.view_functions or functions_framework.read_request in app.after_request_funcs[None]
    if added or kinds or not called or functions_framework._enable_execution_id_logging():
        return False
    for handlers in app.error_handler_spec[None].values():
        for kind in [kind for kind, handler in handlers.items() if handler in framework]:
            del handlers[kind]
    return True
