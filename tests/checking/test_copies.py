"""Exact and near-copies: what is wrong, what is only to be looked at."""

import pytest
from tables import catalog, pair

from greffon.checking.copies import SMALL, exact_copies, near_copies, together


def kinds(findings):
    return [(each.kind, each.severity, each.paths) for each in findings]


def test_exact_copies_across_the_split_are_wrong():
    rows = [("a", "1", "x", "train"), ("b", "1", "x", "val"), ("c", "2", "x", "train"), ("d", "3", "y", "val")]
    found = exact_copies(catalog(rows))
    assert kinds(found) == [("exact copies across the split", "wrong", ("a", "b"))]
    assert "(train, val)" in found[0].sentence
    assert found[0].reason("b") == "is a copy of a"


def test_test_pictures_count():
    found = exact_copies(catalog([("a", "1", "x", ""), ("b", "1", "x", "test"), ("c", "2", "y", "")]))
    assert kinds(found) == [("exact copies across the split", "wrong", ("a", "b"))]


def test_exact_copies_under_different_labels_are_wrong():
    found = exact_copies(catalog([("a", "1", "x", ""), ("b", "1", "y", ""), ("c", "2", "y", "")]))
    assert kinds(found) == [("exact copies under different labels", "wrong", ("a", "b"))]
    assert "(x, y)" in found[0].sentence


def test_exact_copies_on_one_side_are_to_be_looked_at():
    found = exact_copies(catalog([("a", "1", "x", "train"), ("b", "1", "x", "train"), ("c", "2", "y", "val")]))
    assert kinds(found) == [("exact copies", "look", ("a", "b"))]


def test_both_faults_are_told_at_once_and_come_first():
    rows = [("a", "1", "x", "train"), ("b", "1", "x", "val"), ("c", "2", "x", "train"), ("d", "2", "y", "val")]
    one, both = exact_copies(catalog(rows))
    assert both.kind == "exact copies across the split"
    assert "(x, y)" in both.sentence
    assert both.score > one.score


def test_several_labels_are_compared_as_sets():
    rows = [("a", "1", "x", ""), ("b", "1", "y", ""), ("c", "2", "x", ""), ("d", "2", "x", "")]
    labels = [["x", "y"], ["y", "x"], ["x", "y"], ["x"]]
    found = exact_copies(catalog(rows, labels=labels))
    assert kinds(found) == [
        ("exact copies", "look", ("a", "b")),
        ("exact copies under different labels", "wrong", ("c", "d")),
    ]


def test_near_copies_bring_their_exact_copies_along():
    rows = [("a", "1", "x", "train"), ("b", "2", "x", "train"), ("c", "2", "x", "val"), ("d", "3", "y", "val")]
    found = near_copies(catalog(rows), [pair(0, 1)])
    assert kinds(found) == [("near-copies across the split", "wrong", ("a", "b", "c"))]


def test_near_copies_through_others_are_one_group():
    rows = [(name, name, "x", "") for name in "abcd"] + [("e", "e", "y", "")]
    found = near_copies(catalog(rows), [pair(0, 1, 0.9), pair(1, 3, 0.99)])
    assert kinds(found) == [("near-copies", "look", ("a", "b", "d"))]
    assert found[0].score == pytest.approx(0.99)


def test_of_tiny_pictures_nothing_is_certain():
    rows = [("a", "1", "x", "train"), ("b", "2", "x", "val"), ("c", "3", "y", "val")]
    severities = [
        near_copies(catalog(rows, side=side), [pair(0, 1)])[0].severity for side in (SMALL - 1, SMALL)
    ]  # fmt: skip
    assert severities == ["look", "wrong"]
    exact = [("a", "1", "x", "train"), ("b", "1", "x", "val"), ("c", "3", "y", "val")]
    assert exact_copies(catalog(exact, side=8))[0].severity == "wrong"


def test_what_belongs_together_is_told_by_content():
    rows = [("a", "1", "x", ""), ("b", "2", "x", ""), ("c", "3", "y", "")]
    assert together(catalog(rows), [pair(0, 2)]) == [["1", "3"]]
