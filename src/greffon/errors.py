"""What Greffon raises, and the exit codes of the command line: here and nowhere else.

| code | raised as | when |
|---|---|---|
| 0 | | done; also a service that was stopped |
| 1 | `GreffonError`, `OSError`, anything unforeseen | a library or the machine failed, or Greffon has a mistake |
| 2 | `InputError` | an option, file or package does not fit or is not there, or a place cannot be written to |
| 3 | `DataError` | pictures or labels cannot be learned from; of `predict`: at least one picture cannot be read |
| 4 | `CheckFailedError` | a check fails: `check`, `verify`, `export`, `diagnose --strict`, `train --reproduce` |
| 130 | `KeyboardInterrupt` | ended by Ctrl-C |
| 143 | `InterruptedTraining` | ended by SIGTERM while training |
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

EXIT_CODES = {
    0: "done",
    2: "the input is wrong",
    3: "the pictures are wrong",
    4: "a check failed",
    130: "interrupted",
    143: "ended by SIGTERM",
    1: "anything else",
}
"""What each exit code says, in the order in which it is told."""

INTERRUPTED = 130
TERMINATED = 143


def exit_codes() -> str:
    """All of them as a clause, for help texts.

    Example:
        >>> from greffon.errors import exit_codes
        >>> exit_codes().split(", ")[-3:]
        ['130 interrupted', '143 ended by SIGTERM', '1 anything else']
    """
    return ", ".join(f"{code} {meaning}" for code, meaning in EXIT_CODES.items())


class GreffonError(Exception):
    """Anything that Greffon itself refuses or could not do."""

    exit_code = 1


class InputError(GreffonError, ValueError):
    """An argument, option, recipe or file that the user named cannot be used as asked."""

    exit_code = 2


class MissingPackageError(InputError, ImportError):
    """A package is missing that an extra of Greffon brings; the message says which command installs it."""


class WeightFileError(InputError):
    """A weight file cannot be read, or does not fit the network it was meant for."""


class FreezeError(InputError):
    """Freeze rules that match nothing, leave nothing to train, or changed since `compile`."""


class DataError(GreffonError):
    """The pictures or labels cannot be learned from as they are."""

    exit_code = 3


class CheckFailedError(GreffonError):
    """A check that was asked for, such as the proof of freezing, did not hold."""

    exit_code = 4


def nearest(word: str, known: Iterable[str]) -> str:
    """`; did you mean ...?` for the known word that is nearest, or nothing; to be put behind a message."""
    import difflib

    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else ""
