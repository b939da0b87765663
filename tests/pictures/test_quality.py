"""What a scan says of pictures: each kind of finding on the pictures that have it, and on no others."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageFilter

from greffon.pictures.faults import FAULTS
from greffon.pictures.quality import ONE_COLOUR, TINY, VERY_BLURRED, VERY_DARK, crop_note
from greffon.pictures.scan import read_picture


def photograph(size=(240, 180), seed=0):
    """Areas with edges, texture, and light from black to white."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (9, 12, 3), dtype=np.uint8)).resize(size, Image.Resampling.NEAREST)
    grain = rng.normal(0, 8, (size[1], size[0], 1))
    return Image.fromarray((np.asarray(coarse) + grain).clip(0, 255).astype(np.uint8))


def found(tmp_path, image, name="a.png", **options):
    file = tmp_path / name
    image.save(file, **options)
    return {finding.kind: finding for finding in read_picture(file).findings(name)}


@pytest.mark.parametrize("size", [(240, 180), (180, 240), (64, 64), (28, 28), (600, 400)])
@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp", "A.JPEG", "a.tif", "a.bmp", "a.ppm", "noextension"])
def test_nothing_is_said_of_a_good_picture(tmp_path, size, name):
    options = {"format": "PNG"} if name == "noextension" else {}
    assert found(tmp_path, photograph(size), name, **options) == {}


@pytest.mark.parametrize("mode", ["L", "1", "P", "CMYK", "I;16"])
def test_nothing_is_said_of_good_pictures_in_other_modes(tmp_path, mode):
    image = photograph()
    grey16 = Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)
    assert found(tmp_path, grey16 if mode == "I;16" else image.convert(mode), "a.tif") == {}


def test_the_photographs_beside_the_checkout_are_good(photos):
    said = {}
    for file in sorted(photos.rglob("*.jpg")):
        findings = read_picture(file).findings(file.name)
        assert all(finding.severity == "warning" for finding in findings)
        for finding in findings:
            said.setdefault(finding.kind, []).append(file.name)
    assert set(said) <= {"odd shape"}


@pytest.mark.parametrize("colour", [(0, 0, 0), (255, 255, 255), (200, 30, 90)])
@pytest.mark.parametrize("name", ["a.png", "a.jpg"])
def test_one_colour(tmp_path, colour, name):
    said = found(tmp_path, Image.new("RGB", (300, 200), colour), name)
    assert set(said) == {"one colour"}
    assert said["one colour"].severity == "warning"


def test_nearly_one_colour(tmp_path):
    for spread, is_one in ((ONE_COLOUR, True), (ONE_COLOUR + 1, False)):
        pixels = np.full((100, 100, 3), 90, np.uint8)
        pixels[40:] += np.uint8(spread)
        assert ("one colour" in found(tmp_path, Image.fromarray(pixels))) == is_one


def test_very_dark(tmp_path):
    dark = ImageEnhance.Brightness(photograph()).enhance((VERY_DARK - 5) / 255)
    assert set(found(tmp_path, dark)) == {"very dark"}
    assert found(tmp_path, ImageEnhance.Brightness(photograph()).enhance(0.3)) == {}


def test_a_lamp_at_night_is_not_very_dark(tmp_path):
    night = ImageEnhance.Brightness(photograph()).enhance(0.1)
    night.paste((255, 240, 200), (100, 80, 130, 110))
    assert "very dark" not in found(tmp_path, night)


@pytest.mark.parametrize("size", [(240, 180), (900, 600), (100, 100)])
def test_very_blurred(tmp_path, size):
    image = photograph(size)
    share = min(size)
    blurred = image.filter(ImageFilter.GaussianBlur(0.05 * share))
    said = found(tmp_path, blurred, "a.jpg", quality=90)
    assert set(said) == {"very blurred"}
    assert found(tmp_path, image.filter(ImageFilter.GaussianBlur(0.005 * share))) == {}


@pytest.mark.parametrize("side", [24, 31])
def test_of_pictures_that_are_too_small_nothing_is_said_of_blur(tmp_path, side):
    smooth = photograph((side, side)).filter(ImageFilter.GaussianBlur(5))
    assert "very blurred" not in found(tmp_path, smooth)


