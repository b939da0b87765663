"""The search itself: most of it without a network, one real study."""

from __future__ import annotations

import json
import shlex

import polars as pl
import pytest

import greffon
from greffon.cli import main
from greffon.errors import INTERRUPTED, DataError, InputError
from greffon.recipe import Recipe
from greffon.training.progress import Reporter


def search(pictures, out, recipe, **options):
    return greffon.tune(
        pictures, **({"budget": "1h", "trials": 6} | options), out=out, recipe=recipe, reporter=Reporter()
    )


def test_the_recipe_as_given_comes_first_and_everything_is_written(made_up, pictures, recipe, tmp_path):
    study = search(pictures, tmp_path / "study", recipe, trials=12)
    assert made_up.recipes[0] == recipe
    assert len(study.trials) == 12
    assert made_up.checks == 1
    assert str(study).startswith("12 trials: ")
    losses = study.trials["log_loss"].drop_nulls().to_list()
    assert losses == sorted(losses)
    assert study.best.head.dropout == pytest.approx(0.3, abs=0.11)
    assert Recipe.from_yaml(study.path / "recipe.yaml") == study.best
    assert pl.read_parquet(study.path / "trials.parquet").equals(study.trials)
    about = json.loads((study.path / "study.json").read_text())
    assert about["result"]["trials"]["ended"] + about["result"]["trials"]["pruned"] == 12
    assert "too few" in str(study) or "hint" in str(study)
    json.dumps(study.to_dict(), default=str)


def test_a_search_is_repeatable(made_up, pictures, recipe, tmp_path):
    for name in "ab":
        search(pictures, tmp_path / name, recipe)
    assert made_up.recipes[:6] == made_up.recipes[6:]


def test_a_study_goes_on(made_up, pictures, recipe, tmp_path):
    out = tmp_path / "study"
    search(pictures, out, recipe, trials=4)
    before = (out / "split.parquet").read_bytes()
    study = search(pictures, out, recipe, trials=5, resume=True)
    assert len(study.trials) == 9
    assert made_up.recipes.count(recipe) == 1
    assert (out / "split.parquet").read_bytes() == before
    assert made_up.checks == 2


def test_failures_are_those_of_their_trials(made_up, pictures, recipe, tmp_path):
    def loss(recipe):
        if recipe.head.hidden == 128:
            raise MemoryError("no room")
        if recipe.head.hidden == 512:
            raise InputError("the loss was not a number in epoch 2")
        return 0.5

    made_up.loss = loss
    study = search(pictures, tmp_path / "study", recipe, trials=12)
    failed = study.trials.filter(pl.col("state") == "failed")
    assert 0 < len(failed) < 12
    assert set(failed["reason"]) <= {"MemoryError: no room", "the loss was not a number in epoch 2"}
    assert study.trial == 0


def test_a_study_in_which_nothing_works_says_why(made_up, pictures, recipe, tmp_path):
    def loss(recipe):
        raise MemoryError("no room")

    made_up.loss = loss
    with pytest.raises(InputError, match="no room"):
        search(pictures, tmp_path / "study", recipe, trials=50)
    assert len(made_up.recipes) < 12


def test_worse_trials_are_pruned(made_up, pictures, recipe, tmp_path):
    made_up.loss = lambda recipe: 0.5 if len(made_up.recipes) < 7 else 3.0
    study = search(pictures, tmp_path / "study", recipe, trials=14)
    assert (study.trials["state"] == "pruned").any()
    assert study.trials.filter(pl.col("state") == "pruned")["log_loss"].is_null().all()


def test_no_trial_is_begun_that_would_not_end(made_up, pictures, recipe, tmp_path):
    made_up.seconds = 1000.0
    study = search(pictures, tmp_path / "study", recipe, budget="10m", trials=None)
    assert made_up.recipes == [recipe]
    assert str(study).startswith("1 trial: 1 ended; ")
    assert "longer --budget" in study.notes[-1]
    assert made_up.checks == 1


def test_ctrl_c_keeps_the_study(made_up, pictures, recipe, tmp_path):
    def loss(recipe):
        if len(made_up.recipes) == 4:
            raise KeyboardInterrupt
        return 0.5

    made_up.loss = loss
    out = tmp_path / "study"
    with pytest.raises(KeyboardInterrupt):
        search(pictures, out, recipe)
    assert made_up.checks == 0
    assert (out / "recipe.yaml").is_file()
    assert pl.read_parquet(out / "trials.parquet")["reason"].to_list().count("interrupted") == 1
    assert len(search(pictures, out, recipe, trials=2, resume=True).trials) == 6


def test_ctrl_c_before_a_trial_says_what_is_kept_and_how_to_go_on(made_up, pictures, tmp_path, monkeypatch, capsys):
    def said():
        streams = capsys.readouterr()
        return " ".join((streams.out + streams.err).split())

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    out, small = (
        tmp_path / "study",
        ["--weights", "thin", "--image-size", "32", "--near-copies", "ignore", "--pool", "avg"],
    )
    words = ["tune", str(pictures), "--budget", "1h", "-o", str(out), "--trials", "1", *small]
    with monkeypatch.context() as patch:
        patch.setattr("greffon.searching.ground.Ground.prepare", interrupted)
        assert main(words) == INTERRUPTED
    text = said()
    assert "interrupted before the study began" in text
    assert "to go on" not in text
    with monkeypatch.context() as patch:
        patch.setattr(made_up, "loss", interrupted)
        assert main(words) == INTERRUPTED
    text = said()
    assert f"the study in {out} is kept, with 0 trials that ended" in text
    command = text.partition("to go on: greffon ")[2].removesuffix(" interrupted")
    assert main(shlex.split(command)) == 0
    assert "2 trials: 1 ended, 1 failed" in said()


