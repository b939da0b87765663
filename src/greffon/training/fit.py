"""`greffon.fit`: `model.fit` with the frozen part computed once per picture instead of once per epoch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from greffon.backbone.guard import reject_scaled_pictures
from greffon.backbone.proof import compiled_state_changed
from greffon.errors import FreezeError, InputError
from greffon.frozen.activations import Activations
from greffon.frozen.cut import find_cut
from greffon.frozen.graph import flat_inputs, is_graph
from greffon.frozen.store import ActivationStore
from greffon.frozen.trunk import Trunk, kept_dtypes
from greffon.say import say
from greffon.training.feed import RowFeed, StreamFeed, are_arrays, content_keys
from greffon.training.progress import ConsoleReporter, Reporter
from greffon.training.tail import Tail

if TYPE_CHECKING:
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
    """

    why_not: str | None = None
    cut: str = ""
    engine: str | None = None
    computed: int = 0
    reused: int = 0
    stored: int = 0
    seconds: float = 0.0
    notes: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """The report by name."""
        return asdict(self)


def fit(  # noqa: PLR0913  # the arguments are those of Keras' fit
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

    Returns:
        Keras' History; its `greffon` attribute is a `FitReport`.

    Raises:
        FreezeError: what trains has changed since `model.compile`.
        InputError: float pictures in 0..1 for a model that takes 0..255.

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
    quiet = verbose == 0
    _refuse_stale_compile(model)
    _build_sequential(model, x)
    cut, why_not = _cut_or_reason(model)
    if cut is None:
        say(f"greffon: {why_not}; training with model.fit", quiet=quiet)
        history = model.fit(x, y, validation_split=validation_split, validation_data=validation_data, **options)
        history.greffon = FitReport(why_not=why_not)
        return history
    job = _CachedFit(model, cut, activations, quiet=quiet)
    return job.run(x, y, validation_split=validation_split, validation_data=validation_data, **options)


class _CachedFit:
    """One call of `fit` for a model with a frozen part."""

    def __init__(self, model: keras.Model, cut: Cut, dtype: str, *, quiet: bool) -> None:
        self.model, self.cut, self.dtype, self.quiet = model, cut, dtype, quiet
        self.reporter = Reporter() if quiet else ConsoleReporter()
        self.report = FitReport(cut=cut.where)
        self._store: ActivationStore | None = None
        self._trunks: dict[Any, Trunk] = {}
        self._checked = 0
        spoiler = cut.spoiler()
        if spoiler:
            self._note(spoiler)

    def run(
        self,
        x: Any,
        y: Any,
        *,
        epochs: int,
        verbose: Any,
        callbacks: Any,
        shuffle: bool,
        validation_split: float,
        validation_data: Any,
        **options: Any,
    ) -> keras.callbacks.History:
        sample_weight, class_weight = options.pop("sample_weight"), options.pop("class_weight")
        batch_size, steps_per_epoch = options.pop("batch_size"), options["steps_per_epoch"]
        if validation_split and validation_data is None:
            (x, y, sample_weight), validation_data = _split_end((x, y, sample_weight), validation_split)
        feed = self._feed(
            x,
            y,
            sample_weight,
            batch_size=batch_size,
            steps_per_epoch=steps_per_epoch,
            shuffle=shuffle,
            class_weight=class_weight,
        )
        validation = self._validation_feed(validation_data, batch_size, options)
        tail = Tail(self.model, self.cut)
        watch = _Watch(self, [feed, validation])
        try:
            history = tail.train(
                feed,
                callbacks=_with(callbacks, watch),
                epochs=epochs,
                verbose=verbose,
                steps=steps_per_epoch or feed.num_batches,
                validation_data=validation,
                **options,
            )
        except Exception:
            for source in (feed, validation):
                if source is not None and source.error is not None:
                    raise source.error from None
            raise
        self._finish_report()
        history.greffon = self.report
        return history

    # --- feeds ---

    def _feed(self, x: Any, y: Any, sample_weight: Any, **options: Any) -> RowFeed | StreamFeed:
        if isinstance(x, RowFeed | StreamFeed):
            return x
        if are_arrays(x, y, sample_weight):
            return RowFeed(self._rows(x), y=y, sample_weight=sample_weight, **options)
        return StreamFeed(
            self._trunk,
            self.model,
            x=x,
            y=y,
            sample_weight=sample_weight,
            whole_passes=options.get("steps_per_epoch") is None,
            shapes=self.cut.shapes,
            dtypes=kept_dtypes(self.cut, self.dtype),
            check=self._check,
            **options,
        )

    def _validation_feed(self, validation_data: Any, batch_size: int | None, options: dict[str, Any]) -> Any:
        batch_size = options.pop("validation_batch_size") or batch_size
        if validation_data is None:
            return None
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(validation_data)
        steps = options["validation_steps"]
        return self._feed(
            x, y, sample_weight, batch_size=batch_size, steps_per_epoch=steps, shuffle=False, class_weight=None
        )

    def _rows(self, x: Any) -> Activations:
        inputs = [_as_array(leaf) for leaf in flat_inputs(self.model, x)]
        if len({len(array) for array in inputs}) != 1:
            raise InputError(f"the inputs must have the same number of rows, got {[len(array) for array in inputs]}")
        self._check([array[:1024] for array in inputs])
        trunk = self._trunk([array.shape[1:] for array in inputs])
        activations = Activations(trunk, content_keys(inputs), lambda rows: [array[rows] for array in inputs])
        with self.reporter.bar("frozen part", total=len(activations)) as advance:
            activations.fill(advance)
        return activations

    def _trunk(self, shapes: Sequence[tuple[int, ...]]) -> Trunk:
        """One trunk for each shape of picture: a model for pictures of any size gives activations of any size."""
        key = tuple(tuple(shape) for shape in shapes)
        if key not in self._trunks:
            if self._store is None:
                self._store = ActivationStore()
            self._trunks[key] = Trunk(self.cut, key, store=self._store, dtype=self.dtype)
        return self._trunks[key]

    def _check(self, inputs: list[np.ndarray[Any, Any]]) -> None:
        """Look at the first batches only: whoever scales pictures scales all of them."""
        if self._checked < 3:
            self._checked += 1
            reject_scaled_pictures(self.model, inputs)

    # --- what is said ---

    def _note(self, text: str) -> None:
        self.report.notes.append(text)
        say(f"greffon: {text}", quiet=self.quiet)

    def end_epoch(self, feeds: list[Any]) -> None:
        if any([feed.end_pass() for feed in feeds if isinstance(feed, StreamFeed)]):
            self._note(
                "the pictures change from one pass to the next (random augmentation?), so their activations are not "
                "kept; the frozen part is computed for each of them"
            )

    def _finish_report(self) -> None:
        trunks = self._trunks.values()
        self.report.engine = next((trunk.engine_name for trunk in trunks if trunk.engine_name), None)
        for name in ("computed", "reused", "stored", "seconds"):
            setattr(self.report, name, sum(getattr(trunk.counts, name) for trunk in trunks))
        report = self.report
        by = f" by {report.engine} in {report.seconds:.1f} s" if report.computed else ""
        say(
            f"greffon: frozen part up to {report.cut}: {report.computed} pictures computed{by}, {report.reused} "
            "activations read from the store",
            quiet=self.quiet,
        )


class _Watch(keras.callbacks.Callback):  # type: ignore[misc]  # Keras is not typed
    """Tells the fit when a pass through the data has ended."""

    def __init__(self, job: _CachedFit, feeds: list[Any]) -> None:
        super().__init__()
        self._job, self._feeds = job, feeds

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self._job.end_epoch(self._feeds)


# --- whether there is something to gain -----------------------------------------------------------------------------

_OWN_STEPS = ("fit", "train_step", "test_step", "compute_loss", "compute_metrics", "make_train_function")


def _cut_or_reason(model: keras.Model) -> tuple[Cut | None, str]:
    """Where to cut, or why this model is left to `model.fit`."""
    if not getattr(model, "compiled", False):
        return None, "the model is not compiled"
    if not is_graph(model):
        return None, f"{type(model).__name__} says in code, not in a graph, what it does"
    plain = next((kind for kind in type(model).__mro__ if kind.__module__.split(".")[0] == "keras"), keras.Model)
    own = [name for name in _OWN_STEPS if getattr(type(model), name) is not getattr(plain, name)]
    if own:
        return None, f"{type(model).__name__} has its own {own[0]}"
    if _is_distributed(model):
        return None, "the model is distributed over devices"
    cut = find_cut(model)
    if cut.gains:
        return cut, ""
    spoiler = cut.spoiler()
    return None, spoiler or f"nothing is frozen in front of {cut.stops[0].node.path if cut.stops else model.name}"


def _is_distributed(model: keras.Model) -> bool:
    if keras.distribution.distribution() is not None:
        return True
    strategy = getattr(model, "distribute_strategy", None)
    return strategy is not None and strategy.num_replicas_in_sync > 1


def _refuse_stale_compile(model: keras.Model) -> None:
    changed = compiled_state_changed(model) if getattr(model, "compiled", False) else []
    if changed:
        shown = ", ".join(changed[:5]) + (f" and {len(changed) - 5} more" if len(changed) > 5 else "")
        raise FreezeError(
            f"what trains has changed since model.compile: {shown}. The optimizer still holds the old choice; call "
            "model.compile(...) again, then greffon.fit"
        )


def _build_sequential(model: keras.Model, x: Any) -> None:
    """A Sequential without an Input learns its shape from the data, as in `model.fit`."""
    if isinstance(model, keras.Sequential) and not model.built and hasattr(x, "shape"):
        model.build((None, *x.shape[1:]))


# --- helpers --------------------------------------------------------------------------------------------------------


def _as_array(leaf: Any) -> np.ndarray[Any, Any]:
    return leaf if isinstance(leaf, np.ndarray) else np.asarray(keras.ops.convert_to_numpy(leaf))


def _split_end(data: tuple[Any, Any, Any], share: float) -> tuple[tuple[Any, Any, Any], tuple[Any, Any, Any]]:
    """Hold out the last share of the rows, as Keras does."""
    lengths = {len(leaf) for leaf in keras.tree.flatten(data) if leaf is not None}
    if len(lengths) != 1:
        raise InputError(f"validation_split takes arrays with the same number of rows, got {sorted(lengths)} rows")
    rows = lengths.pop()
    at = math.floor(rows * (1.0 - share))
    if at in (0, rows):
        raise InputError(f"validation_split={share} of {rows} rows leaves one side empty; give more rows")
    first = keras.tree.map_structure(lambda leaf: None if leaf is None else leaf[:at], data)
    rest = keras.tree.map_structure(lambda leaf: None if leaf is None else leaf[at:], data)
    return first, rest


def _with(callbacks: Any, extra: keras.callbacks.Callback) -> Any:
    if isinstance(callbacks, keras.callbacks.CallbackList):
        callbacks.append(extra)
        return callbacks
    return [*(keras.tree.flatten(callbacks) if callbacks else []), extra]
