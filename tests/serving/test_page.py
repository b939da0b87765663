"""The page in a real browser: headless Chromium, driven by Playwright. Skipped where either is missing."""

from __future__ import annotations

import base64
import csv
import io
import os
import shutil
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from made_up_service import picture, write_run

CHROMIUM = os.environ.get("GREFFON_CHROMIUM") or next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None
)
DROP = """([text, name, kind]) => {
  const bytes = Uint8Array.from(atob(text), (one) => one.charCodeAt(0));
  const data = new DataTransfer();
  data.items.add(new File([bytes], name, {type: kind}));
  return data;
}"""


def absent(what):
    """Skip; with GREFFON_REQUIRE_BROWSER, which .ci/run sets where it could install a browser, fail."""
    if os.environ.get("GREFFON_REQUIRE_BROWSER"):
        pytest.fail(f"GREFFON_REQUIRE_BROWSER is set, and it {what}")
    pytest.skip(what)


@pytest.fixture(scope="module")
def browser():
    try:
        from playwright.sync_api import sync_playwright
    except ModuleNotFoundError:
        absent("needs Playwright (pip install 'greffon[test-all]')")
    if CHROMIUM is None:
        absent("needs Chromium (apt install chromium); its path may be given in GREFFON_CHROMIUM")
    with sync_playwright() as tools:
        browser = tools.chromium.launch(
            executable_path=CHROMIUM,
            args=[
                "--no-sandbox",
                "--disable-dev-shm-usage",
                "--disable-background-networking",
                "--use-fake-device-for-media-stream",
            ],
        )
        yield browser
        browser.close()


class Visit:
    """A page, what it wrote to the console and what it asked for."""

    def __init__(self, browser, address, **options):
        self.context = browser.new_context(**{"locale": "en-GB", "accept_downloads": True, **options})
        self.page = self.context.new_page()
        self.page.set_default_timeout(20_000)
        self.said, self.asked = [], []
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.address = address
        self.page.goto(address)
        self.page.wait_for_function("() => document.getElementById('about').textContent || !window['key-form'].hidden")

    def drop(self, content, name="red.png", kind="image/png"):
        data = self.page.evaluate_handle(DROP, [base64.b64encode(content).decode(), name, kind])
        self.page.dispatch_event("#drop", "drop", {"dataTransfer": data})

    def choose(self, *contents):
        files = [
            {"name": f"{place}.png", "mimeType": "image/png", "buffer": content}
            for place, content in enumerate(contents)
        ]
        self.page.set_input_files("#files", files)

    def title(self, text):
        self.page.wait_for_function("text => document.getElementById('one-title').textContent === text", arg=text)

    def message(self, text):
        self.page.wait_for_function("text => document.getElementById('message').textContent.includes(text)", arg=text)

    def wide(self):
        return self.page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")


@pytest.fixture(scope="module")
def service(browser, start_once, tmp_path_factory):
    return start_once(write_run(tmp_path_factory.mktemp("runs") / "colours"))


@pytest.fixture
def visit(browser, service):
    visits = []

    def visit(where=service, **options):
        visits.append(Visit(browser, where.address, **options))
        return visits[-1]

    yield visit
    for one in visits:
        where = urlsplit(one.address).netloc
        assert {urlsplit(url).netloc for url in one.asked if not url.startswith(("blob:", "data:"))} == {where}
        one.context.close()


def test_drop_a_picture_and_read_the_answer(visit):
    here = visit()
    here.drop(picture("red"))
    here.title("red")
    page = here.page
    assert page.locator("#bars li").first.inner_text().split() == ["red", "100%"]
    assert page.locator("#one-picture").evaluate("image => image.complete && image.naturalWidth") == 40
    assert "cannot show where it looked" in page.locator("#one-cam").inner_text()
    here.drop(picture("grey"))
    here.title("Not sure")
    assert "Perhaps" in page.locator("#one-note").inner_text()
    here.drop(b"no picture at all")
    page.wait_for_function("() => document.getElementById('one-title').textContent.includes('cannot be read')")
    here.drop(b"text", "a.txt", "text/plain")
    here.message("is no picture")
    assert [text for text in here.said if "422" not in text] == []  # the browser writes down what is refused


def test_many_pictures_and_a_table_to_download(visit):
    here = visit()
    here.choose(picture("red"), picture("blue"), b"broken", picture("lime"))
    here.page.wait_for_function("() => !document.getElementById('csv').disabled")
    cells = here.page.locator("#rows tr").evaluate_all("rows => rows.map(row => row.cells[2].textContent)")
    assert cells[:2] + cells[3:] == ["red", "blue", "green"]
    assert "cannot be read" in cells[2]
    with here.page.expect_download() as download:
        here.page.click("#csv")
    rows = list(csv.DictReader(io.StringIO(Path(download.value.path()).read_bytes().decode("utf-8-sig"))))
    assert [row["label"] for row in rows] == ["red", "blue", "", "green"]
    assert float(rows[1]["blue"]) > 0.99
    assert rows[2]["error"]
    here.page.click("#clear")
    assert here.page.locator("#many").is_hidden()


