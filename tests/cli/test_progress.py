from __future__ import annotations

import io
import re
import sys
import threading
import types

import pytest
from rich.console import Console
from rich.table import Table

from greffon.training.progress import ConsoleReporter, Reporter, duration

CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f]")


def piped(every: float = 0.0) -> tuple[ConsoleReporter, io.StringIO]:
    file = io.StringIO()
    return ConsoleReporter(Console(file=file, width=80), every=every), file


def in_terminal() -> tuple[ConsoleReporter, io.StringIO]:
    file = io.StringIO()
    return ConsoleReporter(Console(file=file, width=100, force_terminal=True, legacy_windows=False)), file


def without_escapes(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)


def tell_everything(reporter: Reporter) -> None:
    reporter.note("176 pictures [bold]of[/bold] 4 kinds")
    reporter.warn("2 pictures cannot be read")
    with reporter.bar("trunk", total=3) as advance:
        advance(1)
        advance(2)
    reporter.stage("head", 1, 2, Table("layer"))
    reporter.epoch("head", 1, 20, {"loss": 1.5, "val_loss": 1.25}, best=True)
    reporter.epoch("head", 2, 20, {"loss": 0.5, "val_loss": 1.3}, best=False)
    reporter.show("the table")
    reporter.summary("accuracy 0.9")


def test_the_base_says_nothing(capsys):
    tell_everything(Reporter())
    assert capsys.readouterr() == ("", "")


def test_a_pipe_gets_lines_without_control_characters():
    reporter, file = piped()
    tell_everything(reporter)
    text = file.getvalue()
    assert not CONTROL.search(text)
    assert "176 pictures [bold]of[/bold] 4 kinds\n" in text
    assert "warning: 2 pictures cannot be read\n" in text
    assert re.search(r"^trunk  1 of 3 pictures, .*/s, .* left$", text, re.M)
    assert re.search(r"^trunk  3 pictures in .* s, .*/s$", text, re.M)
    assert "stage 1 of 2: head\n" in text
    assert text.endswith("the table\n\naccuracy 0.9\n")


def test_work_that_is_not_counted_says_how_long_it_took():
    reporter, file = piped()
    with reporter.bar("looking for near-copies", total=None):
        pass
    assert re.fullmatch(r"looking for near-copies  \d+\.\d s\n", file.getvalue())


def test_long_lines_are_one_line_in_a_pipe():
    reporter, file = piped()
    reporter.note("word " * 60)
    assert file.getvalue().count("\n") == 1


def test_tables_and_results_are_not_folded_in_a_pipe():
    reporter, file = piped()
    table = Table("layer", "what it is")
    table.add_row("conv5_block3_out", "word " * 40)
    reporter.stage("head", 1, 1, table)
    reporter.summary("word " * 40)
    assert len([line for line in file.getvalue().splitlines() if "word" in line]) == 2


def test_a_pipe_gets_a_line_only_now_and_then():
    reporter, file = piped(every=3600)
    with reporter.bar("trunk", total=1000) as advance:
        for _ in range(1000):
            advance(1)
    assert file.getvalue().count("\n") == 1


def test_a_terminal_ends_with_the_same_line_and_nothing_of_the_bar():
    reporter, file = in_terminal()
    with reporter.bar("trunk", total=3) as advance:
        advance(3)
    assert "\x1b[" in file.getvalue()
    last = without_escapes(file.getvalue()).splitlines()[-1]
    assert re.fullmatch(r"trunk  3 pictures in .* s, .*/s", last.lstrip("\r"))


def test_a_dumb_terminal_is_treated_like_a_pipe(monkeypatch):
    monkeypatch.setenv("TERM", "dumb")
    reporter, file = in_terminal()
    with reporter.bar("trunk", total=3) as advance:
        advance(3)
    assert file.getvalue().startswith("trunk  3 pictures in")


@pytest.mark.parametrize("make", [piped, in_terminal])
def test_what_was_interrupted_says_where(make):
    reporter, file = make()
    with pytest.raises(KeyboardInterrupt), reporter.bar("trunk", total=100) as advance:
        advance(40)
        raise KeyboardInterrupt
    assert without_escapes(file.getvalue()).endswith("trunk  stopped after 40 of 100 pictures\n")


def test_what_failed_before_it_began_leaves_no_line():
    reporter, file = piped()
    with pytest.raises(ValueError, match="no such folder"), reporter.bar("reading pictures", total=None):
        raise ValueError("no such folder")
    assert file.getvalue() == ""


@pytest.mark.parametrize("make", [piped, in_terminal])
@pytest.mark.parametrize("total", [None, 0])
def test_totals_that_are_unknown_or_nothing(make, total):
    reporter, file = make()
    with reporter.bar("fetching", total=total, unit="MB") as advance:
        if total is None:
            advance(5)
    expected = "5 MB" if total is None else "0 MB"
    assert f"fetching  {expected} in" in without_escapes(file.getvalue())