def test_blur_of_photographs(photos):
    """Heavy blur is found on nearly all, and sharpness is never taken for it."""
    from greffon.pictures.loaded import loaded
    from greffon.pictures.quality import LOOKED_AT, blur_of

    hit = 0
    files = sorted(photos.rglob("*.jpg"))[::8]
    for file in files:
        with loaded(file, LOOKED_AT, "pad") as picture:
            sharp = Image.fromarray(picture.thumbnail(400))
        blurred = sharp.filter(ImageFilter.GaussianBlur(0.05 * min(sharp.size)))
        scores = []
        for image in (sharp, blurred):
            image.thumbnail((LOOKED_AT, LOOKED_AT))
            scores.append(blur_of(image.convert("L")))
        assert scores[0] < VERY_BLURRED - 0.2
        hit += scores[1] > VERY_BLURRED
    assert hit == len(files)


@pytest.mark.parametrize(("size", "is_tiny"), [((TINY, 40), False), ((TINY - 1, 20), True), ((1, 1), True)])
def test_tiny(tmp_path, size, is_tiny):
    assert ("tiny" in found(tmp_path, photograph(size))) == is_tiny


@pytest.mark.parametrize(
    ("size", "sentence"),
    [
        ((400, 100), "is 4.0 times as wide as high: crop loses 75 % of it"),
        ((100, 250), "is 2.5 times as high as wide: crop loses 60 % of it"),
        ((400, 200), None),
        ((1920 // 8, 1080 // 8), None),
        ((3000, 20), "is 150.0 times as wide as high: crop loses 99.3 % of it"),
        ((640, 330), None),
    ],
)
def test_odd_shape(tmp_path, size, sentence):
    said = found(tmp_path, photograph(size))
    assert (said["odd shape"].sentence if "odd shape" in said else None) == sentence


def test_a_lying_picture_is_judged_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    said = found(tmp_path, photograph((400, 100)), "a.jpg", exif=exif)
    assert said["odd shape"].sentence.startswith("is 4.0 times as high as wide")


@pytest.mark.parametrize(
    ("file_format", "name", "sentence"),
    [
        ("PNG", "a.jpg", "is a PNG file, though its name ends in .jpg"),
        ("JPEG", "a.PNG", "is a JPEG file, though its name ends in .png"),
        ("WEBP", "a.jpeg", "is a WEBP file, though its name ends in .jpeg"),
        ("GIF", "a.png", "is a GIF file, though its name ends in .png"),
        ("MPO", "a.jpg", None),
        ("MPO", "a.png", "is a JPEG file, though its name ends in .png"),
        ("JPEG", "a.jfif", None),
        ("JPEG", "a.data", None),
    ],
)
def test_wrong_extension(tmp_path, file_format, name, sentence):
    said = found(tmp_path, photograph(), name, format=file_format)
    assert [each.sentence for each in said.values()] == ([sentence] if sentence else [])


@pytest.mark.parametrize("file_format", ["GIF", "WEBP", "PNG", "TIFF", "AVIF"])
def test_animated(tmp_path, file_format):
    frames = {"save_all": True, "append_images": [photograph(seed=1), photograph(seed=2)]}
    try:
        said = found(tmp_path, photograph(), f"a.{file_format.lower()}", format=file_format, **frames)
    except KeyError:
        pytest.skip("this Pillow has no AVIF")
    assert set(said) == {"animated"}
    assert ("pages" in said["animated"].sentence) == (file_format == "TIFF")


def test_a_telephone_picture_with_its_depth_map_is_not_animated(tmp_path):
    said = found(tmp_path, photograph(), "a.jpg", format="MPO", save_all=True, append_images=[photograph(seed=1)])
    assert said == {}


def test_an_animation_whose_later_frames_are_damaged_is_a_picture(tmp_path):
    file = io.BytesIO()
    photograph((64, 48)).save(file, "GIF", save_all=True, append_images=[photograph((64, 48), seed=1)])
    whole = file.getvalue()
    (tmp_path / "a.gif").write_bytes(whole[: len(whole) * 2 // 3])
    assert read_picture(tmp_path / "a.gif").reason == ""


def test_a_broken_profile(tmp_path):
    assert set(found(tmp_path, photograph(), "a.jpg", icc_profile=b"no profile at all" * 20)) == {"broken profile"}
    from PIL import ImageCms

    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    assert found(tmp_path, photograph(), "a.jpg", icc_profile=srgb) == {}


@pytest.mark.parametrize(
    ("make", "fault"),
    [
        (lambda data: b"", "empty"),
        (lambda data: data[: len(data) // 2], "truncated"),
        (lambda data: b"<!DOCTYPE html><title>404</title>", "not a picture"),
        (lambda data: b"a sentence that is no picture", "not a picture"),
        (lambda data: bytes(400), "damaged"),
        (lambda data: data[:2] + b"\0" * 30 + data[32:], "damaged"),
        (lambda data: None, "missing"),
    ],
)
def test_what_cannot_be_used_is_quarantined(tmp_path, make, fault):
    file = tmp_path / "a.jpg"
    photograph().save(file)
    content = make(file.read_bytes())
    if content is None:
        file.unlink()
    else:
        file.write_bytes(content)
    scanned = read_picture(file)
    (finding,) = scanned.findings("a.jpg")
    assert (finding.kind, finding.severity, finding.sentence) == (fault, "quarantine", scanned.reason)
    assert scanned.fault == fault
    assert fault in FAULTS


def test_what_is_measured_of_a_good_picture(tmp_path):
    pixels = np.zeros((100, 200, 3), np.uint8)
    pixels[:, 50:] = (200, 100, 40)
    exif = Image.Exif()
    exif.update({0x010F: "Maker", 0x0110: "Model 5", 0x0131: ""})
    Image.fromarray(pixels).save(tmp_path / "a.jpg", exif=exif, quality=98, subsampling=0)
    facts = read_picture(tmp_path / "a.jpg").facts
    assert (facts.format, facts.mode, facts.camera) == ("JPEG", "RGB", "Maker | Model 5")
    np.testing.assert_allclose((facts.red, facts.green, facts.blue), (150, 75, 30), atol=1)
    assert abs(facts.light - 0.75 * (0.299 * 200 + 0.587 * 100 + 0.114 * 40)) < 1
    assert abs(facts.bright - 123) <= 3
    assert abs(facts.spread - 200) <= 6


@pytest.mark.parametrize("exif", [b"", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0" + bytes(40)])
def test_without_exif_or_with_a_damaged_one_there_is_no_camera(tmp_path, exif):
    photograph().save(tmp_path / "a.jpg", exif=exif)
    assert read_picture(tmp_path / "a.jpg").facts.camera == ""


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.9, 0.99])
def test_a_jpeg_that_was_never_written_to_its_end(tmp_path, share, progressive):
    """To the decoder zeros are a picture like any other, and sometimes there are enough of them."""
    file = tmp_path / "a.jpg"
    photograph().save(file, quality=90, progressive=progressive)
    whole = file.read_bytes()
    kept = int(len(whole) * share)
    file.write_bytes(whole[:kept] + bytes(3 * (len(whole) - kept) + 100))
    scanned = read_picture(file)
    assert scanned.fault == "truncated"
    assert str(tmp_path) not in scanned.reason
    assert "in memory" not in scanned.reason


def test_a_jpeg_that_is_filled_up_with_zeros_behind_its_end_is_good(tmp_path):
    photograph().save(tmp_path / "a.jpg")
    (tmp_path / "a.jpg").write_bytes((tmp_path / "a.jpg").read_bytes() + bytes(4096))
    assert read_picture(tmp_path / "a.jpg").findings("a.jpg") == ()


def test_what_crop_loses_in_one_sentence():
    assert crop_note([("a.jpg", 640, 480), ("b.jpg", 100, 200)]) == ""
    note = crop_note([("a.jpg", 640, 480), ("b.jpg", 1000, 200), ("c.jpg", 100, 1000)])
    assert note == 'of 2 of 3 pictures crop loses more than half, most of c.jpg (90 %): resize="pad" keeps all of each'
