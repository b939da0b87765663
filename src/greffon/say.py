"""One line to the user, from code that has no reporter: printed, and always logged."""

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
