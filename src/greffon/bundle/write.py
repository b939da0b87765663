"""Writing a run: everything that is needed to use, check and repeat a training, in one folder.

| file | what |
|---|---|
| model.keras | the trained model, as plain Keras opens it; takes RGB pictures of 0..255 |
| model.onnx | the same, as ONNX Runtime opens it; where it is missing run.json says why |
| contract.json | how a picture becomes the input, and the answers that every copy of the model gives for `probes/` |
| probes/ | eight pictures of the network's input size |
| README.md | a model card |
| neighbours.npz | small pictures that were learned from, and what the model sees in them; none with `--no-pictures` |
| calibration.json | what probabilities are corrected by, where that was found out |
| classes.json | class names in the order of the outputs, and whether a picture may have several labels |
| preprocessing.json | how a picture file becomes the model's input, and what the model does to it inside |
| recipe.yaml | every option; the same training again |
| split.parquet | one row per picture: path, hash, label, and the side of the split that it was on |
| left_out.csv | one row per file that was not used, and why |
| earlier.parquet | where the weights came from another run: pictures that these knew, and on which side they were |
| history.csv | one row per epoch |
| validation.parquet | one row per validation picture, with its probabilities |
| freeze.json | the freeze rules, and every trainable flag (a .keras file does not keep those of single variables) |
| run.json | versions, where the weights came from and what they became, times, counts, proofs, notes |
| manifest.json | what the folder is, and the SHA-256 of every file |
"""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
import importlib.metadata
import platform
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

import greffon
from greffon.bundle import manifest
from greffon.bundle.card import model_card
from greffon.bundle.contract import choose_pixels, write_contract
from greffon.bundle.folder import check_out, new_folder
from greffon.bundle.manifest import plain, write_json
from greffon.bundle.neighbours import write_neighbours
from greffon.bundle.onnx_form import keras_answers, onnx_form
from greffon.bundle.portable import check_model
from greffon.bundle.read import EARLIER, MODEL_ONNX
from greffon.errors import InputError
from greffon.evaluation.table import check_class_names, class_names_of, has_several_labels, write_table

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import keras
    import polars as pl

    from greffon.bundle.neighbours import Neighbours
    from greffon.evaluation.calibration import Calibration
    from greffon.recipe import Recipe

__all__ = ["BundleContents", "check_model", "check_out", "is_run", "versions", "weights_digest", "write_bundle"]

_PACKAGES = ("keras", "tensorflow", "jax", "torch", "numpy", "onnx", "onnxruntime", "pillow", "polars")
_SPLIT_COLUMNS = ("path", "hash", "label", "split")
_HISTORY_COLUMNS = ("stage", "epoch")


@dataclass(frozen=True, kw_only=True)
class BundleContents:
    """What a run holds.

    Attributes:
        model: the trained model: one input of RGB pictures 0..255, float32 (n, size, size, 3), and one output of
            probabilities, float (n, classes). Its trainable flags are kept.
        class_names: in the order of the model's outputs.
        image_size: side of the pictures that it was trained on, in pixels.
        resize: how a picture became square: `crop`, `stretch` or `pad`.
        recipe: what it was trained by.
        split: the catalog's table after the split: the columns `path`, `hash`, `label` and `split` (`train`, `val` or
            `test`), and `state` and `reason` where there are files that were left out; others are kept as well.
        history: one row per epoch, with the columns `stage` and `epoch`; the others are numbers.
        validation: predictions for the validation pictures, from `prediction_table`.
        record: what else is to be known of the run: times, counts of the trunk, proof of freezing, ...
        notes: what the user should know, one sentence each.
        calibration: `greffon.evaluation.calibration.Calibration` of the validation pictures; None: not calibrated.
        pictures: the folder that relative paths of the validation table start from: eight of those pictures, made as
            small as the network's input, are kept as probe pictures. None: none of the user's pictures is kept, and
            the probe pictures are rendered ones.
        neighbours: small copies of pictures that were learned from, and what the model sees in them; None: no
            picture of the user's is kept, or the model gives no features.
        earlier: pictures that the weights knew before: the columns `hash` and `split` (`train` or `val`); None: nothing
            is known of that.
    """

    model: keras.Model
    class_names: Sequence[str]
    image_size: int
    resize: Literal["crop", "stretch", "pad"]
    recipe: Recipe
    split: pl.DataFrame
    history: pl.DataFrame
    validation: pl.DataFrame
    record: Mapping[str, Any] = field(default_factory=dict)
    notes: Sequence[str] = ()
    calibration: Calibration | None = None
    pictures: str | Path | None = None
    neighbours: Neighbours | None = None
    earlier: pl.DataFrame | None = None


