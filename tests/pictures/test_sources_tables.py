"""CSV, JSON Lines, Parquet and DataFrames as sources, good and bad."""

from __future__ import annotations

import base64
import io
import json
import random

import polars as pl
import pytest
from picture_folders import fill, picture

from greffon.errors import DataError, InputError
from greffon.pictures.catalog import Catalog
from greffon.pictures.sources.choose import catalog_of
from greffon.pictures.sources.columns import Columns
from greffon.pictures.sources.parquet import panics_told

NAMES = ("images/1.png", "images/2.png", "images/3.png", "images/4.png")


@pytest.fixture
def data(tmp_path):
    return fill(tmp_path / "data", {"images": 4})


def csv(folder, text, name="labels.csv", encoding="utf-8"):
    (folder / name).write_bytes(text.encode(encoding))
    return folder / name


def table(separator=",", label=("cat", "dog", "cat", "dog"), header=("path", "label")):
    lines = [separator.join(header), *(separator.join(row) for row in zip(NAMES, label, strict=True))]
    return "\n".join(lines) + "\n"


def labels(catalog):
    return dict(catalog.ok.select("path", "label").iter_rows())


def png(number):
    file = io.BytesIO()
    picture(number).save(file, "PNG")
    return file.getvalue()


EXPECTED = dict(zip(NAMES, ("cat", "dog", "cat", "dog"), strict=True))


@pytest.mark.parametrize(
    "header", [("path", "label"), ("Image", "Class"), ("file name", "CATEGORY"), ("url", "target")]
)
def test_a_csv_with_usual_names(data, header):
    catalog = catalog_of(csv(data, table(header=header)))
    assert labels(catalog) == EXPECTED
    assert catalog.class_names == ("cat", "dog")
    assert catalog.root == data
    assert catalog.notes == ()
    assert [path.read_bytes()[:4] for path in catalog.locators(catalog.ok)] == [b"\x89PNG"] * 4


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
def test_separators_and_encodings(data, separator, encoding):
    text = table(separator, ("Käfer", "dog", "Käfer", "dog")).replace("\n", "\r\n")
    catalog = catalog_of(str(csv(data, text, encoding=encoding)))
    assert catalog.class_names == ("Käfer", "dog")
    assert bool(catalog.notes) == (encoding == "cp1252")


def test_names_of_classes_keep_zeros_and_are_in_natural_order(data):
    catalog = catalog_of(csv(data, table(label=("001", "10", "2", "001"))))
    assert catalog.class_names == ("001", "2", "10")


def test_other_columns_by_name(data):
    text = "scan,what,patient,fold\n" + "".join(
        f"{name},{label},{person},{side}\n"
        for name, label, person, side in zip(NAMES, "abab", "ppqq", ("train", "train", "valid", "Test"), strict=True)
    )
    columns = Columns(path="scan", label="what", group="patient", split="fold")
    catalog = catalog_of(csv(data, text), columns=columns)
    assert catalog.ok["group"].to_list() == ["p", "p", "q", "q"]
    assert catalog.ok["split"].to_list() == ["train", "train", "val", "test"]
    assert any("1 group is on more than one side of the given split" in note and "q: val and test" in note
               for note in catalog.notes)  # fmt: skip
    unused = catalog_of(csv(data, text.replace("what", "label").replace("scan", "path")))
    assert any("'patient' is not used" in note for note in unused.notes)
    with pytest.raises(DataError, match="no column 'wat'; did you mean 'what'"):
        catalog_of(csv(data, text), columns=Columns(path="scan", label="wat"))
    with pytest.raises(InputError, match="'scan' twice"):
        catalog_of(csv(data, text), columns=Columns(path="scan", label="scan"))


