"""The files that a SavedModel has read when it is loaded: saved_model.pb names them, TensorFlow opens what it names.

TensorFlow joins each name to the folder and looks no further: with `../` in it a model reads whatever the process may,
and a lookup table hands it out. Where links in the folder lead is checked in `serving.core.files`.
"""

from pathlib import Path, PurePosixPath

from serving.core.errors import LoadError
from serving.savedmodel.protobuf import last_field, text_of
from serving.savedmodel.roots import asset_definitions
from serving.savedmodel.signature import served_graph

LONGEST = 1024  # characters of a name


def problem(directory: Path) -> str | None:
    """Say which asset is not a file of the model's own, or None; raise LoadError where saved_model.pb is unreadable."""
    try:
        found = [text_of(last_field(definition, 2)) for definition in asset_definitions(served_graph(directory))]
    except (ValueError, IndexError) as error:
        raise LoadError(f"saved_model.pb is not a SavedModel, or only part of one ({error})") from None
    for name in found:
        path = PurePosixPath(name)
        if not name or len(name) > LONGEST or "\0" in name or path.is_absolute() or ".." in path.parts:
            return f"it names the asset {name[:80]!r}, which is not a file inside assets/"
    return None
