"""What a report is made of: cases, neighbours, figures, texts."""

from __future__ import annotations

import base64
import io
import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest

from greffon.errors import InputError
from greffon.evaluation.calibration import reliability
from greffon.evaluation.scores import Answers
from greffon.evaluation.table import prediction_table
from greffon.reporting.cases import worth_a_look
from greffon.reporting.facts import number, times_of
from greffon.reporting.figures import curves, heat, learning_figure, reliability_diagram, small_picture
from greffon.reporting.learning import learning_curve
from greffon.reporting.neighbours import nearest
from greffon.reporting.page import cleaned

NAMES = ["cat", "dog", "owl"]


def table_of(rows, *, several=False):
    paths, labels, values = zip(*rows, strict=True)
    hashes = [f"h{path}" for path in paths]
    return prediction_table(paths, hashes, labels, np.array(values, np.float32), NAMES, several_labels=several)


def test_mistakes_the_surest_first_and_what_is_least_sure_of_the_rest():
    table = table_of(
        [
            ("a", "cat", (0.1, 0.8, 0.1)),
            ("b", "cat", (0.9, 0.05, 0.05)),
            ("c", "owl", (0.97, 0.02, 0.01)),
            ("d", "dog", (0.3, 0.4, 0.3)),
        ]
    )
    mistakes, unsure = worth_a_look(table)
    assert [case.path for case in mistakes] == ["c", "a"]
    assert [case.path for case in unsure] == ["d", "b"]
    assert mistakes[0].asked == (0, 2)  # what it said, then what is right
    assert unsure[0].asked == (1,)
    assert (mistakes[0].labels, mistakes[0].called, mistakes[0].is_right) == (("owl",), ("cat",), False)
    assert [name for name, _ in mistakes[0].scores] == ["cat", "dog", "owl"]
    assert worth_a_look(table, most=1)[0][0].path == "c"
    # A mistake that there was no room for is among the others, by how sure it was.
    assert [case.path for case in worth_a_look(table, most=1)[1]] == ["d"]
    assert worth_a_look(table, most=0) == ([], [])


def test_with_several_labels_the_class_that_is_most_wrong_is_asked_for():
    table = table_of(
        [
            ("a", ["cat", "dog"], (0.9, 0.2, 0.1)),
            ("b", [], (0.1, 0.2, 0.99)),
            ("c", ["owl"], (0.1, 0.45, 0.9)),
        ],
        several=True,
    )
    mistakes, unsure = worth_a_look(table)
    assert [(case.path, case.asked) for case in mistakes] == [("b", (2,)), ("a", (1,))]
    assert [(case.path, case.asked, case.is_right) for case in unsure] == [("c", (1,), True)]
    assert mistakes[0].labels == ()


def test_rows_without_a_label_are_passed_over():
    table = table_of([("a", None, (0.1, 0.8, 0.1))])
    assert worth_a_look(table) == ([], [])


def test_neighbours_by_direction_alone():
    known = np.array([[0.0, 2.0], [5.0, 5.0], [1.0, 0.1], [0.0, 0.0]])
    places, cosines = nearest(np.array([[10.0, 0.0], [0.0, 0.1]]), known, most=2)
    assert places.tolist() == [[2, 1], [0, 1]]
    np.testing.assert_allclose(cosines, [[1 / np.sqrt(1.01), np.sqrt(0.5)], [1, np.sqrt(0.5)]], rtol=1e-5)
    assert nearest(np.zeros((1, 2)), known, most=9)[0].shape == (1, 4)
    with pytest.raises(InputError, match=r"\(m, d\)"):
        nearest(np.zeros((1, 3)), known)
    with pytest.raises(InputError, match="finite"):
        nearest(np.full((1, 2), np.nan), known)


def noisy(count, seed, signal=0.35):
    random = np.random.default_rng(seed)
    targets = np.eye(3)[np.arange(count) % 3]
    return (random.normal(size=(count, 30)) + signal * np.repeat(targets, 10, axis=1)).astype(np.float32), targets


def test_the_learning_curve_rises_where_there_is_more_to_learn_and_is_flat_where_there_is_not():
    points = learning_curve(noisy(480, 0), noisy(600, 1), strength=0.01)
    assert [point.pictures for point in points] == [60, 120, 240, 480]
    assert points[0].accuracy + 0.05 < points[-1].accuracy
    assert all(point.interval[0] < point.accuracy < point.interval[1] for point in points)
    flat = learning_curve(noisy(480, 0, 5.0), noisy(600, 1, 5.0), strength=0.01)
    assert {point.accuracy for point in flat} == {1.0}
    assert points == learning_curve(noisy(480, 0), noisy(600, 1), strength=0.01)