def test_a_missing_column_is_said_with_the_nearest(data):
    with pytest.raises(DataError, match=r"no column that says where the pictures are.*'paht', 'label'.*Is it 'paht'"):
        catalog_of(csv(data, table(header=("paht", "label"))))
    with pytest.raises(DataError, match=r"no column that says which class.*it has 'path', 'x'"):
        catalog_of(csv(data, table(header=("path", "x"))))
    with pytest.raises(DataError, match=r"no names of columns: its first line is 'images/1.png, cat'"):
        catalog_of(csv(data, table().partition("\n")[2]))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("path,label\n", "no rows"),
        ("path,label,label\na,b,c\n", "more than one column called 'label'"),
        ("path,label\na.jpg,cat,1\nb.jpg\n", r"2 lines with another number of cells:\n  line 2: 3.*\n  line 3: 1"),
        ('path,label\n"a.jpg,cat\n', "no CSV table: line 2"),
        ("path,label\na.jpg,0.5\nb.jpg,1\n", "no such|not there"),
    ],
)
def test_tables_that_are_none(data, text, message):
    with pytest.raises(DataError, match=message):
        catalog_of(csv(data, text))


def test_files_that_are_gone_are_counted_and_listed(data):
    text = table() + "".join(f"images/gone{i}.png,cat\n" for i in range(3))
    catalog = catalog_of(csv(data, text))
    assert len(catalog.ok) == 4
    assert len(catalog.quarantined) == 3
    assert "3 files are not there and left out:\n  images/gone0.png\n" in catalog.notes[0]
    many = table() + "".join(f"gone{i}.png,cat\n" for i in range(12))
    with pytest.raises(DataError, match=r"12 of 16 files .* not there:\n  gone0.png(.|\n)*and 2 more\n.*give root="):
        catalog_of(csv(data, many))
    with pytest.raises(DataError, match=r"there is images/1.png: add the extension"):
        catalog_of(csv(data, table().replace(".png", "")))


def test_another_root_and_paths_of_windows(data, tmp_path):
    file = csv(tmp_path, table().replace("/", "\\"))
    with pytest.raises(DataError, match="give root="):
        catalog_of(file)
    assert labels(catalog_of(file, root=data)) == EXPECTED


def test_rows_without_a_label_or_path_are_left_out_and_counted(data):
    catalog = catalog_of(csv(data, table(label=("cat", "dog", "", " ")) + ",cat\n"))
    assert len(catalog.ok) == 2
    assert sorted(catalog.ignored["reason"]) == ["has no label", "has no label", "has no path"]
    assert "2 pictures without a label are left out:\n  images/3.png\n  images/4.png" in catalog.notes
    with pytest.raises(DataError, match=r"no labelled picture \(4 has no label"):
        catalog_of(csv(data, table(label=("", "", "", ""))))


def test_the_same_row_twice_counts_once_and_contradictions_are_refused(data):
    twice = catalog_of(csv(data, table() + "images/1.png,cat\n"))
    assert len(twice.ok) == 4
    assert twice.ignored["reason"].to_list() == ["the same picture as in a row above"]
    with pytest.raises(DataError, match=r"1 pictures are in several rows(.|\n)*images/1.png: labels 'cat' and 'dog'"):
        catalog_of(csv(data, table() + "images/1.png,dog\n"))
    both = table().replace("label\n", "label,split\n").replace("cat\n", "cat,train\n").replace("dog\n", "dog,train\n")
    with pytest.raises(DataError, match=r"images/1.png: split 'train' and 'val'"):
        catalog_of(csv(data, both + "images/1.png,cat,val\n"))


def test_several_labels_in_a_cell_or_a_column_each(data):
    catalog = catalog_of(csv(data, table(label=("cat|wild", "dog", "", "dog | wild"), header=("path", "tags"))))
    assert catalog.several_labels
    assert catalog.labels_of(catalog.ok) == [["cat", "wild"], ["dog"], [], ["dog", "wild"]]
    assert catalog.targets(catalog.ok).tolist() == [[1, 0, 1], [0, 1, 0], [0, 0, 0], [0, 1, 1]]
    assert catalog.counts() == {"cat": 1, "dog": 2, "wild": 2}
    spaced = catalog_of(csv(data, table(label=("a b", "b", "c", "a"))), columns=Columns(separator=" "))
    assert spaced.class_names == ("a", "b", "c")

    ticked = "path,dog,cat\nimages/1.png,1,0\nimages/2.png,0,1\nimages/3.png,1,1\nimages/4.png,0,0\n"
    catalog = catalog_of(csv(data, ticked))
    assert catalog.class_names == ("dog", "cat")
    assert catalog.labels_of(catalog.ok) == [["dog"], ["cat"], ["dog", "cat"], []]
    assert "one 0/1 column for each class was taken: dog, cat" in catalog.notes[0]
    one_each = ticked.replace("1,1\n", "1,0\n").replace("0,0\n", "0,1\n")
    assert not catalog_of(csv(data, one_each), columns=Columns(label=("cat", "dog"))).several_labels
    with pytest.raises(DataError, match="column 'dog' must hold 0 or 1 for each picture, got '7'"):
        catalog_of(csv(data, ticked.replace("1,1", "7,1")), columns=Columns(label=("cat", "dog")))


