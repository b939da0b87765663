"""Views: what they hang on and what not, from every kind of file, each file opened once."""

from __future__ import annotations

import hashlib
import io
import subprocess
import sys

import numpy as np
import pytest
from picture_folders import STORED
from PIL import Image, JpegImagePlugin

from greffon.errors import DataError, InputError
from greffon.pictures import opened, views
from greffon.pictures.decode import decode
from greffon.pictures.loaded import DRAFT_MARGIN
from greffon.pictures.views import ViewRequest, decode_views, decode_views_many

SIZE = 32
RULES = ("crop", "stretch", "pad")
POLICIES = ("flip", "crop", "colour", "rand")


def scene(width=96, height=64, seed=0):
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def encoded(image, file_format="PNG", **options):
    file = io.BytesIO()
    image.save(file, file_format, **options)
    return file.getvalue()


def view_of(source, view, *, policy="crop", rule="crop", content="c0ffee", size=SIZE):
    return decode_views(ViewRequest(source, content, (view,)), size, rule, policy)[0]


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("policy", POLICIES)
def test_view_0_is_the_picture_itself(policy, rule):
    for source in (encoded(scene(), "JPEG"), encoded(scene(64, 96))):
        alone = view_of(source, 0, policy=policy, rule=rule)
        among, _ = decode_views(ViewRequest(source, "c0ffee", (0, 1)), SIZE, rule, policy)
        np.testing.assert_array_equal(alone, decode(source, SIZE, rule))
        np.testing.assert_array_equal(among, alone)


@pytest.mark.parametrize("rule", RULES)
def test_flip_is_the_mirror(rule):
    source = encoded(scene(97, 64), "JPEG")
    mirrored = view_of(source, 1, policy="flip", rule=rule)
    np.testing.assert_array_equal(mirrored, decode(source, SIZE, rule)[:, ::-1])
    assert mirrored.flags["C_CONTIGUOUS"]


@pytest.mark.parametrize("policy", ["crop", "colour", "rand"])
def test_a_view_hangs_on_content_number_and_policy_alone(policy):
    source = encoded(scene())
    together = decode_views(ViewRequest(source, "c0ffee", (3, 0, 1, 2)), SIZE, "crop", policy)
    for view, pixels in zip((3, 0, 1, 2), together, strict=True):
        np.testing.assert_array_equal(pixels, view_of(source, view, policy=policy))
        assert pixels.dtype == np.uint8
        assert pixels.shape == (SIZE, SIZE, 3)
    assert len({pixels.tobytes() for pixels in together}) == 4
    assert not np.array_equal(view_of(source, 1, policy=policy, content="decaf"), together[2])
    others = [view_of(source, 1, policy=other) for other in ("crop", "colour", "rand") if other != policy]
    assert not any(np.array_equal(other, together[2]) for other in others)


def test_a_view_does_not_hang_on_its_neighbours():
    sources = [encoded(scene(seed=seed), "JPEG") for seed in range(4)]
    requests = [ViewRequest(source, f"picture {number}", (0, 2, 5)) for number, source in enumerate(sources)]
    forward = list(decode_views_many(requests, SIZE, "crop", "rand"))
    backward = list(decode_views_many(requests[::-1], SIZE, "crop", "rand", workers=3))[::-1]
    for ours, theirs in zip(forward, backward, strict=True):
        np.testing.assert_array_equal(ours, theirs)


_IN_A_PROCESS = """
import hashlib, sys
from greffon.pictures.views import ViewRequest, decode_views
for policy in ("crop", "colour", "rand"):
    views = decode_views(ViewRequest(sys.argv[1], "c0ffee", (1, 2, 3, 4)), 32, "crop", policy)
    print(hashlib.sha256(b"".join(view.tobytes() for view in views)).hexdigest())
"""


