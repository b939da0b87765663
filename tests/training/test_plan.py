from __future__ import annotations

import dataclasses
import json

import pytest

from greffon.errors import DataError, InputError
from greffon.pictures.demo import demo_pictures
from greffon.recipe import Head, Recipe, Stage
from greffon.training.estimate import (
    SEGMENTS,
    Int8Times,
    Measured,
    SegmentTimes,
    SolveTimes,
    StageFacts,
    Workload,
    estimate,
)
from greffon.training.plan import parse_budget, plan
from greffon.training.progress import Reporter
from greffon.training.ways import Plan, PlanRow, choose

SMALL = Recipe(weights="thin", image_size=32, stages=(Stage(epochs=3), Stage(name="more", unfreeze="conv5", epochs=2)))


@pytest.fixture(scope="session")
def pictures(tmp_path_factory):
    return demo_pictures(tmp_path_factory.mktemp("demo"))


@pytest.fixture(scope="session")
def found(pictures, tmp_path_factory):
    """A plan that was measured for as short as possible."""
    patch = pytest.MonkeyPatch()
    patch.setenv("GREFFON_CACHE", str(tmp_path_factory.mktemp("cache")))
    with patch.context():
        return plan(pictures, recipe=SMALL, budget="10h", seconds=1, reporter=Reporter())


# --- measured -------------------------------------------------------------------------------------------------------


def test_there_is_a_row_for_every_depth_and_the_deeper_takes_longer(found):
    plain = [row for row in found.rows if (row.precision, row.views) == ("fp32", 1)]
    assert [row.name for row in plain] == ["head", "last-block", "conv5", "conv4", "all"]
    assert all(row.first >= row.rerun > 0 and row.memory > 0 for row in plain)
    assert [row.first for row in plain] == sorted(row.first for row in plain)


def test_the_flags_of_a_row_are_what_train_needs_for_it(found):
    flags = {row.name: row.flags for row in found.rows if (row.precision, row.views) == ("fp32", 1)}
    assert flags == {
        "head": "--unfreeze none",
        "last-block": "--unfreeze conv5_block3",
        "conv5": "",
        "conv4": "--unfreeze conv4,conv5",
        "all": "--unfreeze all",
    }
    assert {row.flags for row in found.rows if row.name == "head" and row.precision == "fp32"} == {
        "--unfreeze none",
        "--unfreeze none --views 4",
    }


def test_activations_take_the_bytes_that_the_store_keeps(found):
    rows = {(row.name, row.precision, row.views): row for row in found.rows}
    train, held_out = found.pictures["train"], found.pictures["val"]
    pooled = 1024 * 2  # thin, float16
    assert rows["head", "fp32", 1].disk == (train + held_out) * pooled
    assert rows["head", "fp32", 4].disk == (4 * train + held_out) * pooled
    # One pass fills the head's cut and that of conv5: 1 x 1 x 512 numbers, of 2 x 2 the even positions.
    assert rows["conv5", "fp32", 1].disk == (train + held_out) * (pooled + 512 * 2)


def test_what_had_no_time_is_called_an_estimate(found):
    assert not next(row for row in found.rows if row.name == "all").measured
    assert "scaled" in str(found)
    assert "about" in str(found)


def test_a_plan_is_told_to_programs(found):
    told = json.loads(json.dumps(found.to_dict()))
    assert told["pictures"] == {"train": 480, "val": 120}
    assert told["choice"]["name"] == found.choice.name
    assert set(told["measured"]["segments"]) == set(SEGMENTS)
    assert told["rows"][0]["parts"].keys() == {
        "start", "scan", "trunk", "decode", "copies", "solve", "compile", "train", "end"
    }  # fmt: skip


def test_with_few_pictures_the_head_is_taken(found):
    assert found.choice.name == "head"
    assert "600 pictures" in found.why
    assert f"> {found.choice.name}" in str(found)


def test_int8_has_rows_or_a_reason(found):
    rows = [row for row in found.rows if row.precision == "int8"]
    assert bool(rows) != any("int8" in reason for reason in found.left_out)
    assert all("--precision int8" in row.flags for row in rows)


def test_a_recipe_of_ones_own_has_a_row_of_its_own(pictures):
    recipe = SMALL.replace(stages=(Stage(unfreeze="conv5_block2", epochs=1),), head=Head(hidden=8))
    found = plan(pictures, recipe=recipe, seconds=1, reporter=Reporter())
    assert found.rows[-1].name == "recipe"
    assert found.rows[-1].flags in {"", "--views 4", "--precision int8", "--precision int8 --views 4"}
    assert found.choice is None
    assert not found.why


