"""24 models on the same pictures: 4 cuts x 2 batch sizes x 3 learning rates, 5 epochs.

The grid is that of the workload FTU of Nautilus (Nakandala and Kumar, SIGMOD 2022), which published 1.3 to 1.7 times
for keeping activations alone and 2.8 times with models fused. The other side trains each model with `model.fit`. It is
timed for one learning rate of each cut and batch size, over two epochs, and extended to all.
"""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass

from fit import fresh_cache, resnet
from made_up import arrays
from rows import Row

TRAIN, HELD_OUT, SIDE, CLASSES, EPOCHS = 96, 24, 224, 2, 5
CUTS = {
    "conv5_block2_out": "conv5_block3",
    "conv5_block1_out": ("conv5_block2", "conv5_block3"),
    "conv4_block6_out": "conv5",
    "conv4_block5_out": ("conv4_block6", "conv5"),
}
BATCHES, RATES = (16, 32), (5e-5, 3e-5, 2e-5)


@dataclass(frozen=True)
class Config:
    """One of the models."""

    cut: str
    batch: int
    rate: float


def configs(options):
    """All models, those with the same cut behind one another."""
    cuts = ("conv5_block2_out",) if options.smoke else tuple(CUTS)
    return [Config(cut, batch, rate) for cut in cuts for batch in BATCHES for rate in RATES]


def measure(options):
    """Both sides once: they are long."""
    work = _Work(options)
    other, theirs = work.other_side()
    start = time.perf_counter()
    with fresh_cache():
        accuracies = train_all(work)
    ours = time.perf_counter() - start
    return [
        Row(
            name="many",
            what=f"{len(configs(options))} models on {len(work.data[0])} + {len(work.validation[0])} pictures",
            other=f"{other:.0f} s, extended from one learning rate and 2 epochs",
            ours=f"{ours:.0f} s",
            ratios=[other / ours],
            target=3.5,
            note=f"`greffon.fit_many`; validation accuracy {_range(accuracies)}; of those that `model.fit` trained, "
            f"after 2 epochs, {_range(theirs)}. Published for this grid: 1.3 to 1.7 for keeping activations, "
            "2.8 with models fused",
            table="reuse",
        )
    ]


def train_all(work):
    """Our side: train every model, give their last validation accuracies."""
    import keras

    import greffon

    keras.utils.set_random_seed(0)
    model = resnet("none")(work.options, CLASSES, work.side)
    results = greffon.fit_many(
        model, [_stage(config, work.epochs) for config in configs(work.options)], *work.data,
        validation_data=work.validation, verbose=0,
    )  # fmt: skip
    return [result.history[-1]["val_accuracy"] for result in results]


def _stage(config, epochs):
    import greffon

    return greffon.Stage(
        name=f"{config.cut} {config.batch} {config.rate}",
        unfreeze=CUTS[config.cut],
        epochs=epochs,
        batch_size=config.batch,
        learning_rate=config.rate,
        patience=None,
        keep_best=False,
    )


class _Work:
    """The grid's pictures, and one model of it trained."""

    def __init__(self, options):
        self.options = options
        counts, self.side = ((16, 8), 64) if options.smoke else ((TRAIN, HELD_OUT), SIDE)
        self.epochs = 2 if options.smoke else EPOCHS
        self.data, self.validation = arrays(*counts, self.side, classes=CLASSES)

    def run(self, train, config, epochs):
        """Train one model of the grid.

        Returns:
            Seconds of its last epoch, seconds of all with building and compiling, the last validation accuracy.
        """
        import keras

        keras.utils.set_random_seed(0)
        start = time.perf_counter()
        model = resnet(CUTS[config.cut])(self.options, CLASSES, self.side)
        model.optimizer.learning_rate = config.rate
        ends = [start]
        history = train(
            model,
            *self.data,
            epochs=epochs,
            batch_size=config.batch,
            validation_data=self.validation,
            callbacks=[
                keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: ends.append(time.perf_counter()))
            ],
            verbose=0,
        )
        return ends[-1] - ends[-2], time.perf_counter() - start, history.history["val_accuracy"][-1]

    def other_side(self):
        """Seconds of `model.fit` for all models, and accuracies of those that it trained, after two epochs."""
        seconds, accuracies = [], []
        for config in configs(self.options):
            if config.rate == RATES[1]:
                epoch, two, accuracy = self.run(_keras_fit, config, 2)
                accuracies.append(accuracy)
                seconds.append(two + (self.epochs - 2) * epoch)
        return len(RATES) * statistics.fsum(seconds), accuracies


def _range(values):
    return f"{min(values):.3f} to {max(values):.3f}"


def _keras_fit(model, *data, **options):
    return model.fit(*data, **options)
