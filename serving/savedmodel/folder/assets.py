"""The names of the assets in saved_model.pb, which TensorFlow opens when it loads the model.

TensorFlow joins each name to the folder without a check: a model whose name contains `../` reads any file that the
process may read, and a lookup table returns it. `serving.core.files` checks the links in the folder.
"""

from pathlib import Path, PurePosixPath

from serving.core.errors import LoadError
from serving.savedmodel.protobuf import last_field, text_of
from serving.savedmodel.roots import asset_definitions
from serving.savedmodel.signature import served_graph

LONGEST = 1024  # characters of a name


def problem(directory: Path) -> str | None:
    """Return what is wrong with the name of an asset, or None; raise LoadError where saved_model.pb is unreadable."""
    try:
        names = [text_of(last_field(definition, 2)) for definition in asset_definitions(served_graph(directory))]
    except (ValueError, IndexError) as error:
        raise LoadError(f"saved_model.pb is not a SavedModel, or only part of one ({error})") from None
    for name in names:
        path = PurePosixPath(name)
        if not name or len(name) > LONGEST or "\0" in name or path.is_absolute() or ".." in path.parts:
            return f"it names the asset {name[:80]!r}, which is not a file inside assets/"
    return None
