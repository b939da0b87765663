"""Files that are made, or damaged, so that reading them takes for ever or fills the memory."""

from __future__ import annotations

import io
import json
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, features

from greffon.errors import DataError
from greffon.pictures import limits
from greffon.pictures.decode import decode, read_size
from greffon.pictures.faults import PictureError
from greffon.pictures.limits import LARGE_CLAIM, MAX_PIXELS, PIXELS_PER_BYTE


def encoded(image, file_format, **options):
    file = io.BytesIO()
    image.save(file, file_format, **options)
    return file.getvalue()


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_with(extra, *, behind=False):
    """A PNG with further chunks in front of its pixels, or behind them."""
    data = encoded(Image.new("RGB", (40, 30), (10, 20, 30)), "PNG")
    at = len(data) - 12 if behind else 33
    return data[:at] + extra + data[at:]


def with_many_scans(size, count):
    """A progressive JPEG whose last scan, a few bytes that change nothing, comes again and again."""
    data = encoded(Image.new("RGB", size, "red"), "JPEG", progressive=True, quality=30)
    return data[:-2] + data[data.rindex(b"\xff\xda") : -2] * count + b"\xff\xd9"


def with_long_header():
    """A PPM whose numbers never come: its reader asks for one byte after the other."""
    return b"P6 " + b" " * 300_000


def with_many_chunks():
    return png_with(chunk(b"tEXt", b"") * 30_000)


def in_words():
    """A PGM in decimal numbers."""
    return b"P2 1000 800 255\n" + b"1 " * 800_000


@pytest.mark.parametrize(
    "make", [lambda: with_many_scans((800, 600), 3000), with_long_header, with_many_chunks, in_words]
)
@pytest.mark.parametrize("kind", ["bytes", "path"])
def test_a_picture_that_takes_too_long_is_given_up(tmp_path, monkeypatch, make, kind):
    monkeypatch.setattr(limits, "TIME_LIMIT", 0.005)
    source = make()
    if kind == "path":
        (tmp_path / "slow").write_bytes(source)
        source = tmp_path / "slow"
    with pytest.raises(PictureError, match=r"takes more than 0\.005 seconds of processor time") as caught:
        decode(source, 32, "crop")
    assert caught.value.fault == "too slow"


def test_waiting_for_a_slow_disk_is_not_held_against_a_picture(monkeypatch):
    """Only the processor time of the thread counts; the clock on the wall may go on."""
    monkeypatch.setattr(limits.time, "perf_counter", iter(range(0, 10**9, 10**5)).__next__)
    assert decode(encoded(Image.new("RGB", (60, 40)), "JPEG"), 32, "crop").shape == (32, 32, 3)


def test_the_clock_is_looked_at_between_a_few_scans(monkeypatch):
    """In one block of 64 kB there is room for a thousand empty scans."""
    read = []
    monkeypatch.setattr(limits.Watched, "_check", lambda self: read.append(self.tell()))
    decode(with_many_scans((80, 60), 2000), 32, "crop")
    steps = np.diff(read)
    assert len(read) > 10
    assert steps.max() <= limits._SCAN_BLOCK


def test_jpeg_2000_cannot_be_stopped_and_is_not_begun(monkeypatch):
    data = encoded(Image.effect_noise((64, 64), 80), "JPEG2000")
    assert decode(data, 32, "crop").shape == (32, 32, 3)
    monkeypatch.setattr(limits, "SLOW_BYTES", len(data) - 1)
    with pytest.raises(PictureError, match="is a JPEG 2000 of") as caught:
        decode(data, 32, "crop")
    assert caught.value.fault == "too slow"


# Sizes that files claim


@pytest.mark.parametrize("file_format", ["WEBP", "JPEG", "AVIF", "JPEG2000"])
def test_a_tiny_file_does_not_claim_a_huge_picture(monkeypatch, file_format):
    monkeypatch.setattr(limits, "LARGE_CLAIM", 1_000_000)
    if file_format == "AVIF" and "avif" not in features.get_supported_modules():
        pytest.skip("this Pillow has no AVIF")
    if file_format == "JPEG":
        data = bytearray(encoded(Image.new("L", (64, 64)), "JPEG"))
        at = data.index(b"\xff\xc0") + 5
        data[at : at + 4] = struct.pack(">HH", 10_000, 11_000)
    else:
        options = {"WEBP": {"lossless": True}, "AVIF": {"speed": 10}}.get(file_format, {})
        data = encoded(Image.new("RGB", (1500, 1000)), file_format, **options)
    for read in (read_size, lambda data: decode(data, 32, "crop")):
        with pytest.raises(PictureError, match=r"claims .* pixels in [\d,]+ bytes") as caught:
            read(bytes(data))
        assert caught.value.fault == "too large"


