"""The size and digest of each file of an export: `assets.extra/manifest.json` shows what is missing or changed.

    {"files": {"saved_model.pb": {"bytes": 97981, "sha256": "..."}, ...}}

The exporter writes it; it lists every file but itself. A model without one is served unchecked.
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
ON_TOP = (".pb", ".tflite", twin.SIGNATURES)  # the ends of names of files at the top that decide predictions
LARGE = 16 << 20  # bytes; digesting more would slow a cold start
OFF = "MANIFEST=off serves it anyway"


def check(directory: Path, how: str) -> None:
    """Raise LoadError, which names the file, where the model differs from its manifest.

    `how` is MANIFEST: "off"; "full" digests every file; "quick" digests those up to LARGE and compares the sizes of the
    rest, which are usually variables: TensorFlow compares each with its checksum while it reads it.
    Files that do not decide predictions may differ: hidden ones, and others beside saved_model.pb.
    """
    if how == "off" or not (directory / PLACE).is_file() or leftovers(directory):
        return
    try:
        stated = {name: facts for name, facts in read(directory).items() if _served(name) or _loaded(name)}
        present = [name for name in names(directory) if _served(name) or name in stated]
        problems = list(differences(directory, stated, present, None if how == "full" else LARGE))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise LoadError(f"{PLACE} is not a readable manifest; {OFF}") from None
    if problems:
        more = f" ({len(problems) - 1} more)" if len(problems) > 1 else ""
        raise LoadError(f"it is not as it was exported: {problems[0]}{more}; {OFF}")


def read(directory: Path) -> dict[str, dict[str, Any]]:
    """Return size and digest of each file by name; raise OSError, ValueError or KeyError where it cannot be read."""
    return dict(json.loads(files.content(directory, PLACE) or b"")["files"].items())


def leftovers(directory: Path) -> frozenset[str]:
    """Return the files beside a model that were written for a previous model in the same folder.

    The manifest is a previous model's where saved_model.pb and all variables that it reads differ from it in size; a
    damaged file still has its size, or cannot be read. The files in assets.extra/ that match the manifest are then the
    previous model's; the others may belong to this one.
    """
    try:
        stated = read(directory)
        size = stated[PB]["bytes"]
        if not isinstance(size, int) or size == files.size(directory, PB):
            return frozenset()
        if any(name in stated and _as_stated(directory, name, stated[name], None) for name in _variables(directory)):
            return frozenset()
        extras = (name for name in stated if name.startswith(f"{EXTRA}/"))
        return frozenset({PLACE, *(name for name in extras if _is_there_as_stated(directory, name, stated[name]))})
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, LoadError):
        return frozenset()  # `check` says what is wrong


def extra(directory: Path, name: str, largest: int = files.SMALL) -> bytes | None:
    """Return the content of a file in assets.extra/, None where it is absent or was written for another model."""
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
    """Return the names of all regular files in the folder but the manifest, sorted."""
    return sorted(name for name in files.names(directory) if name != PLACE and files.readable(directory, name))


def differences(
    directory: Path, stated: Mapping[str, Mapping[str, Any]], present: Collection[str], largest: int | None
) -> Iterator[str]:
    """Yield how files differ from the manifest; of files above `largest` bytes only the size is compared."""
    yield from (f"{name} is not there" for name in stated if name not in present)
    yield from (f"{name} is not in the manifest" for name in present if name not in stated)
    for name in present:
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
    """Return whether saved_model.pb may refer to a file, hidden or not."""
    return name.startswith(("assets/", "variables/"))


def _served(name: str) -> bool:
    folders = name.split("/")
    if any(part.startswith(".") for part in folders):
        return False
    return len(folders) > 1 or name.endswith(ON_TOP)