def test_the_default_recipe_is_planned_as_it_trains(pictures, tmp_path_factory):
    """A solved head among three poolings, then the last block with a search for its learning rate, judged."""
    recipe = Recipe(weights="thin", image_size=96)
    found = plan(pictures, recipe=recipe, seconds=1, reporter=Reporter())
    rows = {row.name: row for row in found.rows if (row.precision, row.views) == ("fp32", 1)}
    assert set(found.times.solve) == {"avg", "grid2", "grid3", "blocks2"}
    assert found.times.copies > 0
    assert rows["head"].parts["train"] == rows["head"].parts["compile"] == 0.0
    assert rows["head"].parts["solve"] == pytest.approx(rows["last-block"].parts["solve"])
    assert rows["last-block"].parts["compile"] > 0
    assert rows["last-block"].flags == ""
    # Averages, 2x2 and 3x3 of 1024 channels in float16.
    assert rows["head"].disk == 600 * 2 * (1024 * (1 + 4 + 9) + 30_208)


# --- what is wrong with what is given -------------------------------------------------------------------------------


def test_a_folder_without_classes_is_refused(tmp_path):
    with pytest.raises(DataError):
        plan(tmp_path, recipe=SMALL, reporter=Reporter())
    with pytest.raises(InputError, match="no such folder"):
        plan(tmp_path / "nowhere", recipe=SMALL, reporter=Reporter())
    for name in "ab":
        (tmp_path / name).mkdir()
    with pytest.raises(DataError, match="0 pictures of 2 classes"):
        plan(tmp_path, recipe=SMALL, reporter=Reporter())


def test_a_folder_without_a_readable_picture_is_refused(tmp_path):
    for name in "ab":
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match="none of 2 pictures"):
        plan(tmp_path, recipe=SMALL, seconds=1, reporter=Reporter())


@pytest.mark.parametrize("seconds", [0, -1, float("nan"), float("inf"), "20"])
def test_a_time_for_measuring_that_is_none(pictures, seconds):
    with pytest.raises(InputError, match="seconds must be at least 1"):
        plan(pictures, recipe=SMALL, seconds=seconds, reporter=Reporter())


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("10m", 600), ("90s", 90), ("1h30m", 5400), ("1.5h", 5400), (" 2 h 5 min 1 s ", 7501), ("10 Min", 600), (7, 7)],
)
def test_budgets(text, seconds):
    assert parse_budget(text) == seconds


@pytest.mark.parametrize("text", ["", "10", "m", "ten minutes", "-5m", "0m", "5m1h", "nan", 0, -3, True, float("inf")])
def test_what_is_no_budget(text):
    with pytest.raises(InputError, match="budget must be a time above 0 such as 10m"):
        parse_budget(text)


# --- the choice -----------------------------------------------------------------------------------------------------


def row(name, minutes, precision="fp32", views=1, note=""):
    return PlanRow(name, precision, views, 60 * minutes, 30 * minutes, 1, 1, "", True, {}, note)


ROWS = [
    row("head", 1),
    row("head", 3, views=4),
    row("head", 0.5, "int8"),
    row("last-block", 4),
    row("conv5", 11),
    row("conv5", 9, "int8"),
    row("all", 60),
]


def test_without_a_budget_nothing_is_chosen():
    assert choose(ROWS, 5000, None) == (None, "")


@pytest.mark.parametrize(
    ("minutes", "name", "precision"),
    [
        (100, "all", "fp32"),
        (12, "conv5", "fp32"),
        (10, "conv5", "int8"),
        (5, "last-block", "fp32"),
        (0.6, "head", "int8"),
    ],
)
def test_the_deepest_that_fits(minutes, name, precision):
    choice, why = choose(ROWS, 5000, 60 * minutes)
    assert (choice.name, choice.precision, choice.views) == (name, precision, 1)
    assert "deepest that fits" in why


def test_few_pictures_take_the_head_and_hear_what_else_fits():
    choice, why = choose(ROWS, 500, 600)
    assert (choice.name, choice.precision, choice.views) == ("head", "fp32", 1)
    assert "conv5 int8 fits too (about 9 min)" in why
    choice, why = choose(ROWS, 500, 90)
    assert choice.name == "head"
    assert "deepest that fits" in why


def test_where_nothing_fits_the_nearest_is_named():
    choice, why = choose(ROWS, 5000, 10)
    assert choice is None
    assert why == "nothing fits into 10 s; nearest is head int8 with about 30 s"


