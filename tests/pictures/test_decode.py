"""What the decoder promises: the right pixels, from every kind of file, or one sentence that says why not.

Tolerances, in steps of 0..255: lossless files agree with the reference (everything in RGB on white at full size, then
one bicubic pass) to 2 where colours are converted after resizing, and exactly where nothing is converted; JPEG at a
fraction of its size to 6, and to 1 on average.
"""

from __future__ import annotations

import gc
import io
import itertools
import pickle
import random
import re
import struct
import sys
import tarfile
import threading
import warnings
import zlib

import numpy as np
import pytest
from picture_folders import STORED
from PIL import Image, ImageFile, features

from greffon.errors import DataError, InputError
from greffon.pictures.decode import MAX_PIXELS, crop_loss, decode, decode_array, decode_many, read_size
from greffon.pictures.faults import PictureError

SIZE = 32
WIDTH, HEIGHT = 96, 64
RULES = ("crop", "stretch", "pad")


def scene(width=WIDTH, height=HEIGHT, seed=0):
    """Smooth colours with some detail, different in every corner."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (4, 5, 3), dtype=np.uint8)).resize((width, height))
    fine = Image.fromarray(rng.integers(0, 256, (height // 2, width // 2, 3), dtype=np.uint8)).resize((width, height))
    return Image.blend(coarse, fine, 0.15)


def encoded(image, file_format, **options):
    file = io.BytesIO()
    image.save(file, file_format, **options)
    return file.getvalue()


def reference(image, size=SIZE, rule="crop"):
    """The plain way: RGB on white at full size, one bicubic pass over the whole picture or its centre."""
    rgba = image.convert("RGBA")
    white = Image.new("RGBA", image.size, "white")
    image = Image.alpha_composite(white, rgba).convert("RGB")
    width, height = image.size
    if rule == "pad":
        longer = max(width, height)
        inner = image.resize((max(1, round(width * size / longer)), max(1, round(height * size / longer))))
        square = Image.new("RGB", (size, size), "white")
        square.paste(inner, ((size - inner.width) // 2, (size - inner.height) // 2))
        return np.asarray(square)
    box = (0, 0, width, height)
    if rule == "crop":
        side = min(width, height)
        box = ((width - side) / 2, (height - side) / 2, (width + side) / 2, (height + side) / 2)
    return np.asarray(image.resize((size, size), Image.Resampling.BICUBIC, box=box))


def assert_close(pixels, expected, tolerance):
    assert pixels.dtype == np.uint8
    assert pixels.shape == expected.shape
    worst = int(np.abs(pixels.astype(int) - expected.astype(int)).max())
    assert worst <= tolerance, f"differs by {worst}"


# Rules and geometry


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(("width", "height"), [(96, 64), (64, 96), (50, 50), (97, 33), (16, 12), (1, 200), (200, 3)])
def test_each_rule_gives_the_reference_pixels(rule, width, height):
    image = scene(200, 200).resize((width, height))
    pixels = decode(encoded(image, "PNG"), SIZE, rule)
    assert pixels.flags.c_contiguous
    assert pixels.flags.writeable
    # Blocks are averaged first where a side is more than six times too long.
    assert_close(pixels, reference(image, rule=rule), 0 if max(width, height) < 6 * SIZE else 4)


def test_crop_takes_the_centre_and_stretch_everything():
    image = Image.new("RGB", (96, 32), "red")
    image.paste("blue", (32, 0, 64, 32))
    data = encoded(image, "PNG")
    assert (decode(data, 32, "crop")[:, 4:-4] == (0, 0, 255)).all()
    stretched = decode(data, 33, "stretch")
    assert (stretched[:, :8] == (255, 0, 0)).all()
    assert (stretched[:, 14:19] == (0, 0, 255)).all()
    padded = decode(data, 96, "pad")
    assert (padded[:32] == 255).all()
    assert (padded[64:] == 255).all()
    assert (padded[32:64, :32] == (255, 0, 0)).all()


def test_odd_margin_of_pad_is_at_the_right_and_the_bottom():
    padded = decode(encoded(Image.new("RGB", (10, 5)), "PNG"), 10, "pad")
    assert (padded[..., 0] == 255).all(axis=1).tolist() == [True] * 2 + [False] * 5 + [True] * 3


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("make", ["rgb", "palette-alpha", "rgba", "grey", "16-bit", "cmyk"])
def test_large_picture_averaged_in_strips_agrees_with_one_pass(make, rule, monkeypatch):
    from greffon.pictures import resize

    monkeypatch.setattr(resize, "STRIP", 20_000)
    image = scene(701, 503)
    if make == "16-bit":
        grey = np.asarray(image.convert("L"))
        image, plain = Image.fromarray(grey.astype(np.uint16) * 257), Image.fromarray(grey)
    else:
        image = plain = LOSSLESS[make][0](image)
    data = encoded(image, "TIFF" if make == "cmyk" else "PNG", compress_level=1)
    assert_close(decode(data, 32, rule), reference(plain, 32, rule), 3)
    monkeypatch.setattr(resize, "REDUCING_GAP", 10_000)  # one pass over the whole picture
    assert_close(decode(data, 32, rule), reference(plain, 32, rule), 3 if make == "cmyk" else 1)


@pytest.mark.parametrize(("size", "rule"), [(0, "crop"), (-3, "crop"), (2.5, "crop"), (True, "crop"), (32, "corp")])
def test_wrong_size_or_rule_is_refused(size, rule):
    with pytest.raises(InputError, match="size must be" if rule == "crop" else "did you mean 'crop'"):
        decode(b"", size, rule)


@pytest.mark.parametrize(
    ("width", "height", "lost"), [(64, 64, 0), (640, 480, 0.25), (480, 640, 0.25), (1000, 10, 0.99)]
)
def test_crop_loss(width, height, lost):
    assert crop_loss(width, height) == pytest.approx(lost)


def test_crop_loss_refuses_nothing():
    with pytest.raises(InputError, match="at least 1"):
        crop_loss(0, 5)


# Orientation


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("file_format", ["PNG", "WEBP", "TIFF", "JPEG", "MPO", "AVIF"])
def test_every_orientation_gives_the_upright_picture(file_format, orientation, rule):
    if file_format == "AVIF" and "avif" not in features.get_supported_modules():
        pytest.skip("this Pillow has no AVIF")
    upright = scene(95, 64)
    stored = upright if orientation == 1 else upright.transpose(STORED[orientation])
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {
        "WEBP": {"lossless": True},
        "JPEG": {"quality": 98, "subsampling": 0},
        "MPO": {"quality": 98, "subsampling": 0},
    }
    options["AVIF"] = {"quality": 98, "subsampling": "4:4:4"}
    data = encoded(stored, file_format, exif=exif, **options.get(file_format, {}))
    assert read_size(data) == upright.size
    # Turning after resizing rounds the two passes in another order: 1.
    lossless = file_format in ("PNG", "WEBP", "TIFF")
    assert_close(decode(data, SIZE, rule), reference(upright, rule=rule), 1 if lossless else 8)


@pytest.mark.parametrize("orientation", range(2, 9))
def test_jpeg_at_a_fraction_of_its_size_is_turned_too(orientation):
    upright = scene(601, 403)
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(upright.transpose(STORED[orientation]), "JPEG", exif=exif, quality=98, subsampling=0)
    assert read_size(data) == (601, 403)
    for rule in RULES:
        assert_close(decode(data, SIZE, rule), reference(upright, rule=rule), 6)


def test_exif_behind_the_pixels_of_a_png_counts():
    exif = Image.Exif()
    exif[0x0112] = 6
    before = encoded(scene(), "PNG", exif=exif)
    chunks = png_chunks(before)
    moved = [chunk for chunk in chunks if chunk[4:8] != b"eXIf"]
    moved[-1:-1] = [chunk for chunk in chunks if chunk[4:8] == b"eXIf"]
    behind = before[:8] + b"".join(moved)
    assert behind != before
    assert read_size(behind) == (HEIGHT, WIDTH)
    assert (decode(behind, SIZE, "pad") == decode(before, SIZE, "pad")).all()


@pytest.mark.parametrize("value", [0, 9, 65535])
def test_orientation_out_of_range_is_none(value):
    exif = Image.Exif()
    exif[0x0112] = value
    data = encoded(scene(), "PNG", exif=exif)
    assert_close(decode(data, SIZE, "pad"), reference(scene(), rule="pad"), 0)
    assert read_size(data) == (WIDTH, HEIGHT)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_heic_is_read_where_its_reader_is_installed(orientation):
    heif = pytest.importorskip("pillow_heif")
    heif.register_heif_opener()
    upright = scene()
    stored = upright.copy() if orientation == 1 else upright.transpose(STORED[orientation])
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.info["exif"] = exif.tobytes()
    data = encoded(stored, "HEIF", quality=-1)
    assert read_size(data) == upright.size
    assert_close(decode(data, SIZE, "stretch"), reference(upright, rule="stretch"), 4)


def test_heic_without_its_reader_says_what_is_missing(monkeypatch):
    from greffon.pictures import opened

    monkeypatch.setattr(opened, "_heif", lambda: False)
    monkeypatch.delitem(Image.OPEN, "AVIF", raising=False)
    head = b"\0\0\0\x18ftyp%s\0\0\0\0mif1heic"
    with pytest.raises(DataError, match=r"HEIC picture, which needs the package pillow-heif"):
        decode(head % b"heic", SIZE, "crop")
    with pytest.raises(DataError, match=r"AVIF picture, which needs Pillow"):
        decode(head % b"avif", SIZE, "crop")


# Modes


def transparent_corner(image):
    alpha = np.full((image.height, image.width), 255, np.uint8)
    alpha[: image.height // 2, : image.width // 2] = 0
    alpha[image.height // 2 :, image.width // 2 :] = 100
    image = image.convert("RGBA")
    image.putalpha(Image.fromarray(alpha))
    return image


def in_palette(image):
    return image.convert("RGB").quantize(64)


def palette_with_alpha(image):
    image = in_palette(image)
    image.info["transparency"] = bytes([0, 128] + [255] * 30)
    return image


def palette_with_one_transparent_colour(image):
    image = in_palette(image)
    image.info["transparency"] = image.getpixel((5, 5))
    return image


def with_transparent_colour(mode):
    def make(image):
        # Flat areas, one of which is the transparent colour.
        image = image.resize((4, 4)).resize(image.size, Image.Resampling.NEAREST).convert(mode)
        image.info["transparency"] = image.getpixel((0, 0))
        return image

    return make


LOSSLESS = {
    "rgb": (lambda image: image, ("PNG", "BMP", "TIFF", "WEBP", "PPM", "JPEG2000")),
    "grey": (lambda image: image.convert("L"), ("PNG", "BMP", "TIFF", "GIF", "PPM", "JPEG2000")),
    "bilevel": (lambda image: image.convert("1"), ("PNG", "BMP", "TIFF", "GIF", "PPM")),
    "palette": (in_palette, ("PNG", "BMP", "TIFF", "GIF")),
    "palette-alpha": (palette_with_alpha, ("PNG",)),
    "palette-transparent": (palette_with_one_transparent_colour, ("PNG", "GIF")),
    "rgba": (transparent_corner, ("PNG", "TIFF", "WEBP", "JPEG2000")),
    "grey-alpha": (lambda image: transparent_corner(image).convert("LA"), ("PNG", "TIFF", "JPEG2000")),
    "rgb-transparent": (with_transparent_colour("RGB"), ("PNG",)),
    "grey-transparent": (with_transparent_colour("L"), ("PNG",)),
    "cmyk": (lambda image: image.convert("CMYK"), ("TIFF",)),
}


@pytest.mark.parametrize("rule", ["crop", "pad"])
@pytest.mark.parametrize(
    ("kind", "file_format"), [(kind, name) for kind, (_, names) in LOSSLESS.items() for name in names]
)
def test_every_mode_in_every_container(kind, file_format, rule):
    image = LOSSLESS[kind][0](scene())
    options = {"WEBP": {"lossless": True, "exact": True}, "JPEG2000": {"irreversible": False}}
    data = encoded(image, file_format, **options.get(file_format, {}))
    tolerance = {"cmyk": 3}.get(kind, 2 if "alpha" in kind or "transparent" in kind or kind == "rgba" else 1)
    assert_close(decode(data, SIZE, rule), reference(image, rule=rule), tolerance)


@pytest.mark.parametrize(("file_format", "tolerance"), [("JPEG", 10), ("WEBP", 16), ("AVIF", 10)])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_lossy_containers(file_format, tolerance, mode):
    if file_format == "AVIF" and "avif" not in features.get_supported_modules():
        pytest.skip("this Pillow has no AVIF")
    image = scene().convert(mode)
    options = {"JPEG": {"subsampling": 0}, "AVIF": {"subsampling": "4:4:4"}}.get(file_format, {})
    data = encoded(image, file_format, quality=95, **options)
    assert_close(decode(data, SIZE, "crop"), reference(image), tolerance)


@pytest.mark.parametrize("mode", ["La", "RGBa", "RGBX", "HSV", "YCbCr", "PA"])
def test_modes_that_only_image_objects_have(mode):
    image = {
        "PA": lambda: transparent_corner(scene()).convert("PA"),
        "La": lambda: transparent_corner(scene()).convert("LA").convert("La"),
        "RGBa": lambda: transparent_corner(scene()).convert("RGBa"),
    }.get(mode, lambda: scene().convert(mode))()
    plain = image.convert({"La": "LA"}.get(mode, "RGBA" if "a" in mode or "A" in mode else "RGB"))
    assert_close(decode(image, SIZE, "crop"), reference(plain), 4)


def test_lab():
    from PIL import ImageCms

    srgb, lab = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    image = ImageCms.profileToProfile(scene(), srgb, lab, outputMode="LAB")
    expected = reference(ImageCms.profileToProfile(image, lab, srgb, outputMode="RGB"))
    assert_close(decode(encoded(image, "TIFF"), SIZE, "crop"), expected, 10)


@pytest.mark.parametrize("byte_order", ["<", ">"])
def test_16_bit_grey_is_scaled_not_clipped(byte_order):
    values = np.linspace(0, 65535, WIDTH * HEIGHT).reshape(HEIGHT, WIDTH).round().astype(byte_order + "u2")
    image = Image.fromarray(values)
    expected = np.asarray(Image.fromarray((values / 257).round().astype(np.uint8)).convert("RGB"))
    files = [encoded(image, "TIFF")] + ([encoded(image, "PNG")] if byte_order == "<" else [])
    for data in files:
        pixels = decode(data, SIZE, "stretch")
        assert_close(pixels, reference(Image.fromarray(expected), rule="stretch"), 1)
        assert pixels.min() < 5
        assert pixels.max() > 250


def test_16_bit_grey_with_a_transparent_colour():
    values = np.full((40, 40), 20000, np.uint16)
    values[:, :20] = 300
    data = insert_chunk(encoded(Image.fromarray(values), "PNG"), b"tRNS", struct.pack(">H", 300))
    pixels = decode(data, 40, "crop")
    assert (pixels[:, :15] == 255).all()
    assert (pixels[:, 25:] == 78).all()


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0, 255], [0, 255]),
        ([0, 128, 257 * 200], [0, 0, 200]),
        ([0, 65535], [0, 255]),
        ([0, 2**30], [0, 255]),
        ([-100, 0, 100], [0, 128, 255]),
        ([7, 7], [7, 7]),
        ([-7, -7], [0, 0]),
    ],
)
def test_32_bit_integers(values, expected):
    image = Image.fromarray(np.repeat(np.repeat(np.array([values], np.int32), 8, axis=0), 8, axis=1))
    pixels = decode(encoded(image, "TIFF"), 8, "pad")
    row = decode_array(np.repeat(np.repeat(np.array([expected], np.uint8), 8, axis=0), 8, axis=1), 8, "pad")
    assert_close(pixels, row, 1)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.0, 0.5, 1.0], [0, 128, 255]),
        ([0.0, 100.0, 255.0], [0, 100, 255]),
        ([-1.0, 0.0, 1.0], [0, 128, 255]),
        ([0.0, 1e6], [0, 255]),
        ([float("nan"), 0.5, 1.0], [0, 128, 255]),
        ([float("-inf"), 0.0, 1.0, float("inf")], [0, 0, 255, 0]),
    ],
)
def test_floats(values, expected):
    image = Image.fromarray(np.repeat(np.repeat(np.array([values], np.float32), 8, axis=0), 8, axis=1))
    pixels = decode(encoded(image, "TIFF"), 8, "pad")
    row = decode_array(np.repeat(np.repeat(np.array([expected], np.uint8), 8, axis=0), 8, axis=1), 8, "pad")
    assert_close(pixels, row, 1)


def test_floats_of_which_none_is_a_number():
    data = encoded(Image.fromarray(np.full((8, 8), np.nan, np.float32)), "TIFF")
    with pytest.raises(DataError, match="none is a number"):
        decode(data, 8, "crop")


def test_16_bit_rgb_png():
    rgb = np.asarray(scene()).astype(">u2") * 257
    data = raw_png(WIDTH, HEIGHT, 16, 2, [row.tobytes() for row in rgb])
    assert_close(decode(data, SIZE, "crop"), reference(scene()), 0)


@pytest.mark.parametrize(("bits", "transparent"), [(1, 0), (1, 1), (2, 1), (4, 10)])
def test_transparent_grey_of_few_bits(bits, transparent):
    """The transparent colour is given in the file's own depth."""
    levels = 2**bits
    other = levels - 1 if transparent == 0 else 0
    pack = {1: lambda v: v * 0xFF, 2: lambda v: v * 0x55, 4: lambda v: v * 0x11}[bits]
    half = bytes([pack(transparent)]) * (16 * bits // 8)
    rest = bytes([pack(other)]) * (16 * bits // 8)
    data = insert_chunk(raw_png(32, 32, bits, 0, [half + rest] * 32), b"tRNS", struct.pack(">H", transparent))
    pixels = decode(data, 32, "crop")
    assert (pixels[:, :14] == 255).all()
    assert (pixels[:, 18:] == other * 255 // (levels - 1)).all()


def test_transparent_colour_of_16_bits():
    row = struct.pack(">3H", 40000, 30000, 20000) * 16 + struct.pack(">3H", 60000, 60000, 0) * 16
    data = insert_chunk(raw_png(32, 32, 16, 2, [row] * 32), b"tRNS", struct.pack(">3H", 40000, 30000, 20000))
    pixels = decode(data, 32, "crop")
    assert (pixels[:, :14] == 255).all()
    assert (pixels[:, 18:] == (60000 >> 8, 60000 >> 8, 0)).all()


# CMYK


INKS = (200, 30, 90, 20)


def cmyk_on_screen():
    cyan, magenta, yellow, black = INKS
    return [round((255 - ink) * (255 - black) / 255) for ink in (cyan, magenta, yellow)]


def without_adobe_marker(data):
    at = data.index(b"\xff\xee")
    return data[:at] + data[at + 2 + int.from_bytes(data[at + 2 : at + 4], "big") :]


def test_adobe_cmyk_jpeg_is_stored_inverted():
    data = encoded(Image.new("CMYK", (64, 48), INKS), "JPEG", quality=100)
    assert b"Adobe" in data
    assert np.abs(decode(data, SIZE, "crop").astype(int) - cmyk_on_screen()).max() <= 3


def test_cmyk_jpeg_without_adobe_marker_is_not_inverted():
    stored = Image.new("CMYK", (64, 48), tuple(255 - ink for ink in INKS))
    data = without_adobe_marker(encoded(stored, "JPEG", quality=100))
    assert np.abs(decode(data, SIZE, "crop").astype(int) - cmyk_on_screen()).max() <= 3


def test_ycck_jpeg():
    """Adobe's other way: the inks as luma and chroma, which only the marker tells."""
    luma = Image.new("RGB", (1, 1), INKS[:3]).convert("YCbCr").getpixel((0, 0))
    stored = Image.new("CMYK", (64, 48), (*(255 - value for value in luma), INKS[3]))
    data = bytearray(encoded(stored, "JPEG", quality=100))
    at = data.index(b"Adobe") + 11
    assert data[at] == 0
    data[at] = 2
    assert np.abs(decode(bytes(data), SIZE, "crop").astype(int) - cmyk_on_screen()).max() <= 4


# ICC profiles


def srgb_profile():
    from PIL import ImageCms

    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def exchanged_profile():
    """An RGB profile in which red and green have changed places."""
    profile = srgb_profile()
    return profile.replace(b"rXYZ", b"tmpX", 1).replace(b"gXYZ", b"rXYZ", 1).replace(b"tmpX", b"gXYZ", 1)


def grey_profile():
    """A grey profile with a gamma of 1."""
    profile = bytearray(srgb_profile())
    profile[16:20] = b"GRAY"
    profile[profile.index(b"rTRC") : profile.index(b"rTRC") + 4] = b"kTRC"
    curve = profile.index(b"para", 200)
    profile[curve : curve + 16] = b"para\0\0\0\0\0\0\0\0" + struct.pack(">i", 1 << 16)
    return bytes(profile)


def ink_profile():
    """A CMYK profile: full cyan is dark grey, no cyan white, whatever the other inks are; only all four are black."""
    white, dark, black = (bytes([lightness, 128, 128]) for lightness in (255, 51, 0))
    table = b"".join((dark if inks[0] else white) for inks in itertools.product((0, 1), repeat=4))
    table = table[:-3] + black
    ramp = bytes(range(256))
    identity = struct.pack(">9i", *(65536 if i in (0, 4, 8) else 0 for i in range(9)))
    lut = b"mft1\0\0\0\0" + bytes([4, 3, 2, 0]) + identity + ramp * 4 + table + ramp * 3
    white_point = b"XYZ \0\0\0\0" + struct.pack(">3i", 63190, 65536, 54061)
    start = 128 + 4 + 2 * 12
    tags = struct.pack(">I", 2)
    tags += b"A2B0" + struct.pack(">II", start, len(lut))
    lut += b"\0" * (-len(lut) % 4)
    tags += b"wtpt" + struct.pack(">II", start + len(lut), len(white_point))
    body = tags + lut + white_point
    head = struct.pack(">I4sI4s4s4s", 128 + len(body), b"lcms", 0x02400000, b"prtr", b"CMYK", b"Lab ")
    head += struct.pack(">6H", 2024, 1, 1, 0, 0, 0) + b"acsp" + bytes(28) + struct.pack(">3i", 63190, 65536, 54061)
    return head.ljust(128, b"\0") + body


@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "TIFF", "WEBP"])
def test_icc_profile_is_applied(file_format):
    options = {"WEBP": {"lossless": True}, "JPEG": {"quality": 98}}.get(file_format, {})
    data = encoded(Image.new("RGB", (40, 40), (200, 40, 90)), file_format, icc_profile=exchanged_profile(), **options)
    assert np.abs(decode(data, SIZE, "crop").astype(int) - (40, 200, 90)).max() <= 3


def test_icc_profile_under_transparency():
    image = Image.new("RGBA", (40, 40), (200, 40, 90, 128))
    data = encoded(image, "PNG", icc_profile=exchanged_profile())
    on_white = [round((value * 128 + 255 * 127) / 255) for value in (40, 200, 90)]
    assert np.abs(decode(data, SIZE, "crop").astype(int) - on_white).max() <= 3


def test_grey_profile_of_a_grey_picture():
    data = encoded(Image.new("L", (40, 40), 64), "PNG", icc_profile=grey_profile())
    seen = 255 * (1.055 * (64 / 255) ** (1 / 2.4) - 0.055)  # linear 64, in sRGB
    assert np.abs(decode(data, SIZE, "crop").astype(int) - seen).max() <= 2


def test_colour_profile_of_a_grey_picture():
    data = encoded(Image.new("L", (40, 40), 64), "PNG", icc_profile=exchanged_profile())
    assert np.abs(decode(data, SIZE, "crop").astype(int) - 64).max() <= 2


@pytest.mark.parametrize("file_format", ["TIFF", "JPEG"])
def test_profile_of_inks(file_format):
    def grey(cyan):
        image = Image.new("CMYK", (40, 40), (cyan, 255, 0, 255))
        return decode(encoded(image, file_format, icc_profile=ink_profile()), SIZE, "crop").astype(int)

    assert np.abs(grey(0) - 255).max() <= 3
    assert np.abs(grey(255) - 48).max() <= 3  # L* 20


def test_srgb_profile_changes_nothing():
    plain = encoded(scene(), "PNG")
    assert (
        decode(encoded(scene(), "PNG", icc_profile=srgb_profile()), SIZE, "crop") == decode(plain, SIZE, "crop")
    ).all()


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize(
    "profile",
    [b"no profile", srgb_profile()[:200], bytes(3000), ink_profile()[:400]],
    ids=["text", "cut", "zeros", "lut"],
)
def test_broken_profile_is_ignored(profile, mode):
    image = scene().convert(mode)
    plain, damaged = encoded(image, "TIFF"), encoded(image, "TIFF", icc_profile=profile)
    assert (decode(damaged, SIZE, "crop") == decode(plain, SIZE, "crop")).all()


def test_profile_of_another_space_is_ignored():
    plain = decode(encoded(scene(), "PNG"), SIZE, "crop")
    for profile in (ink_profile(), grey_profile()):
        assert (decode(encoded(scene(), "PNG", icc_profile=profile), SIZE, "crop") == plain).all()


# Animations, pages, JPEG at a fraction


@pytest.mark.parametrize("file_format", ["GIF", "WEBP", "PNG", "TIFF"])
def test_first_frame_of_an_animation(file_format):
    frames = [Image.new("RGB", (40, 40), colour) for colour in ("red", "lime", "blue")]
    options = {"WEBP": {"lossless": True}}.get(file_format, {})
    data = encoded(frames[0], file_format, save_all=True, append_images=frames[1:], **options)
    assert (decode(data, SIZE, "crop") == (255, 0, 0)).all()
    assert read_size(data) == (40, 40)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize(("width", "height"), [(600, 400), (403, 611), (1201, 301)])
def test_jpeg_at_a_fraction_agrees_with_the_whole(width, height, mode, progressive, rule):
    data = encoded(scene(width, height).convert(mode), "JPEG", quality=92, progressive=progressive)
    with Image.open(io.BytesIO(data)) as image:
        whole = reference(image.convert("RGB"), 48, rule)
    pixels = decode(data, 48, rule)
    assert_close(pixels, whole, 6)
    assert np.abs(pixels.astype(int) - whole).mean() < 1


def test_jpeg_is_never_decoded_under_twice_the_target(monkeypatch):
    drafts = []
    plain = ImageFile.ImageFile.load

    def load(self):
        drafts.append(self.size)
        return plain(self)

    monkeypatch.setattr(ImageFile.ImageFile, "load", load)
    for width, height, rule, size, expected in [
        (640, 480, "crop", 224, 1),
        (896, 896, "crop", 224, 2),
        (4000, 300, "pad", 100, 8),
        (900, 1200, "stretch", 60, 4),
    ]:
        drafts.clear()
        decode(encoded(Image.new("RGB", (width, height)), "JPEG"), size, rule)
        scale = width / drafts[0][0]
        wanted = size / (max if rule == "pad" else min)(width, height)
        assert 1 / scale >= 2 * wanted or scale == 1
        assert scale == pytest.approx(expected, rel=0.01)


def test_an_image_object_is_not_changed():
    with Image.open(io.BytesIO(encoded(scene(800, 600), "JPEG"))) as image:
        pixels = decode(image, SIZE, "crop")
        assert image.size == (800, 600)
        assert image.mode == "RGB"
        assert_close(pixels, reference(image), 4)


# Sources


def test_every_kind_of_source_gives_the_same(tmp_path):
    data = encoded(scene(), "PNG")
    path = tmp_path / "a picture.with.dots"
    path.write_bytes(data)
    expected = decode(data, SIZE, "crop")

    class Pipe(io.RawIOBase):
        """A stream that cannot seek."""

        def __init__(self):
            self.file = io.BytesIO(data)

        def read(self, count=-1):
            return self.file.read(count)

    with path.open("rb") as file, Image.open(path) as image:
        file.seek(10)
        for source in (path, str(path), bytearray(data), memoryview(data), file, io.BytesIO(data), Pipe(), image):
            assert (decode(source, SIZE, "crop") == expected).all()
        assert not file.closed
        assert read_size(file) == (WIDTH, HEIGHT)


def test_members_of_archives_and_addresses_are_pictures_like_others(tmp_path):
    fsspec = pytest.importorskip("fsspec")
    data = encoded(scene(), "JPEG")
    with tarfile.open(tmp_path / "shard.tar", "w") as archive:
        member = tarfile.TarInfo("a.jpg")
        member.size = len(data)
        archive.addfile(member, io.BytesIO(data))
    fsspec.filesystem("memory").pipe("/decode/a.jpg", data)
    for locator in (f"{tmp_path / 'shard.tar'}::a.jpg", "memory://decode/a.jpg"):
        assert (decode(locator, SIZE, "crop") == decode(data, SIZE, "crop")).all()
        assert read_size(locator) == (WIDTH, HEIGHT)
    for locator in (f"{tmp_path / 'shard.tar'}::b.jpg", "memory://decode/b.jpg"):
        with pytest.raises(PictureError, match=re.escape(locator)) as caught:
            decode(locator, SIZE, "crop")
        assert caught.value.fault == "missing"


def test_an_error_survives_the_way_between_processes():
    with pytest.raises(PictureError) as caught:
        decode(b"", SIZE, "crop")
    again = pickle.loads(pickle.dumps(caught.value))
    assert (str(again), again.fault) == ("picture in memory (0 bytes): is empty (0 bytes)", "empty")


@pytest.mark.parametrize("source", [None, 3, ["a.jpg"], np.zeros((8, 8, 3), np.uint8)])
def test_a_source_of_another_type_is_refused(source):
    with pytest.raises(InputError, match=r"a picture must be a path.*got (NoneType|int|list|ndarray).*decode_array"):
        decode(source, SIZE, "crop")


def test_a_text_stream_is_refused():
    with pytest.raises(InputError, match="binary mode"):
        decode(io.StringIO("a"), SIZE, "crop")


# Arrays


def test_arrays_are_resized_like_files():
    rgb = np.asarray(scene())
    for rule in RULES:
        assert (decode_array(rgb, SIZE, rule) == decode(encoded(scene(), "PNG"), SIZE, rule)).all()
    grey = np.asarray(scene().convert("L"))
    assert (decode_array(grey, SIZE, "crop") == decode_array(grey[..., None], SIZE, "crop")).all()
    assert (decode_array(grey, SIZE, "crop") == decode(scene().convert("L"), SIZE, "crop")).all()
    rgba = transparent_corner(scene())
    assert (decode_array(np.asarray(rgba), SIZE, "pad") == decode(rgba, SIZE, "pad")).all()
    same = decode_array(rgb[:32, :32], 32, "crop")
    assert (same == rgb[:32, :32]).all()
    assert not np.shares_memory(same, rgb)
    assert (decode_array(rgb[::-1, ::2], SIZE, "stretch") == decode_array(rgb[::-1, ::2].copy(), SIZE, "stretch")).all()


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((8, 8, 3), np.float32), "uint8 array.*float32"),
        ([[1, 2]], "uint8 array.*list"),
        (np.zeros((3, 8, 8), np.uint8), r"got \(3, 8, 8\); channels must be the last axis"),
        (np.zeros((2, 8, 8, 3), np.uint8), r"got \(2, 8, 8, 3\)"),
        (np.zeros(8, np.uint8), r"got \(8,\)"),
    ],
)
def test_other_arrays_are_refused(array, message):
    with pytest.raises(InputError, match=message):
        decode_array(array, SIZE, "crop")


