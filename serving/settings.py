"""The environment, read once, checked, frozen. Nothing else reads it.

A bad value stops the start with one line that names the variable, what it may be and what it is.
"""

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from functools import lru_cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent


class SettingError(ValueError):
    """A variable of the environment has a value that cannot be used."""


@dataclass(frozen=True, slots=True)
class Settings:
    """One field for each variable; its upper-case name is the variable's."""

    model_dir: Path | str  # str: an address in a bucket, gs://...
    model_name: str
    host: str
    port: int
    workers: int
    threads: int
    max_body_bytes: int
    key_field: str
    non_finite: str
    runtime: str
    dangerous_ops: str
    intra_op_threads: int
    inter_op_threads: int
    batch_rows: int
    tensorflow_library_dir: Path | None
    custom_op_libraries: tuple[Path, ...]
    aip_predict_route: str
    aip_health_route: str
    storage_emulator_host: str


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
    return Path(text).expanduser().absolute()


def _model(text: str) -> Path | str:
    if not text.startswith("gs://"):
        return _path(text)
    if not re.fullmatch(r"gs://[a-z0-9][a-z0-9._-]{1,221}[a-z0-9](/[^\x00-\x1f]*)?", text):
        raise ValueError("a folder, or gs://BUCKET/FOLDER")
    return text


def _url(text: str) -> str:
    if text and not re.fullmatch(r"https?://[^\s/]+/?", text):
        raise ValueError("http://HOST:PORT")
    return text


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


def _number(least: int, most: int) -> Callable[[str], int]:
    def read(text: str) -> int:
        if not re.fullmatch(r"-?[0-9]{1,19}", text) or not least <= int(text) <= most:
            raise ValueError(f"a whole number from {least} to {most}")
        return int(text)

    return read


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
    "HOST":                    ("0.0.0.0",           _host),
    "PORT":                    ("8080",              _number(1, 65535)),
    "WORKERS":                 ("1",                 _number(1, 256)),
    "THREADS":                 ("8",                 _number(1, 1024)),
    "MAX_BODY_BYTES":          (str(8 << 20),        _number(1, 1 << 40)),
    "KEY_FIELD":               ("key",               _name),
    "NON_FINITE":              ("tokens",            _choice("tokens", "null")),
    "RUNTIME":                 ("auto",              _choice("auto", "c", "python")),
    "DANGEROUS_OPS":           ("refuse",            _choice("refuse", "allow")),
    "INTRA_OP_THREADS":        ("1",                 _number(0, 1024)),
    "INTER_OP_THREADS":        ("-1",                _number(-1, 1024)),
    "BATCH_ROWS":              ("0",                 _number(0, 65536)),
    "TENSORFLOW_LIBRARY_DIR":  ("",                  _folder),
    "CUSTOM_OP_LIBRARIES":     ("",                  _files),
    # Vertex AI's; its AIP_HTTP_PORT stands in for PORT, its AIP_STORAGE_URI for MODEL_DIR
    "AIP_PREDICT_ROUTE":       ("",                  _address),
    "AIP_HEALTH_ROUTE":        ("",                  _address),
    # The usual name for a server that stands in for Cloud Storage
    "STORAGE_EMULATOR_HOST":   ("",                  _url),
}
# fmt: on


def read(environment: Mapping[str, str]) -> Settings:
    """Read every variable; an unset or empty one has its default. Raise SettingError at the first that is wrong."""
    values = {}
    if environment.get("AIP_STORAGE_URI") and not environment.get("MODEL_DIR"):
        environment = {**environment, "MODEL_DIR": environment["AIP_STORAGE_URI"]}
    if environment.get("AIP_HTTP_PORT") and not environment.get("PORT"):
        environment = {**environment, "PORT": environment["AIP_HTTP_PORT"]}
    for variable, (default, reader) in VARIABLES.items():
        text = environment.get(variable) or default
        try:
            values[variable.lower()] = reader(text)
        except ValueError as error:
            raise SettingError(f"{variable}: expected {error}, got {text!r}") from None
    return Settings(**values)


@lru_cache(maxsize=1)
def current() -> Settings:
    """Return this process's settings, read when they are first asked for."""
    return read(os.environ)


assert {field.name.upper() for field in fields(Settings)} == set(VARIABLES)