def test_what_the_disk_cannot_hold_is_not_chosen():
    choice, _ = choose([row("head", 1), row("conv5", 2, note="too large")], 5000, 600)
    assert choice.name == "head"


# --- the formula ----------------------------------------------------------------------------------------------------


def measured(**changes):
    segment = SegmentTimes(trunk=0.01, train=0.002, validation=0.001, compile=1.0)
    times = Measured(2.0, 0.001, 0.003, 1.0, 1e6, 1e9, 1.5, dict.fromkeys(SEGMENTS, segment))
    return dataclasses.replace(times, **changes)


def stage(begins, *, epochs=10, late=False, size=1000, has_trunk=True):
    begin = SEGMENTS.index(begins)
    tail = {name: float(place >= begin) for place, name in enumerate(SEGMENTS)}
    return StageFacts(begins, epochs, 32, tail, has_trunk, late, size, 1000, 500)


def test_a_first_run_is_the_sum_of_its_parts():
    costs = estimate([stage("last-block")], Workload(80, 20), measured())
    assert costs.parts == pytest.approx(
        {
            "start": 2.0,
            "scan": 0.1,
            "trunk": 1.0 + 100 * (0.003 + 3 * 0.01 + 1000 / 1e6),
            "decode": 0.0,
            "copies": 0.0,
            "solve": 0.0,
            "compile": 2.0 + 4 * 32 * 2 * 0.002,  # and a few steps to see whether XLA would be tried
            "train": 10 * (80 * 2 * 0.002 + 20 * 2 * 0.001) + 20 * 2 * 0.001,  # and its answers at the end
            "end": 1.5,
        }
    )
    assert costs.first == pytest.approx(sum(costs.parts.values()))
    assert costs.rerun == pytest.approx(costs.first - costs.parts["scan"] - costs.parts["trunk"] + 100 * 1000 / 1e9)
    assert costs.disk == 100 * 1000


SOLVED = {"avg": SolveTimes(80, 500, 2.0), "grid2": SolveTimes(80, 2000, 3.0)}


def test_a_solved_head_has_no_epochs_and_is_solved_for_every_pooling():
    head = dataclasses.replace(stage("head"), solved=True)
    work = Workload(80, 20, pools=("avg", "grid2"), copies=True)
    costs = estimate([head], work, measured(solve=SOLVED, copies=0.1, proof=0.5))
    # The choice solves both; stage and baseline are one of these.
    assert costs.parts["solve"] == pytest.approx(2.0 + 3.0)
    assert costs.parts["copies"] == pytest.approx(100 * 0.1)
    assert costs.parts["train"] == costs.parts["compile"] == 0.0
    assert costs.parts["end"] == pytest.approx(1.5 + 2 * 0.5)
    assert costs.disk == 100 * (1000 + 2 * 2000)  # the head's own features are the averages


def test_no_head_is_solved_twice():
    def seconds(solved, **work):
        facts = [dataclasses.replace(stage("head"), solved=solved)]
        return estimate(facts, Workload(80, 20, **work), measured(solve=SOLVED)).parts["solve"]

    assert seconds(True, copies=True) == pytest.approx(2.0)  # the stage's is the baseline, too
    assert seconds(False, copies=True) == pytest.approx(2.0)
    assert seconds(True, copies=True, views=2) == pytest.approx(2.0 * 4 + 2.0)
    assert seconds(True, copies=True, views=2, pools=("avg", "grid2")) == pytest.approx(2.0 + 3.0 + 3.0 * 4)


def test_repeated_folds_are_counted_where_they_are_taken():
    times = measured(solve={"avg": SolveTimes(80, 500, 2.0, 5.0), "blocks2": SolveTimes(80, 30_000, 3.0, 7.0)})
    head = dataclasses.replace(stage("head"), solved=True)
    pools = ("avg", "blocks2")
    before = estimate([head], Workload(80, 20, pools=pools), times).parts["solve"]
    after = estimate([head], Workload(80, 20, pools=pools, folds=True), times).parts["solve"]
    assert after - before == pytest.approx(7.0 * (100 / 80) ** 2)


