"""Measure Greffon: `make bench` for everything, `make bench ROW=name` for one row.

    python benchmarks/run.py [ROW ...] [--data FOLDER] [--rounds 2] [--minutes 60] [--smoke]

Times alone say nothing on a shared machine: every row is a ratio, both sides run in turn in this process. What comes
out is printed, kept in benchmarks/results.json, and written into the tables of docs/performance.md; a row that is not
measured keeps its old line.
"""

from __future__ import annotations

import argparse
import functools
import importlib
import inspect
import os
import sys
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).parent))

import fit
import report
from results import Results, machine
from rows import Options, Row, Skipped

# Name of a row to the module that has `measure`; the rows of `fit` come first.
_MODULES = {
    "trunk": "trunk",
    "rerun": "rerun",
    "many": "many",
    "pipeline": "pipeline",
    "plan": "planned",
    "startup": "startup",
    "latency": "latency",
    "scan": "scan",
    "serving": "serving",
    "whole": "whole",
}


def rows():
    """Every row's name and the function that measures it."""
    found = {case.name: functools.partial(fit.measure, case) for case in fit.CASES}
    for name, module in _MODULES.items():
        if (Path(__file__).parent / f"{module}.py").exists():
            found[name] = functools.partial(_measure_module, module)
    return found


def _measure_module(module, options):
    """What a module's `measure` gives: Row objects, or lines of Markdown."""
    measure = importlib.import_module(module).measure
    takes = list(inspect.signature(measure).parameters)
    if takes not in ([], ["options"]):
        raise Skipped(f"{module}.measure takes {', '.join(takes)} where options are given")
    measured = measure(options) if takes else measure()
    return [measured] if isinstance(measured, str | Row) else list(measured)


def run(wanted, options, results, *, known=None, minutes=60.0):
    """Measure rows by name, one after another; each is kept as soon as it is measured.

    A row that took too long the last time for what is left of the minutes is not begun.

    Returns:
        The names of those that were not measured.
    """
    known = known or rows()
    skipped, began = [], time.perf_counter()
    for name in wanted:
        start = time.perf_counter()
        try:
            if start - began + results.seconds.get(name, 0.0) > 60 * minutes:
                raise Skipped("there is no time left for it; name it to measure it alone")
            measured = known[name](options)
        except Skipped as reason:
            print(f"{name}: not measured: {reason}", flush=True)
            skipped.append(name)
            continue
        results.put(name, measured, on=machine())
        results.seconds[name] = round(time.perf_counter() - start)
        results.write()
        print(_shown(measured), f"({name}: {time.perf_counter() - start:.0f} s)\n", sep="\n", flush=True)
    return skipped


def _shown(measured):
    table = [row for row in measured if isinstance(row, Row)]
    lines = [line for line in measured if isinstance(line, str)]
    return "\n".join(([report.markdown(table)] if table else []) + lines)


def main(arguments=None):
    """Measure what the command line names, or everything, and write the page.

    Returns:
        The exit code: 0, or 2 for a row that does not exist.
    """
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("rows", nargs="*", metavar="ROW", help=f"any of {', '.join(rows())}; none: all of them")
    parser.add_argument("--data", type=Path, help="a folder with one folder of pictures per class, in place of made-up")
    parser.add_argument("--rounds", type=int, default=2, help="how often both sides run, in turn")
    parser.add_argument("--minutes", type=float, default=60, help="rows that would end later are left out")
    parser.add_argument("--smoke", action="store_true", help="a few small pictures; nothing is kept or written")
    given = parser.parse_args(arguments)
    known = rows()
    unknown = [name for name in given.rows if name not in known]
    if unknown or given.rounds < 1:
        print(
            f"expected rows among {', '.join(known)} and at least one round, got {unknown or given.rounds}",
            file=sys.stderr,
        )
        return 2
    print(f"{machine()}\n", flush=True)
    options = Options(rounds=given.rounds, data=given.data, smoke=given.smoke)
    wanted = given.rows or list(known)
    if given.smoke:
        import tempfile

        with tempfile.TemporaryDirectory() as folder:
            run(wanted, options, Results(Path(folder) / "results.json"), known=known)
        return 0
    results = Results()
    run(wanted, options, results, known=known, minutes=given.minutes)
    for said in report.write(results):
        print(said)
    return 0


if __name__ == "__main__":
    sys.exit(main())
