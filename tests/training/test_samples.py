"""Rows: which view of which picture each is, what it is called, and how few files are read for some."""

from __future__ import annotations

import numpy as np
import pytest
import xxhash

from greffon.errors import DataError
from greffon.pictures import opened
from greffon.pictures.catalog import Catalog
from greffon.pictures.decode import DECODER_VERSION, decode
from greffon.pictures.split import split
from greffon.pictures.views import ViewRequest, decode_views
from greffon.training.samples import PictureRows, samples_of

SIDE = 16


@pytest.fixture(scope="module")
def catalog(tmp_path_factory):
    from PIL import Image

    root = tmp_path_factory.mktemp("pictures")
    random = np.random.default_rng(0)
    for name in ("a", "b"):
        (root / name).mkdir()
        for number in range(6):
            pixels = random.integers(0, 256, (20, 30, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / name / f"{number}.png")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GREFFON_CACHE", str(tmp_path_factory.mktemp("module-cache")))
        return split(Catalog.from_folder(root), validation=0.34, seed=0)


def pictures_of(catalog):
    return [
        (catalog.root / path, content, catalog.class_names.index(label))
        for side in ("train", "val")
        for path, content, label in catalog.side(side).select("path", "hash", "label").iter_rows()
    ]


@pytest.mark.parametrize("views", [1, 2, 4])
def test_layout_of_the_rows(catalog, views):
    samples = samples_of(catalog, SIDE, "crop", views=views)
    train, held_out = len(catalog.side("train")), len(catalog.side("val"))
    assert len(samples) == train * views + held_out
    np.testing.assert_array_equal(samples.train, np.arange(train))
    np.testing.assert_array_equal(samples.validation, np.arange(train, train + held_out))
    assert samples.views.shape == (train, views)
    assert np.issubdtype(samples.views.dtype, np.integer)
    np.testing.assert_array_equal(samples.views[:, 0], samples.train)
    # Each row is one picture held out, or one view of one picture.
    everything = np.concatenate([samples.views.reshape(-1), samples.validation])
    np.testing.assert_array_equal(np.sort(everything), np.arange(len(samples)))
    assert len(set(samples.keys)) == len(samples)
    labels = np.array([label for _, _, label in pictures_of(catalog)])
    for column in samples.views.T:
        np.testing.assert_array_equal(samples.targets[column].argmax(1), labels[:train])
    np.testing.assert_array_equal(samples.targets[samples.validation].argmax(1), labels[train:])
    assert samples.targets.dtype == np.float32


def test_view_0_has_the_key_that_it_has_always_had(catalog):
    """Activations that lie in a store already stay valid, with however many views they are asked for."""
    expected = [
        xxhash.xxh3_128_digest(f"{content} crop {SIDE} {DECODER_VERSION} view 0".encode())
        for _, content, _ in pictures_of(catalog)
    ]
    for options in ({}, {"views": 4}, {"views": 4, "augment": "rand"}):
        assert list(samples_of(catalog, SIDE, "crop", **options).keys)[:12] == expected


def test_keys_of_views_hang_on_what_changes_a_pixel_and_on_nothing_else(catalog, monkeypatch):
    def key(size=SIDE, rule="crop", augment="crop", views=4, picture=0, view=2):
        samples = samples_of(catalog, size, rule, views=views, augment=augment)
        return samples.keys[samples.views[picture, view]]

    mine = key()
    assert key(views=7) == mine  # more views leave the first ones as they are
    others = [key(size=32), key(rule="pad"), key(augment="rand"), key(picture=1), key(view=3)]
    assert len({mine, *others}) == 6
    monkeypatch.setattr("greffon.pictures.augment.AUGMENT_VERSION", "next")
    assert key() != mine


def test_rows_in_any_order_are_those_views(catalog):
    samples = samples_of(catalog, SIDE, "stretch", views=3, augment="colour")
    pictures = pictures_of(catalog)
    rows = np.random.default_rng(1).permutation(len(samples))
    (pixels,) = samples.load(rows)
    assert pixels.shape == (len(rows), *samples.shape)
    assert pixels.dtype == np.uint8
    place = {row: place for place, row in enumerate(rows)}
    for picture, views in enumerate(samples.views):
        path, content, _ = pictures[picture]
        wanted = decode_views(ViewRequest(path, content, (0, 1, 2)), SIDE, "stretch", "colour")
        np.testing.assert_array_equal(pixels[[place[row] for row in views]], wanted)
    for row in samples.validation:
        np.testing.assert_array_equal(pixels[place[row]], decode(pictures[row][0], SIDE, "stretch"))


def test_a_row_asked_for_twice_and_no_row(catalog):
    samples = samples_of(catalog, SIDE, "crop", views=2)
    row = samples.views[3, 1]
    (pixels,) = samples.load(np.array([row, 0, row]))
    np.testing.assert_array_equal(pixels[0], pixels[2])
    assert samples.load(np.arange(0))[0].shape == (0, SIDE, SIDE, 3)


def test_each_file_is_opened_once_in_a_call(catalog, monkeypatch):
    paths = []
    open_file = opened._open_file
    monkeypatch.setattr(opened, "_open_file", lambda path: paths.append(path) or open_file(path))
    samples = samples_of(catalog, SIDE, "crop", views=5)
    samples.load(np.arange(len(samples)))
    assert sorted(paths) == sorted(path for path, _, _ in pictures_of(catalog))


def test_neighbouring_rows_are_views_of_one_picture(catalog, monkeypatch):
    """A pass goes through the rows in their order: a chunk of it should open few files."""
    paths = []
    open_file = opened._open_file
    monkeypatch.setattr(opened, "_open_file", lambda path: paths.append(path) or open_file(path))
    samples = samples_of(catalog, SIDE, "crop", views=5)
    first = len(samples.train) + len(samples.validation)
    samples.load(np.arange(first, first + 8))
    assert len(paths) == 2


def test_a_picture_that_is_gone_is_named(catalog):
    from dataclasses import replace

    lost = replace(catalog, frame=catalog.frame.with_columns(path="gone/" + catalog.frame["path"]))
    with pytest.raises(DataError, match=r"cannot be read any more: .*gone"):
        samples_of(lost, SIDE, "crop", views=2).load(np.array([0]))


@pytest.mark.parametrize("memory", [None, 0])
def test_pictures_themselves_by_row(catalog, memory):
    samples = samples_of(catalog, SIDE, "crop", views=3)
    rows = samples.views[:, 2][::-1]
    source = PictureRows(samples, memory=memory)
    assert len(source) == len(samples)
    for _ in range(2):
        np.testing.assert_array_equal(source.gather(rows)[0], samples.load(rows)[0])
