"""The environment, read once, checked, frozen. Nothing else reads it.

A bad value stops the start with one line that names the variable, what it may be and what it is.
"""

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from functools import lru_cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent.parent
ACCELERATOR = ROOT / "serving" / "pipeline" / "native" / "_accelerator.abi3.so"  # where an image has it
BUCKET = "[a-z0-9][a-z0-9._-]{1,221}[a-z0-9]"


class SettingError(ValueError):
    """A variable of the environment has a value that cannot be used."""


@dataclass(frozen=True, slots=True)
class Settings:
    """One field for each variable; its upper-case name is the variable's."""

    model_dir: Path | str  # str: an address in a bucket, gs://...
    model_name: str
    saved_model_tags: frozenset[str]
    host: str
    port: int
    workers: int
    threads: int
    max_wait: float
    request_timeout: int
    run_timeout: int
    read_timeout: int
    max_body_bytes: int
    max_header_bytes: int
    max_rows: int
    max_elements: int
    max_string_bytes: int
    max_nesting: int
    max_number_length: int
    max_id_length: int
    max_pixels: int
    key_field: str
    non_finite: str
    runtime: str
    dangerous_ops: str
    callers: str
    intra_op_threads: int
    inter_op_threads: int
    batch_rows: int
    warmup: str
    manifest: str
    tensorflow_library_dir: Path | None
    custom_op_libraries: tuple[Path, ...]
    accelerator: Path | None
    aip_predict_route: str
    aip_health_route: str
    storage_emulator_host: str
    google_oauth_access_token: str = field(repr=False)
    event_input: str
    event_output: str
    event_types: tuple[str, ...]
    event_reply: str
    event_max_age: int
    event_strict: bool
    pubsub_emulator_host: str
    event_timeout: int
    score_options: str
    score_batch_rows: int
    score_instances: bool
    score_part_bytes: int
    log_requests: str
    google_cloud_project: str
    metrics: bool
    prometheus_multiproc_dir: Path | None
    otel_exporter_otlp_endpoint: str
    otel_exporter_otlp_traces_endpoint: str
    otel_service_name: str
    otel_sdk_disabled: bool


def _name(text: str) -> str:
    if not re.fullmatch(r"[^/:\s\x00-\x1f\x7f]{1,128}", text):
        raise ValueError("a name of 1 to 128 characters without '/', ':' or white space")
    return text


def _host(text: str) -> str:
    if not re.fullmatch(r"[0-9A-Za-z.:_-]{1,255}", text):
        raise ValueError("an address to listen on")
    return text


def _address(text: str) -> str:
    if text and not re.fullmatch(r"/[!-~]*", text):
        raise ValueError("the path of an address, which begins with '/'")
    return text


def _path(text: str) -> Path:
    try:
        path = Path(text).expanduser().absolute()
        path.is_dir()  # raises for a name that is too long
    except (OSError, RuntimeError):  # RuntimeError: a home that is unknown
        raise ValueError("a path that can be looked up") from None
    return path


def _model(text: str) -> Path | str:
    if not text.startswith("gs://"):
        return _path(text)
    if not re.fullmatch(rf"gs://{BUCKET}(/[^\x00-\x1f]*)?", text):
        raise ValueError("a folder, or gs://BUCKET/FOLDER")
    return text


def _url(text: str) -> str:
    if text and not re.fullmatch(r"https?://[^\s/]+/?", text):
        raise ValueError("http://HOST:PORT")
    return text


def _place(text: str) -> str:
    """Read a place in a bucket; it ends with a slash, so that gs://b/in is no beginning of gs://b/inside."""
    if not text:
        return ""
    if not re.fullmatch(rf"gs://{BUCKET}(/[^\x00-\x1f\x7f]*)?", text):
        raise ValueError("gs://BUCKET/FOLDER")
    return text.rstrip("/") + "/"


def _reply(text: str) -> str:
    topic = r"projects/[A-Za-z0-9:.-]{1,100}/topics/[A-Za-z][A-Za-z0-9._~+%-]{2,254}"
    if not re.fullmatch(rf"response|none|{topic}|https?://[^\s/]+(/[!-~]*)?", text):
        raise ValueError("response, none, an http:// or https:// address, or projects/PROJECT/topics/TOPIC")
    return text


def _types(text: str) -> tuple[str, ...]:
    types = tuple(part.strip() for part in text.split(","))
    if not all(re.fullmatch(r"[!-)+-~]+\*?|\*", part) for part in types):
        raise ValueError("types of events separated by commas; '*' at the end of one stands for anything")
    return types


def _tags(text: str) -> frozenset[str]:
    tags = [part.strip() for part in text.split(",")]
    if not all(tags):
        raise ValueError("tags separated by commas")
    return frozenset(tags)


def _query(text: str) -> str:
    if not re.fullmatch(r"[!-~]*", text) or "?" in text:
        raise ValueError("options as in the query of an address, NAME=VALUE&NAME=VALUE")
    return text


def _yes(text: str) -> bool:
    return _choice("0", "1")(text) == "1"


