"""One call of `greffon.fit` for a model with a frozen part: where the activations come from, and what is said."""

from __future__ import annotations

import contextlib
import math
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from greffon.errors import CheckFailedError, InputError
from greffon.frozen.graph import flat_inputs
from greffon.frozen.keys import as_taken
from greffon.frozen.store import ActivationStore
from greffon.frozen.trunks import Trunks
from greffon.say import say
from greffon.training.feed import RowFeed, StreamFeed, are_arrays
from greffon.training.given import PictureGuard
from greffon.training.int8 import ENOUGH, Agreement, compared
from greffon.training.progress import ConsoleReporter, Reporter
from greffon.training.tail import Tail

if TYPE_CHECKING:
    from collections.abc import Iterator

    from greffon.frozen.activations import Activations
    from greffon.frozen.cut import Cut

    Array = np.ndarray[Any, Any]


class CachedFit:
    """Trains the tail of a model in the model's place.

    Args:
        model: compiled.
        cut: where its trunk ends.
        dtype: what activations are kept in.
        quiet: say nothing.
        precision: of the trunk, `fp32` or `int8`.
        min_agreement: share of the validation pictures that must be answered alike with `int8`.

    Attributes:
        trunks: what they computed and read.
        notes: what the user should know.
        agreement: of int8 with fp32, once it has been trained.
    """

    def __init__(  # what `greffon.fit` takes beyond Keras' own arguments
        self, model: keras.Model, cut: Cut, *, dtype: str, quiet: bool, precision: str, min_agreement: float
    ) -> None:
        self.model, self.cut, self.quiet = model, cut, quiet
        self.min_agreement = min_agreement
        self.agreement: Agreement | None = None
        self.notes: list[str] = []
        self.reporter = Reporter() if quiet else ConsoleReporter()
        self.store = ActivationStore()
        self.trunks = self._trunks(dtype, precision)
        spoiler = cut.spoiler()
        if spoiler:
            self._note(spoiler)

    def run(self, *, callbacks: Any, epochs: int, verbose: Any, **options: Any) -> keras.callbacks.History:
        """Train, with what `model.fit` takes."""
        with self.store:
            feed, validation = self._feeds(options)
            tail = Tail(self.model, self.cut)
            watch = _Watch(self, [feed, validation])
            with _errors_of([feed, validation]), _watched(callbacks, watch) as watched:
                history = tail.train_on(
                    feed,
                    callbacks=watched,
                    epochs=epochs,
                    verbose=verbose,
                    steps=options["steps_per_epoch"] or feed.num_batches,
                    validation_data=validation,
                    **options,
                )
            self._compare_int8(history, feed, validation)
        self._say_what_was_done()
        return history

    def _trunks(self, dtype: str, precision: str) -> Trunks:
        return Trunks(
            self.cut, self.store, dtype=dtype, label=self.model.name, widened=self._say_widened, precision=precision
        )

    # --- feeds ---

    def _feeds(self, options: dict[str, Any]) -> tuple[RowFeed | StreamFeed, RowFeed | StreamFeed | None]:
        """What to train and validate on; takes out of the options what only these need."""
        x, y, sample_weight, validation_data, share = (
            options.pop(name) for name in ("x", "y", "sample_weight", "validation_data", "validation_split")
        )
        if share and validation_data is None:
            (x, y, sample_weight), validation_data = _split_end(x, y, sample_weight, share=share)
        batch_size = options.pop("batch_size")
        sides = [((x, y, sample_weight), self._guard("pictures"))]
        if validation_data is not None:
            held_out = keras.utils.unpack_x_y_sample_weight(validation_data)
            sides.append((held_out, self._guard("validation pictures")))
        for data, guard in sides:  # of both before the frozen part runs for one
            if are_arrays(*data):
                guard.look_at_all(self._inputs(data[0]))
        feed = self._feed(
            *sides[0],
            batch_size=batch_size,
            steps_per_epoch=options["steps_per_epoch"],
            shuffle=options.pop("shuffle"),
            class_weight=options.pop("class_weight"),
        )
        batch_size = options.pop("validation_batch_size") or batch_size
        if validation_data is None:
            return feed, None
        return feed, self._feed(*sides[1], batch_size=batch_size, steps_per_epoch=options["validation_steps"])

    def _guard(self, what: str) -> PictureGuard:
        return PictureGuard(self.model, self._note, what)

    def _feed(self, data: tuple[Any, Any, Any], guard: PictureGuard, **options: Any) -> RowFeed | StreamFeed:
        x, y, sample_weight = data
        options |= {"y": y, "sample_weight": sample_weight}
        if are_arrays(x, y, sample_weight):
            self.trunks.spin = True  # there is nothing to decode, and the tail waits for all of it
            return RowFeed(self._rows(self._inputs(x)), **options)
        keep = 0 if self.trunks.precision == "fp32" else ENOUGH
        return StreamFeed(self.trunks, self.model, x, guard=guard, keep=keep, **options)

    def _inputs(self, x: Any) -> list[Array]:
        """Arrays as the model takes them, one per input."""
        inputs = as_taken([np.asarray(_on_host(leaf)) for leaf in flat_inputs(self.model, x)], self.model.inputs)
        if len({len(array) for array in inputs}) != 1:
            raise InputError(f"the inputs must have the same number of rows, got {[len(array) for array in inputs]}")
        return inputs

    def _rows(self, inputs: list[Array]) -> Activations:
        with self.reporter.bar("frozen part", total=len(inputs[0])) as advance:
            return self.trunks.rows(inputs, advance)

    # --- int8 ---

    def _compare_int8(self, history: Any, feed: Any, validation: Any) -> None:
        """Answers for the validation pictures behind both trunks; for training pictures where there are none."""
        if self.trunks.precision == "fp32":
            return
        exact = self._trunks(self.trunks.dtype, "fp32")
        held_out, train = (compared(each, self.trunks, exact) for each in (validation or feed, feed))
        self.agreement = Agreement.of(*held_out.answers(), held_out.targets)
        self.agreement = self.agreement.with_training(train, self.min_agreement)
        say(f"greffon: {self.agreement}", quiet=self.quiet)
        try:
            self.agreement.require(self.min_agreement)
        except CheckFailedError as error:
            error.history = history  # type: ignore[attr-defined]
            raise

    # --- what is said ---

    def end_epoch(self, feeds: list[Any]) -> None:
        """Called by Keras' loop when an epoch has ended."""
        changing = [feed.end_pass() for feed in feeds if isinstance(feed, StreamFeed)]
        if any(changing):
            self._note(
                "the pictures change from one pass to the next (random augmentation?), so their activations are not "
                "kept; the frozen part is computed for each of them"
            )

    def _say_widened(self) -> None:
        self._note("an activation is beyond the range of float16; they are kept in float32")

    def _say_what_was_done(self) -> None:
        counts = self.trunks.counts
        by = f" by {self.trunks.engine_name} in {counts.seconds:.1f} s" if counts.computed else ""
        if self.store.problem:
            self._note(f"activations are not kept: {self.store.problem}")
        say(
            f"greffon: frozen part up to {self.cut.where}: {counts.computed} pictures computed{by}, {counts.reused} "
            "activations read from the store",
            quiet=self.quiet,
        )

    def _note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)
            say(f"greffon: {text}", quiet=self.quiet)


