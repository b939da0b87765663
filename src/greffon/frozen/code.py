"""What code does, as text: the same in every process, another one when the code changes, comments aside."""

from __future__ import annotations

import types
from typing import Any

import numpy as np
import xxhash

_PLAIN = (str, bytes, int, float, complex, bool)


def described_code(thing: Any) -> str:
    """The code of a function or class, with the functions, classes and constants of its own package that it uses.

    Args:
        thing: a Python function, or a class: its methods and those of its bases, Keras' own left out.

    Example:
        >>> from greffon.frozen.code import described_code
        >>> described_code(lambda x: 2 * x) == described_code(lambda x: 3 * x)
        False
    """
    walk = _Walk(_package(thing))
    walk.visit(thing)
    return repr(walk.parts)


def is_keras_own(thing: Any) -> bool:
    """Whether a class or function comes with Keras: its version says what it does."""
    return _package(thing) == "keras"


def _package(thing: Any) -> str:
    return str(getattr(thing, "__module__", None) or "").split(".")[0]


class _Walk:
    """Collects code, beginning at one function or class and staying in its package."""

    def __init__(self, package: str) -> None:
        self.parts: list[Any] = []
        self._package = package
        self._seen: set[int] = set()

    def visit(self, thing: Any, name: str = "") -> None:
        if thing is None:
            return
        if isinstance(thing, tuple | list):
            for item in thing:
                self.visit(item, name)
        elif isinstance(thing, _PLAIN):
            self.parts.append((name, _stable(thing)))
        elif hasattr(thing, "__array__") and not isinstance(thing, type):  # a constant of NumPy's or of the backend's
            array = np.asarray(thing)
            self.parts.append((name, str(array.dtype), array.shape, xxhash.xxh3_128_hexdigest(array.tobytes())))
        elif id(thing) not in self._seen and _package(thing) == self._package:
            self._seen.add(id(thing))
            if isinstance(thing, type):
                self._visit_class(thing)
            elif isinstance(thing, types.FunctionType):
                self._visit_function(thing)

    def _visit_class(self, kind: type) -> None:
        for base in kind.__bases__:
            self.visit(base)
        for name, member in vars(kind).items():
            if isinstance(member, property):
                self.visit(member.fget, name)
            elif not name.startswith("__") or callable(member):
                self.visit(getattr(member, "__func__", member), name)

    def _visit_function(self, function: types.FunctionType) -> None:
        code = function.__code__
        self.parts.append(_stable(code))
        self.visit(function.__defaults__)
        for name, value in sorted((function.__kwdefaults__ or {}).items()):
            self.visit(value, name)
        for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=True):
            try:
                self.visit(cell.cell_contents, name)
            except ValueError:  # the cell is still empty
                self.parts.append((name, "empty"))
        self._visit_globals(function.__globals__, _names(code))

    def _visit_globals(self, module: dict[str, Any], names: list[str]) -> None:
        for name in names:
            value = module.get(name)
            if not isinstance(value, types.ModuleType):
                self.visit(value, name)
            elif value.__name__.split(".")[0] == self._package:
                for attribute in names:
                    self.visit(getattr(value, attribute, None), f"{name}.{attribute}")


def _names(code: types.CodeType) -> list[str]:
    """Global and attribute names that code uses, the code inside it included."""
    inner = [name for const in code.co_consts if isinstance(const, types.CodeType) for name in _names(const)]
    return list(dict.fromkeys([*code.co_names, *inner]))


def _stable(value: Any) -> Any:
    """A constant in a form whose `repr` is the same in every process."""
    if isinstance(value, types.CodeType):
        return (value.co_code.hex(), value.co_names, value.co_varnames, [_stable(const) for const in value.co_consts])
    if isinstance(value, tuple):
        return [_stable(item) for item in value]
    if isinstance(value, frozenset):
        return sorted(repr(item) for item in value)
    return value if value is None or value is Ellipsis or isinstance(value, _PLAIN) else repr(type(value))
