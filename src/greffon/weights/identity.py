"""What a weight file was found to be: for people a sentence, for programs a dict."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from greffon.errors import WeightFileError

if TYPE_CHECKING:
    from greffon.weights.sets import Preprocessing, Variant


@dataclass(frozen=True)
class Naming:
    """How the tensors of a file are called in Keras.

    Attributes:
        places: name in the file -> Keras' name; empty where the file has Keras' names or none that can be told.
        torch_axes: kernels are (out, in, height, width) and dense kernels (out, in).
        notes: what was set aside and chosen, one sentence each.
        as_is: names of dense kernels that are (in, out) all the same.
    """

    places: dict[str, str]
    torch_axes: bool = False
    notes: tuple[str, ...] = ()
    as_is: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Identity:
    """What a weight file is.

    Attributes:
        network: in words, "ResNet-50 v1.5" or "not a ResNet: it looks like VGG".
        variant: to build for it; None where Greffon builds none.
        variant_sure: whether the file or its writer says so; else it is the likelier one.
        variant_why: a clause.
        blocks: per stage; empty where it is no ResNet.
        depth: 50, 101 or 152; None for others.
        width: filters in conv2's bottlenecks.
        stem: the first convolution, in words.
        include_top: whether the file holds the classifier.
        classes: of it.
        writer: who wrote the file, in words.
        preprocessing: what its backbone was trained with; None where that cannot be known.
        preprocessing_why: a clause: why it is known, or why it cannot be.
        prefix: what stands before the network's names in the file.
        refusal: why Greffon cannot load it, a clause; empty where it can.
        notes: what its user should know, one sentence each.
        naming: how its tensors are called in Keras.
    """

    network: str
    variant: Variant | None = None
    variant_sure: bool = False
    variant_why: str = ""
    blocks: tuple[int, ...] = ()
    depth: int | None = None
    width: int | None = None
    stem: str = ""
    include_top: bool = False
    classes: int | None = None
    writer: str = "unknown"
    preprocessing: Preprocessing | None = None
    preprocessing_why: str = ""
    prefix: str = ""
    refusal: str = ""
    notes: tuple[str, ...] = ()
    naming: Naming = field(default_factory=lambda: Naming({}), repr=False)

    def sentence(self) -> str:
        """All of it for people, in one to four sentences."""
        if not self.blocks:
            about = self.refusal.partition(": ")[2] if self.refusal and self.network not in self.refusal else ""
            return f"{_capital(self.network)}{': ' if about else ''}{about}."
        top = f"with a classifier of {self.classes:,} classes" if self.include_top else "without a classifier"
        parts = [f"{_capital(self.network)}, {top}, from {self.writer}."]
        if self.refusal:
            reason = self.refusal.removeprefix(f"it is {self.network}: ")
            return f"{parts[0]} Greffon cannot load it: {reason}."
        if self.variant:
            parts.append(f"Variant {self.variant}{'' if self.variant_sure else ' (not sure)'}: {self.variant_why}.")
        said = self.preprocessing.name if self.preprocessing else "unknown"
        parts.append(f"Preprocessing {said}: {self.preprocessing_why}.")
        return " ".join(parts)

    def as_dict(self) -> dict[str, Any]:
        """All of it for programs, ready for JSON."""
        return {
            "network": self.network,
            "variant": self.variant,
            "variant_is_sure": self.variant_sure,
            "variant_why": self.variant_why,
            "blocks": list(self.blocks),
            "depth": self.depth,
            "width": self.width,
            "stem": self.stem,
            "include_top": self.include_top,
            "classes": self.classes,
            "writer": self.writer,
            "preprocessing": self.preprocessing.name if self.preprocessing else None,
            "preprocessing_why": self.preprocessing_why,
            "prefix": self.prefix,
            "loadable": not self.refusal,
            "refusal": self.refusal,
            "notes": [*self.notes, *self.naming.notes],
        }

    def for_variant(self, asked: Variant | None) -> Identity:
        """The same file taken for the variant that the user asked for, where the file leaves that open.

        Raises:
            WeightFileError: it is surely another.
        """
        if asked is None or asked == self.variant or self.variant is None:
            return self
        if self.variant_sure:
            raise WeightFileError(
                f"the file is for variant {self.variant!r}, not {asked!r}: {self.variant_why}. The shapes may agree, "
                f'but the strides differ and the features would be wrong: pass variant="{self.variant}", or leave it '
                "out"
            )
        return replace(self, variant=asked, variant_why="as was asked for; the file does not tell")


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
