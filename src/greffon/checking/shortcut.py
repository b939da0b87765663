"""The shortcut test: can the classes be told apart without looking at the subject?

Where cats were taken with one camera and dogs with another, a network learns the camera, and its accuracy says nothing
about cats. So a probe is given what a picture's file says of itself (size, shape, format, bytes, mean colour,
sharpness, camera) and nothing else. What it gets right beyond chance, a network could get right in the same way.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from greffon.checking.findings import Finding

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from greffon.pictures.scan import Scanned

    Array = np.ndarray[Any, Any]

LEVEL = 0.01
"""Chance of a warning where there is no shortcut. Properties are tried alone only after all of them together."""

PERMUTATIONS = 499
"""How often the labels are shuffled: what the probe gets right then is chance."""

FEWEST = 20
"""Pictures below which nothing can be said."""

_ALONE = 199  # shuffles for one property
_MOST = 1500  # pictures that are looked at: beyond, only effects too small to matter come out
_FOLDS = 5
_BINS = 8
_RIDGE = 1.0
_CELLS = 4_000_000  # scores in memory at once
_CAMERAS = 12


@dataclass(frozen=True)
class Shortcut:
    """What a probe made of some properties.

    Attributes:
        accuracy: balanced, cross-validated, 0..1.
        chance: the mean of the same where labels are shuffled.
        p: the share of shuffles that did as well.
    """

    accuracy: float
    chance: float
    p: float


def properties(scanned: Sequence[Scanned]) -> dict[str, Array]:
    """What files say of themselves.

    Args:
        scanned: pictures that can be read.

    Returns:
        Property -> a number or a text for each picture; several numbers for the mean colour: (n,) or (n, 3).
    """
    wide = np.array([each.width or 1 for each in scanned], float)
    high = np.array([each.height or 1 for each in scanned], float)
    facts = [each.facts for each in scanned]
    known = [each for each in facts if each is not None]
    if len(known) < len(facts):
        raise ValueError("every picture must have been measured")
    length = np.array([each.size_bytes or 1 for each in scanned], float)
    return {
        "size": np.log(wide * high),
        "aspect": np.log(wide / high),
        "format": np.array([f"{each.format} {each.mode}" for each in known]),
        "bytes per pixel": np.log(length / (wide * high)),
        "mean colour": np.array([(each.red, each.green, each.blue) for each in known]),
        "sharpness": np.array([np.nan if each.blur is None else each.blur for each in known]),
        "camera": np.array([each.camera for each in known]),
    }


def shortcut(features: Array, given: Array, *, seed: int = 0, permutations: int = PERMUTATIONS) -> Shortcut:
    """How well some columns tell classes apart, against chance.

    The probe is linear discriminant analysis with a ridge: its answers are linear in the labels, so that those of all
    shuffles come out of one product of matrices, with every fold solved anew for each.

    Args:
        features: float (n, d), standardised.
        given: int (n,), 0 to classes - 1.
        seed: of folds and shuffles.
        permutations: how often labels are shuffled.

    Example:
        >>> import numpy as np
        >>> from greffon.checking.shortcut import shortcut
        >>> given = np.arange(60) % 2
        >>> found = shortcut(given[:, None] - 0.5, given)
        >>> found.accuracy, round(found.chance, 1), found.p
        (1.0, 0.5, 0.002)
    """
    from sklearn.model_selection import StratifiedKFold
    from threadpoolctl import threadpool_limits

    random = np.random.default_rng(seed)
    shuffles = np.stack([given, *(random.permutation(given) for _ in range(permutations))])
    classes = int(given.max()) + 1
    folds = min(_FOLDS, int(np.bincount(given).min()))
    right = np.zeros((len(shuffles), classes))
    splits = StratifiedKFold(folds, shuffle=True, random_state=seed).split(features, given)
    with threadpool_limits(1):  # the products are small: threads that wait for one another cost more
        for train, test in splits:
            right += _right(_Solver.of(features[train], features[test]), shuffles[:, train], shuffles[:, test], classes)
    shares = (right / np.bincount(given)).mean(axis=1)
    as_good = int((shares[1:] >= shares[0] - 1e-12).sum())
    return Shortcut(float(shares[0]), float(shares[1:].mean()), (1 + as_good) / (1 + permutations))


def _right(solver: _Solver, train: Array, test: Array, classes: int) -> Array:
    """How many pictures of each class are told rightly, for labels (shuffles, rows) of both parts of a fold."""
    right = np.zeros((len(train), classes))
    step = max(1, _CELLS // (classes * train.shape[1]))
    for start in range(0, len(train), step):
        some = test[start : start + step]
        hits = solver.answers(train[start : start + step], classes) == some
        for number in range(classes):
            right[start : start + step, number] = (hits & (some == number)).sum(axis=1)
    return right


@dataclass(frozen=True)
class _Solver:
    """Discriminant analysis for one fold, but for the labels."""

    train: Array
    weighted: Array
    test: Array

    @classmethod
    def of(cls, train: Array, test: Array) -> _Solver:
        mean = train.mean(axis=0)
        train, test = train - mean, test - mean
        inner = train.T @ train / len(train) + _RIDGE * np.eye(train.shape[1]) / np.sqrt(len(train))
        weighted = np.linalg.solve(inner, train.T).T
        return cls(train, weighted, test @ weighted.T)

    def answers(self, labels: Array, classes: int) -> Array:
        """The most probable classes, int (shuffles, rows to test), for labels (shuffles, rows to learn from)."""
        hot = (labels[:, :, None] == np.arange(classes)).astype(float)
        means = hot / np.maximum(hot.sum(axis=1, keepdims=True), 1)
        scores = np.einsum("tn,snc->stc", self.test, means, optimize=True)
        centres = np.einsum("nd,snc->scd", self.train, means, optimize=True)
        spread = np.einsum("nd,snc->scd", self.weighted, means, optimize=True)
        offsets = 0.5 * (centres * spread).sum(axis=2)
        # A class without a picture in the fold is no answer.
        offsets = np.where(hot.sum(axis=1) > 0, offsets, np.inf)
        return np.asarray((scores - offsets[:, None, :]).argmax(axis=2))


def shortcuts(
    scanned: Sequence[Scanned], given: Array, class_names: Sequence[str], *, groups: Array, seed: int = 0
) -> list[Finding]:
    """Whether the classes can be told apart by properties of the files alone.

    Args:
        scanned: pictures that can be read.
        given: int (n,), the classes of the pictures.
        class_names: by their number.
        groups: int (n,); of copies, one is looked at: they have the same properties and the same class.
        seed: of folds and shuffles.
    """
    rows = _chosen(np.asarray(given), groups, seed)
    if len(rows) < FEWEST or len(np.unique(np.asarray(given)[rows])) < 2:
        return []
    names, labels = np.unique(np.asarray(given)[rows], return_inverse=True)
    said = properties([scanned[row] for row in rows])
    columns = {name: _columns(values) for name, values in said.items()}
    columns = {name: values for name, values in columns.items() if values.shape[1]}
    if not columns:
        return []
    whole = shortcut(np.concatenate(list(columns.values()), axis=1), labels, seed=seed)
    if whole.p > LEVEL:
        return []
    alone = {name: shortcut(values, labels, seed=seed, permutations=_ALONE) for name, values in columns.items()}
    able = {name: each for name, each in alone.items() if each.p <= LEVEL}
    told = {class_names[int(number)]: labels == place for place, number in enumerate(names)}
    sentence = _sentence(whole, able, alone, said, told)
    return [Finding("shortcut", "look", sentence, score=whole.accuracy - whole.chance)]


def _sentence(
    whole: Shortcut,
    able: Mapping[str, Shortcut],
    alone: Mapping[str, Shortcut],
    said: Mapping[str, Array],
    told: Mapping[str, Array],
) -> str:
    text = (
        f"size, shape, format, colour, sharpness and camera alone tell the classes apart with a balanced accuracy of "
        f"{whole.accuracy:.0%}, where chance is {whole.chance:.0%} (p = {whole.p:.3f}): a network could learn these in "
        "place of the subject."
    )
    if not able:
        return f"{text} No single one of them does it"
    ranked = sorted(able, key=lambda name: able[name].chance - able[name].accuracy)
    listed = ", ".join(f"{name} {alone[name].accuracy:.0%}" for name in ranked)
    return f"{text} Alone: {listed}. {_difference(ranked[0], said[ranked[0]], told)}"


def _difference(name: str, values: Array, told: Mapping[str, Array]) -> str:
    """Where the classes differ most in one property."""
    if values.dtype.kind in "US":
        kinds = np.unique(values)
        shares = {(kind, label): float((values[rows] == kind).mean()) for kind in kinds for label, rows in told.items()}
        gaps = {
            kind: max(shares[kind, label] for label in told) - min(shares[kind, label] for label in told)
            for kind in kinds
        }
        kind = max(kinds, key=lambda each: (gaps[each], each != ""))
        most = max(told, key=lambda label: shares[kind, label])
        least = min(told, key=lambda label: shares[kind, label])
        what = f"{name} {kind!s}" if kind else f"no {name}"
        return f"{what}: {shares[kind, most]:.0%} of {most}, {shares[kind, least]:.0%} of {least}"
    if values.ndim == 2:
        spread = [_medians(values[:, channel], told) for channel in range(values.shape[1])]
        channel = int(np.argmax([max(each.values()) - min(each.values()) for each in spread]))
        return f"mean {('red', 'green', 'blue')[channel]}: {_ends(spread[channel], lambda value: f'{value:.0f}')}"
    shown = {
        "size": lambda value: f"{np.exp(value / 2):.0f} pixels squared",
        "aspect": lambda value: f"{np.exp(value):.2f} times as wide as high",
        "bytes per pixel": lambda value: f"{np.exp(value):.2f}",
        "sharpness": lambda value: f"blur {value:.2f} of 1",
    }[name]
    return f"{name}, median: {_ends(_medians(values, told), shown)}"


def _medians(values: Array, told: Mapping[str, Array]) -> dict[str, float]:
    return {label: float(np.nanmedian(values[rows])) for label, rows in told.items() if np.isfinite(values[rows]).any()}


def _ends(medians: Mapping[str, float], shown: Any) -> str:
    least, most = min(medians, key=medians.__getitem__), max(medians, key=medians.__getitem__)
    return f"{shown(medians[least])} in {least}, {shown(medians[most])} in {most}"


def _chosen(given: Array, groups: Array, seed: int) -> Array:
    """Rows to look at: one of each group, of classes with enough, not too many."""
    rows = np.sort(np.unique(groups, return_index=True)[1])
    rows = np.random.default_rng(seed).permutation(rows)[:_MOST]
    counts = np.bincount(given[rows], minlength=int(given.max(initial=0)) + 1)
    return np.asarray(np.sort(rows[counts[given[rows]] >= _FOLDS]))


def _columns(values: Array) -> Array:
    """Standardised columns of one property; none where it is the same everywhere.

    A number becomes itself and the eighths of the pictures that it lies in: differences need not be monotone.
    """
    if values.dtype.kind in "US":
        kinds, counts = np.unique(values, return_counts=True)
        common = kinds[np.argsort(-counts, kind="stable")][:_CAMERAS]
        return _standard((values[:, None] == common[None, :]).astype(float))
    parts = []
    for column in values.reshape(len(values), -1).T:
        missing = ~np.isfinite(column)
        filled = np.where(missing, np.nanmedian(column) if not missing.all() else 0.0, column)
        edges = np.unique(np.quantile(filled, np.linspace(0, 1, _BINS + 1)[1:-1]))
        bins = np.searchsorted(edges, filled, side="right")
        parts += [filled[:, None], (bins[:, None] == np.arange(len(edges) + 1)).astype(float), missing[:, None] * 1.0]
    return _standard(np.concatenate(parts, axis=1))


def _standard(columns: Array) -> Array:
    spread = columns.std(axis=0)
    used = spread > 1e-9
    return np.asarray((columns[:, used] - columns[:, used].mean(axis=0)) / spread[used])
