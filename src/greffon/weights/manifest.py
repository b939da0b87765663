"""What a set of weights is, as JSON: beside the file in a weight package, and in the cache for sets that were added."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from greffon.errors import WeightFileError
from greffon.weights.records import PREPROCESSINGS, Preprocessing, Variant, WeightFile, WeightSet

SUFFIX = ".greffon.json"
"""What the name of a package's manifest ends with; before it stands the name of the weight file."""

NAME_PATTERN = r"^[a-z0-9][a-z0-9._-]{0,63}$"
"""What a weight set may be called: it is a word on the command line and part of a file's name."""

_LARGEST = 1 << 16  # bytes
_Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
_Finite = Annotated[float, Field(allow_inf_nan=False)]
_Text = Annotated[str, Field(max_length=1000)]


class _Preprocessing(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")]
    resize: Literal["crop", "stretch", "pad"]
    size: Annotated[int, Field(ge=1, le=4096)]
    channel_order: Literal["RGB", "BGR"]
    scale: _Positive
    mean: Annotated[list[_Finite], Field(min_length=3, max_length=3)]
    std: Annotated[list[_Positive], Field(min_length=3, max_length=3)]


class Manifest(BaseModel):
    """The fields of a manifest; nothing else may be in it."""

    model_config = ConfigDict(extra="forbid", strict=True)

    greffon_weights: Literal[1] = 1
    name: Annotated[str, Field(pattern=NAME_PATTERN)]
    filename: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$")]
    size: Annotated[int, Field(ge=1)]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    published_hash: _Text
    variant: Variant
    depth: Literal[50, 101, 152]
    include_top: bool
    classes: Annotated[int, Field(ge=1)] | None
    format: _Text
    licence: _Text
    source: _Text
    url: _Text | None
    preprocessing: _Preprocessing

    def record(self, folder: str = "") -> WeightSet:
        """The weight set that the manifest describes, its file in `folder` of the cache's weights."""
        said = self.preprocessing
        known = PREPROCESSINGS.get(said.name)
        preprocessing = Preprocessing(
            said.name,
            said.resize,
            said.size,
            said.channel_order,
            said.scale,
            (said.mean[0], said.mean[1], said.mean[2]),
            (said.std[0], said.std[1], said.std[2]),
        )
        if known is not None and known != preprocessing:
            raise WeightFileError(
                f"the preprocessing {said.name!r} of the weight set {self.name!r} is not the one that Greffon knows "
                f"under that name: expected {known}, got {preprocessing}"
            )
        name = f"{folder}/{self.filename}" if folder else self.filename
        file = WeightFile(name, None, self.size, None, self.sha256, include_top=self.include_top, added=True)
        return WeightSet(
            self.name,
            self.variant,
            (file,),
            self.licence,
            self.source,
            self.classes,
            preprocessing,
            self.depth,
            format=self.format,
        )


def manifest_of(record: WeightSet, file: WeightFile, *, size: int, sha256: str) -> Manifest:
    """What is written beside a weight set's file.

    Args:
        record: the set.
        file: of the set.
        size: of the file, in bytes.
        sha256: of the file, 64 hex digits.
    """
    preprocessing = record.preprocessing
    return Manifest.model_validate(
        {
            "name": record.name,
            "filename": Path(file.filename).name,
            "size": size,
            "sha256": sha256,
            "published_hash": "none: the user's own file" if file.added else file.published_hash,
            "variant": record.variant,
            "depth": record.depth,
            "include_top": file.include_top,
            "classes": record.classes,
            "format": record.format,
            "licence": record.licence,
            "source": record.source,
            "url": file.url,
            "preprocessing": {
                "name": preprocessing.name,
                "resize": preprocessing.resize,
                "size": preprocessing.size,
                "channel_order": preprocessing.channel_order,
                "scale": preprocessing.scale,
                "mean": list(preprocessing.mean),
                "std": list(preprocessing.std),
            },
        }
    )


def write_manifest(manifest: Manifest, path: Path) -> None:
    """Write a manifest; the file is there whole or as it was."""
    part = path.with_name(path.name + ".part")
    part.write_text(json.dumps(manifest.model_dump(), indent=2) + "\n", encoding="utf-8")
    part.replace(path)


def read_manifest(path: Path) -> Manifest:
    """Read a manifest that anybody may have written.

    Raises:
        WeightFileError: it cannot be read or is none; what is wrong is named.
    """
    try:
        with path.open("rb") as file:
            data = file.read(_LARGEST + 1)
    except OSError as error:
        raise WeightFileError(f"{path} cannot be read: {error.strerror or error}") from None
    if len(data) > _LARGEST:
        raise WeightFileError(f"{path} is no manifest of a weight package: expected at most {_LARGEST:,} bytes")
    try:
        return Manifest.model_validate_json(data)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        raise WeightFileError(
            f"{path} is no manifest of a weight package: {where}: {first['msg']}. Fetch the package again"
        ) from None
