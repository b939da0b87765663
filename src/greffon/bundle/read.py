"""Reading a run: what `write_bundle` wrote, checked against its manifest."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from greffon.bundle.manifest import MANIFEST, Manifest, read_manifest, sha256_of
from greffon.errors import InputError, MissingPackageError
from greffon.extras import install
from greffon.weights.records import Preprocessing

if TYPE_CHECKING:
    from collections.abc import Mapping

    import keras
    import polars as pl

    from greffon.evaluation.calibration import Calibration
    from greffon.recipe import Recipe

__all__ = ["EARLIER", "MODEL_ONNX", "Bundle", "damages", "read_bundle"]

MODEL_ONNX = "model.onnx"
"""The file that `predict` runs on; a run of a layer that ONNX does not know, or of an older Greffon, has none."""

EARLIER = "earlier.parquet"
"""Pictures that the weights of a run knew before it was trained; only where they came from another run."""

_FILES = (
    "classes.json",
    "freeze.json",
    "history.csv",
    "left_out.csv",
    "model.keras",
    "preprocessing.json",
    "recipe.yaml",
    "run.json",
    "split.parquet",
    "validation.parquet",
)


@dataclass(frozen=True)
class Bundle:
    """A run's folder. Files are read, and compared with the manifest, when they are asked for.

    Attributes:
        path: the folder.
        manifest: what it says of itself.
        class_names: in the order of the model's outputs.
        several_labels: whether a picture may have several labels.
        preprocessing: size and resize rule of the pictures, and what the model does to them inside; the record
            `none` where it does nothing.
        decoder: version of the decoder that the model was trained with.
    """

    path: Path
    manifest: Manifest
    class_names: tuple[str, ...]
    several_labels: bool
    preprocessing: Preprocessing
    decoder: str

    @cached_property
    def recipe(self) -> Recipe:
        """What the model was trained by."""
        from greffon.recipe import Recipe

        return Recipe.from_yaml(self.file("recipe.yaml"))

    @cached_property
    def record(self) -> dict[str, Any]:
        """Versions, digest of the weights, times, counts, proofs, notes."""
        return dict(_read_json(self.file("run.json")))

    @cached_property
    def calibration(self) -> Calibration | None:
        """What its probabilities are corrected by; None where nothing is."""
        if "calibration.json" not in self.manifest.files:
            return None
        from greffon.evaluation.calibration import Calibration

        return Calibration.from_dict(_read_json(self.file("calibration.json")))

    def onnx(self) -> Path | None:
        """The path of `model.onnx`, once its content is known to be what was written; None where the run holds none.

        Raises:
            InputError: it is missing or was changed.
        """
        return self.file(MODEL_ONNX) if MODEL_ONNX in self.manifest.files else None

    @property
    def notes(self) -> list[str]:
        """What the user should know, one sentence each."""
        return [str(note) for note in self.record.get("notes", ())]

    @cached_property
    def history(self) -> pl.DataFrame:
        """One row per epoch: stage, epoch, and numbers, null where there was none."""
        import polars as pl

        text = pl.read_csv(self.file("history.csv"), infer_schema=False)
        kinds: dict[str, Any] = {"stage": pl.String, "epoch": pl.Int64}
        return text.select(pl.col(name).cast(kinds.get(name, pl.Float64)) for name in text.columns)

    @cached_property
    def split(self) -> pl.DataFrame:
        """One row per picture: path, hash, label, split."""
        import polars as pl

        return pl.read_parquet(io.BytesIO(self.file("split.parquet").read_bytes()))

    @cached_property
    def earlier(self) -> pl.DataFrame:
        """Pictures that the weights knew before this training: `hash`, and `train` or `val` as `split`; see `known`."""
        import polars as pl

        if EARLIER not in self.manifest.files:
            return pl.DataFrame(schema={"hash": pl.String, "split": pl.String})
        return pl.read_parquet(io.BytesIO(self.file(EARLIER).read_bytes()))

    @cached_property
    def known(self) -> dict[str, str]:
        """Content hash -> `train` for pictures that the weights were trained on, in this run or one that it began with.

        `val` for those that they were validated on alone; what lay in a test/ is not among them.
        """
        import polars as pl

        rows = pl.concat([self.split.select("hash", "split"), self.earlier.select("hash", "split")])
        rows = rows.filter(pl.col("split").is_in(["train", "val"]))
        # `val` first, so that `train` overwrites it.
        return dict(rows.sort("split", descending=True, maintain_order=True).iter_rows())

    @cached_property
    def left_out(self) -> pl.DataFrame:
        """One row per file that was not used: path, state, reason."""
        import polars as pl

        return pl.read_csv(self.file("left_out.csv"), infer_schema=False)

    @cached_property
    def table(self) -> pl.DataFrame:
        """Predictions for the validation pictures; see `greffon.evaluation.table`."""
        from greffon.evaluation.table import read_table

        return read_table(self.file("validation.parquet"))

    def model(self, *, custom_objects: Mapping[str, Any] | None = None) -> keras.Model:
        """Open the plain Keras model, not compiled, with its trainable flags as they were.

        Args:
            custom_objects: classes by name, for layers of the user's own.

        Raises:
            InputError: the file was changed, or holds layers that Keras does not know.
            MissingPackageError: Keras is not installed.
        """
        try:
            import keras
        except ModuleNotFoundError as error:
            raise MissingPackageError(
                f"run {self.path}: its Keras model cannot be opened, {error.name} is not installed here: "
                f"{install('train')}"
            ) from error

        from greffon.backbone.freeze import FreezeRules, set_trainable_state

        file = self.file("model.keras")
        try:
            model = keras.models.load_model(file, custom_objects=dict(custom_objects or {}), compile=False)
        except (OSError, ValueError, TypeError, KeyError, ImportError) as error:
            hints = [note for note in self.notes if "custom_objects" in note] or [f"It was saved with {self._writer()}"]
            raise InputError(f"{file} cannot be opened: {reason_of(error)}. {' '.join(hints)}") from error
        freeze = _read_json(self.file("freeze.json"))
        set_trainable_state(model, freeze["state"])
        if freeze["rules"] is not None:
            model.greffon_freeze = FreezeRules.of(tuple(freeze["rules"]["unfreeze"]), freeze["rules"]["batch_norm"])
        return model

    def file(self, name: str) -> Path:
        """The path of one of the run's files, once its content is known to be what was written.

        Raises:
            InputError: it is missing or was changed.
        """
        return _checked_file(self.path, self.manifest, name)

    def _writer(self) -> str:
        versions = self.record.get("versions", {})
        return ", ".join(f"{name} {versions[name]}" for name in ("greffon", "keras") if name in versions)


def read_bundle(run: str | Path) -> Bundle:
    """Open a run's folder; this loads no heavy library.

    Raises:
        InputError: it is no run, a file is missing or was changed, or a newer Greffon wrote it.
    """
    path = Path(run).expanduser()
    manifest = read_manifest(path)
    missing = [name for name in _FILES if name not in manifest.files or not (path / name).is_file()]
    if missing:
        raise InputError(
            f"run {path}: {', '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing; copy the run again as a "
            "whole, or train again"
        )
    classes = _read_json(_checked_file(path, manifest, "classes.json"))
    prepare = _read_json(_checked_file(path, manifest, "preprocessing.json"))
    return Bundle(
        path,
        manifest,
        tuple(classes["class_names"]),
        several_labels=bool(classes["several_labels"]),
        preprocessing=_preprocessing(prepare),
        decoder=str(prepare["decoder"]),
    )


def damages(run: Path) -> list[str]:
    """What is wrong with the files of a run, one sentence for each that is missing or was changed.

    Raises:
        InputError: it is no run, or a newer Greffon wrote it.
    """
    manifest = read_manifest(run)
    bad = []
    for name in manifest.files:
        try:
            _checked_file(run, manifest, name)
        except InputError as error:
            bad.append(str(error))
    return bad


def _checked_file(run: Path, manifest: Manifest, name: str) -> Path:
    path = run / name
    if name not in manifest.files or not path.is_file():
        raise InputError(f"run {run}: {name} is missing; copy the run again as a whole, or train again")
    if sha256_of(path) != manifest.files[name]:
        raise InputError(
            f"run {run}: {name} is not the file that training wrote (its SHA-256 differs from the one in {MANIFEST}), "
            "so it cannot be trusted. Put the original back, copy the run again, or train again. A model that was "
            "changed on purpose opens with keras.models.load_model"
        )
    return path


def _preprocessing(prepare: Mapping[str, Any]) -> Preprocessing:
    inside = dict(prepare["inside_model"] or {"name": "none"})
    inside.update(size=int(prepare["size"]), resize=prepare["resize"])
    values: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in inside.items()}
    return Preprocessing(**values)


def reason_of(error: Exception) -> str:
    """What Keras found wrong, without the configuration of the whole model or the examples around it."""
    text = str(error).rpartition("Exception encountered: ")[2]
    for ending in ("Full object config", "Example:"):
        text = text.partition(ending)[0]
    return " ".join(text.split()).rstrip(".")[:500]


def _read_json(file: Path) -> Any:
    return json.loads(file.read_text(encoding="utf-8"))
