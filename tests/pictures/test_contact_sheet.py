"""The contact sheet shows the very pixels that the network sees, and everything that cannot be shown says why."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from greffon.errors import DataError, InputError
from greffon.pictures.contact_sheet import TILE, Shown, choose, contact_sheet
from greffon.pictures.decode import decode


def gradient(seed):
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((90, 60), Image.Resampling.BICUBIC)


def decode_whole(file):
    with Image.open(file) as sheet:
        return np.asarray(sheet.convert("RGB"))


def contains(sheet, piece):
    """Whether the pixels of `piece` are somewhere in `sheet`."""
    height, width = piece.shape[:2]
    corner = (sheet[: -height + 1, : -width + 1] == piece[0, 0]).all(axis=2)
    places = zip(*np.nonzero(corner), strict=True)
    return any((sheet[top : top + height, left : left + width] == piece).all() for top, left in places)


@pytest.mark.parametrize("rule", ["crop", "stretch", "pad"])
def test_it_shows_what_decode_gives(tmp_path, rule):
    pictures = [Shown(gradient(seed), f"{seed}.jpg", "ab"[seed % 2]) for seed in range(5)]
    assert contact_sheet(pictures, 80, rule, file=tmp_path / "sheet.png", columns=2) == 5
    sheet = decode_whole(tmp_path / "sheet.png")
    for each in pictures:
        seen = decode(each.source, 80, rule)
        assert contains(sheet, np.kron(seen, np.ones((TILE // 80, TILE // 80, 1), np.uint8)))


def test_large_inputs_are_shown_smaller(tmp_path):
    contact_sheet([Shown(gradient(0), "a")], 400, "crop", file=tmp_path / "sheet.png")
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.width < 800


def test_a_picture_that_cannot_be_read_has_its_place(tmp_path):
    (tmp_path / "bad.jpg").write_bytes(b"")
    pictures = [Shown(tmp_path / "bad.jpg", "bad.jpg", "a"), Shown(gradient(1), "good.jpg", "b")]
    assert contact_sheet(pictures, 80, "crop", file=tmp_path / "sheet.png") == 2
    sheet = decode_whole(tmp_path / "sheet.png")
    assert contains(sheet, np.kron(decode(gradient(1), 80, "crop"), np.ones((2, 2, 1), np.uint8)))


@pytest.mark.parametrize("name", ["sheet.jpg", "sheet.JPEG", "sheet.png"])
def test_the_ending_is_the_format(tmp_path, name):
    contact_sheet([Shown(gradient(0), "a")], 32, "crop", file=tmp_path / name)
    with Image.open(tmp_path / name) as sheet:
        assert sheet.format == ("PNG" if name.endswith("png") else "JPEG")


def test_names_of_any_script_and_length_do_not_stop_it(tmp_path):
    names = ["ü" * 300, "猫/写真.jpg", "line\nbreak\x00.jpg", "", "\udcff.jpg"]
    pictures = [Shown(gradient(0), name, name) for name in names]
    assert contact_sheet(pictures, 32, "crop", file=tmp_path / "sheet.png") == 5


def test_classes_have_equal_shares_in_natural_order():
    labels = ["class10"] * 50 + ["class2"] * 3 + ["class1"] * 50
    chosen = choose(labels, 20)
    assert [labels[place] for place in chosen] == ["class1"] * 9 + ["class2"] * 3 + ["class10"] * 8
    assert len(set(chosen)) == 20
    assert min(chosen) == 0
    assert max(chosen) == 102
    assert sorted(choose(labels, 1000)) == list(range(103))
    assert choose(["b", "a"], 1) == [1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"file": "sheet.gif"}, "must end in"),
        ({"file": "sheet.png", "most": 0}, "most must be"),
        ({"file": "sheet.png", "columns": True}, "columns must be"),
        ({"file": "no/such/folder/sheet.png"}, "cannot be written"),
        ({"file": "sheet.png", "rule": "cut"}, "resize rule"),
    ],
)
def test_wrong_options_are_refused(tmp_path, options, message):
    options = {"rule": "crop", **options, "file": tmp_path / options["file"]}
    with pytest.raises(InputError, match=message):
        contact_sheet([Shown(gradient(0), "a")], 32, options.pop("rule"), **options)


def test_a_sheet_that_would_be_too_high_is_refused(tmp_path):
    pictures = [Shown(Image.new("RGB", (9, 9)), str(number), str(number)) for number in range(400)]
    with pytest.raises(InputError, match="show fewer"):
        contact_sheet(pictures, 32, "crop", file=tmp_path / "sheet.png", most=400)


def test_no_pictures_are_no_sheet(tmp_path):
    with pytest.raises(DataError, match="no pictures"):
        contact_sheet([], 32, "crop", file=tmp_path / "sheet.png")
