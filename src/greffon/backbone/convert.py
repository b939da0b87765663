"""A weight file in another format: read, put into its network, proved, and written under the other's names."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from greffon.backbone.formats import FORMATS, REFUSED, WRITERS, Format, arrays_of, format_of
from greffon.backbone.resnet import BLOCKS, resnet
from greffon.errors import InputError, WeightFileError
from greffon.recipe import nearest
from greffon.weights.cache import digests
from greffon.weights.fetch import obtain
from greffon.weights.identify import identify
from greffon.weights.naming import to_keras
from greffon.weights.read import opened
from greffon.weights.restore import FoundWeights, find_weights
from greffon.weights.sets import PREPROCESSINGS, WEIGHT_SETS, Preprocessing, WeightSet, find_set

if TYPE_CHECKING:
    import keras

    from greffon.weights.identity import Identity


@dataclass(frozen=True)
class Converted:
    """A weight file that was written.

    Attributes:
        path: of it.
        format: one of `FORMATS`.
        variant: of the network.
        include_top: whether it holds the classifier.
        parameters: numbers in it, BatchNorm's statistics included.
        size: in bytes.
        sha256: 64 hex digits.
        notes: what the user should know, one sentence each.
    """

    path: Path
    format: Format
    variant: str
    include_top: bool
    parameters: int
    size: int
    sha256: str
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Source:
    """What is converted: where it lies, what it is, and which network it fills."""

    path: Path
    record: WeightSet | None
    blocks: tuple[int, ...]
    classes: int | None

    def find(self, variant: str | None) -> FoundWeights:
        published = self.record is not None and self.record.name in WEIGHT_SETS
        return find_weights(
            self.record.name if self.record and published else self.path,
            depth=self.record.depth if self.record else 50,
            variant=variant or (self.record.variant if self.record else None),
            include_top=self.classes is not None,
            classes=self.classes or 1000,
        )


def convert(
    source: str | Path,
    out: str | Path,
    *,
    to: str | None = None,
    include_top: bool | None = None,
    variant: str | None = None,
    force: bool = False,
) -> Converted:
    """Write weights in another format, proved equal to what was read.

    Args:
        source: a weight file of any format that Greffon reads, or a weight set's name.
        out: the file to write.
        to: `safetensors` (Keras' names, and what they are), `torch` (safetensors with torchvision's names and axes,
            v1.5 only), `weights-h5` (Keras 3) or `keras-h5` (legacy, which `keras.applications.ResNet50(weights=...)`
            loads, v1 only); None: as the name of `out` ends.
        include_top: with the classifier, or without; None: as the file has it (of a set, the file without).
        variant: of the network, where the file does not tell.
        force: overwrite `out`.

    Returns:
        What was written. The file is there whole, or as it was before.

    Raises:
        InputError: `out` exists or its name does not fit the format; the format has no such network.
        WeightFileError: the source cannot be read or does not fit its network.

    Example:
        >>> import tempfile
        >>> from greffon.backbone.convert import convert
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     written = convert("thin", f"{folder}/thin.weights.h5")
        >>> written.format, written.variant, f"{written.parameters:,}"
        ('weights-h5', 'thin', '5,942,464')
    """
    out = Path(out).expanduser()
    kind = format_of(out, to)
    _check_free(out, force=force)
    told = _source(source, include_top)
    found = told.find(variant)
    refusal = REFUSED.get((kind, found.variant))
    if refusal:
        good = ", ".join(it for it in FORMATS if (it, found.variant) not in REFUSED)
        raise InputError(
            f"weights {source} are for variant {found.variant!r}, which cannot be written as {kind}: {refusal}. It can "
            f"be written as {good}"
        )
    model, notes = _filled(found, told)
    preprocessing = told.record.preprocessing if told.record else found.preprocessing
    metadata = _metadata(found, told, preprocessing)
    part = out.with_name(f".{os.getpid()}.part.{out.name}")
    try:
        WRITERS[kind](model, part, metadata)
        _check_written(part, model)
        written = digests(part)
        _check_free(out, force=force)
        part.replace(out)
    except OSError as error:
        raise InputError(f"{out} cannot be written: {error.strerror or error}") from None
    finally:
        part.unlink(missing_ok=True)
    parameters = sum(int(np.prod(variable.shape)) for variable in model.variables)
    notes += _preprocessing_note(preprocessing, kind)
    return Converted(
        out, kind, found.variant, told.classes is not None, parameters, written.size, written.sha256, tuple(notes)
    )


def _check_free(out: Path, *, force: bool) -> None:
    if out.is_dir():
        raise InputError(f"{out} is a folder: expected the name of a file to write")
    if out.exists() and not force:
        raise InputError(f"{out} exists: choose another name, or overwrite it with --force")
    if not out.parent.is_dir():
        raise InputError(f"the folder {out.parent} does not exist: make it first")


def _source(source: str | Path, include_top: bool | None) -> _Source:
    record = find_set(source) if isinstance(source, str) else None
    if record is not None and not record.files:
        raise InputError(f"the weight set {record.name!r} has no file: {record.source}")
    if record is not None:
        path = obtain(record, include_top=bool(include_top)).path
    else:
        path = Path(source).expanduser()
        if not path.exists():
            names = list(WEIGHT_SETS)
            raise InputError(
                f"expected a weight file or a weight set, and there is no {path}{nearest(str(path), names)}"
            )
    with opened(path) as contents:
        identity = identify(contents)
    if identity.refusal:
        raise WeightFileError(f"weight file {path}: {identity.refusal}")
    return _Source(path, record, _blocks(identity, record), _classes(path, identity, record, include_top))


def _blocks(identity: Identity, record: WeightSet | None) -> tuple[int, ...]:
    return identity.blocks or BLOCKS[record.depth if record else 50]


def _classes(path: Path, identity: Identity, record: WeightSet | None, include_top: bool | None) -> int | None:
    """Units of the classifier that is written; None without it."""
    if include_top and not identity.include_top:
        raise InputError(f"{path} holds no classifier: leave it out with --no-include-top")
    wanted = identity.include_top if include_top is None and record is None else bool(include_top)
    return identity.classes if wanted else None


def _filled(found: FoundWeights, source: _Source) -> tuple[keras.Model, list[str]]:
    top = source.classes is not None
    side = 224 if top else None
    model = resnet(
        source.blocks,
        found.variant,
        include_top=top,
        classes=source.classes or 1000,
        input_shape=(side, side, 3),
    )
    restored = found.restore(model, tell=lambda _: None, undo=False)
    return model, list(restored.notes)


def _metadata(found: FoundWeights, source: _Source, preprocessing: Preprocessing | None) -> dict[str, str]:
    metadata = {
        "writer": "greffon",
        "format": "pt",  # what readers of PyTorch ask for; the axes are told by "layout"
        "variant": found.variant,
        "source": source.record.source if source.record else source.path.name,
        "source_sha256": found.sha256 or "",
    }
    if source.record is not None:
        metadata["licence"] = source.record.licence
    if preprocessing is not None and PREPROCESSINGS.get(preprocessing.name) == preprocessing:
        metadata["preprocessing"] = preprocessing.name
    return metadata


def _preprocessing_note(preprocessing: Preprocessing | None, kind: Format) -> list[str]:
    if preprocessing is None:
        return ["What preprocessing the weights were trained with is not known, so the new file does not say it."]
    if PREPROCESSINGS.get(preprocessing.name) != preprocessing:
        return [f"Their preprocessing is the user's own, which the new file cannot hold: {preprocessing}."]
    if kind in {"weights-h5", "keras-h5"}:
        return [f"The new file cannot say it: the weights want the preprocessing {preprocessing.name!r}."]
    return []


def _check_written(path: Path, model: keras.Model) -> None:
    """Read what was written, as anybody would, and compare every number."""
    with opened(path) as contents:
        found = to_keras(contents, identify(contents)).load().arrays
    for name, array in arrays_of(model).items():
        if name not in found or not np.array_equal(found[name], array):
            raise WeightFileError(f"{path.name} was written, and {name} came out otherwise: nothing was kept")
