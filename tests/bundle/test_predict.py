from __future__ import annotations

import doctest
import io
import json
import math
import shutil

import numpy as np
import pytest
from made_up_runs import NAMES, SIDE, contents_of, grafted, picture
from PIL import Image

import greffon
from greffon.bundle import predict as predict_module
from greffon.bundle.predict import Prediction, Predictor, load
from greffon.bundle.write import write_bundle
from greffon.errors import DataError, InputError
from greffon.pictures.decode import decode


@pytest.fixture(scope="module")
def predictor(run):
    return greffon.load(run)


@pytest.fixture
def folder(tmp_path):
    """Three pictures in natural order, one in a folder, and files that are none."""
    folder = tmp_path / "pictures"
    (folder / "inner").mkdir(parents=True)
    for name in ("pic10.png", "pic2.jpg", "inner/pic1.png"):
        Image.fromarray(picture(len(name))).save(folder / name, quality=95)
    (folder / ".hidden.png").write_bytes(b"")
    (folder / "readme.txt").write_text("no picture")
    return folder


def _expected(model, *pixels):
    return model.predict(np.stack(pixels).astype(np.float32), verbose=0)


def _close(predictions, expected):
    given = [[prediction.scores[name] for name in NAMES] for prediction in predictions]
    np.testing.assert_allclose(given, expected, atol=1e-4)


def test_files_are_predicted_as_plain_keras_does_on_the_same_pixels(predictor, folder):
    paths = [folder / "pic2.jpg", folder / "inner" / "pic1.png"]
    predictions = predictor.predict(paths)
    _close(predictions, _expected(predictor.keras(), *(decode(path, SIDE, "crop") for path in paths)))
    assert predictor.engine.name == "onnx"
    assert [prediction.path for prediction in predictions] == [str(path) for path in paths]


def test_a_prediction_is_names_and_probabilities(predictor, folder):
    (prediction,) = predictor.predict(str(folder / "pic2.jpg"))
    scores = list(prediction.scores.values())
    assert sorted(prediction.scores) == sorted(NAMES)
    assert scores == sorted(scores, reverse=True)
    assert sum(scores) == pytest.approx(1, abs=1e-5)
    assert (prediction.label, prediction.probability) == next(iter(prediction.scores.items()))
    assert prediction.labels == (prediction.label,)
    assert prediction.error is None
    assert str(prediction).startswith(f"{folder / 'pic2.jpg'}: {prediction.label} 0.")
    assert json.loads(json.dumps(prediction.to_dict()))["scores"] == prediction.scores


def test_top_keeps_the_best(predictor, folder):
    (full,) = predictor.predict(folder / "pic2.jpg")
    (best,) = predictor.predict(folder / "pic2.jpg", top=2)
    assert list(best.scores.items()) == list(full.scores.items())[:2]
    assert best.probability == full.probability


def test_a_folder_is_read_with_its_folders_in_natural_order(predictor, folder):
    names = [prediction.path for prediction in predictor.predict(folder)]
    assert names == [str(folder / name) for name in ("inner/pic1.png", "pic2.jpg", "pic10.png")]


def test_links_in_a_folder_are_followed_but_not_in_circles(predictor, folder, tmp_path):
    shutil.copytree(folder, tmp_path / "elsewhere")
    (folder / "linked").symlink_to(tmp_path / "elsewhere")
    (folder / "circle").symlink_to(folder)
    assert len(predictor.predict(folder)) == 6


def test_every_kind_of_source_gives_the_same(predictor, folder):
    file = folder / "pic10.png"
    image = Image.open(file)
    array = np.asarray(image)
    expected = _expected(predictor.keras(), decode(file, SIDE, "crop"))
    for source in (file, str(file), file.read_bytes(), bytearray(file.read_bytes()), image, array, array[np.newaxis]):
        _close(predictor.predict(source), expected)
        _close(predictor.predict([source]), expected)
    assert predictor.predict(image)[0].path == str(file)
    assert predictor.predict(array)[0].path is None
    _close(predictor.predict(iter([file, array])), np.concatenate([expected, expected]))


def test_arrays_of_the_models_own_size_are_not_resized_and_floats_rounded_as_in_training(predictor):
    batch = np.random.default_rng(0).uniform(0, 255, (3, SIDE, SIDE, 3))
    _close(predictor.predict(batch.astype(np.float32)), _expected(predictor.keras(), *np.rint(batch)))
    whole = batch.astype(np.uint8)
    _close(predictor.predict(whole), _expected(predictor.keras(), *whole))
    _close(predictor.predict(whole.astype(np.int64)), _expected(predictor.keras(), *whole))


