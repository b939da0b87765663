"""The pictures that come with Greffon: 600 to learn from and 400 to be tested on, of ten kinds of clothes."""

from __future__ import annotations

import os
import re
import secrets
import shutil
import zipfile
from importlib.resources import files
from pathlib import Path

from greffon.errors import DataError, GreffonError, InputError

FOLDER = "fashion-mnist"
"""What the pictures' folder is called."""

# Whatever else an archive may contain, nothing is written outside of the new folder.
_MEMBER = re.compile(r"(train|test)/[A-Za-z][A-Za-z -]*/\d{4}\.png")


def demo_pictures(into: str | Path) -> Path:
    """Unpack the demo pictures, once; where they are already, check that they are still what they were.

    1,000 pictures of Fashion-MNIST, 28 x 28, grey, PNG: `train/<class name>/NNNN.png` (60 for each of 10 classes,
    of the data set's training pictures) and `test/<class name>/NNNN.png` (40, of its test pictures). MIT licence,
    Copyright (c) 2017 Zalando SE.

    Args:
        into: the folder to put them in, made if there is none; they get a folder of their own inside of it, which
            is either complete or absent.

    Returns:
        The folder with `train/` and `test/`.

    Raises:
        DataError: the pictures that are there already were changed.
        InputError: the folder cannot be written to.

    Example:
        >>> import tempfile
        >>> from greffon.pictures.demo import demo_pictures
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     sorted(entry.name for entry in demo_pictures(folder).iterdir())
        ['test', 'train']
    """
    into = Path(into)
    contents = _contents()
    target = into / FOLDER
    if not target.exists():
        try:
            into.mkdir(parents=True, exist_ok=True)
            _write(contents, target)
        except OSError as error:
            raise InputError(
                f"the demo pictures cannot be written into {into}: {error.strerror or error}; give another folder"
            ) from error
    _verify(contents, target)
    return target


def _contents() -> dict[str, bytes]:
    with (
        (files("greffon") / "assets" / "demo_fashion_mnist.zip").open("rb") as file,
        zipfile.ZipFile(file) as archive,
    ):
        contents = {name: archive.read(name) for name in archive.namelist()}
    strange = [name for name in contents if not _MEMBER.fullmatch(name)]
    if strange:
        raise GreffonError(f"the archive of demo pictures holds {strange[0]!r}, which is none: install Greffon again")
    return contents


def _write(contents: dict[str, bytes], target: Path) -> None:
    """Write beside the target and rename, so that an interruption leaves no half of it behind."""
    beside = target.with_name(f".{target.name}-{secrets.token_hex(4)}.tmp")
    try:
        for folder in sorted({name.rpartition("/")[0] for name in contents}):
            (beside / folder).mkdir(parents=True)
        for name, content in contents.items():
            (beside / name).write_bytes(content)
        try:
            beside.rename(target)
        except OSError:
            # Another process was faster: what it wrote is checked like anything that is there already.
            if not target.is_dir():
                raise
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _verify(contents: dict[str, bytes], target: Path) -> None:
    if not target.is_dir():
        raise DataError(f"{target}: is not the folder of demo pictures; move it away, or give another folder")
    # Files of the desktop (.DS_Store, Thumbs.db) are nobody's pictures.
    found = {
        path.relative_to(target).as_posix(): path
        for folder, _, names in os.walk(target)
        for path in (Path(folder, name) for name in names)
        if path.suffix.lower() == ".png" and not path.name.startswith(".")
    }
    missing = sorted(contents.keys() - found.keys())
    added = sorted(found.keys() - contents.keys())
    changed = [name for name in sorted(contents.keys() & found.keys()) if found[name].read_bytes() != contents[name]]
    if missing or added or changed:
        raise DataError(
            f"{target}: the demo pictures were changed ({len(missing)} missing, {len(changed)} changed, {len(added)} "
            f"added; first: {(missing + changed + added)[0]}); move the folder away, or give another one"
        )
