"""The settings: environment variables, read once, checked and frozen. No other module reads the environment.

A bad value stops the start with one line that names the variable, the expected and the actual value.
"""

import os
import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from serving.core import values

ROOT = Path(__file__).resolve().parent.parent.parent
ACCELERATOR = ROOT / "serving" / "pipeline" / "native" / "_accelerator.abi3.so"  # its path in an image and in an upload


class SettingError(ValueError):
    """A variable of the environment has a value that cannot be used."""


class Settings(NamedTuple):
    """One field for each variable, whose name in upper case is the variable's."""

    # The model
    model_dir: Path | str  # str: an address in a bucket, gs://...
    """A SavedModel, a folder of numbered versions, or `gs://BUCKET/FOLDER`, which is copied to the disk once."""
    model_name: str
    """The NAME in the addresses."""
    saved_model_tags: frozenset[str]
    """The tags of the graph that is served, separated by commas: the graph with exactly these tags, or else the one
    with the fewest tags besides them. `show`, `check`, `verify`, audit and bake use it too."""

    # The server
    host: str
    """The address that the standalone server listens on."""
    port: int
    """The port. Platforms set it."""
    workers: int
    """Processes. Each has its own copy of the model."""
    threads: int
    """Requests that a process accepts at a time. As many of them run as there are cores, and one more."""
    layer: str
    """A function of yours around every request: `module:function`, imported at the start. [Checks of your
    own](own-checks.md) has an example."""

    # Browsers
    page: bool
    """`on`: `GET /` from a browser is [a page to try the model](page.md). `off`: it is JSON, as for other clients."""
    cors_origins: frozenset[str]
    """The origins whose pages may use this server from a browser, separated by commas; `*`: all. By
    default none; see [pages of other origins](clients.md#pages-of-other-origins)."""

    # Time and admission
    max_wait: float
    """Seconds that a request may be expected to wait for its turn, by how long the last requests ran. A request that
    would wait longer gets [503](limits.md), unless fewer than `THREADS` are there."""
    request_timeout: int
    """Seconds after which a waiting request is not begun. A request may ask for less, in `X-Request-Timeout`."""
    run_timeout: int
    """Seconds that a run may take; `REQUEST_TIMEOUT` if not set. After that its client gets 504, and its
    process is replaced."""
    read_timeout: int
    """Seconds in which a request must arrive, with its body. A client that reads nothing of its answer for so long is
    cut off (Linux)."""

    # Limits on a request
    max_body_bytes: int
    """The largest body in bytes, compressed or not."""
    max_rows: int
    """Rows of a request. By default only the limits on bytes and elements apply."""
    max_elements: int
    """Elements of all inputs of a request together, and the largest size that a request may give to a [guarded
    operation](../SECURITY.md#values-that-a-kernel-trusts)."""
    max_string_bytes: int
    """Bytes of one string of an input, decoded."""
    max_nesting: int
    """Depth of nested lists and objects in JSON."""
    max_pixels: int
    """Pixels of all pictures of a request together, with all frames, according to their headers, for models that decode
    pictures."""

    # Protocols
    key_field: str
    """The field of an instance that is returned with its prediction, and not given to the model."""
    non_finite: str
    """How NaN and the infinities are written in JSON: `tokens`, as TensorFlow Serving does, or `null`, for strict
    parsers."""

    # Running the model
    runtime: str
    """`c`: TensorFlow's C library. `python`: its Python package. `litert`: LiteRT, for
    [twins](exporting.md#a-twin-for-litert-without-tensorflow) only. `auto`: LiteRT for a twin, else the first of
    TensorFlow's two that is installed."""
    dangerous_ops: str
    """`refuse`: a model that uses files, the network or Python, or names or links to files outside its folder, is not
    served (`cp -rL` copies what is linked). `allow`: it is."""
    callers: str
    """`anyone`: sizes, indices and row splits that the graph takes from a request are
    [checked](../SECURITY.md#values-that-a-kernel-trusts) in the graph, up to `MAX_ELEMENTS`, and a model in which
    they cannot be checked is refused. `trusted`: they are not checked."""
    intra_op_threads: int
    """Threads for one operation; 0: as many as there are cores. More than 1 pays for large layers only, and [rounds
    differently](performance.md#threads-and-batching) from machine to machine."""
    inter_op_threads: int
    """Threads for operations side by side; -1: the thread of the request runs the graph."""
    batch_rows: int
    """Dynamic batching: requests that arrive while the model is busy share a run, up to this number of rows; 0: each
    runs by itself; auto: up to 16 rows, where rows get the same bytes together as alone, in less time. See
    [when it pays](performance.md#threads-and-batching)."""
    warmup: str
    """When the [warm-up requests](exporting.md#what-is-written-beside-the-model) beside the model are run. `ready`:
    once, when a readiness probe asks. `load`: before the first answer. `off`: never."""
    manifest: str
    """A model that differs from its [manifest](exporting.md#what-is-written-beside-the-model) is not served. `quick`:
    compares digests of files up to 16 MB, and the sizes of larger ones. `full`: compares all digests. `off`:
    compares nothing."""
    tensorflow_library_dir: Path | None
    """The folder of `libtensorflow_cc.so.2`, if it is not the installed package."""
    custom_op_libraries: tuple[Path, ...]
    """Libraries with custom ops, separated by `:`."""
    accelerator: Path | None
    """The [native codec](performance.md#the-native-codec). `auto`: the one that the image and an uploaded
    function have. `off`: none. Or a file."""

    # Platforms
    aip_predict_route: str
    """One more address for predict. Vertex AI sets it."""
    aip_health_route: str
    """One more address for readiness. Vertex AI sets it."""
    storage_emulator_host: str
    """A server that replaces Cloud Storage in tests: `http://HOST:PORT`. It gets no token."""
    google_oauth_access_token: str
    """A token for Cloud Storage where no metadata server gives one: `$(gcloud auth print-access-token)`."""

    # Events
    event_input: str
    """`gs://BUCKET/FOLDER`: objects written there are scored. Events of other objects are acknowledged and ignored.
    Needs `EVENT_OUTPUT`. With neither, no object is read, and such events are answered 503."""
    event_output: str
    """`gs://BUCKET/FOLDER`: the predictions of an object are written there. Needs `EVENT_INPUT`."""
    event_types: tuple[str, ...]
    """The types of events whose data is a predict request, separated by commas; `com.example.*` matches all types with
    that prefix."""
    event_reply: str
    """Where the answer to an event goes: `response`, an `http(s)://` address, `projects/PROJECT/topics/TOPIC`, or
    `none`."""
    event_max_age: int
    """Seconds. An event that fails and is older is refused permanently, and not delivered again; 0: at no age."""
    event_strict: bool
    """1: a body that is not an event gets 400, whatever it claims to be, so that it ends in the dead letter topic."""
    pubsub_emulator_host: str
    """A server that replaces Pub/Sub in tests: `HOST:PORT`. It gets no token."""
    event_timeout: int
    """Seconds that the platform gives an event (`--timeout`). Pub/Sub and Eventarc deliver again after 600 at most. A
    file that would take longer is refused at its beginning."""

    # Files
    score_options: str
    """The options for rows of files, as in the query of an address: `signature_name=pixels&top_k=3`."""
    score_batch_rows: int
    """Rows of a file that run together. 0: up to 64, while sampled rows stay within 1e-5 of the row alone, else each
    row alone. 1: each row alone, with the bytes of the online answer. Any other number is not checked."""
    score_instances: bool
    """1: each prediction has its instance beside it."""
    score_part_bytes: int
    """The predictions of a large file are kept in parts of this number of bytes until it is complete."""

    # Observing
    log_requests: str
    """Which requests are [logged](observing.md#logs): this number of successful ones and of failed ones a second,
    `all`, `errors` or `none`."""
    log_predictions: float
    """The share of the requests whose predictions are [logged](evaluation.md): 0.01 logs one of a hundred. 0: none."""
    log_predictions_to: Path | str
    """Where they are logged: `log`, an existing folder, or `gs://BUCKET/FOLDER`."""
    log_predictions_without: frozenset[str]
    """The names of inputs and outputs that are left out of them, separated by commas."""
    google_cloud_project: str
    """The project of the traces that the log refers to."""
    metrics: bool
    """1: `GET /metrics` for Prometheus."""
    prometheus_multiproc_dir: Path | None
    """The folder in which several workers share their metrics; a new one if not set."""
    otel_exporter_otlp_endpoint: str
    """Where traces, and metrics with `METRICS=1`, are sent, over HTTP: `http://localhost:4318`. OpenTelemetry's other
    variables work too."""
    otel_exporter_otlp_traces_endpoint: str
    """For traces alone, with the path: `http://localhost:4318/v1/traces`."""
    otel_exporter_otlp_metrics_endpoint: str
    """For metrics alone, with the path: `http://localhost:4318/v1/metrics`."""
    otel_metrics_exporter: str
    """`otlp`: with `METRICS=1` the [metrics are sent](observing.md#metrics-and-traces) to the collector, too."""
    otel_metric_export_interval: int
    """Milliseconds between two sendings of the metrics."""
    otel_service_name: str
    """The name of the service in traces and metrics."""
    otel_sdk_disabled: bool
    """`true`: nothing is sent to the collector."""

    @property
    def traced(self) -> bool:
        """Return whether requests are traced."""
        named = self.otel_exporter_otlp_endpoint or self.otel_exporter_otlp_traces_endpoint
        return bool(named) and not self.otel_sdk_disabled

    def __repr__(self) -> str:
        return f"Settings({', '.join(f'{name}={value!r}' for name, value in self._asdict().items() if name != SECRET)})"