def test_fewer_than_announced_is_said():
    reporter, file = piped()
    with reporter.bar("trunk", total=10) as advance:
        advance(7)
    assert "trunk  7 of 10 pictures in" in file.getvalue()


def test_threads_may_count():
    reporter, file = piped(every=3600)
    with reporter.bar("trunk", total=4000) as advance:
        threads = [threading.Thread(target=lambda: [advance(1) for _ in range(1000)]) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert "trunk  4,000 pictures in" in file.getvalue()


def test_epochs_are_a_table_with_aligned_columns():
    reporter, file = piped()
    reporter.stage("head", 1, 2)
    for epoch, loss in enumerate((123.456, 0.5, float("nan"), 0.00001, 4567.0), start=1):
        logs = {"loss": loss, "val_accuracy": 0.75, "learning_rate": 1e-4}
        reporter.epoch("head", epoch, 120, logs, best=epoch == 2)
    heading, *rows = file.getvalue().splitlines()[2:]
    assert heading.split() == ["epoch", "loss", "val_accuracy", "learning_rate"]
    ends = [match.end() for match in re.finditer(r"\S+", heading)]
    for row in rows:
        numbers = row.removesuffix("  best")
        assert [match.end() for match in re.finditer(r"\S+", numbers)] == ends
    assert [row.endswith("best") for row in rows] == [False, True, False, False, False]
    assert [row.split()[1] for row in rows] == ["123.4560", "0.5000", "nan", "1.0e-05", "4.6e+03"]


def test_the_heading_comes_once_per_stage_and_when_columns_change():
    reporter, file = piped()
    reporter.stage("head", 1, 2)
    reporter.epoch("head", 1, 2, {"loss": 1.0}, best=False)
    reporter.epoch("head", 2, 2, {"loss": 1.0}, best=False)
    reporter.epoch("head", 2, 2, {"loss": 1.0, "auc": 0.5}, best=False)
    reporter.stage("last-block", 2, 2)
    reporter.epoch("last-block", 1, 2, {"loss": 1.0}, best=False)
    assert file.getvalue().count("epoch") == 3


class FakeDisplay:
    """IPython.display as the reporter and Rich use it."""

    def __init__(self) -> None:
        self.cells: list[str] = []

    def display(self, *things, display_id=False, **_):
        place = len(self.cells)
        [thing] = things
        rich = hasattr(thing, "_repr_mimebundle_")
        self.cells.append(thing._repr_mimebundle_((), ())["text/html"] if rich else thing._repr_html_())
        cells = self.cells

        class Handle:
            def update(self, thing):
                cells[place] = thing._repr_html_()

        return Handle() if display_id else None


@pytest.fixture
def notebook(monkeypatch):
    display = FakeDisplay()
    module = types.ModuleType("IPython.display")
    module.display = display.display
    package = types.ModuleType("IPython")
    package.display = module
    monkeypatch.setitem(sys.modules, "IPython", package)
    monkeypatch.setitem(sys.modules, "IPython.display", module)
    return display


def test_a_notebook_shows_each_thing_once(notebook, capsys):
    reporter = ConsoleReporter(Console(force_jupyter=True))
    with reporter.bar("trunk <b>", total=2) as advance:
        assert "trunk &lt;b&gt;  0 of 2 pictures" in notebook.cells[0]
        advance(2)
    assert notebook.cells[0] == ""  # the bar has gone, its result is a line of its own
    assert sum("2 pictures in" in cell for cell in notebook.cells) == 1
    reporter.note("once")
    assert sum("once" in cell for cell in notebook.cells) == 1
    assert capsys.readouterr() == ("", "")


def test_a_notebook_shows_a_tables_own_html(notebook):
    class Html:
        def _repr_html_(self):
            return "<table>its own</table>"

    reporter = ConsoleReporter(Console(force_jupyter=True))
    reporter.stage("head", 1, 1, Html())
    reporter.show(Html())
    reporter.summary(Html())
    assert notebook.cells.count("<table>its own</table>") == 3


def test_a_notebook_bar_is_updated_in_place(notebook, monkeypatch):
    monkeypatch.setattr("greffon.training.progress._NOTEBOOK_PAUSE", 0.0)
    reporter = ConsoleReporter(Console(force_jupyter=True))
    with reporter.bar("trunk", total=3) as advance:
        advance(1)
        assert "1 of 3 pictures" in notebook.cells[0]
        advance(1)
        assert "2 of 3 pictures" in notebook.cells[0]
        assert len(notebook.cells) == 1


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0, "0.0 s"), (9.94, "9.9 s"), (9.96, "10 s"), (59.6, "1 min 00 s"), (3599.7, "1 h 00 min"), (7260, "2 h 01 min")],
)
def test_durations(seconds, words):
    assert duration(seconds) == words
