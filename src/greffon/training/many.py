"""`greffon.fit_many`: many trainings on the same pictures, for one pass of the trunk.

The activations behind every cut are filled in one pass, since the deepest trunk goes through the shallower ones. What
differs in its learning rate alone shares one compiled step; small heads are trained at once, in one step for all.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from greffon.backbone.blocks import EACH_BLOCK
from greffon.backbone.freeze import set_trainable_state, trainable_state
from greffon.errors import InputError
from greffon.frozen.store import ActivationStore
from greffon.training.practice import practised
from greffon.training.progress import ConsoleReporter, Reporter
from greffon.training.trials import Data, Trial, TrialResult, Trials

if TYPE_CHECKING:
    from collections.abc import Sequence

    from greffon.recipe import Stage


def fit_many(
    model: keras.Model,
    trials: Sequence[Trial | Stage],
    x: Any,
    y: Any,
    *,
    validation_data: tuple[Any, Any],
    activations: str = "float32",
    seed: int = 0,
    verbose: Any = "auto",
) -> list[TrialResult]:
    """Train many heads, learning rates and depths of unfreezing on the same pictures.

    Every trial begins at the model's weights, with the same seed, and gives what `model.fit` would give: categorical
    cross-entropy (binary for a sigmoid) and accuracy. Afterwards the model has the weights and flags that it had.

    Args:
        model: grafted (`greffon.graft`), or any model whose freeze rules can be resolved.
        trials: what to train; a stage alone trains the model's own head.
        x: pictures as the model takes them: (n, height, width, 3), RGB, 0..255, uint8 or float.
        y: one row per picture, (n, classes), float.
        validation_data: (pictures, targets) of the same kinds.
        activations: what activations are kept in, `float32` or `float16`.
        seed: drives order, dropout and the initial weights of other heads, the same for every trial.
        verbose: 0 is silent.

    Returns:
        One result per trial, in order.

    Raises:
        InputError: arrays that do not fit the model, no trials, or two of the same name.
        FreezeError: a stage's rules match nothing.

    Example:
        >>> import greffon, numpy as np
        >>> model = greffon.graft(greffon.resnet50(weights=None, input_shape=(32, 32, 3)), 2, preprocessing="none")
        >>> x, y = np.random.default_rng(0).uniform(0, 255, (8, 32, 32, 3)), np.eye(2)[[0, 1] * 4]
        >>> stages = [greffon.Stage(name=f"rate {rate}", learning_rate=rate, epochs=2) for rate in (1e-2, 1e-3)]
        >>> results = greffon.fit_many(model, stages, x, y, validation_data=(x, y), verbose=0)
        >>> [result.trial.stage.name for result in results], results[0].at_once
        (['rate 0.01', 'rate 0.001'], 2)
    """
    whole = [trial if isinstance(trial, Trial) else Trial(trial) for trial in trials]
    data = Data.of(model, x, y, validation_data)
    if activations not in ("float32", "float16"):
        raise InputError(f"activations must be 'float32' or 'float16', got {activations!r}")
    _check_trials(whole)
    reporter = Reporter() if verbose == 0 else ConsoleReporter()
    flags = trainable_state(model)
    weights = [np.array(keras.ops.convert_to_numpy(weight)) for weight in model.weights]
    try:
        with ActivationStore() as store:
            return Trials(model, whole, data, store, activations, seed, reporter).run()
    finally:
        for variable, value in zip(model.weights, weights, strict=True):
            variable.assign(value)
        set_trainable_state(model, flags)


def _check_trials(trials: Sequence[Trial]) -> None:
    """Refuse what `greffon.train` alone can do, by name."""
    if not trials:
        raise InputError("trials must hold at least one Stage or Trial, got none")
    stages = [trial.stage for trial in trials]
    names = [stage.name for stage in stages]
    if len(set(names)) != len(names):
        raise InputError(f"the stages of trials must have different names, got {names}")
    if any(isinstance(it.learning_rate, str) or it.only_if_better or it.optimizer == "lbfgs" for it in stages):
        raise InputError(
            "the stages of trials must be trained by steps, with a learning rate and without only_if_better: those of "
            "greffon.train alone may be solved (lbfgs), search for a rate or be taken back"
        )
    asked = sorted({name for it in stages for name in practised(it)})
    if asked:
        raise InputError(f"fit_many knows nothing of {', '.join(asked)}: leave it out, or train with greffon.train")
    for head in (trial.head for trial in trials if trial.head is not None):
        if head.pool == "auto":
            raise InputError("pool='auto' is for greffon.train, which compares poolings on your pictures: choose one")
        if head.pool in EACH_BLOCK and head.channels is None and head.kept_share not in ("auto", 1.0):
            raise InputError(
                "kept_share is for greffon.train, which chooses on your pictures the channels that are kept: leave it "
                "out, and all are, or name them (Head.channels)"
            )
