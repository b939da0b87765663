"""`greffon.fit`: `model.fit` with the frozen part computed once per picture instead of once per epoch."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import keras

from greffon.backbone.freeze import compiled_state_changed
from greffon.errors import FreezeError, InputError
from greffon.frozen.cut import find_cut
from greffon.frozen.graph import is_graph
from greffon.say import say
from greffon.training.cached import CachedFit

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from greffon.frozen.cut import Cut


@dataclass
class FitReport:
    """What `greffon.fit` did; stands at `history.greffon`.

    Attributes:
        why_not: why the frozen part was not computed once and `model.fit` ran instead; None where it was.
        cut: the last layers of the frozen part.
        engine: what computed it; None where every activation was in the store already.
        computed: pictures that went through the frozen part.
        reused: activations read from the store.
        stored: activations newly stored.
        seconds: time spent in the frozen part.
        notes: whatever else the user should know.
        precision: arithmetic of the frozen part, `fp32` or `int8`.
        agreement: with `int8`, how many validation pictures were answered as behind an fp32 trunk.
    """

    why_not: str | None = None
    cut: str = ""
    engine: str | None = None
    computed: int = 0
    reused: int = 0
    stored: int = 0
    seconds: float = 0.0
    notes: list[str] = field(default_factory=list)
    precision: str = "fp32"
    agreement: dict[str, Any] | None = None

    def to_dict(self) -> dict[str, Any]:
        """The report by name."""
        return asdict(self)


def fit(  # noqa: PLR0913, PLR0917  # the arguments are those of Keras' fit, and may be given in its order
    model: keras.Model,
    x: Any = None,
    y: Any = None,
    batch_size: int | None = None,
    epochs: int = 1,
    verbose: Any = "auto",
    callbacks: Any = None,
    validation_split: float = 0.0,
    validation_data: Any = None,
    shuffle: bool = True,
    class_weight: Mapping[int, float] | None = None,
    sample_weight: Any = None,
    initial_epoch: int = 0,
    steps_per_epoch: int | None = None,
    validation_steps: int | None = None,
    validation_batch_size: int | None = None,
    validation_freq: int | Sequence[int] = 1,
    *,
    activations: str = "float32",
    precision: str = "fp32",
    min_agreement: float = 0.99,
) -> keras.callbacks.History:
    """Train a compiled model as `model.fit` does, running its frozen part once per picture.

    The arguments, and what they mean, are those of `keras.Model.fit`; the same seeds, data and order give the same
    losses and metrics to float32 rounding. Pictures are recognised by their bytes, in any order and from any source,
    and their activations are kept on disk: a second call, in another process, does not compute them again.

    Where there is nothing to gain (nothing frozen in front, a subclassed model, a training step of its own), one line
    says so and `model.fit` runs.

    Args:
        model: any compiled Functional or Sequential Keras model, nested ones included.
        x: arrays, `tf.data.Dataset`, `keras.utils.PyDataset`, generator, `DataLoader`. For a model whose
            preprocessing Greffon put in: RGB, 0..255, shape (n, height, width, 3), uint8 or float.
        y: targets, as for `model.fit`; None where x brings them.
        batch_size: pictures per step.
        epochs: the last epoch.
        verbose: as for `model.fit`; 0 is silent.
        callbacks: they are given `model` itself.
        validation_split: share of the arrays' end that is held out.
        validation_data: (x, y), (x, y, sample_weight), or any source.
        shuffle: whether arrays are drawn in a new order in every epoch.
        class_weight: weight of each class in the loss.
        sample_weight: weight of each picture in the loss.
        initial_epoch: epoch to go on from.
        steps_per_epoch: batches of an epoch.
        validation_steps: batches of a validation.
        validation_batch_size: pictures per validation step.
        validation_freq: validate every so many epochs, or in these.
        activations: what activations are kept in: `float32`, or `float16` for half the bytes and less precision.
        precision: arithmetic of the frozen part: `fp32`, or `int8`, which is faster and not what `model.fit` does. It
            is calibrated on the first pictures; afterwards the model's answers for the validation pictures are
            compared with those behind an fp32 trunk.
        min_agreement: share of those pictures that must be answered alike, 0 to 1; a single one never refuses.

    Returns:
        Keras' History; its `greffon` attribute is a `FitReport`.

    Raises:
        FreezeError: what trains has changed since `model.compile`.
        InputError: pictures with NaN or infinite numbers in them; pictures of another scale for a model that takes
            0..255; `int8` for what it cannot be had for.
        CheckFailedError: `int8` changes too many answers. The model is trained, and `history` is on the error.

    Example:
        >>> import greffon, keras, numpy as np
        >>> base = keras.layers.Dense(8, activation="relu", trainable=False)
        >>> model = keras.Sequential([keras.Input((4,)), base, keras.layers.Dense(1)])
        >>> model.compile("sgd", "mse")
        >>> history = greffon.fit(model, np.ones((6, 4)), np.ones((6, 1)), epochs=2, verbose=0)
        >>> len(history.history["loss"])
        2
    """
    options = {
        "batch_size": batch_size,
        "epochs": epochs,
        "verbose": verbose,
        "callbacks": callbacks,
        "shuffle": shuffle,
        "class_weight": class_weight,
        "sample_weight": sample_weight,
        "initial_epoch": initial_epoch,
        "steps_per_epoch": steps_per_epoch,
        "validation_steps": validation_steps,
        "validation_batch_size": validation_batch_size,
        "validation_freq": validation_freq,
    }
    if activations not in ("float32", "float16"):
        raise InputError(f"activations must be 'float32' or 'float16', got {activations!r}")
    if precision not in ("fp32", "int8"):
        raise InputError(f"precision must be 'fp32' or 'int8', got {precision!r}")
    if not 0 <= min_agreement <= 1:
        raise InputError(f"min_agreement must be from 0 to 1, got {min_agreement!r}")
    quiet = verbose == 0
    _refuse_stale_compile(model)
    _build_sequential(model, x)
    data = {"x": x, "y": y, "validation_split": validation_split, "validation_data": validation_data}
    cut, why_not = _cut_or_reason(model)
    if cut is None:
        say(f"greffon: {why_not}; training with model.fit", quiet=quiet)
        history = model.fit(**data, **options)
        if isinstance(history, keras.callbacks.History):  # a model with its own `fit` may return anything
            history.greffon = FitReport(why_not=why_not)
        return history
    job = CachedFit(model, cut, dtype=activations, quiet=quiet, precision=precision, min_agreement=min_agreement)
    history = job.run(**data, **options)
    trunks = job.trunks
    history.greffon = FitReport(
        cut=cut.where,
        engine=trunks.engine_name,
        notes=job.notes,
        precision=precision,
        agreement=job.agreement.to_dict() if job.agreement else None,
        **trunks.counts.to_dict(),
    )
    return history


# Whoever overrides one of these trains in a way of their own.
_STEPS = (
    "fit",
    "evaluate",
    "train_step",
    "test_step",
    "compute_loss",
    "compute_metrics",
    "reset_metrics",
    "metrics",
    "make_train_function",
    "make_test_function",
)


def _cut_or_reason(model: keras.Model) -> tuple[Cut | None, str]:
    """Where to cut, or why this model is left to `model.fit`."""
    why_not = next(_obstacles(model), None)
    if why_not:
        return None, why_not
    cut = find_cut(model)
    if cut.gains:
        return cut, ""
    end = cut.stops[0].node.path if cut.stops else model.name
    if not cut.trunk_share:
        why_not = f"nothing is frozen in front of {end}"
    else:
        why_not = f"what is frozen in front of {end} does only {cut.trunk_share:.1%} of the work"
    return None, cut.spoiler() or why_not


def _obstacles(model: keras.Model) -> Iterator[str]:
    """Why this model cannot be cut, whatever is frozen in it; to be read as far as the first."""
    if not getattr(model, "compiled", False):
        yield "the model is not compiled"
    if isinstance(model, keras.Sequential) and not model.built:
        yield f"Sequential {model.name!r} does not know its input shape (begin it with keras.Input)"
    if not is_graph(model):
        yield f"{type(model).__name__} says in code, not in a graph, what it does"
    plain = next(kind for kind in type(model).__mro__ if kind.__module__.split(".")[0] == "keras")
    for name in _STEPS:
        if getattr(type(model), name) is not getattr(plain, name):
            yield f"{type(model).__name__} has its own {name}"
    if model.activity_regularizer is not None:
        yield "the model has an activity regularizer of its own"
    if any(tensor.sparse or getattr(tensor._keras_history.operation, "optional", False) for tensor in model.inputs):
        yield "the model has a sparse or optional input"
    if _is_distributed(model):
        yield "the model is distributed over devices"


def _is_distributed(model: keras.Model) -> bool:
    if keras.distribution.distribution() is not None:
        return True
    strategy = getattr(model, "distribute_strategy", None)
    return strategy is not None and strategy.num_replicas_in_sync > 1


def _refuse_stale_compile(model: keras.Model) -> None:
    changed = compiled_state_changed(model)
    if changed:
        shown = ", ".join(changed[:5]) + (f" and {len(changed) - 5} more" if len(changed) > 5 else "")
        raise FreezeError(
            f"what trains has changed since model.compile: {shown}. The optimizer still holds the old choice; call "
            "model.compile(...) again, then greffon.fit"
        )


def _build_sequential(model: keras.Model, x: Any) -> None:
    """A Sequential without an Input learns its shape from the data, as in `model.fit`."""
    if not isinstance(model, keras.Sequential) or model.built:
        return
    spec = getattr(x, "element_spec", None)  # of a tf.data.Dataset: inputs, or (inputs, targets, ...) of a batch
    shape = getattr(spec[0] if isinstance(spec, tuple) else x, "shape", None)
    if shape is not None and None not in shape[1:]:
        model.build((None, *shape[1:]))
