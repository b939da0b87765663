"""Proof after loading: a network is shown the probe pictures, and what it makes of them is looked at.

Known weights must give the answers that are stored for them. Of unknown ones the statistics must be possible, and
what every BatchNorm remembers must agree with what reaches it.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from greffon.weights.passage import Passage, channels_of, prepared, send
from greffon.weights.probes import probe_pictures
from greffon.weights.sets import PREPROCESSINGS
from greffon.weights.statistics import (
    Finding,
    impossible_norms,
    initial_kernels,
    kernels_of,
    misplaced,
    norms_of,
    without_statistics,
)
from greffon.weights.stored_outputs import ProbeOutputs, difference_from, passage_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    import keras

    from greffon.weights.sets import Preprocessing
    from greffon.weights.statistics import Norm

_COUNT, _SIDE = 8, 96
_HUGE = 1e6
_DEAD = 0.9  # share of channels
_FITS = 2.0  # usual distance at the first BatchNorm
_AS_GOOD = 0.3
_LISTED = 5


@dataclass(frozen=True)
class CheckUp:
    """What was found out about a network after its weights were loaded.

    Attributes:
        findings: everything that is wrong or odd, faults first.
        compared: whether its answers were compared with stored ones.
        norms: how many BatchNorm layers were compared with what reaches them; 0 where they hold no statistics, or
            the stored answers came out.
        note: where that comparison was not possible, why; else empty.
    """

    findings: tuple[Finding, ...] = ()
    compared: bool = False
    norms: int = 0
    note: str = ""

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong; odd findings may be there."""
        return not any(finding.severity == "fault" for finding in self.findings)

    def sentences(self) -> list[str]:
        """The findings in words, faults first."""
        return [finding.sentence for finding in self.findings]

    def as_dict(self) -> dict[str, Any]:
        """Everything, as JSON takes it."""
        findings = [asdict(it) | {"numbers": _plain(it.numbers)} for it in self.findings]
        return {
            "ok": self.ok,
            "findings": findings,
            "compared": self.compared,
            "norms": self.norms,
            "note": self.note,
        }


def check_up(
    model: keras.Model, preprocessing: Preprocessing | None, *, expected: ProbeOutputs | None = None
) -> CheckUp:
    """Look at a network whose weights were just loaded. It stays as it is, bit for bit.

    Args:
        model: a flat network such as `resnet` builds, with or without pooling or classifier, for pictures of any
            size, without preprocessing of its own.
        preprocessing: what the weights were trained with; None where that is not known: then the one that the first
            BatchNorm fits best is taken, and said.
        expected: the stored outputs of these weights, from `known_outputs`, where there are any.

    Returns:
        The findings. Faults: values that are no numbers, variances that cannot be, answers other than the stored
        ones. Odd: BatchNorm statistics that do not fit their places, swapped blocks, features
        that are dead or explode, kernels that were never trained, another preprocessing that fits better.

    Raises:
        InputError: the network does not take pictures.

    Example:
        >>> import greffon
        >>> from greffon.weights.checkup import check_up
        >>> from greffon.weights.sets import PREPROCESSINGS
        >>> found = check_up(greffon.resnet50(weights="thin"), PREPROCESSINGS["open_nsfw"])
        >>> found.ok, found.sentences()
        (True, [])
    """
    norms = norms_of(model)
    findings = impossible_norms(norms)
    if not all(finding.severity == "odd" for finding in findings):
        return CheckUp(tuple(_faults_first(findings)))
    telling = without_statistics(norms, model)
    findings += _initial(kernels_of(model), untrained=telling == "untrained")
    assumed = preprocessing
    if norms and not telling:
        assumed, said = _preprocessing(model, norms, preprocessing)
        findings += said
    assumed = assumed or PREPROCESSINGS["caffe"]
    seen = _as_it_is(model, assumed, expected)
    findings += _activations(seen)
    if expected is not None:
        findings += _answers(model, expected, seen)
        if not any(finding.severity == "fault" for finding in findings):
            return CheckUp(tuple(findings), compared=True)
    if telling or not norms:
        return CheckUp(tuple(_faults_first(findings)), expected is not None, note=_NOTES[telling])
    pictures = prepared(probe_pictures(_COUNT, side=_SIDE), assumed, channels=channels_of(model))
    findings += misplaced(model, norms, send(model, pictures, renewed=True))
    return CheckUp(tuple(_faults_first(findings)), expected is not None, len(norms) - 1)


_NOTES = {
    "": "there is no BatchNorm whose statistics could be compared with what reaches it",
    "folded": "the BatchNorm statistics are folded into other weights, so they cannot be compared with what reaches "
    "the layers",
    "untrained": "the BatchNorm layers hold their initial statistics, so these cannot be compared with what reaches "
    "the layers",
}


def _as_it_is(model: Any, preprocessing: Preprocessing, expected: ProbeOutputs | None) -> Passage:
    if expected is None:
        return passage_of(model, preprocessing)
    trained_with = PREPROCESSINGS.get(expected.preprocessing, preprocessing)
    return passage_of(model, trained_with, side=expected.side, count=len(expected.features))


