"""What `greffon.fit` is given, looked at before anything is computed of it: numbers that are none, and other scales.

A frozen part gives NaN for a picture with NaN in it, and that is kept; `model.fit` shows a loss of NaN and tells of no
picture. What a model takes is known only where Greffon put its preprocessing in: the scale of other models' pictures is
not looked at.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from greffon.backbone.guard import reject_scaled_pictures
from greffon.backbone.preprocessing import preprocessing_of
from greffon.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import keras

    Array = np.ndarray[Any, Any]

_CHUNK = 64 * 2**20  # bytes that are looked at in one go
_FAR = 64  # beyond 0..255, which no resizing overshoots by
_NORMALISED = 10  # the largest value of pictures that were divided by their standard deviation
_FIRST = 64  # pictures of an array whose scale is told in an error
_BATCHES, _PICTURES = 3, 8  # of a stream that do: one black picture proves nothing


@dataclass
class _Seen:
    """What was found in some pictures: how many have numbers that are none, the first of these, and their range."""

    pictures: int = 0
    bad: int = 0
    first: int = 0
    low: float = math.inf
    high: float = -math.inf

    def add(self, inputs: Sequence[Array]) -> None:
        """Look at more of them."""
        bad = np.zeros(len(inputs[0]), bool)
        for array in inputs:
            if array.ndim != 4 or array.dtype == np.uint8 or array.dtype.kind not in "fiu" or not array.size:
                continue
            with np.errstate(invalid="ignore"):
                low, high = float(array.min()), float(array.max())  # NaN where there is any: nothing is copied
            if not (math.isfinite(low) and math.isfinite(high)):
                bad |= ~np.isfinite(array.reshape(len(array), -1)).all(axis=1)
            else:
                self.low, self.high = min(self.low, low), max(self.high, high)
        if bad.any():
            self.first = self.first if self.bad else self.pictures + int(bad.argmax())
            self.bad += int(bad.sum())
        self.pictures += len(inputs[0])


class PictureGuard:
    """Refuses pictures that nothing can be learned from as they are, and warns of odd ones.

    Args:
        model: that takes them.
        note: called with what the user should know.
        what: what they are called.

    Example:
        >>> import numpy as np, greffon
        >>> from greffon.training.given import PictureGuard
        >>> base = greffon.resnet50(weights=None, input_shape=(32, 32, 3))
        >>> model = greffon.graft(base, classes=2, preprocessing="caffe")
        >>> PictureGuard(model, print).look_at_all([np.full((2, 32, 32, 3), 258.0)])
        pictures have values from 258 to 258, and this model takes 0..255 (it does its own preprocessing, caffe): ...
    """

    def __init__(self, model: keras.Model, note: Callable[[str], None], what: str = "pictures") -> None:
        record = preprocessing_of(model)
        self._takes = None if record is None or record.name == "none" else record.name
        self._model, self._note, self._what = model, note, what
        self._pass = _Seen()
        self._batches: list[Array] | None = []  # the first ones, until they have told their scale
        self._is_warned = False

    def look_at_all(self, inputs: Sequence[Array]) -> None:
        """See arrays as a whole.

        Args:
            inputs: one array (n, ...) per input of the model; those of four dimensions are pictures.

        Raises:
            InputError: some hold NaN or infinite numbers; or they are not of 0..255, and the model takes that.
        """
        seen = _Seen()
        rows = max(_CHUNK // max(sum(array[:1].nbytes for array in inputs), 1), 1)
        for start in range(0, len(inputs[0]), rows):
            seen.add([array[start : start + rows] for array in inputs])
        self._refuse_no_numbers(seen)
        if seen.high <= 1:
            reject_scaled_pictures(self._model, [inputs[0][:_FIRST]])
        self._refuse_normalised(seen)
        self._judge_range(seen)

    def look(self, inputs: Sequence[Array]) -> None:
        """See a batch of a stream.

        Raises:
            InputError: as for `look_at_all`; whether they were scaled already is decided by the first batches.
        """
        before = self._pass.bad
        self._pass.add(inputs)
        if self._pass.bad > before:
            self._refuse_no_numbers(self._pass)
        if self._batches is not None:
            self._batches.append(inputs[0])
            if len(self._batches) >= _BATCHES or self._pass.pictures >= _PICTURES:
                self._judge_scale()
        else:
            self._judge_range(self._pass)

    def close(self) -> None:
        """A pass through the stream has ended; what was seen of its scale has to be enough.

        Raises:
            InputError: as for `look`.
        """
        if self._batches:
            self._judge_scale()
        self._pass = _Seen()

    def _judge_scale(self) -> None:
        seen, self._batches = self._batches, None
        reject_scaled_pictures(self._model, seen or [])
        self._refuse_normalised(self._pass)
        self._judge_range(self._pass)

    def _refuse_no_numbers(self, seen: _Seen) -> None:
        if seen.bad:
            one = seen.bad == 1
            raise InputError(
                f"{seen.bad:,} of {seen.pictures:,} {self._what} hold{'s' * one} NaN or infinite numbers; the first is "
                f"number {seen.first} (counted from 0). Leave {'it' if one else 'them'} out, or look at the step that "
                "made them: a division by a standard deviation of 0, a log of 0"
            )

    def _refuse_normalised(self, seen: _Seen) -> None:
        if self._takes is not None and seen.low < 0 and seen.high <= _NORMALISED:
            raise InputError(self._wrong(seen, "as if they had been normalised already. Take that step out"))

    def _judge_range(self, seen: _Seen) -> None:
        if self._takes is None or (seen.low >= 0 and seen.high <= 255):
            return
        if seen.low < -_FAR:
            raise InputError(self._wrong(seen, "as if a mean had been subtracted already. Take that step out"))
        if seen.high > 255 + _FAR:
            raise InputError(self._wrong(seen, "as pictures of more than 8 bits have them. Divide them into 0..255"))
        if self._is_warned:
            return
        self._is_warned = True
        self._note(
            f"{self._what} have values from {seen.low:.4g} to {seen.high:.4g}, and this model takes 0..255 (it does "
            f"its own preprocessing, {self._takes}): clip them, unless that is meant"
        )

    def _wrong(self, seen: _Seen, how: str) -> str:
        return (
            f"{self._what} must be RGB values of 0..255: this model does its own preprocessing ({self._takes}). Got "
            f"values from {seen.low:.4g} to {seen.high:.4g}, {how}"
        )
