"""Hints for error messages: the likely type of a body that does not match its headers."""

from serving.core.http import BadRequest, Headers, media_type

FORM = "application/x-www-form-urlencoded"  # curl's content type where none is given
DATA_BINARY = "curl -d drops line ends and what follows a zero byte: use --data-binary @FILE"

# How a file begins, what it is, how it is sent
FILES = (
    (b"\x89PNG",              "a PNG picture",     "Content-Type: image/png"),
    (b"\xff\xd8\xff",         "a JPEG picture",    "Content-Type: image/jpeg"),
    (b"GIF8",                 "a GIF picture",     "Content-Type: image/gif"),
    (b"BM",                   "a BMP picture",     "Content-Type: image/bmp"),
    (b"RIFF",                 "a WebP picture or WAV sound", "Content-Type: image/webp or audio/wav"),
    (b"\x1f\x8b",             "gzip data",         "Content-Encoding: gzip"),
    (b"\x28\xb5\x2f\xfd",     "Zstandard data",    "Content-Encoding: gzip, packed as that"),
    (b"%PDF",                 "a PDF document",    "Content-Type: application/octet-stream"),
    (b"\xff\xfe",             "text in UTF-16",    "Content-Type: application/json, in UTF-8"),
    (b"\xfe\xff",             "text in UTF-16",    "Content-Type: application/json, in UTF-8"),
    (b"{\0",                  "text in UTF-16",    "Content-Type: application/json, in UTF-8"),
    (b"\0{",                  "text in UTF-16",    "Content-Type: application/json, in UTF-8"),
    (b"PK\x03\x04",           "a ZIP archive",     "Content-Type: application/octet-stream"),
)  # fmt: skip


def explained(error: BadRequest, body: bytes, headers: Headers) -> BadRequest:
    """Return the error of a body that is not JSON, with its likely type and the right way to send it."""
    if body[:64].lstrip(b"\xef\xbb\xbf \t\r\n")[:1] in (b"{", b"[") and body[1:2] != b"\0":
        return error
    what, how = next(((what, how) for begins, what, how in FILES if body.startswith(begins)), ("", ""))
    if not what:
        if body.isascii():
            return error
        what, how = "bytes that are not JSON", "Content-Type: application/octet-stream, for a string input"
    media = media_type(headers)
    message = f"{error}; it looks like {what}, and came as {media[:60] or 'no Content-Type'}: send it with {how}"
    if media in (FORM, ""):
        message += f"; {DATA_BINARY}"
    return BadRequest(message, example=False)


def cut(body: bytes) -> str | None:
    """Return a hint that a picture lost bytes when it was sent, None if it did not."""
    for begins, what, _ in FILES[:2]:
        if body.startswith(begins) and b"\0" not in body:  # every such file has some
            return f"{what} without its zero bytes; {DATA_BINARY}"
    return None
