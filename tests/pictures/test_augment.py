"""The operations against Keras' own layers, and the numbers that drive them."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageOps

from greffon.pictures import augment
from greffon.pictures.augment import Draws, changed

SIDE = 24


@pytest.fixture(scope="module")
def picture():
    """Smooth colours that do not reach black and white, so that stretching them does something."""
    coarse = np.random.default_rng(0).integers(20, 230, (5, 5, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((SIDE, SIDE), Image.Resampling.BICUBIC)


def by_keras(name, picture, transformation, **options):
    keras = pytest.importorskip("keras")
    layer = getattr(keras.layers, name)(**options)
    tensors = {key: keras.ops.convert_to_tensor(value) for key, value in transformation.items()}
    pixels = np.asarray(picture, np.float32)[None]
    return keras.ops.convert_to_numpy(layer.transform_images(keras.ops.convert_to_tensor(pixels), tensors))[0]


RANGE = {"value_range": (0, 255)}


@pytest.mark.parametrize("strength", [-0.25, 0.1])
def test_brightness(picture, strength):
    theirs = by_keras("RandomBrightness", picture, {"rgb_delta": [[[[255 * strength]]]]}, factor=0.5, **RANGE)
    assert abs(np.asarray(augment.brightness(picture, strength)) - theirs).max() <= 0.5
    assert abs(theirs - np.asarray(picture)).max() > 20


@pytest.mark.parametrize("factor", [0.5, 1.5])
def test_contrast(picture, factor):
    theirs = by_keras("RandomContrast", picture, {"contrast_factor": [[[[factor]]]]}, factor=0.5, **RANGE)
    assert abs(np.asarray(augment.contrast(picture, factor)) - theirs).max() <= 0.51
    assert abs(theirs - np.asarray(picture)).max() > 20


@pytest.mark.parametrize(("factor", "turn"), [(0.6, 0.0), (1.4, 0.0), (1.0, 0.05), (1.0, -0.05)])
def test_saturation_and_hue(picture, factor, turn):
    """Hue and saturation have 256 levels here, real numbers there."""
    if turn:
        theirs = by_keras("RandomHue", picture, {"factor": [turn]}, factor=0.5, **RANGE)
    else:  # Keras takes values of 0..1 here, whatever range it is told
        options = {"factor": 0.5, "value_range": (0, 1)}
        theirs = 255 * by_keras("RandomSaturation", np.asarray(picture) / 255, {"factor": [factor]}, **options)
    ours = np.asarray(augment.saturation_and_hue(picture, factor, turn), np.float32)
    assert abs(ours - theirs).mean() < 2
    assert abs(ours - theirs).max() <= 10
    assert abs(theirs - np.asarray(picture)).max() > 20


@pytest.mark.parametrize("factor", [0.3, 1.0])
def test_colour_degeneration(picture, factor):
    theirs = by_keras("RandomColorDegeneration", picture, {"factor": [[[[factor]]]]}, factor=0.5, **RANGE)
    assert abs(np.asarray(augment.colour_degeneration(picture, factor)) - theirs).max() <= 1.5


@pytest.mark.parametrize("factor", [0.0, 0.8])
def test_sharpness(picture, factor):
    """Inside: Keras takes what is beyond the edge for black."""
    theirs = by_keras("RandomSharpness", picture, {"factor": [factor]}, factor=0.5, **RANGE)
    difference = np.asarray(augment.sharpness(picture, factor)) - theirs
    assert abs(difference[1:-1, 1:-1]).max() <= 1.5


def test_posterization(picture):
    shift = np.array([5], np.uint8)
    theirs = by_keras("RandomPosterization", picture, {"shift_factor": shift}, factor=3, **RANGE)
    np.testing.assert_array_equal(np.asarray(ImageOps.posterize(picture, 3)), theirs)


def test_solarization(picture):
    given = {"additions": np.float32([[[[30]]]]), "thresholds": np.float32([[[[128]]]])}
    theirs = by_keras("Solarization", picture, given, **RANGE)
    np.testing.assert_array_equal(np.asarray(augment.solarization(picture, 30, 128)), theirs)


def test_auto_contrast(picture):
    theirs = by_keras("AutoContrast", picture, {}, **RANGE)
    assert abs(np.asarray(ImageOps.autocontrast(picture)) - theirs).max() <= 1


def test_equalization(picture):
    """Pillow's steps are whole numbers of pixels, which needs many of them."""
    picture = picture.resize((240, 240), Image.Resampling.BICUBIC)
    theirs = by_keras("Equalization", picture, {}, **RANGE)
    assert abs(np.asarray(ImageOps.equalize(picture)) - theirs).mean() < 3


