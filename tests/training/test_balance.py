"""Classes of different sizes can be made to count alike."""

import json

import numpy as np
import pytest
from PIL import Image
from short import short_backbone

import greffon
from greffon.training import purpose
from greffon.training.balance import balanced_rows, balanced_weights
from greffon.training.progress import Reporter


def _targets(*labels, classes=3):
    return np.eye(classes)[list(labels)]


def test_every_class_weighs_the_same():
    targets = _targets(0, 0, 0, 0, 1, 1, 2)
    weights = balanced_weights(targets)
    np.testing.assert_allclose(targets.T @ weights, [7 / 3] * 3, rtol=1e-6)


def test_of_several_labels_the_rarest_counts():
    targets = np.array([[1, 1], [1, 0], [1, 0], [0, 0]])
    weights = balanced_weights(targets)
    assert weights[0] == pytest.approx(3 * weights[1])
    assert weights.mean() == pytest.approx(1)
    assert weights[1] < weights[3] < weights[0]


def test_a_class_without_pictures_changes_nothing():
    np.testing.assert_allclose(balanced_weights(_targets(0, 1)), balanced_weights(_targets(0, 1, classes=2)))


@pytest.mark.parametrize("seed", [0, 1])
def test_every_class_is_shown_as_often_as_the_largest(seed):
    labels = [0] * 7 + [1] * 3 + [2]
    rows = balanced_rows(_targets(*labels), seed=seed)
    assert np.bincount(np.array(labels)[rows]).tolist() == [7, 7, 7]
    assert set(rows) == set(range(11)), "none is left out"
    shown = np.bincount(rows, minlength=11)
    assert shown[7:10].max() - shown[7:10].min() <= 1


def test_the_seed_decides_which_are_shown_once_more():
    targets = _targets(*[0] * 30, *[1] * 20)
    drawn = {tuple(balanced_rows(targets, seed=seed)) for seed in range(5)}
    assert len(drawn) == 5


@pytest.fixture(scope="module")
def unequal(tmp_path_factory):
    folder = tmp_path_factory.mktemp("unequal")
    for number in range(28):
        name = "few" if number % 7 == 3 else "many"
        (folder / name).mkdir(exist_ok=True)
        Image.new("RGB", (40, 40), (100 + number,) * 3).save(folder / name / f"{number}.png")
    return folder


def test_balance_changes_what_grey_is_taken_for(unequal, tmp_path, monkeypatch):
    """Shades of grey in turn cannot be told apart by a line, so how often a class was shown is all there is to say."""
    monkeypatch.setattr(purpose, "build_backbone", short_backbone())
    stage = greffon.Stage(epochs=20, learning_rate=3e-3, batch_size=8, patience=None, keep_best=False)
    recipe = greffon.Recipe(
        weights="thin", image_size=32, validation=0.5, near_copies="ignore", stages=(stage,), class_weight="none"
    )

    def share_of_few(name, **options):
        run = greffon.train(unequal, out=tmp_path / name, recipe=recipe.replace(**options), reporter=Reporter())
        assert json.loads((run.path / "run.json").read_text())["classes"] == ["few", "many"]
        return float(run.load().bundle.table["p_few"].mean())

    assert share_of_few("plain") == pytest.approx(1 / 7, abs=0.1)
    assert share_of_few("weighted", class_weight="balanced") == pytest.approx(1 / 2, abs=0.2)
    assert share_of_few("sampled", sampling="balanced") == pytest.approx(1 / 2, abs=0.2)
