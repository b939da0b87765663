from __future__ import annotations

import io
import json
import math
import os
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import xxhash
from made_up_runs import NAMES, contents_of, grafted, picture
from PIL import Image

import greffon
from greffon.bundle.batch import names_of, predict_to_file
from greffon.bundle.write import write_bundle
from greffon.errors import InputError


@pytest.fixture(scope="module")
def predictor(run):
    return greffon.load(run)


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(7):
        Image.fromarray(picture(number)).save(folder / f"{number}.png")
    (folder / "5.png").write_bytes(b"")
    return folder


def _read(file):
    if file.suffix == ".jsonl":
        rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
        return [{**row, **{f"p_{name}": row["scores"].get(name) for name in NAMES}} for row in rows]
    read = pl.read_csv if file.suffix == ".csv" else pl.read_parquet
    return read(file).to_dicts()


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_every_picture_has_its_row(predictor, folder, tmp_path, suffix):
    done = []
    names = names_of(folder)
    result = predict_to_file(predictor, names, tmp_path / f"out{suffix}", batch_size=2, advance=done.append)
    expected = predictor.predict(names)
    rows = _read(result.out)
    assert (result.pictures, result.kept, sum(done)) == (7, 0, 7)
    assert [row["path"] for row in rows] == names
    assert result.unreadable == ((names[5], "is empty (0 bytes)"),)
    for row, one, name in zip(rows, expected, names, strict=True):
        assert (row["label"], row["error"]) == (one.label, one.error)
        assert row["hash"] == xxhash.xxh3_128_hexdigest(Path(name).read_bytes())
        if one.error is None:
            np.testing.assert_allclose([row[f"p_{n}"] for n in NAMES], [one.scores[n] for n in NAMES], rtol=1e-6)
        else:
            assert row["p_cat"] is None
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"out{suffix}", "pictures"]


def _interrupted(predictor, names, out, after):
    """A job that is killed when so many pictures are answered."""

    class Killed(BaseException):
        pass

    left = [after]

    def advance(more):
        left[0] -= more
        if left[0] < 0:
            raise Killed

    with pytest.raises(Killed):
        predict_to_file(predictor, names, out, batch_size=2, advance=advance)
    return out.with_name(out.name + ".part")


def test_an_interrupted_job_goes_on_where_it_was(predictor, folder, tmp_path, monkeypatch):
    names = names_of(folder)
    whole = predict_to_file(predictor, names, tmp_path / "whole.parquet").out.read_bytes()
    journal = _interrupted(predictor, names, tmp_path / "out.parquet", 4)
    assert not (tmp_path / "out.parquet").exists()
    with journal.open("ab") as stream:
        stream.write(b'{"path": "torn by a power c')
    asked = []
    stream_of = predictor.stream
    monkeypatch.setattr(
        predictor, "stream", lambda sources, **options: stream_of(_noted(sources, asked), **options), raising=False
    )
    result = predict_to_file(predictor, names, tmp_path / "out.parquet", batch_size=2)
    assert (result.pictures, result.kept) == (7, 4)
    assert asked == names[4:]
    assert result.out.read_bytes() == whole
    assert not journal.exists()


def _noted(sources, asked):
    for source in sources:
        asked.append(source)
        yield source


def test_a_picture_that_changed_meanwhile_is_answered_again(predictor, folder, tmp_path):
    names = names_of(folder)
    _interrupted(predictor, names, tmp_path / "out.csv", 4)
    Image.fromarray(picture(77)).save(folder / "0.png")
    Image.fromarray(picture(78)).save(folder / "5.png")
    result = predict_to_file(predictor, names, tmp_path / "out.csv")
    assert (result.kept, result.unreadable) == (3, ())
    changed = predictor.predict(folder / "0.png")[0]
    assert _read(result.out)[0]["p_cat"] == pytest.approx(changed.scores["cat"], rel=1e-6)


