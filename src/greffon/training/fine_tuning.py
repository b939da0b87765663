"""A stage that is trained by steps: learning rate, epochs, the best of them, and whether it was worth keeping."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import keras

from greffon.backbone.proof import examine, fingerprint
from greffon.errors import InputError
from greffon.training.int8 import probabilities
from greffon.training.mixed import is_wanted, mixed_precision
from greffon.training.norm_statistics import MovingStatistics
from greffon.training.optimizers import constant_rate
from greffon.training.practice import callbacks_of, finish
from greffon.training.rate import find_rate
from greffon.training.solved import improvement, picture_losses, sure_enough
from greffon.training.stage_memory import stage_memory
from greffon.training.stage_result import Trained
from greffon.training.watch import StageWatch

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np

    from greffon.training.checkpoint import State
    from greffon.training.feeding import Feeding, Feeds
    from greffon.training.planned import StagePlan
    from greffon.training.progress import Reporter
    from greffon.training.stage_memory import Memory
    from greffon.training.stage_tail import StageTail

    Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class FineTuning:
    """Trains stages by steps.

    Attributes:
        feeding: makes tails and batches.
        memory: where checkpoints go, and where an interrupted stage goes on from.
        reporter: told of epochs.
        note: called with what the user should know afterwards.
    """

    feeding: Feeding
    memory: Memory
    reporter: Reporter
    note: Callable[[str], None]

    def run(self, plan: StagePlan, seed: int, *, may_be_taken_back: bool) -> Trained:
        """Train; take it back where it does not help and the stage asks for that.

        Args:
            plan: its source is filled, and the model is compiled for it.
            seed: of order, views and dropout.
            may_be_taken_back: whether there is a stage before it.

        Raises:
            InputError: a loss that is not a number before there was a best epoch.
        """
        stage, model = plan.stage, self.feeding.model
        before = fingerprint(model)
        judged = stage.only_if_better and may_be_taken_back
        losses = self._validation_losses(plan) if judged or stage.carry_best else None
        with mixed_precision(plan.cut.tail, wanted=is_wanted(self.feeding.recipe.mixed_precision)):
            tail, watch, practice, more = self._train(plan, seed, losses)
        self._check_finite(watch)
        # Before the best weights come back: those of the first epoch could be the ones that it began with.
        proof = examine(model, before)
        if stage.keep_best:
            watch.restore_best()
        more |= finish(practice, lambda: float(self._validation_losses(plan).mean()))
        if judged and losses is not None:
            more |= self._judge(plan, losses, watch, seed)
        return Trained(watch.rows, watch.best, proof, bool(tail.jit_compile), more)

    def _train(
        self, plan: StagePlan, seed: int, losses: Array | None
    ) -> tuple[StageTail, StageWatch, list[keras.callbacks.Callback], State]:
        """The tail that was trained, what looked on, and what was found out about the learning rate."""
        stage, samples = plan.stage, self.feeding.samples
        tail, feeds = self.feeding.tail_and_feeds(plan, seed)
        inside = self.memory.take_inside()
        found = self._found_rate(tail, plan, feeds, seed) if inside is None else dict(inside["rate"])
        keras.utils.set_random_seed(seed)
        watch = StageWatch(stage, self.reporter, list(tail.weights))
        if stage.carry_best and losses is not None:
            watch.carry(float(losses.mean()))
        practice = callbacks_of(
            stage, list(tail.weights), MovingStatistics.of(tail, plan.source, samples.train, seed=seed)
        )
        feed, callbacks = feeds["train"](), [watch, *practice]
        keeps = stage_memory(self.memory, tail, plan.cut, feed, callbacks, found)
        if inside is not None:
            keeps.restore(inside)
        with keeps.training(stage.epochs):
            tail.train_on(
                feed, validation_data=feeds["validation"](), callbacks=[*callbacks, keeps], epochs=stage.epochs,
                initial_epoch=keeps.epoch, verbose=0, steps=None,
            )  # fmt: skip
        return tail, watch, practice, found

    def _found_rate(self, tail: StageTail, plan: StagePlan, feeds: Feeds, seed: int) -> State:
        """The learning rate that suits, where it is to be searched for; what to write down of it."""
        if not isinstance(plan.stage.learning_rate, str):
            return {}
        with constant_rate(tail.optimizer):
            found = find_rate(tail, plan.stage, feeds, seed=seed)
        self.reporter.note(f"{plan.stage.name}: {found}")
        return found.to_dict()

    def _validation_losses(self, plan: StagePlan) -> Array:
        samples = self.feeding.samples
        answers = probabilities(plan.cut, [plan.source], samples.validation)[0]
        several = self.feeding.recipe.head.output == "sigmoid"
        return picture_losses(answers, samples.targets[samples.validation], several_labels=several)

    def _judge(self, plan: StagePlan, before: Array, watch: StageWatch, seed: int) -> dict[str, Any]:
        """Keep what the stage did if it improves the validation loss surely enough; what to write down of it."""
        after = self._validation_losses(plan)
        share = improvement(before, after, seed=seed)
        needed = sure_enough(len(before))
        kept = share >= needed
        losses = f"{before.mean():.4f} to {after.mean():.4f}, better in {share:.0%} of resamples"
        if kept:
            self.reporter.note(f"{plan.stage.name}: kept; validation loss {losses}")
        else:
            watch.restore_first()
            self.note(
                f"stage {plan.stage.name!r} is taken back: validation loss {losses}, {needed:.0%} are asked for; "
                "the model is that of the stage before it"
            )
        return {"kept": kept, "better_in_resamples": round(share, 4)}

    def _check_finite(self, watch: StageWatch) -> None:
        if not watch.not_finite:
            return
        stage = watch.stage
        if not watch.best or not stage.keep_best:
            raise InputError(
                f"stage {stage.name!r}: the loss was not a number in epoch {watch.not_finite}, at learning rate "
                f"{stage.learning_rate}; give a lower one (--learning-rate, or learning_rate= of the stage)"
            )
        self.note(
            f"stage {stage.name!r} stopped in epoch {watch.not_finite}, whose loss was not a number; the weights of "
            f"epoch {watch.best} are kept"
        )
