"""Arrays, pairs, tf.data and Hugging Face datasets as sources, and what becomes files in the cache folder."""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
import pytest
from picture_folders import fill, picture

from greffon.errors import DataError, InputError
from greffon.pictures.decode import decode
from greffon.pictures.sources.choose import catalog_of
from greffon.pictures.sources.columns import Columns
from greffon.pictures.sources.kept import Keeper, kept_dir, ppm


def noise(*shape):
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


def pixels_of(catalog):
    size = int(catalog.ok["width"][0])
    return np.stack([decode(place, size, "crop") for place in catalog.locators(catalog.ok)])


def test_arrays_come_back_to_the_last_bit(cache_folder):
    pictures = noise(6, 9, 9, 3)
    catalog = catalog_of((pictures, np.array([0, 1, 2, 0, 1, 2])), class_names=["x", "y", "z"])
    assert catalog.class_names == ("x", "y", "z")
    assert catalog.ok["label"].to_list() == ["x", "y", "z"] * 2
    assert catalog.ok["origin"][3] == "array, picture 3"
    np.testing.assert_array_equal(pixels_of(catalog), pictures)
    assert catalog.root.parent == kept_dir() == cache_folder / "pictures"


def test_the_same_array_is_the_same_catalog_and_costs_no_second_copy():
    data = noise(4, 8, 8, 3), ["a", "b", "a", "b"]
    first, second = catalog_of(data), catalog_of(data)
    assert first.frame.equals(second.frame)
    assert first.root == second.root
    assert [path.name for path in kept_dir().iterdir()] == [first.root.name]
    times = {file: file.stat().st_mtime_ns for file in first.root.rglob("*.ppm")}
    (first.root / first.ok["path"][1]).unlink()
    again = catalog_of(data)
    assert again.frame.equals(first.frame)
    assert sum(file.stat().st_mtime_ns == time for file, time in times.items()) >= 3


@pytest.mark.parametrize("shape", [(4, 8, 6), (4, 8, 6, 1), (4, 8, 6, 4)])
def test_grey_and_transparent_arrays(shape):
    catalog = catalog_of((noise(*shape), [0, 1, 0, 1]))
    assert catalog.ok.select("width", "height").row(0) == (6, 8)
    assert catalog.class_names == ("0", "1")


def test_floats_are_rounded_and_scaled_ones_refused():
    pictures = noise(4, 8, 8, 3)
    catalog = catalog_of((pictures + np.float32(0.3) * (pictures < 255), [0, 1, 0, 1]))
    np.testing.assert_array_equal(pixels_of(catalog), pictures)
    assert "rounded" in catalog.notes[0]
    for scaled in (pictures / 255, pictures / 127.5 - 1):
        with pytest.raises(InputError, match=r"multiply by 255|must hold RGB values 0..255"):
            catalog_of((scaled, [0, 1, 0, 1]))
    with pytest.raises(InputError, match="16-bit values: divide by 257"):
        catalog_of((pictures.astype(np.uint16) * 257, [0, 1, 0, 1]))
    with pytest.raises(InputError, match="must be numbers"):
        catalog_of((pictures.astype(str), [0, 1, 0, 1]))


@pytest.mark.parametrize(
    ("labels", "several", "expected"),
    [
        (np.array([[1], [0], [1]]), False, [["1"], ["0"], ["1"]]),
        (np.eye(3)[[2, 0, 1]], False, [["2"], ["0"], ["1"]]),
        (np.array([[1, 1], [0, 0], [0, 1]]), True, [["0", "1"], [], ["1"]]),
        ([["a", "b"], ["b"], []], True, [["a", "b"], ["b"], []]),
        (np.array([b"a", b"b", b"a"]), False, [["a"], ["b"], ["a"]]),
        ([True, False, True], False, [["True"], ["False"], ["True"]]),
    ],
)
def test_labels_of_arrays(labels, several, expected):
    catalog = catalog_of((noise(3, 4, 4, 3), labels))
    assert catalog.several_labels == several
    assert catalog.labels_of(catalog.ok) == expected


@pytest.mark.parametrize(
    ("pictures", "labels", "options", "message"),
    [
        (noise(3, 4, 4, 3), [0, 1], {}, "2 labels for 3 pictures"),
        (noise(2, 3, 8, 8), [0, 1], {}, "channels must be the last axis"),
        (noise(2, 8, 8, 2), [0, 1], {}, r"shape \(n, height, width, 3\), got \(2, 8, 8, 2\)"),
        (noise(2, 0, 4, 3), [0, 1], {}, "must have the shape"),
        (noise(2, 4, 4, 3), [0.5, 1], {}, "a number with a fraction"),
        (noise(2, 4, 4, 3), [[0.5, 0.5], [1, 0]], {}, "a number with a fraction"),
        (noise(2, 4, 4, 3), np.full((2, 2), 0.5), {}, "rows of 0 and 1"),
        (noise(2, 4, 4, 3), [0, 2], {"class_names": ["a", "b"]}, r"their places 0..1, got '2'"),
        (noise(2, 4, 4, 3), np.eye(2), {"class_names": ["a", "b", "c"]}, "rows of 2 labels need as many"),
    ],
)
def test_arrays_that_do_not_fit(pictures, labels, options, message):
    with pytest.raises((DataError, InputError), match=message):
        catalog_of((pictures, labels), **options)
    assert not [path for path in (kept_dir().iterdir() if kept_dir().exists() else ()) if path.name.startswith("part")]


