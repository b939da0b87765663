from __future__ import annotations

import doctest
import io
import json
import re
import shutil
from contextlib import contextmanager

import numpy as np
import polars as pl
import pytest
import xxhash
from made_up_runs import NAMES, SIDE, contents_of, grafted, picture
from PIL import Image
from rich.console import Console

import greffon
from greffon.bundle.predict import load
from greffon.bundle.write import write_bundle
from greffon.errors import DataError, InputError
from greffon.evaluation.evaluate import evaluate
from greffon.evaluation.measures import measure
from greffon.evaluation.table import class_names_of, probabilities_of, read_table
from greffon.pictures.decode import decode


def _save(file, seed):
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture(seed)).save(file)
    return xxhash.xxh3_128_hexdigest(file.read_bytes())


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Two pictures of each class."""
    folder = tmp_path_factory.mktemp("pictures")
    for number, name in enumerate(NAMES):
        for copy in range(2):
            _save(folder / name / f"{copy}.png", seed=2 * number + copy)
    return folder


@pytest.fixture
def own_data(data, tmp_path):
    """The same pictures, to be changed."""
    return shutil.copytree(data, tmp_path / "own")


@pytest.fixture(scope="module")
def hashes(data):
    return {
        path.relative_to(data).as_posix(): xxhash.xxh3_128_hexdigest(path.read_bytes())
        for path in sorted(data.rglob("*.png"))
    }


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Makes a run of one model that knows the pictures with these hashes."""
    model, folder = grafted(), tmp_path_factory.mktemp("runs")

    def make(name="unknowing", train=("h1",), validation=("h2",)):
        place = folder / name
        if not place.exists():
            write_bundle(place, contents_of(model, train_hashes=train, validation_hashes=validation))
        return place

    return make


@pytest.fixture(scope="module")
def predictor(runs):
    return load(runs())


def test_the_table_holds_what_plain_keras_answers(predictor, data, hashes):
    found = evaluate(predictor, data)
    table = found.table
    assert table["path"].to_list() == sorted(hashes)
    assert table["hash"].to_list() == [hashes[path] for path in table["path"]]
    assert table["label"].to_list() == [path.split("/")[0] for path in table["path"]]
    assert class_names_of(table) == NAMES
    pixels = np.stack([decode(data / path, SIDE, "crop") for path in table["path"]]).astype(np.float32)
    np.testing.assert_allclose(probabilities_of(table), predictor.keras().predict(pixels, verbose=0), atol=1e-4)
    assert found.measures.to_dict() == measure(table).to_dict()
    assert (found.measures.count, found.side, found.unreadable) == (6, "all", ())
    assert found.is_test
    assert found.known == {}
    assert table["known"].null_count() == 6


def test_a_runs_folder_is_opened(runs, data):
    assert evaluate(runs(), str(data)).measures.count == 6
    with pytest.raises(InputError, match="is no run"):
        evaluate(data, data)


def test_pictures_that_the_run_knows_are_measured_apart(runs, data, hashes):
    cat0, cat1, dog0 = (hashes[path] for path in ("cat/0.png", "cat/1.png", "dog/0.png"))
    found = evaluate(runs("knowing", train=(cat0, cat1, "other"), validation=(dog0, cat1)), data)
    assert found.is_test
    assert found.measures.count == 3
    # cat/1 is on both sides: it was trained on.
    assert {name: measures.count for name, measures in found.known.items()} == {"train": 2, "val": 1}
    assert dict(found.table.select("path", "known").iter_rows()) == {
        "cat/0.png": "train",
        "cat/1.png": "train",
        "dog/0.png": "val",
        "dog/1.png": None,
        f"{NAMES[2]}/0.png": None,
        f"{NAMES[2]}/1.png": None,
    }
    new = found.table.filter(pl.col("known").is_null())
    assert found.measures.to_dict() == measure(new).to_dict()
    for name, what in (
        ("train", "2 of the 6 .* was trained on"),
        ("val", "1 of the 6 .* held out to choose the epoch, "),
    ):
        assert found.known[name].to_dict() == measure(found.table.filter(pl.col("known") == name)).to_dict()
        (note,) = (note for note in found.notes if re.search(what, note))
        assert found.known[name].headline() in note
    values = json.loads(json.dumps(found.to_dict()))
    assert values["known"]["train"]["count"] == 2
    assert values["is_test"] is True