def test_affine_moves_by_whole_pixels_and_mirrors_beyond_the_edge(picture):
    pixels = np.asarray(picture)
    moved = np.asarray(augment.affine(picture, (1, 0, 0, 1), (3 / SIDE, 0)))
    np.testing.assert_array_equal(moved[:, :-3], pixels[:, 3:])
    np.testing.assert_array_equal(moved[:, -3:], pixels[:, : SIDE - 4 : -1])
    np.testing.assert_array_equal(np.asarray(augment.affine(picture, (1, 0, 0, 1), (0, 0))), pixels)
    quarter = augment.affine(picture, augment.rotation(1.0), (0, 0))  # the half of 90 degrees has the tangent 1
    np.testing.assert_array_equal(np.asarray(quarter), np.rot90(pixels, 1))


def test_the_angle_of_rand_is_at_most_15_degrees():
    cosine, minus_sine, sine, same = augment.rotation(0.1316)
    assert same == cosine
    assert sine == -minus_sine
    assert np.degrees(np.arctan2(sine, cosine)) == pytest.approx(15, abs=0.01)


def test_draws_hang_on_content_view_policy_and_name():
    def draw(content="a", view=1, policy="crop", name="left"):
        return Draws(content, view, policy).uniform(name, 0, 1)

    assert draw() == 0.935060800738966  # another number than before means other views: raise AUGMENT_VERSION
    others = [draw(content="b"), draw(view=2), draw(policy="rand"), draw(name="top")]
    assert len({draw(), *others}) == 5


def test_draws_are_spread_evenly():
    values = np.array([Draws(str(number), 1, "crop").uniform("area", 2, 6) for number in range(2000)])
    counts, _ = np.histogram(values, bins=8, range=(2, 6))
    assert counts.sum() == 2000
    assert abs(counts - 250).max() < 75
    whole = np.bincount([Draws(str(number), 1, "crop").below("operation", 12) for number in range(2400)])
    assert len(whole) == 12
    assert abs(whole - 200).max() < 65


@pytest.mark.parametrize("policy", ["flip", "crop"])
def test_geometry_alone_leaves_the_colours(picture, policy):
    pixels = np.asarray(picture)
    assert changed(pixels, policy, Draws("a", 1, policy)) is pixels


@pytest.mark.parametrize("policy", ["colour", "rand"])
def test_colours_change_and_each_view_is_another(picture, policy):
    pixels = np.asarray(picture)
    views = [changed(pixels, policy, Draws("a", view, policy)) for view in range(1, 9)]
    for view in views:
        assert view.dtype == np.uint8
        assert view.shape == pixels.shape
    assert len({view.tobytes() for view in [pixels, *views]}) == 9


def test_every_operation_of_rand_is_drawn(picture, monkeypatch):
    used = []
    operations = tuple(
        lambda image, draw, number=number, operation=operation: used.append(number) or operation(image, draw)
        for number, operation in enumerate(augment._RAND)
    )
    monkeypatch.setattr(augment, "_RAND", operations)
    pixels = np.asarray(picture)
    for number in range(100):
        changed(pixels, "rand", Draws(str(number), 1, "rand"))
    assert len(used) == 200
    assert set(used) == set(range(len(operations)))
