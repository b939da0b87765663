"""One line to the user, from code that has no reporter: printed, and always logged; and numbers of things in words."""

from __future__ import annotations

import logging

_log = logging.getLogger("greffon")


def say(text: str, quiet: bool = False) -> None:
    """Print one line on standard output, or in the notebook, and log it to the logger `greffon` at level INFO.

    Args:
        text: the line, as it is: square brackets are not markup.
        quiet: log only.

    Example:
        >>> from greffon.say import say
        >>> say("trunk: 1,000 pictures, all of them known")
        trunk: 1,000 pictures, all of them known
    """
    _log.info("%s", text)
    if not quiet:
        from rich import get_console

        # Long lines are left to the terminal to wrap: a log file keeps one line per call.
        get_console().print(text, markup=False, highlight=False, soft_wrap=True)


def counted(count: int, what: str) -> str:
    """A number of things, in words.

    Example:
        >>> from greffon.say import counted
        >>> counted(1, "trial"), counted(2000, "picture")
        ('1 trial', '2,000 pictures')
    """
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def are(count: int) -> str:
    """The verb that goes with a number of things: `is` or `are`."""
    return "is" if count == 1 else "are"
