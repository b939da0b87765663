import os
import random
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from picture_folders import fill

from greffon.errors import DataError, InputError
from greffon.pictures.layout import natural_order, read_layout


def taken(layout) -> dict[str, tuple[str, str]]:
    return {entry.path: (entry.label, entry.split) for entry in layout.entries if not entry.ignored}


def ignored(layout) -> dict[str, str]:
    return {entry.path: entry.ignored for entry in layout.entries if entry.ignored}


def links(target: Path, link: Path) -> None:
    try:
        link.symlink_to(target)
    except (OSError, NotImplementedError):
        pytest.skip("links cannot be made here")


def test_classes_are_in_natural_order(tmp_path):
    fill(tmp_path, {"class10": 1, "class2": 1, "class1": 1, "Zebra": 1, "ant": 1})
    assert read_layout(tmp_path).classes == {"": ["Zebra", "ant", "class1", "class2", "class10"]}


@given(st.lists(st.text(max_size=8)), st.randoms())
def test_natural_order_does_not_depend_on_the_order_it_is_given(names, rng: random.Random):
    ordered = natural_order(names)
    rng.shuffle(names)
    assert natural_order(names) == ordered
    assert sorted(ordered) == sorted(names)


def test_pictures_are_in_natural_order_class_by_class(tmp_path):
    fill(tmp_path, {"b2": 11, "b10": 1, "a": 1})
    paths = list(taken(read_layout(tmp_path)))
    assert paths == ["a/1.png", *(f"b2/{i}.png" for i in range(1, 12)), "b10/1.png"]


def test_folders_inside_of_a_class_belong_to_it(tmp_path):
    fill(tmp_path, {"cat": 1, "cat/lions/young": 1, "dog": 1})
    assert taken(read_layout(tmp_path)) == {
        "cat/1.png": ("cat", ""),
        "cat/lions/young/1.png": ("cat", ""),
        "dog/1.png": ("dog", ""),
    }


@pytest.mark.parametrize("name", ["val", "valid", "validation", "Val"])
def test_train_val_and_test_folders(tmp_path, name):
    fill(tmp_path, {"train/cat": 1, "train/dog": 1, f"{name}/cat": 1, f"{name}/dog": 1, "test/dog": 1})
    layout = read_layout(tmp_path)
    assert taken(layout) == {
        "train/cat/1.png": ("cat", "train"),
        "train/dog/1.png": ("dog", "train"),
        f"{name}/cat/1.png": ("cat", "val"),
        f"{name}/dog/1.png": ("dog", "val"),
        "test/dog/1.png": ("dog", "test"),
    }
    assert layout.classes == {"train": ["cat", "dog"], "val": ["cat", "dog"], "test": ["dog"]}


def test_pictures_without_a_class_in_test_are_ignored_with_the_reason(tmp_path):
    fill(tmp_path, {"train/cat": 1, "train/dog": 1, "test": 2})
    layout = read_layout(tmp_path)
    assert ignored(layout) == dict.fromkeys(("test/1.png", "test/2.png"), "in test/, not in a folder of a class")


def test_other_folders_beside_train_and_val_are_ignored_with_the_reason(tmp_path):
    fill(tmp_path, {"train/cat": 1, "train/dog": 1, "val/cat": 1, "val/dog": 1, "notes": 1})
    layout = read_layout(tmp_path)
    assert set(layout.classes) == {"train", "val"}
    assert ignored(layout) == {"notes/": "beside train/, not one of its kind"}


def test_a_class_may_be_called_train(tmp_path):
    fill(tmp_path, {"train": 1, "car": 1, "bus": 1})
    assert read_layout(tmp_path).classes == {"": ["bus", "car", "train"]}
    fill(tmp_path, {"train/steam": 1})
    assert read_layout(tmp_path).classes == {"": ["bus", "car", "train"]}


def test_two_folders_for_the_same_side_are_refused(tmp_path):
    fill(tmp_path, {"train/cat": 1, "train/dog": 1, "val/cat": 1, "valid/cat": 1})
    with pytest.raises(DataError, match="one folder for each side of the split, got val/ and valid/"):
        read_layout(tmp_path)


def test_what_is_not_taken_is_listed_with_the_reason(tmp_path):
    fill(tmp_path, {"cat": 1, "dog": 1, ".git": 1, "dog/.cache": 1})
    (tmp_path / "loose.jpg").write_bytes(b"x")
    (tmp_path / "README").write_text("hello")
    (tmp_path / "cat" / "labels.csv").write_text("a,b")
    (tmp_path / "cat" / "Thumbs.db").write_bytes(b"x")
    (tmp_path / "cat" / "scan.dat").write_bytes((tmp_path / "cat" / "1.png").read_bytes())
    layout = read_layout(tmp_path)
    assert ignored(layout) == {
        "loose.jpg": "beside the folders, not in one of a class",
        "README": "not a picture by its name (no extension)",
        ".git/": "hidden",
        "cat/labels.csv": "not a picture by its name (.csv)",
        "cat/Thumbs.db": "hidden",
        "cat/scan.dat": "not a picture by its name (.dat), but it begins like a PNG file: rename it to use it",
        "dog/.cache/": "hidden",
    }
    assert set(taken(layout)) == {"cat/1.png", "dog/1.png"}


