"""The tables and the picture of docs/performance.md, from the results.

    python benchmarks/report.py

Each table stands between `<!-- table NAME -->` and `<!-- end NAME -->`; the text around them stays as it is. The
picture needs matplotlib (`pip install greffon[bench]`); without it the old one stays, and a line says so.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from results import Results

DOCS = Path(__file__).parents[1] / "docs"
PAGE, PICTURE = DOCS / "performance.md", DOCS / "performance.svg"
_HEAD = "| what | other side | Greffon | ratio | spread | to reach | limit | of the limit |\n" + "|---" * 8 + "|"


def markdown(rows):
    """A table of rows, and their notes below it."""
    lines = [_HEAD, *map(_line, rows)]
    notes = [f"- {row.what}: {row.note}" for row in rows if row.note]
    return "\n".join([*lines, *(["", *notes] if notes else [])])


def _line(row):
    several = len(row.ratios) > 1
    spread = f"{_number(min(row.ratios))} to {_number(max(row.ratios))}" if several else "one round"
    target = "" if row.target is None else f"{_number(row.target)}{'' if row.reached else ' (not reached)'}"
    limit = "" if row.limit is None else _number(row.limit)
    share = "" if row.of_limit is None else f"{row.of_limit:.0%}"
    if row.above_limit:
        share += " (above the limit: a mistake of measurement until explained)"
    cells = (row.what, row.other, row.ours, f"**{_number(row.ratio)}**", spread, target, limit, share)
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _number(value):
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def fill(page, tables):
    """The page with the tables between their markers replaced.

    Args:
        page: text.
        tables: name to Markdown. A name without markers is an error: its figures would be lost.

    Raises:
        ValueError: the markers of a table are not there, or not once.
    """
    for name, table in tables.items():
        pattern = re.compile(rf"(<!-- table {re.escape(name)} -->\n).*?(<!-- end {re.escape(name)} -->)", re.DOTALL)
        page, found = pattern.subn(lambda match, table=table: f"{match[1]}\n{table}\n\n{match[2]}", page)
        if found != 1:
            raise ValueError(f"expected '<!-- table {name} -->' and '<!-- end {name} -->' once, found {found} times")
    return page


def tables_in(page):
    """Names of the tables that a page has markers for."""
    return re.findall(r"<!-- table (\S+) -->", page)


def write(results=None, page=PAGE, picture=PICTURE):
    """Fill the page and draw the picture.

    Returns:
        What a reader of the terminal should know, one sentence each.
    """
    results = results or Results()
    text = page.read_text(encoding="utf-8")
    filled = {name: _table(results, name) for name in tables_in(text)}
    filled = {name: table for name, table in filled.items() if table}
    page.write_text(fill(text, filled), encoding="utf-8")
    rows = [row for name in filled for row in results.rows(name) if row.target is not None]
    if not rows:
        return []
    try:
        draw(rows, picture)
    except ImportError:
        return ["matplotlib is not installed, so the picture stays as it was; pip install 'greffon[bench]'"]
    return []


def _table(results, name):
    rows, lines = results.rows(name), results.text(name)
    table = markdown(rows) if rows else "\n".join(lines)
    return f"{table}\n\nMeasured on {'; and on '.join(results.machines(name))}." if table else ""


def draw(rows, file):
    """Bars of the ratios with their spread, a mark for what was to reach, and one for the limit.

    Raises:
        ImportError: matplotlib is not installed.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 0.42 * len(rows) + 1.2), layout="constrained")
    axes = figure.subplots()
    places = range(len(rows) - 1, -1, -1)
    ratios = [row.ratio for row in rows]
    spread = [
        [row.ratio - min(row.ratios) for row in rows],
        [max(row.ratios) - row.ratio for row in rows],
    ]
    axes.barh(places, ratios, xerr=spread, height=0.55, color="#2f7f5f", ecolor="#173f2f", label="measured")
    marks = [("to reach", "#b3591d", "|", [row.target for row in rows])]
    marks.append(("limit", "#444444", "D", [row.limit for row in rows]))
    for label, colour, marker, values in marks:
        known = [(place, value) for place, value in zip(places, values, strict=True) if value is not None]
        if known:
            at, where = zip(*known, strict=True)
            axes.scatter(where, at, marker=marker, s=90 if marker == "|" else 22, color=colour, label=label, zorder=3)
    axes.axvline(1, color="#999999", linewidth=0.8)
    axes.set_xscale("log")
    axes.set_yticks(places, [row.what for row in rows])
    axes.set_xlabel("times faster than the other side")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter("{x:g}")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="lower right", frameon=False)
    # The same figures give the same file: no date, no random names.
    with mpl.rc_context({"svg.hashsalt": "greffon"}):
        figure.savefig(file, format="svg", metadata={"Date": None})


if __name__ == "__main__":
    for said in write():
        print(said)
    sys.exit(0)
