"""Random changes of a picture that hang on its content, the view's number and the policy alone.

The operations are those of Keras' `RandomColorJitter` and `RandAugment`, written with Pillow: Keras' own layers draw
from a generator that moves with every call, so that a view would hang on what was asked for before it, and they need
15 ms (jitter) and 120 ms (all eleven operations of RandAugment are computed to choose two) for a picture of 224
pixels, more than the trunk needs for it. These need 1 to 4 ms. The tests compare each with Keras' layer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import xxhash
from PIL import Image, ImageFilter, ImageOps, ImageStat

if TYPE_CHECKING:
    from collections.abc import Callable

    from greffon.recipe import Augment

    Array = np.ndarray[Any, Any]
    Operation = Callable[[Image.Image, Callable[[str, float, float], float]], Image.Image]

AUGMENT_VERSION = "1"
"""Goes up whenever a view may come out with other pixels; part of the key of kept activations."""

BRIGHTNESS, CONTRAST, SATURATION, HUE = 0.2, 0.4, 0.4, 0.05
"""Ranges of the policy `colour`: added (of 255), and factors 1 - c to 1 + c; hue in turns of the colour circle."""

RAND_OPERATIONS = 2
"""Operations of the policy `rand` that are applied one after the other to each picture."""


class Draws:
    """Numbers that look random, each drawn by its name: no order, no state, the same on every machine.

    Args:
        content: digest of the picture file, as the catalog has it.
        view: number of the view.
        policy: which changes are made.

    Example:
        >>> from greffon.pictures.augment import Draws
        >>> draws = Draws("d41d8cd98f00b204", 3, "crop")
        >>> draws.uniform("left", 2.0, 4.0) == Draws("d41d8cd98f00b204", 3, "crop").uniform("left", 2.0, 4.0)
        True
    """

    def __init__(self, content: str, view: int, policy: Augment) -> None:
        self._name = f"{content} {view} {policy} {AUGMENT_VERSION}"

    def uniform(self, name: str, low: float, high: float) -> float:
        """A number from `low` up to `high`."""
        return low + (high - low) * (xxhash.xxh3_64_intdigest(f"{self._name} {name}".encode()) >> 11) / 2**53

    def below(self, name: str, count: int) -> int:
        """A whole number from 0 to `count - 1`."""
        return min(count - 1, int(self.uniform(name, 0, count)))


def changed(pixels: Array, policy: Augment, draws: Draws) -> Array:
    """The colours, and for `rand` the geometry, of a view that is cut out already.

    Args:
        pixels: uint8 (size, size, 3), RGB.
        policy: `flip` and `crop` change nothing here.
        draws: of this view.

    Returns:
        uint8 (size, size, 3), RGB.

    Example:
        >>> import numpy as np
        >>> from greffon.pictures.augment import Draws, changed
        >>> changed(np.full((8, 8, 3), 100, np.uint8), "colour", Draws("d41d8cd98f00b204", 1, "colour")).dtype
        dtype('uint8')
    """
    if policy not in ("colour", "rand"):
        return pixels
    image = Image.fromarray(pixels)
    return np.array(_coloured(image, draws) if policy == "colour" else _rand(image, draws))


def _coloured(image: Image.Image, draws: Draws) -> Image.Image:
    """Brightness, contrast, saturation and hue, in the order of `RandomColorJitter`."""
    image = brightness(image, draws.uniform("brightness", -BRIGHTNESS, BRIGHTNESS))
    image = contrast(image, draws.uniform("contrast", 1 - CONTRAST, 1 + CONTRAST))
    saturation = draws.uniform("saturation", 1 - SATURATION, 1 + SATURATION)
    return saturation_and_hue(image, saturation, draws.uniform("hue", -HUE, HUE))


def _rand(image: Image.Image, draws: Draws) -> Image.Image:
    for place in range(RAND_OPERATIONS):
        operation = _RAND[draws.below(f"operation {place}", len(_RAND))]

        def draw(name: str, low: float, high: float, place: int = place) -> float:
            return draws.uniform(f"{name} {place}", low, high)

        image = operation(image, draw)
    return image


# Strengths are moderate: a frozen network answers for pictures as it has seen them. Keras' layers go up to a rotation
# of 180 degrees at their default strength.
_RAND: tuple[Operation, ...] = (
    lambda image, draw: affine(image, (1, draw("x", -0.15, 0.15), 0, 1), (0, 0)),  # shear to the side
    lambda image, draw: affine(image, (1, 0, draw("y", -0.15, 0.15), 1), (0, 0)),  # shear up or down
    lambda image, draw: affine(image, (1, 0, 0, 1), (draw("x", -0.15, 0.15), draw("y", -0.15, 0.15))),
    lambda image, draw: affine(image, rotation(draw("turn", -0.1316, 0.1316)), (0, 0)),  # 15 degrees either way
    lambda image, draw: brightness(image, draw("brightness", -0.25, 0.25)),
    lambda image, draw: colour_degeneration(image, draw("colour", 0, 0.7)),
    lambda image, draw: contrast(image, draw("contrast", 0.5, 1.5)),
    lambda image, draw: sharpness(image, draw("sharpness", 0, 1)),
    lambda image, draw: ImageOps.posterize(image, int(draw("bits", 3, 8))),
    lambda image, draw: solarization(image, draw("addition", 0, 64), draw("threshold", 128, 256)),
    lambda image, draw: ImageOps.autocontrast(image),
    lambda image, draw: ImageOps.equalize(image),
)


def brightness(image: Image.Image, delta: float) -> Image.Image:
    """`RandomBrightness`: `delta` (of the whole range) added to every value."""
    return _through(image, np.tile(np.arange(256) + 255 * delta, 3))


def contrast(image: Image.Image, factor: float) -> Image.Image:
    """`RandomContrast`: each channel's distance from its mean, times `factor`."""
    mean = np.array(ImageStat.Stat(image).mean)[:, None]
    return _through(image, ((np.arange(256) - mean) * factor + mean).reshape(-1))


