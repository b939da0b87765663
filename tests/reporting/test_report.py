"""The whole report of a small run: what it holds, and that a stranger's names do nothing."""

from __future__ import annotations

import html.parser
import json
import os
import re
import shutil
import sys

import pytest
from hostile_names import HOSTILE

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
    assert "3 epochs in numbers" in words


def test_its_numbers_are_those_of_the_test_pictures_and_of_validation(trained, folder, words):
    found = greffon.evaluate(trained, folder, side="test").measures
    assert f"test: {found.headline()}" in words
    assert f"{found.per_class['blue'].recall:.3f}" in words
    assert "nearest neighbour" in words
    assert "this run" in words
    validation = greffon.evaluate(trained, folder, side="train").known["val"]
    assert f"validation: {validation.count} pictures" in words


def test_pictures_are_shown_with_where_it_looked_and_what_is_alike(page, written, words):
    pictures = pictures_in(page)
    assert written.pictures == 5
    assert written.gone == 0
    assert all(address.startswith("data:image/") for address in pictures)
    heats = [address for address in pictures if address.startswith("data:image/png")]
    assert len(heats) >= 4
    assert len(pictures) - len(heats) >= 5 + 5 * 3
    assert "because it looks like these training pictures" in words
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


def test_the_same_run_gives_the_same_page(trained, folder, written, tmp_path):
    again = report(trained, folder, out=tmp_path / "again.html", most=5)
    assert again.path.read_bytes() == written.path.read_bytes()


def test_pictures_are_known_by_content_wherever_they_are(copied, folder, tmp_path):
    """Moved and renamed they are found; one that was changed is not shown under its old name."""
    moved = tmp_path / "moved"
    for place in sorted((folder / "train").iterdir()):
        (moved / place.name).mkdir(parents=True)
        for number, file in enumerate(sorted(place.glob("*.png"))):
            if file.stat().st_size > 100:
                shutil.copy(file, moved / place.name / f"other-{number}.png")
    found = report(copied, moved, most=3, neighbours=0)
    assert (found.path, found.pictures, found.gone) == (copied / "report.html", 3, 0)
    assert any("15 test pictures are gone" in note for note in found.notes)
    for place in sorted(moved.iterdir()):
        for file in place.iterdir():
            file.write_bytes(file.read_bytes() + b"\0")  # still a picture, and another one
    changed = report(copied, moved, most=3, neighbours=0)
    assert (changed.pictures, changed.gone) == (0, 3)
    text = changed.path.read_text(encoding="utf-8")
    assert "the picture is gone or was changed" in text
    assert "data:image/jpeg" not in text
    assert "validation: accuracy" in re.sub(r"</?b>", "", text)


def test_without_data_they_are_where_the_record_or_this_folder_says(copied, folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    recorded = isinstance(json.loads((copied / "run.json").read_text(encoding="utf-8")).get("root"), str)
    assert report(copied, most=2, neighbours=0).pictures == (2 if recorded else 0)
    monkeypatch.chdir(folder)
    assert report(copied, most=2, neighbours=0).pictures == 2


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
