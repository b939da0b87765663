"""What several commands take as DATA: a folder, a table, shards, an address; and which columns of a table say what."""

# Annotations are evaluated here: Cyclopts makes the command line of them.

from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from greffon.errors import InputError, nearest

if TYPE_CHECKING:
    from greffon.pictures.sources.columns import Columns

Data = Annotated[
    str, Parameter(help="a folder with one folder of pictures per class, a table, tar shards, or an address of these")
]
RunData = Annotated[
    str | None,
    Parameter(
        show_default=False,
        help="where the pictures are now: a folder, a table, tar shards, an address; by default where they were "
        "when RUN was trained. They are known by their content",
    ),
]
ColumnNames = Annotated[
    tuple[str, ...],
    Parameter(
        name="--column",
        negative=(),
        show_default=False,
        help="which column of a table says what, as WHAT=COLUMN, several times; WHAT: path, label, group, split; "
        "label=a,b,c: one 0/1 column per class; separator=CHAR: between several labels in one cell",
    ),
]
_WHAT = ("path", "label", "group", "split", "separator")


def column_words(given: tuple[str, ...]) -> list[str]:
    """`--column` as it was given: for commands that messages show."""
    return [word for text in given for word in ("--column", text)]


def columns_of(given: tuple[str, ...]) -> "Columns | None":
    """The columns that `--column` names; None where there are none.

    Raises:
        InputError: one is not of the form WHAT=COLUMN, or is given twice.
    """
    from greffon.pictures.sources.columns import Columns

    chosen: dict[str, str | tuple[str, ...]] = {}
    for text in given:
        what, sign, column = text.partition("=")
        if not sign or not column or what not in _WHAT:
            raise InputError(
                f"--column must be WHAT=COLUMN with WHAT one of {', '.join(_WHAT)}, got {text!r}{nearest(what, _WHAT)}"
            )
        if what in chosen:
            raise InputError(f"--column {what}= is given twice")
        chosen[what] = tuple(column.split(",")) if what == "label" and "," in column else column
    return Columns(**chosen) if chosen else None  # type: ignore[arg-type]
