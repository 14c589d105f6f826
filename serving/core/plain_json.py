"""JSON of short values, by the standard library: the log's lines, and the names in an answer.

orjson, which writes the answers of the codecs in Python, brings dataclasses and inspect: 10 ms of a cold start.
"""

import json

# The same bytes as orjson's, but for what JSON has no form for: NaN and the infinities raise ValueError.
to_text = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=str).encode
