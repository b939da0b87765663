from __future__ import annotations

import json

import numpy as np
import pytest

from greffon.cli import main
from greffon.evaluation.table import prediction_table

predict = pytest.importorskip("greffon.bundle.predict")
Prediction = predict.Prediction


class Bundle:
    """A run that was right on all but one of 400 validation pictures, and wrong where it was least sure."""

    several_labels = False
    calibration = None

    @property
    def table(self):
        sure = np.linspace(0.5, 1.0, 400)
        labels = ["dog [x]", *["cat"] * 399]
        paths = [f"{n}.jpg" for n in range(400)]
        return prediction_table(paths, [None] * 400, labels, np.stack([sure, 1 - sure], axis=1), ["cat", "dog [x]"])


class Predictor:
    """Names pictures by their file names; those called broken cannot be read."""

    def __init__(self, notes=()) -> None:
        self.notes = list(notes)
        self.asked = None
        self.bundle = Bundle()

    def stream(self, sources, *, top):
        self.asked = (sources, top)
        for source in sources:
            if "broken" in source:
                yield Prediction(source, error="the file is cut off")
            else:
                yield Prediction(source, "cat", 0.75, {"cat": 0.75, "dog [x]": 0.25}, ("cat",))


@pytest.fixture(autouse=True)
def files(monkeypatch, tmp_path):
    """The files that the tests name; what is in them does not matter here."""
    monkeypatch.chdir(tmp_path)
    for name in ("a.jpg", "b.jpg", "both.jpg", "neither.jpg", "broken.jpg"):
        (tmp_path / name).touch()


@pytest.fixture
def predictor(monkeypatch):
    predictor = Predictor()
    monkeypatch.setattr(predict, "load", lambda run: predictor)
    return predictor


def test_a_table_with_the_answers(predictor, capsys):
    assert main(["predict", "run", "a.jpg", "b.jpg", "--top", "2"]) == 0
    assert predictor.asked == (["a.jpg", "b.jpg"], 2)
    out, err = capsys.readouterr()
    assert "a.jpg" in out
    assert "cat 0.750, dog [x] 0.250" in out
    assert err == ""


def test_long_names_are_whole_in_a_pipe(predictor, capsys, tmp_path):
    name = "a long name " * 15 + ".jpg"
    (tmp_path / name).touch()
    assert main(["predict", "run", name]) == 0
    assert name in capsys.readouterr().out


def test_json(predictor, capsys):
    predictor.notes = ["trained on other pictures"]
    assert main(["predict", "run", "a.jpg", "broken.jpg", "--json"]) == 3
    out, err = capsys.readouterr()
    found = json.loads(out)
    assert found["run"] == "run"
    assert found["unreadable"] == 1
    assert found["notes"] == predictor.notes
    assert found["predictions"][0]["label"] == "cat"
    assert found["predictions"][0]["scores"] == {"cat": 0.75, "dog [x]": 0.25}
    assert found["predictions"][1]["error"] == "the file is cut off"
    assert "trained on other pictures" in err


def test_what_cannot_be_read_is_listed_and_the_rest_named_with_exit_3(predictor, capsys):
    assert main(["predict", "run", "a.jpg", "broken.jpg"]) == 3
    out, err = capsys.readouterr()
    assert "broken" not in out
    assert err == "warning: cannot be read: broken.jpg: the file is cut off\n"


def test_nothing_readable_is_exit_3(predictor, capsys, tmp_path):
    names = [f"broken{number}.jpg" for number in range(30)]
    for name in names:
        (tmp_path / name).touch()
    assert main(["predict", "run", *names]) == 3
    err = capsys.readouterr().err
    assert "none of 30 pictures could be read" in err
    assert "broken19.jpg: the file is cut off" in err
    assert "and 10 more" in err