def _answers(model: Any, expected: ProbeOutputs, seen: Passage) -> list[Finding]:
    half = any(str(getattr(layer, "compute_dtype", "")).endswith("float16") for layer in model.layers)
    different = difference_from(expected, seen, half=half)
    if different is None:
        return []
    far, allowed = different
    said = (
        "the weights were loaded, but the network gives other answers than these weights give: its features for the "
        f"probe pictures differ from the stored ones by {far:.2g} of the largest, where {allowed:.2g} is allowed"
    )
    return [Finding("fault", "", said, {"difference": far, "allowed": allowed})]


def _initial(kernels: Any, *, untrained: bool) -> list[Finding]:
    findings = []
    if untrained:
        said = (
            "every BatchNorm has mean 0, variance 1, scale 1 and offset 0, which is how they begin: was this network "
            "never trained?"
        )
        findings.append(Finding("odd", "", said))
    names = initial_kernels(kernels)
    if names:
        shown = ", ".join(names[:_LISTED]) + (f", and {len(names) - _LISTED} more" if len(names) > _LISTED else "")
        said = (
            f"{len(names)} of {len(kernels)} convolutions have kernels spread exactly as random ones are before "
            f"training: {shown}"
        )
        findings.append(Finding("odd", names[0], said, {"kernels": len(names), "of": len(kernels)}))
    return findings


def _activations(seen: Passage) -> list[Finding]:
    """NaN, explosion, features that are dead, or the same whatever the picture."""
    broken = next((name for name, value in seen.largest.items() if not np.isfinite(value)), None)
    if broken is None and seen.features is not None and not np.isfinite(seen.features).all():
        broken = "the last feature map"
    if broken is not None:
        return [Finding("fault", broken, f"{broken}: the probe pictures give NaN or infinite values from here on")]
    findings = []
    huge = next(((name, value) for name, value in seen.largest.items() if value > _HUGE), None)
    if huge is not None:
        said = f"{huge[0]}: values explode to {huge[1]:.1e} for the probe pictures"
        findings.append(Finding("odd", huge[0], said, {"largest": huge[1]}))
    dead = {name: share for name, share in seen.dead.items() if share > _DEAD}
    for name, share in list(dead.items())[:1]:
        said = f"{name}: {share:.0%} of its channels are 0 everywhere in all probe pictures"
        if len(dead) > 1:
            said += f"; so are as many in {len(dead) - 1} layers behind it"
        findings.append(Finding("odd", name, said, {"dead": share}))
    if seen.features is not None and not dead:
        size, spread = float(np.abs(seen.features).max()), float(seen.features.std(axis=0).max())
        if spread <= 1e-5 * size:
            said = "the features are the same whatever the picture: nothing of it arrives at the end"
            findings.append(Finding("odd", "", said, {"largest": size, "spread": spread}))
    return findings


def _preprocessing(
    model: Any, norms: dict[str, Norm], given: Preprocessing | None
) -> tuple[Preprocessing | None, list[Finding]]:
    """The preprocessing to go on with, and whether another one fits the first BatchNorm better."""
    name = next(iter(norms))
    here = None if given is None else _first_misfit(model, norms, given)
    if given is not None and (here is None or here < _FITS):
        return given, []
    fits = {key: _first_misfit(model, norms, record) for key, record in PREPROCESSINGS.items()}
    known = {key: value for key, value in fits.items() if value is not None}
    if not known:
        return given, []
    best = [key for key, value in known.items() if value < min(known.values()) + _AS_GOOD]
    named = " or ".join(repr(key) for key in best)
    numbers = {f"misfit_{key}": value for key, value in known.items()}
    if given is None or here is None:
        said = f"which preprocessing these weights want is not known; {name} fits {named} best"
        return PREPROCESSINGS[best[0]], [Finding("odd", name, said, numbers)]
    said = (
        f"{name}: its stored mean and variance do not fit pictures that are prepared with {given.name!r} (misfit "
        f"{here:.1f}; up to {_FITS:.0f} is usual)"
    )
    if known[best[0]] < here - 0.5:
        said += f"; {named} fits better ({known[best[0]]:.1f})"
    return given, [Finding("odd", name, said, numbers | {"misfit": here})]


def _first_misfit(model: Any, norms: dict[str, Norm], preprocessing: Preprocessing) -> float | None:
    """Typical distance of stored and seen statistics at the first BatchNorm, in deviations and log variances."""
    pictures = prepared(probe_pictures(_COUNT, side=_SIDE), preprocessing, channels=channels_of(model))
    for name, seen in send(model, pictures, renewed=True, norms=1).norms.items():
        norm = norms[name]
        floor = 1e-3 * float(np.median(norm.variance)) + 1e-12
        shift = (seen.mean - norm.mean) / np.sqrt((norm.variance + seen.variance) / 2 + floor)
        ratio = np.log((seen.variance + floor) / (norm.variance + floor))
        return float(np.median(np.hypot(shift, ratio)))
    return None


def _faults_first(findings: list[Finding]) -> list[Finding]:
    return sorted(findings, key=lambda finding: finding.severity != "fault")


def _plain(numbers: Mapping[str, float]) -> dict[str, float]:
    """NumPy's numbers as Python's."""
    return {
        name: int(value) if isinstance(value, (int, np.integer)) else float(value) for name, value in numbers.items()
    }
