import polars as pl
import pytest
from picture_folders import fill, picture

from greffon.errors import DataError, InputError
from greffon.pictures.catalog import SCHEMA, Catalog, match_classes


def cut(file) -> None:
    """Take a file's last third away."""
    content = file.read_bytes()
    file.write_bytes(content[: len(content) * 2 // 3])


def test_every_file_has_a_row(tmp_path):
    fill(tmp_path, {"class10": 2, "class2": 1})
    (tmp_path / "class2" / "notes.txt").write_text("hello")
    cut(tmp_path / "class10" / "2.png")

    catalog = Catalog.from_folder(tmp_path)

    assert dict(catalog.frame.schema) == SCHEMA | {"format": pl.String}
    assert catalog.frame["format"].to_list() == ["PNG", "", "PNG", ""]
    assert [path for path, found in catalog.scanned.items() if found.reason] == ["class10/2.png"]
    assert catalog.class_names == ("class2", "class10")
    assert catalog.frame.select("path", "label", "split", "state", "width", "height").rows() == [
        ("class2/1.png", "class2", "", "ok", 12, 10),
        ("class2/notes.txt", "class2", "", "ignored", None, None),
        ("class10/1.png", "class10", "", "ok", 12, 10),
        ("class10/2.png", "class10", "", "quarantined", None, None),
    ]
    assert catalog.ok["path"].to_list() == ["class2/1.png", "class10/1.png"]
    assert catalog.ignored["reason"].to_list() == ["not a picture by its name (.txt)"]
    assert catalog.quarantined["reason"][0].startswith("is cut short")
    assert catalog.frame["size_bytes"].to_list() == [(tmp_path / path).stat().st_size for path in catalog.frame["path"]]
    assert catalog.root == tmp_path
    assert catalog.notes == ()


def test_nothing_is_deleted_or_changed(tmp_path):
    fill(tmp_path, {"cat": 2, "dog": 2})
    cut(tmp_path / "cat" / "1.png")
    before = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
    Catalog.from_folder(tmp_path)
    assert {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()} == before


def test_a_picture_with_the_wrong_extension_is_read_for_what_it_is(tmp_path):
    fill(tmp_path, {"cat": 1, "dog": 1})
    (tmp_path / "cat" / "1.png").rename(tmp_path / "cat" / "1.jpg")
    assert len(Catalog.from_folder(tmp_path).ok) == 2


def test_sides_that_folders_give(tmp_path):
    fill(tmp_path, {"train/cat": 2, "train/dog": 1, "valid/cat": 1, "valid/dog": 1, "test/dog": 1})
    catalog = Catalog.from_folder(tmp_path)
    assert catalog.counts("train") == {"cat": 2, "dog": 1}
    assert catalog.counts("val") == {"cat": 1, "dog": 1}
    assert catalog.counts("test") == {"cat": 0, "dog": 1}
    assert catalog.counts() == {"cat": 3, "dog": 3}
    assert catalog.side("test")["path"].to_list() == ["test/dog/1.png"]
    with pytest.raises(InputError, match="split must be train, val, test or '', got 'vall'; did you mean 'val'"):
        catalog.side("vall")


def test_one_class_cannot_be_told_from_another(tmp_path):
    fill(tmp_path, {"cat": 2})
    with pytest.raises(DataError, match=r"at least two classes in .*, got only 'cat'"):
        Catalog.from_folder(tmp_path)


def test_every_class_without_a_readable_picture_is_listed(tmp_path):
    fill(tmp_path, {"cat": 2, "dog": 1, "eel": 1})
    (tmp_path / "fox").mkdir()
    (tmp_path / "gnu").mkdir()
    (tmp_path / "gnu" / "a.txt").write_text("a")
    cut(tmp_path / "dog" / "1.png")
    with pytest.raises(DataError) as caught:
        Catalog.from_folder(tmp_path)
    message = str(caught.value)
    assert "\n  dog has 1 pictures, none of which can be read (dog/1.png: is cut short" in message
    assert "\n  fox has no pictures\n  gnu has no pictures\n  eel has one picture, copies aside" in message
    assert message.endswith("\nadd pictures, or take the folder away")
    assert "cat has" not in message


def test_a_class_that_train_has_not_is_named_with_the_nearest(tmp_path):
    fill(tmp_path, {"train/cat": 1, "train/dog": 1, "val/cat": 1, "val/dogs": 1})
    with pytest.raises(DataError, match=r"only classes that train/ has, got val/dogs; did you mean 'dog'\?"):
        Catalog.from_folder(tmp_path)


def test_a_val_folder_without_class_folders_is_refused(tmp_path):
    fill(tmp_path, {"train/cat": 1, "train/dog": 1, "val": 1})
    with pytest.raises(DataError, match="expected class folders in val/"):
        Catalog.from_folder(tmp_path)


def test_a_folder_to_evaluate_may_have_one_class_or_an_empty_one(tmp_path):
    fill(tmp_path, {"cat": 1})
    (tmp_path / "dog").mkdir()
    catalog = Catalog.from_folder(tmp_path, to="evaluate")
    assert catalog.class_names == ("cat", "dog")
    assert catalog.counts() == {"cat": 1, "dog": 0}
    cut(tmp_path / "cat" / "1.png")
    with pytest.raises(DataError, match=r"has no picture that can be read \(cat/1.png: is cut short"):
        Catalog.from_folder(tmp_path, to="evaluate")


def test_copies_and_conflicts_are_noted(tmp_path):
    fill(tmp_path, {"cat": 3, "dog": 2})
    picture(0).save(tmp_path / "cat" / "copy.png")
    picture(3).save(tmp_path / "cat" / "also a dog.png")
    catalog = Catalog.from_folder(tmp_path)
    assert sorted(catalog.copies["path"]) == ["cat/1.png", "cat/also a dog.png", "cat/copy.png", "dog/1.png"]
    assert sorted(catalog.conflicts["path"]) == ["cat/also a dog.png", "dog/1.png"]
    copies, conflicts = catalog.notes
    assert "4 files are exact copies of one another (2 different pictures)" in copies
    assert "1 pictures are there under more than one label" in conflicts
    assert "cat/also a dog.png, dog/1.png" in conflicts


@pytest.mark.parametrize("suffix", ["parquet", "csv"])
def test_saved_and_loaded_it_is_the_same(tmp_path, suffix):
    data = fill(tmp_path / "data", {"001": 1, 'a "quoted", class': 2, "äpfel": 1})
    (data / "äpfel" / "null").write_text("")
    cut(data / 'a "quoted", class' / "2.png")
    catalog = Catalog.from_folder(data)
    catalog.save(data / f"catalog.{suffix}")
    loaded = Catalog.load(data / f"catalog.{suffix}")
    assert loaded.frame.equals(catalog.frame)
    assert loaded.class_names == catalog.class_names
    assert loaded.root == data
    assert Catalog.load(data / f"catalog.{suffix}", root="elsewhere", check=False).root.name == "elsewhere"


def test_an_edited_table_is_obeyed_and_a_wrong_one_refused(tmp_path):
    data = fill(tmp_path / "data", {"cat": 2, "dog": 2})
    Catalog.from_folder(data).save(tmp_path / "catalog.csv")
    text = (tmp_path / "catalog.csv").read_text().replace('""', "")  # as a spreadsheet would write it

    def edited(old: str, new: str) -> Catalog:
        (tmp_path / "edited.csv").write_text(text.replace(old, new))
        return Catalog.load(tmp_path / "edited.csv", root=data)

    assert edited(",ok,", ",ignored,").ok.is_empty()
    assert edited("dog,,ok", "wolf,val,ok").class_names == ("cat", "wolf")
    with pytest.raises(DataError, match="state must be one of 'ok', 'quarantined', 'ignored', got 'bad'"):
        edited(",ok,", ",bad,")
    with pytest.raises(DataError, match="split must be one of"):
        edited("dog,,ok", "dog,dev,ok")
    with pytest.raises(DataError, match="label is missing"):
        edited("label", "lable")
    with pytest.raises(InputError, match=r"catalog .*edited.csv cannot be read"):
        edited("12", "twelve")
    with pytest.raises(InputError, match=r"catalog .*absent.csv cannot be read"):
        Catalog.load(tmp_path / "absent.csv")
    with pytest.raises(InputError, match=r"a .parquet or .csv file, got 'catalog.json'"):
        Catalog.load(tmp_path / "catalog.json")


def test_a_table_of_other_types_is_refused():
    with pytest.raises(DataError, match="column width of a catalog must be Int64, got String"):
        Catalog(pl.DataFrame({name: ["a"] for name in SCHEMA}), ("a",), None)


def catalog_of(tmp_path, *names) -> Catalog:
    return Catalog.from_folder(fill(tmp_path, dict.fromkeys(names, 1)), to="evaluate")


def test_classes_are_matched_by_name_into_the_order_of_the_model(tmp_path):
    matched = match_classes(catalog_of(tmp_path, "a", "b", "c"), ["c", "a", "b"])
    assert matched.class_names == ("c", "a", "b")


def test_classes_that_do_not_match_are_all_named(tmp_path):
    with pytest.raises(DataError) as caught:
        match_classes(catalog_of(tmp_path, "cat", "dogs", "eel"), ["cat", "dog", "fox"])
    message = str(caught.value)
    assert "not known to the model: 'dogs'; did you mean 'dog'?" in message
    assert "not known to the model: 'eel'\n" in message
    assert "without a folder: 'dog'; did you mean 'dogs'?" in message
    assert "without a folder: 'fox'\n" in message
    assert "cat'" not in message


def test_missing_classes_are_refused_unless_allowed(tmp_path):
    catalog = catalog_of(tmp_path, "cat", "dog")
    with pytest.raises(DataError, match="without a folder: 'eel'"):
        match_classes(catalog, ["cat", "dog", "eel"])
    assert match_classes(catalog, ["cat", "dog", "eel"], allow_missing=True).class_names == ("cat", "dog", "eel")
    with pytest.raises(DataError, match="not known to the model: 'dog'"):
        match_classes(catalog, ["cat", "eel"], allow_missing=True)
