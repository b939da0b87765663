"""Whether a model answers the same behind a trunk in int8 as behind the trunk in fp32."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from greffon.errors import CheckFailedError
from greffon.frozen.agreement import label_agreement, labels
from greffon.frozen.build import build_engine
from greffon.training.feed import RowFeed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from greffon.frozen.cut import Cut
    from greffon.frozen.trunks import Trunks
    from greffon.training.feed import StreamFeed

    Array = np.ndarray[Any, Any]

# With fewer validation pictures than this, training pictures are counted too before int8 is refused.
ENOUGH = 200


@dataclass(frozen=True)
class Compared:
    """Some pictures behind both trunks.

    Attributes:
        cut: where the trunks end.
        ours: gives the activations of the int8 trunk by row.
        exact: those of the fp32 trunk.
        rows: which ones to compare.
        targets: 1 for each class that a picture of `rows` has, (rows, classes); None where that is not known.
    """

    cut: Cut
    ours: Any
    exact: Any
    rows: Array
    targets: Array | None = None

    def answers(self) -> tuple[Array, Array]:
        """What the model says of each picture behind both trunks."""
        ours, exact = probabilities(self.cut, (self.ours, self.exact), self.rows)
        return ours, exact


@dataclass(frozen=True)
class Agreement:
    """Answers behind both trunks, compared.

    Attributes:
        same: pictures with the same answer.
        pictures: that were compared.
        accuracy_int8: share of the validation pictures that are answered rightly behind the int8 trunk; None where
            the right answers are not known.
        accuracy_fp32: the same behind the fp32 trunk, which is what the saved model does.
    """

    same: int
    pictures: int
    accuracy_int8: float | None = None
    accuracy_fp32: float | None = None

    @classmethod
    def of(cls, ours: Array, exact: Array, targets: Array | None = None) -> Agreement:
        """Compare the answers for the validation pictures.

        Args:
            ours: class probabilities behind the int8 trunk, (pictures, classes); or one number per picture, which
                means yes above a half.
            exact: behind the fp32 trunk, likewise.
            targets: 1 for each class that a picture has, likewise.
        """
        right: list[float | None] = [None, None]
        if targets is not None and targets.shape == exact.shape:
            right = [_accuracy(answers, targets) for answers in (ours, exact)]
        return cls(_same(ours, exact), len(ours), *right)

    @property
    def share(self) -> float:
        """Of the pictures that were compared, how many have the same answer."""
        return self.same / self.pictures if self.pictures else 1.0

    def refused(self, least: float) -> bool:
        """Whether two pictures or more, and more than the share that may, have another answer."""
        return self.pictures - self.same >= 2 and self.share < least

    def with_training(self, train: Compared, least: float) -> Agreement:
        """Count training pictures too, where the validation pictures are too few to refuse for.

        They are compared only when it matters, since each costs a pass of the fp32 trunk.

        Args:
            train: pictures to learn from.
            least: share that has to agree.
        """
        more = train.rows[: max(0, ENOUGH - self.pictures)]
        if not self.refused(least) or not len(more):
            return self
        ours, exact = replace(train, rows=more).answers()
        return replace(self, same=self.same + _same(ours, exact), pictures=self.pictures + len(more))

    def require(self, least: float) -> None:
        """Refuse too little agreement; a single picture is no reason.

        Raises:
            CheckFailedError: two pictures or more, and more than the share that may, have another answer.
        """
        if self.refused(least):
            raise CheckFailedError(
                f"int8 agrees with fp32 on {self.same} of {self.pictures} pictures ({self.share:.1%}); expected at "
                f"least {least:.1%}. Take precision fp32, or allow less with a smaller min_agreement (--min-agreement)"
            )

    def to_dict(self) -> dict[str, Any]:
        """For the run's record."""
        return {
            "same": self.same,
            "pictures": self.pictures,
            "accuracy_int8": self.accuracy_int8,
            "accuracy_fp32": self.accuracy_fp32,
        }

    def __str__(self) -> str:
        text = f"int8 and fp32 answer alike on {self.same} of {self.pictures} pictures"
        if self.accuracy_int8 is None:
            return text
        return f"{text}; validation accuracy {self.accuracy_int8:.3f} and {self.accuracy_fp32:.3f}"


def compared(feed: RowFeed | StreamFeed, trunks: Trunks, exact: Trunks) -> Compared:
    """The pictures of a feed behind both trunks; of a stream, those that it kept.

    Args:
        feed: that was trained or validated on.
        trunks: the int8 ones.
        exact: the fp32 ones.
    """
    cut = trunks.cut
    if isinstance(feed, RowFeed):
        outputs = int(cut.tail.specs[cut.tail.outputs[0]].shape[-1] or 0)
        behind = feed.activations.behind(exact.of)
        return Compared(cut, feed.activations, behind, feed.rows, one_hot(feed.targets, outputs))
    ours, others = (_Held([each.fetch(each.keys(batch), batch) for batch in feed.kept]) for each in (trunks, exact))
    return Compared(cut, ours, others, np.arange(sum(len(batch[0]) for batch in feed.kept)))


class _Held:
    """Activations that came in batches, by row."""

    def __init__(self, batches: list[list[Array]]) -> None:
        self._arrays = [np.concatenate(parts) for parts in zip(*batches, strict=True)]

    def gather(self, rows: Array) -> list[Array]:
        return [array[rows] for array in self._arrays]


def probabilities(cut: Cut, sources: Sequence[Any], rows: Array) -> list[Array]:
    """What a model says of some pictures, from their activations, through the tail as it is saved.

    Args:
        cut: of the model.
        sources: each gives activations by row.
        rows: which ones.

    Returns:
        For each source, float32 (rows, classes), the model's first output.
    """
    engine = build_engine(cut.tail)

    def answers(source: Any) -> Array:
        batches = (source.gather(rows[start : start + 64]) for start in range(0, len(rows), 64))
        return np.concatenate([engine.run([np.asarray(array, np.float32) for array in batch])[0] for batch in batches])

    return [answers(source) for source in sources]


def one_hot(y: Any, outputs: int) -> Array | None:
    """Targets of a classifier as one row per picture; None where they are something else.

    Args:
        y: (n, outputs), or class numbers (n,) or (n, 1).
        outputs: how many numbers the model gives for a picture.
    """
    y = np.asarray(y) if y is not None and not isinstance(y, dict | list | tuple) else None
    if y is None or y.dtype == object:
        return None
    if y.ndim == 2 and y.shape[1] == outputs:
        return y
    numbers = y.reshape(-1) if y.ndim == 1 or (y.ndim == 2 and y.shape[1] == 1) else None
    if numbers is None or not len(numbers) or not np.array_equal(numbers, np.floor(numbers)):
        return None
    if outputs == 1:
        return numbers[:, None]
    return np.eye(outputs)[numbers.astype(int)] if numbers.min() >= 0 and numbers.max() < outputs else None


def _same(ours: Array, exact: Array) -> int:
    return round(len(ours) * label_agreement(_flat(ours), _flat(exact))) if len(ours) else 0


def _accuracy(answers: Array, targets: Array) -> float:
    named = labels(_flat(answers))
    if targets.shape[1] == 1:
        return float(np.mean(labels(targets) == named))
    return float(np.mean(targets[np.arange(len(targets)), named] > 0))


def _flat(answers: Array) -> Array:
    return answers.reshape(len(answers), -1)
