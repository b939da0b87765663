"""Each mode in each container gives the pixels that are in the file.

The tolerance of each stands with it in `odd_files.FILES`: at most 1 of 255 where the file keeps every number (16 bits
become 8, alpha is laid on white), 3 where inks or profiles are converted, 12 where the file does not keep them (24 for
WebP, whose colours have half the resolution).
"""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest
from odd_files import FILES, SIDE, colours, encoded
from PIL import Image, features

from greffon.pictures.decode import decode, read_size
from greffon.pictures.scan import read_picture

UPRIGHT = {
    # How the rows and columns of a file with this EXIF orientation are made of the upright picture.
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: np.rot90,
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: np.rot90(a, -1),
}


def content_of(name):
    if name.startswith("avif") and "avif" not in features.get_supported_modules():
        pytest.skip("this Pillow has no AVIF")
    if name == "heic" and importlib.util.find_spec("pillow_heif") is None:
        pytest.skip("needs pillow-heif")
    return FILES[name][0]()


@pytest.mark.parametrize("name", FILES)
def test_the_pixels_are_those_in_the_file(name):
    _, expected, tolerance = FILES[name]
    pixels = decode(content_of(name), SIDE, "crop")
    worst = np.abs(pixels - np.asarray(expected, np.float64)).max()
    assert worst <= tolerance + 0.5, f"differs by {worst}"  # a half is lost when numbers become whole


@pytest.mark.parametrize("name", FILES)
def test_the_scan_takes_all_of_them_for_good(tmp_path, name):
    (tmp_path / "picture").write_bytes(content_of(name))
    scanned = read_picture(tmp_path / "picture")
    assert scanned.reason == ""
    assert (scanned.width, scanned.height) == (SIDE, SIDE)
    kinds = {finding.kind for finding in scanned.findings("picture")}
    allowed = {"very blurred"}  # these are smooth
    if "animated" in name or "pages" in name:
        allowed |= {"animated"}
        assert "animated" in kinds
    if name == "png with a broken profile":
        allowed |= {"broken profile"}
        assert "broken profile" in kinds
    assert kinds <= allowed


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("rule", ["crop", "pad"])
def test_every_orientation_by_rows_and_columns(orientation, file_format, rule):
    upright = colours()[:, :32]
    stored = np.ascontiguousarray(UPRIGHT[orientation](upright))
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"JPEG": {"quality": 98, "subsampling": 0}, "WEBP": {"lossless": True}}.get(file_format, {})
    data = encoded(Image.fromarray(stored), file_format, exif=exif, **options)
    assert read_size(data) == (32, SIDE)
    if rule == "crop":
        pixels, expected = decode(data, 32, "crop"), upright[8:40]
    else:
        pixels, expected = decode(data, SIDE, "pad")[:, 8:40], upright
    assert np.abs(pixels.astype(int) - expected).max() <= (6 if file_format == "JPEG" else 0)
