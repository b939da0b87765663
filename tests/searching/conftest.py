from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

SIDE = 32


@pytest.fixture(scope="session")
def pictures(tmp_path_factory):
    """Labelled pictures of two kinds, 24 each: the one bright above, the other below; not to be changed."""
    from PIL import Image

    folder = tmp_path_factory.mktemp("two-kinds")
    random = np.random.default_rng(0)
    for place, name in enumerate(("above", "below")):
        (folder / name).mkdir()
        for number in range(24):
            pixels = random.integers(0, 120, (SIDE, SIDE, 3), dtype=np.uint8)
            pixels[16 * place : 16 * place + 16] += 90
            Image.fromarray(pixels).save(folder / name / f"{number}.png")
    return folder


@pytest.fixture
def recipe():
    import greffon

    return greffon.Recipe(
        weights="thin", image_size=SIDE, near_copies="ignore", head=greffon.Head(),
        stages=[greffon.Stage(name="probe", optimizer="lbfgs")],
    )  # fmt: skip


@pytest.fixture
def made_up(monkeypatch):
    """Trials without a network: `made_up.loss` is called with each recipe, and gives its loss or raises."""
    from greffon.pictures.split import apply_split
    from greffon.searching import final, tune
    from greffon.searching.ground import Ground
    from greffon.searching.held_out import hold_out
    from greffon.searching.trial import Outcome, StageTook

    told = SimpleNamespace(loss=lambda recipe: 0.5 + abs(recipe.head.dropout - 0.3), recipes=[], seconds=0.0, checks=0)

    def prepare(catalog, recipe, start, *, share, written, reporter):
        sides = hold_out(catalog, share=share, validation=recipe.validation, seed=recipe.seed)
        sides = sides if written is None else apply_split(catalog, written)
        return SimpleNamespace(
            shared=SimpleNamespace(catalog=sides), together=[], pools=("avg", "grid2"), tails={"conv5": 100},
            trunk_seconds=0.0, notes=(), fill=lambda views, reporter: None,
        )  # fmt: skip

    def run_trial(recipe, shared, reporter):
        told.recipes.append(recipe)
        loss = told.loss(recipe)
        for stage in recipe.stages:
            epochs = 1 if recipe.solves(stage) else stage.epochs
            for epoch in range(1, epochs + 1):
                reporter.epoch(stage.name, epoch, epochs, {"loss": loss, "val_loss": loss}, True)
        took = tuple(StageTook("none", 1, told.seconds) for _ in recipe.stages)
        return Outcome(loss, 0.9, told.seconds, 0.0, took, recipe.head.pool)

    def final_check(best, default, trainable, *, folder, reporter):
        import polars as pl

        told.checks += 1
        return final.FinalCheck(3, _measures(), None, None, None, None, None, "same recipe"), pl.DataFrame({"a": [1]})

    monkeypatch.setattr(Ground, "prepare", prepare)
    monkeypatch.setattr("greffon.searching.trial.run_trial", run_trial)
    monkeypatch.setattr(tune, "final_check", final_check)
    return told


def _measures():
    from greffon.evaluation.measures import measure
    from greffon.evaluation.table import prediction_table

    probabilities = np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4]])
    names = ["above", "below"]
    return measure(prediction_table(["a", "b", "c"], [None] * 3, ["above", "below", "below"], probabilities, names))
