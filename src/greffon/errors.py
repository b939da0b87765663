"""What Greffon raises, and the exit code that the command line gives for each."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


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
