"""The solved head in a training, the learning rate that is looked for, and the stage that has to prove itself."""

import json
from functools import partial

import numpy as np
import polars as pl
import pytest
from PIL import Image

import greffon
from greffon.backbone.blocks import kept_channels
from greffon.errors import InputError
from greffon.evaluation.probe import search, solve
from greffon.training import pooling, solved, solver
from greffon.training.progress import Reporter
from greffon.training.solved import improvement, picture_losses

PROBE = greffon.Stage(name="probe", optimizer="lbfgs")
RECIPE = greffon.Recipe(weights="thin", image_size=64, stages=(PROBE,), validation=0.25)


@pytest.fixture(scope="module", autouse=True)
def poolings_of_the_last_map(short_trainings):
    """Features of all blocks would win here, and most tests are about what is behind an average."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pooling, "COMPARED", ("avg", "grid2", "grid3"))
        yield


def test_features_of_all_blocks_are_compared_of_so_many_pictures(monkeypatch):
    monkeypatch.setattr(pooling, "COMPARED", ("avg", "grid2", "grid3", "blocks2"))
    assert pooling.to_compare(greffon.Recipe(), (7, 7), 5000) == ("avg", "grid2", "grid3", "blocks2")
    assert pooling.to_compare(greffon.Recipe(), (7, 7), 5001) == ("avg", "grid2", "grid3")
    assert pooling.to_compare(greffon.Recipe(), (1, 1), 10) == ("avg",)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Three classes of coarse and fine texture, hard enough that no head is sure."""
    folder = tmp_path_factory.mktemp("textures")
    random = np.random.default_rng(0)
    for cells in (5, 6, 7):
        (folder / f"cells {cells}").mkdir()
        for number in range(16):
            grid = random.integers(0, 255, (cells, cells, 3), dtype=np.uint8)
            Image.fromarray(grid).resize((64, 64), Image.Resampling.BICUBIC).save(
                folder / f"cells {cells}" / f"{number:02}.png"
            )
    return folder


def _train(pictures, out, recipe):
    return greffon.train(pictures, out=out, recipe=recipe, reporter=Reporter())


def _record(run):
    return json.loads((run.path / "run.json").read_text())


def _class_names(run):
    return list(run.load().class_names)


@pytest.fixture(scope="module")
def probe_run(pictures, tmp_path_factory):
    return _train(pictures, tmp_path_factory.mktemp("runs") / "probe", RECIPE)


def test_the_models_dense_layer_is_the_solution(probe_run, pictures):
    import keras

    model = keras.models.load_model(probe_run.path / "model.keras")
    features = keras.Model(model.input, model.get_layer("head_pool").output)
    split = pl.read_parquet(probe_run.path / "split.parquet")
    sides = {}
    for side in ("train", "val"):
        rows = split.filter(pl.col("split") == side)
        pixels = np.stack([np.asarray(Image.open(pictures / path)) for path in rows["path"]])
        names = sorted(set(split["label"]))
        targets = np.eye(3)[[names.index(label) for label in rows["label"]]]
        sides[side] = np.asarray(features(pixels.astype(np.float32))), targets, pixels
    strength = _record(probe_run)["stages"][0]["penalty"]["C"]
    # Features are kept in float16, so the solutions agree to that.
    expected = solve(*sides["train"][:2], strengths=[strength])
    got = np.asarray(model(sides["val"][2].astype(np.float32)))
    np.testing.assert_allclose(got, expected.probabilities(sides["val"][0]), atol=5e-3)
    layer = model.get_layer("head_output")
    kernel, bias = (np.asarray(weight) for weight in layer.get_weights())
    logits = sides["val"][0] @ kernel + bias
    exact = np.exp(logits - logits.max(1, keepdims=True))
    np.testing.assert_allclose(got, exact / exact.sum(1, keepdims=True), atol=1e-5)


