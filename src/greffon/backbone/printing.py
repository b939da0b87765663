"""How a freeze table prints: which rows fold into one line, and what trains in one sentence."""

from __future__ import annotations

import html
import re
from collections import Counter
from itertools import groupby
from typing import TYPE_CHECKING, Any

from greffon.backbone.parts import HEAD_STARTS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    import rich.table

    from greffon.backbone.table import FreezeTable, Row, View

_SHOWN_LAYERS = 40
"""More training layers than this are folded into blocks, unless every layer is asked for."""
_NAMED_LAYERS = 4
"""More layers than this are counted, not named."""
_COLUMNS = ("index", "name", "block", "shape", "parameters", "trains", "BatchNorm")
_NUMBERS = {"index", "parameters"}
_NARROWED = re.compile(r"^\d+ layers: | \(\w+\)$")
"""Left out of the names on a console, which may have 80 columns only."""
_OF_A_BLOCK = re.compile(rf"(?:.*/)?(?:{'|'.join(HEAD_STARTS)})_(\w+)")
"""Layers without weights, of which a head that pools every block has one or two for each."""
_SHORT = {"Conv2D": "conv", "BatchNormalization": "BN", "DepthwiseConv2D": "depthwise conv", "Dense": "dense"}


def as_text(table: FreezeTable) -> str:
    """Plain text, for a terminal, a file or a log."""
    printed = [_COLUMNS, *_lines(table)]
    widths = [max(len(line[column]) for line in printed) for column in range(len(_COLUMNS))]
    body = ["  ".join(map(_justified, _COLUMNS, line, widths)).rstrip() for line in printed]
    return "\n".join([body[0], "-" * max(map(len, body)), *body[1:], *_footer(table)])


