"""Parsers for the values of environment variables; each raises ValueError with the form that it expects."""

import os
import re
from collections.abc import Callable
from pathlib import Path

BUCKET = "[a-z0-9][a-z0-9._-]{1,221}[a-z0-9]"


def matching(pattern: str, expected: str, *, optional: bool = False) -> Callable[[str], str]:
    """Return a parser of texts that match `pattern`, and of "" if `optional`; an error says `expected`."""

    def read(text: str) -> str:
        if not (optional and not text) and not re.fullmatch(pattern, text):
            raise ValueError(expected)
        return text

    return read


name = matching(r"[^/:\s\x00-\x1f\x7f]{1,128}", "a name of 1 to 128 characters without '/', ':' or white space")
host = matching(r"[0-9A-Za-z.:_-]{1,255}", "an address to listen on")
address = matching(r"/[!-~]*", "the path of an address, which begins with '/'", optional=True)
url = matching(r"https?://[^\s/]+/?", "http://HOST:PORT", optional=True)
collector = matching(r"https?://[^\s/]+(/[!-~]*)?", "an http:// or https:// address", optional=True)
function = matching(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*", "module:function, such as checks:with_api_key", optional=True)
query = matching(r"[!->@-~]*", "options as in the query of an address, NAME=VALUE&NAME=VALUE")  # no "?"
log_requests = matching(r"all|errors|none|[1-9][0-9]{0,6}", "all, errors, none, or a number of lines a second")
project = matching(r"[A-Za-z0-9:._-]{1,100}", "the id of a project", optional=True)


def local_path(text: str) -> Path:
    """Read a path on this machine, made absolute; `~` is the home directory."""
    try:
        path = Path(text).expanduser().absolute()
        path.is_dir()  # raises for a name that is too long
    except (OSError, RuntimeError):  # RuntimeError: an unknown home directory
        raise ValueError("a path that can be looked up") from None
    return path


def model(text: str) -> Path | str:
    """Read a folder on this machine, or the address of one in a bucket."""
    if not text.startswith("gs://"):
        return local_path(text)
    if not re.fullmatch(rf"gs://{BUCKET}(/[^\x00-\x1f]*)?", text):
        raise ValueError("a folder, or gs://BUCKET/FOLDER")
    return text


def bucket_folder(text: str) -> str:
    """Read gs://BUCKET/FOLDER; return it with a slash at the end, so that gs://b/in is no prefix of gs://b/inside."""
    if not text:
        return ""
    if not re.fullmatch(rf"gs://{BUCKET}(/[^\x00-\x1f\x7f]*)?", text):
        raise ValueError("gs://BUCKET/FOLDER")
    return text.rstrip("/") + "/"


def reply(text: str) -> str:
    """Read the destination of answers to events."""
    topic = r"projects/[A-Za-z0-9:.-]{1,100}/topics/[A-Za-z][A-Za-z0-9._~+%-]{2,254}"
    if not re.fullmatch(rf"response|none|{topic}|https?://[^\s/]+(/[!-~]*)?", text):
        raise ValueError("response, none, an http:// or https:// address, or projects/PROJECT/topics/TOPIC")
    return text


def event_types(text: str) -> tuple[str, ...]:
    """Read the types of events; one that ends with `*` is a prefix."""
    types = tuple(part.strip() for part in text.split(","))
    if not all(re.fullmatch(r"[!-)+-~]+\*?|\*", part) for part in types):
        raise ValueError("types of events separated by commas; '*' at the end of one stands for anything")
    return types


def tags(text: str) -> frozenset[str]:
    """Read a set of tags, none of them empty."""
    tags = [part.strip() for part in text.split(",")]
    if not all(tags):
        raise ValueError("tags separated by commas")
    return frozenset(tags)


def origins(text: str) -> frozenset[str]:
    """Read origins as a browser writes them (RFC 6454, 6.2): in lower case, without a path, without a default port."""
    parts = [part.strip() for part in text.split(",")] if text else []
    if not all(part == "*" or _is_origin(part) for part in parts):
        raise ValueError("origins such as https://shop.example or http://localhost:3000, separated by commas, or *")
    return frozenset(parts)


def _is_origin(text: str) -> bool:
    if not re.fullmatch(r"[a-z][a-z0-9+.-]*://([a-z0-9._~-]+|\[[0-9a-f:]+\])(:[1-9][0-9]{0,4})?", text):
        return False
    return not re.fullmatch(r"http://.*:80|https://.*:443", text)


def names(text: str) -> frozenset[str]:
    """Read a set of names, which may be empty."""
    parts = [part.strip() for part in text.split(",")] if text else []
    if not all(parts):
        raise ValueError("names separated by commas")
    return frozenset(parts)


def lines(text: str) -> Path | str:
    """Read where lines are written: the log, an existing folder or a folder of a bucket."""
    if text == "log":
        return text
    try:
        path = bucket_folder(text) if text.startswith("gs://") else folder(text)
    except ValueError:
        path = None
    if path is None:
        raise ValueError("log, an existing folder, or gs://BUCKET/FOLDER")
    return path


def switch(text: str) -> bool:
    """Read on or off."""
    return choice("on", "off")(text) == "on"


def flag(text: str) -> bool:
    """Read 1 or 0."""
    return choice("0", "1")(text) == "1"


def true(text: str) -> bool:
    """Read true or false, in any case of letters."""
    return choice("true", "false")(text.lower()) == "true"


def server(text: str) -> str:
    """Read HOST:PORT or http://HOST:PORT, as Google's own tools set it; return it with http://."""
    if not text:
        return ""
    if not re.fullmatch(r"(https?://)?[^\s/]+/?", text):
        raise ValueError("HOST:PORT")
    return text.rstrip("/") if "://" in text else f"http://{text.rstrip('/')}"


def folder(text: str) -> Path | None:
    """Read the path of an existing folder; None for an empty text."""
    if not text:
        return None
    if not local_path(text).is_dir():
        raise ValueError("an existing folder")
    return local_path(text)


def files(text: str) -> tuple[Path, ...]:
    """Read paths of existing files, separated as in PATH."""
    paths = tuple(local_path(part) for part in text.split(os.pathsep) if part)
    missing = [path for path in paths if not path.is_file()]
    if missing:
        raise ValueError(f"existing files, separated by {os.pathsep!r} (there is no {missing[0]})")
    return paths


def extension(default: Callable[[], Path]) -> Callable[[str], Path | None]:
    """Read a file; `auto` is `default()` if that exists."""

    def read(text: str) -> Path | None:
        if text in ("auto", "off"):
            return default() if text == "auto" and default().is_file() else None
        if not local_path(text).is_file():
            raise ValueError("auto, off or an existing file")
        return local_path(text)

    return read


def _is_digits(text: str, most: int) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= most


def number(smallest: int, largest: int) -> Callable[[str], int]:
    """Return a parser of whole numbers from `smallest` to `largest`."""

    def read(text: str) -> int:
        if not _is_digits(text.removeprefix("-"), 19) or not smallest <= int(text) <= largest:
            raise ValueError(f"a whole number from {smallest} to {largest}")
        return int(text)

    return read


AUTO = -1  # what `batch_rows` returns for "auto"


def batch_rows(text: str) -> int:
    """Read a whole number of rows, or auto: AUTO."""
    try:
        return AUTO if text == "auto" else number(0, 1024)(text)
    except ValueError as error:
        raise ValueError(f"{error}, or auto") from None


def seconds(text: str) -> float:
    """Read seconds as a decimal number with at most three digits after the point."""
    whole, point, fraction = text.partition(".")
    if not _is_digits(whole, 5) or (point and not _is_digits(fraction, 3)):
        raise ValueError("seconds as a decimal number, such as 0.5")
    return float(text)


def share(text: str) -> float:
    """Read a decimal number from 0 to 1."""
    if not re.fullmatch(r"[01](\.[0-9]{1,9})?", text) or float(text) > 1:
        raise ValueError("a share from 0 to 1, such as 0.01")
    return float(text)


def choice(*words: str) -> Callable[[str], str]:
    """Return a parser of one of these words."""

    def read(text: str) -> str:
        if text not in words:
            raise ValueError(f"one of {', '.join(words)}")
        return text

    return read
