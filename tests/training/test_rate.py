"""The range test and what is read from its curve; the door's own tests are in tests/searching."""

from __future__ import annotations

import keras
import numpy as np
import polars as pl
import pytest

from greffon.errors import InputError
from greffon.recipe import Stage
from greffon.training.feed import RowFeed
from greffon.training.rate import FoundRate, find_rate, range_test, rates_to_try
from greffon.training.rate_curve import RateCurve, rates_between
from greffon.training.stage_tail import StageTail, compile_stage, values_of

RATES = rates_between(1e-6, 1.0, 100)


def losses(turn, seed=0):
    """Flat up to 1e-4, down to 0.4 at `turn`, then up; with a little noise."""
    level = np.interp(np.log10(RATES), [-6, -4, np.log10(turn), 0], [2.0, 2.0, 0.4, 8.0])
    return level * np.random.default_rng(seed).normal(1, 0.02, len(level))


@pytest.mark.parametrize("turn", [1e-3, 1e-2])
def test_what_is_suggested_lies_in_the_fall(turn):
    for seed in range(5):
        curve = RateCurve.of(RATES, losses(turn, seed))
        assert 1e-4 < curve.suggestion < turn
        assert 1e-4 / 2 < curve.steepest < turn
        assert curve.rises > turn
        assert f"{curve.suggestion:.1e}" in curve.reason


def test_where_nothing_falls_a_tenth_of_what_breaks_is_suggested():
    rising = np.interp(np.log10(RATES), [-6, -2, 0], [0.5, 0.5, 5.0])
    curve = RateCurve.of(RATES, rising)
    assert curve.valley is None
    assert curve.suggestion == pytest.approx(curve.rises / 10, rel=0.01)
    assert RateCurve.of(RATES, [0.5] * 100).suggestion is None


def test_too_few_steps_say_nothing():
    assert RateCurve.of(RATES[:4], [1.0, 0.9, 0.8, 0.7]).suggestion is None


def test_a_line_for_the_terminal_marks_the_suggestion():
    curve = RateCurve.of(RATES, losses(1e-2))
    bars, mark, axis = curve.line(width=50).splitlines()
    assert len(bars) == 50
    assert set(bars) <= set("▁▂▃▄▅▆▇█")
    place = mark.index("^")
    assert bars[place] in bars[place - 3 : place + 3]
    assert 15 < place < 35  # two thirds of the axis' six decades
    assert axis.startswith("1e-06")


@pytest.mark.parametrize("ending", ["png", "svg"])
def test_the_plot_is_a_picture(tmp_path, ending):
    file = RateCurve.of(RATES, losses(1e-2)).plot(tmp_path / f"rates.{ending}")
    start = file.read_bytes()[:200]
    assert start.startswith(b"\x89PNG") if ending == "png" else b"<?xml" in start


@pytest.mark.parametrize("name", ["rates.pdf", "missing/rates.png"])
def test_a_plot_goes_into_a_known_kind_of_file(tmp_path, name):
    with pytest.raises(InputError, match=r"\.png or \.svg"):
        RateCurve.of(RATES, losses(1e-2)).plot(tmp_path / name)


@pytest.mark.parametrize(
    "ends",
    [(0, 1, 50), (1e-3, 1e-4, 50), (float("nan"), 1, 50), (1e-6, float("inf"), 50), (1e-6, 1, 3), (1e-6, 1, 2.5)],
)
def test_rates_that_are_none(ends):
    with pytest.raises(InputError, match="must"):
        rates_between(*ends)


def test_the_table_and_the_record_hold_every_step():
    curve = RateCurve.of(RATES, losses(1e-2))
    assert curve.table.schema == {"learning_rate": pl.Float64, "loss": pl.Float64, "smoothed": pl.Float64}
    assert len(curve.table) == len(curve.to_dict()["losses"]) == 100
    assert FoundRate(0.1, "", {1e-3: float("inf")}).to_dict()["tried_learning_rates"] == {"0.001": None}


@pytest.fixture(scope="module")
def tail():
    """A small network behind no trunk, compiled for a stage, and what it trains on."""
    import greffon
    from greffon.frozen.cut import find_cut

    keras.utils.set_random_seed(0)
    inputs = keras.Input((6,))
    hidden = keras.layers.Dense(16, activation="relu", trainable=False)(inputs)
    hidden = keras.layers.Dropout(0.1)(hidden)
    model = keras.Model(inputs, keras.layers.Dense(3, activation="softmax")(hidden))
    stage = greffon.Stage(name="head", learning_rate="range", batch_size=8, epochs=2)
    compile_stage(model, stage, several_labels=False)
    random = np.random.default_rng(0)
    x = random.normal(size=(40, 6)).astype("float32")
    y = np.eye(3, dtype="float32")[x[:, :3].argmax(1)]

    class Rows:
        shapes, dtypes, in_memory = [(6,)], [np.dtype("float32")], True

        def __len__(self):
            return len(x)

        def gather(self, rows):
            return [x[rows]]

    cut = find_cut(model).without_trunk()

    def feed(shuffle=True):
        return RowFeed(Rows(), y=y, batch_size=8, shuffle=shuffle)

    return StageTail(model, cut, jit_compile=False), stage, {"train": feed, "validation": lambda: feed(False)}


def test_a_range_test_leaves_everything_as_it_was_and_is_repeatable(tail):
    tail, _, feeds = tail
    before = values_of(tail)
    first = range_test(tail, feeds["train"], seed=3, steps=60)
    for variable, value in before:
        np.testing.assert_array_equal(value, keras.ops.convert_to_numpy(variable), err_msg=variable.path)
    assert range_test(tail, feeds["train"], seed=3, steps=60).losses == first.losses
    assert len(first.losses) > 30
    assert min(first.smoothed) < 0.9 * first.smoothed[0]


def test_a_stage_that_asks_for_it_gets_its_suggestion(tail):
    tail, stage, feeds = tail
    found = find_rate(tail, stage, feeds, seed=3)
    assert found.curve.suggestion == found.rate
    assert float(keras.ops.convert_to_numpy(tail.optimizer.learning_rate)) == pytest.approx(found.rate)
    assert found.to_dict()["rate_curve"]["suggestion"] == found.rate
    tried = find_rate(tail, stage.replace(learning_rate="auto"), feeds, seed=3)
    assert tried.rate == min(tried.losses, key=tried.losses.get)
    assert len(tried.to_dict()["tried_learning_rates"]) == 3


def test_learning_rates_of_stages_are_numbers_or_known_words():
    assert Stage(learning_rate="range").learning_rate == "range"
    with pytest.raises(InputError):
        Stage(learning_rate="best")


def test_sgd_tries_rates_of_its_own_and_smaller_ones_with_momentum():
    assert rates_to_try(Stage(optimizer="adam")) == (3e-5, 1e-4, 3e-4)
    assert rates_to_try(Stage(optimizer="sgd")) == (0.01, 0.03, 0.1)
    assert rates_to_try(Stage(optimizer="sgd", momentum=0.9)) == (0.001, 0.003, 0.01)
