"""A run's pictures, found again by what is in them: a file of the same name with another content is not it."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import xxhash

from greffon.errors import GreffonError
from greffon.pictures.sources.locate import is_address, located, read_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import AbstractContextManager

    from greffon.bundle.read import Bundle
    from greffon.evaluation.evaluate import Bars
    from greffon.pictures.sources.columns import Columns

    Locator = Path | str


class Finder:
    """Finds pictures by path and content hash.

    Where no data is given, they are looked for where the run's split says, on this machine alone: what a run names is
    not fetched over a network.

    Args:
        bundle: the run.
        data: where its pictures are now, whatever `greffon.train` takes; None: where they were.
        columns: which columns of a table say what.
        progress: shows how many pictures have been read, where all of the data has to be.

    Raises:
        InputError: the data cannot be read.
        DataError: it holds no picture.
    """

    def __init__(
        self,
        bundle: Bundle,
        data: Any = None,
        *,
        columns: Columns | None = None,
        progress: Bars | None = None,
    ) -> None:
        self._data, self._columns, self._progress = data, columns, progress
        self._by_hash: dict[str, Locator] | None = None
        self._roots = [Path()]
        root = bundle.record.get("root")
        if isinstance(root, str) and not is_address(root):
            self._roots.insert(0, Path(root))
        if isinstance(data, str | Path) and not is_address(data) and Path(data).expanduser().is_dir():
            self._roots.insert(0, Path(data).expanduser())
        elif data is not None:
            self._known()  # also so that data which cannot be read is refused, and not passed over

    def find(self, paths: Sequence[str | None], hashes: Sequence[str | None]) -> list[Locator | None]:
        """Where each picture is, or None: it is gone, or was changed.

        Args:
            paths: as in the run's split.
            hashes: xxh3_128 of the files' bytes, in hexadecimal.
        """
        found = [self._in_place(path, content) for path, content in zip(paths, hashes, strict=True)]
        if self._data is None or all(found):
            return found
        known = self._known()
        return [it or (known.get(content) if content else None) for it, content in zip(found, hashes, strict=True)]

    def _in_place(self, path: str | None, content: str | None) -> Locator | None:
        if not path or not content or is_address(path):
            return None
        for root in self._roots:
            place = located(root, path)
            try:
                if not is_address(place) and xxhash.xxh3_128_hexdigest(read_bytes(place)) == content:
                    return place
            except (OSError, ValueError, GreffonError):  # ValueError: a zero byte in its name
                continue
        return None

    def _known(self) -> dict[str, Locator]:
        """All pictures of the data, read once."""
        if self._by_hash is None:
            from greffon.pictures.sources.choose import catalog_of

            with bar(self._progress, "reading pictures", None) as advance:
                catalog = catalog_of(self._data, columns=self._columns, to="evaluate", advance=advance)
            usable = catalog.ok
            self._by_hash = dict(zip(usable["hash"].to_list(), catalog.locators(usable), strict=True))
        return self._by_hash


def bar(progress: Bars | None, name: str, total: int | None) -> AbstractContextManager[Callable[[int], None]]:
    """A bar, or nothing."""
    return nullcontext(lambda more: None) if progress is None else progress.bar(name, total=total)
