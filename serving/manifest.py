"""What an export is made of, file by file: `assets.extra/manifest.json`, to see that nothing is missing or changed.

    {"files": {"saved_model.pb": {"bytes": 97981, "sha256": "..."}, ...}}

The exporter writes it, every file but itself in it. A model without one is served unchecked.
"""

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from serving.errors import LoadError

PLACE = "assets.extra/manifest.json"
LARGE = 16 << 20  # bytes; to digest more would be felt in a cold start
OFF = "MANIFEST=off serves it still"


def check(directory: Path, how: str) -> None:
    """Raise LoadError, which names the file, where the model is not as it was exported.

    `how` is MANIFEST: "off"; "full" digests every file; "quick" those up to LARGE, and compares the sizes of the rest,
    which are variables as a rule: TensorFlow compares each of them with a checksum while it reads it.
    Files that do not decide an answer may be otherwise: hidden ones, and those beside saved_model.pb, as its card is.
    """
    if how == "off" or not (directory / PLACE).is_file():
        return
    try:
        stated = {name: of for name, of in read(directory).items() if _served(name) or _loaded(name)}
        there = {name: path for name, path in files(directory).items() if _served(name) or name in stated}
        found = list(differences(stated, there, None if how == "full" else LARGE))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise LoadError(f"{PLACE} is no manifest that could be read; {OFF}") from None
    if found:
        more = f" ({len(found) - 1} more)" if len(found) > 1 else ""
        raise LoadError(f"it is not as it was exported: {found[0]}{more}; {OFF}")


def read(directory: Path) -> dict[str, dict[str, Any]]:
    """Return what the manifest says of each file; raise OSError, ValueError or KeyError where it cannot be read."""
    return dict(json.loads((directory / PLACE).read_bytes())["files"].items())


def files(directory: Path) -> dict[str, Path]:
    """Return every file but the manifest, by its name in the folder, in the order of the names; no pipes or sockets."""
    found = {}
    for folder, _, names in os.walk(directory):
        for name in names:
            path = Path(folder, name)
            if path.is_fifo() or path.is_socket():
                continue  # whoever reads one waits
            found[path.relative_to(directory).as_posix()] = path
    found.pop(PLACE, None)
    return dict(sorted(found.items()))


def differences(
    stated: Mapping[str, Mapping[str, Any]], there: Mapping[str, Path], largest: int | None
) -> Iterator[str]:
    """Say how files differ from what is stated of them; of those above `largest` bytes the size alone is compared."""
    yield from (f"{name} is not there" for name in stated if name not in there)
    yield from (f"{name} is not in the manifest" for name in there if name not in stated)
    for name, path in there.items():
        try:
            if name in stated and not _as_stated(path, stated[name], largest):
                yield f"{name} has changed"
        except OSError as error:
            yield f"{name} cannot be read ({error.strerror})"


def _as_stated(path: Path, stated: Mapping[str, Any], largest: int | None) -> bool:
    size = path.stat().st_size
    if size != stated["bytes"]:
        return False
    return (largest is not None and size > largest) or sha256(path) == stated["sha256"]


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file, without reading it all at once."""
    import hashlib  # OpenSSL comes with it, and a model without a manifest does not need it

    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _loaded(name: str) -> bool:
    """Say whether saved_model.pb may name a file, hidden or not."""
    return name.startswith(("assets/", "variables/"))


def _served(name: str) -> bool:
    folders = name.split("/")
    if any(part.startswith(".") for part in folders):
        return False
    return len(folders) > 1 or name.endswith((".pb", ".tflite"))