def test_large_pictures_in_small_files_of_other_kinds_are_read():
    """Blank pages as scanners and faxes make them."""
    page = Image.new("1", (5000, 4200), 1)
    data = encoded(page, "TIFF", compression="group4")
    assert len(data) * PIXELS_PER_BYTE < 5000 * 4200 > LARGE_CLAIM
    assert (decode(data, 32, "crop") == 255).all()


def test_a_photograph_is_far_from_the_limit_of_thin_files():
    """The worst quality of the smoothest content: what no limit may refuse."""
    data = encoded(Image.linear_gradient("L").resize((2000, 1500)), "JPEG", quality=1)
    assert 2000 * 1500 / len(data) < PIXELS_PER_BYTE / 3


@pytest.mark.parametrize("file_format", ["GIF", "TIFF", "BMP", "PPM", "PNG"])
def test_no_more_pixels_than_the_limit_whatever_the_kind(file_format):
    data = bytearray(encoded(Image.new("L", (8, 8)), file_format))
    if file_format == "PPM":
        data = b"P5 60000 60000 255\n" + bytes(100)
    elif file_format == "TIFF":
        data = bytearray(data.replace(struct.pack("<HHII", 256, 4, 1, 8), struct.pack("<HHII", 256, 4, 1, 10**6)))
        data = data.replace(struct.pack("<HHII", 257, 4, 1, 8), struct.pack("<HHII", 257, 4, 1, 10**6))
    else:
        place, form = {"GIF": (6, "<HH"), "BMP": (18, "<ii"), "PNG": (16, ">II")}[file_format]
        data[place : place + struct.calcsize(form)] = struct.pack(form, 60_000, 60_000)
        if file_format == "PNG":
            data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    with pytest.raises(PictureError, match="pixels") as caught:
        decode(bytes(data), 32, "crop")
    assert caught.value.fault == "too large"


def test_a_frame_that_is_larger_than_its_gif_counts():
    data = bytearray(encoded(Image.new("P", (8, 8)), "GIF"))
    at = data.index(b"\x2c", 13)
    data[at + 5 : at + 9] = struct.pack("<HH", 50_000, 50_000)
    assert MAX_PIXELS < 50_000**2
    with pytest.raises(DataError, match="pixels"):
        decode(bytes(data), 32, "crop")


# Texts and profiles that unpack to more than they seem


def bomb(unpacked=40_000_000):
    return zlib.compress(b"a" * unpacked, 9)


@pytest.mark.parametrize("behind", [False, True])
@pytest.mark.parametrize(
    "extra",
    [
        lambda: chunk(b"zTXt", b"key\0\0" + bomb()),
        lambda: chunk(b"iTXt", b"key\0\1\0\0\0" + bomb()),
        lambda: chunk(b"zTXt", b"key\0\0" + bomb(1_000_000)) * 70,
        lambda: chunk(b"iCCP", b"key\0\0" + bomb()),
        lambda: chunk(b"zTXt", b"key\0\0no zlib at all"),
        lambda: chunk(b"tEXt", b"workflow\0" + b"x" * 3_000_000),
    ],
    ids=["text", "international", "many", "profile", "damaged", "long"],
)
def test_texts_that_unpack_without_end_leave_the_picture_readable(extra, behind):
    pixels = decode(png_with(extra(), behind=behind), 30, "crop")
    assert (pixels == (10, 20, 30)).all()


def test_exif_beside_a_text_that_is_too_long_still_counts():
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encoded(Image.new("RGB", (40, 30)), "PNG", exif=exif)
    data = data[:33] + chunk(b"zTXt", b"key\0\0" + bomb()) + data[33:]
    assert read_size(data) == (30, 40)


WEBP_BOMB = b"RIFF\x1a\0\0\0WEBPVP8L\r\0\0\0/\xff\xff\xff\x0f\x00\x07\x10\x11\x11\x88\x08\x00"
"""16,384 x 16,384 pixels in 34 bytes."""

_BOMBS = """
import json, sys
sys.path.insert(0, sys.argv[1])
import test_limits as files
from test_decode_fuzz import peak_megabytes
from greffon.errors import DataError
from greffon.pictures.decode import decode
packed = files.bomb()
bombs = {
    "text": files.png_with(files.chunk(b"zTXt", b"k\\0\\0" + packed)),
    "profile": files.png_with(files.chunk(b"iCCP", b"k\\0\\0" + packed)),
    "scans": files.with_many_scans((400, 300), 500),
    "claim": files.WEBP_BOMB,
}
data, end = bombs[sys.argv[2]], "picture"
try:
    decode(data, 32, "crop")
except DataError as error:
    end = error.fault
print(json.dumps([end, peak_megabytes()]))
"""


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("text", {"picture"}),
        ("profile", {"picture"}),
        ("scans", {"picture"}),
        ("claim", {"too large", "damaged"}),  # which the decoder of an older Pillow does not open
    ],
)
def test_bombs_take_little_memory(name, expected):
    command = [sys.executable, "-c", _BOMBS, str(Path(__file__).parent), name]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    end, megabytes = json.loads(done.stdout)
    assert end in expected
    assert megabytes < 500
