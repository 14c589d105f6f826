"""What an export is made of, file by file: `assets.extra/manifest.json`, to see that nothing is missing or changed.

    {"files": {"saved_model.pb": {"bytes": 97981, "sha256": "..."}, ...}}

Every file but itself, in the order of their names.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

from exporting.refusal import Unreadable

PLACE = "assets.extra/manifest.json"


def digests(folder: Path) -> dict[str, dict[str, Any]]:
    """Return size and SHA-256 of every file in the folder but the manifest."""
    found = {}
    for path in sorted(folder.rglob("*"), key=lambda path: path.relative_to(folder).as_posix()):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and name != PLACE:
            found[name] = {"bytes": path.stat().st_size, "sha256": sha256(path)}
    return found


def write(folder: Path) -> None:
    """Write the manifest of the folder as it is."""
    path = folder / PLACE
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({"files": digests(folder)}, indent=1) + "\n")


def differences(folder: Path) -> list[str]:
    """Say how the folder differs from its manifest; raise Unreadable where there is none."""
    try:
        stated = json.loads((folder / PLACE).read_bytes())["files"]
        there = digests(folder)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Unreadable(f"{folder}: no manifest that could be read ({error})") from None
    found = [f"{name} is not there" for name in stated if name not in there]
    found += [f"{name} is not in the manifest" for name in there if name not in stated]
    return found + [f"{name} has changed" for name in there if name in stated and there[name] != stated[name]]


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file, without reading it all at once."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