def test_the_penalty_is_written_down(probe_run):
    stage = _record(probe_run)["stages"][0]
    assert stage["penalty"]["C"] > 0
    assert stage["penalty"]["held_out_loss"] > 0
    assert stage["epochs"] == 1
    history = pl.read_csv(probe_run.path / "history.csv") if (probe_run.path / "history.csv").exists() else None
    assert history is None or len(history) == 1


def test_two_runs_give_the_same_bits(probe_run, pictures, tmp_path):
    again = _train(pictures, tmp_path / "again", RECIPE)
    assert _record(again)["weights_sha256"] == _record(probe_run)["weights_sha256"]


def test_a_learning_rate_is_looked_for_and_a_stage_judged(pictures, tmp_path):
    fine = greffon.Stage(
        name="block", unfreeze="conv5_block3", learning_rate="auto", epochs=3, only_if_better=True, batch_size=16
    )
    run = _train(pictures, tmp_path / "run", RECIPE.replace(stages=(PROBE, fine)))
    stage = _record(run)["stages"][1]
    assert stage["chosen_learning_rate"] in {3e-5, 1e-4, 3e-4}
    needed = solved.sure_enough(run.summary["pictures"]["val"])
    assert needed == 0.95  # of so few
    assert stage["kept"] == (stage["better_in_resamples"] >= needed)


@pytest.mark.parametrize("share", [pytest.param(0.0, marks=pytest.mark.large), 1.0])
def test_a_stage_that_does_not_help_is_taken_back(probe_run, pictures, tmp_path, monkeypatch, share):
    monkeypatch.setattr("greffon.training.fine_tuning.improvement", lambda *_, **__: share)
    fine = greffon.Stage(name="block", unfreeze="conv5_block3", epochs=1, only_if_better=True)
    run = _train(pictures, tmp_path / "run", RECIPE.replace(stages=(PROBE, fine)))
    same = _record(run)["weights_sha256"] == _record(probe_run)["weights_sha256"]
    assert same == (share < solved.SURE_ENOUGH)
    assert any("is taken back" in note for note in run.summary["notes"]) == same


def test_improvement_is_a_share_of_resamples():
    random = np.random.default_rng(0)
    before = random.uniform(0, 2, 100)
    assert improvement(before, before - 0.1, seed=0) == 1.0
    assert improvement(before, before + 0.1, seed=0) == 0.0
    mixed = improvement(before, before + random.normal(size=100) * 0.5, seed=0)
    assert 0.02 < mixed < 0.98
    assert improvement(before, before - 0.1, seed=1) == 1.0


def test_losses_are_those_of_keras():
    import keras

    random = np.random.default_rng(0)
    probabilities = random.dirichlet(np.ones(4), 20).astype(np.float32)
    targets = np.eye(4, dtype=np.float32)[random.integers(0, 4, 20)]
    for several, loss in ((False, keras.losses.CategoricalCrossentropy), (True, keras.losses.BinaryCrossentropy)):
        expected = np.asarray(loss(reduction="none")(targets, probabilities))
        np.testing.assert_allclose(picture_losses(probabilities, targets, several_labels=several), expected, rtol=1e-4)


def test_only_a_head_alone_is_solved():
    with pytest.raises(
        InputError, match="lbfgs solves a head on fixed features, so unfreeze must be none, got 'conv5'"
    ):
        greffon.Recipe(stages=(PROBE.replace(unfreeze="conv5"),))


def test_a_head_that_is_not_linear_is_trained_instead(pictures, tmp_path):
    recipe = RECIPE.replace(head=greffon.Head(pool="auto", hidden=8), stages=(PROBE.replace(epochs=2),))
    stage = _record(_train(pictures, tmp_path / "run", recipe))["stages"][0]
    assert stage["epochs"] == 2
    assert "penalty" not in stage