def as_rich(table: FreezeTable) -> rich.table.Table:
    """A table for Rich's console; what trains is set off."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    title = f"{table.model}: what trains"
    shown = Table(
        title=title,
        title_justify="left",
        caption="\n".join(_footer(table)),
        caption_justify="left",
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        show_edge=False,
    )
    for column in _COLUMNS:
        shown.add_column(column, justify="right" if column in _NUMBERS else "left", overflow="fold")
    for index, name, *rest in _lines(table):
        line = (index, _NARROWED.sub("", name), *rest)
        shown.add_row(*line, style="bold green" if _trains(line) else None)
    return shown


def as_html(table: FreezeTable) -> str:
    """A table for a notebook; what trains is bold."""

    def row(tag: str, line: Sequence[str], style: str = "") -> str:
        sides = ("right" if column in _NUMBERS else "left" for column in _COLUMNS)
        cells = (
            f'<{tag} style="text-align:{side}">{html.escape(text)}</{tag}>'
            for side, text in zip(sides, line, strict=True)
        )
        return f"<tr{style}>{''.join(cells)}</tr>"

    bold = ' style="font-weight:bold"'
    body = "".join(row("td", line, bold if _trains(line) else "") for line in _lines(table))
    footer = "<br>".join(html.escape(line) for line in _footer(table))
    return f"<table><thead>{row('th', _COLUMNS)}</thead><tbody>{body}</tbody></table><p>{footer}</p>"


def describe(table: FreezeTable) -> str:
    """What trains, in one line."""
    backbone = [row for row in table.rows if row.part == "backbone"]
    trainable, can = sum(row.trainable for row in backbone), sum(row.learnable for row in backbone)
    trained = " + ".join([*_described_head(table.rows), *_described_backbone(backbone)])
    return f"trains: {trained or 'nothing'}, {trainable:,} of {can:,} backbone parameters"


def changes(before: FreezeTable, after: FreezeTable) -> str:
    """What trains in one table and not in the other, in one line."""
    then = {row.name: row for row in before.rows}
    now = [(then[row.name], row) for row in after.rows if row.name in then]
    texts = [
        _changed([row for was, row in now if row.trainable > was.trainable], now, "trains too", "train too"),
        _changed(
            [row for was, row in now if row.trainable < was.trainable], now, "is frozen again", "are frozen again"
        ),
    ]
    other = [(was, row) for was, row in now if was.batch_norm != row.batch_norm]
    if any(row.batch_norm == "batch" for _, row in other):
        texts.append("BatchNorm takes statistics of each batch")
    if any(row.batch_norm == "stored" and row.trainable for _, row in other):
        texts.append("BatchNorm takes its stored statistics")
    return "; ".join(filter(None, texts)) or "trains what the stage before it did"


def _changed(rows: list[Row], now: Sequence[tuple[Row, Row]], one: str, several: str) -> str:
    """Rows that changed alike, with how many parameters that are."""
    if not rows:
        return ""
    wanted = {row.name for row in rows}
    names = _named_parts(wanted, [row for _, row in now if row.learnable])
    count = sum(abs(row.trainable - was.trainable) for was, row in now if row.name in wanted)
    is_one = len(names) == 1 and not names[0][0].isdecimal()
    return f"{', '.join(names)} {one if is_one else several} ({count:,} parameters)"


def _named_parts(wanted: set[str], rows: Sequence[Row]) -> list[str]:
    """Rows by the names of the groups and blocks that they are all of; the others by their own, or counted."""
    names: list[str] = []
    single: list[str] = []
    for group, in_group in groupby(rows, key=lambda row: row.group):
        members = list(in_group)
        if group and all(row.name in wanted for row in members):
            names.append(group)
            continue
        for block, in_block in groupby(members, key=lambda row: row.block):
            whole = list(in_block)
            if block and all(row.name in wanted for row in whole):
                names.append(block)
            else:
                single += [row.name.rpartition("/")[2] for row in whole if row.name in wanted]
    if len(single) > _NAMED_LAYERS:
        single = [f"{len(single)} {'more ' if names else ''}layers"]
    return names + single


def _footer(table: FreezeTable) -> list[str]:
    return [
        f"{table.trainable_count:,} parameters in {table.trainable_tensors} tensors train, {table.frozen_count:,} are "
        "frozen",
        describe(table),
    ]


def _lines(table: FreezeTable) -> list[tuple[str, ...]]:
    """One text for every column, line by line."""
    return [_printed(list(folded)) for _, folded in groupby(table.rows, key=_folds_with(table.rows, table.view))]


def _trains(line: Sequence[str]) -> bool:
    return line[_COLUMNS.index("trains")] in {"yes", "in part"}


def _folds_with(rows: Sequence[Row], view: View) -> Callable[[Row], Any]:
    """A key that is the same for neighbouring rows which print as one line."""
    mixed = {row.block for row in rows if row.trainable}
    many = sum(row.part == "backbone" and row.block in mixed for row in rows) > _SHOWN_LAYERS
    uniform = {block for block in mixed if len({row.trains for row in rows if row.block == block} - {""}) == 1}

    def key(row: Row) -> Any:
        if view != "full" and _pools_a_block(row):
            return "pooled blocks"
        folds = row.block not in mixed or (row.block in uniform and (many or view == "compact"))
        return row.block if view != "full" and row.block and folds else id(row)

    return key


def _printed(rows: list[Row]) -> tuple[str, ...]:
    first, last = rows[0], rows[-1]
    if len(rows) > 1 and _pools_a_block(first):
        kinds = ", ".join(dict.fromkeys(row.kind for row in rows))
        blocks = len({_OF_A_BLOCK.sub(r"\1", row.name) for row in rows})
        return ("", f"{blocks} pooled blocks ({kinds})", first.part, "", "0", "", "")
    if len(rows) == 1:
        index = "" if first.index is None else str(first.index)
        name, norm = f"{first.name} ({first.kind})", first.batch_norm
    else:
        index = f"{first.index}-{last.index}"
        name = f"{len(rows)} layers: {_kinds(rows)}"
        norm = " and ".join(sorted({row.batch_norm for row in rows if row.batch_norm}))
    shape = "x".join("?" if side is None else str(side) for side in last.shape[1:]) if last.shape else ""
    parameters = sum(row.parameters for row in rows)
    trains = next((row.trains for row in rows if row.trains), "")
    return (index, name, first.block or first.part, shape, f"{parameters:,}" if parameters else "", trains, norm)


def _pools_a_block(row: Row) -> bool:
    return row.part == "head" and not row.parameters and bool(_OF_A_BLOCK.fullmatch(row.name))


def _kinds(rows: Sequence[Row], statistics: str = "") -> str:
    counts = Counter(_SHORT.get(row.kind, row.kind) for row in rows if row.learnable)
    return ", ".join(f"{count} {kind}{statistics if kind == 'BN' else ''}" for kind, count in counts.items())


def _described_head(rows: Iterable[Row]) -> list[str]:
    trained = [row for row in rows if row.part != "backbone" and row.trainable]
    if not trained:
        return []
    names = ", ".join(f"{row.name.rpartition('/')[2]}: {row.trainable:,}" for row in trained[:4])
    more = f", {len(trained) - 4} more layers" if len(trained) > 4 else ""
    return [f"head ({names}{more})"]


def _described_backbone(rows: list[Row]) -> list[str]:
    """The groups and blocks that train as a whole, and the layers of those that do so in part."""
    if not any(row.trainable for row in rows):
        return []
    if all(row.trainable == row.learnable for row in rows):
        return ["the whole backbone"]
    texts = []
    for group, in_group in groupby(rows, key=lambda row: row.group):
        members = list(in_group)
        texts += [f"{group} ({_contents(members)})"] if group and _trains_whole(members) else _blocks(group, members)
    return texts


def _blocks(group: str, rows: list[Row]) -> list[str]:
    """The blocks of a group that train as a whole, then what else trains in it."""
    texts, rest = [], []
    for block, in_block in groupby(rows, key=lambda row: row.block):
        members = list(in_block)
        if block and _trains_whole(members):
            texts.append(f"{block} ({_contents(members)})")
        else:
            rest += [row for row in members if row.trainable]
    if len(rest) <= 4:
        return texts + [row.name.rpartition("/")[2] for row in rest]
    return [*texts, f"{len(rest)} layers of {group or 'the backbone'} ({_kinds(rest, _modes(rest))})"]


def _trains_whole(rows: Iterable[Row]) -> bool:
    weighted = [row for row in rows if row.learnable]
    return bool(weighted) and all(row.trainable == row.learnable for row in weighted)


def _contents(rows: list[Row]) -> str:
    return f"{len(rows)} layers: {_kinds(rows, _modes(rows))}"


def _modes(rows: list[Row]) -> str:
    modes = sorted({row.batch_norm for row in rows if row.batch_norm})
    return f" with {' and '.join(modes)} statistics" if modes else ""


def _justified(column: str, text: str, width: int) -> str:
    return text.rjust(width) if column in _NUMBERS else text.ljust(width)
