"""Pictures that were good when they were scanned and cannot be read any more: skipped, counted, and not too many."""

from __future__ import annotations

import threading

from greffon.errors import DataError, InputError

MOST = 0.01
"""The share of pictures that may go bad before the run stops: a file now and then does, a disk or a share that fails
must not end as a model that learned from the rest."""

_SHOWN = 3


class Skipped:
    """Counts pictures that went bad; safe to use from several threads.

    Args:
        total: how many pictures there are, at least 1.
        most: the share of them that may go bad, 0 to 1; one picture may in any case.

    Raises:
        InputError: `total` or `most` is not one of these.

    Example:
        >>> from greffon.errors import DataError
        >>> from greffon.pictures.skipped import Skipped
        >>> skipped = Skipped(200)
        >>> skipped.add("a.jpg", DataError("a.jpg: there is no such file"))
        >>> len(skipped), "a.jpg" in skipped
        (1, True)
        >>> skipped.note()
        '1 of 200 pictures could be read at the start and cannot any more; skipped: a.jpg: there is no such file'
    """

    def __init__(self, total: int, *, most: float = MOST) -> None:
        if total < 1 or not 0 <= most <= 1:
            raise InputError(f"expected at least one picture and a share of 0 to 1, got {total} and {most}")
        self._total, self._most = total, most
        self._errors: dict[str, str] = {}
        self._lock = threading.Lock()

    def add(self, path: str, error: DataError) -> None:
        """Count a picture, once however often it comes.

        Raises:
            DataError: too many have gone bad; the message says what to do.
        """
        with self._lock:
            self._errors[path] = str(error)
            if len(self._errors) > max(1, self._most * self._total):
                raise DataError(
                    f"{self._said()}. That is more than {self._most:.0%} of them: see whether the disk or the network "
                    "that they lie on is still there, then start again; pictures that are gone for good are left out "
                    "by the new scan"
                )

    def __len__(self) -> int:
        return len(self._errors)

    def __contains__(self, path: object) -> bool:
        return path in self._errors

    @property
    def paths(self) -> list[str]:
        """Those that were skipped, in the order in which it was noticed."""
        with self._lock:
            return list(self._errors)

    def note(self) -> str:
        """What to tell at the end, "" where nothing was skipped."""
        with self._lock:
            return f"{self._said()}" if self._errors else ""

    def _said(self) -> str:
        first = "; ".join(list(self._errors.values())[:_SHOWN])
        more = len(self._errors) - _SHOWN
        return (
            f"{len(self._errors):,} of {self._total:,} pictures could be read at the start and cannot any more; "
            f"skipped: {first}" + (f" and {more:,} more" if more > 0 else "")
        )