def write_bundle(
    out: str | Path,
    contents: BundleContents,
    *,
    overwrite: bool = False,
    if_taken: Literal["refuse", "beside"] = "refuse",
) -> Path:
    """Write a run. It appears under its name when all of it is written, and not before.

    Args:
        out: the folder. `check_out` tells before a training whether it can be written.
        contents: what goes in.
        overwrite: whether an earlier run may be replaced.
        if_taken: `beside`: where something came into that place while training, take the first free name `out-2`,
            `out-3`, ... with a warning.

    Returns:
        Where the run is.

    Raises:
        InputError: the folder cannot be written, or the contents do not belong together.
    """
    names = _check_contents(contents)
    notes = [*contents.notes, *check_model(contents.model)]
    with new_folder(out, overwrite=overwrite, if_taken=if_taken) as folder:
        place = folder.temporary
        _save_model(contents.model, place / "model.keras")
        several = has_several_labels(contents.validation)
        write_json(place / "classes.json", {"class_names": names, "several_labels": several})
        write_json(place / "preprocessing.json", _preprocessing(contents))
        (place / "recipe.yaml").write_text(contents.recipe.to_yaml(), encoding="utf-8", newline="\n")
        used, left_out = _by_use(contents.split)
        used.write_parquet(place / "split.parquet")
        left_out.write_csv(place / "left_out.csv")
        if contents.earlier is not None:
            contents.earlier.write_parquet(place / EARLIER)
        contents.history.write_csv(place / "history.csv")
        write_table(contents.validation, place / "validation.parquet")
        write_json(place / "freeze.json", _freeze(contents.model))
        if contents.calibration is not None:
            write_json(place / "calibration.json", contents.calibration)
        if contents.neighbours is not None:
            write_neighbours(place, contents.neighbours, several_labels=several)
        why_no_onnx = _write_answers(place, contents, names, several=several)
        record = _record(contents, notes, why_no_onnx)
        write_json(place / "run.json", record)
        (place / "README.md").write_text(model_card(contents, names, plain(record)), encoding="utf-8", newline="\n")
    return folder.place


def is_run(path: str | Path) -> bool:
    """Whether a path is a run's folder, whichever version of Greffon wrote it."""
    return manifest.is_run(Path(path))


def weights_digest(model: keras.Model) -> str:
    """SHA-256 of a model's weights, 64 hex digits: the same whenever the numbers are, however they are saved."""
    import keras

    digest = hashlib.sha256()
    for variable in model.weights:
        value = np.ascontiguousarray(keras.ops.convert_to_numpy(variable))
        digest.update(f"{value.dtype} {value.shape}\n".encode())
        digest.update(value.tobytes())
    return digest.hexdigest()


def _check_contents(contents: BundleContents) -> list[str]:
    names = check_class_names(contents.class_names)
    model = contents.model
    outputs = tuple(getattr(model, "output_shape", ()))
    if len(outputs) != 2 or outputs[1] != len(names):
        raise InputError(f"the model must give one value for each of {len(names)} classes, its output is {outputs}")
    side = contents.image_size
    for given in tuple(model.input_shape)[1:3]:
        if given not in {None, side}:
            raise InputError(f"image_size must be the model's input, {given} pixels, got {side}")
    if class_names_of(contents.validation) != names:
        raise InputError(
            f"the validation table must have the classes {names} in this order, got "
            f"{class_names_of(contents.validation)}"
        )
    for what, table, wanted in (
        ("split", contents.split, _SPLIT_COLUMNS),
        ("history", contents.history, _HISTORY_COLUMNS),
    ):
        missing = [column for column in wanted if column not in table.columns]
        if missing:
            raise InputError(f"the {what} must have the columns {', '.join(wanted)}; {', '.join(missing)} is missing")
    sides = set(_by_use(contents.split)[0]["split"]) - {"train", "val", "test"}
    if sides:
        raise InputError(f"every picture of the split must be on one of its sides train, val and test, got {sides}")
    return names


