"""Small things that are made of pictures beside activations, and kept in the same store: thumbnails."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import xxhash

if TYPE_CHECKING:
    from collections.abc import Callable

    from greffon.frozen.store import ActivationStore

    Array = np.ndarray[Any, Any]


def fill_rows(
    store: ActivationStore | None, what: str, keys: list[bytes], rows: Array, make: Callable[[Array], None], *,
    version: str = "",
) -> None:  # fmt: skip
    """Fill the rows of an array: with what the store knows, the others by making them, which are kept.

    They take no room of activations that are in use, which cost more to compute again.

    Args:
        store: keeps them; None: all are made.
        what: they are, for people.
        keys: 16 bytes for each row that stand for the picture, and for all of it that the row depends on.
        rows: (len(keys) or more, ...), filled in place.
        make: fills the rows at some places, int64, ascending.
        version: changes with whatever else would change a row.

    Example:
        >>> import numpy as np, tempfile
        >>> from greffon.frozen.kept_rows import fill_rows
        >>> from greffon.frozen.store import ActivationStore
        >>> store, made = ActivationStore(tempfile.mkdtemp()), []
        >>> for _ in range(2):
        ...     rows = np.ones((2, 3), np.uint8)
        ...     fill_rows(store, "ones", [b"a" * 16, b"b" * 16], rows, lambda places: made.extend(places.tolist()))
        >>> made
        [0, 1]
    """
    digest = xxhash.xxh3_128_digest(f"{what} {version} {rows.dtype.str} {rows.shape[1:]}".encode())
    known = None if store is None else store.trunk(digest, label=what, modest=True)
    found = np.zeros(len(keys), bool) if known is None else known.read_into(keys, [rows])
    missing = np.flatnonzero(~found)
    make(missing)
    if known is not None and len(missing):
        known.put_many([keys[place] for place in missing], [rows[missing]])