def test_several_labels_survive_a_spreadsheet(data):
    catalog = catalog_of(csv(data, table(label=("cat|wild", "dog", "", "dog"), header=("path", "tags"))))
    catalog.save(data / "catalog.csv")
    again = catalog_of(data / "catalog.csv")
    assert again.frame.equals(catalog.frame)
    assert again.class_names == catalog.class_names
    catalog.save(data / "catalog.parquet")
    assert catalog_of(data / "catalog.parquet").frame.equals(catalog.frame)


def test_a_split_column(data):
    text = table().replace("label\n", "label,split\n").replace("cat\n", "cat,train\n").replace("dog\n", "dog,\n")
    assert catalog_of(csv(data, text)).ok["split"].to_list() == ["train", "", "train", ""]
    with pytest.raises(DataError, match=r"column 'split' must hold train, val or test.*got 'dev'"):
        catalog_of(csv(data, text.replace("train", "dev")))


def test_one_class_and_classes_that_train_has_not(data):
    with pytest.raises(DataError, match=r"at least two classes in .*got only 'cat'"):
        catalog_of(csv(data, table(label=("cat",) * 4)))
    text = "path,label,split\n" + "".join(
        f"{name},{label},{side}\n"
        for name, label, side in zip(
            NAMES, ("cat", "dog", "cat", "dogs"), ("train", "train", "val", "val"), strict=True
        )
    )
    with pytest.raises(DataError, match="only classes that train has, got val: 'dogs'; did you mean 'dog'"):
        catalog_of(csv(data, text))
    (data / "images" / "2.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"every class .* these have none: dog(.|\n)*images/2.png: is not a picture"):
        catalog_of(csv(data, table(label=("cat", "dog", "cat", "cat"))))


def test_given_class_names_say_the_order_and_name_numbers(data):
    catalog = catalog_of(csv(data, table()), class_names=["dog", "cat"])
    assert catalog.class_names == ("dog", "cat")
    numbered = catalog_of(csv(data, table(label=("0", "1", "0", "1"))), class_names=["cat", "dog"])
    assert labels(numbered) == EXPECTED
    with pytest.raises(DataError, match="among the given class_names, got 'dog'; did you mean 'dogs'"):
        catalog_of(csv(data, table()), class_names=["cat", "dogs"])


def test_json_lines(data):
    rows = [{"image": name, "labels": [label]} for name, label in EXPECTED.items()]
    rows[0]["labels"].append("wild")
    file = csv(data, "\n".join(map(json.dumps, rows)) + "\n\n", "a.jsonl")
    assert catalog_of(file).labels_of(catalog_of(file).ok) == [["cat", "wild"], ["dog"], ["cat"], ["dog"]]
    with pytest.raises(DataError, match="line 2 is no JSON"):
        catalog_of(csv(data, json.dumps(rows[0]) + "\n{", "a.jsonl"))
    with pytest.raises(DataError, match=r"line 1 must be an object, \{...\}, got \[1\]"):
        catalog_of(csv(data, "[1]", "a.jsonl"))
    with pytest.raises(DataError, match="is empty"):
        catalog_of(csv(data, "", "a.jsonl"))
    numbers = "\n".join(json.dumps({"path": name, "label": place % 2}) for place, name in enumerate(NAMES))
    assert catalog_of(csv(data, numbers, "a.jsonl")).class_names == ("0", "1")


def test_bytes_in_json_lines_become_files(tmp_path):
    rows = [{"bytes": base64.b64encode(png(i)).decode(), "label": "ab"[i % 2]} for i in range(4)]
    rows[3]["bytes"] = "?"
    catalog = catalog_of(csv(tmp_path, "\n".join(map(json.dumps, rows)), "a.jsonl"))
    assert [file.read_bytes() for file in catalog.locators(catalog.ok)] == [png(0), png(1), png(2)]
    assert catalog.ignored["reason"].to_list() == ["has no bytes"]


def hugging_face_parquet(file, numbers, *, names=("cat", "dog")):
    frame = pl.DataFrame(
        {
            "image": [{"bytes": png(i), "path": f"{i}.png"} for i in numbers],
            "label": [i % 2 for i in numbers],
        }
    )
    features = {"image": {"_type": "Image"}, "label": {"names": list(names), "_type": "ClassLabel"}}
    frame.write_parquet(file, metadata={"huggingface": json.dumps({"info": {"features": features}})})


def test_bytes_in_parquet_become_files_with_their_origin(tmp_path):
    (tmp_path / "data").mkdir()
    hugging_face_parquet(tmp_path / "data" / "train-00000-of-00002.parquet", range(4))
    hugging_face_parquet(tmp_path / "data" / "train-00001-of-00002.parquet", range(4, 6))
    hugging_face_parquet(tmp_path / "data" / "test-00000-of-00001.parquet", range(6, 8))
    catalog = catalog_of(tmp_path)
    assert catalog.class_names == ("cat", "dog")
    assert catalog.counts("train") == {"cat": 3, "dog": 3}
    assert catalog.counts("test") == {"cat": 1, "dog": 1}
    assert sorted(file.read_bytes() for file in catalog.locators(catalog.ok)) == sorted(png(i) for i in range(8))
    assert catalog.ok["origin"][0].endswith("test-00000-of-00001.parquet, row 1")
    one = catalog_of(tmp_path / "data" / "train-00000-of-00002.parquet")
    assert (
        one.ok["path"].to_list() == catalog_of(tmp_path / "data" / "train-00000-of-00002.parquet").ok["path"].to_list()
    )
    with pytest.raises(InputError, match="cannot be read"):
        catalog_of(csv(tmp_path, "no parquet", "a.parquet"))


def test_paths_and_lists_in_parquet(data):
    file = data / "table.parquet"
    pl.DataFrame({"file_name": NAMES, "labels": [["a"], ["b"], ["a", "b"], []]}).write_parquet(file)
    catalog = catalog_of(file)
    assert catalog.labels_of(catalog.ok) == [["a"], ["b"], ["a", "b"], []]


def test_data_frames(data):
    frame = pl.DataFrame({"path": NAMES, "label": [0, 1, 0, 1]})
    assert catalog_of(frame, root=data).class_names == ("0", "1")
    assert catalog_of(frame.lazy(), root=data).class_names == ("0", "1")
    pandas = pytest.importorskip("pandas")
    table = pandas.DataFrame({"path": NAMES, "label": [0.0, 1.0, None, 1.0]})
    catalog = catalog_of(table, root=data)
    assert labels(catalog) == dict(zip((NAMES[0], NAMES[1], NAMES[3]), "011", strict=True))
    table["label"] = pandas.Categorical(["cat", "dog", "cat", "dog"])
    assert labels(catalog_of(table, root=data)) == EXPECTED


def test_a_folder_with_one_table_is_read_by_it_and_one_with_classes_by_its_folders(data):
    csv(data, table())
    assert catalog_of(data).class_names == ("cat", "dog")
    fill(data, {"more": 1}, first=9)
    assert catalog_of(data).class_names == ("images", "more")


def test_tables_beside_the_pictures_of_each_side(tmp_path):
    for number, side in enumerate(("train", "validation")):
        fill(tmp_path, {side: 2}, first=10 * number)
        csv(tmp_path / side, "file_name,label\n1.png,a\n2.png,b\n", "metadata.csv")
    catalog = catalog_of(tmp_path)
    assert catalog.counts("train") == catalog.counts("val") == {"a": 1, "b": 1}


def test_an_edited_catalog_is_checked(data):
    catalog = catalog_of(csv(data, table()))
    catalog.save(data / "catalog.csv")
    text = (data / "catalog.csv").read_text()
    lines = text.splitlines()

    def edited(new):
        return catalog_of(csv(data, new, "edited.csv"))

    assert edited(text).frame.equals(catalog.frame)
    assert edited("\ufeff" + text.replace(",", ";")).frame.equals(catalog.frame)
    with pytest.raises(DataError, match=r"label is missing \(is it 'lable'\?\)"):
        Catalog.load(csv(data, text.replace("label", "lable"), "edited.csv"))
    with pytest.raises(DataError, match=r"several rows for the same picture; keep one of each:\n  images/1.png$"):
        edited(text + lines[1] + "\n")
    with pytest.raises(DataError, match=r"images/1.png: split '' and 'val', label 'cat' and 'dog'"):
        edited(text + lines[1].replace("cat,", "dog,val", 1).replace('val""', "val") + "\n")
    with pytest.raises(DataError, match="1 usable pictures have no label"):
        edited(text.replace(lines[1], lines[1].replace("cat", "")))
    (data / "images" / "3.png").unlink()
    with pytest.raises(DataError, match=r"1 of 4 usable pictures are not there(.|\n)*images.3.png"):
        edited(text)
    assert len(Catalog.load(data / "catalog.csv", check=False).ok) == 4
    assert len(edited(text.replace(lines[3], lines[3].replace(",ok,", ",ignored,"))).ok) == 3


@pytest.mark.parametrize("count", [60, pytest.param(3000, marks=pytest.mark.large)])
@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "catalog.csv"])
def test_damaged_tables_end_in_an_error_of_ours(data, name, count):
    csv(data, table(), "a.csv")
    csv(data, "\n".join(json.dumps({"path": path, "labels": ["a", "b"]}) for path in NAMES), "a.jsonl")
    catalog_of(data / "a.csv").save(data / "catalog.csv")
    content, draw, refused = (data / name).read_bytes(), random.Random(0), 0
    for _ in range(count):
        damaged = bytearray(content)
        for _ in range(draw.randint(1, 3)):
            damaged[draw.randrange(len(damaged))] = draw.randrange(256)
        (data / f"z{name}").write_bytes(damaged[: draw.randrange(len(damaged))] if draw.random() < 0.2 else damaged)
        try:
            catalog_of(data / f"z{name}")
        except (DataError, InputError):
            refused += 1
    assert 0 < refused <= count