def _by_use(split: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The pictures that were used, and which files were not and why."""
    import polars as pl

    columns = ("path", "state", "reason")
    if not set(columns) <= set(split.columns):
        return split, pl.DataFrame(schema=dict.fromkeys(columns, pl.String))
    used = pl.col("state") == "ok"
    return split.filter(used).drop("state", "reason"), split.filter(~used).select(columns)


def _save_model(model: Any, file: Path) -> None:
    import keras

    # A model of the same layers that is not compiled: the optimizer is as large as what it trained, and a loss or
    # metric of the user's own would keep plain Keras from opening the file.
    keras.Model(model.input, model.output, name=model.name).save(file)


def _preprocessing(contents: BundleContents) -> dict[str, Any]:
    from greffon.backbone.preprocessing import preprocessing_of
    from greffon.pictures.decode import DECODER_VERSION

    inside = preprocessing_of(contents.model)
    if inside is not None:
        inside = dataclasses.replace(inside, size=contents.image_size, resize=contents.resize)
    return {
        "decoder": DECODER_VERSION,
        "resize": contents.resize,
        "size": contents.image_size,
        "input": {"layout": "picture, row, column, channel", "channels": "RGB", "dtype": "uint8", "range": [0, 255]},
        "inside_model": inside,
    }


def _write_answers(place: Path, contents: BundleContents, names: list[str], *, several: bool) -> str:
    """Write the ONNX file and the contract; give why there is no ONNX file, or ""."""
    chosen = choose_pixels(contents.validation, contents.pictures, contents.image_size, contents.resize)
    pixels = np.stack([pixels for _, pixels in chosen])
    expected = keras_answers(contents.model, pixels)
    content, why_not = onnx_form(contents.model, names, pixels, expected)
    if content is not None:
        (place / MODEL_ONNX).write_bytes(content)
    terms = {
        **_preprocessing(contents),
        "exif_orientation": "applied",
        "interpolation": "bicubic, averaging over what a pixel covers",
        "class_names": names,
        "several_labels": several,
        "temperature": 1.0 if contents.calibration is None else contents.calibration.temperature,
        "weights": {
            "source": getattr(contents.model, "greffon_weights", None),
            "sha256": weights_digest(contents.model),
        },
    }
    write_contract(place, terms, chosen, expected)
    return why_not


def _freeze(model: Any) -> dict[str, Any]:
    from greffon.backbone.freeze import trainable_state

    return {"rules": getattr(model, "greffon_freeze", None), "state": trainable_state(model)}


def versions() -> dict[str, str]:
    """Of what a run is made with, for its record: Greffon, Python, the machine, Keras' backend, packages."""
    import keras

    return {
        "greffon": greffon.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "machine": platform.machine(),
        "keras_backend": keras.backend.backend(),
        **{name: version for name in _PACKAGES if (version := _version(name)) is not None},
    }


def _record(contents: BundleContents, notes: list[str], why_no_onnx: str) -> dict[str, Any]:
    if contents.recipe.head.layer is not None:
        notes.append("The head was a layer given in Python, so recipe.yaml alone cannot repeat this training")
    return {
        **contents.record,
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "notes": list(dict.fromkeys(notes)),
        **({"why_no_onnx": why_no_onnx} if why_no_onnx else {}),
        "versions": versions(),
        "weights_source": getattr(contents.model, "greffon_weights", None),
        "weights_sha256": weights_digest(contents.model),
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