def test_tensors_are_arrays(predictor):
    import keras

    whole = np.stack([picture(1, SIDE, SIDE)])
    _close(predictor.predict(keras.ops.convert_to_tensor(whole)), _expected(predictor.keras(), *whole))


def test_float_arrays_of_other_sizes_are_resized(predictor):
    array = picture(3).astype(np.float32)
    _close(predictor.predict(array), _expected(predictor.keras(), decode(Image.fromarray(picture(3)), SIDE, "crop")))


@pytest.mark.parametrize("rule", ["stretch", "pad"])
def test_the_runs_own_resize_rule_is_used(model, tmp_path, rule):
    predictor = load(write_bundle(tmp_path / "run", contents_of(model, resize=rule)))
    image = Image.fromarray(picture(4))
    expected = _expected(model, decode(image, SIDE, rule))
    _close(predictor.predict(image), expected)
    assert np.abs(expected - _expected(model, decode(image, SIDE, "crop"))).max() > 1e-3


def test_a_picture_that_cannot_be_read_has_an_error_and_the_others_go_on(predictor, folder):
    (folder / "empty.jpg").write_bytes(b"")
    good = folder / "pic2.jpg"
    predictions = predictor.predict([good, folder / "empty.jpg", folder / "absent.jpg", b"junk", good], batch_size=2)
    assert [prediction.error for prediction in predictions[::4]] == [None, None]
    assert predictions[0] == predictions[4]
    empty, absent, junk = predictions[1:4]
    assert empty == Prediction(str(folder / "empty.jpg"), error="is empty (0 bytes)")
    assert (empty.label, empty.probability, empty.scores, empty.labels) == (None, None, {}, ())
    assert "no such file" in absent.error
    assert "not a picture" in junk.error
    assert str(empty) == f"{folder / 'empty.jpg'}: is empty (0 bytes)"
    assert str(junk).startswith("picture: ")


def test_probabilities_for_measuring(predictor, folder):
    (folder / "pic3.png").write_bytes(b"")
    rows, errors = predictor.probabilities(folder, batch_size=3)
    assert rows.dtype == np.float32
    assert rows.shape == (4, 3)
    assert [error is None for error in errors] == [True, True, False, True]
    assert np.isnan(rows[2]).all()
    expected = _expected(predictor.keras(), *(decode(folder / n, SIDE, "crop") for n in ("inner/pic1.png", "pic2.jpg")))
    np.testing.assert_allclose(rows[:2], expected, atol=1e-4)


def test_no_pictures_give_no_predictions(predictor):
    assert predictor.predict([]) == []
    assert predictor.predict(np.zeros((0, SIDE, SIDE, 3), np.uint8)) == []
    assert predictor.probabilities([])[0].shape == (0, 3)


@pytest.mark.parametrize("shape", [(2, SIDE, SIDE, 3), (2, 80, 90, 3)])
def test_pictures_divided_by_255_are_refused(predictor, shape):
    scaled = np.random.default_rng(0).uniform(0, 1, shape)
    with pytest.raises(InputError, match=r"divided by 255"):
        predictor.predict(scaled)
    with pytest.raises(InputError, match=r"divided by 255"):
        predictor.predict(list(scaled))
    predictor.predict(scaled * 255)
    predictor.predict(np.zeros(shape, np.uint8))


def test_a_dark_picture_among_others_is_not_refused(predictor):
    black = np.zeros((SIDE, SIDE, 3), np.float32)
    assert len(predictor.predict([np.full_like(black, 90), black, black], batch_size=1)) == 3


@pytest.mark.parametrize(
    ("sources", "message"),
    [
        (7, "got int: 7"),
        ([None], "got NoneType"),
        ([["a.jpg"]], "got list"),
        (np.zeros((4, 4), np.uint8), r"\(height, width, 3\).*got \(4, 4\)"),
        (np.zeros((3, 64, 64), np.uint8), r"got \(3, 64, 64\)"),
        (np.zeros((4, 4, 3), bool), "whole numbers or floats, got bool"),
        (np.full((4, 4, 3), -120.0), r"values 0\.\.255, got -120"),
        (np.full((4, 4, 3), 3000), r"got 3000\.\.3000"),
        (np.full((4, 4, 3), math.nan), "got nan"),
    ],
)
def test_what_is_no_picture_is_refused(predictor, sources, message):
    with pytest.raises(InputError, match=message):
        predictor.predict(sources)