def test_a_pasted_picture(visit):
    here = visit()
    data = here.page.evaluate_handle(DROP, [base64.b64encode(picture("blue")).decode(), "", "image/png"])
    here.page.evaluate(
        "data => document.dispatchEvent(new ClipboardEvent('paste', {clipboardData: data, bubbles: true}))", data
    )
    here.title("blue")


def test_by_keyboard_alone(visit):
    here = visit()
    page = here.page
    # Listened to from the start: a listener that is added just before the key comes too late on a loaded machine.
    answer = [{"name": "a.png", "mimeType": "image/png", "buffer": picture("lime")}]
    page.on("filechooser", lambda chooser: chooser.set_files(answer))
    for _ in range(10):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.id") == "choose":
            break
    assert page.evaluate("document.activeElement.id") == "choose"
    page.keyboard.press("Enter")
    here.title("green")
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"


def test_the_camera(visit):
    here = visit(permissions=["camera"])
    here.page.click("#camera")
    here.page.wait_for_function("() => document.getElementById('video').videoWidth > 0")
    here.page.click("#shoot")
    here.page.wait_for_function("() => document.querySelectorAll('#bars li').length === 3")
    here.page.click("#camera-off")
    assert here.page.locator("#viewfinder").is_hidden()


def test_the_camera_refused(visit):
    here = visit(permissions=[])
    here.page.click("#camera")
    here.message("camera was refused")


def test_on_a_phone_in_the_dark_in_french(visit):
    here = visit(viewport={"width": 360, "height": 740}, color_scheme="dark", locale="fr-FR")
    assert here.page.evaluate("document.documentElement.lang") == "fr"
    assert here.page.locator("#choose").inner_text() == "Choisir des images"
    assert here.page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(20, 24, 22)"
    assert here.wide() == 0
    here.drop(picture("grey"))
    here.title("Pas sûr")
    assert here.wide() == 0
    here.choose(*[picture("red")] * 3)
    here.page.wait_for_function("() => !document.getElementById('csv').disabled")
    assert here.wide() == 0
    here.page.click("#language")
    assert here.page.locator("#choose").inner_text() == "Choose pictures"
    here.page.reload()
    here.page.wait_for_function("() => document.getElementById('about').textContent")
    assert here.page.locator("#choose").inner_text() == "Choose pictures"


def test_a_service_with_keys_asks_for_one(visit, start, tmp_path):
    key = "a-key-of-some-length"
    here = visit(start(write_run(tmp_path / "colours"), GREFFON_API_KEYS=key))
    here.message("wants a key")
    here.page.fill("#key", "a-wrong-key-of-some-length")
    here.page.keyboard.press("Enter")
    here.message("this one is not it")
    here.page.fill("#key", key)
    here.page.keyboard.press("Enter")
    here.page.wait_for_function("() => document.getElementById('key-form').hidden")
    here.drop(picture("red"))
    here.title("red")


def test_every_sentence_is_in_both_languages(visit):
    here = visit()
    names = here.page.evaluate("Object.values(WORDS).map(words => Object.keys(words).sort().join())")
    assert len(names) == 2
    assert names[0] == names[1]
    used = here.page.evaluate("[...document.querySelectorAll('[data-word]')].map(one => one.dataset.word)")
    assert set(used) <= set(names[0].split(","))


def test_why(visit, start_once, tmp_path):
    here = visit(start_once(write_run(tmp_path / "colours", word="looks")), viewport={"width": 360, "height": 740})
    page = here.page
    here.drop(picture("red", side=64))
    here.title("red")
    page.wait_for_function("() => !document.getElementById('heat').hidden")
    opaque = page.evaluate(
        """() => {
          const data = document.getElementById("heat").getContext("2d").getImageData(0, 0, 64, 64).data;
          return [data[3], data[4 * (63 * 64 + 63) + 3]];
        }"""
    )
    assert opaque[0] > 100  # the corner that the model looked at, and the one that it did not
    assert opaque[1] == 0
    assert page.locator("#heat").get_attribute("aria-label") == "Where the model looked for red"
    assert page.locator("#near-list li").all_inner_texts() == ["red\n87.5% alike", "50% alike"]
    assert page.locator("#near-list img").first.evaluate("image => image.complete && image.naturalWidth") == 40
    assert page.locator("#one-cam").is_hidden()
    assert here.wide() == 0
    page.locator("#heat-toggle").press("Enter")
    assert page.locator("#heat").is_hidden()
    here.choose(picture("red"), picture("blue"))
    page.wait_for_function("() => !document.getElementById('csv').disabled")
    assert page.locator("#near").is_hidden()
    assert here.said == []