def test_the_pooling_is_chosen_on_held_out_pictures(pictures, tmp_path):
    recipe = RECIPE.replace(head=greffon.Head(pool="auto"), image_size=96)
    run = _train(pictures, tmp_path / "run", recipe)
    pool = _record(run)["pool"]
    assert set(pool["held_out_loss"]) == {"avg", "grid2", "grid3"}
    assert pool["chosen"] == min(pool["held_out_loss"], key=pool["held_out_loss"].get)
    cells = {"avg": 1, "grid2": 4, "grid3": 9}[pool["chosen"]]
    assert run.load().bundle.model().get_layer("head_output").kernel.shape == (1024 * cells, 3)
    # One pass of the trunk gave all of them.
    assert run.summary["trunk"]["computed"] == 48
    assert _record(run)["trunk"]["reused"] == 0


@pytest.mark.large
def test_a_small_map_leaves_fewer_poolings(pictures, tmp_path):
    run = _train(pictures, tmp_path / "run", RECIPE.replace(head=greffon.Head(pool="auto")))
    assert set(_record(run)["pool"]["held_out_loss"]) == {"avg", "grid2"}


@pytest.fixture(scope="module")
def blocks_run(pictures, tmp_path_factory):
    """Head2Toe, and the last block behind it."""
    fine = greffon.Stage(name="block", unfreeze="conv5_block3", epochs=1, batch_size=16)
    recipe = RECIPE.replace(head=greffon.Head(pool="blocks2", kept_share=0.02), stages=(PROBE, fine))
    return _train(pictures, tmp_path_factory.mktemp("runs") / "blocks", recipe)


def test_channels_of_all_blocks_are_chosen_and_the_trunk_runs_once(blocks_run, pictures):
    import keras

    record = _record(blocks_run)
    chosen = record["pool"]
    # 4 cells of 3 x 128, 4 x 256, 6 x 512 and 3 x 1024 channels.
    assert (chosen["chosen"], chosen["of"], chosen["channels"]) == ("blocks2", 15872, 317)
    assert list(chosen["held_out_loss"]) == ["0.02"]
    assert record["trunk"]["computed"] + record["trunk"]["reused"] == 48, "the kept channels came from all of them"
    assert record["stages"][0]["cut"] == "head_blocks"
    model = keras.models.load_model(blocks_run.path / "model.keras")
    assert model.get_layer("head_output").kernel.shape == (317, 3)
    assert sum(len(numbers) for numbers in kept_channels(model).values()) == 317
    # What was handed over from all channels is what the plain model says.
    table = pl.read_parquet(blocks_run.path / "validation.parquet")
    pixels = np.stack([np.asarray(Image.open(pictures / path)) for path in table["path"]]).astype(np.float32)
    said = np.stack([table[f"p_{name}"].to_numpy() for name in _class_names(blocks_run)], axis=1)
    np.testing.assert_allclose(np.asarray(model(pixels)), said, atol=5e-3)


def test_the_bundle_of_chosen_channels_predicts_alike_without_tensorflow(blocks_run, pictures):
    files = sorted(pictures.glob("*/*.png"))[::7]
    predictor = greffon.load(blocks_run.path)
    said, errors = predictor.probabilities(files)
    assert not any(errors)
    model = predictor.keras()
    pixels = np.stack([np.asarray(Image.open(file)) for file in files]).astype(np.float32)
    np.testing.assert_allclose(np.asarray(model(pixels)), said, atol=1e-5)
    assert (blocks_run.path / "model.onnx").exists()


def test_the_penalty_of_chosen_channels_is_not_searched_on_them(blocks_run):
    stage = _record(blocks_run)["stages"][0]
    assert stage["penalty"]["held_out_loss"] is None, "the channels were chosen by the pictures it would hold out"


@pytest.mark.large
def test_a_run_with_other_channels_gives_no_head(blocks_run, pictures, tmp_path):
    run = greffon.Recipe(weights=str(blocks_run.path), image_size=64, stages=(PROBE,))
    head = greffon.Head(pool="blocks2", channels=tuple(range(317)))
    found = _train(pictures, tmp_path / "run", run.replace(head=head))
    assert any("its head is built otherwise" in note for note in found.summary["notes"])


