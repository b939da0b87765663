"""Pictures that the weights of a training know already: those of the run that they come from, and of runs before it.

Held out again, a picture that these weights have learned from would flatter the validation: so it stays on the side to
learn from, see `greffon.pictures.settled`. Where the sides are the user's own (a val/, a written split, a test/), it is
said how many such pictures are held out.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from greffon.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import polars as pl

    from greffon.bundle.read import Bundle
    from greffon.pictures.catalog import Catalog

_CALLED = {"val": "held out for validation", "test": "in test/"}


@dataclass(frozen=True)
class Earlier:
    """What earlier training did with which pictures.

    Attributes:
        run: the run that the weights come from; None: of the weights nothing of the kind is known.
        sides: content hash -> `train` where it was learned from, in that run or in one before it; else `val`.
        features: whether more than a head has learned from them, so that the features know them, too.
    """

    run: Path | None = None
    sides: Mapping[str, str] = field(default_factory=dict, repr=False)
    features: bool = False

    def held_out_again(self, catalog: Catalog) -> dict[str, dict[str, int]]:
        """How many pictures of val and test were learned from before, and of how many; no side without any.

        Args:
            catalog: split.
        """
        learned = [content for content, side in self.sides.items() if side == "train"]
        found = {}
        for side in _CALLED:
            hashes = catalog.side(side)["hash"]
            count = int(hashes.is_in(learned).sum())
            if count:
                found[side] = {"pictures": count, "of": len(hashes)}
        return found

    def known_to_features(self, catalog: Catalog) -> int:
        """How many pictures the features have learned from, and not a head alone."""
        if not self.features:
            return 0
        return sum(self.sides.get(content) == "train" for content in catalog.ok["hash"])

    def to_record(self, catalog: Catalog) -> dict[str, Any] | None:
        """For the run's record, see `greffon.bundle.flattery`; None where nothing was held out again."""
        found = self.held_out_again(catalog)
        return {"run": str(self.run), **found} if found else None

    def warning(self, catalog: Catalog) -> str | None:
        """What the user has to know of pictures that are held out again; None where there are none."""
        found = self.held_out_again(catalog)
        if not found:
            return None
        counts = " and ".join(
            f"{it['pictures']:,} of {it['of']:,} pictures {_CALLED[side]}" for side, it in found.items()
        )
        return (
            f"{counts} were learned from by {self.run}, whose weights these are (or by a run before it): numbers on "
            "them flatter, and say little about new pictures. Hold out pictures that it has not learned from; where "
            "neither val/ nor a written split is given, greffon train does so itself as far as there are any"
        )

    def note(self, catalog: Catalog) -> str | None:
        """How the split goes on from the earlier one; None where it has nothing to do with it."""
        sides = dict(catalog.ok.select("hash", "split").iter_rows())
        kept = [side for content, side in self.sides.items() if sides.get(content) == side]
        if not kept:
            return None
        learned = kept.count("train")
        return (
            f"{learned:,} pictures that {self.run} has learned from are learned from again, {len(kept) - learned:,} "
            "that it held out are held out again"
        )

    def to_frame(self) -> pl.DataFrame | None:
        """For the run's folder: the columns `hash` and `split`; None where nothing is known."""
        import polars as pl

        if not self.sides:
            return None
        return pl.DataFrame({"hash": list(self.sides), "split": list(self.sides.values())})


def earlier_of(weights: Path) -> Earlier:
    """What is known of a run, given by its folder or by its model's file.

    Raises:
        InputError: the run is damaged.
    """
    from greffon.bundle.read import read_bundle
    from greffon.bundle.write import is_run

    run = weights.parent if weights.name == "model.keras" and weights.is_file() else weights
    if not is_run(run):
        return Earlier()
    bundle = read_bundle(run)
    return Earlier(run, bundle.known, _has_learned_features(bundle))


def _has_learned_features(bundle: Bundle) -> bool:
    """Whether more than a head was trained, as far as this version can read the recipe."""
    from greffon.evaluation.beside import has_learned_features

    try:
        return bool(len(bundle.earlier)) or has_learned_features(bundle)
    except InputError:
        return True
