"""What a look at one picture tells that whoever learns from it should know, before anything is learned.

A picture that cannot be used is quarantined. Everything else is a warning: dark, blurred and plain pictures may be
just what the network will meet, and only the user knows.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from PIL import Image, ImageFilter

from greffon.pictures.colour import profile_is_broken
from greffon.pictures.resize import crop_loss

if TYPE_CHECKING:
    from collections.abc import Iterable

    from greffon.pictures.faults import Fault
    from greffon.pictures.loaded import Loaded

    Array = np.ndarray[Any, Any]

Severity = Literal["quarantine", "warning"]
Warned = Literal[
    "damaged data",
    "wrong extension",
    "animated",
    "tiny",
    "one colour",
    "very dark",
    "very blurred",
    "odd shape",
    "broken profile",
]

LOOKED_AT = 128
"""The longer side, in pixels, that a picture is measured at: what is dark or blurred there, a network sees so too."""

TINY = 16
"""Pixels of the shorter side below which a picture is an icon: 28 and 32 are sides of well-known data sets."""

ONE_COLOUR = 6
"""The most that the values of each channel may differ (of 255): what JPEG makes of one colour, and not yet fog."""

VERY_DARK = 40
"""Of 255: 99 of 100 pixels are below it."""

VERY_BLURRED = 0.66
"""Of `blur_of`. Of 176 photographs the sharpest scores 0.08, the softest 0.43; blurred with a sigma of a hundredth of
the shorter side they score 0.21 to 0.66, of 2 hundredths 0.43 to 0.84, of 5 hundredths 0.74 to 0.91."""

SHARPNESS_NEEDS = 32
"""Pixels of the shorter side below which nothing can be said of blur."""

ODD_SHAPE = 0.5
"""The share of a picture that `crop` loses, above which it is told: pictures of 2:1 lose half, of 16:9 44 %."""

_BLUR_RADIUS = 4
_CAMERA_TAGS = (0x010F, 0x0110, 0x0131)  # Make, Model, Software
_LONGEST_NAME = 200

_SUFFIXES: dict[str, tuple[str, ...]] = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif", ".jif"),
    "MPO": (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"),
    "PNG": (".png", ".apng"),
    "GIF": (".gif",),
    "BMP": (".bmp", ".dib", ".rle"),
    "WEBP": (".webp",),
    "TIFF": (".tif", ".tiff"),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm", ".pfm"),
    "JPEG2000": (".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx"),
    "AVIF": (".avif", ".avifs", ".heif", ".hif"),
    "HEIF": (".heic", ".heif", ".heics", ".heifs", ".hif"),
}
_PICTURE_SUFFIXES = frozenset(suffix for suffixes in _SUFFIXES.values() for suffix in suffixes)


@dataclass(frozen=True, slots=True)
class Facts:
    """What was measured of a picture that could be decoded.

    Attributes:
        format: the container, in Pillow's words: JPEG, PNG, ...
        mode: of the pixels in the file, in Pillow's words: RGB, L, I;16, ...
        animated: whether the file has more frames or pages than the first, which is used.
        light: mean luma, 0..255.
        red: mean of the channel, 0..255.
        green: likewise.
        blue: likewise.
        bright: luma that 99 of 100 pixels do not exceed, 0..255.
        spread: the largest difference between two values of one channel, 0..255.
        blur: 0 sharp to 1 blurred (`blur_of`); None where the picture is too small to say.
        broken_profile: whether it has an ICC profile that cannot be used.
        camera: what made the file, by its EXIF: maker, model and software, as far as they are there.
        damage: what is wrong with the data of a JPEG that could be decoded all the same, or "" (`jpeg_check`).
    """

    format: str
    mode: str
    animated: bool
    light: float
    red: float
    green: float
    blue: float
    bright: int
    spread: int
    blur: float | None
    broken_profile: bool
    camera: str
    damage: str = ""


@dataclass(frozen=True, slots=True)
class Finding:
    """Something about one picture.

    Attributes:
        kind: in one or two words, for programs.
        severity: `quarantine`: it cannot be used; `warning`: it can, and the user should know.
        sentence: for people; begins with a verb whose subject is the picture.
    """

    kind: Fault | Warned
    severity: Severity
    sentence: str


def facts_of(image: Image.Image, picture: Loaded, mode: str) -> Facts:
    """Measure a picture that is decoded, while its file is open.

    Args:
        image: the file as it was opened, and decoded since.
        picture: what was decoded.
        mode: of the image before that.
    """
    small = Image.fromarray(picture.thumbnail(LOOKED_AT))
    levels = np.arange(256)
    red, green, blue = (np.array(small.histogram()).reshape(3, 256) @ levels / (small.width * small.height)).round(2)
    grey = small.convert("L")
    counts = np.array(grey.histogram())
    sharp = min(grey.size) >= SHARPNESS_NEEDS
    return Facts(
        format=image.format or "",
        mode=mode,
        animated=_has_more_frames(image),
        light=round(float(counts @ levels / counts.sum()), 2),
        red=float(red),
        green=float(green),
        blue=float(blue),
        bright=int(np.searchsorted(np.cumsum(counts), 0.99 * counts.sum())),
        spread=max(high - low for low, high in small.getextrema()),  # type: ignore[misc]
        blur=round(blur_of(grey), 4) if sharp else None,
        broken_profile=bool(picture.profile) and profile_is_broken(picture.profile or b""),
        camera=_camera(image),
    )


def blur_of(grey: Image.Image) -> float:
    """How little the differences between neighbours change when a picture is blurred once more.

    After Crete et al., "The blur effect" (2007), with both directions in one sum; it does not hang on contrast.

    Args:
        grey: of mode L.

    Returns:
        About 0 for noise, 0.2 to 0.4 for a sharp photograph at 128 pixels, towards 1 for a blurred one; 0 where all
        pixels are the same.

    Example:
        >>> from PIL import Image
        >>> from greffon.pictures.quality import blur_of
        >>> checkers = Image.effect_noise((8, 8), 90).resize((64, 64), Image.Resampling.NEAREST)
        >>> blur_of(checkers) < 0.3, blur_of(Image.linear_gradient("L")) > 0.8
        (True, True)
    """
    whole, kept = 0, 0
    for axis, radius in ((1, (_BLUR_RADIUS, 0)), (0, (0, _BLUR_RADIUS))):
        before = _differences(grey, axis)
        whole += int(before.sum(dtype=np.int64))
        after = _differences(grey.filter(ImageFilter.BoxBlur(radius)), axis)
        kept += int(np.minimum(before, after).sum(dtype=np.int64))
    return kept / whole if whole else 0.0


def findings_of(
    path: str, *, reason: str, fault: Fault | None, size: tuple[int, int] | None, facts: Facts | None
) -> tuple[Finding, ...]:
    """All that a scan found about one picture.

    Args:
        path: by its ending it is seen whether it is what its name says.
        reason: why it cannot be used, or "".
        fault: the same in one word, where there is a reason.
        size: width and height of the upright picture.
        facts: what was measured.

    Returns:
        One finding of severity `quarantine` for a picture that cannot be used, else warnings, none for most.

    Example:
        >>> from greffon.pictures.quality import Facts, findings_of
        >>> facts = Facts("PNG", "RGB", False, 99.0, 99.0, 99.0, 99.0, 250, 255, 0.3, False, "")
        >>> found = findings_of("a.jpg", reason="", fault=None, size=(640, 480), facts=facts)
        >>> [(each.kind, each.sentence) for each in found]
        [('wrong extension', 'is a PNG file, though its name ends in .jpg')]
    """
    if reason:
        return (Finding(fault or "damaged", "quarantine", reason),)
    if facts is None or size is None:
        return ()
    sentences: list[tuple[Warned, str]] = [*_of_the_file(path, facts), *_of_the_shape(*size), *_of_the_pixels(facts)]
    return tuple(Finding(kind, "warning", sentence) for kind, sentence in sentences)


def crop_note(sizes: Iterable[tuple[str, int, int]]) -> str:
    """What `crop` cuts away of some pictures, in one sentence; "" where it is nothing to speak of.

    Args:
        sizes: name, width and height of each upright picture.

    Example:
        >>> from greffon.pictures.quality import crop_note
        >>> crop_note([("a.jpg", 640, 480), ("wide.jpg", 4000, 1000)])
        'of 1 of 2 pictures crop loses more than half, most of wide.jpg (75 %): resize="pad" keeps all of each'
    """
    losses = [(crop_loss(width, height), name) for name, width, height in sizes]
    odd = [loss for loss in losses if loss[0] > ODD_SHAPE]
    if not odd:
        return ""
    worst, name = max(odd)
    return (
        f"of {len(odd):,} of {len(losses):,} pictures crop loses more than half, most of {name} "
        f'({_percent(worst)}): resize="pad" keeps all of each'
    )


def _of_the_file(path: str, facts: Facts) -> Iterable[tuple[Warned, str]]:
    suffix = PurePosixPath(path).suffix.lower()
    if suffix in _PICTURE_SUFFIXES and suffix not in _SUFFIXES.get(facts.format, (suffix,)):
        kind = "JPEG" if facts.format == "MPO" else facts.format
        yield "wrong extension", f"is a {kind} file, though its name ends in {suffix}"
    if facts.damage:
        yield (
            "damaged data",
            f"is damaged, though it can be decoded: some of it may show wrong colours ({facts.damage})",
        )
    if facts.animated:
        what = "pages" if facts.format == "TIFF" else "frames"
        yield "animated", f"has several {what}, of which the first is used"
    if facts.broken_profile:
        yield "broken profile", "has a colour profile that cannot be used: its colours are taken for sRGB"


def _of_the_shape(width: int, height: int) -> Iterable[tuple[Warned, str]]:
    if min(width, height) < TINY:
        yield "tiny", f"is only {width} x {height} pixels large"
    loss = crop_loss(width, height)
    if loss > ODD_SHAPE:
        shape = f"{width / height:.1f} times as wide as high"
        if height > width:
            shape = f"{height / width:.1f} times as high as wide"
        yield "odd shape", f"is {shape}: crop loses {_percent(loss)} of it"


def _of_the_pixels(facts: Facts) -> Iterable[tuple[Warned, str]]:
    if facts.spread <= ONE_COLOUR:
        yield "one colour", "shows one colour and nothing else"
    elif facts.bright < VERY_DARK:
        yield "very dark", f"is very dark: 99 % of its pixels are below {facts.bright + 1} of 255"
    elif facts.blur is not None and facts.blur > VERY_BLURRED:
        yield "very blurred", f"is very blurred, or shows nothing with an edge (blur {facts.blur:.2f} of 1)"


def _percent(share: float) -> str:
    """Not rounded up to 100 %, which would be all."""
    return f"{int(share * 1000) / 10:g} %" if share > 0.99 else f"{share:.0%}".replace("%", " %")


def _has_more_frames(image: Image.Image) -> bool:
    if image.format == "MPO":  # a telephone's second frame is a part of the same picture
        return False
    with suppress(Exception):  # what comes behind the first frame may be damaged, and is not needed
        return bool(getattr(image, "is_animated", False))
    return False


def _camera(image: Image.Image) -> str:
    with suppress(Exception):  # damaged EXIF raises nearly anything
        exif = image.getexif()
        words = [str(exif[tag]).strip("\0 ") for tag in _CAMERA_TAGS if exif.get(tag)]
        return " | ".join(word for word in words if word)[:_LONGEST_NAME].encode("utf-8", "replace").decode()
    return ""


def _differences(grey: Image.Image, axis: int) -> Array:
    """Between neighbours, without their sign: int16."""
    values = np.asarray(grey).astype(np.int16)
    after, before = (values[:, 1:], values[:, :-1]) if axis else (values[1:], values[:-1])
    return np.abs(after - before)
