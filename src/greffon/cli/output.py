"""What commands print: results on standard output, everything else on standard error when a program reads along."""

from __future__ import annotations

import json
import math
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rich.console import Console, RenderableType
    from rich.table import Table

    from greffon.training.progress import ConsoleReporter

JSON_FLAG = "--json"

Json = Annotated[
    bool,
    Parameter(
        name=JSON_FLAG,
        negative=(),
        show_default=False,
        help="print one JSON object on standard output, and everything else on standard error",
    ),
]
"""The type of a command's `json` parameter."""


_NO_WIDTH = 10_000  # characters


@dataclass(frozen=True)
class Failure:
    """What went wrong, for people and for programs.

    Attributes:
        text: what was expected, what came, what to do.
        kind: the class of the error, such as `InputError`.
        exit_code: of the process.
    """

    text: str
    kind: str
    exit_code: int


def print_json(value: Mapping[str, Any]) -> None:
    """One JSON object on standard output, in ASCII: it survives any terminal and any pipe."""
    from greffon.bundle.manifest import plain

    _write_json(plain(value))


def print_error(text: str) -> None:
    """A sentence, or several lines, on standard error."""
    _print(standard_error(), f"error: {text}", style="bold red")


def print_json_error(failure: Failure) -> None:
    """The error as the one JSON object that a program waits for."""
    _write_json({"error": failure.text, "kind": failure.kind, "exit_code": failure.exit_code})


def standard_error() -> Console:
    """The console for what is not the result."""
    from rich.console import Console

    return Console(stderr=True)


def show(renderable: RenderableType) -> None:
    """A table or text on standard output."""
    from rich import get_console
    from rich.console import Console

    console = get_console()
    if not console.is_terminal and not console.is_jupyter:
        # A pipe has no width that a table had to fit into: nothing is folded, one row is one line.
        console = Console(width=_NO_WIDTH, highlight=False)
    text = isinstance(renderable, str)
    console.print(renderable, soft_wrap=text, markup=not text, highlight=False)


def plain_table(*columns: str, title: str | None = None) -> Table:
    """A table with one rule under its headings, as narrow as it can be; long cells are folded, never cut."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1))
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def size(count: int) -> str:
    """Bytes as people say them, in decimal units."""
    if count < 1000:
        return f"{count} bytes"
    power = min(int(math.log10(count)) // 3, 4)
    return f"{count / 1000**power:.1f} {('kB', 'MB', 'GB', 'TB')[power - 1]}"


def reporter(*, to_stderr: bool) -> ConsoleReporter:
    """Progress for people: on standard error where standard output is for a program."""
    from greffon.training.progress import ConsoleReporter

    return ConsoleReporter(standard_error() if to_stderr else None)


def _write_json(value: Any) -> None:
    sys.stdout.write(json.dumps(value, indent=2, allow_nan=False) + "\n")
    sys.stdout.flush()


def _print(console: Console, text: str, *, style: str) -> None:
    from rich.text import Text

    first, _, rest = text.partition(" ")
    console.print(Text.assemble((first, style), " ", rest), soft_wrap=True)
