"""The page to try the model, and pages of other origins, in a real Chromium: Debian's, driven by Playwright."""

import ast
import json
import re
import shutil
import subprocess
import sys
from base64 import b64encode
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT
from tests.pipeline.page.conftest import Page, predict
from tests.server import Server

DATA = ROOT / "tests" / "data"


def values(answer: Page) -> dict[str, str]:
    """Return the plain outputs of an answer."""
    return dict(zip(answer.locator("dt").all_text_contents(), answer.locator("dd").all_text_contents(), strict=True))


def classes(answer: Page) -> list[str]:
    return answer.locator("ol >> nth=0").locator(".class").all_text_contents()


def sent(page: Page) -> Any:
    """Return the request that the page shows, read by a shell."""
    page.get_by_role("tab", name="curl").click()
    words = subprocess.run(
        ["bash", "-c", f"set -- {page.locator('#code').text_content()}\nprintf '%s' \"${{!#}}\""],
        capture_output=True,
        text=True,
    )
    return json.loads(words.stdout)


# Digits: a picture's file, and a drawing


def test_a_picture_is_answered_with_its_classes_and_the_json(visit: Callable[..., Page], digits: Server) -> None:
    page = visit(digits)
    page.get_by_label("image", exact=True).set_input_files(DATA / "digit-7.jpg")
    answer = predict(page)
    expected = digits.ask("POST", "/", (DATA / "digit-7.jpg").read_bytes(), content_type="image/jpeg")
    assert values(answer)["label"] == "7" == expected.json["predictions"][0]["label"]
    scores = expected.json["predictions"][0]["probabilities"]
    assert classes(answer) == [str(index) for index in sorted(range(10), key=lambda index: -scores[index])[:5]]
    assert answer.get_by_role("img", name="image, row 1").is_visible()
    assert page.locator("#json").is_hidden()
    page.get_by_text("JSON", exact=True).click()
    assert page.locator("#json").text_content() == expected.body.decode()
    assert "ms in the model" in page.locator("#times").text_content()


GIVE = """([name, kind, b64]) => {
  const bytes = Uint8Array.from(atob(b64), (character) => character.charCodeAt(0));
  const data = new DataTransfer();
  data.items.add(new File([bytes], name, { type: "image/png" }));
  if (kind === "drop") document.querySelector(".drop").dispatchEvent(new DragEvent("drop", { dataTransfer: data, bubbles: true }));
  else document.dispatchEvent(new ClipboardEvent("paste", { clipboardData: data, bubbles: true }));
}"""


@pytest.mark.parametrize("kind", ["drop", "paste"])
def test_a_picture_can_be_dropped_or_pasted(visit: Callable[..., Page], digits: Server, kind: str) -> None:
    page = visit(digits)
    page.evaluate(GIVE, ["nine.png", kind, b64encode((DATA / "digit-9-8x8.png").read_bytes()).decode()])
    page.get_by_text("nine.png").first.wait_for()
    assert values(predict(page))["label"] == "9"


def test_several_pictures_are_rows_of_one_request(visit: Callable[..., Page], digits: Server) -> None:
    page = visit(digits)
    page.get_by_label("image", exact=True).set_input_files(
        [DATA / "digit-3.png", DATA / "digit-7.jpg", DATA / "digit-6.bmp"]
    )
    page.get_by_text("Row 3").wait_for()
    rows = predict(page).locator("tbody tr")
    assert [row.locator("td").nth(1).text_content() for row in rows.all()] == ["3", "7", "6"]
    assert rows.locator("img").count() == 3
    page.get_by_role("button", name="Remove row 1").click()
    assert len(sent(page)["instances"]) == 2


