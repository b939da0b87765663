from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from greffon.errors import DataError, InputError
from greffon.evaluation.table import (
    class_names_of,
    has_several_labels,
    prediction_table,
    probabilities_of,
    read_table,
    write_table,
)

ODD_NAMES = ["path", "p_x", 'a,b\n"c"', "chat été 🐈", "hash"]


def _table(several_labels=False, order=slice(None)):
    probabilities = np.array([[0.7, 0.3], [0.1, 0.9], [0.5, 0.5]])
    labels = [["cat"], ["dog", "cat"], []] if several_labels else ["cat", "cat", "dog"]
    columns = [["a", "b", "c"], ["h1", "h2", "h3"], labels]
    return prediction_table(
        *(column[order] for column in columns), probabilities[order], ["cat", "dog"], several_labels=several_labels
    )


def test_a_row_holds_what_is_known_of_a_picture():
    table = _table()
    assert table.columns == ["path", "hash", "label", "predicted", "probability", "p_cat", "p_dog"]
    assert table["predicted"].to_list() == ["cat", "dog", "cat"]
    np.testing.assert_allclose(table["probability"].to_numpy(), [0.7, 0.9, 0.5], rtol=1e-6)
    assert class_names_of(table) == ["cat", "dog"]
    assert not has_several_labels(table)


@pytest.mark.parametrize("several_labels", [False, True])
def test_the_order_of_the_rows_makes_no_difference(several_labels):
    assert _table(several_labels).equals(_table(several_labels, slice(None, None, -1)))


def test_several_labels_have_their_place():
    table = _table(several_labels=True)
    assert has_several_labels(table)
    assert table["label"].to_list() == [["cat"], ["cat", "dog"], []]
    assert table["predicted"].to_list() == [["cat"], ["dog"], ["cat", "dog"]]


def test_class_names_hold_any_characters(tmp_path):
    values = np.full((1, len(ODD_NAMES)), 0.1, np.float32)
    values[0, 3] = 0.6
    table = prediction_table(["x"], [None], [ODD_NAMES[3]], values, ODD_NAMES)
    write_table(table, tmp_path / "t.parquet")
    again = read_table(tmp_path / "t.parquet")
    assert again.equals(table)
    assert class_names_of(again) == ODD_NAMES
    np.testing.assert_array_equal(probabilities_of(again), values)


@pytest.mark.parametrize("several_labels", [False, True])
def test_saving_keeps_types_and_leaves_one_file(tmp_path, several_labels):
    table = _table(several_labels)
    write_table(table, tmp_path / "table[1].parquet")
    assert read_table(tmp_path / "table[1].parquet").equals(table)
    assert [path.name for path in tmp_path.iterdir()] == ["table[1].parquet"]


def test_a_failed_save_leaves_the_old_file(tmp_path, monkeypatch):
    write_table(_table(), tmp_path / "t.parquet")
    before = (tmp_path / "t.parquet").read_bytes()

    def half(self, file):
        file.write_bytes(b"PAR1")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pl.DataFrame, "write_parquet", half)
    with pytest.raises(OSError, match="No space"):
        write_table(_table(order=slice(1)), tmp_path / "t.parquet")
    assert (tmp_path / "t.parquet").read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 1


def test_pictures_without_path_hash_or_label():
    table = prediction_table([None], [None], [None], np.array([[1.0, 0.0]]), ["cat", "dog"])
    assert table.row(0)[:4] == (None, None, None, "cat")


def test_no_pictures_are_a_table_too(tmp_path):
    table = prediction_table([], [], [], np.zeros((0, 2)), ["cat", "dog"])
    write_table(table, tmp_path / "t.parquet")
    assert read_table(tmp_path / "t.parquet").schema == _table().schema
    assert probabilities_of(table).shape == (0, 2)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"probabilities": np.ones((2, 3)) / 3}, InputError, r"\(n, 2\).*\(2, 3\)"),
        ({"probabilities": np.array([[0.2, -1.5], [0, 1]])}, InputError, "softmax"),
        ({"probabilities": np.array([[0.2, 0.8], [np.nan, 1]])}, DataError, "1 of 2 pictures, first for b.jpg"),
        ({"labels": ["cat", "bird"]}, DataError, "'bird' is none of the classes 'cat', 'dog'"),
        ({"labels": ["cat", ["dog"]]}, InputError, "one class name"),
        ({"labels": ["cat", "dog"], "several_labels": True}, InputError, "collection of class names"),
        ({"hashes": ["x"]}, InputError, r"hashes must have one entry per row .*2.*got 1"),
        ({"class_names": ["cat", "cat"]}, InputError, "twice: 'cat'"),
        ({"class_names": []}, InputError, "at least one"),
    ],
)
def test_what_does_not_belong_together_is_refused(change, error, message):
    arguments = {
        "paths": ["a.jpg", "b.jpg"],
        "hashes": ["x", "y"],
        "labels": ["cat", "dog"],
        "probabilities": np.array([[0.9, 0.1], [0.2, 0.8]]),
        "class_names": ["cat", "dog"],
    } | change
    with pytest.raises(error, match=message):
        prediction_table(**arguments)


def test_rounding_of_float32_is_no_reason_to_refuse():
    values = np.array([[1 + 2e-6, -2e-6]])
    assert probabilities_of(prediction_table(["a"], [None], ["cat"], values, ["cat", "dog"])).tolist() == [[1.0, 0.0]]


def test_other_files_are_refused(tmp_path):
    (tmp_path / "text.parquet").write_text("hello")
    with pytest.raises(InputError, match="cannot be read as a table of predictions"):
        read_table(tmp_path / "text.parquet")
    with pytest.raises(InputError, match="cannot be read"):
        read_table(tmp_path / "absent.parquet")
    pl.DataFrame({"path": ["a"]}).write_parquet(tmp_path / "other.parquet")
    with pytest.raises(InputError, match="hash, label, predicted, probability is missing"):
        read_table(tmp_path / "other.parquet")