def test_what_polars_panics_about_is_an_error():
    with pytest.raises(pl.exceptions.ComputeError, match="it is damaged"), panics_told():
        raise pl.exceptions.PanicException("assertion failed")


def test_a_parquet_file_that_is_cut_is_an_input_error(data):
    pl.DataFrame({"path": NAMES, "label": list("abab")}).write_parquet(data / "a.parquet")
    content = (data / "a.parquet").read_bytes()
    for length in (0, 3, len(content) // 2, len(content) - 1):
        (data / "a.parquet").write_bytes(content[:length])
        with pytest.raises(InputError, match=r"a.parquet cannot be read"):
            catalog_of(data / "a.parquet")


def test_copies_with_other_labels_are_conflicts_also_where_there_are_several(data):
    (data / "images" / "3.png").write_bytes((data / "images" / "1.png").read_bytes())
    tags = catalog_of(csv(data, table(label=("a|b", "b", "b|a", "a"), header=("path", "tags"))))
    assert len(tags.copies) == 2
    assert tags.conflicts.is_empty()
    tags = catalog_of(csv(data, table(label=("a|b", "b", "a", "a"), header=("path", "tags"))))
    assert sorted(tags.conflicts["path"]) == ["images/1.png", "images/3.png"]
    assert any("under more than one label" in note for note in tags.notes)


def test_several_labels_that_nobody_announced_are_told(tmp_path):
    from PIL import Image

    from greffon.pictures.sources.choose import catalog_of

    for number in range(4):
        Image.effect_noise((16, 16), 40 + number).save(tmp_path / f"{number}.png")
    rows = ["path,label", "0.png,cat|young", "1.png,dog", "2.png,cat|young", "3.png,dog"]
    (tmp_path / "labels.csv").write_text("\n".join(rows))
    assert any("1 classes have '|' in their names" in note for note in catalog_of(tmp_path / "labels.csv").notes)