def test_an_empty_array_is_no_picture():
    with pytest.raises(DataError, match="no pixels"):
        decode_array(np.zeros((0, 8, 3), np.uint8), SIZE, "crop")


# What cannot be read


def png_chunks(data):
    chunks, at = [], 8
    while at < len(data):
        end = at + 12 + int.from_bytes(data[at : at + 4], "big")
        chunks.append(data[at:end])
        at = end
    return chunks


def chunk(kind, content):
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def insert_chunk(png, kind, content):
    """Behind the header, in front of everything else."""
    return png[:33] + chunk(kind, content) + png[33:]


def raw_png(width, height, depth, colour_type, rows):
    head = struct.pack(">2I5B", width, height, depth, colour_type, 0, 0, 0)
    body = zlib.compress(b"".join(b"\0" + row for row in rows))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def fails(source):
    """The reason, which both functions give with the source's name in front where the header shows it already."""
    with pytest.raises(DataError) as caught:
        decode(source, SIZE, "crop")
    return str(caught.value)


def test_what_is_not_there(tmp_path):
    assert fails(tmp_path / "none.jpg") == f"{tmp_path / 'none.jpg'}: there is no such file"
    assert fails(tmp_path) == f"{tmp_path}: is a folder, not a picture file"
    empty = tmp_path / "empty.jpg"
    empty.touch()
    assert fails(str(empty)) == f"{empty}: is empty (0 bytes)"
    assert fails(b"") == "picture in memory (0 bytes): is empty (0 bytes)"
    for source in (tmp_path / "none.jpg", tmp_path, empty):
        with pytest.raises(DataError, match=re.escape(str(source))):
            read_size(source)


