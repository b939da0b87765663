"""What all trials stand on: the pictures on their three sides, one pass of the trunk for all depths and poolings."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from greffon.frozen.cost import macs
from greffon.pictures.split import apply_split
from greffon.recipe import Head, Stage
from greffon.searching.held_out import SomeRows, hold_out, rows_left
from greffon.searching.space import DEPTHS
from greffon.searching.trial import Shared
from greffon.training.choices import Choices
from greffon.training.first_pass import FirstPass, look_first
from greffon.training.planned import Planned
from greffon.training.samples import samples_of, samples_to_split
from greffon.training.start import build_backbone, graft_head

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import polars as pl

    from greffon.pictures.catalog import Catalog
    from greffon.recipe import Recipe
    from greffon.training.progress import Reporter
    from greffon.training.start import Start


@dataclass
class Ground:
    """Pictures and activations of a study.

    Attributes:
        shared: what trials are given.
        together: content hashes of near-copies.
        pools: ways to pool that the feature map is large enough for, and that so many pictures allow.
        tails: multiply-accumulates behind the cut, by depth.
        trunk_seconds: of the frozen part for one picture; 0 where nothing had to be computed.
        notes: what the user should know of the pictures.
    """

    shared: Shared
    together: list[list[str]]
    pools: tuple[str, ...]
    tails: Mapping[str, int]
    trunk_seconds: float
    notes: tuple[str, ...]
    _recipe: Recipe
    _model: Any
    _resize: Any
    _planned: Planned

    @classmethod
    def prepare(
        cls, catalog: Catalog, recipe: Recipe, start: Start, *, share: float, written: pl.DataFrame | None,
        reporter: Reporter,
    ) -> Ground:  # fmt: skip
        """Run the trunk over the pictures and split them.

        Args:
            catalog: not split yet.
            recipe: what the search starts from.
            start: its weights.
            share: of each class to hold back.
            written: the split of a study that goes on; None: they are split now.
            reporter: told what happens.
        """
        import keras

        from greffon.frozen.store import ActivationStore

        keras.utils.set_random_seed(recipe.seed)
        backbone, preprocessing, notes = build_backbone(start, recipe)
        carrier = _carrier(recipe, catalog)
        model, _ = graft_head(backbone, preprocessing, start, carrier.head, catalog.class_names)
        resize = preprocessing.resize if recipe.resize == "auto" else recipe.resize
        store = ActivationStore()
        first = look_first(model, carrier, catalog, resize, store, reporter=reporter, notes=[])
        planned = first.planned if first else _passed(model, carrier, catalog, resize, store, reporter)
        together = first.near.together if first and first.near else []
        if written is None:
            sides = hold_out(
                catalog, share=share, validation=recipe.validation, seed=recipe.seed, together=together,
                known=start.earlier.sides,
            )  # fmt: skip
        else:
            sides = apply_split(catalog, written)
        if first is not None:
            rows = rows_left(catalog, sides)
            features: Any = {pool: SomeRows(source, rows) for pool, source in first.features.items()}
            near = first.near and replace(first.near)
            first = FirstPass(planned, features, near)
        work = planned.work
        shared = Shared(start, sides, first, store)
        shared.backbones[recipe.image_size, recipe.preprocessing] = backbone, preprocessing, notes
        shared.parts, planned.parts = planned.parts, []
        return cls(
            shared, together, tuple(first.features) if first else ("avg",),
            {plan.stage.name: macs(plan.cut.tail) for plan in planned.plan()},
            work.seconds / work.computed if work.computed else 0.0,
            (*notes, *sides.notes, *filter(None, [start.earlier.warning(sides)])), carrier, model, resize, planned,
        )  # fmt: skip

    def fill(self, views: int, reporter: Reporter) -> None:
        """Run the trunk over views of the pictures to learn from, for every depth and pooling at once."""
        if views == 1:
            return
        recipe, catalog = self._recipe.replace(views=views), self.shared.catalog
        samples = samples_of(
            catalog, recipe.image_size, self._resize, views=views, augment=recipe.augment, together=self.together
        )
        planned = Planned(self._model, recipe, samples, self.shared.store, reporter, [], Choices())
        planned.with_features(self.pools)  # type: ignore[arg-type]
        self.shared.parts = planned.parts
        if planned.work.computed:
            self.trunk_seconds = planned.work.seconds / planned.work.computed


def _carrier(recipe: Recipe, catalog: Catalog) -> Recipe:
    """A recipe that is never trained: its stages are cut at every depth, shallow first, so that none is late."""
    output = "sigmoid" if catalog.several_labels else recipe.head.output
    stages = [Stage(name="none", optimizer="lbfgs")]
    stages += [Stage(name=depth, unfreeze=tuple(depth.split(","))) for depth in DEPTHS if depth != "none"]
    return recipe.replace(head=Head(pool="auto", output=output), stages=tuple(stages), views=1)


def _passed(
    model: Any, carrier: Recipe, catalog: Catalog, resize: Any, store: Any, reporter: Reporter
) -> Planned:  # fmt: skip
    samples = samples_to_split(catalog, carrier.image_size, resize)
    planned = Planned(model, carrier, samples, store, reporter, [], Choices())
    pools: Sequence[Any] = ("avg",)
    planned.with_features(pools)
    return planned
