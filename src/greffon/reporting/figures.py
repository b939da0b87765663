"""Figures of a report: SVG that takes the page's colours, so that it can be read in the dark, and small pictures.

No text of the user's is in an SVG, only names of losses and metrics.
"""

from __future__ import annotations

import base64
import io
import re
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from greffon.evaluation.calibration import Bin
    from greffon.reporting.learning import Point

    Array = np.ndarray[Any, Any]

# Written by Matplotlib, read by the page: each stands for one of its colours.
_COLOURS = {"#010101": "ink", "#020202": "faint", "#030303": "line", "#040404": "one", "#050505": "two"}
_INK, _FAINT, _LINE, _ONE, _TWO = _COLOURS
_WIDE, _HIGH = 4.6, 2.6  # inches
_KEPT = re.compile(r"[^\w %.,:+-]")
_TILE, _QUALITY = 160, 80
_HEAT_SIDE = 32
_HEAT = (235, 60, 20)  # seen on any picture
_HEAT_MOST = 190  # opacity of the strongest place, of 255


def curves(values: Mapping[str, Sequence[float | None]], *, what: str, best: int | None = None) -> str:
    """Lines over epochs.

    Args:
        values: one number per epoch, by the name of the line; those of a name that begins with `val_` are drawn thick.
        what: the name of the number.
        best: the best epoch, from 1; None: none is marked.

    Returns:
        An `<svg>` element.
    """
    from matplotlib.ticker import MaxNLocator

    figure, axes = _figure()
    for name, line in values.items():
        numbers = np.array([np.nan if value is None else value for value in line], float)
        held_out = name.startswith("val_")
        axes.plot(
            np.arange(1, len(numbers) + 1), numbers, label="validation" if held_out else "training", marker="o",
            markersize=3, linewidth=2 if held_out else 1.2, color=_ONE if held_out else _TWO,
        )  # fmt: skip
    if best is not None and best >= 1:
        axes.axvline(best, color=_FAINT, linewidth=1, linestyle=":", label="best")
    axes.set_xlabel("epoch")
    axes.set_title(_KEPT.sub(" ", what), loc="left", fontsize=10, color=_INK, parse_math=False)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(frameon=False, labelcolor=_INK, fontsize=8)
    return _svg(figure, f"{what} over epochs")


def rates_figure(steps: Sequence[tuple[float, float]]) -> str:
    """The loss over the learning rate, of a range test.

    Args:
        steps: rate and loss of each, at least two.
    """
    figure, axes = _figure()
    rates, losses = zip(*steps, strict=True)
    axes.plot(rates, losses, color=_ONE, linewidth=1.5)
    axes.set_xscale("log")
    axes.set_ylim(0, 2 * losses[0] + 1e-3)
    axes.set_xlabel("learning rate")
    axes.set_title("loss of a batch in the range test", loc="left", fontsize=10, color=_INK)
    return _svg(figure, "range test of the learning rate")


def learning_figure(points: Sequence[Point]) -> str:
    """Accuracy over the number of training pictures, with the intervals.

    Args:
        points: at least one.
    """
    figure, axes = _figure()
    counts = [point.pictures for point in points]
    axes.fill_between(
        counts, [point.interval[0] for point in points], [point.interval[1] for point in points], color=_ONE,
        alpha=0.15, linewidth=0,
    )  # fmt: skip
    axes.plot(counts, [point.accuracy for point in points], color=_ONE, marker="o", markersize=4)
    axes.set_xscale("log", base=2)
    axes.set_xticks(counts, [f"{count:,}" for count in counts])
    axes.minorticks_off()
    axes.set_xlabel("training pictures")
    axes.set_ylabel("accuracy of a solved head")
    return _svg(figure, "learning curve", "square")