def test_pairs(tmp_path, monkeypatch):
    fill(tmp_path, {"x": 3})
    pairs = [(tmp_path / "x" / "1.png", "cat"), (str(tmp_path / "x" / "2.png"), 3), ["x/3.png", "cat"]]
    monkeypatch.chdir(tmp_path)
    catalog = catalog_of(pairs)
    assert catalog.ok["label"].to_list() == ["cat", "3", "cat"]
    several = catalog_of([("x/1.png", ["a", "b"]), ("x/2.png", ["b"])], root=tmp_path)
    assert several.labels_of(several.ok) == [["a", "b"], ["b"]]
    odd = catalog_of([*pairs, ("a\0.png", "cat"), ("\udcff.png", "cat")])
    assert odd.ignored["reason"].to_list() == ["its path holds a zero byte", "its name is not valid UTF-8"]
    with pytest.raises(DataError, match=r"pairs \(path, label\), got at place 1: 'x/2.png'"):
        catalog_of([("x/1.png", "a"), "x/2.png"])


def test_sides_as_a_dictionary(tmp_path):
    fill(tmp_path, {"all/cat": 2, "all/dog": 2, "held": 2})
    data = {"train": tmp_path / "all", "validation": [(tmp_path / "held" / "1.png", "dog")]}
    catalog = catalog_of(data)
    assert catalog.counts("train") == {"cat": 2, "dog": 2}
    assert catalog.counts("val") == {"cat": 0, "dog": 1}
    data["val"] = [(tmp_path / "all" / "cat" / "1.png", "cat")]
    with pytest.raises(InputError, match="keys train, val and test"):
        catalog_of(data)
    del data["validation"]
    with pytest.raises(DataError, match=r"1.png: split 'train' and 'val'"):
        catalog_of(data)
    arrays = {"train": (noise(4, 4, 4, 3), [0, 1, 0, 1]), "test": (255 - noise(2, 4, 4, 3), [1, 0])}
    assert catalog_of(arrays).counts("test") == {"0": 1, "1": 1}
    with pytest.raises(InputError, match=r"keys train, val and test, got 'trian'; did you mean 'train'"):
        catalog_of({"trian": arrays["train"]})
    with pytest.raises(InputError, match="got none"):
        catalog_of({})


@pytest.mark.parametrize("data", [None, 3, [], noise(2, 4, 4, 3), object()])
def test_what_is_not_understood_is_answered_with_what_is(data):
    with pytest.raises(InputError, match=r"data must be one of these, got (.|\n)*one folder of pictures per class"):
        catalog_of(data)


def test_a_catalog_is_itself(tmp_path):
    catalog = catalog_of(fill(tmp_path, {"a": 1, "b": 1}))
    assert catalog_of(catalog) is catalog
    assert catalog_of(tmp_path, class_names=["b", "a"]).class_names == ("b", "a")
    with pytest.raises(DataError, match="'b' is missing"):
        catalog_of(tmp_path, class_names=["a", "c"])


def test_what_fails_half_way_leaves_nothing():
    with pytest.raises(ZeroDivisionError), Keeper() as keeper:
        keeper.add(ppm(noise(2, 2, 3)))
        raise ZeroDivisionError
    assert not list(kept_dir().iterdir())
    killed, busy = kept_dir() / "part-killed", kept_dir() / "part-busy"
    killed.mkdir()
    busy.mkdir()
    os.utime(killed, (1e9, 1e9))
    with Keeper():
        assert not killed.exists()
        assert busy.exists()


def test_names_by_content_do_not_depend_on_the_order():
    contents = [ppm(noise(2, 2, 3)), ppm(noise(3, 2, 3)), ppm(noise(2, 2, 3))]
    folders = []
    for order in (contents, contents[::-1]):
        with Keeper() as keeper:
            assert len({keeper.add(content, by_content=True) for content in order}) == 3
        folders.append(keeper.folder)
    assert folders[0] == folders[1]
    assert len([file for file in folders[0].rglob("*") if file.is_file()]) == 3


@pytest.fixture(scope="module")
def tf():
    import tensorflow

    return tensorflow


