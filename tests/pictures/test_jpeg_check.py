"""JPEGs that are damaged inside and decode all the same; and that good ones of every kind pass."""

from __future__ import annotations

import io
import random

import numpy as np
import pytest
from odd_files import FILES
from PIL import Image

from greffon.pictures import jpeg_check
from greffon.pictures.jpeg_check import damage_in
from greffon.pictures.scan import read_picture

needs_simplejpeg = pytest.mark.skipif(not jpeg_check.can_check(), reason="needs simplejpeg")


def jpeg(seed=0, **options):
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (9, 12, 3), dtype=np.uint8)).resize((240, 180))
    file = io.BytesIO()
    Image.fromarray((np.asarray(coarse) + rng.normal(0, 9, (180, 240, 1))).clip(0, 255).astype(np.uint8)).save(
        file, "JPEG", quality=90, **options
    )
    return file.getvalue()


def middle(data):
    start = data.rindex(b"\xff\xda")
    return start + (len(data) - start) // 2


def found(tmp_path, data):
    (tmp_path / "a.jpg").write_bytes(data)
    scanned = read_picture(tmp_path / "a.jpg")
    return {finding.kind for finding in scanned.findings("a.jpg")}


@needs_simplejpeg
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"optimize": True}, {"restart_marker_rows": 1}])
def test_a_jpeg_that_was_cut_and_closed_again(tmp_path, options):
    data = jpeg(**options)
    assert found(tmp_path, data) == set()
    start = data.index(b"\xff\xda")
    for share in (0.2, 0.5, 0.9):
        assert found(tmp_path, data[: start + int((len(data) - start) * share)] + b"\xff\xd9") == {"truncated"}


@needs_simplejpeg
def test_a_jpeg_that_lacks_a_piece_in_its_middle(tmp_path):
    for seed in range(5):
        data = jpeg(seed)
        assert found(tmp_path, data[: middle(data)] + data[middle(data) + 500 :]) & {"truncated", "damaged data"}


@needs_simplejpeg
def test_zeros_and_noise_in_the_middle_are_mostly_found(tmp_path):
    rng, hits = random.Random(0), 0
    for seed in range(20):
        data, piece = jpeg(seed), (bytes(400), rng.randbytes(200))[seed % 2]
        at = middle(data)
        hits += bool(found(tmp_path, data[:at] + piece + data[at + len(piece) :]))
    assert hits >= 15


@needs_simplejpeg
def test_damage_is_a_warning_as_the_picture_may_be_good_enough(tmp_path):
    data = jpeg()
    (tmp_path / "a.jpg").write_bytes(data[:-2] + b"\x12" * 40 + b"\xff\xd9")
    scanned = read_picture(tmp_path / "a.jpg")
    (finding,) = scanned.findings("a.jpg")
    assert (finding.kind, finding.severity) == ("damaged data", "warning")
    assert "extraneous bytes before marker 0xd9" in scanned.facts.damage


@pytest.mark.parametrize("name", [name for name in FILES if name.startswith("jpeg") and "2000" not in name])
def test_good_files_of_every_kind_pass(name):
    data = FILES[name][0]()
    with Image.open(io.BytesIO(data)) as image:
        assert damage_in(data, image.mode) == ""


def test_a_jpeg_without_an_end_marker_is_good(tmp_path):
    assert found(tmp_path, jpeg()[:-2] + b"more than the picture needs") == set()


def test_without_simplejpeg_nothing_is_found_and_all_else_is_as_it_was(tmp_path, monkeypatch):
    monkeypatch.setattr(jpeg_check, "_strict_decoder", lambda: None)
    assert found(tmp_path, jpeg()) == set()
    assert not jpeg_check.can_check()
    assert damage_in(b"", "RGB") == ""
