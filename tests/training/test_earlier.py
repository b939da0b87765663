"""What is said of pictures that the weights know already, and how the split goes on from theirs."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from greffon.bundle.flattery import chosen_by_validation, flattery, learned_before
from greffon.pictures.catalog import SCHEMA, Catalog
from greffon.recipe import RECIPES, Head, Recipe, Stage
from greffon.training.earlier import Earlier, earlier_of

KNOWN = Earlier(Path("runs/first"), {"1": "train", "2": "train", "3": "val", "gone": "train"}, features=True)


def catalog(*sides):
    rows = [(f"a/{n}.png", str(n), "a", side, "ok", "", 8, 8, 99) for n, side in enumerate(sides, start=1)]
    return Catalog(pl.DataFrame(rows, schema=SCHEMA, orient="row"), ("a",), Path())


def test_pictures_that_are_held_out_again_are_counted_and_named():
    split = catalog("train", "val", "val", "val", "test")
    assert KNOWN.held_out_again(split) == {"val": {"pictures": 1, "of": 3}}
    assert "1 of 3 pictures held out for validation were learned from by runs/first" in KNOWN.warning(split)
    record = {"learned_before": KNOWN.to_record(split)}
    assert "had learned from 1 of these 3 pictures before (runs/first)" in learned_before(record, "val")
    assert learned_before(record, "test") == ""
    both = catalog("test", "val", "train")
    assert "and 1 of 1 pictures in test/" in KNOWN.warning(both)
    assert "1 of these 1" in learned_before({"learned_before": KNOWN.to_record(both)}, "test")


def test_nothing_is_said_where_the_split_goes_on_from_the_earlier_one():
    split = catalog("train", "train", "val", "train", "val")
    assert KNOWN.warning(split) is None and KNOWN.to_record(split) is None
    assert KNOWN.note(split) == (
        "2 pictures that runs/first has learned from are learned from again, 1 that it held out are held out again"
    )
    assert KNOWN.known_to_features(split) == 2
    assert Earlier(KNOWN.run, KNOWN.sides).known_to_features(split) == 0, "a head alone has learned"
    assert Earlier().warning(split) is None and Earlier().note(split) is None and Earlier().to_frame() is None


def test_weights_that_are_no_run_know_nothing(tmp_path):
    (tmp_path / "model.keras").write_bytes(b"")
    assert earlier_of(tmp_path) == earlier_of(tmp_path / "model.keras") == Earlier()


def test_what_was_chosen_by_the_validation_pictures():
    probe = Stage(name="probe", optimizer="lbfgs")
    assert chosen_by_validation(RECIPES["tutorial"]) == ""  # neither patience nor the best epoch
    assert chosen_by_validation(Recipe(stages=(probe, Stage(epochs=3)))) == "the epoch"
    assert chosen_by_validation(Recipe(stages=(Stage(epochs=1, only_if_better=True),))) == ""
    assert chosen_by_validation(Recipe(stages=(probe,), head=Head(hidden=8))) == "the epoch", "it is not solved"
    assert flattery(Recipe(stages=(probe,)), {}) == []
    assert flattery(Recipe(stages=(Stage(epochs=3),)), {"learned_before": "odd"}) == [
        "also used to choose the epoch, so a little flattering"
    ]
