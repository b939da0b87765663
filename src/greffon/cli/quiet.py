"""Keep the libraries' own chatter from the user's terminal."""

from __future__ import annotations

import logging
import os
import re
import sys
import tempfile
import warnings
from contextlib import contextmanager, suppress
from importlib.abc import MetaPathFinder
from importlib.machinery import PathFinder
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType

# TensorFlow's C++ log: "I0000 00:00:1795497320.526183 8383 port.cc:153] ...", its heading and its continuation.
_CHATTER = re.compile(
    rb"[IWEF]\d{4} \d\d:\d\d:|\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d+: [IWE] |WARNING: All log messages before absl::"
    rb"|To enable the following instructions:"
)


def quiet() -> None:
    """From now on TensorFlow starts without a word, and warnings are one line without a place in the code.

    Must be called before TensorFlow is imported. With `GREFFON_DEBUG=1` it does nothing: then everything is shown.
    What the user has set in `TF_CPP_MIN_LOG_LEVEL` is respected.
    """
    if os.environ.get("GREFFON_DEBUG") == "1":
        return
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    warnings.showwarning = _show_warning
    if "tensorflow" not in sys.modules and not any(isinstance(finder, _QuietTensorFlow) for finder in sys.meta_path):
        sys.meta_path.insert(0, _QuietTensorFlow())


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    (file or sys.stderr).write(f"warning: {message}\n")


class _QuietTensorFlow(MetaPathFinder):
    """Whoever imports TensorFlow first, what it writes to the process's standard error meanwhile is looked through.

    Its log level does not help here: the libraries write these lines before they look at it.
    """

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != "tensorflow":
            return None
        # It stays in its place: who only asks whether TensorFlow is there does not import it.
        spec = PathFinder.find_spec(fullname, path)
        if spec is not None and spec.loader is not None:
            spec.loader.exec_module = _held_back(spec.loader.exec_module)  # type: ignore[method-assign, assignment]
        return spec


def _held_back(execute: Callable[[ModuleType], None]) -> Callable[[ModuleType], None]:
    def execute_quietly(module: ModuleType) -> None:
        with _without_chatter():
            execute(module)

    return execute_quietly


@contextmanager
def _without_chatter() -> Iterator[None]:
    """Hold back what is written to file descriptor 2; afterwards write what is not chatter, after an error all."""
    try:
        saved = os.dup(2)
    except OSError:  # there is no standard error to keep clean
        yield
        return
    with tempfile.TemporaryFile() as held:
        sys.stderr.flush()
        os.dup2(held.fileno(), 2)
        failed = True
        try:
            yield
            failed = False
        except KeyboardInterrupt:  # the user's own doing: what was held back explains nothing
            failed = False
            raise
        finally:
            sys.stderr.flush()
            os.dup2(saved, 2)
            os.close(saved)
            held.seek(0)
            with suppress(OSError):
                for line in held:
                    if failed or not _CHATTER.match(line):
                        os.write(2, line)
