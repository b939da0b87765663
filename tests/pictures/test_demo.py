"""The demo pictures: what is in the archive, how it is made, and how it is unpacked."""

from __future__ import annotations

import gzip
import importlib.util
import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from greffon.errors import DataError, GreffonError, InputError
from greffon.pictures import demo
from greffon.pictures.demo import demo_pictures

CHECKOUT = Path(__file__).parent.parent.parent
ARCHIVE = CHECKOUT / "src" / "greffon" / "assets" / "demo_fashion_mnist.zip"
CLASSES = ["Ankle boot", "Bag", "Coat", "Dress", "Pullover", "Sandal", "Shirt", "Sneaker", "T-shirt", "Trouser"]


@pytest.fixture(scope="session")
def tool():
    file = CHECKOUT / "tools" / "make_demo_pictures.py"
    if not file.is_file():
        pytest.skip("tools/ is part of the repository, not of the package")
    spec = importlib.util.spec_from_file_location("make_demo_pictures", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def tree(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_folder_holds_sixty_and_forty_of_each_class(tmp_path):
    folder = demo_pictures(tmp_path / "new" / "place")
    assert folder.parent == tmp_path / "new" / "place"
    assert [entry.name for entry in folder.parent.iterdir()] == [folder.name]
    for part, count in (("train", 60), ("test", 40)):
        assert sorted(entry.name for entry in (folder / part).iterdir()) == CLASSES
        for name in CLASSES:
            expected = [f"{number:04d}.png" for number in range(count)]
            assert sorted(entry.name for entry in (folder / part / name).iterdir()) == expected
    contents = tree(folder)
    assert len(contents) == 1000
    pixels = set()
    for content in contents.values():
        with Image.open(io.BytesIO(content)) as picture:
            assert (picture.format, picture.mode, picture.size) == ("PNG", "L", (28, 28))
            pixels.add(picture.tobytes())
    assert len(pixels) == 1000, "no picture is in both parts, or twice"


def test_the_archive_tells_nothing_of_when_and_where_it_was_made():
    with zipfile.ZipFile(ARCHIVE) as archive:
        entries = archive.infolist()
    assert [entry.filename for entry in entries] == sorted(entry.filename for entry in entries)
    assert {entry.date_time for entry in entries} == {(2017, 8, 25, 0, 0, 0)}
    assert {(entry.compress_type, entry.create_system, entry.extra) for entry in entries} == {(0, 3, b"")}


def test_the_licence_is_beside_it():
    text = (ARCHIVE.parent / "licenses" / "fashion_mnist.txt").read_text(encoding="utf-8")
    assert "Copyright (c) 2017 Zalando SE, https://tech.zalando.com" in text
    assert "Permission is hereby granted, free of charge" in text


# Unpacking


def test_a_second_time_nothing_is_written(tmp_path):
    folder = demo_pictures(str(tmp_path))
    (folder / "train" / ".DS_Store").write_bytes(b"of a desktop")
    times = {path: path.stat().st_mtime_ns for path in folder.rglob("*.png")}
    assert demo_pictures(tmp_path) == folder
    assert times == {path: path.stat().st_mtime_ns for path in folder.rglob("*.png")}


@pytest.mark.parametrize("change", ["missing", "changed", "added"])
def test_changed_pictures_are_named_and_left_as_they_are(tmp_path, change):
    folder = demo_pictures(tmp_path)
    picture = folder / "test" / "Bag" / "0003.png"
    if change == "missing":
        picture.unlink()
    elif change == "changed":
        picture.write_bytes(picture.read_bytes()[:-1])
    else:
        picture = folder / "train" / "mine.PNG"
        picture.write_bytes(b"mine")
    before = tree(folder)
    with pytest.raises(DataError, match=rf"1 {change}.*first: {picture.relative_to(folder).as_posix()}.*move"):
        demo_pictures(tmp_path)
    assert tree(folder) == before


def test_something_else_of_that_name_is_left_alone(tmp_path):
    (tmp_path / demo.FOLDER).write_text("a file")
    with pytest.raises(DataError, match="is not the folder of demo pictures"):
        demo_pictures(tmp_path)
    assert (tmp_path / demo.FOLDER).read_text() == "a file"


def test_a_place_that_cannot_be_written_to(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot be written into"):
        demo_pictures(tmp_path / "file")


def test_an_interruption_leaves_nothing_behind(tmp_path, monkeypatch):
    written = []
    plain = Path.write_bytes

    def interrupted(self, content):
        written.append(self)
        if len(written) == 500:
            raise KeyboardInterrupt
        return plain(self, content)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", interrupted)
        with pytest.raises(KeyboardInterrupt):
            demo_pictures(tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert len(tree(demo_pictures(tmp_path))) == 1000


def test_another_process_that_was_faster_is_believed_and_checked(tmp_path, monkeypatch):
    plain = Path.rename

    def late(self, target):
        target.mkdir()
        (target / "half").touch()
        return plain(self, target)

    monkeypatch.setattr(Path, "rename", late)
    with pytest.raises(DataError, match="1000 missing"):
        demo_pictures(tmp_path)
    assert [entry.name for entry in tmp_path.iterdir()] == [demo.FOLDER]


@pytest.mark.parametrize(
    "name",
    ["../0000.png", "/etc/0000.png", "train/../../0000.png", "train/Bag/0000.png/x", "train\\Bag\\0000.png", "a"],
)
def test_an_archive_that_would_write_elsewhere_is_refused(tmp_path, monkeypatch, name):
    (tmp_path / "assets").mkdir()
    with zipfile.ZipFile(tmp_path / "assets" / ARCHIVE.name, "w") as archive:
        archive.writestr(name, b"")
    monkeypatch.setattr(demo, "files", lambda package: tmp_path)
    with pytest.raises(GreffonError, match="install Greffon again"):
        demo_pictures(tmp_path / "out")
    assert not (tmp_path / "out").exists()


# Making


@pytest.fixture
def small_data_set(tmp_path):
    """IDX files like Fashion-MNIST's, with 70 pictures for each class in both parts."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "idx"
    folder.mkdir()
    labels = np.tile(np.arange(10, dtype=np.uint8), 70)
    for prefix in ("train", "t10k"):
        pictures = rng.integers(0, 256, (700, 28, 28), dtype=np.uint8)
        pictures[:, 0, 0] = labels
        for kind, values in (("images-idx3", pictures), ("labels-idx1", labels)):
            head = bytes([0, 0, 8, values.ndim]) + b"".join(side.to_bytes(4, "big") for side in values.shape)
            (folder / f"{prefix}-{kind}-ubyte.gz").write_bytes(gzip.compress(head + values.tobytes()))
    return folder


def test_the_tool_gives_the_same_bytes_again(tool, small_data_set, tmp_path):
    first, second = tmp_path / "first.zip", tmp_path / "second.zip"
    names = tool.make_archive(small_data_set, first)
    tool.make_archive(small_data_set, second)
    assert first.read_bytes() == second.read_bytes()
    with zipfile.ZipFile(ARCHIVE) as archive:
        assert names == archive.namelist()
    with zipfile.ZipFile(first) as archive:
        for number, name in enumerate(tool.CLASSES):
            with Image.open(io.BytesIO(archive.read(f"test/{name}/0000.png"))) as picture:
                assert picture.getpixel((0, 0)) == number


def test_the_tool_refuses_what_is_no_idx_file(tool, small_data_set, tmp_path):
    (small_data_set / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(b"something else"))
    with pytest.raises(SystemExit, match="not an IDX file"):
        tool.make_archive(small_data_set, tmp_path / "x.zip")


def test_the_archive_is_what_the_tool_makes_of_the_data_set(tool, tmp_path):
    """Pixels and names; the bytes of the PNG files depend on Pillow's version."""
    if not tool.FOLDER.is_dir():
        pytest.skip("needs Debian's dataset-fashion-mnist")
    tool.make_archive(tool.FOLDER, tmp_path / "again.zip")
    with zipfile.ZipFile(ARCHIVE) as kept, zipfile.ZipFile(tmp_path / "again.zip") as again:
        assert kept.namelist() == again.namelist()
        for name in kept.namelist():
            with Image.open(kept.open(name)) as left, Image.open(again.open(name)) as right:
                assert left.tobytes() == right.tobytes()