def reliability_diagram(before: Sequence[Bin], after: Sequence[Bin] | None = None) -> str:
    """What is said beside what is so: points on the diagonal mean what they say.

    Args:
        before: bins of the probabilities as the model gives them.
        after: of those that `predict` gives, where a calibration changes them.
    """
    figure, axes = _figure(square=True)
    axes.plot([0, 1], [0, 1], color=_FAINT, linewidth=1, linestyle=":")
    drawn = [("as the model gives them", before, _TWO)]
    drawn += [("calibrated", after, _ONE)] if after else []
    for name, bins, colour in drawn:
        full = [one for one in bins if one.count and one.said is not None and one.true is not None]
        sizes = [12 + 120 * one.count / max(other.count for other in full) for one in full]
        said, true = [one.said for one in full], [one.true for one in full]
        axes.plot(said, true, color=colour, linewidth=1)
        axes.scatter(said, true, s=sizes, color=colour, alpha=0.75, label=name)
    axes.set_xlim(-0.02, 1.02)
    axes.set_ylim(-0.04, 1.04)
    axes.set_xlabel("probability that is said")
    axes.set_ylabel("share that is so")
    legend = axes.legend(frameon=False, labelcolor=_INK, fontsize=8, ncols=2, loc="lower left", bbox_to_anchor=(0, 1))
    for handle in legend.legend_handles:
        if handle is not None:
            handle.set_sizes([30])
    return _svg(figure, "reliability diagram", "square")


def small_picture(pixels: Array, *, side: int = _TILE) -> str:
    """A picture as a `data:` address: a JPEG of at most `side` pixels.

    Args:
        pixels: uint8 (size, size, 3), RGB.
        side: of what is shown; a smaller picture is enlarged.
    """
    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(pixels).resize((side, side), Image.Resampling.LANCZOS).save(stream, "JPEG", quality=_QUALITY)
    return _address("image/jpeg", stream.getvalue())


def heat(places: Array) -> str:
    """A map of places as a `data:` address: a small PNG to be laid over the picture, transparent where nothing speaks.

    Args:
        places: float (height, width), 0..1.
    """
    from PIL import Image

    strength = Image.fromarray((np.asarray(places).clip(0, 1) * _HEAT_MOST).astype(np.uint8))
    strength = strength.resize((_HEAT_SIDE, _HEAT_SIDE), Image.Resampling.BICUBIC)
    layer = Image.new("RGBA", strength.size, (*_HEAT, 0))
    layer.putalpha(strength)
    stream = io.BytesIO()
    layer.save(stream, "PNG", optimize=True)
    return _address("image/png", stream.getvalue())


def _address(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def _figure(*, square: bool = False) -> tuple[Any, Any]:
    # Not by pyplot, whose figures and settings are the whole process's.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3.6, 3.4) if square else (_WIDE, _HIGH), layout="constrained")
    figure.patch.set_visible(False)
    axes = figure.subplots()
    axes.patch.set_visible(False)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(_LINE)
    axes.tick_params(colors=_LINE, labelcolor=_FAINT, labelsize=8)
    axes.xaxis.label.set(color=_FAINT, fontsize=8)
    axes.yaxis.label.set(color=_FAINT, fontsize=8)
    axes.grid(color=_LINE, linewidth=0.5, alpha=0.6)
    return figure, axes


def _svg(figure: Any, title: str, kind: str = "wide") -> str:
    import matplotlib as mpl

    stream = io.StringIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "greffon"}):
        figure.savefig(stream, format="svg", metadata=nothing)
    text = stream.getvalue()
    text = text[text.index("<svg") :]
    head, rest = text.split(">", 1)
    head = re.sub(r' (width|height)="[^"]*"', "", head)
    label = _KEPT.sub(" ", title)
    for code, name in _COLOURS.items():
        rest = rest.replace(code, f"var(--{name})")
    return f'{head} class="{kind}" role="img" aria-label="{label}">{_own_ids(rest)}'.strip()


def _own_ids(svg: str) -> str:
    """The same with other ids than any other figure of the page has: they are made of what it shows."""
    import zlib

    prefix = f"f{zlib.crc32(svg.encode()):08x}-"
    svg = re.sub(r'\bid="([^"]+)"', rf'id="{prefix}\1"', svg)
    return svg.replace("url(#", f"url(#{prefix}").replace('href="#', f'href="#{prefix}')
