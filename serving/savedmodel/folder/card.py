"""The origin of a model: `assets.extra/card.json`, which `python -m exporting` and `export` write.

    {"digest": "0f3c...", "time": "2026-11-29T19:51:25Z", "tensorflow": "2.21.0", "source": "bake",
     "source_digest": "77ab...", "source_name": "model"}

`digest` is what `digest` below returns, so a card that was copied beside another model is detected. A model without a
card is served too; a card does not affect predictions.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path

from serving.core import files
from serving.core.errors import LoadError
from serving.core.telemetry.log import log
from serving.savedmodel.folder import manifest

NAME = "card.json"
PLACE = f"{manifest.EXTRA}/{NAME}"
LARGEST = 4096  # bytes of a card
LONGEST = 200  # characters of one of its texts
REQUIRED = ("digest", "time", "tensorflow", "source")
FIELDS = {
    "digest": r"[0-9a-f]{32}",
    "time": r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ",  # when it was written, UTC
    "tensorflow": ".+",  # the version that wrote it
    "source": ".+",  # what was exported, "keras" or "function", or the command that wrote it, "bake", "bake --litert"
    "keras": ".+",  # the version of Keras that built the model
    "source_digest": r"[0-9a-f]{32}",  # of the model that was baked
    "source_name": ".+",  # the name of its folder, without the path
}


def digest(directory: Path) -> str:
    """Return a digest, 32 hexadecimal digits, of the files that decide a model's predictions.

    It is the beginning of the SHA-256 of the files' SHA-256s by name. The variables' data enter by their size only: the
    index beside them holds their checksums.
    """
    from hashlib import sha256  # it loads OpenSSL, which no prediction needs

    parts: dict[str, object] = {}
    for name in manifest.names(directory):
        if name.startswith(f"{manifest.EXTRA}/") and name != f"{manifest.EXTRA}/labels.txt":
            continue
        if name.startswith(".") or ("/" not in name and not name.endswith(manifest.ON_TOP)):
            continue
        data = name.startswith("variables/variables.data")
        parts[name] = files.size(directory, name) if data else files.sha256(directory, name)
    return sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]


def read(directory: Path) -> Mapping[str, str]:
    """Return the model's card; empty, with a warning in the log, where it is malformed or another model's."""
    try:
        content = manifest.extra(directory, NAME, LARGEST)
        if content is None:
            return {}
        card = json.loads(content)
        problem = wrong(card)
        if not problem and card["digest"] != digest(directory):
            problem = "digest: it is that of another model"
    except (LoadError, OSError) as error:  # of any file in the digest
        problem = f"{error}"
    except (ValueError, RecursionError):
        problem = "expected JSON"
    if problem:
        log("WARNING", f"{PLACE} is ignored: {problem}")
        return {}
    return dict(card)


def wrong(card: object) -> str | None:
    """Return what is wrong with the content of a card, or None."""
    if not isinstance(card, dict):
        return "expected an object"
    for name in REQUIRED:
        if name not in card:
            return f"expected {name!r}, which is not there"
    for name, value in card.items():
        if name not in FIELDS:
            return f"expected the names {', '.join(FIELDS)}, got {name[:LONGEST]!r}"
        if not isinstance(value, str):
            return f"{name}: expected a string, got {type(value).__name__}"
        if len(value) > LONGEST or not value.isprintable() or not re.fullmatch(FIELDS[name], value, re.ASCII):
            return f"{name}: expected at most {LONGEST} printable characters of its form, got {value[:LONGEST]!r}"
    return None
