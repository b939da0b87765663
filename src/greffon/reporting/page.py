"""The page of a run: one HTML file with everything in it, that asks nothing of any network and runs no script.

Names of files, classes and stages are a stranger's text: the template escapes all of it, marks that would turn it
round or hide it are replaced, and the page's content security policy lets no script run and nothing be loaded.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from greffon.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

INSTALL = 'pip install "greffon[report]"'

_REPLACED = "\N{REPLACEMENT CHARACTER}"
_ALLOWED = "\n\u200c\u200d"  # joiners, of which some scripts and emoji are made


def require_report() -> None:
    """Refuse where what makes the page is missing.

    Raises:
        InputError: Jinja2 or Matplotlib is not installed.
    """
    try:
        import jinja2  # noqa: F401
        import matplotlib as mpl  # noqa: F401
    except ImportError as error:
        raise InputError(f"a report needs Jinja2 and Matplotlib ({error}): {INSTALL}") from error


def render(facts: Mapping[str, Any]) -> str:
    """The page as text.

    Args:
        facts: what `page.html` asks for; texts are escaped.
    """
    import jinja2
    import markupsafe

    folder = files("greffon.reporting") / "templates"
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, finalize=cleaned
    )
    environment.filters["public"] = public
    template = environment.from_string((folder / "page.html").read_text(encoding="utf-8"))
    style = markupsafe.Markup((folder / "page.css").read_text(encoding="utf-8"))
    return template.render(facts, style=style)


def cleaned(value: Any) -> Any:
    """A text without what cannot be seen or cannot be written: control characters, marks that turn text round.

    Example:
        >>> from greffon.reporting.page import cleaned
        >>> cleaned("photo\u202egpj.exe"), cleaned(1)
        ('photo\ufffdgpj.exe', 1)
    """
    if not isinstance(value, str) or hasattr(value, "__html__"):
        return value
    return "".join(letter if letter.isprintable() or letter in _ALLOWED else _REPLACED for letter in value)


def public(locator: str) -> str:
    """An address without what is secret in it: name and password, and the query, in which signatures stand.

    Example:
        >>> from greffon.reporting.page import public
        >>> public("https://me:secret@host/a.jpg?sig=1"), public("cats/what?.jpg")
        ('https://host/a.jpg', 'cats/what?.jpg')
    """
    from greffon.pictures.sources.locate import is_address

    if not is_address(locator):
        return locator
    scheme, _, rest = locator.partition("://")
    host, slash, path = rest.partition("/")
    return f"{scheme}://{host.rpartition('@')[2]}{slash}{path.partition('?')[0]}"


def write(text: str, file: Path) -> None:
    """Write the page; a crash leaves the old one or none, never half of one.

    Raises:
        InputError: it cannot be written.
    """
    beside = file.with_name(f".{secrets.token_hex(8)}.{os.getpid()}.part")
    try:
        beside.write_text(text, encoding="utf-8", newline="\n")
        beside.replace(file)
    except OSError as error:
        raise InputError(
            f"the report {file} cannot be written: {error.strerror or error}; give another place with out (-o)"
        ) from error
    finally:
        with contextlib.suppress(OSError):
            beside.unlink(missing_ok=True)