@pytest.mark.skipif(sys.platform == "win32", reason="has no such files")
def test_a_pipe_is_not_waited_for(tmp_path):
    import os

    os.mkfifo(tmp_path / "pipe.jpg")
    assert fails(tmp_path / "pipe.jpg").endswith("is not a regular file")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"hello, I am a text", "is not a picture of a known format"),
        (b"\n <!DOCTYPE html><html>404</html>", "an HTML page, as a failed download leaves it"),
        (b"%PDF-1.7", "a PDF document"),
        (b"version https://git-lfs.github.com/spec/v1", "Git LFS pointer"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "a PostScript file"),
        (bytes(5000), "begins with zeros"),
        (b"\xff\xd8 and no more", "a JPEG file with a damaged header"),
        (b"\x89PNG\r\n\x1a\n\0\0", "a PNG file with a damaged header"),
    ],
)
def test_what_is_no_picture(content, reason):
    assert reason in fails(content)


CONTAINERS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "JPEG2000")


@pytest.mark.parametrize("file_format", CONTAINERS)
@pytest.mark.parametrize("share", [0.3, 0.6, 0.95])
def test_truncated_files_are_errors(file_format, share):
    data = encoded(scene(), file_format)
    reason = fails(data[: int(len(data) * share)])
    assert "cut short" in reason or "damaged" in reason
    assert "object at 0x" not in reason


