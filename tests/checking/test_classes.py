"""Numbers of pictures: empty classes, classes too small, imbalance, torn groups."""

from dataclasses import replace

import pytest
from tables import catalog

from greffon.checking.classes import UNEQUAL, too_small, torn_groups, unequal


def rows(counts, split=""):
    return [(f"{name}{n}", f"{name}{n}", name, split) for name, count in counts.items() for n in range(count)]


def test_enough_of_each_is_nothing_to_tell():
    assert too_small(catalog(rows({"x": 2, "y": 5}))) == []


def test_a_class_that_cannot_be_on_both_sides():
    [found] = too_small(catalog(rows({"x": 1, "y": 5})))
    assert (found.kind, found.severity) == ("classes too small", "wrong")
    assert "x" in found.sentence
    assert "\n" not in found.sentence


def test_near_copies_count_as_one():
    catalogue = catalog(rows({"x": 2, "y": 5}))
    [found] = too_small(catalogue, [["x0", "x1"]])
    assert found.kind == "classes too small"


def test_a_class_without_a_picture_on_a_given_side():
    [found] = too_small(catalog([*rows({"x": 3, "y": 3}, "train"), ("v", "v", "x", "val")]))
    assert "0 in val/" in found.sentence


def test_a_class_without_pictures_and_a_class_alone():
    catalogue = catalog(rows({"x": 3, "y": 3}))
    [found] = too_small(replace(catalogue, class_names=("x", "y", "z")))
    assert found.kind == "classes without pictures"
    assert found.sentence.endswith("z")
    both = too_small(replace(catalog(rows({"x": 1, "y": 3})), class_names=("x", "y", "z")))
    assert [it.kind for it in both] == ["classes without pictures", "classes too small"]
    assert "x: 1 different picture" in both[1].sentence
    assert "z" not in both[1].sentence.split()
    [found] = too_small(catalog(rows({"x": 3})))
    assert found.kind == "one class"


@pytest.mark.parametrize(("more", "told"), [(0, False), (1, True)])
def test_imbalance_is_told_above_its_ratio(more, told):
    found = unequal(catalog(rows({"x": 4, "y": 4 * UNEQUAL + more})))
    assert bool(found) is told
    if told:
        assert found[0].severity == "look"
        assert "always to answer y is right in 84%" in found[0].sentence


def test_groups_that_a_split_tears_apart():
    given = [("a", "1", "x", "train"), ("b", "2", "x", "val"), ("c", "3", "y", "train"), ("d", "4", "y", "val")]
    [found] = torn_groups(catalog(given, group=["p", "p", "q", ""]))
    assert (found.kind, found.severity, found.paths) == ("groups torn apart", "wrong", ("a", "b"))
    assert "group p" in found.sentence
    assert torn_groups(catalog(given)) == []
    assert torn_groups(catalog([(p, h, label, "") for p, h, label, _ in given], group=["p", "p", "q", ""])) == []