def test_a_digit_can_be_drawn_on_the_grid(visit: Callable[..., Page], digits: Server) -> None:
    page = visit(digits, "pixels")
    page.get_by_role("button", name="Clear").click()
    box = page.locator("canvas.grid").bounding_box()
    page.mouse.move(box["x"] + 0.55 * box["width"], box["y"] + 0.06 * box["height"])
    page.mouse.down()
    page.mouse.move(box["x"] + 0.55 * box["width"], box["y"] + 0.94 * box["height"], steps=5)
    page.mouse.up()
    body = sent(page)
    assert {len(line) for line in body["instances"][0]} == {8}
    assert max(map(max, body["instances"][0])) == 16
    answer = values(predict(page))
    assert answer["label"] == "1" == digits.ask("POST", "/", body).json["predictions"][0]["label"]


def test_a_drawing_can_be_made_with_the_keyboard(visit: Callable[..., Page], digits: Server) -> None:
    page = visit(digits, "pixels")
    page.get_by_role("button", name="Clear").click()
    canvas = page.locator("canvas.grid")
    canvas.focus()
    for key in ("ArrowDown", "ArrowRight", "ArrowRight", "Space"):
        page.keyboard.press(key)
    assert canvas.get_attribute("aria-label") == "pixels: row 2, column 3, 100 % ink"
    assert sent(page)["instances"][0][1] == [0, 0, 16, 0, 0, 0, 0, 0]


def test_a_picture_is_resized_to_the_grid(visit: Callable[..., Page], digits: Server) -> None:
    page = visit(digits, "pixels")
    page.get_by_role("button", name="Clear").click()
    page.get_by_label("pixels, a picture").set_input_files(DATA / "digit-9-8x8.png")
    page.locator("#code", has_text=re.compile("[1-9], ?[1-9]")).wait_for()
    assert values(predict(page))["label"] == "9"


# Text, numbers, several inputs


def test_a_text_is_answered_with_the_names_of_its_classes(visit: Callable[..., Page], form: Server) -> None:
    page = visit(form, "words")
    page.get_by_label("text").fill('it\'s "quoted" & <i>long</i> — Straße\nnext')
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url) if request.method == "POST" else None)
    answer = predict(page)
    assert classes(answer) == ["spam", "<b>other</b>", "news"]
    assert asked == [f"{form.url}/v1/models/model:predict"]
    assert sent(page) == {"signature_name": "words", "instances": ['it\'s "quoted" & <i>long</i> — Straße\nnext']}


def test_two_inputs_of_different_types_are_answered(visit: Callable[..., Page], form: Server) -> None:
    page = visit(form)
    page.get_by_label("age").fill("36.5")
    page.get_by_label("city").fill("Köln")
    page.get_by_label("city").press("Control+Enter")
    page.locator("#answer dt").first.wait_for()
    assert values(page.locator("#answer")) == {"greeting": "Köln at 36", "half": "18.25"}


def test_several_rows_are_a_table_and_cells_of_a_spreadsheet_fill_it(visit: Callable[..., Page], form: Server) -> None:
    page = visit(form)
    page.get_by_label("age").focus()
    page.evaluate("""() => {
      const data = new DataTransfer();
      data.setData("text", "1\\tRome\\n2\\tParis\\n3\\tLyon\\n");
      document.activeElement.dispatchEvent(new ClipboardEvent("paste", { clipboardData: data, bubbles: true, cancelable: true }));
    }""")
    page.get_by_role("button", name="Add a row").click()
    page.get_by_label("age, row 4").fill("4")
    page.get_by_label("city, row 4").fill("")
    rows = predict(page).locator("tbody tr")
    assert [row.locator("td").first.text_content() for row in rows.all()] == [
        "Rome at 1",
        "Paris at 2",
        "Lyon at 3",
        " at 4",
    ]


def test_every_kind_of_input_is_sent_as_it_was_typed(visit: Callable[..., Page], form: Server) -> None:
    page = visit(form, "kinds")
    page.get_by_label("count").fill("9223372036854775807")  # beyond 2^53
    page.get_by_label("is_new").select_option("true")
    page.get_by_label("sizes").fill("0.5, 1 2e0")
    page.get_by_label("grid").fill("[[1, 2], [3, 4]]")
    answer = values(predict(page))
    assert answer == {"count": "9223372036854775807", "is_old": "false", "sum": "10"}
    assert page.locator("#answer .list").text_content() == "[0.5, Infinity, 2]"
    page.get_by_role("tab", name="JavaScript").click()
    assert "9223372036854775807" in page.locator("#code").text_content()


