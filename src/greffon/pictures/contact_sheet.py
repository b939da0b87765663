"""One picture of many: what the network will see of them, under the names of their classes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from greffon.errors import DataError, InputError
from greffon.pictures.decode import decode_many
from greffon.pictures.layout import natural_order

if TYPE_CHECKING:
    from collections.abc import Sequence

    from greffon.pictures.opened import Source
    from greffon.pictures.resize import ResizeRule

TILE = 160
"""The most pixels that one picture's side takes on the sheet; a smaller network input is enlarged pixel by pixel."""

_GAP = 8
_CAPTION = 16
_HEADING = 30
_FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG"}
_TALLEST = 65_000  # what JPEG can hold
_INK, _FAINT, _GROUND, _BAD = (20, 20, 20), (110, 110, 110), (246, 246, 244), (222, 214, 210)


@dataclass(frozen=True)
class Shown:
    """A picture for the sheet.

    Attributes:
        source: what `decode` takes.
        path: its name, written under it.
        label: its class, or "".
    """

    source: Source
    path: str
    label: str = ""


def contact_sheet(
    pictures: Sequence[Shown], size: int, rule: ResizeRule, *, file: str | Path, most: int = 120, columns: int = 8
) -> int:
    """Write what `decode` makes of pictures as one sheet, class by class.

    Args:
        pictures: in any order; of each class as many as of any other are shown, evenly drawn from all of it.
        size: side of the network's input, as for `decode`.
        rule: as for `decode`.
        file: where to write; .png or .jpg.
        most: pictures on the sheet, at least 1.
        columns: pictures side by side, at least 1.

    Returns:
        How many pictures are on the sheet. One that cannot be read has its place there, with the reason.

    Raises:
        InputError: a wrong option, another ending, or the file cannot be written.
        DataError: there are no pictures.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from PIL import Image
        >>> from greffon.pictures.contact_sheet import Shown, contact_sheet
        >>> file = Path(tempfile.mkdtemp()) / "sheet.png"
        >>> contact_sheet([Shown(Image.new("RGB", (64, 48), "red"), "a.jpg", "cats")], 32, "crop", file=file)
        1
    """
    file = Path(file)
    if file.suffix.lower() not in _FORMATS:
        raise InputError(f"the contact sheet must end in .png or .jpg, got {file.name}")
    for name, value in (("most", most), ("columns", columns)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise InputError(f"{name} must be a whole number of at least 1, got {value!r}")
    if not pictures:
        raise DataError("there are no pictures for a contact sheet")
    chosen = choose([each.label for each in pictures], most)
    sheet = _Sheet([pictures[place] for place in chosen], len(pictures), size, rule, columns)
    try:
        sheet.drawn().save(file, _FORMATS[file.suffix.lower()], quality=90)
    except OSError as error:
        raise InputError(f"the contact sheet {file} cannot be written: {error.strerror or error}") from error
    return len(chosen)


def choose(labels: Sequence[str], most: int) -> list[int]:
    """Places of at most `most` pictures, from every class as many as from any other while it has them.

    They are evenly drawn from their class, and come class by class in natural order.

    Example:
        >>> from greffon.pictures.contact_sheet import choose
        >>> choose(["b", "a", "a", "a", "a", "a"], 4)
        [1, 3, 5, 0]
    """
    places: dict[str, list[int]] = {}
    for place, label in enumerate(labels):
        places.setdefault(label, []).append(place)
    names = natural_order(places)
    shares = dict.fromkeys(names, 0)
    left = min(most, len(labels))
    while left:  # one more for each class that has one, the first classes first
        for name in names:
            if left and shares[name] < len(places[name]):
                shares[name] += 1
                left -= 1
    chosen: list[int] = []
    for name in names:
        if shares[name]:
            steps = np.linspace(0, len(places[name]) - 1, shares[name]).round().astype(int)
            chosen.extend(places[name][step] for step in steps)
    return chosen


class _Sheet:
    """Where everything goes, and the drawing of it."""

    def __init__(self, pictures: list[Shown], of: int, size: int, rule: ResizeRule, columns: int) -> None:
        self._pictures = pictures
        self._size, self._rule = size, rule
        self._tile = size * (TILE // size) if size <= TILE else TILE
        self._columns = min(columns, len(pictures))
        self._about = f"{len(pictures):,} of {of:,} pictures as the network sees them: {rule} to {size} x {size} pixels"
        self._font, self._large = ImageFont.load_default(11), ImageFont.load_default(16)
        self._rows = {label: [each for each in pictures if each.label == label] for label in self._labels()}

    def _labels(self) -> list[str]:
        return list(dict.fromkeys(each.label for each in self._pictures))

    def drawn(self) -> Image.Image:
        """The sheet."""
        step = self._tile + _GAP
        down = step + _CAPTION
        lines = {label: -(-len(row) // self._columns) for label, row in self._rows.items()}
        width = max(_GAP + self._columns * step, int(self._large.getlength(self._about)) + 2 * _GAP)
        height = _HEADING + sum(_HEADING + count * down for count in lines.values()) + _GAP
        if height > _TALLEST:
            raise InputError(f"the contact sheet would be {height:,} pixels high: show fewer pictures, or more columns")
        sheet = Image.new("RGB", (width, height), _GROUND)
        draw = ImageDraw.Draw(sheet)
        draw.text((_GAP, _GAP), self._about, _INK, self._large)
        pixels = decode_many([each.source for each in self._pictures], self._size, self._rule)
        top = _HEADING
        for label, row in self._rows.items():
            draw.text((_GAP, top + _GAP), self._fitting(label or "(no class)", width, self._large), _INK, self._large)
            top += _HEADING
            for number, (each, (_, seen)) in enumerate(zip(row, pixels, strict=False)):
                corner = (_GAP + number % self._columns * step, top + number // self._columns * down)
                self._place(sheet, draw, corner, each, seen)
            top += lines[label] * down
        return sheet

    def _place(
        self,
        sheet: Image.Image,
        draw: ImageDraw.ImageDraw,
        corner: tuple[int, int],
        each: Shown,
        seen: np.ndarray | DataError,
    ) -> None:
        left, top = corner
        if isinstance(seen, DataError):
            draw.rectangle((left, top, left + self._tile - 1, top + self._tile - 1), _BAD)
            draw.multiline_text((left + 4, top + 4), self._wrapped(str(seen)), _INK, self._font)
        else:
            exact = self._tile % self._size == 0
            how = Image.Resampling.NEAREST if exact else Image.Resampling.LANCZOS
            sheet.paste(Image.fromarray(seen).resize((self._tile, self._tile), how), corner)
        draw.text((left, top + self._tile + 1), self._fitting(each.path, self._tile, self._font), _FAINT, self._font)

    def _fitting(self, text: str, width: int, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
        """The end of a text, which tells more than its beginning, as far as it fits."""
        text = _printable(text)
        if font.getlength(text) <= width:
            return text
        while text and font.getlength("..." + text) > width:
            text = text[1:]
        return "..." + text

    def _wrapped(self, text: str) -> str:
        lines, line = [], ""
        for letter in _printable(text):
            if self._font.getlength(line + letter) > self._tile - 8:
                lines.append(line)
                line = ""
            line += letter
        room = max(1, (self._tile - 8) // 14)
        return "\n".join([*lines, line][:room])


def _printable(text: str) -> str:
    return "".join(letter if letter.isprintable() else "?" for letter in text)