def test_every_file_is_listed_once(tmp_path):
    fill(tmp_path, {"cat": 3, "cat/more": 2, "dog": 1})
    (tmp_path / "a.txt").write_text("a")
    paths = [entry.path for entry in read_layout(tmp_path).entries]
    assert sorted(paths) == sorted(
        file.relative_to(tmp_path).as_posix() for file in tmp_path.rglob("*") if file.is_file()
    )


@pytest.mark.parametrize("suffix", [".JPG", ".jpeg", ".Png", ".tif", ".webp", ".HEIC"])
def test_names_of_pictures_in_capitals_too(tmp_path, suffix):
    fill(tmp_path, {"cat": 1, "dog": 1})
    (tmp_path / "cat" / "1.png").rename(tmp_path / "cat" / f"1{suffix}")
    assert f"cat/1{suffix}" in taken(read_layout(tmp_path))


def test_spaces_and_any_letters_in_names(tmp_path):
    fill(tmp_path, {"grüne Äpfel": 1, "猫 と 犬": 1})
    assert read_layout(tmp_path).classes == {"": ["grüne Äpfel", "猫 と 犬"]}
    assert "猫 と 犬/1.png" in taken(read_layout(tmp_path))


def test_a_name_in_decomposed_letters_is_the_same_class(tmp_path):
    decomposed = "a\u0308pfel"
    fill(tmp_path, {f"train/{decomposed}": 1, "train/birnen": 1, "val/äpfel": 1, "val/birnen": 1})
    assert read_layout(tmp_path).classes == {"train": ["äpfel", "birnen"], "val": ["äpfel", "birnen"]}


@pytest.mark.skipif(sys.platform != "linux", reason="needs a file system that takes any bytes as a name")
def test_a_name_that_is_no_text_is_ignored_with_the_reason(tmp_path):
    fill(tmp_path, {"cat": 1, "dog": 1})
    (tmp_path / "cat" / "1.png").rename(tmp_path / "cat" / os.fsdecode(b"\xff.png"))
    assert ignored(read_layout(tmp_path)) == {"cat/\\udcff.png": "its name is not valid UTF-8"}


@pytest.mark.skipif(sys.platform == "win32", reason="colons cannot be in names here")
def test_a_name_like_a_member_of_an_archive_is_ignored_with_the_reason(tmp_path):
    fill(tmp_path, {"cat": 1, "dog": 1})
    (tmp_path / "cat" / "1.png").rename(tmp_path / "cat" / "a.tar::1.png")
    assert "rename it" in ignored(read_layout(tmp_path))["cat/a.tar::1.png"]


def test_links_to_folders_and_pictures_are_followed(tmp_path):
    fill(tmp_path / "elsewhere", {"cats": 2})
    data = fill(tmp_path / "data", {"dog": 1})
    links(tmp_path / "elsewhere" / "cats", data / "cat")
    links(tmp_path / "elsewhere" / "cats" / "1.png", data / "dog" / "linked.png")
    assert set(taken(read_layout(data))) == {"cat/1.png", "cat/2.png", "dog/1.png", "dog/linked.png"}


def test_a_link_back_to_a_folder_above_ends_there(tmp_path):
    data = fill(tmp_path, {"cat": 1, "dog": 1})
    links(data / "cat", data / "cat" / "again")
    links(data, data / "dog" / "all")
    layout = read_layout(data)
    assert set(taken(layout)) == {"cat/1.png", "dog/1.png"}
    reason = "a link that leads back to a folder above it"
    assert ignored(layout) == {"cat/again/": reason, "dog/all/": reason}


def test_a_broken_link_named_as_a_picture_is_left_to_the_scan(tmp_path):
    data = fill(tmp_path, {"cat": 1, "dog": 1})
    links(tmp_path / "gone.png", data / "cat" / "gone.png")
    assert "cat/gone.png" in taken(read_layout(data))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
def test_a_pipe_named_as_a_picture_is_not_waited_for(tmp_path):
    data = fill(tmp_path, {"cat": 1, "dog": 1})
    os.mkfifo(data / "cat" / "pipe.png")
    assert ignored(read_layout(data)) == {"cat/pipe.png": "neither a file nor a folder"}


def test_no_folder_no_classes_and_a_file_say_what_was_expected(tmp_path):
    with pytest.raises(InputError, match=r"one folder of pictures per class, got .*absent: there is no such folder"):
        read_layout(tmp_path / "absent")
    with pytest.raises(DataError, match=r"cats/, dogs/.*it is empty"):
        read_layout(tmp_path)
    (tmp_path / "1.jpg").write_bytes(b"x")
    with pytest.raises(InputError, match=r"got .*1.jpg: it is a file"):
        read_layout(tmp_path / "1.jpg")
    with pytest.raises(DataError, match="got 1 pictures and no folders: sort them into folders, one per class"):
        read_layout(tmp_path)
    (tmp_path / "1.jpg").rename(tmp_path / "1.txt")
    with pytest.raises(DataError, match="got 1 files and no folders"):
        read_layout(tmp_path)
