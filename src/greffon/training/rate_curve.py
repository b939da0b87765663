"""What an exponential range test shows: the loss over the learning rate, what follows from it, and how it is drawn."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from greffon.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import polars as pl

    Array = np.ndarray[Any, Any]

LEAST = 10
"""Steps without which nothing is suggested."""

_WIDTH = 0.02  # of the smoothing, as a share of the steps; both sides of a step count, so that nothing is shifted
_FALL = 0.05  # of the loss at small rates: less is noise
_BEGUN = 0.1  # of the fall: from here on it counts
_RISE = 0.25
_SAFE = 10.0  # below the rate at which the loss rises, where it falls nowhere
_BARS = "▁▂▃▄▅▆▇█"


@dataclass(frozen=True)
class RateCurve:
    """Losses of single steps whose learning rate grows by one factor from each to the next.

    Attributes:
        rates: ascending.
        losses: of each step's batch, before the step; finite.
        smoothed: the same without most of their noise.
        suggestion: a learning rate to train with; None where the curve says nothing.
        reason: why that one, as a sentence.
        steepest: the rate at which the loss falls fastest; None where it does not fall.
        valley: the rate in the middle of the fall, on a logarithmic scale; None likewise.
        rises: from which rate on the loss is clearly above where it began; None: from none that was tried.

    Example:
        >>> from greffon.training.rate_curve import RateCurve
        >>> rates = [1e-6 * 10 ** (step / 10) for step in range(60)]
        >>> losses = [2.0] * 20 + [2.0 - 0.09 * step for step in range(20)] + [0.3 + 0.2 * step for step in range(20)]
        >>> curve = RateCurve.of(rates, losses)
        >>> 1e-4 < curve.suggestion < 1e-2, curve.rises > curve.suggestion
        (True, True)
    """

    rates: tuple[float, ...]
    losses: tuple[float, ...]
    smoothed: tuple[float, ...] = field(repr=False)
    suggestion: float | None
    reason: str
    steepest: float | None = None
    valley: float | None = None
    rises: float | None = None

    @classmethod
    def of(cls, rates: Sequence[float], losses: Sequence[float]) -> RateCurve:
        """Read a curve.

        Args:
            rates: ascending.
            losses: of each; finite.
        """
        tried, found = tuple(map(float, rates)), tuple(map(float, losses))
        if len(found) < LEAST:
            return cls(tried, found, found, None, f"only {len(found)} steps had a loss that is a number")
        smooth = _smoothed(np.asarray(found))
        lowest = int(smooth.argmin())
        begin = float(np.median(smooth[: max(3, len(smooth) // 10)]))
        above = np.flatnonzero(smooth[lowest:] > (1 + _RISE) * begin)
        rises = tried[lowest + int(above[0])] if len(above) else None
        if begin - smooth[lowest] < _FALL * begin:
            suggestion, reason = _without_fall(rises)
            return cls(tried, found, tuple(smooth.tolist()), suggestion, reason, rises=rises)
        slope = np.gradient(smooth[: lowest + 1], np.log10(np.asarray(tried[: lowest + 1])))
        steepest = tried[int(slope.argmin())]
        begun = smooth[: lowest + 1] > begin - _BEGUN * (begin - smooth[lowest])
        start = int(np.flatnonzero(begun)[-1]) if begun.any() else 0
        valley = tried[(start + lowest) // 2]
        reason = (
            f"the loss falls from {tried[start]:.1e} to {tried[lowest]:.1e}; {valley:.1e} is in the middle, where it "
            f"still falls and is not near its turn (it falls fastest at {steepest:.1e})"
        )
        return cls(tried, found, tuple(smooth.tolist()), valley, reason, steepest, valley, rises)

    @property
    def table(self) -> pl.DataFrame:
        """One row per step: learning_rate, loss, smoothed."""
        import polars as pl

        return pl.DataFrame({"learning_rate": self.rates, "loss": self.losses, "smoothed": self.smoothed})

    def to_dict(self) -> dict[str, Any]:
        """For a run's record and `--json`."""
        return {
            "suggestion": self.suggestion,
            "reason": self.reason,
            "steepest": self.steepest,
            "valley": self.valley,
            "rises": self.rises,
            "learning_rates": [float(f"{rate:.6g}") for rate in self.rates],
            "losses": [float(f"{loss:.6g}") for loss in self.losses],
        }

    def line(self, *, width: int = 60) -> str:
        """The smoothed loss as one line of bars, what is suggested marked below it, and the ends of the axis.

        Losses beyond a few times the first are drawn as high as these.

        Args:
            width: characters at most.
        """
        if not self.smoothed:
            return ""
        values = np.asarray(self.smoothed)
        columns = min(width, len(values))
        means = np.array([part.mean() for part in np.array_split(values, columns)])
        low, high = means.min(), min(means.max(), 2 * float(values[0]) + 1e-12)
        heights = ((means.clip(low, high) - low) / max(high - low, 1e-12) * (len(_BARS) - 1)).round().astype(int)
        lines = ["".join(_BARS[height] for height in heights)]
        if self.suggestion is not None:
            place = int(np.searchsorted(self.rates, self.suggestion * (1 - 1e-9))) * columns // len(values)
            lines.append(" " * min(place, columns - 1) + f"^ {self.suggestion:.1e}")
        first, last = f"{self.rates[0]:.0e}", f"{self.rates[-1]:.0e}"
        lines.append(f"{first}{last:>{max(columns - len(first), len(last) + 1)}}  learning rate")
        return "\n".join(lines)

    def plot(self, file: str | Path) -> Path:
        """Draw the curve into a .png or .svg file; needs Matplotlib (the extra `report`).

        Raises:
            InputError: another ending, the file cannot be written, or Matplotlib is not installed.
        """
        file = Path(file)
        if file.suffix.lower() not in (".png", ".svg") or not file.parent.is_dir() or file.is_dir():
            raise InputError(f"a plot must be a .png or .svg file in a folder that is there, got {str(file)!r}")
        try:
            figure = self._figure()
        except ImportError as error:
            raise InputError(f'a plot needs Matplotlib ({error}): pip install "greffon[report]"') from error
        try:
            figure.savefig(file, dpi=150)
        except OSError as error:
            raise InputError(f"the plot {file} cannot be written: {error.strerror or error}") from error
        return file

    def _figure(self) -> Any:
        from matplotlib.figure import Figure

        figure = Figure(figsize=(6.4, 4.0), layout="constrained")
        axes = figure.subplots()
        axes.plot(self.rates, self.losses, color="0.75", linewidth=1, label="batches")
        axes.plot(self.rates, self.smoothed, color="tab:blue", linewidth=2, label="smoothed")
        if self.suggestion is not None:
            axes.axvline(self.suggestion, color="tab:red", linestyle=":", label=f"suggested {self.suggestion:.1e}")
        axes.set_xscale("log")
        if self.smoothed:
            low, high = min(self.smoothed), min(max(self.smoothed), 2 * self.smoothed[0])
            axes.set_ylim(low - 0.1 * (high - low) - 1e-3, high + 0.1 * (high - low) + 1e-3)
        axes.set_xlabel("learning rate")
        axes.set_ylabel("loss of a batch")
        axes.legend(frameon=False)
        return figure

    def __str__(self) -> str:
        said = "no learning rate is suggested" if self.suggestion is None else f"learning rate {self.suggestion:.1e}"
        return f"{self.line()}\n{said}: {self.reason}"