SECRET = "google_oauth_access_token"


# fmt: off
VARIABLES: dict[str, tuple[str, Callable[[str], Any]]] = {
    # variable                 default               how it is read
    "MODEL_DIR":               (str(ROOT / "model"), values.model),
    "MODEL_NAME":              ("model",             values.name),
    "SAVED_MODEL_TAGS":        ("serve",             values.tags),  # TensorFlow Serving's --saved_model_tags
    "HOST":                    ("0.0.0.0",           values.host),
    "PORT":                    ("8080",              values.number(1, 65535)),
    "WORKERS":                 ("1",                 values.number(1, 256)),
    "THREADS":                 ("8",                 values.number(1, 1024)),
    "LAYER":                   ("",                  values.function),
    "PAGE":                    ("on",                values.switch),
    "CORS_ORIGINS":            ("",                  values.origins),
    "MAX_WAIT":                ("1",                 values.seconds),
    "REQUEST_TIMEOUT":         ("300",               values.number(1, 86400)),
    "RUN_TIMEOUT":             ("",                  lambda text: values.number(1, 86400)(text) if text else 0),
    "READ_TIMEOUT":            ("20",                values.number(1, 3600)),
    "MAX_BODY_BYTES":          (str(8 << 20),        values.number(1, 1 << 40)),
    "MAX_ROWS":                (str(1 << 40),       values.number(1, 1 << 40)),
    "MAX_ELEMENTS":            (str(16 << 20),       values.number(1, 1 << 40)),
    "MAX_STRING_BYTES":        (str(8 << 20),        values.number(1, 1 << 40)),
    "MAX_NESTING":             ("32",                values.number(1, 200)),  # the JSON writer ends at 254
    "MAX_PIXELS":              ("50000000",          values.number(1, 1 << 40)),
    "KEY_FIELD":               ("key",               values.name),
    "NON_FINITE":              ("tokens",            values.choice("tokens", "null")),
    "RUNTIME":                 ("auto",              values.choice("auto", "c", "python", "litert")),
    "DANGEROUS_OPS":           ("refuse",            values.choice("refuse", "allow")),
    "CALLERS":                 ("anyone",            values.choice("anyone", "trusted")),
    "INTRA_OP_THREADS":        ("1",                 values.number(0, 1024)),
    "INTER_OP_THREADS":        ("-1",                values.number(-1, 1024)),
    "BATCH_ROWS":              ("0",                 values.batch_rows),
    "WARMUP":                  ("ready",             values.choice("ready", "load", "off")),
    "MANIFEST":                ("quick",             values.choice("quick", "full", "off")),
    "TENSORFLOW_LIBRARY_DIR":  ("",                  values.folder),
    "CUSTOM_OP_LIBRARIES":     ("",                  values.files),
    "ACCELERATOR":             ("auto",              values.extension(lambda: ACCELERATOR)),
    "AIP_PREDICT_ROUTE":       ("",                  values.address),
    "AIP_HEALTH_ROUTE":        ("",                  values.address),
    "STORAGE_EMULATOR_HOST":   ("",                  values.url),
    "GOOGLE_OAUTH_ACCESS_TOKEN": ("",                str.strip),
    "EVENT_INPUT":             ("",                  values.bucket_folder),
    "EVENT_OUTPUT":            ("",                  values.bucket_folder),
    "EVENT_TYPES":             ("*",                 values.event_types),
    "EVENT_REPLY":             ("response",          values.reply),
    "EVENT_MAX_AGE":           (str(24 * 3600),      values.number(0, 1 << 31)),
    "EVENT_STRICT":            ("0",                 values.flag),
    "PUBSUB_EMULATOR_HOST":    ("",                  values.server),
    "EVENT_TIMEOUT":           ("300",               values.number(1, 600)),
    "SCORE_OPTIONS":           ("",                  values.query),
    "SCORE_BATCH_ROWS":        ("0",                 values.number(0, 65536)),
    "SCORE_INSTANCES":         ("0",                 values.flag),
    "SCORE_PART_BYTES":        (str(8 << 20),        values.number(1, 1 << 30)),
    "LOG_REQUESTS":            ("100",               values.log_requests),
    "LOG_PREDICTIONS":         ("0",                 values.share),
    "LOG_PREDICTIONS_TO":      ("log",               values.lines),
    "LOG_PREDICTIONS_WITHOUT": ("",                  values.names),
    "GOOGLE_CLOUD_PROJECT":    ("",                  values.project),
    "METRICS":                 ("0",                 values.flag),
    "PROMETHEUS_MULTIPROC_DIR": ("",                 values.folder),
    "OTEL_EXPORTER_OTLP_ENDPOINT": ("",              values.collector),
    "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": ("",       values.collector),
    "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": ("",      values.collector),
    "OTEL_METRICS_EXPORTER":   ("otlp",              values.choice("otlp", "none")),
    "OTEL_METRIC_EXPORT_INTERVAL": ("60000",         values.number(100, 86_400_000)),
    "OTEL_SERVICE_NAME":       ("",                  str.strip),
    "OTEL_SDK_DISABLED":       ("false",             values.true),
}
# fmt: on