REFUSED = [
    # signature  field    typed                    the field's error
    ("",         "age",   "old",                   'expected float32, got the string "old"'),
    ("",         "age",   "",                      "the input 'age' is missing"),
    ("",         "age",   "1e99",                  "out of"),
    ("kinds",    "count", "1.5",                   "expected int64, got 1.5"),
    ("kinds",    "sizes", "1, 2",                  "expected shape [3]"),
    ("kinds",    "sizes", "",                      "the input 'sizes' is missing"),
    ("kinds",    "grid",  "[[1, 2], [3",           "not JSON"),
    ("kinds",    "grid",  "[[1, 2], [3]]",         "expected"),
]  # fmt: skip


@pytest.mark.parametrize(("signature", "field", "typed", "words"), REFUSED)
def test_an_error_is_shown_beside_its_field(refusing: Page, signature: str, field: str, typed: str, words: str) -> None:
    page = refusing
    fields = page.locator("#form")
    good = {"age": "1", "city": "Bonn"} if not signature else {"count": "1", "sizes": "1,2,3", "grid": "[[1,2],[3,4]]"}
    page.get_by_label("signature").select_option(label=signature or "serving_default")
    for name, text in {**good, field: typed}.items():
        fields.get_by_label(name, exact=True).fill(text)
    if signature:
        page.get_by_label("is_new").select_option("false")
    predict(page)
    invalid = page.locator("[aria-invalid=true]")
    assert invalid.count() == 1
    assert fields.get_by_label(field, exact=True).get_attribute("aria-invalid") == "true"
    error = page.locator(f"#{invalid.get_attribute('aria-describedby').split()[0]}")
    assert words in error.text_content()
    assert page.evaluate("document.activeElement.id") == invalid.get_attribute("id")
    assert page.get_by_role("alert").filter(visible=True).count() == 1
    fields.get_by_label(field, exact=True).fill(good[field])
    assert error.is_hidden()
    predict(page)
    assert page.locator("[aria-invalid=true]").count() == page.get_by_role("alert").filter(visible=True).count() == 0


def test_a_refused_row_of_a_table_is_the_one_that_is_marked(refusing: Page) -> None:
    page = refusing
    page.get_by_label("signature").select_option(label="serving_default")
    page.get_by_label("age", exact=True).fill("1")
    page.get_by_role("button", name="Add a row").click()
    page.get_by_label("age, row 2").fill("300")  # the model itself refuses it
    predict(page)
    assert page.locator("[aria-invalid=true]").count() == 0
    assert re.match("row 2: .*too old", page.locator("#refusal").text_content())
    page.get_by_label("age, row 2").fill("x")
    predict(page)
    assert page.get_by_label("age, row 2").get_attribute("aria-invalid") == "true"
    assert page.locator("#refusal").text_content() == 'row 2, age: expected float32, got the string "x"'
    page.get_by_role("button", name="Remove row 2").click()


# The same request as code

PROGRAMS = [
    # tab           how it is run
    ("curl",        ["bash", "{file}"]),
    ("Python",      [sys.executable, "{file}"]),
    ("JavaScript",  ["node", "{file}"]),
    ("Go",          ["go", "run", "{file}"]),
]  # fmt: skip
ENDINGS = {"curl": "sh", "Python": "py", "JavaScript": "mjs", "Go": "go"}