def test_an_empty_folder_and_wrong_options_are_refused(predictor, tmp_path):
    (tmp_path / "none").mkdir()
    with pytest.raises(InputError, match="holds no picture"):
        predictor.predict(tmp_path / "none")
    with pytest.raises(InputError, match="top must be at least 1"):
        predictor.predict([], top=0)
    with pytest.raises(InputError, match="batch_size must be at least 1"):
        predictor.predict([], batch_size=0)


def test_many_pictures_come_one_by_one_without_being_read_first(predictor, folder):
    read = []

    def endless():
        while True:
            read.append(None)
            yield folder / "pic10.png"

    stream = predictor.stream(endless(), batch_size=2)
    assert next(stream).error is None
    assert len(read) < 200
    stream.close()


def test_several_labels(tmp_path):
    model = grafted(head=greffon.Head(output="sigmoid"))
    bias = model.get_layer("head_output").bias
    bias.assign([5.0, -5.0, 5.0])
    model.get_layer("head_output").kernel.assign(model.get_layer("head_output").kernel * 0)
    run = write_bundle(tmp_path / "run", contents_of(model, several_labels=True))
    (prediction,) = load(run).predict(picture(0))
    assert prediction.labels == ("cat", "owl 🦉")
    assert prediction.label == "cat"
    bias.assign([-5.0, -5.0, -5.0])
    (nothing,) = load(write_bundle(tmp_path / "none", contents_of(model, several_labels=True))).predict(picture(0))
    assert nothing.labels == ()
    assert nothing.label == "cat"


def test_a_model_that_the_emitter_does_not_know_runs_on_keras(tmp_path):
    import keras

    @keras.saving.register_keras_serializable("test_predict")
    class Softmaxed(keras.layers.Layer):
        def build(self, shape):
            self.kernel = self.add_weight(shape=(shape[-1], 3), name="kernel")

        def call(self, x):
            return keras.ops.softmax(keras.ops.matmul(x, self.kernel))

    model = grafted(head=greffon.Head(layer=Softmaxed(name="own")))
    predictor = load(write_bundle(tmp_path / "run", contents_of(model)), custom_objects={"Softmaxed": Softmaxed})
    pixels = [picture(seed, SIDE, SIDE) for seed in range(3)]
    _close(predictor.predict(pixels, batch_size=2), _expected(model, *pixels))
    assert predictor.engine.name == "keras"
    assert any("Softmaxed" in note for note in predictor.bundle.notes)


def test_a_model_that_gives_no_numbers_says_so(tmp_path):
    model = grafted()
    model.get_layer("head_output").bias.assign([math.nan, 0, 0])
    with pytest.raises(DataError, match="diverged"):
        load(write_bundle(tmp_path / "run", contents_of(model))).predict(picture(0))


def test_another_decoder_than_in_training_is_noted(run, predictor, monkeypatch):
    assert predictor.notes == []
    monkeypatch.setattr("greffon.pictures.decode.DECODER_VERSION", "99")
    assert any("has decoder 99" in note for note in predictor.notes)


def test_it_says_what_it_is(predictor, run):
    assert repr(predictor) == f"<greffon.Predictor {run}: 3 classes (cat, dog, owl 🦉)>"
    assert predictor.class_names == tuple(NAMES)


def test_the_examples_run(run, tmp_path, monkeypatch):
    (tmp_path / "photos").mkdir()
    Image.fromarray(picture(0)).save(tmp_path / "photos" / "cat.jpg")
    shutil.copytree(run, tmp_path / "runs" / "first")
    monkeypatch.chdir(tmp_path)
    tried = 0
    for thing in (Predictor.predict, Predictor.probabilities, load):
        text = thing.__doc__.replace("  # doctest: +SKIP", "")
        example = doctest.DocTestParser().get_doctest(text, {}, thing.__name__, None, None)
        results = io.StringIO()
        # What the numbers are is the run's matter; that the lines work is what is tested.
        doctest.DocTestRunner(checker=_AnyAnswer()).run(example, out=results.write)
        assert results.getvalue() == ""
        tried += len(example.examples)
    assert tried == 7
    assert predict_module.__all__


class _AnyAnswer(doctest.OutputChecker):
    def check_output(self, want, got, optionflags):
        return bool(want) == bool(got) and "Error" not in got