def test_a_gradual_stage_counts_as_the_stages_that_it_becomes():
    import greffon
    from greffon.backbone.resnet import resnet
    from greffon.training.segments import Anatomy

    model = greffon.graft(resnet((1, 1, 1, 2), input_shape=(32, 32, 3)), 4, preprocessing="caffe")
    gradual = Stage(name="deep", unfreeze="conv5", gradual="block", learning_rate="auto", epochs=8)
    facts = Anatomy.of(model).facts(Recipe(stages=(gradual,)))
    assert [it.name for it in facts] == ["deep-head", "deep-conv5_block2", "deep"]
    assert [(it.epochs, it.tried_epochs, it.carried) for it in facts] == [(8, 6, False), (8, 6, True), (8, 6, True)]
    assert [it.tail["last-block"] for it in facts] == [0.0, 1.0, 1.0]
    assert [it.tail["conv5"] for it in facts] == [0.0, 0.0, 1.0]
    assert not any(it.late for it in facts)
    carried = dataclasses.replace(stage("head"), carried=True)
    plain, more = (estimate([it], Workload(80, 20), measured()).parts["train"] for it in (stage("head"), carried))
    assert more - plain == pytest.approx(20 * 0.001)


def test_solving_grows_with_pictures_and_coordinates():
    assert SOLVED["avg"].of(160) == pytest.approx(8.0)
    assert SOLVED["avg"].of(1000) == pytest.approx(2.0 * 1000 * 500 / 80**2)


def test_a_look_at_all_pictures_takes_the_whole_trunk():
    work = Workload(80, 20, copies=True)
    costs = estimate([stage("conv5", size=3000)], work, measured(solve=SOLVED))
    assert costs.parts["trunk"] == pytest.approx(1.0 + 100 * (0.003 + 5 * 0.01 + 4000 / 1e6))
    assert costs.disk == 100 * (3000 + 2 * 500)
    without = estimate([stage("early", has_trunk=False, size=0)], work, measured(solve=SOLVED))
    assert without.parts["trunk"] == pytest.approx(1.0 + 100 * (0.003 + 5 * 0.01 + 1000 / 1e6))


def test_a_learning_rate_is_looked_for_and_a_stage_judged():
    work, plain = Workload(80, 20), stage("last-block")
    before = estimate([plain], work, measured()).parts["train"]
    searched = dataclasses.replace(plain, tried_epochs=6, judged=True)
    epoch = 80 * 2 * 0.002 + 20 * 2 * 0.001
    more = estimate([searched], work, measured()).parts["train"] - before
    assert more == pytest.approx(6 * epoch + 2 * 20 * 2 * 0.001)
    ranged = dataclasses.replace(plain, tried_steps=100)
    assert estimate([ranged], work, measured()).parts["train"] - before == pytest.approx(100 * 32 * 2 * 0.002)


def test_the_slowest_run_has_slow_steps_alone():
    times = measured()
    slow = dataclasses.replace(times.segments["conv5"], slowness=1.9)
    times = dataclasses.replace(times, segments={**times.segments, "conv5": slow})
    costs = estimate([stage("conv5")], Workload(80, 20), times)
    assert costs.slowest - costs.first == pytest.approx(0.9 * costs.parts["train"])
    assert estimate([stage("last-block")], Workload(80, 20), times).slowest == pytest.approx(
        estimate([stage("last-block")], Workload(80, 20), times).first
    )


def test_a_row_says_its_range_where_steps_are_of_two_kinds():
    wide = dataclasses.replace(row("conv5", 1), slowest=110.0)
    assert wide.lasts == "60 s to 1.8 min"
    assert dataclasses.replace(wide, slowest=62.0).lasts == "about 60 s"
    assert dataclasses.replace(wide, first=130.0, slowest=400.0).lasts == "2.2 to 6.7 min"
    made = Plan({"train": 1, "val": 1}, (wide,), None, None, "", (), measured(spent=3.0))
    assert "one by one" in str(made)
    choice, why = choose([wide], 5000, 90)
    assert choice is wide
    assert "up to 1.8 min" in why


def test_a_table_fits_into_80_columns():
    wide = dataclasses.replace(row("last-block", 11, "int8", 4, "its activations do not fit on the disk"), slowest=1e4)
    wide = dataclasses.replace(wide, flags="--unfreeze conv4,conv5 --precision int8 --views 4", measured=False)
    plain = row("recipe", 3)
    made = Plan({"train": 1, "val": 1}, (wide, plain), None, wide, "", (), measured(spent=3.0))
    lines = made.lines(80)
    assert max(map(len, lines)) <= 80
    assert lines[2].startswith("> last-block int8 4 views  11 min to 2.8 h *")
    assert " ".join(map(str.strip, lines[3:5])) == f"{wide.flags} ({wide.note})"
    assert len(lines) == 6  # what has no flags has one line
    assert len(made.lines()) == len(made.lines(200)) == 3
    given = made.with_flags({"--views": "2", "--unfreeze": "conv3"})
    assert [each.flags for each in given.rows] == [wide.flags, "--views 2 --unfreeze conv3"]
    assert given.choice is given.rows[0]


