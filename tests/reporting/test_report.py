"""The whole report of a small run: what it holds, and that a stranger's names do nothing."""

from __future__ import annotations

import html
import html.parser
import json
import os
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
from small_runs import HOSTILE, events, made_up

import greffon
from greffon.errors import InputError
from greffon.reporting import report


class Page(html.parser.HTMLParser):
    """Tags and attributes of a page, and its text."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.text = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attributes]

    def handle_data(self, data):
        self.text.append(data)


@pytest.fixture(scope="module")
def page(written):
    return Page(written.path.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def words(page):
    return re.sub(r"\s+", " ", " ".join(page.text))


def pictures_in(page):
    return [value for tag, name, value in page.attributes if (tag, name) == ("img", "src")]


def test_it_says_what_was_trained_and_proves_it(trained, words):
    record = json.loads((trained / "run.json").read_text(encoding="utf-8"))
    for stage in record["stages"]:
        assert f"{stage['proof']['frozen']} frozen tensors" in words
        assert stage["proof"]["digest"] in words
    assert words.count("Freezing is proven") == 2
    assert "Stage 2 of 2: last <b>block" in words
    assert "conv5_block3" in words
    assert "2 epochs in numbers" in words


def test_a_real_training_is_tracked_over_its_stages(trained, board):
    import polars as pl

    found = [(step, value) for _, tag, step, value in events(board / "validation") if tag == "epoch_loss"]
    history = pl.read_csv(trained / "history.csv")["val_loss"].to_list()
    assert [step for step, _ in found] == [1, 2, 3]
    assert [value for _, value in found] == pytest.approx(history, rel=1e-6)


def test_its_numbers_are_those_of_the_test_pictures_and_of_validation(trained, folder, words):
    found = greffon.evaluate(trained, folder, side="all")
    assert f"test: {found.measures.headline()}" in words
    assert f"{found.measures.per_class['blue'].recall:.3f}" in words
    assert f"validation: {found.known['val'].count} pictures" in words
    assert "nearest neighbour" in words
    assert "this run" in words
    assert "Learning curve" in words
    assert "33 give " in words
    assert "15 of 15" in words  # answered, from the lowest confidence on


def test_pictures_are_shown_with_where_it_looked_and_what_is_alike(page, written, words):
    pictures = pictures_in(page)
    assert written.pictures == 5
    assert written.gone == 0
    assert all(address.startswith("data:image/") for address in pictures)
    heats = [address for address in pictures if address.startswith("data:image/png")]
    assert len(heats) >= 4
    assert len(pictures) - len(heats) >= 5 + 5 * 3
    assert "to the network it looks like these training pictures" in words
    assert written.path.stat().st_size < 600_000


def test_the_freeze_table_is_that_of_each_stage(page, words):
    tables = re.findall(r"conv5 \d+ ([\d,]+) (frozen|[\d,]+)", words)
    assert [trained for _, trained in tables] == ["frozen", "1,118,720"]


def test_what_was_left_out_and_how_to_do_it_again(trained, folder, words):
    assert "train/blue/broken.png" in words
    assert "greffon train" in words
    assert "recipe.yaml" in words
    assert str(folder) in words


def test_a_strangers_names_are_text(page, words):
    assert "script" not in page.tags
    assert {tag for tag, name, _ in page.attributes if name == "onerror"} == set()
    assert HOSTILE in words
    assert "\N{RIGHT-TO-LEFT OVERRIDE}" not in words
    assert "alert(2)" in words  # the name itself is there
    for _, name, value in page.attributes:
        assert not name.startswith("on")
        if name in {"src", "href", "xlink:href"}:
            assert value.startswith(("data:image/", "#"))


def test_nothing_is_loaded_from_elsewhere(page, written):
    policy = next(value for tag, name, value in page.attributes if tag == "meta" and "default-src" in value)
    assert policy.startswith("default-src 'none'")
    text = written.path.read_text(encoding="utf-8")
    assert "@import" not in text
    addresses = set(re.findall(r"https?://[^\s\"'<)]+", text))
    assert all(address.startswith("http://www.w3.org/") for address in addresses), addresses


def test_the_same_run_gives_the_same_page(small, folder, tmp_path):
    one, other = (report(small, folder, out=tmp_path / name).path for name in ("one.html", "other.htm"))
    assert one.read_bytes() == other.read_bytes()


def test_pictures_are_known_by_content_wherever_they_are(copied, folder, tmp_path):
    """Moved and renamed they are found; one that was changed is not shown under its old name."""
    moved = tmp_path / "moved"
    for place in sorted((folder / "train").iterdir()):
        (moved / place.name).mkdir(parents=True)
        for number, file in enumerate(sorted(place.glob("*.png"))):
            if file.stat().st_size > 100:
                shutil.copy(file, moved / place.name / f"other-{number}.png")
    found = report(copied, moved, most=3, neighbours=0)
    assert (found.path, found.pictures, found.gone) == (copied / "report.html", 6, 0)
    assert any("15 test pictures are gone" in note for note in found.notes)
    for place in sorted(moved.iterdir()):
        for file in place.iterdir():
            file.write_bytes(file.read_bytes() + b"\0")  # still a picture, and another one
    changed = report(copied, moved, most=3, neighbours=0)
    assert (changed.pictures, changed.gone) == (0, 6)
    text = changed.path.read_text(encoding="utf-8")
    assert "the picture is gone or was changed" in text
    assert "data:image/jpeg" not in text
    assert "validation: accuracy" in re.sub(r"</?b>", "", text)


def test_without_data_they_are_where_the_record_or_this_folder_says(folder, copied, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert report(copied, most=2, neighbours=0).pictures == 0
    monkeypatch.chdir(folder)
    assert report(copied, most=2, neighbours=0).pictures == 4
    monkeypatch.chdir(tmp_path)
    recorded = made_up(folder, tmp_path / "recorded", record={"root": str(folder)})
    assert report(recorded, most=2, neighbours=0).pictures == 4


def test_what_a_run_names_is_not_fetched(folder, small, tmp_path, monkeypatch):
    from greffon.bundle.read import read_bundle
    from greffon.pictures.sources import remote
    from greffon.reporting.found import Finder

    def fetched(address):
        raise AssertionError(f"{address} was asked for")

    monkeypatch.setattr(remote, "read_address", fetched)
    monkeypatch.setattr(remote, "local_copy", fetched)
    finder = Finder(read_bundle(small))
    names = ["https://example.invalid/a.png", "s3://bucket/a.tar::1.png", "a\0b.png", "", None, "/etc/passwd", "."]
    assert finder.find(names, ["0" * 32] * len(names)) == [None] * len(names)
    assert finder.find(["a.png"], [None]) == [None]


def test_secrets_in_addresses_are_not_shown(small, tmp_path):
    from greffon.bundle.read import read_bundle
    from greffon.reporting.facts import reproducing

    commands = "\n".join(reproducing(read_bundle(small), "https://me:secret@host/photos.csv?sig=abc"))
    assert "https://host/photos.csv" in commands
    assert "secret" not in commands
    assert "abc" not in commands


def test_several_labels(folder, tmp_path):
    run = made_up(folder, tmp_path / "run", several=True)
    found = report(run, folder, most=3)
    page = Page(found.path.read_text(encoding="utf-8"))
    words = " ".join(page.text)
    assert found.pictures == 6
    assert "What is taken for what" not in words
    assert "mean average precision" in words
    assert "nearest neighbour" in words
    assert len([address for address in pictures_in(page) if "jpeg" in address]) == 6 + 6 * 3
    assert "onerror" not in {name for _, name, _ in page.attributes}


def test_of_many_classes_only_what_is_confused_most(folder, tmp_path):
    from greffon.pictures.catalog import Catalog

    names = [*Catalog.from_folder(folder).class_names, *(f"class {n}" for n in range(40))]
    run = made_up(folder, tmp_path / "run", names=names)
    text = report(run, most=0, neighbours=0).path.read_text(encoding="utf-8")
    assert "What is taken for what" not in text
    assert "Most often confused" in text
    assert "class 39" in text
    assert "mistakes it was surest of" not in text


def test_records_of_other_versions(folder, tmp_path):
    """A record may lack nearly everything, or hold something else in its place."""
    record = {"stages": [{"name": "probe", "proof": {"frozen": "many"}}, 7], "trunk": None, "seconds": "long"}
    run = made_up(folder, tmp_path / "run", record=record)
    text = report(run, most=0, neighbours=0).path.read_text(encoding="utf-8")
    assert "Stage 1 of 2: <bdi>probe</bdi>" in text
    assert "Freezing" not in text
    assert "says nothing of it" in text


def test_a_stage_that_was_taken_back_is_said_to_be(folder, tmp_path):
    record = {"stages": [{"name": "last-block", "kept": False, "best_epoch": 1, "chosen_learning_rate": 1e-4}]}
    run = made_up(folder, tmp_path / "run", record=record)
    text = report(run, most=0, neighbours=0).path.read_text(encoding="utf-8")
    assert "Taken back" in text
    assert "The learning rate 0.0001 was chosen" in text
    assert "Kept" not in text


def test_a_diagnosis_is_shown_where_there_is_one(copied):
    cause = {"cause": "leak <b>", "verdict": "found", "said": "3 <i> copies", "advice": "Split", "measure": "accuracy"}
    cause |= {"now": 0.9, "without": 0.7, "gain_interval_95": [-0.3, -0.1]}
    (copied / "diagnosis.json").write_text(json.dumps({"findings": [cause, {"cause": "x", "verdict": "not found"}]}))
    text = report(copied, most=0, neighbours=0).path.read_text(encoding="utf-8")
    assert "Causes that were tried out" in text
    assert "leak &lt;b&gt;" in text
    assert "3 &lt;i&gt; copies" in text
    assert "-0.300 to -0.100" in text
    (copied / "diagnosis.json").unlink()
    assert "Causes that" not in report(copied, most=0, neighbours=0).path.read_text(encoding="utf-8")


def test_a_model_that_cannot_be_opened_leaves_the_numbers(folder, copied, monkeypatch):
    from greffon.bundle.read import Bundle

    def unknown(self, **options):
        raise InputError("model.keras cannot be opened: layer Mine is not known")

    monkeypatch.setattr(Bundle, "model", unknown)
    found = report(copied, folder, most=2)
    text = found.path.read_text(encoding="utf-8")
    assert (found.pictures, found.gone) == (0, 4)
    assert "layer Mine is not known" in text
    assert "validation" in text


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"out": "missing/page.html"}, r"\.html file in a folder"),
        ({"out": "page.pdf"}, r"\.html file"),
        ({"most": 25}, "most must be a whole number from 0 to 24"),
        ({"most": True}, "most must be"),
        ({"neighbours": -1}, "neighbours must be"),
        ({"data": "no/such/folder"}, "no/such/folder"),
    ],
)
def test_what_cannot_be_is_refused(copied, tmp_path, monkeypatch, options, said):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=said):
        report(copied, **options)
    assert not (copied / "report.html").exists()


def test_no_run_and_a_changed_run(copied, tmp_path):
    with pytest.raises(InputError, match="no run"):
        report(tmp_path)
    (copied / "model.keras").write_bytes(b"another")
    with pytest.raises(InputError, match="SHA-256"):
        report(copied)


def test_the_missing_extra_is_named(copied, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(InputError, match=r"greffon\[report\]"):
        report(copied)


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_to(copied):
    copied.chmod(0o500)
    try:
        with pytest.raises(InputError, match="cannot be written"):
            report(copied, most=0, neighbours=0)
    finally:
        copied.chmod(0o700)


def test_a_failed_write_leaves_the_old_page(copied, monkeypatch):
    from pathlib import Path

    (copied / "report.html").write_text("old")

    def full(self, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(InputError, match="No space left"):
        report(copied, most=0, neighbours=0)
    assert (copied / "report.html").read_text() == "old"
    assert not list(copied.glob(".*.part"))


# --- in a browser ---

BROWSER = os.environ.get("GREFFON_CHROMIUM") or next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None
)
# Where the checks of a submission run with a browser, GREFFON_REQUIRE_BROWSER=1 makes its absence an error.
needs_browser = pytest.mark.skipif(
    BROWSER is None and not os.environ.get("GREFFON_REQUIRE_BROWSER"),
    reason="needs Chromium (apt install chromium); its path may be given in GREFFON_CHROMIUM",
)


def browse(page, folder, *options):
    """Open a page in headless Chromium; the lines of its console, and the screenshot."""
    from PIL import Image

    assert BROWSER is not None, "GREFFON_REQUIRE_BROWSER is set, and there is no Chromium"
    shot = folder / "shot.png"
    command = [
        BROWSER, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars",
        "--no-first-run", "--enable-logging=stderr", f"--user-data-dir={folder / 'profile'}", "--window-size=800,1200",
        f"--screenshot={shot}", *options, page.as_uri(),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=120, check=False)
    assert shot.is_file(), done.stderr[-2000:]
    with Image.open(shot) as image:
        return re.findall(r"CONSOLE.*", done.stderr), np.asarray(image.convert("RGB"))


@needs_browser
def test_a_browser_shows_it_without_a_word_in_its_console(written, tmp_path):
    console, light = browse(written.path, tmp_path)
    assert console == []
    assert light.std() > 10  # something is there
    assert light.mean() > 200
    _, dark = browse(written.path, tmp_path, "--blink-settings=preferredColorScheme=0")
    assert dark.mean() < 80


@needs_browser
def test_the_console_would_tell(tmp_path):
    """What the test above looks for is there where something is wrong."""
    policy = "<meta http-equiv='Content-Security-Policy' content=\"default-src 'none'\">"
    (tmp_path / "bad.html").write_text(f"<html><head>{policy}</head><script>alert(1)</script><img src='x.png'></html>")
    console, _ = browse(tmp_path / "bad.html", tmp_path)
    assert len(console) == 2


@needs_browser
def test_it_fits_a_phone_and_every_picture_is_whole(written, tmp_path):
    """Measured by a page around it, in a frame as wide as a phone; the policy is taken off so that it may be."""
    text = re.sub(r"<meta http-equiv=[^>]*>", "", written.path.read_text(encoding="utf-8")).replace(
        ' loading="lazy"', ""
    )
    outer = f"""<iframe width=360 height=640 srcdoc="{html.escape(text)}"></iframe><script>
    onload = () => {{
      const page = frames[0].document;
      for (const one of page.querySelectorAll("details")) one.open = true;
      const broken = [...page.images].filter((image) => !image.naturalWidth).length;
      console.log(JSON.stringify([page.documentElement.scrollWidth, page.images.length, broken]));
    }};</script>"""
    (tmp_path / "outer.html").write_text(f"<!DOCTYPE html><meta charset=utf-8>{outer}", encoding="utf-8")
    console, _ = browse(tmp_path / "outer.html", tmp_path, "--virtual-time-budget=5000")
    width, pictures, broken = json.loads(re.search(r"\[[\d,]+\]", console[0])[0])
    assert width <= 360
    assert pictures > 20
    assert broken == 0
