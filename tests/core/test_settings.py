"""The environment: every variable checked at the start, in one line."""

import subprocess
import sys
from pathlib import Path

import pytest

from serving.core.settings import SUBSTITUTES, VARIABLES, SettingError, read
from tests.conftest import ROOT, plain_environment
from tools import settings_page

WRONG = [
    # variable                 value            words
    ("MODEL_NAME",             "a/b",           "MODEL_NAME: expected a name"),
    ("MODEL_NAME",             "a b",           "MODEL_NAME: expected a name"),
    ("MODEL_NAME",             "x" * 129,       "MODEL_NAME: expected a name"),
    ("PORT",                   "eighty",        "PORT: expected a whole number from 1 to 65535, got 'eighty'"),
    ("PORT",                   "0",             "PORT: expected a whole number"),
    ("PORT",                   "65536",         "PORT: expected a whole number"),
    ("MAX_BODY_BYTES",         "8M",            "MAX_BODY_BYTES: expected a whole number"),
    ("MAX_BODY_BYTES",         "-1",            "MAX_BODY_BYTES: expected a whole number"),
    ("CORS_ORIGINS",           "shop.example",  "CORS_ORIGINS: expected origins such as https://shop.example"),
    ("CORS_ORIGINS",           "https://a.b/",  "CORS_ORIGINS: expected origins"),
    ("CORS_ORIGINS",           "https://A.b",   "CORS_ORIGINS: expected origins"),
    ("CORS_ORIGINS",           "http://a:80",   "CORS_ORIGINS: expected origins"),
    ("CORS_ORIGINS",           "https://a.b,",  "CORS_ORIGINS: expected origins"),
    ("CORS_ORIGINS",           "https://*.b",   "CORS_ORIGINS: expected origins"),
    ("CORS_ORIGINS",           "null",          "CORS_ORIGINS: expected origins"),
    ("RUNTIME",                "java",          "RUNTIME: expected one of auto, c, python, litert, got 'java'"),
    ("INTER_OP_THREADS",       "-2",            "INTER_OP_THREADS: expected a whole number from -1"),
    ("TENSORFLOW_LIBRARY_DIR", "/no/such",      "TENSORFLOW_LIBRARY_DIR: expected an existing folder"),
    ("CUSTOM_OP_LIBRARIES",    "/no/such.so",   "CUSTOM_OP_LIBRARIES: expected existing files"),
]  # fmt: skip


@pytest.mark.parametrize(("variable", "value", "words"), WRONG)
def test_a_bad_value_is_named(variable: str, value: str, words: str) -> None:
    with pytest.raises(SettingError) as raised:
        read({variable: value})
    assert str(raised.value).startswith(words)


def test_an_unset_or_empty_variable_has_its_default() -> None:
    assert read({}) == read(dict.fromkeys(VARIABLES, ""))
    assert read({}).port == 8080


SUBSTITUTED = [
    # variable             what the platform sets                            value               read as
    ("PORT",               "AIP_HTTP_PORT",                                  "9000",             9000),
    ("MODEL_DIR",          "AIP_STORAGE_URI",                                "gs://bucket/m",    "gs://bucket/m"),
    ("REQUEST_TIMEOUT",    "CLOUD_RUN_TIMEOUT_SECONDS",                      "60",               60),
    ("REQUEST_TIMEOUT",    "CLOUD_RUN_TIMEOUT_SECONDS",                      "soon",             300),
    ("EVENT_REPLY",        "K_SINK",                                         "http://broker/",   "http://broker/"),
    ("OTEL_SERVICE_NAME",  "K_SERVICE",                                      "predict",          "predict"),
]  # fmt: skip


@pytest.mark.parametrize(("variable", "substitute", "value", "parsed"), SUBSTITUTED)
def test_a_platforms_variable_is_used_where_its_setting_is_not_set(
    variable: str, substitute: str, value: str, parsed: object
) -> None:
    assert SUBSTITUTES[variable] == substitute
    assert getattr(read({substitute: value}), variable.lower()) == parsed
    own = {"PORT": "81", "MODEL_DIR": "/tmp", "REQUEST_TIMEOUT": "7", "EVENT_REPLY": "none"}.get(variable, "own")
    assert str(getattr(read({substitute: value, variable: own}), variable.lower())) == own


def test_the_page_of_settings_is_complete_and_current() -> None:
    written = settings_page.PAGE.read_text()
    assert written == settings_page.page(), "python -m tools.settings_page writes it"
    for variable, (default, _) in VARIABLES.items():
        row = next(line for line in written.splitlines() if line.startswith(f"| `{variable}`"))
        assert f"`{'model/' if variable == 'MODEL_DIR' else default}`" in row or not default, row


def test_a_bad_value_stops_the_start_with_one_line(tmp_path: Path) -> None:
    framework = Path(sys.executable).parent / "functions-framework"
    run = subprocess.run(
        [framework, "--target", "predict"],
        cwd=ROOT, env=plain_environment(MODEL_NAME="a/b"), capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert run.returncode == 1
    assert run.stderr.strip().splitlines() == [
        "main.py: MODEL_NAME: expected a name of 1 to 128 characters without '/', ':' or white space, got 'a/b'"
    ]


def test_the_platforms_timeout_is_the_default() -> None:
    assert read({"CLOUD_RUN_TIMEOUT_SECONDS": "60"}).request_timeout == 60
    assert read({"CLOUD_RUN_TIMEOUT_SECONDS": "60", "REQUEST_TIMEOUT": "5"}).request_timeout == 5
    assert read({"CLOUD_RUN_TIMEOUT_SECONDS": "0"}).request_timeout == 300
