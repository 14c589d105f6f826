"""The page to try the model, at `GET /` for browsers: page.html with its styles and scripts in it.

The page uses the addresses that every client has: the index, the metadata, /openapi.json and predict. Its
Content-Security-Policy <https://www.w3.org/TR/CSP3/> allows only the styles and scripts that stand in it, by their
digests, and requests to this server. The files are read when the page is first asked for.
"""

import base64
from functools import lru_cache
from hashlib import sha256
from pathlib import Path

from serving.core.http import Headers, Response, compress, varied

FOLDER = Path(__file__).parent
SCRIPTS = ("values.js", "model.js", "pictures.js", "drawing.js", "fields.js", "answers.js", "snippets.js", "page.js")
HTML, JSON = "text/html", "application/json"


def is_preferred(accept: str | None) -> bool:
    """Return whether a client prefers HTML to JSON: it names HTML, and JSON not at all or with a lower weight.

    Clients of the API send `*/*`, name JSON, or send nothing (RFC 9110, 12.5.1).
    """
    weights = {HTML: 0.0, JSON: 0.0}
    for part in (accept or "")[:1000].lower().split(","):
        name, *parameters = [text.strip() for text in part.split(";")]
        if name in weights:
            weights[name] = next((_weight(text[2:]) for text in parameters if text.startswith("q=")), 1.0)
    return weights[HTML] > weights[JSON]


def _weight(text: str) -> float:
    return float(text) if text.replace(".", "", 1).isdecimal() else 0.0


def answer(headers: Headers) -> Response:
    """Return the page, compressed if the client accepts that."""
    return varied(compress(_page(), headers.get("accept-encoding")), "Accept")


@lru_cache(maxsize=1)
def _page() -> Response:
    html, styles = _text("page.html"), _text("page.css")
    scripts = [_text(name) for name in SCRIPTS]
    html = html.replace("STYLES", styles, 1)
    html = html.replace("SCRIPTS", "\n".join(f"<script>{script}</script>" for script in scripts), 1)
    policy = {
        "default-src": ["'none'"],
        "style-src": [_digest(styles)],
        "script-src": [_digest(script) for script in scripts],
        "img-src": ["data:", "blob:"],
        "connect-src": ["'self'"],
        "base-uri": ["'none'"],
        "form-action": ["'none'"],
        "frame-ancestors": ["'none'"],
    }
    fields = (
        ("Content-Security-Policy", "; ".join(f"{name} {' '.join(sources)}" for name, sources in policy.items())),
        ("X-Content-Type-Options", "nosniff"),
        ("Referrer-Policy", "no-referrer"),
        ("Cache-Control", "no-cache"),
    )
    return Response(200, html.encode(), f"{HTML}; charset=utf-8", fields)


def _text(name: str) -> str:
    return (FOLDER / name).read_text(encoding="utf-8")


def _digest(text: str) -> str:
    return f"'sha256-{base64.b64encode(sha256(text.encode()).digest()).decode()}'"
