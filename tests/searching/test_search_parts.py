"""The parts of a search: points and recipes, sides, costs, the book of trials, importances."""

from __future__ import annotations

import numpy as np
import pytest

from greffon.errors import DataError, InputError
from greffon.pictures.catalog import Catalog
from greffon.recipe import Head, Recipe, Stage
from greffon.searching.costs import Costs
from greffon.searching.held_out import SomeRows, hold_out, rows_left, split_again
from greffon.searching.importance import caution, importances
from greffon.searching.space import DEPTHS, Space, recipe_at, told
from greffon.searching.trial import Outcome, PrunedTrial, StageTook, TrialReporter
from greffon.searching.trials import TrialBook
from greffon.training.progress import Reporter

POINT = {
    "pool": "grid2", "depth": "conv5_block2,conv5_block3", "hidden": 128, "dropout": 0.30000000000000004,
    "learning_rate": 0.000123456, "head_rate": 0.00234567, "weight_decay": 0.0123456, "views": 2,
}  # fmt: skip


def test_a_point_becomes_a_recipe():
    base = Recipe(weights="thin", image_size=64, seed=4, stages=[Stage(batch_size=16)])
    recipe = recipe_at(POINT, base)
    assert (recipe.weights, recipe.image_size, recipe.seed, recipe.views) == ("thin", 64, 4, 2)
    assert (recipe.head.pool, recipe.head.hidden, recipe.head.dropout) == ("grid2", 128, 0.3)
    head, deeper = recipe.stages
    assert (head.optimizer, head.learning_rate, head.weight_decay, head.batch_size) == ("adamw", 0.0023, 0.012, 16)
    assert (deeper.unfreeze, deeper.learning_rate) == (("conv5_block2", "conv5_block3"), 0.00012)
    assert "grid2" in told(recipe)
    assert "2 views" in told(recipe)


def test_what_changes_nothing_makes_no_other_recipe():
    still = POINT | {"depth": "none", "hidden": 0}
    others = still | {"learning_rate": 1e-3, "head_rate": 1e-2, "weight_decay": 0.1, "dropout": 0.6}
    assert recipe_at(still, Recipe()) == recipe_at(others, Recipe())
    assert recipe_at(still, Recipe()) != recipe_at(still | {"pool": "avg"}, Recipe())


def test_features_of_all_blocks_have_a_linear_head_on_all_of_them():
    blocks = POINT | {"pool": "blocks2"}
    recipe = recipe_at(blocks, Recipe())
    assert (recipe.head.pool, recipe.head.hidden, recipe.head.kept_share) == ("blocks2", 0, 1.0)
    assert recipe.solves(recipe.stages[0])
    assert recipe == recipe_at(blocks | {"hidden": 0}, Recipe())
    assert recipe_at(blocks, Recipe(head=Head(pool="blocks2", kept_share=0.1))).head.kept_share == 0.1
    chosen = Head(pool="blocks", channels=(1, 2))
    assert recipe_at(blocks, Recipe(head=chosen)).head.channels is None
    assert recipe_at(POINT | {"pool": "blocks"}, Recipe(head=chosen)).head.channels == (1, 2)


def test_every_depth_is_a_recipe_that_holds():
    for depth in DEPTHS:
        recipe = recipe_at(POINT | {"depth": depth}, Recipe())
        assert Recipe(**recipe.model_dump()) == recipe


def test_a_space_can_be_written_down():
    space = Space.of(Recipe(augment="flip"), ["avg"])
    assert space.views == (1, 2)
    assert Space.from_dict(space.to_dict()) == space


# --- sides ---


def test_three_sides_share_no_content(pictures):
    catalog = Catalog.from_folder(pictures)
    sides = hold_out(catalog, share=0.25, validation=0.25, seed=0)
    assert [len(sides.side(name)) for name in ("train", "val", "test")] == [28, 8, 12]
    hashes = [set(sides.side(name)["hash"]) for name in ("train", "val", "test")]
    assert not (hashes[0] & hashes[1] or hashes[0] & hashes[2] or hashes[1] & hashes[2])
    again = split_again(sides, validation=0.25, seed=1)
    assert again.side("test")["path"].to_list() == sides.side("test")["path"].to_list()
    assert again.side("val")["path"].to_list() != sides.side("val")["path"].to_list()


def test_what_the_weights_have_learned_from_is_neither_searched_nor_checked_by(pictures):
    catalog = Catalog.from_folder(pictures)
    known = dict.fromkeys(catalog.ok["hash"].to_list()[::2], "train")
    sides = hold_out(catalog, share=0.25, validation=0.25, seed=0, known=known)
    again = split_again(sides, validation=0.25, seed=1, known=known)
    for split in (sides, again):
        assert set(known) <= set(split.side("train")["hash"])
        assert all(split.counts(side)[name] for side in ("val", "test") for name in split.class_names)


def test_what_belongs_together_is_on_one_side(pictures):
    catalog = Catalog.from_folder(pictures)
    hashes = catalog.ok["hash"].to_list()
    for seed in range(6):
        sides = hold_out(catalog, share=0.3, validation=0.3, seed=seed, together=[hashes[:5], hashes[4:7]])
        side = dict(sides.ok.select("hash", "split").iter_rows())
        assert len({side[content] for content in hashes[:7]}) == 1


