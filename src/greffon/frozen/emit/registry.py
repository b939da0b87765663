"""Which function emits which layer."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from greffon.frozen.emit.builder import Builder, Unsupported, Value

if TYPE_CHECKING:
    from greffon.frozen.emit.plan import Step

Converter = Callable[[Builder, "Step"], Value]


class Converters(dict[str, Converter]):
    """The converters of one module by the public names of what they convert; a decorator that adds to them."""

    def __call__(self, *kinds: str) -> Callable[[Converter], Converter]:
        """Add a converter for operations with these names."""

        def add(converter: Converter) -> Converter:
            self.update(dict.fromkeys(kinds, converter))
            return converter

        return add


def unsupported(step: Step, why: str) -> Unsupported:
    """The error for a layer that a converter does not know after all."""
    return Unsupported(f"{step.node.path} ({type(step.layer).__name__})", why)
