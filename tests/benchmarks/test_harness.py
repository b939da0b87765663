"""Rows, results, the tables and the picture: how figures get into docs/performance.md. Nothing is timed here."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest


def row(name="head-only", ratios=(13.0, 15.0, 14.0), **values):
    from rows import Row

    return Row(name, f"what {name} is", "210 s", "15 s", list(ratios), **values)


# --- rows -----------------------------------------------------------------------------------------------------------


def test_a_row_is_its_middle_ratio():
    one = row(target=14.0, limit=16.0)
    assert one.ratio == 14.0
    assert one.reached
    assert one.of_limit == 14.0 / 16.0
    assert not one.above_limit


def test_above_the_limit_is_flagged_and_without_one_nothing_is_said():
    assert row(limit=13.9).above_limit
    assert row().of_limit is None
    assert not row().above_limit
    assert row().reached is None
    assert row(target=14.1).reached is False


def test_a_row_goes_into_the_file_and_back():
    from rows import Row

    one = row(limit=20.0, extra={"parts_ms": {"train": 1.5}})
    assert Row.from_dict(one.to_dict() | {"machine": "m", "of an older version": 1}) == one


# --- results --------------------------------------------------------------------------------------------------------


@pytest.fixture
def results(tmp_path):
    from results import Results

    return Results(tmp_path / "results.json")


def test_what_is_measured_again_replaces_its_own_lines_only(results):
    from results import Results

    results.put("head-only", [row()], on="A")
    results.put("rerun", [row("rerun/one", table="reuse"), row("rerun/two", table="reuse")], on="A")
    results.put("rerun", [row("rerun/one", ratios=[2.0], table="reuse")], on="B")
    results.write()
    again = Results(results.file)
    assert [each.name for each in again.rows("training")] == ["head-only"]
    assert [(each.name, each.ratio) for each in again.rows("reuse")] == [("rerun/one", 2.0)]
    assert again.machines("training") == ["A"]
    assert again.machines("reuse") == ["B"]


def test_lines_of_markdown_are_a_table_of_their_own(results):
    results.put("startup", ["| a |", "|---|", "| 1 |"], on="A")
    assert results.text("startup") == ["| a |", "|---|", "| 1 |"]
    assert results.text("trunk") == []
    assert results.machines("startup") == ["A"]


def test_the_machine_is_named_with_its_versions():
    from results import machine

    assert re.search(r"\d+ processors, Python 3\.\d+\.\d+, .*keras \d", machine())


# --- the page -------------------------------------------------------------------------------------------------------

PAGE = """before
<!-- table training -->
old
<!-- end training -->
between
<!-- table reuse -->
old too
<!-- end reuse -->
after
"""


def test_a_table_of_rows():
    from report import markdown

    lines = markdown([row(target=14.0, limit=13.0, note="both 0.9"), row("x|y", ratios=[1.5])]).splitlines()
    assert lines[2] == (
        "| what head-only is | 210 s | 15 s | **14.0** | 13.0 to 15.0 | 14.0 | 13.0 "
        "| 108% (above the limit: a mistake of measurement until explained) |"
    )
    assert lines[3] == r"| what x\|y is | 210 s | 15 s | **1.50** | one round |  |  |  |"
    assert lines[5] == "- what head-only is: both 0.9"
    assert "15.0 (not reached)" in markdown([row(target=15.0)])


def test_only_what_stands_between_markers_is_replaced():
    from report import fill, tables_in

    assert tables_in(PAGE) == ["training", "reuse"]
    filled = fill(PAGE, {"reuse": r"new \1 table"})
    assert filled == PAGE.replace("old too", "\nnew \\1 table\n")
    assert fill(filled, {"reuse": r"new \1 table"}) == filled


@pytest.mark.parametrize("page", [PAGE.replace("<!-- end reuse -->", ""), PAGE + PAGE, ""])
def test_markers_that_are_not_there_once_are_an_error(page):
    from report import fill

    with pytest.raises(ValueError, match="table reuse"):
        fill(page, {"reuse": "new"})


def test_writing_fills_what_was_measured_and_keeps_the_rest(results, tmp_path):
    from report import write

    page = tmp_path / "performance.md"
    page.write_text(PAGE, encoding="utf-8")
    results.put("head-only", [row()], on="machine A")
    assert write(results, page, tmp_path / "performance.svg") == []  # no row has a target: nothing to draw
    text = page.read_text(encoding="utf-8")
    assert "what head-only is" in text
    assert "Measured on machine A." in text
    assert "\nold\n" not in text
    assert "\nold too\n" in text


def test_without_matplotlib_the_page_is_written_and_the_picture_stays(results, tmp_path, monkeypatch):
    import sys

    from report import write

    monkeypatch.setitem(sys.modules, "matplotlib", None)
    page, picture = tmp_path / "performance.md", tmp_path / "performance.svg"
    page.write_text(PAGE, encoding="utf-8")
    picture.write_text("old", encoding="utf-8")
    results.put("head-only", [row(target=14.0)], on="A")
    [said] = write(results, page, picture)
    assert "matplotlib" in said
    assert picture.read_text(encoding="utf-8") == "old"
    assert "what head-only is" in page.read_text(encoding="utf-8")


def test_the_picture_is_the_same_for_the_same_figures(tmp_path):
    pytest.importorskip("matplotlib")
    from report import draw

    rows = [row(target=14.0, limit=16.0), row("conv5", ratios=[2.2], target=2.4)]
    for name in ("a.svg", "b.svg"):
        draw(rows, tmp_path / name)
    text = (tmp_path / "a.svg").read_text(encoding="utf-8")
    assert text == (tmp_path / "b.svg").read_text(encoding="utf-8")
    assert ET.fromstring(text).tag.endswith("svg")


def test_every_table_of_the_page_has_markers(benchmarks_on_path):
    from report import fill, tables_in

    page = (benchmarks_on_path.parent / "docs" / "performance.md").read_text(encoding="utf-8")
    names = tables_in(page)
    assert {"training", "reuse", "trunk", "plan", "pipeline", "startup"} <= set(names)
    fill(page, dict.fromkeys(names, "table"))


# --- running --------------------------------------------------------------------------------------------------------


def test_rows_are_kept_as_they_are_measured_and_a_skipped_one_keeps_its_line(results, capsys):
    from rows import Options, Skipped
    from run import run

    def cannot(options):
        raise Skipped("there is none")

    results.put("old", [row("old")], on="A")
    known = {"new": lambda options: [row("new")], "old": cannot, "text": lambda options: ["| a |"]}
    assert run(["new", "old", "text"], Options(), results, known=known) == ["old"]
    assert [each.name for each in results.rows("training")] == ["old", "new"]
    assert results.file.exists()
    assert "old: not measured: there is none" in capsys.readouterr().out


def test_an_unknown_row_ends_with_2(capsys):
    from run import main

    assert main(["nonsense"]) == 2
    assert main(["head-only", "--rounds", "0"]) == 2
    error = capsys.readouterr().err
    assert "expected rows among head-only" in error
    assert "nonsense" in error


def test_the_rows_that_are_promised_are_there():
    from run import rows

    promised = {"head-only", "head-only-int8", "head-only-30", "last-10", "conv5", "tutorial-head", "mobilenet"}
    assert promised | {"densenet", "rerun", "many", "trunk", "plan", "startup"} <= rows().keys()


def test_an_option_that_fit_lacks_skips_its_row():
    from fit import Case, measure
    from rows import Options, Skipped

    with pytest.raises(Skipped, match="no option of_tomorrow"):
        measure(Case("x", "x", None, fit={"of_tomorrow": 1}), Options())


def test_24_models():
    from many import configs
    from rows import Options

    assert len(set(configs(Options()))) == 24


# --- the limit ------------------------------------------------------------------------------------------------------


def test_the_limit_is_the_cost_formula():
    from limit import Parts

    parts = Parts(engine_trunk=0.025, train=0.01, validation=0.004)
    assert parts.seconds(10, 100, 20) == pytest.approx(120 * 0.025 + 10 * (100 * 0.01 + 20 * 0.004))
    assert parts.to_dict()["engine_trunk"] == 25.0


def test_a_tail_that_costs_nothing_leaves_one_pass_of_the_engine():
    from limit import Parts

    assert Parts(0.02, 0.0, 0.0).seconds(30, 265, 66) == pytest.approx(331 * 0.02)


def test_a_side_that_was_timed_over_two_epochs_is_extended_by_the_fastest_later_one():
    from fit import CASES, Comparison

    pair = Comparison.__new__(Comparison)
    pair.case, pair.epochs = CASES[0], 10
    assert pair.extended([8.0, 12.0], 12.5, 3.0) == 8.0 + 9 * 3.0
    assert pair.extended([float(end) for end in range(10)], 9.5, 1.0) == 9.5


# --- pictures -------------------------------------------------------------------------------------------------------


def test_made_up_pictures_are_learnable_and_no_two_alike():
    from made_up import arrays

    (x, y), (vx, vy) = arrays(30, 10, 32)
    assert x.shape == (30, 32, 32, 3)
    assert x.dtype == np.uint8
    assert y.shape == (30, 10)
    assert (y.sum(axis=0) + vy.sum(axis=0) == 4).all()
    assert len({picture.tobytes() for picture in (*x, *vx)}) == 40
    corner = x[:, 0:6, 0:6].mean(axis=(1, 2, 3))
    assert corner[y[:, 0] == 1].min() > np.median(corner)


def test_a_folder_of_made_up_pictures_can_grow_and_be_read(tmp_path):
    from made_up import arrays, write_folder

    write_folder(tmp_path, 20, 40)
    write_folder(tmp_path, 4, 40, first=20)
    assert len(list(tmp_path.rglob("*.jpg"))) == 24
    (x, y), (vx, _) = arrays(265, 66, 32, data=tmp_path)
    assert (len(x), len(vx)) == (24 * 265 // 331, 24 - 24 * 265 // 331)
    assert y.shape[1] == 10


def test_a_row_that_would_end_too_late_is_not_begun(results, capsys):
    from rows import Options
    from run import run

    results.seconds["long"] = 7200
    known = {"long": lambda options: 1 / 0, "short": lambda options: [row("short")]}
    assert run(["long", "short"], Options(), results, known=known, minutes=60) == ["long"]
    assert results.seconds["short"] == 0
    assert "no time left" in capsys.readouterr().out


def test_both_sides_are_compared_where_both_have_run():
    from types import SimpleNamespace

    from fit import _compared

    theirs = {"val_accuracy": [0.1, 0.25], "val_loss": [2.0, 1.5]}
    ours = {"val_accuracy": [0.1, 0.25, 0.75], "val_loss": [2.0, 1.5, 1.0]}
    history = SimpleNamespace(history=ours, greffon=SimpleNamespace(agreement=None))
    said = "validation accuracy (loss) after 2 epochs: model.fit 0.250 (1.5000) and greffon.fit 0.250 (1.5000)"
    assert _compared(theirs, history) == f"{said}; greffon.fit at its end 0.750"