def test_given_sides_stay(pictures, tmp_path):
    import shutil

    for side in ("train", "val", "test"):
        shutil.copytree(pictures, tmp_path / side)
    for place, side in enumerate(("train", "val", "test")):
        for name in ("above", "below"):
            for file in (tmp_path / side / name).iterdir():
                if int(file.stem) % 3 != place:
                    file.unlink()
    sides = hold_out(Catalog.from_folder(tmp_path), share=0.2, validation=0.2, seed=0)
    assert [len(sides.side(name)) for name in ("train", "val", "test")] == [16, 16, 16]
    shutil.rmtree(tmp_path / "test")
    sides = hold_out(Catalog.from_folder(tmp_path), share=0.25, validation=0.2, seed=0)
    assert [len(sides.side(name)) for name in ("train", "val", "test")] == [12, 16, 4]


def test_too_few_pictures_for_three_sides(pictures, tmp_path):
    for name in ("above", "below"):
        (tmp_path / name).mkdir()
        for number in range(2):
            (tmp_path / name / f"{number}.png").write_bytes((pictures / name / f"{number}.png").read_bytes())
    with pytest.raises(DataError, match="three sides"):
        hold_out(Catalog.from_folder(tmp_path), share=0.2, validation=0.2, seed=0)


@pytest.mark.parametrize("share", [0, 1, -0.1, True, 2])
def test_a_share_that_is_none(pictures, share):
    with pytest.raises(InputError, match="held_out"):
        hold_out(Catalog.from_folder(pictures), share=share, validation=0.2, seed=0)


def test_features_keep_their_pictures(pictures):
    catalog = Catalog.from_folder(pictures)
    sides = hold_out(catalog, share=0.25, validation=0.25, seed=0)
    rows = rows_left(catalog, sides)
    paths = catalog.ok["path"].to_numpy()

    class Source:
        shapes, dtypes = [(1,)], [paths.dtype]

        def gather(self, rows):
            return [paths[rows]]

    kept = SomeRows(Source(), rows)
    left = sides.ok.filter(sides.ok["split"] != "test")["path"].to_list()
    assert kept.gather(np.arange(len(kept)))[0].tolist() == left


# --- costs ---


def test_costs_are_scaled_by_what_is_behind_the_cut():
    costs = Costs({"conv5_block3": 100, "conv5": 300}, train=50, trunk=0.1)
    shallow = recipe_at(POINT | {"depth": "conv5_block3", "hidden": 0, "views": 1}, Recipe())
    assert costs.of(shallow) == 0
    costs.learn(
        Outcome(0.5, 0.9, 15.0, 2.0, (StageTook("none", 1, 1.0), StageTook("conv5_block3", 6, 6.0)), "avg"), shallow
    )
    assert costs.of(shallow) == pytest.approx(1.2 * (7.0 + 12 * 1.0))
    deeper = recipe_at(POINT | {"depth": "conv5", "hidden": 0, "views": 1}, Recipe())
    assert costs.of(deeper) == pytest.approx(1.2 * (7.0 + 12 * 3.0))
    assert costs.of(deeper.replace(views=3)) - costs.of(deeper) == pytest.approx(1.2 * 2 * 50 * 0.1)


# --- a trial ends itself ---


def test_epochs_are_compared_by_tenths():
    recipe = Recipe(head=Head(), stages=[Stage(name="probe", optimizer="lbfgs"), Stage(name="deeper", epochs=19)])
    seen = []

    def report(loss, tenth):
        seen.append((tenth, loss))
        return tenth >= 3

    reporter = TrialReporter(recipe, Reporter(), report=report)
    reporter.epoch("probe", 1, 1, {"val_loss": 0.9}, True)
    with pytest.raises(PrunedTrial):
        for epoch in range(1, 20):
            reporter.epoch("deeper", epoch, 19, {"val_loss": 0.8 if epoch == 2 else 1.0}, False)
    assert seen == [(1, 1.0), (2, 0.8), (3, 0.8)]


# --- the book ---


def test_a_book_is_taken_up_again(tmp_path):
    book = TrialBook(tmp_path / "journal.log", seed=0)
    given, _ = book.ask(None)
    book.note(given, given=True, recipe="given")
    book.complete(given, 0.5)
    space = Space()
    _, first = book.ask(space)  # of a process that was killed
    again = TrialBook(tmp_path / "journal.log", seed=0)
    assert [it.state.name for it in again.all()] == ["COMPLETE", "FAIL"]
    trial, second = again.ask(space)
    assert second != first
    again.complete(trial, 0.4)
    assert again.best().number == trial.number
    table = again.table()
    assert table["trial"].to_list() == [2, 0, 1]
    assert table["state"].to_list() == ["ended", "ended", "failed"]


def test_the_same_seed_draws_the_same(tmp_path):
    points = [TrialBook(tmp_path / f"{name}.log", seed=5).ask(Space())[1] for name in "ab"]
    assert points[0] == points[1]


def test_what_matters_is_found(tmp_path):
    book, space = TrialBook(tmp_path / "journal.log", seed=1), Space(pool=("avg", "grid2"))
    for _ in range(25):
        trial, point = book.ask(space)
        book.complete(trial, 1.0 * (point["pool"] == "avg") + 0.001 * point["hidden"] / 512)
    ended = book.ended()
    points, losses = [dict(it.params) for it in ended], [it.value for it in ended]
    found = importances(points, losses, ended, seed=0)
    assert found[0].name == "pool"
    assert found[0].low <= found[0].share <= found[0].high
    assert found[0].share > 0.8
    assert found[0].medians["grid2"] < found[0].medians["avg"]
    assert importances(points[:3], losses[:3], ended[:3], seed=0) == []
    assert "hint" in caution(25)
    assert "hint" not in caution(60)
