"""Make src/greffon/assets/demo_fashion_mnist.zip from the four files of Fashion-MNIST.

The files are those of https://github.com/zalandoresearch/fashion-mnist, which Debian packages as
dataset-fashion-mnist. The same files give the same archive, byte for byte, with the same version of Pillow.

    python tools/make_demo_pictures.py [FOLDER]
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import io
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image

FOLDER = Path("/usr/share/datasets/fashion-mnist")
ARCHIVE = Path(__file__).parent.parent / "src" / "greffon" / "assets" / "demo_fashion_mnist.zip"

# As the data set's README numbers them; its first one is "T-shirt/top", which cannot name a folder.
CLASSES = ("T-shirt", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
PARTS = {"train": ("train", 60), "test": ("t10k", 40)}
"""Folder in the archive: the data set's name for the part, pictures per class."""
SEED = 0


def main() -> None:
    """Make the archive, and print what is in it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", nargs="?", type=Path, default=FOLDER, help="where the four .gz files are")
    parser.add_argument("--out", type=Path, default=ARCHIVE, help="the archive to write")
    arguments = parser.parse_args()
    names = make_archive(arguments.folder, arguments.out)
    print(f"{arguments.out}: {len(names)} pictures, {arguments.out.stat().st_size:,} bytes")  # noqa: T201


def make_archive(folder: Path, archive: Path) -> list[str]:
    """Write the archive from the data set in `folder`; the names of its members, in order."""
    members: dict[str, bytes] = {}
    contents: set[bytes] = set()
    for part, (prefix, count) in PARTS.items():
        pictures = read_idx(folder / f"{prefix}-images-idx3-ubyte.gz")
        labels = read_idx(folder / f"{prefix}-labels-idx1-ubyte.gz")
        for label, name in enumerate(CLASSES):
            for number, index in enumerate(choose(part, np.flatnonzero(labels == label).tolist(), count)):
                members[f"{part}/{name}/{number:04d}.png"] = png(pictures[index])
                contents.add(pictures[index].tobytes())
    if len(contents) != len(members):
        raise SystemExit("two of the chosen pictures are the same: choose another seed")
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED) as file:
        for name in sorted(members):
            entry = zipfile.ZipInfo(name, date_time=(2017, 8, 25, 0, 0, 0))
            entry.create_system = 3  # else the archive would tell on which system it was made
            entry.external_attr = 0o644 << 16
            file.writestr(entry, members[name])
    return sorted(members)


def read_idx(file: Path) -> np.ndarray:
    """The array of an IDX file of unsigned bytes (two zeros, type 8, number of axes, their lengths, the values)."""
    content = gzip.decompress(file.read_bytes())
    if content[:3] != b"\0\0\x08":
        raise SystemExit(f"{file}: not an IDX file of unsigned bytes")
    axes = content[3]
    shape = [int.from_bytes(content[4 + 4 * axis : 8 + 4 * axis], "big") for axis in range(axes)]
    return np.frombuffer(content, np.uint8, offset=4 + 4 * axes).reshape(shape)


def choose(part: str, indices: list[int], count: int) -> list[int]:
    """`count` of the indices, at random but the same everywhere: those with the lowest hashes, in their own order."""
    ranked = sorted(indices, key=lambda index: hashlib.sha256(f"{SEED} {part} {index}".encode()).digest())
    return sorted(ranked[:count])


def png(pixels: np.ndarray) -> bytes:
    """A grey PNG file."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", optimize=True)
    return file.getvalue()


if __name__ == "__main__":
    main()
