"""The mark of a baked model, in saved_model.pb itself: MetaInfoDef.meta_graph_version begins with "baked".

There the mark cannot be separated from the graph, and a server reads that message anyway, for the tags.
`assets.extra/baked.json` beside it is for people: from what, by which versions, within which tolerance, how fast.
"""

from typing import Any

MARK = "baked"


def is_baked(graph: Any) -> bool:
    """Say whether a MetaGraphDef carries the mark."""
    return bool(graph.meta_info_def.meta_graph_version.startswith(MARK))