@pytest.mark.parametrize("budget", ["", "soon", "0m", "-5m", "20", "5x", 0, True])
def test_budgets_that_are_none(pictures, recipe, tmp_path, budget):
    with pytest.raises(InputError, match="budget"):
        search(pictures, tmp_path / "study", recipe, budget=budget)
    assert not (tmp_path / "study").exists()


def test_bad_options(pictures, recipe, tmp_path):
    with pytest.raises(InputError, match="trials"):
        search(pictures, tmp_path / "study", recipe, trials=0)
    with pytest.raises(InputError, match="held_out"):
        search(pictures, tmp_path / "study", recipe, held_out=1.5)
    with pytest.raises(InputError, match="no study"):
        search(pictures, tmp_path / "study", recipe, resume=True)
    with pytest.raises(InputError, match="is not there"):
        search(pictures, tmp_path / "missing" / "study", recipe)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "something").touch()
    with pytest.raises(InputError, match="there already"):
        search(pictures, tmp_path / "full", recipe)
    with pytest.raises(InputError, match="no-such-folder"):
        search(tmp_path / "no-such-folder", tmp_path / "study", recipe)
    assert not (tmp_path / "study").exists()


def test_other_data_or_another_recipe_is_another_study(made_up, pictures, recipe, tmp_path):
    import shutil

    out = tmp_path / "study"
    search(pictures, out, recipe, trials=2)
    with pytest.raises(InputError, match="--resume"):
        search(pictures, out, recipe)
    with pytest.raises(InputError, match="other options"):
        search(pictures, out, recipe.replace(seed=1), resume=True)
    other = shutil.copytree(pictures, tmp_path / "other")
    (other / "above" / "3.png").unlink()
    with pytest.raises(DataError, match="not the pictures of the study"):
        search(other, out, recipe, resume=True)
    (out / "study.json").write_text("{}")
    with pytest.raises(InputError, match="greffon-study-1"):
        search(pictures, out, recipe, resume=True)


@pytest.mark.large
def test_a_real_study(pictures, recipe, tmp_path):
    from greffon.bundle.predict import load
    from greffon.evaluation.measures import measure
    from greffon.searching.final import FinalCheck

    given = recipe.replace(near_copies="together")
    study = search(pictures, tmp_path / "study", given, trials=3)
    states = study.trials["state"].to_list()
    assert states.count("ended") >= 1
    assert "failed" not in states, study.trials["reason"].to_list()
    assert isinstance(study.check, FinalCheck)
    assert study.check.verdict in {"better", "worse", "not shown", "same recipe"}
    assert study.check.sentence() in str(study)
    run = load(study.path / "run")
    sides = run.bundle.split
    written = pl.read_parquet(study.path / "split.parquet")
    unseen = set(written.filter(pl.col("split") == "test")["hash"])
    assert unseen == set(sides.filter(pl.col("split") == "test")["hash"])
    answers = pl.read_parquet(study.path / "unseen.parquet")
    assert set(answers["hash"]) == unseen
    assert study.check.pictures == len(unseen) == 10
    best = measure(answers.filter(pl.col("recipe") == "best").drop("recipe"))
    assert (best.accuracy, best.log_loss) == (study.check.best.accuracy, study.check.best.log_loss)


@pytest.mark.large
def test_poolings_and_depths_and_views_are_on_one_pass(pictures, recipe, tmp_path, monkeypatch):
    """Features of all blocks too: what passes a deeper cut is made of what the pass kept."""
    from greffon.frozen.engine import Engine
    from greffon.pictures.catalog import Catalog
    from greffon.searching.ground import Ground
    from greffon.searching.space import recipe_at
    from greffon.searching.trial import run_trial
    from greffon.training.start import find_start

    rows = []
    run = Engine.run

    def counted(self, inputs):
        if inputs[0].shape[1:] == (64, 64, 3):
            rows.append(len(inputs[0]))
        return run(self, inputs)

    monkeypatch.setattr(Engine, "run", counted)
    base = recipe.replace(image_size=64, near_copies="together")
    ground = Ground.prepare(
        Catalog.from_folder(pictures), base, find_start("thin"), share=0.2, written=None, reporter=Reporter()
    )
    assert ground.pools == ("avg", "grid2", "blocks2")
    assert sum(rows) == 48
    point = {"hidden": 0, "dropout": 0.0, "learning_rate": 1e-4, "head_rate": 1e-3, "weight_decay": 0.01}
    for views in (1, 2):
        ground.fill(views, Reporter())
        before = sum(rows)
        for pool, depth in (("blocks2", "none"), ("grid2", "conv5"), ("blocks2", "conv5_block3"), ("blocks2", "conv5")):
            tried = recipe_at(point | {"pool": pool, "depth": depth, "views": views}, base)
            tried = tried.replace(stages=tuple(it.replace(epochs=1) for it in tried.stages))
            outcome = run_trial(tried, ground.shared, Reporter())
            assert outcome.pool == pool
            assert sum(rows) == before, (pool, depth, views)
