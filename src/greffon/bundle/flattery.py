"""What makes a run's numbers on its validation pictures better than those on new pictures would be, in words.

Two things do: what was chosen by these pictures, and that the weights had learned from some of them before the training
began. A head that is solved chooses its penalty and its pooling on the pictures to learn from, so nothing does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from greffon.recipe import Recipe

LEARNED_BEFORE = "learned_before"
"""Where a run's record says how many held-out pictures its weights had learned from: `run`, and for the sides `val` and
`test` the `pictures` and `of` how many."""


def chosen_by_validation(recipe: Recipe) -> str:
    """What a training chose by its validation pictures, as one clause; "" where it chose nothing by them.

    Example:
        >>> from greffon.bundle.flattery import chosen_by_validation
        >>> from greffon.recipe import Recipe, Stage
        >>> chosen_by_validation(Recipe())
        'the epoch, the learning rate and whether a stage is kept'
        >>> chosen_by_validation(Recipe(stages=[Stage(optimizer="lbfgs")]))
        ''
    """
    trained = [stage for stage in recipe.stages if not recipe.solves(stage)]
    by_epoch = any((stage.keep_best or stage.patience or stage.soup) and stage.epochs > 1 for stage in trained)
    by_rate = any(stage.learning_rate == "auto" for stage in trained)
    by_stage = any((stage.only_if_better and stage is not recipe.stages[0]) or stage.carry_best for stage in trained)
    found = [
        what
        for what, is_chosen in (
            ("the epoch", by_epoch),
            ("the learning rate", by_rate),
            ("whether a stage is kept", by_stage),
        )
        if is_chosen
    ]
    return " and ".join(filter(None, [", ".join(found[:-1]), *found[-1:]]))


def learned_before(record: Mapping[str, Any], side: str) -> str:
    """That the weights had learned from pictures of a side before the training, as a clause; "" where they had not.

    Args:
        record: what a run's run.json says.
        side: `val` or `test`.
    """
    before = record.get(LEARNED_BEFORE)
    found = before.get(side) if isinstance(before, dict) else None
    if not isinstance(before, dict) or not isinstance(found, dict):
        return ""
    return (
        f"its weights had learned from {found.get('pictures')} of these {found.get('of')} pictures before "
        f"({before.get('run')}), so they flatter"
    )


def flattery(recipe: Recipe, record: Mapping[str, Any]) -> list[str]:
    """Why the validation numbers of a run flatter it, one clause for each reason; empty where they do not.

    Args:
        recipe: of the run.
        record: what its run.json says.

    Example:
        >>> from greffon.bundle.flattery import flattery
        >>> from greffon.recipe import Recipe, Stage
        >>> before = {"run": "runs/first", "val": {"pictures": 12, "of": 30}}
        >>> flattery(Recipe(stages=[Stage(optimizer="lbfgs")]), {"learned_before": before})
        ['its weights had learned from 12 of these 30 pictures before (runs/first), so they flatter']
    """
    chosen = chosen_by_validation(recipe)
    by_choice = f"also used to choose {chosen}, so a little flattering" if chosen else ""
    return [clause for clause in (learned_before(record, "val"), by_choice) if clause]
