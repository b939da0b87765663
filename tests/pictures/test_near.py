"""Near-copies are found by features and by their looks; other pictures are left alone."""

import numpy as np
import pytest
from PIL import Image

from greffon.errors import InputError
from greffon.pictures.near import THUMBNAIL, groups, near_duplicates


def _picture(seed, side=200):
    """Coarse shapes under fine texture, as in a photograph."""
    random = np.random.default_rng(seed)
    total = np.zeros((side, side), np.float32)
    for cells in (4, 8, 16, 32):
        grid = random.normal(size=(cells, cells)).astype(np.float32)
        total += np.asarray(Image.fromarray(grid).resize((side, side), Image.Resampling.BICUBIC)) * 8 / cells
    total = 255 * (total - total.min()) / np.ptp(total)
    return Image.fromarray(total.astype(np.uint8))


def _thumbnail(image):
    return np.asarray(image.convert("L").resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX))


def _found(images, features):
    thumbnails = [_thumbnail(image) for image in images]
    return [(pair.first, pair.second) for pair in near_duplicates(features, thumbnails.__getitem__)]


@pytest.fixture
def originals():
    return [_picture(seed) for seed in range(12)]


@pytest.fixture
def features():
    return np.random.default_rng(1).normal(size=(12, 64)).astype(np.float32)


def _near(features, row):
    random = np.random.default_rng(5)
    return np.concatenate([features, features[row : row + 1] + 0.3 * random.normal(size=(1, 64)).astype(np.float32)])


@pytest.mark.parametrize(
    "change",
    [
        lambda im: im.resize((90, 90), Image.Resampling.BICUBIC),
        lambda im: im.crop((10, 0, 200, 190)),
        lambda im: im.crop((4, 6, 194, 196)),
        lambda im: im.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
        lambda im: im.point(lambda value: int(value * 0.8 + 20)),
    ],
    ids=["smaller", "cropped at a corner", "cropped in the middle", "mirrored", "paler"],
)
def test_a_changed_copy_is_found(originals, features, change):
    assert _found([*originals, change(originals[3])], _near(features, 3)) == [(3, 12)]


def test_like_features_alone_make_no_pair(originals, features):
    assert _found([*originals, _picture(99)], _near(features, 3)) == []


def test_like_looks_alone_make_no_pair(originals, features):
    apart = np.concatenate([features, -features[3:4]])
    assert _found([*originals, originals[3]], apart) == []


def test_pictures_of_one_colour_are_no_copies_of_anything(features):
    blank = [Image.new("L", (50, 50), grey) for grey in range(0, 120, 10)]
    assert _found(blank, np.repeat(features[:1], 12, axis=0) + features * 1e-3) == []


def test_a_mirror_image_is_named_so(originals, features):
    images = [*originals, originals[0].transpose(Image.Transpose.FLIP_LEFT_RIGHT), originals[1]]
    thumbnails = [_thumbnail(image) for image in images]
    features = np.concatenate([features, features[:2]])
    pairs = near_duplicates(features, thumbnails.__getitem__)
    assert {(pair.first, pair.second): pair.mirrored for pair in pairs} == {(0, 12): True, (1, 13): False}


def test_thousands_are_searched_by_random_directions():
    random = np.random.default_rng(2)
    features = random.normal(size=(2500, 600)).astype(np.float32)
    features[2400] = features[17] + 0.2 * random.normal(size=600)
    looks = {17: _thumbnail(_picture(1)), 2400: _thumbnail(_picture(1, 240))}
    pairs = near_duplicates(features, lambda row: looks.get(row, np.zeros((THUMBNAIL, THUMBNAIL), np.uint8)))
    assert [(pair.first, pair.second) for pair in pairs] == [(17, 2400)]


@pytest.mark.parametrize("bad", [np.full((3, 4), np.nan), np.zeros(5)])
def test_features_that_are_none(bad):
    with pytest.raises(InputError, match="matrix of finite numbers"):
        near_duplicates(bad, lambda row: np.zeros((THUMBNAIL, THUMBNAIL)))


def test_a_thumbnail_of_another_size(features):
    with pytest.raises(InputError, match="96 pixels square"):
        near_duplicates(np.repeat(features[:2], 2, axis=0), lambda row: np.zeros((10, 10)))


@pytest.mark.parametrize("count", [0, 1])
def test_nothing_to_compare(count):
    assert near_duplicates(np.zeros((count, 4)), lambda row: np.zeros((THUMBNAIL, THUMBNAIL))) == []


def test_groups_join_through_others():
    assert groups(6, [(4, 5), (0, 4), (2, 1)]).tolist() == [0, 1, 1, 3, 0, 0]


def test_where_all_look_alike_only_what_is_nearer_than_usual_is_a_copy():
    """Forty pictures that are one shape with a little texture of their own, and a copy of one of them."""
    shape = np.asarray(_picture(0), np.float32)
    random = np.random.default_rng(3)
    images = []
    for seed in range(40):
        texture = np.asarray(_picture(seed + 50), np.float32)
        images.append(Image.fromarray((0.75 * shape + 0.25 * texture).clip(0, 255).astype(np.uint8)))
    images.append(images[7].resize((150, 150), Image.Resampling.BICUBIC))
    # Two kinds of features, so that every picture has neighbours.
    kinds = np.where(np.arange(40)[:, None] < 20, 2, -2) * random.normal(size=64)
    features = kinds + random.normal(size=(40, 64))
    features = np.concatenate([features, features[7:8] + 0.1 * random.normal(size=(1, 64))])
    thumbnails = [_thumbnail(image) for image in images]
    pairs = near_duplicates(features, thumbnails.__getitem__)
    assert [(pair.first, pair.second) for pair in pairs] == [(7, 40)]