def test_the_answers_of_another_run_are_not_taken_over(predictor, folder, tmp_path):
    names = names_of(folder)
    journal = _interrupted(predictor, names, tmp_path / "out.csv", 4)
    other = greffon.load(write_bundle(tmp_path / "other", contents_of(grafted(seed=9))))
    assert predict_to_file(other, names, tmp_path / "out.csv").kept == 0
    journal.write_bytes(b"\xff no journal\n")
    assert predict_to_file(predictor, names, tmp_path / "out.csv", overwrite=True).kept == 0


def test_a_file_that_is_there_stays_unless_asked(predictor, folder, tmp_path):
    out = tmp_path / "out.csv"
    out.write_text("mine")
    with pytest.raises(InputError, match=r"is there already.*--overwrite"):
        predict_to_file(predictor, names_of(folder), out)
    assert out.read_text() == "mine"
    predict_to_file(predictor, names_of(folder), out, overwrite=True)
    assert len(_read(out)) == 7


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("out.xlsx", r"must end in \.csv, \.jsonl, \.parquet, got .*out\.xlsx"),
        ("absent/out.csv", "there is no folder"),
        ("pictures.csv", "is a folder"),
    ],
)
def test_other_files_are_refused(predictor, folder, tmp_path, name, message):
    (tmp_path / "pictures.csv").mkdir()
    with pytest.raises(InputError, match=message):
        predict_to_file(predictor, names_of(folder), tmp_path / name)


def test_only_pictures_with_a_path_have_a_place_in_a_file(folder):
    assert len(names_of([folder, folder / "1.png"])) == 8
    with pytest.raises(InputError, match="pictures that have a path"):
        names_of([folder, np.zeros((4, 4, 3), np.uint8)])
    with pytest.raises(InputError, match="pictures that have a path"):
        names_of(io.BytesIO(b"x").read())


def test_a_picture_named_twice_has_two_rows_and_none_gives_an_empty_table(predictor, folder, tmp_path):
    name = str(folder / "1.png")
    done = []
    assert len(_read(predict_to_file(predictor, [name, name], tmp_path / "twice.csv", advance=done.append).out)) == 2
    assert sum(done) == 2
    assert _read(predict_to_file(predictor, [], tmp_path / "none.parquet").out) == []


def test_whether_an_answer_is_sure_has_a_column(predictor, folder, tmp_path):
    names = names_of(folder)
    expected = [None if one.error else one.scores["cat"] > 0.3 for one in predictor.predict(names)]
    for suffix in (".csv", ".jsonl", ".parquet"):
        out = tmp_path / f"out{suffix}"
        rows = _read(predict_to_file(predictor, names, out, sure=lambda one: one.scores["cat"] > 0.3).out)
        assert [row["sure"] for row in rows] == expected


def test_names_that_are_no_text_are_escaped(predictor, folder, tmp_path):
    name = os.fsencode(folder) + b"/caf\xe9.png"
    try:
        os.link(folder / "1.png", name)
    except OSError:
        pytest.skip("file names must be text here")
    names = [os.fsdecode(name)]
    for suffix in (".csv", ".jsonl", ".parquet"):
        (row,) = _read(predict_to_file(predictor, names, tmp_path / f"out{suffix}").out)
        assert row["error"] is None
        assert row["path"].endswith("caf\\udce9.png") or row["path"] == names[0]


def test_several_labels_have_a_column(tmp_path, folder):
    model = grafted(head=greffon.Head(output="sigmoid"))
    model.get_layer("head_output").bias.assign([5.0, -5.0, 5.0])
    model.get_layer("head_output").kernel.assign(model.get_layer("head_output").kernel * 0)
    several = greffon.load(write_bundle(tmp_path / "run", contents_of(model, several_labels=True)))
    names = [str(folder / "0.png"), str(folder / "5.png")]
    first, broken = _read(predict_to_file(several, names, tmp_path / "out.parquet").out)
    assert (first["labels"], broken["labels"]) == (["cat", "owl 🦉"], [])
    row = _read(predict_to_file(several, names, tmp_path / "out.csv").out)[0]
    assert json.loads(row["labels"]) == ["cat", "owl 🦉"]
    assert math.isclose(row["p_cat"], 1 / (1 + math.exp(-5)), rel_tol=1e-4)
