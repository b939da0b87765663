"""Why an answer: the map is Keras' own, the nearest pictures are the nearest, and limits hold."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from made_up_service import picture

import greffon
from greffon.bundle.neighbours import Neighbours
from greffon.bundle.onnx_form import keras_answers, onnx_form
from greffon.bundle.runner import OnnxRunner
from greffon.reporting.explain import Explainer
from greffon.serving.looking import MOST_PICTURES, Looker

_spec = importlib.util.spec_from_file_location("made_up_runs", Path(__file__).parents[1] / "bundle" / "made_up_runs.py")
made_up_runs = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(made_up_runs)

NAMES = ("cat", "dog", "owl")
PICTURES = np.random.default_rng(3).integers(0, 256, (4, made_up_runs.SIDE, made_up_runs.SIDE, 3), np.uint8)


def engine_of(head):
    model = made_up_runs.grafted(head=head, seed=4)
    content, why_not = onnx_form(model, NAMES, PICTURES, keras_answers(model, PICTURES))
    assert content is not None, why_not
    return model, OnnxRunner(content, threads=1)


@pytest.mark.parametrize(
    "head",
    [
        greffon.Head(),
        greffon.Head(pool="max", output="sigmoid"),
        greffon.Head(pool="grid2"),
        greffon.Head(pool="flatten", hidden=8),
    ],
    ids=lambda head: head.pool,
)
def test_the_map_is_what_gradients_give(head):
    model, engine = engine_of(head)
    looker = Looker(engine, NAMES, None)
    explainer = Explainer(model)
    features = explainer.features(PICTURES)
    assert looker.has_map
    most = []
    for column in range(len(NAMES)):
        expected = explainer.maps(features, [column] * len(PICTURES))
        looks = [looker.look(pixels, column) for pixels in PICTURES]
        assert np.allclose([look.map for look in looks], expected, rtol=0, atol=1e-3)
        assert {look.label for look in looks} == {NAMES[column]}
        assert {look.nearest for look in looks} == {()}
        most.append(expected.max())
    assert 1 in most  # not all of them are empty


def test_a_head_without_a_closed_form_has_no_map_and_the_nearest_pictures_are_the_nearest():
    _, engine = engine_of(greffon.Head(hidden=8, activation="tanh"))
    (features,) = engine.run([PICTURES], wanted=["features"])
    lengths = np.linalg.norm(features, axis=1, keepdims=True)
    targets = np.array([[True, False, False], [False, True, True], [False, False, True], [False, False, False]])
    known = Neighbours(features / lengths, targets, tuple("abcd"), (b"a", b"b", b"c", b"d"))
    looker = Looker(engine, NAMES, known)
    assert (looker.has_map, looker.has_nearest) == (False, True)
    look = looker.look(PICTURES[1], 0)
    assert look.map is None
    assert look.nearest[0].labels == ("dog", "owl")
    assert look.nearest[0].similarity == pytest.approx(1, abs=1e-3)
    assert look.nearest[0].thumbnail == b"b"
    similar = [one.similarity for one in look.nearest]
    assert similar == sorted(similar, reverse=True)
    assert look.to_dict()["nearest"][0]["thumbnail"] == "data:image/jpeg;base64,Yg=="
    other_size = Neighbours(np.ones((1, 2), np.float32), targets[:1], ("a",), (b"a",))
    assert Looker(engine, NAMES, other_size).look(PICTURES[0], 0).nearest == ()


def ask(client, count=1, words="?explain=true"):
    files = [("files", (f"{place}.png", picture("red"), "image/png")) for place in range(count)]
    return client.post(f"/v1/predict{words}", files=files)


def test_the_service_says_why_only_when_asked(made):
    client = made(word="looks")
    assert client.get("/v1/models").json()["models"][0]["grad_cam"] is True
    explanation = ask(client).json()["predictions"][0]["explanation"]
    assert explanation["map"] == [[1.0, 0.0], [0.0, 0.0]]
    assert explanation["label"] == "red"
    assert [one["labels"] for one in explanation["nearest"]] == [["red"], []]
    assert "explanation" not in ask(client, words="").json()["predictions"][0]
    assert ask(client, words="?explain=perhaps").status_code == 400


def test_a_model_that_cannot_say_why(made):
    client = made()
    assert client.get("/v1/models").json()["models"][0]["grad_cam"] is False
    assert ask(client).json()["predictions"][0]["explanation"] == {"label": "red", "map": None, "nearest": []}


def test_not_of_many_pictures_at_once(made):
    client = made(word="looks")
    assert ask(client, MOST_PICTURES).status_code == 200
    answer = ask(client, MOST_PICTURES + 1)
    assert answer.status_code == 413
    assert f"may hold {MOST_PICTURES} pictures" in answer.json()["error"]
    assert client.get("/v1/models").json()["limits"]["explained"] == MOST_PICTURES
