"""A bar for a download, on the terminal or in a notebook."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from greffon.weights.download import Progress


@contextmanager
def progress_bar(what: str) -> Iterator[Progress]:
    """Show a download's progress on standard error while the block runs.

    Args:
        what: what is being downloaded, as a line's beginning.

    Yields:
        A function that takes the bytes so far and in all, as `fetch` calls it.
    """
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn, TransferSpeedColumn
    from rich.progress import Progress as Bar

    columns = (TextColumn(what), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Bar(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(what, total=None)
        yield lambda here, total: bar.update(task, completed=here, total=total)
