"""Command lines that messages show: whole, so that they can be pasted into a shell."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


def command_line(*words: object) -> str:
    """A command of Greffon as it can be pasted into a shell.

    Example:
        >>> from greffon.bundle.commands import command_line
        >>> command_line("train", "my photos", "-o", "RUN")
        "greffon train 'my photos' -o RUN"
    """
    return shlex.join(["greffon", *map(str, words)])


def resume_command(run: Path) -> str:
    """The command line that goes on with the training of a run.

    Example:
        >>> from pathlib import Path
        >>> from greffon.bundle.commands import resume_command
        >>> resume_command(Path("runs/my first"))
        "greffon train --resume 'runs/my first'"
    """
    return command_line("train", "--resume", run)


def data_words(data: Any, columns: Mapping[str, Any] | None) -> list[str]:
    """DATA of a command line, with what says which columns of it say what.

    Args:
        data: where the pictures are, as a run's record has it; None, for objects of Python, stands for itself.
        columns: likewise.

    Example:
        >>> from greffon.bundle.commands import data_words
        >>> data_words("my.csv", {"path": "file", "label": ["cat", "dog"], "group": None})
        ['my.csv', '--column', 'path=file', '--column', 'label=cat,dog']
        >>> data_words(None, None)
        ['DATA']
    """
    words = ["DATA" if data is None else str(data)]
    for what, column in (columns or {}).items():
        if column:
            words += ["--column", f"{what}={','.join(column) if isinstance(column, list | tuple) else column}"]
    return words
