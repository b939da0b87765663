"""Why an answer: where in the picture the model looked, and which pictures that it learned from are the most alike.

Both come from what the run's ONNX file gives beside its probabilities (`bundle.onnx_looks`), in one more pass over the
picture, and only for requests that ask for it. What a run does not have, it does not show: no map for heads whose
gradient has no closed form here, no pictures for runs that keep none.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from greffon.bundle.onnx_looks import CLASS_MAPS, FEATURES

if TYPE_CHECKING:
    from greffon.bundle.neighbours import Neighbours

    Array = np.ndarray[Any, Any]

NEAREST = 4
"""Pictures that are shown."""

MOST_PICTURES = 8
"""In one request that asks why, at most."""


@dataclass(frozen=True, eq=False)
class Near:
    """A picture that the model learned from.

    Attributes:
        labels: its classes.
        similarity: cosine between what the model sees in both, -1..1.
        thumbnail: a small JPEG file.
    """

    labels: tuple[str, ...]
    similarity: float
    thumbnail: bytes


@dataclass(frozen=True, eq=False)
class Look:
    """Why an answer.

    Attributes:
        label: the class that it is about.
        map: how much each place of the square that the model saw speaks for the class, float32 (height, width), 0..1,
            1 where most does; None where the model cannot tell.
        nearest: the most alike first; empty where the run keeps none.
    """

    label: str
    map: Array | None
    nearest: tuple[Near, ...]

    def to_dict(self) -> dict[str, Any]:
        """For JSON: the map as rows of numbers, thumbnails as data URLs."""
        return {
            "label": self.label,
            "map": None if self.map is None else [[round(float(value), 3) for value in row] for row in self.map],
            "nearest": [
                {
                    "labels": list(one.labels),
                    "similarity": round(one.similarity, 4),
                    "thumbnail": "data:image/jpeg;base64," + base64.b64encode(one.thumbnail).decode("ascii"),
                }
                for one in self.nearest
            ],
        }


class Looker:
    """Says why, for one model. Several threads may call it.

    Args:
        engine: what computes: its `outputs` say what it gives, and `run` takes names of them as `wanted`.
        names: of the classes.
        neighbours: of the run; None where it keeps none.

    Example:
        >>> from greffon.serving.looking import Looker
        >>> looker = Looker(None, ("cat", "dog"), None)
        >>> looker.has_map, looker.has_nearest
        (False, False)
    """

    def __init__(self, engine: Any, names: tuple[str, ...], neighbours: Neighbours | None) -> None:
        gives = getattr(engine, "outputs", ())
        self._engine = engine
        self._names = names
        fits = neighbours is not None and FEATURES in gives and len(neighbours.paths) > 0
        self._neighbours = neighbours if fits else None
        self.has_map = CLASS_MAPS in gives

    @property
    def has_nearest(self) -> bool:
        """Whether there are pictures to compare with."""
        return self._neighbours is not None

    def look(self, pixels: Array, column: int) -> Look:
        """Why a picture is of a class, or is not.

        Args:
            pixels: uint8 (size, size, 3), RGB, as the model takes it.
            column: number of the class.
        """
        wanted = [name for name, has in ((CLASS_MAPS, self.has_map), (FEATURES, self.has_nearest)) if has]
        given = dict(zip(wanted, self._engine.run([pixels[None]], wanted=wanted), strict=True)) if wanted else {}
        shown = _shown(given[CLASS_MAPS][0, :, :, column]) if CLASS_MAPS in given else None
        nearest = self._nearest(given[FEATURES][0]) if FEATURES in given else ()
        return Look(self._names[column], shown, nearest)

    def _nearest(self, features: Array) -> tuple[Near, ...]:
        known = self._neighbours
        length = float(np.linalg.norm(features))
        if known is None or not np.isfinite(length) or length == 0 or known.features.shape[1] != len(features):
            return ()
        cosines = known.features @ (features / length)
        best = np.argsort(-cosines, kind="stable")[:NEAREST]
        return tuple(
            Near(
                tuple(name for name, has in zip(self._names, known.targets[row], strict=True) if has),
                float(np.clip(cosines[row], -1.0, 1.0)),
                known.thumbnails[row],
            )
            for row in best
        )


def _shown(raw: Array) -> Array:
    """What speaks for the class, 0..1."""
    positive = np.maximum(np.nan_to_num(raw, nan=0.0, posinf=0.0, neginf=0.0), 0.0)
    most = positive.max()
    return np.asarray(positive / most if most > 0 else positive, np.float32)
