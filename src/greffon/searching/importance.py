"""What mattered in a search: how much of the differences between trials each choice explains, and how sure that is."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np

from greffon.say import counted

if TYPE_CHECKING:
    from collections.abc import Sequence

FEW = 40
"""Trials under which importances are a hint at most."""

_LEAST = 6
_RESAMPLES = 5
_LEFT_OUT = 0.2


@dataclass(frozen=True)
class Importance:
    """Of one choice.

    Attributes:
        name: of it.
        share: of the variance of the validation loss that it explains (fANOVA, Hutter et al. 2014), 0..1.
        low: the least of it when a fifth of the trials is left out, several times.
        high: the most.
        medians: median loss by value, where there are few values.
    """

    name: str
    share: float
    low: float
    high: float
    medians: dict[str, float]

    def to_dict(self) -> dict[str, Any]:
        """As plain values."""
        return vars(self)


def importances(
    points: Sequence[dict[str, Any]], losses: Sequence[float], trials: Any, *, seed: int
) -> list[Importance]:
    """Importance of every choice, largest first; none where there are too few trials, or all came to the same.

    Args:
        points: of trials that ended.
        losses: of each.
        trials: Optuna's record of each, in the same order.
        seed: of the forest that explains, and of the trials left out.
    """
    if len(points) < _LEAST or max(losses) - min(losses) < 1e-9:
        return []
    shares = _shares(trials, seed)
    random = np.random.default_rng(seed)
    keep = max(_LEAST - 1, round((1 - _LEFT_OUT) * len(points)))
    drawn = [
        _shares([trials[place] for place in sorted(random.permutation(len(points))[:keep])], seed)
        for _ in range(_RESAMPLES)
    ]
    found = []
    for name in shares:
        seen = [share.get(name, 0.0) for share in (shares, *drawn)]
        found.append(Importance(name, shares[name], min(seen), max(seen), _medians(name, points, losses)))
    return sorted(found, key=lambda it: -it.share)


def caution(count: int) -> str:
    """What to say of importances from so many trials."""
    if count >= FEW:
        return "shares of the differences between trials, not causes; ranges from leaving a fifth of the trials out"
    return (
        f"from {counted(count, 'trial')}, which is few: a hint, not a finding ({FEW} or more would say something); "
        "ranges from leaving a fifth of the trials out"
    )


def _shares(trials: Sequence[Any], seed: int) -> dict[str, float]:
    import optuna

    study = optuna.create_study(direction="minimize")
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        study.add_trials(list(trials))
        try:
            found = optuna.importance.get_param_importances(study, evaluator=evaluator)
        except (ValueError, RuntimeError):  # all of these came to the same
            return {}
    return {name: float(share) for name, share in found.items()}


def _medians(name: str, points: Sequence[dict[str, Any]], losses: Sequence[float]) -> dict[str, float]:
    by_value: dict[str, list[float]] = {}
    for point, loss in zip(points, losses, strict=True):
        if isinstance(point[name], float):
            return {}
        by_value.setdefault(str(point[name]), []).append(loss)
    return {value: round(median(found), 4) for value, found in by_value.items()}
