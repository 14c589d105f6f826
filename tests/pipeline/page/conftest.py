"""A Chromium, Debian's, driven by Playwright; two servers whose page it opens; and a page of another origin."""

import os
import re
import shutil
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from tests.models import forms
from tests.server import Server, running, serving

Page = Any  # of playwright.sync_api
KEY = "a key"  # of the second server
SLOW = 20_000  # milliseconds: a busy machine


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    names = ("chromium", "chromium-browser", "google-chrome")
    path = next((executable for name in names if (executable := shutil.which(name))), None)
    if path is None:
        absent = "Chromium is not installed (make test-tools)"
        if os.environ.get("CI") == "true" and os.geteuid() == 0:
            pytest.fail(absent)
        pytest.skip(absent)
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as playwright:
        options = ["--no-sandbox"] if os.geteuid() == 0 else []
        started = playwright.chromium.launch(executable_path=path, args=[*options, "--disable-gpu"])
        yield started
        started.close()


class OtherPage(BaseHTTPRequestHandler):
    """An empty page of another origin."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture(scope="module")
def other_port() -> Iterator[int]:
    """Serve the page of another origin; by two names of this machine, which makes two origins."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), OtherPage)
    with serving(server):
        yield server.server_port


@pytest.fixture(scope="module")
def digits(other_port: int) -> Iterator[Server]:
    with running("functions-framework", CORS_ORIGINS=f"http://localhost:{other_port}") as server:
        yield server


@pytest.fixture(scope="module")
def form(other_port: int) -> Iterator[Server]:
    keyed: Any = {"LAYER": "examples.api_key:with_api_key", "API_KEYS": KEY}
    with running("standalone", forms.build(), CORS_ORIGINS=f"http://localhost:{other_port}", **keyed) as server:
        yield server


@pytest.fixture
def visit(browser: Any) -> Iterator[Callable[..., Page]]:
    """Open the page of a server, and see to it that it asks no other host and that the browser finds nothing wrong."""
    contexts, problems, hosts, own = [], [], set(), {"data:", "blob:"}

    def open_page(server: Server, signature: str = "", **options: Any) -> Page:
        contexts.append(context := browser.new_context(**options))
        context.set_default_timeout(SLOW)
        page = context.new_page()
        page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on(
            "request",
            lambda request: hosts.add(re.sub(r"^(data:|blob:|\w+://[^/]*).*$", r"\1", request.url, flags=re.S)),
        )
        go(page, server)
        if signature:
            page.get_by_label("signature").select_option(label=signature)
        own.add(server.url)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert hosts <= own
    assert [text for text in problems if not re.search(r"40[01] \((Bad Request|Unauthorized)\)", text)] == []


def go(page: Page, server: Server) -> None:
    """Open the page of a server, with the key that it may ask for."""
    page.goto(server.url)
    page.wait_for_selector(".state.ready, #access:not([hidden])")
    if page.locator("#access").is_visible():
        page.get_by_label("key", exact=True).fill(KEY)
        page.get_by_label("key", exact=True).press("Enter")
    page.wait_for_selector(".state.ready")


def predict(page: Page) -> Page:
    """Have the page predict; return what it shows as the answer."""
    page.get_by_role("button", name="Predict").click()
    page.wait_for_selector("#predict:not([disabled])")
    return page.locator("#answer")


@pytest.fixture(scope="module")
def refusing(browser: Any, form: Server) -> Iterator[Page]:
    """Open the page of the second server once, for requests that it refuses."""
    context = browser.new_context()
    context.set_default_timeout(SLOW)
    page = context.new_page()
    go(page, form)
    yield page
    context.close()
