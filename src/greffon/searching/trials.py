"""The trials of a study, kept by Optuna in a journal file: asked for, told, counted, put into a table."""

from __future__ import annotations

import logging
import warnings
from typing import TYPE_CHECKING, Any

from greffon.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path

    import optuna
    import polars as pl

    from greffon.searching.space import Space

INSTALL = 'pip install "greffon[tune]"'
AS_GIVEN = "as given"

_RANDOM = 8  # trials that are drawn, before the sampler looks at what came out
_COMPARED, _WARM = 4, 2  # trials, and tenths of one, before one is pruned


def require_optuna() -> None:
    """Refuse where Optuna is missing.

    Raises:
        InputError: it is not installed.
    """
    try:
        import optuna  # noqa: F401
    except ImportError as error:
        raise InputError(f"a search over recipes needs Optuna ({error}): {INSTALL}") from error


class TrialBook:
    """All trials of a study.

    Args:
        journal: Optuna's file; it is made if it is not there.
        seed: of the sampler. Where a study goes on, the number of its trials is added: the same draws would come again.
    """

    def __init__(self, journal: Path, *, seed: int) -> None:
        import optuna
        from optuna.storages import JournalStorage
        from optuna.storages.journal import JournalFileBackend

        logging.getLogger("optuna").setLevel(logging.ERROR)
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # parts of Optuna that are marked experimental say so
            storage = JournalStorage(JournalFileBackend(str(journal)))
            self.study = optuna.create_study(
                storage=storage, study_name="greffon", direction="minimize", load_if_exists=True,
                pruner=optuna.pruners.MedianPruner(n_startup_trials=_COMPARED, n_warmup_steps=_WARM),
            )  # fmt: skip
            self.study.sampler = optuna.samplers.TPESampler(
                seed=(seed + len(self.study.trials)) % 2**32, n_startup_trials=_RANDOM, multivariate=True,
                constant_liar=False,
            )  # fmt: skip
        for left in self.study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.RUNNING,)):
            self._tell(left.number, "FAIL")  # of a process that was killed

    def ask(self, space: Space | None) -> tuple[Any, dict[str, Any]]:
        """A trial and its point; without a space the trial of the recipe as it was given."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            trial = self.study.ask()
            return trial, {} if space is None else space.ask(trial)

    def note(self, trial: Any, **facts: Any) -> None:
        """Write facts down beside a trial."""
        for name, value in facts.items():
            trial.set_user_attr(name, value)

    def complete(self, trial: Any, loss: float) -> None:
        """It ended with this loss."""
        self.study.tell(trial, loss)

    def prune(self, trial: Any) -> None:
        """It was ended before."""
        self._tell(trial, "PRUNED")

    def fail(self, trial: Any, reason: str) -> None:
        """It could not be done."""
        self.note(trial, reason=reason)
        self._tell(trial, "FAIL")

    def _tell(self, trial: Any, state: str) -> None:
        import optuna

        self.study.tell(trial, state=optuna.trial.TrialState[state])

    def all(self) -> list[optuna.trial.FrozenTrial]:
        """All, in order, but those that were drawn and never begun."""
        return [it for it in self.study.get_trials(deepcopy=False) if not it.user_attrs.get("not_begun")]

    def ended(self) -> list[optuna.trial.FrozenTrial]:
        """Those with a loss."""
        return [it for it in self.all() if it.state.name == "COMPLETE" and it.value is not None]

    def best(self) -> optuna.trial.FrozenTrial | None:
        """The one with the least loss, the earliest of equals."""
        return min(self.ended(), key=lambda it: (it.value, it.number), default=None)

    def known(self) -> dict[str, optuna.trial.FrozenTrial]:
        """Trials that ended, by their recipe: the same is not trained twice."""
        return {it.user_attrs["recipe"]: it for it in reversed(self.ended()) if "recipe" in it.user_attrs}

    def table(self) -> pl.DataFrame:
        """One row per trial, best first; those without a loss at the end."""
        import polars as pl

        rows = [
            {
                "trial": it.number,
                "state": _STATES.get(it.state.name, it.state.name.lower()),
                "log_loss": it.value if it.state.name == "COMPLETE" else None,
                "accuracy": it.user_attrs.get("accuracy"),
                "seconds": it.user_attrs.get("seconds"),
                "what": it.user_attrs.get("what", ""),
                "reason": it.user_attrs.get("reason", ""),
                **{name: it.params.get(name) for name in _PARAMETERS},
            }
            for it in self.all()
        ]
        schema = {"trial": pl.Int64, "state": pl.String, "log_loss": pl.Float64, "accuracy": pl.Float64,
                  "seconds": pl.Float64, "what": pl.String, "reason": pl.String, **_PARAMETERS}  # fmt: skip
        schema = {name: getattr(pl, kind) if isinstance(kind, str) else kind for name, kind in schema.items()}
        return pl.DataFrame(rows, schema=schema, orient="row").sort("log_loss", "trial", nulls_last=True)


_STATES = {"COMPLETE": "ended", "PRUNED": "pruned", "FAIL": "failed", "RUNNING": "running"}
_PARAMETERS: dict[str, Any] = {
    "pool": "String", "depth": "String", "hidden": "Int64", "dropout": "Float64", "learning_rate": "Float64",
    "head_rate": "Float64", "weight_decay": "Float64", "views": "Int64",
}  # fmt: skip