def test_a_problem_is_solved_once(pictures, tmp_path, monkeypatch):
    solutions = []
    monkeypatch.setattr(solver, "search", lambda *args, **options: solutions.append(args) or search(*args, **options))
    _train(pictures, tmp_path / "run", RECIPE.replace(head=greffon.Head(pool="auto")))
    assert len(solutions) == 2, "avg and grid2 are compared; stage and baseline have one of them each"


def test_very_many_pictures_are_read_in_blocks(probe_run, pictures, tmp_path, monkeypatch):
    whole = dict(_record(probe_run)["stages"][0]["penalty"])
    streamed, read = [], solver.solve_streamed

    def in_blocks(read_rows, targets, **options):
        streamed.append(options | {"strengths": [whole["C"]], "block_bytes": 4 * 1024 * 5})
        return read(read_rows, targets, **streamed[-1])

    monkeypatch.setattr(solver, "solve_streamed", in_blocks)
    monkeypatch.setattr("greffon.training.job.Solver", partial(solver.Solver, most_bytes=0))
    run = _train(pictures, tmp_path / "run", RECIPE.replace(head=greffon.Head()))
    assert len(streamed) == 1, "the baseline is the same problem"
    ours, theirs = (pl.read_parquet(it.path / "validation.parquet").select(pl.col("^p_.*$")) for it in (run, probe_run))
    np.testing.assert_allclose(ours.to_numpy(), theirs.to_numpy(), atol=2e-3)


def test_many_trainings_take_stages_that_are_trained_by_steps():
    import keras

    model = keras.Sequential([keras.Input((4, 4, 3)), keras.layers.Flatten(), keras.layers.Dense(2)])
    x, y = np.zeros((4, 4, 4, 3)), np.eye(2)[[0, 1, 0, 1]]
    with pytest.raises(InputError, match="must be trained by steps"):
        greffon.fit_many(model, [PROBE], x, y, validation_data=(x, y), verbose=0)


def test_the_run_is_calibrated_and_set_beside_baselines(probe_run):
    record = _record(probe_run)
    assert record["calibration"]["fitted_on"] in {"out-of-fold", "nothing"}, "there are few validation pictures"
    assert set(record["baselines"]) == {"majority class", "nearest neighbour", "probe", "this run"}
    # The model is the probe, on features in float16.
    ours, probe = record["baselines"]["this run"], record["baselines"]["probe"]
    assert ours["log_loss"] == pytest.approx(probe["log_loss"], rel=0.05)
    assert "nearest neighbour" in str(probe_run)


def test_without_a_test_the_headline_is_of_repeated_folds(probe_run, blocks_run):
    folds = _record(probe_run)["folds"]
    assert (folds["count"], folds["folds"], folds["repeats"]) == (48, 5, 3)
    low, high = folds["accuracy_interval_95"]
    assert low < folds["accuracy"] < high
    first, second, *_ = str(probe_run).splitlines()
    assert first.startswith("3 x 5 folds of 48 pictures")
    assert second.startswith("validation accuracy")
    assert "flattering" not in second, "a solved head chooses nothing by these pictures"
    assert "of the solved head alone" in str(blocks_run).splitlines()[0], "its last block is trained as well"


def test_with_many_pictures_it_is_said_what_gives_an_honest_number(pictures, monkeypatch):
    from greffon.pictures.catalog import Catalog
    from greffon.training import first_pass

    monkeypatch.setattr(first_pass, "MOST_FOLDED", 3)
    fine_tuned = RECIPE.replace(stages=(PROBE, greffon.Stage(name="block", unfreeze="conv5_block3")))
    for recipe, said in ((RECIPE, "greffon evaluate RUN DATA"), (fine_tuned, "into test/")):
        found, about = first_pass.folds_of(
            None, Catalog.from_folder(pictures), [], recipe, again="greffon evaluate RUN DATA"
        )
        assert found is None
        assert said in about