# The platform's variable that replaces one of ours if ours is not set
SUBSTITUTES = {
    "MODEL_DIR": "AIP_STORAGE_URI",
    "PORT": "AIP_HTTP_PORT",
    "REQUEST_TIMEOUT": "CLOUD_RUN_TIMEOUT_SECONDS",
    "EVENT_REPLY": "K_SINK",
    "OTEL_SERVICE_NAME": "K_SERVICE",
}


def read(environment: Mapping[str, str]) -> Settings:
    """Read every variable; an unset or empty one has its default. Raise SettingError at the first bad value."""
    parsed = {}
    for variable, (default, parse) in VARIABLES.items():
        text = environment.get(variable) or _substitute(variable, environment) or default
        try:
            parsed[variable.lower()] = parse(text)
        except ValueError as error:
            raise SettingError(f"{variable}: expected {error}, got {text!r}") from None
    parsed["run_timeout"] = parsed["run_timeout"] or parsed["request_timeout"]
    _check_places(parsed["event_input"], parsed["event_output"])
    return Settings(**parsed)


def _substitute(variable: str, environment: Mapping[str, str]) -> str:
    text = environment.get(SUBSTITUTES.get(variable, ""), "")
    if variable == "REQUEST_TIMEOUT" and not re.fullmatch(r"0*[1-9][0-9]{0,4}", text):
        return ""  # the platform's value is not the user's, so a bad one is ignored
    return text