def test_an_evaluation_on_training_pictures_does_not_look_like_a_test(runs, data, hashes):
    found = evaluate(runs("trained", train=tuple(hashes.values())), data)
    assert not found.is_test
    assert found.measures.count == 6
    assert found.to_dict()["is_test"] is False
    console = Console(width=120, record=True)
    console.print(found)
    for shown in (str(found), console.export_text(), found._repr_html_()):
        assert "This is no test: the run knows all of these pictures" in shown
        assert found.measures.headline() in shown
        assert "6 of the 6 pictures are ones that the run was trained on" in shown


def test_pictures_are_known_by_their_content_not_their_names(runs, own_data, hashes):
    (own_data / "dog" / "0.png").rename(own_data / "dog" / "renamed.png")
    found = evaluate(runs("by-content", train=(hashes["dog/0.png"],)), own_data)
    assert found.table.filter(pl.col("known") == "train")["path"].to_list() == ["dog/renamed.png"]


def test_other_class_names_are_refused(predictor, own_data):
    (own_data / "cat").rename(own_data / "cats")
    with pytest.raises(DataError, match="not known to the model: 'cats'; did you mean 'cat'"):
        evaluate(predictor, own_data)
    with pytest.raises(DataError, match="'cats'"):
        evaluate(predictor, own_data, allow_missing=True)


def test_classes_are_matched_by_name_whatever_their_order(tmp_path, data):
    names = [NAMES[2], "cat", "dog"]  # no order that folders would be listed in
    model = grafted()
    turned = evaluate(write_bundle(tmp_path / "run", contents_of(model, names=names)), data)
    pixels = np.stack([decode(data / path, SIDE, "crop") for path in turned.table["path"]]).astype(np.float32)
    expected = model.predict(pixels, verbose=0)
    assert class_names_of(turned.table) == names
    np.testing.assert_allclose(probabilities_of(turned.table), expected, atol=1e-4)
    assert turned.table["predicted"].to_list() == [names[column] for column in expected.argmax(axis=1)]


def test_a_missing_class_is_refused_unless_allowed(predictor, own_data):
    shutil.rmtree(own_data / "dog")
    with pytest.raises(DataError, match="without a folder: 'dog'"):
        evaluate(predictor, own_data)
    found = evaluate(predictor, own_data, allow_missing=True)
    assert found.measures.per_class["dog"].recall is None
    assert any("no picture of 'dog'" in note for note in found.notes)


def test_test_is_taken_where_it_is_there(predictor, data, tmp_path):
    for side, copies in (("train", 2), ("val", 1)):
        for name in NAMES:
            for copy in range(copies):
                target = tmp_path / "data" / side / name / f"{copy}.png"
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(data / name / f"{copy}.png", target)
    found = evaluate(predictor, tmp_path / "data")
    assert (found.side, found.measures.count) == ("val", 3)
    shutil.copytree(tmp_path / "data" / "val", tmp_path / "data" / "test")
    (tmp_path / "data" / "test" / "cat" / "0.png").unlink()
    _save(tmp_path / "data" / "test" / "cat" / "new.png", seed=99)
    found = evaluate(predictor, tmp_path / "data")
    assert (found.side, found.measures.count) == ("test", 3)
    assert any("Measured on test/" in note for note in found.notes)
    assert "test/cat/new.png" in found.table["path"].to_list()
    assert evaluate(predictor, tmp_path / "data", side="all").measures.count == 12
    assert evaluate(predictor, tmp_path / "data", side="train").measures.count == 6