class _Watch(keras.callbacks.Callback):
    """Tells the fit when a pass through the data has ended."""

    def __init__(self, job: CachedFit, feeds: list[Any]) -> None:
        super().__init__()
        self._job, self._feeds = job, feeds

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self._job.end_epoch(self._feeds)


# --- helpers --------------------------------------------------------------------------------------------------------


def _on_host(leaf: Any) -> Any:
    return keras.ops.convert_to_numpy(leaf) if keras.ops.is_tensor(leaf) else leaf


def _split_end(
    x: Any, y: Any, sample_weight: Any, *, share: float
) -> tuple[tuple[Any, Any, Any], tuple[Any, Any, Any]]:
    """Hold out the last share of the rows, as Keras does."""
    data = (x, y, sample_weight)
    if not are_arrays(*data):
        raise InputError("validation_split takes arrays or tensors; for any other source give validation_data")
    lengths = {int(leaf.shape[0]) for leaf in keras.tree.flatten(data) if leaf is not None}
    if len(lengths) != 1:
        raise InputError(f"validation_split takes arrays with the same number of rows, got {sorted(lengths)} rows")
    rows = lengths.pop()
    at = math.floor(rows * (1.0 - share))
    if at in (0, rows):
        raise InputError(f"validation_split={share} of {rows} rows leaves one side empty; give more rows")
    first = keras.tree.map_structure(lambda leaf: None if leaf is None else leaf[:at], data)
    rest = keras.tree.map_structure(lambda leaf: None if leaf is None else leaf[at:], data)
    return first, rest


@contextlib.contextmanager
def _watched(callbacks: Any, watch: _Watch) -> Iterator[Any]:
    """The user's callbacks with one more; a list of callbacks that they keep gets it for this time only."""
    if not isinstance(callbacks, keras.callbacks.CallbackList):
        yield [*(keras.tree.flatten(callbacks) if callbacks else []), watch]
        return
    watch.set_model(callbacks.model)
    callbacks.callbacks.append(watch)
    try:
        yield callbacks
    finally:
        callbacks.callbacks.remove(watch)


@contextlib.contextmanager
def _errors_of(feeds: list[Any]) -> Iterator[None]:
    """Raise an error of ours in place of what TensorFlow made of it."""
    try:
        yield
    except Exception:
        error = next((feed.error for feed in feeds if feed is not None and feed.error is not None), None)
        if error is None:
            raise
        raise error from None