def test_fresh_processes_give_the_same_views(tmp_path):
    path = tmp_path / "picture.png"
    path.write_bytes(encoded(scene()))
    said = {
        subprocess.run(
            [sys.executable, "-c", _IN_A_PROCESS, str(path)],
            capture_output=True,
            check=True,
            text=True,
            env={"PYTHONHASHSEED": seed, "PATH": ""},
        ).stdout
        for seed in ("1", "2")
    }
    here = "".join(
        hashlib.sha256(
            b"".join(
                view.tobytes() for view in decode_views(ViewRequest(path, "c0ffee", (1, 2, 3, 4)), 32, "crop", policy)
            )
        ).hexdigest()
        + "\n"
        for policy in ("crop", "colour", "rand")
    )
    assert said == {here}


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("rule", RULES)
def test_a_turned_file_gives_the_views_of_the_upright_picture(orientation, rule):
    upright = scene()
    method = STORED[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    turned = encoded(upright.transpose(method) if method is not None else upright, "PNG", exif=exif)
    for view in (1, 2, 3, 4):
        expected = view_of(encoded(upright), view, rule=rule).astype(int)
        assert abs(view_of(turned, view, rule=rule) - expected).max() <= 1


def test_a_cut_out_is_that_part_of_the_file(monkeypatch):
    monkeypatch.setattr(views.Draws, "below", lambda self, name, count: 0)
    boxes = []
    box = views._box
    monkeypatch.setattr(views, "_box", lambda *given: boxes.append(box(*given)) or boxes[-1])
    picture = scene()
    for view in range(1, 6):
        pixels = view_of(encoded(picture), view).astype(int)
        expected = picture.resize((SIZE, SIZE), Image.Resampling.BICUBIC, box=boxes[-1])
        # The windows of bicubic differ where the piece ends and the picture would go on.
        assert abs(pixels - np.asarray(expected))[2:-2, 2:-2].max() <= 2
    assert len(set(boxes)) == 5


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(("width", "height"), [(300, 200), (200, 300), (64, 64), (1000, 40), (3, 5), (1, 1)])
def test_cut_outs_stay_inside_and_keep_enough(width, height, rule):
    whole = (min(width, height),) * 2 if rule == "crop" else (width, height)
    for number in range(200):
        draws = views.Draws(str(number), 1, "crop")
        left, top, right, bottom = views._box(draws, width, height, rule)
        assert 0 <= left < right <= width + 1e-9
        assert 0 <= top < bottom <= height + 1e-9
        across, down = (right - left) / whole[0], (bottom - top) / whole[1]
        assert min(across, down) >= 1 / DRAFT_MARGIN - 1e-9
        assert max(across, down) <= max(1, (4 / 3) ** 0.5) + 1e-9
    for pixels in (view_of(scene(width, height), view, rule=rule) for view in (1, 2)):
        assert pixels.shape == (SIZE, SIZE, 3)


def test_cut_outs_of_crop_reach_what_the_square_does_not():
    """A picture whose ends are red: the square in its middle never shows them."""
    pixels = np.zeros((40, 120, 3), np.uint8)
    pixels[:, :30] = pixels[:, 90:] = (255, 0, 0)
    picture = Image.fromarray(pixels)
    assert not decode(picture, SIZE, "crop")[..., 0].any()
    assert any(view_of(picture, view)[..., 0].any() for view in range(1, 9))


@pytest.mark.parametrize("policy", ["crop", "colour", "rand"])
@pytest.mark.parametrize("rule", RULES)
def test_large_jpeg_at_a_fraction_of_its_size(policy, rule):
    """The same views as from a lossless file of the whole, up to what JPEG takes away."""
    picture = scene(1024, 700)
    for view in range(1, 4):
        exact = view_of(encoded(picture), view, policy="crop", rule=rule).astype(int)
        drafted = view_of(encoded(picture, "JPEG", quality=95), view, policy="crop", rule=rule).astype(int)
        assert abs(exact - drafted).mean() < 2
    assert view_of(encoded(picture, "JPEG"), 1, policy=policy, rule=rule).shape == (SIZE, SIZE, 3)


@pytest.mark.parametrize(
    "make",
    [
        lambda picture: picture.convert("L"),
        lambda picture: picture.convert("1"),
        lambda picture: picture.quantize(64),
        lambda picture: picture.convert("LA"),
        lambda picture: picture.convert("RGBA"),
        lambda picture: Image.fromarray(np.asarray(picture.convert("L"), np.uint16) * 257),
    ],
    ids=["grey", "bits", "palette", "grey and alpha", "alpha", "16 bits"],
)
def test_other_modes_give_the_views_of_the_same_picture_in_rgb(make):
    image = make(scene())
    plain = Image.fromarray(decode_whole(image))
    for view in (1, 2, 3):
        ours, theirs = (view_of(encoded(it), view).astype(int) for it in (image, plain))
        assert abs(ours - theirs).max() <= 2


def decode_whole(image):
    if image.mode.startswith("I"):
        image = Image.fromarray((np.asarray(image) // 257).astype(np.uint8))
    white = Image.new("RGBA", image.size, "white")
    return np.asarray(Image.alpha_composite(white, image.convert("RGBA")).convert("RGB"))


def test_transparent_colour_of_a_palette_is_white():
    image = Image.new("P", (20, 20), 1)
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.paste(0, (0, 0, 20, 20))
    source = encoded(image, transparency=0)
    for view in (0, 1, 2):
        assert (view_of(source, view) == 255).all()


def test_a_file_is_opened_once_for_all_of_its_views(tmp_path, monkeypatch):
    paths = [tmp_path / f"{number}.jpg" for number in range(3)]
    for number, path in enumerate(paths):
        path.write_bytes(encoded(scene(200, 150, seed=number), "JPEG"))
    counted, decoded = [], []
    open_file, read = opened._open_file, JpegImagePlugin.JpegImageFile.load_prepare
    monkeypatch.setattr(opened, "_open_file", lambda path: counted.append(path) or open_file(path))
    # Pillow calls this each time before it decodes the pixels of a file.
    monkeypatch.setattr(
        JpegImagePlugin.JpegImageFile, "load_prepare", lambda image: decoded.append(image) or read(image)
    )
    for policy in ("crop", "colour", "rand"):
        requests = [ViewRequest(path, path.name, tuple(range(6))) for path in paths]
        assert [len(result) for result in decode_views_many(requests, SIZE, "crop", policy)] == [6, 6, 6]
        assert sorted(counted) == paths
        assert len(decoded) == 3
        counted.clear()
        decoded.clear()


def test_what_cannot_be_read_comes_in_its_place(tmp_path):
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(encoded(scene(), "JPEG")[:200])
    requests = [ViewRequest(source, "c", (0, 1)) for source in (encoded(scene()), broken, encoded(scene()))]
    first, second, third = decode_views_many(requests, SIZE, "crop", "crop")
    assert isinstance(second, DataError)
    assert "broken.jpg" in str(second)
    np.testing.assert_array_equal(first, third)


def test_an_image_object_is_left_as_it_is():
    image = scene()
    before = image.tobytes()
    view_of(image, 1, policy="rand")
    assert image.tobytes() == before


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"policy": "color"}, "did you mean 'colour'"),
        ({"view": 2, "policy": "flip"}, "views 0 and 1"),
        ({"view": -1}, "whole numbers"),
        ({"view": True}, "whole numbers"),
        ({"view": 1.0}, "whole numbers"),
        ({"rule": "squeeze"}, "resize rule"),
        ({"size": 0}, "size"),
    ],
)
def test_wrong_options_are_refused(options, words):
    given = {"source": encoded(scene()), "view": 1} | options
    source, view = given.pop("source"), given.pop("view")
    with pytest.raises(InputError, match=words):
        view_of(source, view, **given)


def test_a_source_of_another_type_is_refused():
    with pytest.raises(InputError, match="a picture must be"):
        view_of(17, 1)