def test_a_folder_shows_progress_on_standard_error(predictor, capsys, tmp_path):
    assert main(["predict", "run", str(tmp_path), "--json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["predictions"][0]["path"] == str(tmp_path)
    assert err.startswith("predict  1 pictures in")


def test_several_labels_and_none(predictor, capsys, monkeypatch):
    answers = [
        Prediction("both.jpg", "cat", 0.9, {"cat": 0.9, "dog": 0.8}, ("cat", "dog")),
        Prediction("neither.jpg", "cat", 0.2, {"cat": 0.2, "dog": 0.1}, ()),
    ]
    monkeypatch.setattr(predictor, "stream", lambda sources, top: iter(answers), raising=False)
    assert main(["predict", "run", "both.jpg", "neither.jpg"]) == 0
    out = capsys.readouterr().out
    assert "cat, dog" in out
    assert "none of them" in out


ANSWERS = [
    Prediction("a.jpg", "cat", 0.95, {"cat": 0.95, "dog [x]": 0.05}, ("cat",)),
    Prediction("b.jpg", "cat", 0.6, {"cat": 0.6, "dog [x]": 0.4}, ("cat",)),
]


def test_below_the_wanted_confidence_it_is_not_sure(predictor, capsys, monkeypatch):
    monkeypatch.setattr(predictor, "stream", lambda sources, top: iter(ANSWERS), raising=False)
    words = ["predict", "run", "a.jpg", "b.jpg", "--top", "1", "--min-confidence", "0.8"]
    assert main(words) == 0
    out, err = capsys.readouterr()
    first, second = out.splitlines()[-2:]
    assert first.split() == ["a.jpg", "cat", "cat", "0.950"]
    assert second.split() == ["b.jpg", "not", "sure", "cat", "0.600"]
    assert "On the validation pictures, with a confidence of at least 0.800: 40.0% of the pictures" in err
    assert main([*words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [one["sure"] for one in found["predictions"]] == [True, False]
    assert found["predictions"][1]["scores"] == {"cat": 0.6}
    assert found["answered"] == 1
    assert found["sure_from"]["min_confidence"] == 0.8
    assert found["sure_from"]["coverage"] == 0.4


def test_a_wanted_error_becomes_a_confidence(predictor, capsys, monkeypatch):
    monkeypatch.setattr(predictor, "stream", lambda sources, top: iter(ANSWERS), raising=False)
    assert main(["predict", "run", "a.jpg", "b.jpg", "--max-error", "0.02", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert 0.5 <= found["sure_from"]["min_confidence"] < 0.6
    assert found["sure_from"]["bound"] <= 0.02
    assert [one["sure"] for one in found["predictions"]] == [True, True]


def test_several_labels_are_as_sure_as_the_least_sure(predictor, capsys, monkeypatch):
    answers = [
        Prediction("a.jpg", "cat", 0.9, {"cat": 0.9, "dog [x]": 0.45}, ("cat",)),
        Prediction("b.jpg", "cat", 0.1, {"cat": 0.1, "dog [x]": 0.1}, ()),
    ]
    monkeypatch.setattr(predictor.bundle, "several_labels", True, raising=False)
    monkeypatch.setattr(predictor, "stream", lambda sources, top: iter(answers), raising=False)
    assert main(["predict", "run", "a.jpg", "b.jpg", "--min-confidence", "0.8"]) == 0
    out = capsys.readouterr().out
    assert "not sure" in out.splitlines()[-2]
    assert "none of them" in out.splitlines()[-1]


def test_the_exit_code_is_in_the_help(capsys):
    assert main(["predict", "--help"]) == 0
    out = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "the others named, and the exit code is 3" in out


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["predict", "run", "a.jpg", "--min-confidence", "80"], "min_confidence must be in 0..1"),
        (["predict", "run", "a.jpg", "--max-error", "0.001"], "it takes at least 2,995 pictures"),
        (["predict", "run", "a.jpg", "--max-error", "0.1", "--min-confidence", "0.8"], "give one of them"),
        (["predict", "run", "a.jpg", "--top", "0"], "--top must be at least 1"),
        (["predict", "run", "a.jpg", "absent.jpg"], "there is no such file or folder:\nabsent.jpg"),
        (["predict", "run"], "greffon predict needs FILES"),
        (["predict"], "greffon predict needs RUN"),
    ],
)
def test_wrong_input(words, text, predictor, capsys):
    assert main(words) == 2
    assert text in capsys.readouterr().err


def test_a_folder_that_is_no_run(capsys, tmp_path):
    assert main(["predict", str(tmp_path), "a.jpg"]) == 2
    assert "manifest.json" in capsys.readouterr().err
