from __future__ import annotations

import json
import math

import numpy as np
import pytest
from rich.console import Console

from greffon.errors import DataError, InputError
from greffon.evaluation.measures import measure, wilson_interval
from greffon.evaluation.table import prediction_table

NAMES = ["cat", "dog", "owl"]
PROBABILITIES = np.array(
    [
        [0.5, 0.25, 0.25],  # cat, right
        [0.25, 0.5, 0.25],  # cat, taken for a dog
        [0.125, 0.75, 0.125],  # dog, right
        [0.125, 0.75, 0.125],  # dog, right
        [0.5, 0.25, 0.25],  # dog, taken for a cat
    ]
)
LABELS = ["cat", "cat", "dog", "dog", "dog"]


def _measure(probabilities=PROBABILITIES, labels=LABELS, names=NAMES, order=None, several_labels=False):
    order = range(len(labels)) if order is None else order
    table = prediction_table(
        [f"{n}.jpg" for n in order],
        [None] * len(labels),
        [labels[n] for n in order],
        probabilities[list(order)],
        names,
        several_labels=several_labels,
    )
    return measure(table)


def test_numbers_worked_out_by_hand():
    result = _measure()
    assert (result.count, result.correct, result.accuracy) == (5, 3, 0.6)
    assert result.balanced_accuracy == pytest.approx((1 / 2 + 2 / 3) / 2)  # owl, of which there is none, left out
    assert result.log_loss == pytest.approx(-(math.log(0.5) + 2 * math.log(0.25) + 2 * math.log(0.75)) / 5)
    np.testing.assert_array_equal(result.confusion, [[1, 1, 0], [1, 2, 0], [0, 0, 0]])
    cat, dog, owl = result.per_class.values()
    assert (cat.recall, cat.precision, cat.support, cat.predicted, cat.correct) == (0.5, 0.5, 2, 2, 1)
    assert (dog.recall, dog.precision, dog.support) == (pytest.approx(2 / 3), pytest.approx(2 / 3), 3)
    assert (owl.recall, owl.precision, owl.support) == (None, None, 0)


@pytest.mark.parametrize(
    ("correct", "count", "low", "high"),
    # Newcombe 1998, table I, and Brown, Cai, DasGupta 2001.
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_interval_of_the_literature(correct, count, low, high):
    assert wilson_interval(correct, count) == (pytest.approx(low, abs=5e-5), pytest.approx(high, abs=5e-5))
    assert wilson_interval(count - correct, count) == (
        pytest.approx(1 - high, abs=5e-5),
        pytest.approx(1 - low, abs=5e-5),
    )


def test_the_interval_of_the_accuracy_is_wilsons():
    assert _measure().accuracy_interval == wilson_interval(3, 5)


def test_numbers_are_those_of_scikit_learn():
    metrics = pytest.importorskip("sklearn.metrics")
    random = np.random.default_rng(0)
    names = [f"class{n}" for n in range(5)]
    logits = random.normal(size=(200, 5))
    probabilities = (np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)).astype(np.float32)
    labels = random.integers(0, 5, 200)
    result = _measure(probabilities, [names[n] for n in labels], names)
    predicted = probabilities.argmax(axis=1)
    assert result.accuracy == metrics.accuracy_score(labels, predicted)
    assert result.balanced_accuracy == pytest.approx(metrics.balanced_accuracy_score(labels, predicted))
    exact = probabilities.astype(float)
    expected = metrics.log_loss(labels, exact / exact.sum(axis=1, keepdims=True))
    assert result.log_loss == pytest.approx(expected, rel=1e-12)
    np.testing.assert_array_equal(result.confusion, metrics.confusion_matrix(labels, predicted))
    precision, recall, f1, support = metrics.precision_recall_fscore_support(labels, predicted)
    assert [one.precision for one in result.per_class.values()] == pytest.approx(precision)
    assert [one.recall for one in result.per_class.values()] == pytest.approx(recall)
    assert [one.support for one in result.per_class.values()] == support.tolist()
    assert [one.f1 for one in result.per_class.values()] == pytest.approx(f1)
    assert result.macro_f1 == pytest.approx(metrics.f1_score(labels, predicted, average="macro"))
    precisions = [metrics.average_precision_score(labels == n, exact[:, n]) for n in range(5)]
    assert [one.average_precision for one in result.per_class.values()] == pytest.approx(precisions, rel=1e-6)
    assert result.mean_average_precision == pytest.approx(np.mean(precisions), rel=1e-6)
    assert set(result.top_k) == {2, 3}
    for k, share in result.top_k.items():
        assert share == metrics.top_k_accuracy_score(labels, exact, k=k)
    one_hot = np.eye(5)[labels]
    assert result.brier == pytest.approx(((exact - one_hot) ** 2).sum(axis=1).mean(), rel=1e-6)