def test_truncated_progressive_jpeg_is_an_error():
    data = encoded(scene(400, 300), "JPEG", progressive=True)
    assert "cut short" in fails(data[: len(data) // 2])


@pytest.mark.parametrize(("width", "height"), [(12_000, 11_000), (20_000, 20_000), (60_000, 60_000)])
def test_a_decompression_bomb_is_an_error(width, height):
    assert width * height > MAX_PIXELS
    data = raw_png(width, height, 1, 0, [bytes(10)])
    assert "pixels" in fails(data)
    with pytest.raises(DataError, match="pixels"):
        read_size(data)


def test_large_pictures_under_the_limit_do_not_warn():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_size(raw_png(12_000, 9_000, 1, 0, [bytes(10)])) == (12_000, 9_000)  # Pillow warns from 89 million


def test_zero_sized():
    assert "no pixels" in fails(Image.new("RGB", (0, 5)))
    assert "damaged" in fails(raw_png(0, 5, 8, 2, [b""]))


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP"])
def test_a_damaged_exif_leaves_the_picture_readable(file_format):
    rng = random.Random(5)
    exif = Image.Exif()
    exif.update({0x0112: 1, 0x010F: "Maker", 0x011A: 72.0, 0x0128: 2})
    exif.get_ifd(0x8769)[0x9003] = "2020:01:01 00:00:00"
    options = {"WEBP": {"lossless": True}, "JPEG": {"quality": 98, "subsampling": 0}}.get(file_format, {})
    data = encoded(scene(), file_format, exif=exif, **options)
    payload = exif.tobytes()[6:]
    start = data.index(payload)
    turned = [decode(scene() if o == 1 else scene().transpose(STORED[o]), SIZE, "stretch").astype(int) for o in STORED]
    for _ in range(60):
        damaged = bytearray(data)
        for _ in range(rng.choice([1, 3, 20])):
            damaged[rng.randrange(start, start + len(payload))] = rng.randrange(256)
        pixels = decode(bytes(damaged), SIZE, "stretch")
        assert min(np.abs(pixels - other).max() for other in turned) <= 12
        assert read_size(bytes(damaged)) in [(WIDTH, HEIGHT), (HEIGHT, WIDTH)]


def test_the_global_state_of_pillow_and_warnings_is_left_alone():
    before = (ImageFile.LOAD_TRUNCATED_IMAGES, Image.MAX_IMAGE_PIXELS, list(warnings.filters))
    exif = Image.Exif()
    exif[0x0112] = 6
    broken = bytearray(encoded(scene(), "JPEG", exif=exif))
    broken[broken.index(b"Exif") + 14] = 255
    sources = [encoded(scene(), "PNG"), b"none", bytes(broken)] * 10
    list(decode_many(sources, SIZE, "crop", workers=4))
    assert before == (ImageFile.LOAD_TRUNCATED_IMAGES, Image.MAX_IMAGE_PIXELS, list(warnings.filters))


# Many


def test_many_come_in_order_with_errors_in_their_places(tmp_path):
    sources = []
    for number in range(40):
        path = tmp_path / f"{number}.png"
        path.write_bytes(encoded(Image.new("L", (20 + 10 * (number % 5), 20), number), "PNG"))
        sources.append(path)
    sources[7] = tmp_path / "absent.png"
    sources[20] = b"nothing"
    results = list(decode_many(sources, SIZE, "crop", workers=3))
    assert [index for index, _ in results] == list(range(40))
    for number, result in results:
        if number in (7, 20):
            assert isinstance(result, DataError)
        else:
            assert (result == number).all()
    assert "absent.png: there is no such file" in str(results[7][1])


def decoding_threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("greffon-decode")]


def test_many_reads_only_a_little_ahead_and_stops_with_its_consumer():
    taken = itertools.count()
    last = 0

    def endless():
        nonlocal last
        for last in taken:
            yield Image.new("L", (16, 16), last % 256)

    results = decode_many(endless(), SIZE, "crop", workers=2)
    for index, pixels in results:
        assert (pixels == index % 256).all()
        assert last < index + 20
        if index == 50:
            break
    assert decoding_threads()
    results.close()
    assert not decoding_threads()


def test_many_forgotten_ends_its_threads():
    results = decode_many(itertools.repeat(Image.new("L", (16, 16))), SIZE, "crop", workers=2)
    next(results)
    del results
    gc.collect()
    assert not decoding_threads()


def test_many_passes_on_what_its_sources_raise():
    def sources():
        yield Image.new("L", (16, 16))
        raise RuntimeError("the disk is gone")

    with pytest.raises(RuntimeError, match="the disk is gone"):
        list(decode_many(sources(), SIZE, "crop"))
    assert not decoding_threads()


def test_many_refuses_wrong_options_at_once():
    with pytest.raises(InputError, match="workers"):
        decode_many([], SIZE, "crop", workers=0)
    with pytest.raises(InputError, match="rule"):
        decode_many([], SIZE, "cut")
    with pytest.raises(InputError, match="a picture must be"):
        list(decode_many([5], SIZE, "crop"))
    assert list(decode_many([], SIZE, "crop")) == []