@pytest.mark.parametrize("batch", [None, 4])
def test_tf_data(tf, batch):
    pictures, labels = noise(10, 6, 6, 3), np.arange(10) % 2
    dataset = tf.data.Dataset.from_tensor_slices((pictures, labels)).shuffle(10)
    catalog = catalog_of(dataset.batch(batch) if batch else dataset, class_names=["a", "b"])
    assert catalog.counts() == {"a": 5, "b": 5}
    known = {picture.tobytes(): "ab"[label] for picture, label in zip(pictures, labels, strict=True)}
    found = {p.tobytes(): label for p, label in zip(pixels_of(catalog), catalog.ok["label"], strict=True)}
    assert found == known
    assert catalog_of(dataset, class_names=["a", "b"]).frame.equals(catalog.frame)  # in whatever order it comes


def test_tf_data_of_keras_with_one_hot_rows_and_names(tf):
    dataset = tf.data.Dataset.from_tensor_slices((noise(4, 6, 6, 3).astype("float32"), np.eye(2)[[0, 1, 1, 0]])).batch(
        3
    )
    dataset.class_names = ["cat", "dog"]
    catalog = catalog_of({"train": dataset})
    assert catalog.counts("train") == {"cat": 2, "dog": 2}


def test_tf_data_that_cannot_be_used(tf):
    data = tf.data.Dataset.from_tensor_slices
    pictures = noise(2, 6, 6, 3)
    for dataset, message in (
        (data((pictures, [0, 1])).repeat(), "has no end"),
        (data(pictures), r"must give \(picture, label\)"),
        (data((pictures[..., 0], [0, 1])), "must have the shape"),
        (data((pictures / 255, [0, 1])), "multiply by 255"),
        (data((pictures, [0, 1])).take(0), "holds no pictures"),
    ):
        with pytest.raises((InputError, DataError), match=message):
            catalog_of(dataset)


@pytest.fixture(scope="module")
def datasets():
    return pytest.importorskip("datasets")


@pytest.fixture
def hugging_face(datasets):
    def make(numbers, label=None):
        features = datasets.Features(
            {"image": datasets.Image(), "label": label or datasets.ClassLabel(names=["cat", "dog"])}
        )
        contents = []
        for number in numbers:
            file = io.BytesIO()
            picture(number).save(file, "PNG")
            contents.append({"bytes": file.getvalue(), "path": None})
        labels = [[n % 2] if label else n % 2 for n in numbers]
        return datasets.Dataset.from_dict({"image": contents, "label": labels}, features=features)

    return make


def test_a_dataset_of_hugging_face(hugging_face, datasets, tmp_path):
    dataset = hugging_face(range(6))
    catalog = catalog_of(dataset)
    assert catalog.counts() == {"cat": 3, "dog": 3}
    np.testing.assert_array_equal(decode(catalog.locators(catalog.ok)[2], 10, "crop"), decode(picture(2), 10, "crop"))
    assert dataset.features["image"].decode
    both = datasets.DatasetDict({"train": dataset, "validation": hugging_face(range(6, 8)), "extra": dataset})
    catalog = catalog_of(both)
    assert catalog.counts("val") == {"cat": 1, "dog": 1}
    assert "the splits extra are not used" in catalog.notes[0]
    both.save_to_disk(str(tmp_path / "saved"))
    assert catalog_of(tmp_path / "saved").counts("train") == {"cat": 3, "dog": 3}
    dataset.save_to_disk(str(tmp_path / "one"))
    assert catalog_of(tmp_path / "one").frame["hash"].to_list() == catalog_of(dataset).frame["hash"].to_list()
    dataset.to_parquet(str(tmp_path / "a.parquet"))
    assert catalog_of(tmp_path / "a.parquet").frame["hash"].to_list() == catalog_of(dataset).frame["hash"].to_list()
    assert catalog_of(dataset.to_iterable_dataset()).counts() == {"cat": 3, "dog": 3}


def test_datasets_with_paths_lists_and_missing_features(hugging_face, datasets, tmp_path):
    several = hugging_face(range(4), datasets.Sequence(datasets.ClassLabel(names=["cat", "dog"])))
    assert catalog_of(several).labels_of(catalog_of(several).ok) == [["cat"], ["dog"], ["cat"], ["dog"]]
    fill(tmp_path, {"a": 2, "b": 2})
    folder = datasets.load_dataset("imagefolder", data_dir=str(tmp_path), cache_dir=str(tmp_path / ".cache"))
    catalog = catalog_of(folder)
    assert catalog.counts() == {"a": 2, "b": 2}
    assert all(isinstance(place, Path) and place.is_file() for place in catalog.locators(catalog.ok))
    with pytest.raises(DataError, match=r"no feature of the kind Image; it has text \(Value\)"):
        catalog_of(datasets.Dataset.from_dict({"text": ["a"]}))
    with pytest.raises(DataError, match="no feature 'lable'; did you mean 'label'"):
        catalog_of(several, columns=Columns(label="lable"))


def test_a_saved_dataset_without_the_library_says_what_is_missing(tmp_path, monkeypatch):
    import sys

    (tmp_path / "state.json").write_text("{}")
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(InputError, match="pip install datasets"):
        catalog_of(tmp_path)