def _log_requests(text: str) -> str:
    if not re.fullmatch(r"all|errors|none|[1-9][0-9]{0,6}", text):
        raise ValueError("all, errors, none, or a number of lines a second")
    return text


def _project(text: str) -> str:
    if text and not re.fullmatch(r"[A-Za-z0-9:._-]{1,100}", text):
        raise ValueError("the id of a project")
    return text


def _collector(text: str) -> str:
    if text and not re.fullmatch(r"https?://[^\s/]+(/[!-~]*)?", text):
        raise ValueError("an http:// or https:// address")
    return text


def _server(text: str) -> str:
    """Read HOST:PORT, as Google's own tools set it, with http:// before it or not."""
    if not text:
        return ""
    if not re.fullmatch(r"(https?://)?[^\s/]+/?", text):
        raise ValueError("HOST:PORT")
    return text.rstrip("/") if "://" in text else f"http://{text.rstrip('/')}"


def _folder(text: str) -> Path | None:
    if not text:
        return None
    if not _path(text).is_dir():
        raise ValueError("an existing folder")
    return _path(text)


def _files(text: str) -> tuple[Path, ...]:
    paths = tuple(_path(part) for part in text.split(os.pathsep) if part)
    missing = [path for path in paths if not path.is_file()]
    if missing:
        raise ValueError(f"existing files, separated by {os.pathsep!r} (there is no {missing[0]})")
    return paths


def _extension(text: str) -> Path | None:
    if text in ("auto", "off"):
        return ACCELERATOR if text == "auto" and ACCELERATOR.is_file() else None
    if not _path(text).is_file():
        raise ValueError("auto, off or an existing file")
    return _path(text)


def _number(least: int, most: int) -> Callable[[str], int]:
    def read(text: str) -> int:
        if not re.fullmatch(r"-?[0-9]{1,19}", text) or not least <= int(text) <= most:
            raise ValueError(f"a whole number from {least} to {most}")
        return int(text)

    return read


def _seconds(text: str) -> float:
    if not re.fullmatch(r"[0-9]{1,5}(\.[0-9]{1,3})?", text):
        raise ValueError("seconds as a decimal number, such as 0.5")
    return float(text)


def _choice(*words: str) -> Callable[[str], str]:
    def read(text: str) -> str:
        if text not in words:
            raise ValueError(f"one of {', '.join(words)}")
        return text

    return read


# fmt: off
VARIABLES: dict[str, tuple[str, Callable[[str], Any]]] = {
    # variable                 default               how it is read
    "MODEL_DIR":               (str(ROOT / "model"), _model),
    "MODEL_NAME":              ("model",             _name),
    "SAVED_MODEL_TAGS":        ("serve",             _tags),  # TensorFlow Serving's --saved_model_tags
    "HOST":                    ("0.0.0.0",           _host),
    "PORT":                    ("8080",              _number(1, 65535)),
    "WORKERS":                 ("1",                 _number(1, 256)),
    "THREADS":                 ("8",                 _number(1, 1024)),
    "MAX_WAIT":                ("1",                 _seconds),
    # The platform's CLOUD_RUN_TIMEOUT_SECONDS stands in for it
    "REQUEST_TIMEOUT":         ("300",               _number(1, 86400)),
    # without one, REQUEST_TIMEOUT
    "RUN_TIMEOUT":             ("",                  lambda text: _number(1, 86400)(text) if text else 0),
    "READ_TIMEOUT":            ("20",                _number(1, 3600)),
    "MAX_BODY_BYTES":          (str(8 << 20),        _number(1, 1 << 40)),
    "MAX_HEADER_BYTES":        (str(32 << 10),       _number(8 << 10, 1 << 20)),
    "MAX_ROWS":                (str(1 << 40),             _number(1, 1 << 40)),
    "MAX_ELEMENTS":            (str(16 << 20),       _number(1, 1 << 40)),
    "MAX_STRING_BYTES":        (str(8 << 20),        _number(1, 1 << 40)),
    "MAX_NESTING":             ("32",                _number(1, 200)),  # the JSON writer ends at 254
    "MAX_NUMBER_LENGTH":       ("40",                _number(1, 4000)),
    "MAX_ID_LENGTH":           ("256",               _number(1, 1 << 20)),
    "MAX_PIXELS":              ("50000000",          _number(1, 1 << 40)),
    "KEY_FIELD":               ("key",               _name),
    "NON_FINITE":              ("tokens",            _choice("tokens", "null")),
    "RUNTIME":                 ("auto",              _choice("auto", "c", "python", "litert")),
    "DANGEROUS_OPS":           ("refuse",            _choice("refuse", "allow")),
    "CALLERS":                 ("anyone",            _choice("anyone", "trusted")),
    "INTRA_OP_THREADS":        ("1",                 _number(0, 1024)),
    "INTER_OP_THREADS":        ("-1",                _number(-1, 1024)),
    "BATCH_ROWS":              ("0",                 _number(0, 65536)),
    "WARMUP":                  ("ready",             _choice("ready", "load", "off")),
    "MANIFEST":                ("quick",             _choice("quick", "full", "off")),
    "TENSORFLOW_LIBRARY_DIR":  ("",                  _folder),
    "CUSTOM_OP_LIBRARIES":     ("",                  _files),
    "ACCELERATOR":             ("auto",              _extension),
    # Vertex AI's; its AIP_HTTP_PORT stands in for PORT, its AIP_STORAGE_URI for MODEL_DIR
    "AIP_PREDICT_ROUTE":       ("",                  _address),
    "AIP_HEALTH_ROUTE":        ("",                  _address),
    # The usual name for a server that stands in for Cloud Storage
    "STORAGE_EMULATOR_HOST":   ("",                  _url),
    "GOOGLE_OAUTH_ACCESS_TOKEN": ("",                str.strip),
    "EVENT_INPUT":             ("",                  _place),
    "EVENT_OUTPUT":            ("",                  _place),
    "EVENT_TYPES":             ("*",                 _types),
    # Knative's K_SINK stands in for it
    "EVENT_REPLY":             ("response",          _reply),
    "EVENT_MAX_AGE":           (str(24 * 3600),      _number(0, 1 << 31)),
    "EVENT_STRICT":            ("0",                 _yes),
    # The usual name for Google's emulator of Pub/Sub
    "PUBSUB_EMULATOR_HOST":    ("",                  _server),
    "EVENT_TIMEOUT":           ("300",               _number(1, 600)),
    "SCORE_OPTIONS":           ("",                  _query),
    "SCORE_BATCH_ROWS":        ("0",                 _number(0, 65536)),
    "SCORE_INSTANCES":         ("0",                 _yes),
    "SCORE_PART_BYTES":        (str(8 << 20),        _number(1, 1 << 30)),
    "LOG_REQUESTS":            ("100",               _log_requests),
    "GOOGLE_CLOUD_PROJECT":    ("",                  _project),
    "METRICS":                 ("0",                 _yes),
    # prometheus_client's and OpenTelemetry's own names
    "PROMETHEUS_MULTIPROC_DIR": ("",                 _folder),
    "OTEL_EXPORTER_OTLP_ENDPOINT": ("",              _collector),
    "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": ("",       _collector),
    # Knative's and Cloud Run's K_SERVICE stands in for it
    "OTEL_SERVICE_NAME":       ("",                  str.strip),
    "OTEL_SDK_DISABLED":       ("false",             lambda text: _choice("true", "false")(text.lower()) == "true"),
}
# fmt: on


