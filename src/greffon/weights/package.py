"""Weight packages: made on a machine with a network, added on one without.

A package is a weight file, its manifest (`FILE.greffon.json`: name, hash, licence, source, preprocessing) and its
licence where Greffon has the text.
"""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from greffon.errors import InputError, WeightFileError
from greffon.weights.added import FOLDER, added_dir, added_set, record_path
from greffon.weights.cache import (
    Digests,
    contradiction,
    digests,
    make_folder,
    record_sha256,
    recorded_sha256,
    weights_dir,
)
from greffon.weights.fetch import Fetched, copy_file, fetch_set, recognise
from greffon.weights.manifest import NAME_PATTERN, SUFFIX, Manifest, manifest_of, read_manifest, write_manifest
from greffon.weights.records import assets, embedded_path
from greffon.weights.sets import (
    PREPROCESSING_LAYER,
    PREPROCESSINGS,
    WEIGHT_SETS,
    Preprocessing,
    WeightFile,
    WeightSet,
    check_variant,
    weight_set,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from greffon.weights.download import Progress
    from greffon.weights.identity import Identity

_DEPTHS = (50, 101, 152)
_LONGEST = 500  # characters of what a file says of itself


@dataclass(frozen=True)
class Added:
    """A weight set that is on this machine now.

    Attributes:
        name: what `weights=` and `--weights` take.
        path: of its file in the cache.
        sha256: of the file, 64 hex digits.
        size: in bytes.
        notes: what the user should know, one sentence each.
    """

    name: str
    path: Path
    sha256: str
    size: int
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Described:
    """What the user says of a weight file that no set knows.

    Attributes:
        name: what the set shall be called.
        variant: of the network; None: as the file tells.
        preprocessing: name of a record; None: as the file tells.
        licence: of the weights; `unknown`: as the file tells.
        source: who trained them; nothing: as the file tells.
    """

    name: str
    variant: str | None = None
    preprocessing: str | None = None
    licence: str = "unknown"
    source: str = ""


def make_package(
    name: str, folder: str | Path, *, include_top: bool = False, progress: Progress | None = None
) -> Fetched:
    """Fetch a weight set's file into a folder, with its manifest and its licence, for a machine without a network.

    Args:
        name: of the weight set.
        folder: is made where it does not exist; may hold other packages.
        include_top: the file with the classifier instead of the one without, where there are two.
        progress: called with the bytes so far and in all.

    Returns:
        The file; the notes name what lies beside it.

    Raises:
        InputError: there is no such set or file, or it cannot be had or written.
    """
    record = weight_set(name)
    fetched = fetch_set(name, folder, include_top=include_top, progress=progress)
    file = record.file(include_top=include_top)
    manifest = manifest_of(record, file, size=fetched.size, sha256=fetched.sha256)
    beside = fetched.path.with_name(fetched.path.name + SUFFIX)
    notes = [*fetched.notes, f"{beside.name} tells what it is; greffon weights add {folder} installs it."]
    try:
        write_manifest(manifest, beside)
        if record.licence_file is not None:
            shutil.copyfile(assets() / "licenses" / record.licence_file, beside.with_name(record.licence_file))
            notes.append(f"{record.licence_file} is its licence ({record.licence}).")
        else:
            notes.append(f"Its licence is {record.licence}, as its source says: {record.source}.")
    except OSError as error:
        raise InputError(f"{beside} cannot be written: {error.strerror or error}") from None
    return replace(fetched, notes=tuple(notes))


def add(path: str | Path, described: Described | None = None) -> list[Added]:
    """Install weights on this machine: packages, or a weight file.

    A file of a known set is recognised by its hash. Any other is installed under a name of the user's own, which
    `weights=` and `--weights` then take; it is opened and identified first, and nothing in it is run.

    Args:
        path: a package's folder, a package's file or manifest, or a weight file.
        described: what the user says of a file that no set knows.

    Returns:
        What was installed; several for a folder with several packages.

    Raises:
        InputError: there is no such path, the name is taken or missing, or the cache cannot be written.
        WeightFileError: the file is not what its manifest or its set says, or no network that Greffon builds.
    """
    path = Path(path).expanduser()
    if not path.exists():
        raise InputError(f"expected a weight package or a weight file, and there is no {path}")
    if described is None:
        if path.is_dir():
            return [_add_package(manifest) for manifest in _manifests_in(path)]
        beside = path if path.name.endswith(SUFFIX) else path.with_name(path.name + SUFFIX)
        if beside.is_file():
            return [_add_package(beside)]
    elif path.is_dir():
        raise InputError(f"a name is for one weight file, and {path} is a folder: name the file in it")
    found = digests(path)
    known = recognise(found)
    if known is not None:
        record, file = known
        note = f"It is the file of the weight set {record.name!r}, told by its hash."
        if described is not None and described.name != record.name:
            note += f" So that is its name, and not {described.name!r}."
        return [_install(path, found, record, file, [note])]
    if described is None:
        raise InputError(
            f"no weight set has a file with the SHA-256 of {path} ({found.sha256}). Install it under a name of your "
            f"own: greffon weights add {path} --name NAME"
        )
    return [_add_own(path, found, described)]


def _manifests_in(folder: Path) -> Iterator[Path]:
    manifests = sorted(folder.glob("*" + SUFFIX))
    if not manifests:
        raise InputError(
            f"there is no weight package in {folder}: expected a *{SUFFIX}, as greffon weights fetch NAME -o DIR "
            "writes it. A weight file without one is added by itself: greffon weights add FILE"
        )
    yield from manifests


def _add_package(beside: Path) -> Added:
    manifest = read_manifest(beside)
    path = beside.with_name(manifest.filename)
    if not path.is_file():
        raise InputError(f"{beside.name} is the manifest of {path.name}, which is not in {beside.parent}: copy both")
    found = digests(path)
    for what, expected, got in (("bytes", manifest.size, found.size), ("SHA-256", manifest.sha256, found.sha256)):
        if expected != got:
            raise WeightFileError(
                f"{path} is not what its manifest says: {what} {expected} expected, {got} found. It was damaged or "
                "changed on its way: copy or fetch it again"
            )
    record = WEIGHT_SETS.get(manifest.name)
    if record is None:
        return _install_own(path, found, manifest, ["Nobody published its hash; it is as its manifest says."])
    file = next((it for it in record.files if it.filename == manifest.filename), None)
    wrong = f"it has no file {manifest.filename}" if file is None else contradiction(file, found)
    if file is None or wrong:
        raise WeightFileError(f"{path} is not the file of the weight set {record.name!r}: {wrong}")
    notes = []
    if file.published_hash == "unverified":
        notes.append("unverified: nobody published a hash of it; it is the file that its package was made with.")
    return _install(path, found, record, file, notes)


def _install(path: Path, found: Digests, record: WeightSet, file: WeightFile, notes: list[str]) -> Added:
    """Copy a file of a known set into the cache."""
    if file.url is None and not file.added:
        note = "It comes with Greffon: nothing had to be installed."
        return Added(record.name, embedded_path(file), found.sha256, found.size, (*notes, note))
    target = make_folder((weights_dir() / file.filename).parent) / file.filename.rpartition("/")[2]
    pinned = recorded_sha256(target)
    if file.published_hash == "unverified" and pinned not in {None, found.sha256} and target.is_file():
        raise WeightFileError(
            f"{path} is not the file that was fetched before as {record.name!r}: SHA-256 {pinned} was written down "
            f"then, this one has {found.sha256}. Delete {target} and its .sha256 if this one is the right one"
        )
    _copy(path, found, target)
    if file.sha256 is None:
        record_sha256(target, found.sha256)
    return Added(record.name, target, found.sha256, found.size, tuple(notes))


def _add_own(path: Path, found: Digests, described: Described) -> Added:
    """Install a file that no set knows, after looking at what it is."""
    from greffon.weights.identify import identify
    from greffon.weights.read import opened

    _check_name(described.name, found)
    with opened(path) as contents:
        identity = identify(contents)
        kind = contents.format
        inside = any(layer.startswith(PREPROCESSING_LAYER) for layer in contents.layer_names)
        described, told = _as_told(described, contents.metadata)
    if identity.refusal:
        raise WeightFileError(f"weight file {path}: {identity.refusal}")
    depth = identity.depth
    if depth is None or depth not in _DEPTHS:
        raise WeightFileError(
            f"weight file {path}: a weight set must be a ResNet of {', '.join(map(str, _DEPTHS))} layers, this is "
            f"{identity.network}. It can still be given as a file"
        )
    if described.variant is not None:
        identity = identity.for_variant(check_variant(described.variant))
    record = WeightSet(
        described.name,
        identity.variant or "v1",
        (WeightFile(described.name + _suffix(path), None, None, None, None, identity.include_top, added=True),),
        described.licence,
        described.source or f"{path.name}, added on this machine",
        identity.classes,
        _preprocessing(path, described, identity, inside=inside),
        depth,
        format=kind,
    )
    manifest = manifest_of(record, record.files[0], size=found.size, sha256=found.sha256)
    return _install_own(path, found, manifest, [identity.sentence(), *told, *identity.notes])


def _as_told(described: Described, metadata: Mapping[str, str]) -> tuple[Described, list[str]]:
    """What the user says of a file, and where that is nothing what the file says itself; and what that is."""
    told: dict[str, str] = {}
    notes: list[str] = []
    unsaid = {"licence": described.licence == Described.licence, "source": not described.source}
    for what, keys in (("licence", ("licence", "license")), ("source", ("source",))):
        said = " ".join(next((metadata[key] for key in keys if metadata.get(key)), "").split())[:_LONGEST]
        if said and unsaid[what]:
            told[what] = said
            notes.append(f"Its {what} is {said!r}, as the file itself says.")
    return replace(described, **told), notes


def _preprocessing(path: Path, described: Described, identity: Identity, *, inside: bool) -> Preprocessing:
    """What the weights were trained with: as the user says, unless it is a layer inside the file."""
    if inside and identity.preprocessing and described.preprocessing not in {None, identity.preprocessing.name}:
        raise InputError(
            f"{path} holds a model with the preprocessing {identity.preprocessing.name!r} inside, not "
            f"{described.preprocessing!r}: leave --preprocessing out"
        )
    if described.preprocessing is not None and not inside:
        known = PREPROCESSINGS.get(described.preprocessing)
        if known is None:
            raise InputError(
                f"preprocessing must be one of {', '.join(PREPROCESSINGS)}, got {described.preprocessing!r}"
            )
        return known
    if identity.preprocessing is None:
        raise InputError(
            f"the preprocessing of {path} {identity.preprocessing_why or 'is not known'}. Say what it was trained "
            f"with: --preprocessing {'|'.join(PREPROCESSINGS)}"
        )
    return identity.preprocessing


def _install_own(path: Path, found: Digests, manifest: Manifest, notes: list[str]) -> Added:
    _check_name(manifest.name, found)
    filename = manifest.name + _suffix(path)
    if filename.endswith(".json"):
        raise InputError(f"expected a weight file, got {path}")
    target = make_folder(added_dir()) / filename
    before = added_set(manifest.name) if record_path(manifest.name).is_file() else None
    _copy(path, found, target)
    # The record comes last: a set without its file would be worse than a file without its set.
    write_manifest(manifest.model_copy(update={"filename": filename}), record_path(manifest.name))
    if before is not None and before.files[0].filename != f"{FOLDER}/{filename}":
        (weights_dir() / before.files[0].filename).unlink(missing_ok=True)
    return Added(manifest.name, target, found.sha256, found.size, tuple(notes))


def _check_name(name: str, found: Digests) -> None:
    if re.fullmatch(NAME_PATTERN, name) is None:
        raise InputError(
            "the name of a weight set must be small letters, digits, '.', '_' or '-', beginning with a letter or "
            f"digit, at most 64, got {name!r}"
        )
    if name in WEIGHT_SETS:
        raise InputError(f"{name!r} is a weight set that Greffon knows, and this is not its file: choose another name")
    taken = added_set(name)
    if taken is not None and taken.files[0].sha256 != found.sha256:
        raise InputError(
            f"the name {name!r} is taken by other weights ({taken.source}): choose another, or delete "
            f"{record_path(name)} first"
        )


def _copy(path: Path, found: Digests, target: Path) -> None:
    """Copy into the cache and look at what arrived: the file may have changed since it was hashed."""
    try:
        if not (target.is_file() and digests(target) == found):
            copy_file(path, target)
    except OSError as error:
        raise InputError(f"{target} cannot be written: {error.strerror or error}") from None
    if digests(target) != found:
        target.unlink(missing_ok=True)
        raise WeightFileError(f"{path} changed while it was copied: add it again")


def _suffix(path: Path) -> str:
    """How the file's name ends, as far as that is harmless."""
    name = path.name.lower()
    if name.endswith(".weights.h5"):
        return ".weights.h5"
    return path.suffix.lower() if re.fullmatch(r"\.[a-z0-9]{1,16}", path.suffix.lower()) else ".weights"