@pytest.mark.parametrize(("language", "command"), PROGRAMS, ids=[language for language, _ in PROGRAMS])
@pytest.mark.parametrize("kind", ["file", "json"])
def test_the_shown_code_gets_the_answer_of_the_page(
    request: pytest.FixtureRequest,
    visit: Callable[..., Page],
    tmp_path: Path,
    kind: str,
    language: str,
    command: list[str],
) -> None:
    if not shutil.which(command[0]):
        pytest.skip(f"{command[0]} is not installed")
    if kind == "json":
        page = visit(request.getfixturevalue("form"))
        page.get_by_label("age").fill("7")
        page.get_by_label("city").fill("it's \\ `x` $HOME")
    else:
        page = visit(request.getfixturevalue("digits"))
        picture = tmp_path / "a digit's.png"
        shutil.copy(DATA / "digit-3.png", picture)
        page.get_by_label("image", exact=True).set_input_files(picture)
        page.get_by_text(picture.name).first.wait_for()
    predict(page)
    shown = json.loads(page.locator("#json").text_content())
    page.get_by_role("tab", name=language).click()
    program = tmp_path / f"program.{ENDINGS[language]}"
    program.write_text(page.locator("#code").text_content())
    done = subprocess.run(
        [part.format(file=program) for part in command], cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    read = ast.literal_eval if language == "Python" else json.loads
    assert read(done.stdout) == shown


def test_the_page_waits_for_a_model_that_is_being_loaded(browser: Any, digits: Server) -> None:
    context = browser.new_context()
    try:
        page, refusals = context.new_page(), iter([503, 503])

        def answer(route: Any) -> None:
            status = next(refusals, 200)
            body = {"error": "the model is being loaded"} if status == 503 else {}
            route.fulfill(status=status, json=body, headers={"Retry-After": "1"})

        page.route("**/v1/models/model", answer)
        page.goto(digits.url)
        page.get_by_text("the model is being loaded").wait_for()
        page.wait_for_selector(".state.ready")
        assert page.locator("#problem").is_hidden()
    finally:
        context.close()


# Screens and keys


def test_the_page_can_be_used_with_the_keyboard(visit: Callable[..., Page], form: Server) -> None:
    page = visit(form)
    reached = []
    for _ in range(12):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.id"))
    assert reached[:5] == ["signature", "field-0-0", "field-0-1", "predict", "add"]
    assert "tab-curl" in reached
    page.get_by_role("tab", name="curl").press("ArrowRight")
    assert page.evaluate("document.activeElement.id") == "tab-Python"
    assert "import requests" in page.get_by_role("tabpanel").text_content()


def test_a_phone_shows_all_of_it_without_scrolling_sideways(visit: Callable[..., Page], digits: Server) -> None:
    for width in (320, 390):
        page = visit(digits, viewport={"width": width, "height": 700})
        predict(page)
        assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_the_page_follows_the_dark_mode_of_the_system(visit: Callable[..., Page], form: Server) -> None:
    grounds = {}
    for scheme in ("light", "dark"):
        page = visit(form, color_scheme=scheme)
        color = page.evaluate("getComputedStyle(document.body).backgroundColor")
        grounds[scheme] = sum(map(int, re.findall(r"\d+", color)[:3]))
    assert grounds["light"] > 600 > 150 > grounds["dark"]


# Pages of other origins

FETCH = """async ([url, type, body]) => {
  try {
    const response = await fetch(url, { method: "POST", headers: { "Content-Type": type, "X-API-Key": "a key" }, body });
    return [response.status, response.headers.get("Server-Timing") !== null, typeof (await response.json())];
  } catch (error) {
    return error.name;
  }
}"""
FETCHED = [
    # name of the origin  address                     what the page sees
    ("localhost",         "/v1/models/model:predict", [400, True, "object"]),
    ("localhost",         "/nowhere",                 [404, True, "object"]),
    ("localhost",         "/healthz",                 [405, True, "object"]),
    ("127.0.0.1",         "/v1/models/model:predict", "TypeError"),
]  # fmt: skip


@pytest.mark.parametrize("server", ["digits", "form"])
def test_a_page_of_another_origin_reads_answers_and_errors_where_it_may(
    request: pytest.FixtureRequest, browser: Any, other_port: int, server: str
) -> None:
    served: Server = request.getfixturevalue(server)
    context = browser.new_context()
    try:
        page = context.new_page()
        for name, path, seen in FETCHED:
            page.goto(f"http://{name}:{other_port}/")
            assert page.evaluate(FETCH, [served.url + path, "application/json", "{}"]) == seen, (name, path)
    finally:
        context.close()
