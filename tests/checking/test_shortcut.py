"""The shortcut test: properties that give the class away are named, and chance is not taken for one."""

import re

import numpy as np
import pytest

from greffon.checking.shortcut import FEWEST, LEVEL, shortcut, shortcuts
from greffon.pictures.quality import Facts
from greffon.pictures.scan import Scanned


def scanned(random, *, width=400, height=300, camera="", red=100.0, kind="JPEG", blur=0.3, size_bytes=40_000):
    """A picture whose properties vary a little."""
    near = lambda value, by: float(value + random.normal() * by)  # noqa: E731
    facts = Facts(
        kind, "RGB", False, 100.0, near(red, 20), near(100, 20), near(100, 20), 250, 255,
        None if blur is None else near(blur, 0.05), False, camera,
    )  # fmt: skip
    across, down = int(near(width, 40)), int(near(height, 40))
    return Scanned("0", int(near(size_bytes, 4000)), across, down, facts=facts)


def found(pictures, given, **options):
    names = ("cat", "dog", "cow")
    return shortcuts(pictures, given, names, groups=options.pop("groups", np.arange(len(given))), **options)


@pytest.mark.parametrize(
    ("of_cats", "named"),
    [
        ({"width": 900, "height": 700}, "size "),
        ({"width": 700, "height": 200}, "aspect "),
        ({"camera": "Canon"}, "camera Canon: 100% of cat, 0% of dog"),
        ({"kind": "PNG"}, "format "),
        ({"red": 170.0}, "mean red: "),
        ({"blur": 0.7}, "blur 0."),
        ({"size_bytes": 90_000}, "bytes per pixel"),
    ],
)
def test_a_property_that_gives_the_class_away_is_named(random, of_cats, named):
    given = np.arange(80) % 2
    pictures = [scanned(random, **(of_cats if label == 0 else {})) for label in given]
    [one] = found(pictures, given)
    assert (one.kind, one.severity, one.paths) == ("shortcut", "look", ())
    assert named in one.sentence
    assert re.search(r"accuracy of (9\d|100)%, where chance is (49|50|51)% ", one.sentence)


def test_alike_pictures_give_nothing_away():
    alarms = 0
    for seed in range(10):
        random = np.random.default_rng(seed)
        given = np.arange(60) % 3
        alarms += len(found([scanned(random) for _ in given], given, seed=seed))
    assert alarms <= 1


def test_copies_are_looked_at_once(random):
    given = np.arange(24) % 2
    pictures = [scanned(random) for _ in given]
    # Six copies of each: every copy would tell the class of the others.
    assert found(pictures * 6, np.tile(given, 6), groups=np.tile(np.arange(24), 6)) == []


def test_few_pictures_or_one_class_say_nothing(random):
    pictures = [scanned(random, width=900 if n % 2 else 400) for n in range(FEWEST - 1)]
    assert found(pictures, np.arange(FEWEST - 1) % 2) == []
    assert found([scanned(random) for _ in range(40)], np.zeros(40, int)) == []


def test_pictures_that_are_the_same_in_everything_say_nothing():
    facts = Facts("PNG", "L", False, 9.0, 9.0, 9.0, 9.0, 250, 255, None, False, "")
    pictures = [Scanned("0", 500, 28, 28, facts=facts)] * 40
    assert found(pictures, np.arange(40) % 2) == []


def test_the_accuracy_is_balanced_and_chance_is_that_of_shuffled_labels(random):
    given = np.array([0] * 90 + [1] * 10)
    result = shortcut(random.normal(size=(100, 3)), given)
    assert result.chance == pytest.approx(0.5, abs=0.05)
    assert result.p > LEVEL


def test_differences_need_not_be_monotone(random):
    width = np.where(np.arange(90) % 3 == 1, 400, np.where(np.arange(90) % 3 == 0, 150, 900))
    given = (np.arange(90) % 3 == 1).astype(int)
    pictures = [scanned(random, width=w, height=0.75 * w) for w in width]
    [one] = found(pictures, given)
    assert "size " in one.sentence
