"""What is searched over: each point is a handful of choices, and becomes a recipe."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Self

from greffon.backbone.blocks import EACH_BLOCK
from greffon.recipe import Stage

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import optuna

    from greffon.recipe import Head, Recipe

DEPTHS = ("none", "conv5_block3", "conv5_block2,conv5_block3", "conv5")
"""What trains beside the head, from nothing on; each is nested in the next, so one pass of the trunk serves all."""

_HIDDEN = (0, 128, 512)
_HEAD_EPOCHS, _EPOCHS = 30, 12


@dataclass(frozen=True)
class Space:
    """The choices.

    Attributes:
        pool: ways to pool; those that `pool: auto` would compare for this feature map and so many pictures.
        depth: freeze rules, joined by commas.
        hidden: units of a hidden layer; 0: none, and the head is solved.
        dropout: least and most.
        learning_rate: of the unfrozen stage, least and most, on a logarithmic scale.
        head_rate: of a head that has a hidden layer, likewise.
        weight_decay: of AdamW, likewise.
        views: of each picture.
    """

    pool: tuple[str, ...] = ("avg", "grid2", "grid3", "blocks2")
    depth: tuple[str, ...] = DEPTHS
    hidden: tuple[int, ...] = _HIDDEN
    dropout: tuple[float, float] = (0.0, 0.6)
    learning_rate: tuple[float, float] = (1e-5, 1e-3)
    head_rate: tuple[float, float] = (1e-4, 1e-2)
    weight_decay: tuple[float, float] = (1e-4, 1e-1)
    views: tuple[int, ...] = (1, 2, 4)

    @classmethod
    def of(cls, recipe: Recipe, pools: Sequence[str]) -> Space:
        """For what a recipe starts from.

        Args:
            recipe: with `augment` flip there is one other view.
            pools: that its feature map is large enough for, and that so many pictures allow.
        """
        return cls(pool=tuple(pools), views=(1, 2) if recipe.augment == "flip" else cls.views)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """As `to_dict` gave it."""
        return cls(**{name: tuple(value) for name, value in values.items()})

    def to_dict(self) -> dict[str, list[Any]]:
        """For `study.json`."""
        return {name: list(value) for name, value in asdict(self).items()}

    def ask(self, trial: optuna.Trial) -> dict[str, Any]:
        """A point. Every choice is made always, those that change nothing there too: importances need them all."""
        return {
            "pool": trial.suggest_categorical("pool", self.pool),
            "depth": trial.suggest_categorical("depth", self.depth),
            "hidden": trial.suggest_categorical("hidden", self.hidden),
            "dropout": trial.suggest_float("dropout", *self.dropout, step=0.1),
            "learning_rate": trial.suggest_float("learning_rate", *self.learning_rate, log=True),
            "head_rate": trial.suggest_float("head_rate", *self.head_rate, log=True),
            "weight_decay": trial.suggest_float("weight_decay", *self.weight_decay, log=True),
            "views": trial.suggest_categorical("views", self.views),
        }


def recipe_at(point: Mapping[str, Any], base: Recipe) -> Recipe:
    """The recipe of a point; what is not searched over is as in `base`.

    Points that differ in what changes nothing give equal recipes.

    Args:
        point: as `Space.ask` gives it.
        base: what the search started from.

    Example:
        >>> from greffon.recipe import Recipe
        >>> from greffon.searching.space import recipe_at
        >>> point = {"pool": "avg", "depth": "conv5", "hidden": 0, "dropout": 0.2, "learning_rate": 1e-4,
        ...          "head_rate": 1e-3, "weight_decay": 0.01, "views": 1}
        >>> [(stage.name, stage.optimizer, stage.unfreeze) for stage in recipe_at(point, Recipe()).stages]
        [('probe', 'lbfgs', 'none'), ('deeper', 'adamw', 'conv5')]
    """
    pool, depth = point["pool"], point["depth"]
    # A layer on features of all blocks would have tens of millions of weights.
    hidden = 0 if pool in EACH_BLOCK else point["hidden"]
    batch_size = base.stages[-1].batch_size
    if hidden:
        rate, decay = _short(point["head_rate"]), _short(point["weight_decay"])
        first = Stage(
            name="head", optimizer="adamw", learning_rate=rate, weight_decay=decay, epochs=_HEAD_EPOCHS,
            batch_size=batch_size,
        )  # fmt: skip
    else:
        first = Stage(name="probe", optimizer="lbfgs", batch_size=batch_size)
    stages = [first]
    if depth != "none":
        rules = tuple(depth.split(","))
        stages.append(
            Stage(
                name="deeper",
                unfreeze=rules[0] if len(rules) == 1 else rules,
                optimizer="adamw",
                learning_rate=_short(point["learning_rate"]),
                weight_decay=_short(point["weight_decay"]),
                epochs=_EPOCHS,
                batch_size=batch_size,
            )
        )
    # A head that is solved and stays as it is knows no dropout.
    dropout = round(point["dropout"], 1) if hidden or depth != "none" else 0.0
    head = base.head.replace(pool=pool, hidden=hidden, dropout=dropout, **_kept(pool, base.head))
    return base.replace(head=head, stages=tuple(stages), views=point["views"])


def _kept(pool: str, base: Head) -> dict[str, Any]:
    """What is kept of all blocks: what the base says of them, else everything, as with `pool: auto`."""
    if pool not in EACH_BLOCK:
        return {}
    share = 1.0 if base.kept_share == "auto" else base.kept_share
    return {"kept_share": share, "channels": base.channels if pool == base.pool else None}


def told(recipe: Recipe) -> str:
    """A recipe in a few words, for one line of a table."""
    head = recipe.head
    parts = [head.pool, f"hidden {head.hidden}" if head.hidden else "solved" if recipe.solves(recipe.stages[0]) else ""]
    parts.append(f"dropout {head.dropout:g}" if head.dropout else "")
    for stage in recipe.stages:
        if recipe.solves(stage):
            continue
        rules = stage.unfreeze if isinstance(stage.unfreeze, tuple) else (stage.unfreeze,)
        rate = stage.learning_rate if isinstance(stage.learning_rate, str) else f"{stage.learning_rate:.1e}"
        what = "head" if rules in (("none",), (0,)) else "+".join(map(str, rules))
        decay = f" decay {stage.weight_decay:.1e}" if stage.weight_decay else ""
        parts.append(f"{what} at {rate}{decay}")
    parts.append(f"{recipe.views} views" if recipe.views > 1 else "")
    return ", ".join(part for part in parts if part)


def _short(number: float) -> float:
    """Two digits: more of them say nothing, and nobody reads them."""
    return float(f"{number:.2g}")