def _smoothed(losses: Array) -> Array:
    """Each loss as a mean of its neighbours, the nearer the heavier; on the logarithm, as losses grow by factors."""
    places = np.arange(len(losses))
    width = max(1.0, _WIDTH * len(losses))
    weights = np.exp(-0.5 * ((places[:, None] - places[None, :]) / width) ** 2)
    logs = np.log(np.maximum(losses, 1e-12))
    return np.asarray(np.exp(weights @ logs / weights.sum(axis=1)))


def _without_fall(rises: float | None) -> tuple[float | None, str]:
    if rises is None:
        return None, "the loss neither falls nor rises over the rates that were tried"
    rate = float(f"{rises / _SAFE:.3g}")
    return rate, (
        f"the loss falls nowhere, since what is trained fits these pictures already; it rises from {rises:.1e} on, "
        f"and a tenth of that is safe"
    )


def rates_between(lowest: float, highest: float, steps: int) -> list[float]:
    """Rates that grow by one factor.

    Raises:
        InputError: the ends are not positive and ascending, or the steps too few.

    Example:
        >>> from greffon.training.rate_curve import rates_between
        >>> len(rates_between(1e-6, 1.0, 50)), rates_between(1e-6, 1.0, 50)[0]
        (50, 1e-06)
    """
    ends_fit = all(not isinstance(end, bool) and math.isfinite(end) and end > 0 for end in (lowest, highest))
    if not ends_fit or lowest >= highest:
        raise InputError(f"learning rates must go from one above 0 up to a larger one, got {lowest!r} to {highest!r}")
    if isinstance(steps, bool) or not isinstance(steps, int) or not LEAST <= steps <= 10_000:
        raise InputError(f"steps must be a whole number from {LEAST} to 10000, got {steps!r}")
    return [float(f"{rate:.9g}") for rate in np.geomspace(lowest, highest, steps)]
