"""The page at `GET /`: who gets it, and what it is made of. What it does is in test_page_in_chromium.py."""

import base64
import hashlib
import json
import re
import subprocess
import sys
import zlib
from html.parser import HTMLParser

import pytest

from serving.core.http import Response
from serving.pipeline import page
from tests.conftest import EMBEDDED, ROOT, Serve, plain_environment

HTML, JSON = "text/html; charset=utf-8", "application/json"
CHROMIUM = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8"
SAFARI = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"

ACCEPTED = [
    # Accept                                    what is answered
    (CHROMIUM,                                  HTML),
    (SAFARI,                                    HTML),
    ("TEXT/HTML",                               HTML),
    ("application/json;q=0.8, text/html",       HTML),
    ("",                                        JSON),
    ("*/*",                                     JSON),  # curl, requests, httpx
    ("application/json, text/plain, */*",       JSON),  # axios
    ("application/json, text/html",             JSON),
    ("text/html;q=0, */*",                      JSON),
    ("text/html;q=x",                           JSON),
    ("text/*",                                  JSON),
]  # fmt: skip


@pytest.mark.parametrize(("accept", "content_type"), ACCEPTED)
def test_browsers_get_the_page_and_other_clients_json(serve: Serve, accept: str, content_type: str) -> None:
    answer = serve()("GET", "/", accept=accept)
    assert (answer.status, answer.content_type) == (200, content_type)
    assert dict(answer.headers)["Vary"] == "Accept"


def test_the_page_is_off_by_its_setting(serve: Serve) -> None:
    answer = serve(PAGE="off")("GET", "/", accept=CHROMIUM)
    assert (answer.content_type, answer.headers, json.loads(answer.body)["model"]) == (JSON, (), "model")


def test_the_page_is_compressed(serve: Serve) -> None:
    ask = serve()
    packed = ask("GET", "/", accept=CHROMIUM, accept_encoding="gzip, deflate, br")
    assert zlib.decompress(packed.body, 31) == ask("GET", "/", accept=CHROMIUM).body
    assert dict(packed.headers)["Vary"] == "Accept-Encoding, Accept"


class Parts(HTMLParser):
    """What the page has in it: the texts of its styles and scripts, and every address."""

    def __init__(self, response: Response) -> None:
        super().__init__()
        self.texts: dict[str, list[str]] = {"style": [], "script": []}
        self.addresses: list[str] = []
        self.handlers: list[str] = []
        self.ids: list[str] = []
        self.feed(response.body.decode())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href", "action")]
        self.handlers += [name for name, _ in attrs if name.startswith("on") or name == "style"]
        self.ids += [value or "" for name, value in attrs if name == "id"]

    def handle_data(self, data: str) -> None:
        if self.lasttag in self.texts and data.strip():
            self.texts[self.lasttag].append(data)


def test_the_policy_allows_the_scripts_and_styles_of_the_page_and_no_other_host(serve: Serve) -> None:
    answer = serve()("GET", "/", accept=CHROMIUM)
    parts = Parts(answer)
    policy = dict(line.split(" ", 1) for line in dict(answer.headers)["Content-Security-Policy"].split("; "))
    for directive, texts in (("style-src", parts.texts["style"]), ("script-src", parts.texts["script"])):
        digests = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in texts]
        assert policy[directive].split() == [f"'sha256-{digest}'" for digest in digests]
    assert len(parts.texts["script"]) == len(page.SCRIPTS)
    assert (policy["default-src"], policy["connect-src"]) == ("'none'", "'self'")
    assert [address for address in parts.addresses if not address.startswith("data:")] == ["openapi.json"]
    assert parts.handlers == []
    assert len(set(parts.ids)) == len(parts.ids)


def test_no_file_of_the_page_is_long_and_every_one_is_used() -> None:
    files = {path.name: path.read_text() for path in page.FOLDER.iterdir() if path.suffix in (".js", ".css", ".html")}
    assert {name for name in files if name.endswith(".js")} == set(page.SCRIPTS)
    assert {name: text.count("\n") for name, text in files.items() if text.count("\n") > 400} == {}
    named = set(re.findall(r'byId\("([\w-]+)"\)', "".join(files.values())))
    assert named <= set(re.findall(r'id="([\w-]+)"', files["page.html"]))


def test_the_page_is_imported_only_when_it_is_requested() -> None:
    code = (
        "import sys; from serving.pipeline.handler import handle; from serving.core.http import Request\n"
        "handle(Request('GET', '/')); handle(Request('GET', '/', headers={'accept': '*/*'}))\n"
        "assert 'serving.pipeline.page' not in sys.modules and 'hashlib' not in sys.modules"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=plain_environment(MODEL_DIR=str(EMBEDDED)), capture_output=True
    )
    assert done.returncode == 0, done.stderr


def test_the_openapi_document_says_which_strings_are_pictures(serve: Serve) -> None:
    schemas = json.loads(serve()("GET", "/openapi.json").body)["components"]["schemas"]
    assert '"contentMediaType": "image/*"' in json.dumps(schemas["serving_default.instances"])
    assert "contentMediaType" not in json.dumps(schemas["pixels.instances"])