def test_numbers_for_several_labels_are_those_of_scikit_learn():
    from sklearn import metrics

    random = np.random.default_rng(0)
    probabilities = random.uniform(size=(150, 3)).round(1).astype(np.float32)  # many ties
    has = random.uniform(size=(150, 3)) < probabilities
    labels = [[name for name, there in zip(NAMES, row, strict=True) if there] for row in has]
    result = _measure(probabilities, labels, several_labels=True)
    called = probabilities >= 0.5
    assert result.accuracy == metrics.accuracy_score(has, called)
    assert result.macro_f1 == pytest.approx(metrics.f1_score(has, called, average="macro"))
    assert result.mean_average_precision == pytest.approx(metrics.average_precision_score(has, probabilities))
    balanced = [metrics.balanced_accuracy_score(has[:, n], called[:, n]) for n in range(3)]
    assert result.balanced_accuracy == pytest.approx(np.mean(balanced))
    briers = [metrics.brier_score_loss(has[:, n], probabilities[:, n]) for n in range(3)]
    assert result.brier == pytest.approx(np.mean(briers))
    assert result.top_k == {}
    for name in ("accuracy", "balanced_accuracy", "macro_f1", "mean_average_precision", "log_loss", "brier", "ece"):
        low, high = result.intervals[name]
        value = getattr(result, name)
        assert low <= value <= high
        assert high - low < 0.3


def test_calibration_error_worked_out_by_hand():
    # 0.8 said twice and right once; 0.55 said once and right; bins of 1 / 15.
    result = _measure(np.array([[0.8, 0.2], [0.8, 0.2], [0.55, 0.45]]), ["cat", "dog", "cat"], ["cat", "dog"])
    assert result.ece == pytest.approx((abs(1.6 - 1) + abs(0.55 - 1)) / 3, abs=1e-6)


@pytest.mark.parametrize("several_labels", [False, True])
def test_the_interval_is_the_spread_over_new_pictures(several_labels):
    """Of 60 drawn tables about 95 % of the intervals hold what a very large one gives."""
    from greffon.evaluation.measures import measured
    from greffon.evaluation.scores import Answers

    random = np.random.default_rng(5)

    def draw(count):
        logits = random.normal(size=(count, 3))
        if several_labels:
            p = 1 / (1 + np.exp(-logits))
            return Answers.of(p, random.uniform(size=p.shape) < 1 / (1 + np.exp(-logits / 2)), several_labels=True)
        p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        softer = np.exp(logits / 2) / np.exp(logits / 2).sum(axis=1, keepdims=True)
        labels = (random.uniform(size=(count, 1)) > softer.cumsum(axis=1)).sum(axis=1).clip(0, 2)
        return Answers.of(p, np.eye(3)[labels])

    truth = measured(draw(200_000), NAMES, resamples=0)
    names = ["accuracy", "balanced_accuracy", "macro_f1", "mean_average_precision", "log_loss", "brier", "ece"]
    held = dict.fromkeys(names, 0)
    for _ in range(60):
        intervals = measured(draw(250), NAMES, resamples=200).intervals
        for name in names:
            low, high = intervals[name]
            held[name] += low <= getattr(truth, name) <= high
    assert min(held.values()) >= 50, held


def test_where_all_are_right_the_interval_of_the_balanced_accuracy_still_has_a_width():
    result = _measure(np.eye(3)[[0, 1, 2] * 4].astype(float), [NAMES[n] for n in [0, 1, 2] * 4])
    low, high = result.intervals["balanced_accuracy"]
    assert (high, result.balanced_accuracy) == (1.0, 1.0)
    assert 0.6 < low < 0.9


