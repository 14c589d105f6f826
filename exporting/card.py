"""Write a model's card: `assets.extra/card.json`, see `serving.savedmodel.folder.card`."""

import json
import os
from collections.abc import Iterable
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

from exporting.function import is_keras
from exporting.refusal import Refusal
from serving.savedmodel.folder import card


def write(folder: Path, source: str, **more: str) -> None:
    """Write the card of the model in `folder`, which is complete except for its manifest.

    A text that no card can hold, such as the odd name of a folder, is left out.
    """
    import tensorflow as tf

    facts = {
        "digest": card.digest(folder),
        "time": _now().strftime("%Y-%m-%dT%H:%M:%SZ"),
        "tensorflow": tf.__version__,
        "source": source,
    }
    facts |= {name: text for name, text in more.items() if card.wrong({**facts, name: text}) is None}
    path = folder / card.PLACE
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(facts, indent=1) + "\n")


def write_exported(folder: Path, models: Iterable[Any]) -> None:
    """Write the card of what was exported from these models, or functions."""
    if any(is_keras(model) for model in models):
        write(folder, "keras", keras=version("keras"))
    else:
        write(folder, "function")


def write_baked(folder: Path, how: str, original: Path) -> None:
    """Write the card of a model that was made from `original`; of its path the card has the folder's name alone."""
    write(folder, how, source_digest=card.digest(original), source_name=original.resolve().name)


def _now() -> datetime:
    """Return the time, or that of SOURCE_DATE_EPOCH, with which two exports of one model have the same bytes.

    See <https://reproducible-builds.org/docs/source-date-epoch/>.
    """
    text = os.environ.get("SOURCE_DATE_EPOCH")
    if not text:
        return datetime.now(timezone.utc)
    try:
        return datetime.fromtimestamp(int(text), timezone.utc)
    except (ValueError, OverflowError, OSError):
        raise Refusal(f"SOURCE_DATE_EPOCH: expected seconds since 1970, got {text!r}") from None
