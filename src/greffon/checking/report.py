"""What a check came to: for people, for programs, and as files."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from greffon.checking.page import write_page
from greffon.errors import InputError
from greffon.pictures.contact_sheet import Shown, contact_sheet
from greffon.pictures.quarantine import save_manifest
from greffon.say import counted

if TYPE_CHECKING:
    from collections.abc import Iterator

    import polars as pl
    from rich.console import Console, ConsoleOptions, RenderableType

    from greffon.checking.findings import Finding, Severity
    from greffon.pictures.catalog import Catalog
    from greffon.pictures.resize import ResizeRule

PAGE, MANIFEST, PREVIEW = "check.html", "manifest.csv", "preview.png"
"""What the files in a folder are called."""

_NAMED = 2
_LONGEST = 240
_WIDE = 160  # characters of a terminal, from which on a row is one line


@dataclass(frozen=True, eq=False)
class Check:
    """What was found.

    Attributes:
        catalog: the pictures that were looked at, without those that an earlier manifest left out.
        findings: the worst first.
        manifest: a row for each picture of each finding, with the columns of `greffon.pictures.quarantine.SCHEMA`, for
            the user's decisions; `greffon.train` obeys it.
        notes: what else the user should know, one sentence each.
        image_size: side of the network's input, in pixels.
        resize: how pictures become square.
        files: what was written: `page`, `manifest`, `preview`.
    """

    catalog: Catalog = field(repr=False)
    findings: tuple[Finding, ...] = field(repr=False)
    manifest: pl.DataFrame = field(repr=False)
    notes: tuple[str, ...] = field(repr=False)
    image_size: int
    resize: ResizeRule
    files: dict[str, Path] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong that the user has not decided about."""
        return not self.open("wrong")

    @property
    def spotless(self) -> bool:
        """Whether nothing is to be looked at either."""
        return self.ok and not self.open("look")

    def open(self, severity: Severity) -> list[Finding]:
        """Findings of one severity that the user has not decided about."""
        return [each for each in self.findings if each.severity == severity and not each.accepted]

    def of_kind(self, kind: str) -> list[Finding]:
        """Findings of one kind, the worst first."""
        return [each for each in self.findings if each.kind == kind]

    @property
    def kinds(self) -> dict[str, list[Finding]]:
        """Findings by kind, the worst kinds first."""
        return {kind: self.of_kind(kind) for kind in dict.fromkeys(each.kind for each in self.findings)}

    def save(self, folder: str | Path) -> None:
        """Write the page, the manifest and the preview into a folder.

        Raises:
            InputError: it cannot be written to, or a package for the page is missing.
        """
        folder = Path(folder)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"the folder {folder} cannot be made: {error.strerror or error}") from error
        self.save_manifest(folder / MANIFEST)
        self.save_preview(folder / PREVIEW)
        self.save_page(folder / PAGE)

    def save_page(self, file: str | Path) -> None:
        """Write one HTML page with the pictures in it, from which decisions can be made."""
        write_page(self.catalog, self.kinds, self.manifest, self.notes, Path(file))
        self.files["page"] = Path(file)

    def save_manifest(self, file: str | Path) -> None:
        """Write the manifest as CSV or Parquet."""
        save_manifest(self.manifest, file)
        self.files["manifest"] = Path(file)

    def save_preview(self, file: str | Path) -> None:
        """Write one sheet of what the network sees of the pictures, as PNG or JPEG."""
        frame = self.catalog.ok
        labels = [", ".join(names) for names in self.catalog.labels_of(frame)]
        shown = [
            Shown(locator, path, label)
            for locator, path, label in zip(self.catalog.locators(frame), frame["path"], labels, strict=True)
        ]
        contact_sheet(shown, self.image_size, self.resize, file=file)
        self.files["preview"] = Path(file)

    def to_dict(self) -> dict[str, Any]:
        """As plain values, ready for JSON."""
        counts = Counter(each.kind for each in self.findings)
        return {
            "ok": self.ok,
            "spotless": self.spotless,
            "pictures": len(self.catalog.ok),
            "classes": self.catalog.counts(),
            "counts": dict(counts),
            "findings": [each.to_dict() for each in self.findings],
            "notes": list(self.notes),
            "files": {name: str(file) for name, file in self.files.items()},
        }

    def __str__(self) -> str:
        lines = [f"{severity}  {kind}  {count}  {what}" for severity, kind, count, what in self._rows()]
        return "\n".join([*lines, *self._closing()])

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        from rich.padding import Padding
        from rich.text import Text

        styles = {"wrong": "bold red", "look": "yellow"}
        for severity, kind, count, first in self._rows():
            head = Text.assemble((f"{severity:<8}", styles.get(severity, "dim")), f"{kind} ({count})")
            told = Text(first if count == "1" else f"the first: {first}")
            if options.max_width > _WIDE:
                yield Text.assemble(head, "  ", told)
            else:
                yield head
                yield Padding(told, (0, 0, 0, 8), expand=False)
        if self.findings:
            yield Text()
        yield Text("\n".join(self._closing()))

    def _rows(self) -> list[tuple[str, str, str, str]]:
        rows: list[tuple[str, str, str, str]] = []
        for kind, findings in self.kinds.items():
            severity = "decided" if all(each.accepted for each in findings) else findings[0].severity
            rows.append((severity, kind, f"{len(findings):,}", _first(findings)))
        return rows

    def _closing(self) -> list[str]:
        wrong, look = len(self.open("wrong")), len(self.open("look"))
        classes = len(self.catalog.class_names)
        lines = [
            f"{counted(len(self.catalog.ok), 'picture')} of {classes} classes: {wrong:,} wrong, {look:,} to look at"
        ]
        names = {"page": "look and decide", "manifest": "decisions", "preview": "what the network sees"}
        lines += [f"{names[name]}: {file}" for name, file in self.files.items()]
        return lines


def _first(findings: list[Finding]) -> str:
    """The worst one of a kind, in one line."""
    worst = next((each for each in findings if not each.accepted), findings[0])
    named = " = ".join(worst.paths[:_NAMED]) + (" = ..." if len(worst.paths) > _NAMED else "")
    text = f"{named}: {worst.sentence}" if named else worst.sentence
    text = "".join(letter if letter.isprintable() else "?" for letter in text)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."