def test_where_it_would_take_long_the_average_precision_has_no_interval(monkeypatch):
    monkeypatch.setattr("greffon.evaluation.scores._MOST_WORK", 5 * 3 * 300)
    assert _measure().intervals["mean_average_precision"] is not None
    monkeypatch.setattr("greffon.evaluation.scores._MOST_WORK", 5 * 3 * 100)
    result = _measure()
    assert result.intervals["mean_average_precision"] is None
    assert "mean average precision 0.725, log loss" in str(result)


def test_without_resamples_only_formulas_give_intervals():
    from greffon.evaluation.measures import measure

    random = np.random.default_rng(0)
    p = random.dirichlet([1, 1, 1], 20)
    table = prediction_table([f"{n}.jpg" for n in range(20)], [None] * 20, ["cat"] * 20, p, NAMES)
    assert set(measure(table, resamples=0).intervals) == {"accuracy", "balanced_accuracy", "top_2"}
    first, second = (measure(table, seed=seed).intervals["log_loss"] for seed in (0, 1))
    assert first != second


def test_order_makes_no_difference_to_the_last_bit():
    random = np.random.default_rng(1)
    probabilities = random.dirichlet([1, 1, 1], 300).astype(np.float32)
    labels = [NAMES[n] for n in random.integers(0, 3, 300)]
    first = _measure(probabilities, labels)
    second = _measure(probabilities, labels, order=random.permutation(300))
    assert first.to_dict() == second.to_dict()


def test_one_sure_mistake_does_not_make_the_loss_infinite():
    result = _measure(np.array([[1.0, 0.0, 0.0]]), ["owl"])
    assert result.log_loss == pytest.approx(-math.log(np.finfo(np.float32).eps))
    assert result.accuracy == 0


def test_several_labels_per_picture():
    probabilities = np.array([[0.75, 0.25, 0.25], [0.75, 0.75, 0.25], [0.25, 0.25, 0.75]])
    result = _measure(probabilities, [["cat"], ["dog"], []], several_labels=True)
    assert (result.count, result.correct) == (3, 1)  # the second has a cat too many, the third an owl
    assert result.per_class["cat"].recall == 1.0
    assert result.per_class["cat"].precision == 0.5
    assert result.per_class["owl"].recall is None
    # cat: recall 1, left alone 1 of 2; dog: recall 1, left alone 2 of 2; of owls there is none.
    assert result.balanced_accuracy == pytest.approx((0.75 + 1) / 2)
    assert result.log_loss == pytest.approx(-(7 * math.log(0.75) + 2 * math.log(0.25)) / 9)
    assert result.confusion is None
    assert "accuracy 0.333" in str(result)


def test_nothing_to_measure():
    with pytest.raises(DataError, match="no rows"):
        _measure(np.zeros((0, 3)), [])
    with pytest.raises(InputError, match="1 of 2 pictures have no label"):
        _measure(PROBABILITIES[:2], ["cat", None])


@pytest.mark.parametrize(("correct", "count"), [(0, 0), (3, 2), (-1, 2)])
def test_shares_of_nothing_are_refused(correct, count):
    with pytest.raises(InputError, match="correct must be"):
        wilson_interval(correct, count)


def test_of_many_classes_the_worst_are_shown():
    names = [f"class{n}" for n in range(40)]
    result = _measure(np.eye(40)[[0, 1, 5, 2]], ["class0", "class1", "class2", "class2"], names)
    shown = str(result)
    assert "class2 " in shown
    assert "class39" not in shown
    assert "15 more are in per_class" in shown
    assert len(result.to_dict()["per_class"]) == 40


def test_it_shows_in_terminal_and_notebook_and_goes_into_json():
    result = _measure(names=["cat", "dog", "[b]<i>"])
    lines = str(result).splitlines()
    assert lines[0] == (
        "accuracy 0.600 (95 % interval 0.231 to 0.882), balanced accuracy 0.583 (0.277 to 0.827), 3 of 5 pictures"
    )
    assert lines[1].startswith("top 2 1.000 (0.566 to 1.000), macro F1 0.583 (")
    assert lines[3].split() == ["cat", "0.500", "0.500", "0.500", "0.583", "2", "2"]
    console = Console(width=120, record=True)
    console.print(result)
    shown = console.export_text()
    assert "[b]<i>" in shown
    assert lines[0] in shown
    assert "[b]&lt;i&gt;" in result._repr_html_()
    values = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert values["per_class"]["[b]<i>"]["recall"] is None
    assert values["confusion"][0] == [1, 1, 0]
