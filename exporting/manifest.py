"""What an export is made of, file by file: written here, compared in full here, and by the server when it loads."""

import json
from pathlib import Path
from typing import Any

from exporting.refusal import Unreadable
from serving import manifest
from serving.manifest import PLACE, sha256

__all__ = ["PLACE", "differences", "digests", "sha256", "write"]


def digests(folder: Path) -> dict[str, dict[str, Any]]:
    """Return size and SHA-256 of every file in the folder but the manifest."""
    return {
        name: {"bytes": path.stat().st_size, "sha256": sha256(path)} for name, path in manifest.files(folder).items()
    }


def write(folder: Path) -> None:
    """Write the manifest of the folder as it is."""
    path = folder / PLACE
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({"files": digests(folder)}, indent=1) + "\n")


def differences(folder: Path) -> list[str]:
    """Say how the folder differs from its manifest; raise Unreadable where there is none."""
    try:
        return list(manifest.differences(manifest.read(folder), manifest.files(folder), None))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise Unreadable(f"{folder}: no manifest that could be read ({error})") from None
