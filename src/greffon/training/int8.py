"""Whether a model answers the same behind the trunk in int8 as behind the trunk in fp32."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from greffon.errors import CheckFailedError
from greffon.frozen.engine import build_engine

if TYPE_CHECKING:
    from collections.abc import Callable

    from greffon.frozen.activations import Activations
    from greffon.frozen.cut import Cut
    from greffon.training.samples import PictureRows, Samples

    Array = np.ndarray[Any, Any]

# With fewer validation pictures than this, training pictures are counted too before int8 is refused.
_ENOUGH = 200


@dataclass(frozen=True)
class Agreement:
    """Answers behind both trunks, compared.

    Attributes:
        same: pictures with the same answer.
        pictures: that were compared.
        accuracy_int8: share of the validation pictures that are answered rightly behind the int8 trunk.
        accuracy_fp32: the same behind the fp32 trunk, which is what the saved model does.
    """

    same: int
    pictures: int
    accuracy_int8: float
    accuracy_fp32: float

    @classmethod
    def of(cls, ours: Array, exact: Array, targets: Array) -> Agreement:
        """Compare the answers for the validation pictures.

        Args:
            ours: class probabilities behind the int8 trunk, (pictures, classes).
            exact: behind the fp32 trunk, likewise.
            targets: 1 for each class that a picture has, likewise.
        """
        right = [float(np.mean(targets[np.arange(len(p)), p.argmax(axis=1)] > 0)) for p in (ours, exact)]
        return cls(_same(ours, exact), len(ours), right[0], right[1])

    @property
    def share(self) -> float:
        """Of the pictures that were compared, how many have the same answer."""
        return self.same / self.pictures if self.pictures else 1.0

    def with_training(self, both: Callable[[Array], tuple[Array, Array]], samples: Samples) -> Agreement:
        """Count training pictures too, where the validation pictures are too few to refuse for.

        They are compared only when it matters, since each costs a pass of the fp32 trunk.

        Args:
            both: gives class probabilities behind both trunks for some rows.
            samples: the pictures.
        """
        more = samples.train[: max(0, _ENOUGH - self.pictures)]
        if self.pictures - self.same < 2 or not len(more):
            return self
        ours, exact = both(more)
        return replace(self, same=self.same + _same(ours, exact), pictures=self.pictures + len(more))

    def require(self, least: float) -> None:
        """Refuse too little agreement; a single picture is no reason.

        Raises:
            CheckFailedError: two pictures or more, and more than the share that may, have another answer.
        """
        if self.pictures - self.same >= 2 and self.share < least:
            raise CheckFailedError(
                f"int8 agrees with fp32 on {self.same} of {self.pictures} pictures ({self.share:.1%}); expected at "
                f"least {least:.1%}. Train with --precision fp32, or allow less with --min-agreement"
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
        return (
            f"int8 and fp32 answer alike on {self.same} of {self.pictures} pictures; validation accuracy "
            f"{self.accuracy_int8:.3f} and {self.accuracy_fp32:.3f}"
        )


def probabilities(cut: Cut, source: Activations | PictureRows, rows: Array) -> Array:
    """Class probabilities of some rows: float32 (rows, classes), from activations through the tail as it is saved."""
    engine = build_engine(cut.tail)
    parts = [
        engine.run([np.asarray(array, np.float32) for array in source.gather(rows[start : start + 64])])[0]
        for start in range(0, len(rows), 64)
    ]
    return np.concatenate(parts)


def _same(ours: Array, exact: Array) -> int:
    return int((ours.argmax(axis=1) == exact.argmax(axis=1)).sum())