def test_a_side_that_is_not_there_is_refused(predictor, data):
    with pytest.raises(InputError, match=r"side='test': .* it has class folders only"):
        evaluate(predictor, data, side="test")


def test_unreadable_pictures_are_listed_and_left_out(predictor, own_data):
    (own_data / "cat" / "2.png").write_bytes(b"")
    (own_data / "dog" / "0.png").write_bytes((own_data / "dog" / "0.png").read_bytes()[:100])
    found = evaluate(predictor, own_data)
    assert found.measures.count == 5
    assert [path for path, _ in found.unreadable] == ["cat/2.png", "dog/0.png"]
    assert any("2 pictures cannot be read and are left out:\n  cat/2.png: is empty" in note for note in found.notes)


def test_pictures_that_go_bad_after_the_scan_are_left_out_too(predictor, own_data, monkeypatch):
    from greffon.pictures.catalog import Catalog

    read = Catalog.from_folder

    def spoiling(*args, **options):
        catalog = read(*args, **options)
        (own_data / "dog" / "1.png").unlink()
        return catalog

    monkeypatch.setattr(Catalog, "from_folder", spoiling)
    found = evaluate(predictor, own_data)
    assert found.measures.count == 5
    assert found.unreadable == (("dog/1.png", "there is no such file"),)


def test_nothing_to_read_is_an_error(predictor, tmp_path):
    for name in NAMES:
        (tmp_path / name).mkdir()
        (tmp_path / name / "bad.png").write_bytes(b"")
    with pytest.raises(DataError, match="no picture that can be read"):
        evaluate(predictor, tmp_path)


def test_the_table_is_written(predictor, data, tmp_path):
    found = evaluate(predictor, data, out=tmp_path / "answers.parquet")
    assert read_table(tmp_path / "answers.parquet").equals(found.table)


def test_a_file_that_cannot_be_written_is_refused_before_the_work(predictor, data, tmp_path, monkeypatch):
    monkeypatch.setattr(type(predictor), "probabilities", None)
    for out in (tmp_path / "answers.xlsx", tmp_path / "absent" / "answers.parquet"):
        with pytest.raises(InputError, match=r"out must be a \.parquet file in a folder that is there"):
            evaluate(predictor, data, out=out)


def test_progress_is_told(predictor, data):
    told = {}

    class Bars:
        @contextmanager
        def bar(self, name, *, total):
            told[name, total] = 0

            def advance(more):
                told[name, total] += more

            yield advance

    evaluate(predictor, data, progress=Bars())
    assert told["evaluate", 6] == 6
    assert ("reading pictures", None) in told


def test_several_labels(tmp_path, data):
    model = grafted(head=greffon.Head(output="sigmoid"))
    found = evaluate(write_bundle(tmp_path / "run", contents_of(model, several_labels=True)), data)
    assert found.table["label"].to_list()[0] == ["cat"]
    assert found.measures.confusion is None
    assert found.measures.count == 6


def test_the_example_runs(runs, data, tmp_path, monkeypatch):
    shutil.copytree(runs(), tmp_path / "runs" / "first")
    shutil.copytree(data, tmp_path / "photos")
    monkeypatch.chdir(tmp_path)
    text = evaluate.__doc__.replace("  # doctest: +SKIP", "")
    example = doctest.DocTestParser().get_doctest(text, {}, "evaluate", None, None)
    results = io.StringIO()
    doctest.DocTestRunner(checker=_AnyNumber()).run(example, out=results.write)
    assert results.getvalue() == ""
    assert len(example.examples) == 3


class _AnyNumber(doctest.OutputChecker):
    def check_output(self, want, got, optionflags):
        return want == got or (want.startswith("(0.") and got.startswith("(") and got.endswith(", True)\n"))
