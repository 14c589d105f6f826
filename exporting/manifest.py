"""The manifest of an export, file by file: written and fully compared here; the server compares it at the load."""

import hashlib
import json
from pathlib import Path
from typing import Any

from exporting.refusal import Unreadable
from serving.core import files
from serving.core.errors import LoadError
from serving.savedmodel.folder import manifest
from serving.savedmodel.folder.manifest import PLACE

__all__ = ["PLACE", "differences", "digests", "sha256", "write"]


def digests(folder: Path) -> dict[str, dict[str, Any]]:
    """Return size and SHA-256 of every file in the folder but the manifest."""
    return {
        name: {"bytes": files.size(folder, name), "sha256": files.sha256(folder, name)}
        for name in manifest.names(folder)
    }


def write(folder: Path) -> None:
    """Write the manifest of the folder as it is."""
    path = folder / PLACE
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({"files": digests(folder)}, indent=1) + "\n")


def differences(folder: Path) -> list[str]:
    """Return how the folder differs from its manifest; raise Unreadable where there is none."""
    if not (folder / PLACE).exists():
        raise Unreadable(f"{folder}: there is no {PLACE}, which `export` writes")
    try:
        return list(manifest.differences(folder, manifest.read(folder), manifest.names(folder), None))
    except (LoadError, OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise Unreadable(f"{folder}: no manifest that could be read ({error})") from None


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file, without reading it all at once."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
