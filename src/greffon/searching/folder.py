"""The folder of a study: what it is about, Optuna's journal, the split, the tables; so that it can go on later."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from greffon.errors import DataError, InputError
from greffon.pictures.split import read_split, write_split

if TYPE_CHECKING:
    from pathlib import Path

    import polars as pl

    from greffon.pictures.catalog import Catalog
    from greffon.recipe import Recipe
    from greffon.searching.space import Space

FORMAT = "greffon-study-1"
STUDY, JOURNAL, SPLIT, RECIPE = "study.json", "journal.log", "split.parquet", "recipe.yaml"


@dataclass
class Folder:
    """A study's folder.

    Attributes:
        path: it.
        about: what `study.json` holds.
    """

    path: Path
    about: dict[str, Any]

    @classmethod
    def open(cls, out: Path, *, resume: bool) -> Folder:
        """A new folder, or one that goes on; nothing is written yet.

        Raises:
            InputError: there is something already, or nothing to go on with.
        """
        file = out / STUDY
        if not resume:
            if out.exists() and (not out.is_dir() or any(out.iterdir())):
                hint = "--resume (resume=True) goes on with it, or " if file.is_file() else ""
                raise InputError(f"{out} is there already: {hint}give another folder with -o (out)")
            if not out.resolve().parent.is_dir():
                raise InputError(f"the folder {out.resolve().parent} for the study is not there")
            return cls(out, {})
        if not file.is_file():
            raise InputError(f"there is no study in {out} to go on with ({STUDY} is missing): leave --resume out")
        try:
            about = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise InputError(f"study {file} cannot be read: {error}") from error
        if not isinstance(about, dict) or about.get("format") != FORMAT:
            raise InputError(f"study {file}: expected the format {FORMAT}")
        missing = [name for name in ("data", "recipe", "space", "held_out") if name not in about]
        if missing or not (out / SPLIT).is_file():
            raise InputError(f"study {file} is not whole: {', '.join(missing) or SPLIT} is missing; begin a new one")
        return cls(out, about)

    def begin(self, catalog: Catalog, data: str, recipe: Recipe, space: Space, held_out: float) -> None:
        """Write down what the study is about."""
        from greffon import __version__

        self.path.mkdir(exist_ok=True)
        write_split(catalog, self.path / SPLIT)
        self.about = {
            "format": FORMAT,
            "greffon": __version__,
            "data": data,
            "recipe": recipe.to_yaml(),
            "space": space.to_dict(),
            "held_out": held_out,
            "classes": list(catalog.class_names),
            "pictures": {side: len(catalog.side(side)) for side in ("train", "val", "test")},
            "seconds": 0.0,
        }
        self.save()

    def check(self, data: str, recipe: Recipe) -> None:
        """Whether a study that goes on is of these pictures and this recipe.

        Raises:
            DataError: other pictures, or other labels.
            InputError: another recipe.
        """
        if self.about["data"] != data:
            raise DataError(
                f"these are not the pictures of the study {self.path}: its trials cannot be compared with new ones. "
                "Give its own data, or begin a study in another folder"
            )
        if self.about["recipe"] != recipe.to_yaml():
            raise InputError(
                f"the study {self.path} began with other options of the recipe; go on with the same, or begin a study "
                "in another folder"
            )

    def split(self) -> pl.DataFrame:
        """The split of a study that goes on."""
        return read_split(self.path / SPLIT)

    def save(self, **more: Any) -> None:
        """Write `study.json`; a crash leaves the old one."""
        from greffon.bundle.manifest import plain

        self.about |= more
        text = json.dumps(plain(self.about), indent=1, ensure_ascii=False)
        beside = self.path / f".{STUDY}.part"
        beside.write_text(text + "\n", encoding="utf-8")
        os.replace(beside, self.path / STUDY)  # noqa: PTH105 - as a file of its own, or not at all

    def write_table(self, table: pl.DataFrame) -> None:
        """The table of trials, for programs and for spreadsheets."""
        table.write_parquet(self.path / "trials.parquet")
        table.write_csv(self.path / "trials.csv")

    def write_recipe(self, recipe: Recipe) -> None:
        """The best recipe so far."""
        (self.path / RECIPE).write_text(recipe.to_yaml(), encoding="utf-8")


def digest(catalog: Catalog) -> str:
    """What pictures these are: their content, labels and given sides, in any order and under any names."""
    import xxhash

    rows = catalog.ok
    labels = ["\n".join(sorted(found)) for found in catalog.labels_of(rows)]
    lines = sorted(zip(rows["hash"], rows["split"], labels, strict=True))
    text = json.dumps([list(catalog.class_names), lines], ensure_ascii=False)
    return str(xxhash.xxh3_128_hexdigest(text.encode()))