def saturation_and_hue(image: Image.Image, factor: float, turn: float) -> Image.Image:
    """`RandomSaturation` and `RandomHue`: saturation times `factor`, hue further by `turn` of the colour circle."""
    hue, saturation, value = image.convert("HSV").split()
    step = round(turn * 256)
    hue = hue.point([(angle + step) % 256 for angle in range(256)])
    saturation = saturation.point([min(255, round(level * factor)) for level in range(256)])
    return Image.merge("HSV", (hue, saturation, value)).convert("RGB")


def colour_degeneration(image: Image.Image, factor: float) -> Image.Image:
    """`RandomColorDegeneration`: towards grey, which 1 gives."""
    return Image.blend(image, image.convert("L").convert("RGB"), factor)


def sharpness(image: Image.Image, factor: float) -> Image.Image:
    """`RandomSharpness`: 0 smooths, 0.5 leaves as it is, 1 sharpens."""
    return Image.blend(image.filter(ImageFilter.SMOOTH), image, 2 * factor)


def solarization(image: Image.Image, addition: float, threshold: float) -> Image.Image:
    """`Solarization`: `addition` added to every value; those of `threshold` and above are inverted."""
    values = np.clip(np.arange(256) + addition, 0, 255)
    return _through(image, np.tile(np.where(values < threshold, values, 255 - values), 3))


def rotation(half_tangent: float) -> tuple[float, float, float, float]:
    """The matrix that turns by an angle, given as the tangent of its half.

    Sine and cosine follow from that without a library's trigonometry, which differs between machines.
    """
    square = half_tangent * half_tangent
    cosine, sine = (1 - square) / (1 + square), 2 * half_tangent / (1 + square)
    return cosine, -sine, sine, cosine


def affine(
    image: Image.Image, matrix: tuple[float, float, float, float], shift: tuple[float, float]
) -> Image.Image:  # fmt: skip
    """Each place of the result taken from another of the picture; beyond its edges the picture is mirrored.

    Args:
        image: RGB, square.
        matrix: place around the centre to the place that it is taken from: x from x, x from y, y from x, y from y.
        shift: added to that, as a share of the side.
    """
    side = image.width
    edge = -(-side // 2)
    framed = Image.fromarray(np.pad(np.asarray(image), ((edge, edge), (edge, edge), (0, 0)), mode="symmetric"))
    a, b, c, d = matrix
    middle = side / 2
    right = middle + edge + shift[0] * side - (a + b) * middle
    down = middle + edge + shift[1] * side - (c + d) * middle
    return framed.transform(
        image.size, Image.Transform.AFFINE, (a, b, right, c, d, down), resample=Image.Resampling.BILINEAR
    )


def _through(image: Image.Image, table: Array) -> Image.Image:
    """Every value replaced by what stands for it in a table of 256 numbers for each channel."""
    return image.point(np.clip(np.rint(table), 0, 255).astype(int).tolist())
