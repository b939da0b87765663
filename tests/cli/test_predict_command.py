from __future__ import annotations

import json

import pytest

from greffon.cli import main

predict = pytest.importorskip("greffon.bundle.predict")
Prediction = predict.Prediction


class Predictor:
    """Names pictures by their file names; those called broken cannot be read."""

    def __init__(self, notes=()) -> None:
        self.notes = list(notes)
        self.asked = None

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
    assert main(["predict", "run", "a.jpg", "broken.jpg", "--json"]) == 0
    out, err = capsys.readouterr()
    found = json.loads(out)
    assert found["run"] == "run"
    assert found["unreadable"] == 1
    assert found["notes"] == predictor.notes
    assert found["predictions"][0]["label"] == "cat"
    assert found["predictions"][0]["scores"] == {"cat": 0.75, "dog [x]": 0.25}
    assert found["predictions"][1]["error"] == "the file is cut off"
    assert "trained on other pictures" in err


def test_what_cannot_be_read_is_listed_and_the_rest_named(predictor, capsys):
    assert main(["predict", "run", "a.jpg", "broken.jpg"]) == 0
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


@pytest.mark.parametrize(
    ("words", "text"),
    [
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
