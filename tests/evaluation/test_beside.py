"""What stands beside a run's numbers, on a small run with random weights."""

from __future__ import annotations

import json

import numpy as np
import polars as pl
import pytest
from made_up_runs import NAMES, contents_of, grafted, picture
from PIL import Image
from rich.console import Console

import greffon
from greffon.bundle.predict import load
from greffon.bundle.write import write_bundle
from greffon.errors import DataError, InputError
from greffon.evaluation.answers import calibration_of, name_pictures, validation_answers, wanted_confidence
from greffon.evaluation.baselines import baselines, majority
from greffon.evaluation.beside import Pictures, folds_beside, has_learned_features
from greffon.evaluation.calibration import Calibration
from greffon.evaluation.evaluate import evaluate
from greffon.evaluation.table import prediction_table, probabilities_of
from greffon.pictures.catalog import Catalog

COPIES = 6
COLOURS = ((200, 40, 40), (40, 200, 40), (40, 40, 200))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Six pictures of each class, which colour alone tells apart."""
    folder = tmp_path_factory.mktemp("pictures")
    for name, colour in zip(NAMES, COLOURS, strict=True):
        (folder / name).mkdir()
        for copy in range(COPIES):
            pixels = picture(COPIES * NAMES.index(name) + copy) // 4 + np.array(colour, np.uint8) // 2
            Image.fromarray(pixels).save(folder / name / f"{copy}.png")
    return folder


@pytest.fixture(scope="module")
def hashes(data):
    return dict(Catalog.from_folder(data, to="evaluate").ok.select("path", "hash").iter_rows())


@pytest.fixture(scope="module")
def contents(hashes):
    """Of a run that was trained on the first three pictures of each class, and validated on the fourth."""
    sides = [[hashes[f"{name}/{copy}.png"] for name in NAMES for copy in part] for part in (range(3), [3])]
    split = pl.DataFrame(
        [
            (path, hashes[path], path.split("/")[0], side)
            for side, part in zip(("train", "val"), sides, strict=True)
            for path in hashes
            if hashes[path] in part
        ],
        schema=["path", "hash", "label", "split"],
        orient="row",
    )
    return {"model": grafted(), "train_hashes": sides[0], "validation_hashes": sides[1], "split": split}


@pytest.fixture(scope="module")
def run(tmp_path_factory, contents):
    return write_bundle(tmp_path_factory.mktemp("runs") / "run", contents_of(**contents))


@pytest.fixture(scope="module")
def predictor(run):
    return load(run)


def test_features_come_in_the_same_pass_and_are_those_of_the_pooled_layer(predictor, data, hashes):
    import keras

    from greffon.pictures.decode import decode

    files = [data / path for path in hashes]
    told = []
    named = name_pictures(predictor, [*files, data / "absent.png"], features=True, advance=told.append)
    plain, errors = predictor.probabilities(files)
    np.testing.assert_allclose(named.probabilities[:-1], plain, atol=1e-6)
    assert named.errors == [*errors, "there is no such file"]
    assert np.isnan(named.features[-1]).all()
    assert sum(told) == len(files) + 1
    model = predictor.keras()
    pixels = np.stack([decode(file, 64, "crop") for file in files]).astype(np.float32)
    expected = keras.Model(model.input, model.get_layer("head_pool").output).predict(pixels, verbose=0)
    np.testing.assert_allclose(named.features[:-1], expected, rtol=1e-3, atol=1e-4)
    assert name_pictures(predictor, files).features is None


def test_baselines_learn_from_the_pictures_that_the_run_knows_and_are_measured_on_the_new_ones(predictor, data, hashes):
    found = evaluate(predictor, data)
    assert found.measures.count == 6
    assert [row.name for row in found.baselines.rows] == [
        "majority class",
        "nearest neighbour",
        "linear head",
        "this run",
    ]
    assert {row.count for row in found.baselines.rows} == {6}
    assert found.baselines.rows[-1].accuracy == found.measures.accuracy
    paths = list(hashes)
    features = name_pictures(predictor, [data / path for path in paths], features=True).features
    targets = np.array([[path.split("/")[0] == name for name in NAMES] for path in paths], float)
    train = np.array([path[-5] in "012" for path in paths])
    new = np.array([path[-5] in "45" for path in paths])
    expected = baselines(features[train], targets[train], features[new], targets[new])
    assert [row.accuracy for row in found.baselines.rows[:3]] == [row.accuracy for row in expected.rows]
    assert found.baselines.rows[2].log_loss == pytest.approx(expected.rows[2].log_loss, rel=1e-3)
    assert found.baselines.rows[1].accuracy > 0.8  # the colours are far apart
    assert any("features of the run's own network" in note for note in found.notes)
    console = Console(width=150, record=True)
    console.print(found)
    for shown in (str(found), console.export_text(), found._repr_html_()):
        assert "nearest neighbour" in shown
    assert json.loads(json.dumps(found.to_dict()))["baselines"]["probe"]["count"] == 6


def test_without_pictures_that_the_run_knows_only_the_largest_class_is_compared(predictor, data, tmp_path):
    for name in NAMES:
        (tmp_path / name).mkdir()
        (tmp_path / name / "5.png").write_bytes((data / name / "5.png").read_bytes())
    found = evaluate(predictor, tmp_path)
    assert [row.name for row in found.baselines.rows] == ["majority class", "this run"]
    assert found.baselines.rows[0] == majority(np.repeat(np.eye(3), 3, axis=0), np.eye(3))
    assert evaluate(predictor, tmp_path, baselines=False).baselines is None


def test_training_pictures_on_another_side_are_taken_when_asked_for(predictor, data, tmp_path):
    for side, copies in (("train", range(4)), ("test", [4, 5])):
        for name in NAMES:
            (tmp_path / side / name).mkdir(parents=True)
            for copy in copies:
                content = (data / name / f"{copy}.png").read_bytes()
                (tmp_path / side / name / f"{copy}.png").write_bytes(content)
    (tmp_path / "train" / NAMES[0] / "0.png").unlink()
    found = evaluate(predictor, tmp_path)
    assert [row.name for row in found.baselines.rows] == ["majority class", "this run"]
    found = evaluate(predictor, tmp_path, baselines=True)
    assert len(found.baselines.rows) == 4
    assert any("The baselines know 8 of the 9 pictures" in note for note in found.notes)
    assert found.measures.count == 6


def test_where_all_are_known_those_that_were_not_learned_from_are_compared(predictor, data, tmp_path):
    for name in NAMES:
        (tmp_path / name).mkdir()
        for copy in range(4):
            (tmp_path / name / f"{copy}.png").write_bytes((data / name / f"{copy}.png").read_bytes())
    found = evaluate(predictor, tmp_path)
    assert not found.is_test
    assert found.measures.to_dict() == found.known["val"].to_dict()
    assert [row.count for row in found.baselines.rows] == [3, 3, 3, 3]
    assert found.baselines.rows[-1].name == "this run (val)"
    assert found.baselines.rows[-1].accuracy == found.known["val"].accuracy
    assert found.folds is None  # its features know them
    lines = str(found).splitlines()
    assert lines[0] == "This is no test: the run knows all of these pictures."
    chosen = "the epoch, the learning rate and whether a stage is kept"
    assert lines[1] == f"The 3 that it held out to choose {chosen}, which flatters it a little:"
    assert lines[2] == found.measures.headline()
    assert any("9 of the 12 pictures are ones that the run was trained on" in note for note in found.notes)
    folded = evaluate(predictor, tmp_path, folds=2)
    assert str(folded).splitlines()[:3] == lines[:3]
    assert f"flattered, as the network has learned from 9 of these 12 pictures: {folded.folds}" in str(folded)


def test_folds_lead_where_only_the_head_has_learned(contents, data, tmp_path):
    stages = [greffon.Stage(name="probe", optimizer="lbfgs"), greffon.Stage(name="block", unfreeze="conv5_block1")]
    recipe = greffon.Recipe(weights="thin", image_size=64, stages=stages)
    record = {"stages": [{"name": "probe"}, {"name": "block", "kept": False}]}
    run = load(write_bundle(tmp_path / "run", contents_of(**contents, recipe=recipe, record=record)))
    for name in NAMES:
        (tmp_path / "data" / name).mkdir(parents=True)
        for copy in range(4):
            (tmp_path / "data" / name / f"{copy}.png").write_bytes((data / name / f"{copy}.png").read_bytes())
    found = evaluate(run, tmp_path / "data")
    assert (found.folds.count, found.folds.folds, found.about_folds) == (12, 4, "")
    assert str(found).splitlines()[1] == f"{found.folds}; the features have learned nothing of them"
    assert str(found).count(str(found.folds)) == 1
    kept = {"stages": [{"name": "probe"}, {"name": "block", "kept": True}]}
    assert not has_learned_features(run.bundle)
    run.bundle.__dict__["record"] = kept
    assert has_learned_features(run.bundle)


def test_folds_over_all_pictures(predictor, data):
    found = evaluate(predictor, data, folds=3)
    assert (found.folds.folds, found.folds.repeats, found.folds.count) == (3, 3, 18)
    assert found.folds.accuracy > 0.8
    assert str(found.folds) in str(found)
    said = "flattered, as the network has learned from 9 of these 18 pictures"
    assert found.about_folds == found.to_dict()["about_folds"] == said
    assert f"{said}: {found.folds}" in str(found)
    assert found.to_dict()["folds"]["count"] == 18
    few = evaluate(predictor, data, folds=10)
    assert few.folds.folds == 6
    assert any("6 folds instead of 10" in note for note in few.notes)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"folds": 1}, "folds must be at least 2"),
        ({"min_confidence": 0.5, "max_error": 0.5}, "give one of them"),
        ({"min_confidence": 1.5}, "min_confidence must be in"),
        ({"max_error": 0.02}, "cannot be promised from 3 labelled pictures"),
    ],
)
def test_options_are_checked_before_the_work(predictor, data, options, text, monkeypatch):
    monkeypatch.setattr(greffon.evaluation.evaluate, "_labelled", None)
    with pytest.raises(InputError, match=text):
        evaluate(predictor, data, **options)


def test_copies_and_groups_are_in_one_fold():
    rows = pl.DataFrame({"hash": ["a", "b", "a", "c", "d"], "group": ["", "g", "", "g", ""]})
    nothing = pl.Series([None] * 5, dtype=pl.String)
    pictures = Pictures(rows, np.eye(2)[[0, 1, 0, 1, 0]], nothing, None)
    first, second, third, fourth, fifth = pictures.groups
    assert first == third
    assert second == fourth
    assert len({first, second, fifth}) == 3
    assert len(set(Pictures(rows.drop("group"), pictures.targets, nothing, None).groups)) == 4


def test_a_class_with_one_picture_has_no_folds(predictor, data, tmp_path):
    for name in NAMES:
        (tmp_path / name).mkdir()
        (tmp_path / name / "5.png").write_bytes((data / name / "5.png").read_bytes())
    with pytest.raises(DataError, match="at least two pictures of every class"):
        evaluate(predictor, tmp_path, folds=3)


def test_answering_only_where_it_is_sure(predictor, data):
    found = evaluate(predictor, data, min_confidence=0.4, baselines=False)
    sure = found.table.filter(pl.col("known").is_null())["probability"] >= 0.4
    assert (found.selected.count, found.selected.answered) == (6, sure.sum())
    assert str(found.selected) in str(found)
    assert found.risk_coverage[-1]["coverage"] == 1.0
    assert sum(one.count for one in found.reliability) == 6
    assert len(found.to_dict()["reliability"]) == 15
    assert json.loads(json.dumps(found.to_dict()))["selected"]["min_confidence"] == 0.4
    assert any("On the validation pictures, with a confidence of at least 0.400" in note for note in found.notes)


@pytest.fixture(scope="module")
def calibrated(tmp_path_factory):
    """A run that is twice as sure as it should be, with 300 validation pictures and a calibration."""
    random = np.random.default_rng(0)
    p = random.dirichlet([0.5] * 3, 300)
    names = [f"{n}.png" for n in range(300)]
    labels = [NAMES[n] for n in p.argmax(axis=1)]
    labels[:30] = [NAMES[0]] * 30
    table = prediction_table(names, names, labels, p, NAMES)
    contents = contents_of(grafted(), validation=table, calibration=Calibration(2.0, "validation", 300))
    return write_bundle(tmp_path_factory.mktemp("calibrated") / "run", contents), p


def test_a_runs_calibration_is_applied(calibrated, data):
    run, p = calibrated
    predictor = load(run)
    assert calibration_of(predictor.bundle).temperature == 2.0
    expected = Calibration(2.0).apply(p.astype(np.float32))
    answers = validation_answers(predictor.bundle)
    np.testing.assert_allclose(np.sort(answers.confidence), np.sort(expected.max(axis=1)), atol=1e-6)
    files = [data / NAMES[0] / f"{copy}.png" for copy in range(3)]
    named = name_pictures(predictor, files, features=True)
    pixels = np.stack([greffon.pictures.decode.decode(file, 64, "crop") for file in files]).astype(np.float32)
    raw = predictor.keras().predict(pixels, verbose=0)
    np.testing.assert_allclose(named.probabilities, Calibration(2.0).apply(raw), atol=1e-4)
    plain = name_pictures(predictor, files)
    np.testing.assert_allclose(plain.probabilities, named.probabilities, atol=1e-6)
    assert plain.features is None
    predicted = [[one.scores[name] for name in NAMES] for one in predictor.predict(list(map(str, files)))]
    np.testing.assert_allclose(predicted, named.probabilities, atol=1e-6)
    found = evaluate(predictor, data, folds=2)
    assert any("Probabilities are calibrated: temperature 2.000" in note for note in found.notes)
    table = found.table.filter(pl.col("path").is_in([f"{NAMES[0]}/{copy}.png" for copy in range(3)]))
    np.testing.assert_allclose(probabilities_of(table), Calibration(2.0).apply(raw), atol=1e-4)


def test_a_wanted_error_is_looked_up_on_the_validation_pictures(calibrated):
    bundle = load(calibrated[0]).bundle
    found = wanted_confidence(bundle, max_error=0.3)
    assert found.bound <= 0.3
    assert found.count == 300
    assert wanted_confidence(bundle) is None
    assert wanted_confidence(bundle, min_confidence=0.0).coverage == 1.0


def test_a_run_without_a_calibration_is_taken_as_it_is(predictor):
    assert calibration_of(predictor.bundle) == Calibration()


def test_a_network_without_pooled_features_has_no_folds(tmp_path, data, hashes):
    import keras

    inputs = keras.Input((64, 64, 3))
    x = keras.layers.Conv2D(3, 64, padding="valid")(inputs)
    outputs = keras.layers.Activation("softmax")(keras.layers.Reshape((3,))(x))
    # The reshaped logits are the only row of features that there is.
    run = write_bundle(tmp_path / "run", contents_of(keras.Model(inputs, outputs)))
    found = evaluate(run, data, folds=2)
    assert found.folds.count == 18
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(3, 3)(inputs))
    model = keras.Model(inputs, keras.layers.Softmax()(x))
    assert name_pictures(load(write_bundle(tmp_path / "two", contents_of(model))), [], features=True).errors == []


def test_folds_note_nothing_where_nothing_is_known():
    random = np.random.default_rng(0)
    targets = np.eye(2)[np.arange(20) % 2]
    rows = pl.DataFrame({"hash": [str(n) for n in range(20)]})
    pictures = Pictures(rows, targets, pl.Series([None] * 20, dtype=pl.String), random.normal(size=(20, 4)))
    bundle = type("Bundle", (), {"several_labels": False})()
    found, about, notes = folds_beside(bundle, pictures, 2, repeats=1)
    assert (found.count, about, notes) == (20, "", [])


def test_of_many_training_pictures_a_head_is_solved_only_when_asked_for(predictor, data, monkeypatch):
    for place in ("beside", "evaluate"):
        monkeypatch.setattr(f"greffon.evaluation.{place}.MOST_UNASKED", 8)
    assert len(evaluate(predictor, data).baselines.rows) == 2
    assert len(evaluate(predictor, data, baselines=True).baselines.rows) == 4