def test_a_long_stage_tries_xla_once():
    work, tail = Workload(8000, 2000), [stage("last-block")]
    costs = estimate(tail, work, measured())
    once = 2.0 + 4 * 32 * 2 * 0.002
    assert costs.parts["compile"] == pytest.approx(once + 2 * once)
    assert costs.first - costs.rerun > 2 * once
    compiled = estimate(tail, work, measured(xla=True))
    assert compiled.parts["compile"] == pytest.approx(once + once / 2)


def test_an_accelerator_leaves_the_processors_to_decoding():
    shared = estimate([stage("head")], Workload(80, 20), measured())
    alone = estimate([stage("head")], Workload(80, 20), measured(shares_cores=False))
    assert shared.first - alone.first == pytest.approx(100 * 0.003)


def test_two_stages_share_one_pass_of_the_deeper_trunk():
    both = estimate([stage("head"), stage("conv5", size=3000)], Workload(80, 20), measured())
    assert both.parts["trunk"] == pytest.approx(1.0 + 100 * (0.003 + 4 * 0.01 + 4000 / 1e6))
    assert both.disk == 100 * 4000
    same = estimate([stage("head"), stage("head")], Workload(80, 20), measured())
    assert same.disk == 100 * 1000


def test_a_trunk_that_an_earlier_stage_moves_has_its_own_pass_every_time():
    both = estimate([stage("conv5"), stage("head", late=True)], Workload(80, 20), measured())
    once = estimate([stage("conv5")], Workload(80, 20), measured())
    late = 1.0 + 100 * (0.003 + 4 * 0.01 + 1000 / 1e6)
    assert both.parts["trunk"] == pytest.approx(once.parts["trunk"] + late)
    assert both.first - both.rerun == pytest.approx(once.first - once.rerun)


def test_without_a_trunk_pictures_are_decoded_and_nothing_is_stored():
    costs = estimate([stage("early", has_trunk=False, size=0)], Workload(80, 20, picture_bytes=10), measured())
    assert costs.parts["trunk"] == 0.0
    assert costs.parts["decode"] == pytest.approx(100 * 0.003)
    assert costs.disk == 0


def test_views_multiply_the_trunk_and_not_the_epochs():
    one = estimate([stage("head")], Workload(80, 20), measured())
    four = estimate([stage("head")], Workload(80, 20, views=4), measured())
    assert four.parts["train"] == one.parts["train"]
    assert four.parts["trunk"] - 1.0 == pytest.approx((4 * 80 + 20) / 100 * (one.parts["trunk"] - 1.0))


def test_int8_is_built_used_and_compared():
    times = measured(int8=Int8Times(ratio=0.5, build=3.0))
    plain = estimate([stage("head")], Workload(800, 300), times)
    costs = estimate([stage("head")], Workload(800, 300), times, int8=True)
    assert costs.parts["trunk"] - plain.parts["trunk"] == pytest.approx(3.0 - 1100 * 0.02 + 300 * 0.04)


def test_what_memory_cannot_hold_is_read_in_every_epoch():
    slow = measured(read=1e4)  # 0.1 s for a picture, more than a step
    held = estimate([stage("head")], Workload(80, 20), slow)
    read = estimate([stage("head")], Workload(80, 20, fits=lambda size: False), slow)
    assert held.parts["train"] < read.parts["train"] == pytest.approx(10 * 100 * 0.1 + 20 * 0.1)
    assert held.memory - read.memory == 100 * 1000


def test_an_estimate_says_whether_all_steps_were_measured():
    times = measured()
    scaled = dataclasses.replace(times.segments["conv5"], measured=False)
    times = dataclasses.replace(times, segments={**times.segments, "conv5": scaled})
    assert estimate([stage("last-block")], Workload(80, 20), times).measured
    assert not estimate([stage("conv5")], Workload(80, 20), times).measured


def test_a_plan_prints_one_line_per_row():
    made = Plan({"train": 1, "val": 1}, tuple(ROWS), None, None, "", (), measured(spent=3.0))
    lines = str(made).splitlines()
    assert len(lines) == 1 + len(ROWS) + 1
    assert lines[0].split()[:3] == ["plan", "first", "run"]
    assert lines[1].split()[0] == "head"


def test_importing_it_loads_no_tensorflow():
    import subprocess
    import sys

    code = "import sys, greffon.training.plan; sys.exit('tensorflow' in sys.modules or 'keras' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