def read(environment: Mapping[str, str]) -> Settings:
    """Read every variable; an unset or empty one has its default. Raise SettingError at the first that is wrong."""
    values = {}
    if environment.get("AIP_STORAGE_URI") and not environment.get("MODEL_DIR"):
        environment = {**environment, "MODEL_DIR": environment["AIP_STORAGE_URI"]}
    if environment.get("AIP_HTTP_PORT") and not environment.get("PORT"):
        environment = {**environment, "PORT": environment["AIP_HTTP_PORT"]}
    if environment.get("K_SINK") and not environment.get("EVENT_REPLY"):
        environment = {**environment, "EVENT_REPLY": environment["K_SINK"]}
    if environment.get("K_SERVICE") and not environment.get("OTEL_SERVICE_NAME"):
        environment = {**environment, "OTEL_SERVICE_NAME": environment["K_SERVICE"]}
    seconds = environment.get("CLOUD_RUN_TIMEOUT_SECONDS", "")
    if re.fullmatch(r"0*[1-9][0-9]{0,4}", seconds) and not environment.get("REQUEST_TIMEOUT"):
        environment = {**environment, "REQUEST_TIMEOUT": seconds}
    for variable, (default, reader) in VARIABLES.items():
        text = environment.get(variable) or default
        try:
            values[variable.lower()] = reader(text)
        except ValueError as error:
            raise SettingError(f"{variable}: expected {error}, got {text!r}") from None
    values["run_timeout"] = values["run_timeout"] or values["request_timeout"]
    _check_places(values["event_input"], values["event_output"])
    return Settings(**values)


def _check_places(place: str, output: str) -> None:
    """Refuse one place without the other, and an input inside the output: predictions would be scored for ever."""
    for variable, text, other in (("EVENT_INPUT", place, "EVENT_OUTPUT"), ("EVENT_OUTPUT", output, "EVENT_INPUT")):
        if not text and (place or output):
            raise SettingError(
                f"{variable}: expected gs://BUCKET/FOLDER beside {other}, or neither of them, got nothing"
            )
    if output and place.startswith(output):
        wanted = f"a place that does not hold EVENT_INPUT, {place.rstrip('/')!r}"
        raise SettingError(f"EVENT_OUTPUT: expected {wanted}, got {output.rstrip('/')!r}")


def folder(told: Path | None) -> Path:
    """Return the model that a command is to look at: the folder that it was told, or MODEL_DIR's."""
    found = told or current().model_dir
    if isinstance(found, str):
        raise SettingError(f"MODEL_DIR: expected a folder on this machine, or one named by the command, got {found!r}")
    return found


@lru_cache(maxsize=1)
def current() -> Settings:
    """Return this process's settings, read when they are first asked for."""
    return read(os.environ)


assert {field.name.upper() for field in fields(Settings)} == set(VARIABLES)