def test_no_learning_curve_of_too_few_pictures_or_of_one_class():
    features, targets = noisy(12, 0)
    assert learning_curve((features, targets), noisy(6, 1), strength=1.0) == ()
    alone = np.eye(3)[np.zeros(40, int)]
    assert learning_curve((noisy(40, 0)[0], alone), noisy(6, 1), strength=1.0) == ()


def test_rare_classes_are_in_every_part():
    features, targets = noisy(200, 0)
    targets = np.eye(3)[(np.arange(200) >= 3).astype(int) + (np.arange(200) >= 100)]
    points = learning_curve((features, targets), (features, targets), strength=1.0)
    assert [point.pictures for point in points] == [1 + 12 + 12, 1 + 24 + 25, 2 + 48 + 50, 200]


def test_figures_are_well_formed_and_take_the_colours_of_the_page():
    line = curves({"loss": [0.5, None, float("nan"), 0.2], "val_loss": [0.6, 0.5, 0.4, 0.3]}, what="loss", best=4)
    answers = Answers.of(np.array([[0.9, 0.1], [0.6, 0.4]]), np.array([[1, 0], [0, 1]]))
    diagram = reliability_diagram(reliability(answers), reliability(answers))
    learning = learning_figure(learning_curve(noisy(48, 0), noisy(30, 1), strength=1.0))
    for svg in (line, diagram, learning, reliability_diagram((), reliability(answers))):
        assert ET.fromstring(svg).tag.endswith("svg")
        assert "var(--faint)" in svg
        assert not re.search("#0([1-5])0", svg)
        assert "http://www.w3.org" in svg
        assert svg.count("http") == svg.count("http://www.w3.org")  # names of formats: nothing is fetched
    assert "validation" in line
    assert "calibrated" in diagram
    ids = [{part.split('"')[0] for part in svg.split('id="')[1:]} for svg in (line, diagram)]
    assert ids[0]
    assert not ids[0] & ids[1]
    assert "onclick=" not in curves({"loss": [1.0, 2.0]}, what='<b onclick="x">')
    assert line == curves(
        {"loss": [0.5, None, float("nan"), 0.2], "val_loss": [0.6, 0.5, 0.4, 0.3]}, what="loss", best=4
    )


def opened(address, kind):
    from PIL import Image

    assert address.startswith(f"data:{kind};base64,")
    return Image.open(io.BytesIO(base64.b64decode(address.partition(",")[2])))


def test_pictures_are_small_and_the_heat_is_where_it_should_be():
    pixels = np.random.default_rng(0).integers(0, 256, (224, 224, 3)).astype(np.uint8)
    address = small_picture(pixels)
    assert opened(address, "image/jpeg").size == (160, 160)
    assert len(address) < 40_000  # of noise, the worst there is
    places = np.zeros((7, 7))
    places[1, 5] = 1.0
    layer = np.asarray(opened(heat(places), "image/png"))[..., 3]
    row, column = np.unravel_index(layer.argmax(), layer.shape)
    assert (row * 7 // layer.shape[0], column * 7 // layer.shape[1]) == (1, 5)
    assert layer[-1, 0] == 0
    assert len(heat(np.random.default_rng(0).random((7, 7)))) < 3000


def test_texts_lose_what_turns_them_round():
    assert cleaned("a\u202eb\x00c\ud800d\te") == "a\ufffdb\ufffdc\ufffdd\ufffde"
    assert cleaned("line\nnext \U0001f469\u200d\U0001f33e") == "line\nnext \U0001f469\u200d\U0001f33e"
    assert cleaned(3) == 3


def test_records_that_hold_something_else_are_not_shown():
    assert times_of({"seconds": {"trunk": 1.5}, "trunk": 7, "trunk_seconds": None, "seconds_saved": True}) == []
    assert times_of({"seconds": 65, "seconds_saved": -3}) == [("the whole training", "1 min 05 s")]
    assert [number(value) for value in (float("nan"), "3", True, 3)] == [None, None, None, 3.0]


def test_causes_are_read_as_data(tmp_path):
    import json

    from greffon.reporting.causes import causes_of

    assert causes_of(tmp_path) == []
    file = tmp_path / "diagnosis.json"
    good = {"cause": "leak", "verdict": "found", "said": "so", "now": 0.9, "without": 0.7, "gain_interval_95": [-1, 0]}
    odd = {"verdict": "not found", "now": "many", "without": True, "gain_interval_95": [1]}
    file.write_text(json.dumps({"findings": [good, odd, {"verdict": "perhaps"}, 7]}))
    first, second = causes_of(tmp_path)
    assert (first.name, first.now, first.without, first.interval) == ("leak", 0.9, 0.7, (-1.0, 0.0))
    assert (second.now, second.without, second.interval) == (None, None, None)
    for text in ("[]", "{", '{"findings": 3}', "[" * 100_000):
        file.write_text(text)
        assert causes_of(tmp_path) == []