def _check_places(source: str, output: str) -> None:
    """Refuse one without the other, and an input inside the output, whose predictions would be scored endlessly."""
    for variable, text, other in (("EVENT_INPUT", source, "EVENT_OUTPUT"), ("EVENT_OUTPUT", output, "EVENT_INPUT")):
        if not text and (source or output):
            raise SettingError(
                f"{variable}: expected gs://BUCKET/FOLDER beside {other}, or neither of them, got nothing"
            )
    if output and source.startswith(output):
        expected = f"a folder that does not contain EVENT_INPUT, {source.rstrip('/')!r}"
        raise SettingError(f"EVENT_OUTPUT: expected {expected}, got {output.rstrip('/')!r}")


def folder(argument: Path | None) -> Path:
    """Return the folder of a command's model: its argument, or MODEL_DIR; raise SettingError for a gs:// address."""
    path = argument or current().model_dir
    if isinstance(path, str):
        raise SettingError(f"MODEL_DIR: expected a folder on this machine, or one named by the command, got {path!r}")
    return path


@lru_cache(maxsize=1)
def current() -> Settings:
    """Return this process's settings, read at the first call; raise SettingError for a bad value."""
    return read(os.environ)


def given() -> dict[str, str]:
    """Return the variables of the settings that this process's environment sets."""
    return {name: os.environ[name] for name in (*VARIABLES, *SUBSTITUTES.values()) if os.environ.get(name)}


_adopted: set[str] = set()


def adopt(variables: Mapping[str, str]) -> None:
    """Set variables, in place of those of an earlier call; for a process that works for another, on another machine."""
    for name in _adopted:
        os.environ.pop(name, None)
    _adopted.clear()
    _adopted.update(variables)
    os.environ.update(variables)
    current.cache_clear()


assert {name.upper() for name in Settings._fields} == VARIABLES.keys()
