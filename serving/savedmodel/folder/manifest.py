"""What an export is made of, file by file: `assets.extra/manifest.json`, to see that nothing is missing or changed.

    {"files": {"saved_model.pb": {"bytes": 97981, "sha256": "..."}, ...}}

The exporter writes it, every file but itself in it. A model without one is served unchecked.
"""

import json
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from serving.core import files
from serving.core.errors import LoadError
from serving.savedmodel import saved_model
from serving.savedmodel.folder import twin
from serving.savedmodel.protobuf import each_field, last_field, message_field

EXTRA = "assets.extra"
PB = saved_model.NAME
PLACE = f"{EXTRA}/manifest.json"
ON_TOP = (".pb", ".tflite", twin.SIGNATURES)  # names of files on top that decide an answer end so
LARGE = 16 << 20  # bytes; to digest more would be felt in a cold start
OFF = "MANIFEST=off serves it anyway"


def check(directory: Path, how: str) -> None:
    """Raise LoadError, which names the file, where the model is not as it was exported.

    `how` is MANIFEST: "off"; "full" digests every file; "quick" those up to LARGE, and compares the sizes of the rest,
    which are variables as a rule: TensorFlow compares each of them with a checksum while it reads it.
    Files that do not decide an answer may be otherwise: hidden ones, and those beside saved_model.pb, as its card is.
    """
    if how == "off" or not (directory / PLACE).is_file() or leftovers(directory):
        return
    try:
        stated = {name: of for name, of in read(directory).items() if _served(name) or _loaded(name)}
        there = [name for name in names(directory) if _served(name) or name in stated]
        found = list(differences(directory, stated, there, None if how == "full" else LARGE))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise LoadError(f"{PLACE} is not a readable manifest; {OFF}") from None
    if found:
        more = f" ({len(found) - 1} more)" if len(found) > 1 else ""
        raise LoadError(f"it is not as it was exported: {found[0]}{more}; {OFF}")


def read(directory: Path) -> dict[str, dict[str, Any]]:
    """Return what the manifest says of each file; raise OSError, ValueError or KeyError where it cannot be read."""
    return dict(json.loads(files.content(directory, PLACE) or b"")["files"].items())


def leftovers(directory: Path) -> frozenset[str]:
    """Return the files beside a model that were written for another one, whose place it has taken.

    That is so where saved_model.pb and all variables that it reads are others than the manifest says. A file that was
    damaged has its size still, or cannot be read. What lies in assets.extra/ as the manifest says is the other model's;
    the rest may have come with this one.
    """
    try:
        stated = read(directory)
        size = stated[PB]["bytes"]
        if not isinstance(size, int) or size == files.size(directory, PB):
            return frozenset()
        if any(name in stated and _as_stated(directory, name, stated[name], None) for name in _variables(directory)):
            return frozenset()
        left = (name for name in stated if name.startswith(f"{EXTRA}/"))
        return frozenset({PLACE, *(name for name in left if _is_there_as_stated(directory, name, stated[name]))})
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, LoadError):
        return frozenset()  # `check` says what is wrong


def extra(directory: Path, name: str, largest: int = files.SMALL) -> bytes | None:
    """Return what is in a file in assets.extra/, None where there is none, or it was written for another model."""
    content = files.content(directory, f"{EXTRA}/{name}", largest)
    return None if content is None or f"{EXTRA}/{name}" in leftovers(directory) else content


def _variables(directory: Path) -> list[str]:
    """Return the names of the files of variables that the model reads."""
    if not any(last_field(message_field(graph, 3), 3) for graph in each_field(saved_model.message(directory), 2)):
        return []
    return list(files.names(directory, "variables"))


def _is_there_as_stated(directory: Path, name: str, stated: Mapping[str, Any]) -> bool:
    try:
        return _as_stated(directory, name, stated, None)
    except FileNotFoundError:
        return False


def names(directory: Path) -> list[str]:
    """Return the name of every file in the folder but the manifest, in order; no pipes, devices or sockets."""
    return sorted(name for name in files.names(directory) if name != PLACE and files.readable(directory, name))


def differences(
    directory: Path, stated: Mapping[str, Mapping[str, Any]], there: Collection[str], largest: int | None
) -> Iterator[str]:
    """Say how files differ from what is stated of them; of those above `largest` bytes the size alone is compared."""
    yield from (f"{name} is not there" for name in stated if name not in there)
    yield from (f"{name} is not in the manifest" for name in there if name not in stated)
    for name in there:
        try:
            if name in stated and not _as_stated(directory, name, stated[name], largest):
                yield f"{name} has changed"
        except FileNotFoundError:
            yield f"{name} cannot be read (No such file or directory)"
        except LoadError as error:
            yield str(error)


def _as_stated(directory: Path, name: str, stated: Mapping[str, Any], largest: int | None) -> bool:
    size = files.size(directory, name)
    if size != stated["bytes"]:
        return False
    return (largest is not None and size > largest) or files.sha256(directory, name) == stated["sha256"]


def _loaded(name: str) -> bool:
    """Say whether saved_model.pb may name a file, hidden or not."""
    return name.startswith(("assets/", "variables/"))


def _served(name: str) -> bool:
    folders = name.split("/")
    if any(part.startswith(".") for part in folders):
        return False
    return len(folders) > 1 or name.endswith(ON_TOP)
