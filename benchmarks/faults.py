"""Faults planted into pictures with a seed, and how many of them a check finds.

    python benchmarks/faults.py [--photos DIR] [--fashion DIR] [--seeds 10] [--pictures 2000] [--weights thin]

Pictures are copied into a temporary folder with train/ and val/, and then: 3 % are copied to the other side as they
are; 3 % are copied there saved again, smaller, cropped by 5 %, mirrored or in other colours; 5 % are moved into a wrong
class; and of each kind of broken file 1 % is added. `greffon.check` knows nothing of it. Asked for: every exact copy,
every broken file and no good one; on photographs 95 % of the near-copies at 95 % precision, and 70 % of the wrong
labels at 60 % precision, mean over the seeds; after splitting no copy and no detected near-copy on both sides.
"""

from __future__ import annotations

import argparse
import gzip
import io
import json
import shutil
import tempfile
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import polars as pl
from PIL import Image, ImageEnhance, ImageOps

HERE = Path(__file__).parents[1]
PHOTOS = HERE.parent / "shared" / "data" / "photos"
FASHION = Path("/usr/share/datasets/fashion-mnist")
NAMES = ("T-shirt", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp"}
CURVE = (0.85, 0.89, 0.92, 0.95, 0.97, 0.98, 0.99)


@dataclass
class Planted:
    """What was done to a folder; paths are relative to it.

    Attributes:
        root: path -> the picture that it is or is made of.
        exact: (original, copy).
        near: (original, copy, what was done).
        moved: path of each picture in a wrong class.
        broken: path -> kind.
        good: paths of all pictures that can be read.
    """

    folder: Path
    root: dict[str, str] = field(default_factory=dict)
    exact: list[tuple[str, str]] = field(default_factory=list)
    near: list[tuple[str, str, str]] = field(default_factory=list)
    moved: list[str] = field(default_factory=list)
    broken: dict[str, str] = field(default_factory=dict)

    @property
    def good(self) -> set[str]:
        return set(self.root)


# -- near-copies ------------------------------------------------------------------------------------------------------


def _saved(image, quality=90):
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=quality)
    return stream.getvalue()


def _cropped(image, random):
    """One that lacks 5 % of its width and height, at a random place."""
    width, height = image.size
    across, down = round(0.95 * width), round(0.95 * height)
    left, top = random.integers(0, width - across + 1), random.integers(0, height - down + 1)
    return image.crop((int(left), int(top), int(left) + across, int(top) + down))


def _recoloured(image, random):
    image = ImageEnhance.Color(image).enhance(random.uniform(0.4, 1.6))
    image = ImageEnhance.Brightness(image).enhance(random.uniform(0.8, 1.25))
    gains = random.uniform(0.85, 1.15, 3)
    return Image.fromarray((np.asarray(image) * gains).clip(0, 255).astype(np.uint8))


def _smaller(image, random):
    factor = random.uniform(0.4, 0.8)
    size = [max(8, round(factor * side)) for side in image.size]
    return image.resize(size, Image.Resampling.BICUBIC)


CHANGES = {
    "re-encoded": lambda image, random: _saved(image, int(random.integers(30, 80))),
    "resized": lambda image, random: _saved(_smaller(image, random)),
    "cropped": lambda image, random: _saved(_cropped(image, random)),
    "mirrored": lambda image, random: _saved(ImageOps.mirror(image)),
    "recoloured": lambda image, random: _saved(_recoloured(image, random)),
}

# -- broken files -----------------------------------------------------------------------------------------------------


def _png(content):
    stream = io.BytesIO()
    Image.open(io.BytesIO(content)).convert("RGB").save(stream, "PNG")
    return stream.getvalue()


def _jpeg(content):
    return _saved(Image.open(io.BytesIO(content)).convert("RGB"))


BROKEN = {
    "empty": (".jpg", lambda content: b""),
    "JPEG cut short": (".jpg", lambda content: _jpeg(content)[: len(_jpeg(content)) // 2]),
    "PNG cut short": (".png", lambda content: _png(content)[: len(_png(content)) // 2]),
    "header alone": (".jpg", lambda content: _jpeg(content)[:20]),
    "zeros": (".jpg", lambda content: bytes(len(content))),
    "end never written": (".jpg", lambda content: _jpeg(content)[:-400] + bytes(400)),
    "a page in its place": (".jpg", lambda content: b"<!DOCTYPE html><html><body>404 Not Found</body></html>"),
    "text": (".png", lambda content: b"path,label\na.jpg,cat\n" * 40),
}


def plant(pictures: dict[str, tuple[bytes, str, str]], folder: Path, seed: int) -> Planted:
    """Write pictures with faults.

    Args:
        pictures: name -> content, class, ending.
        folder: empty.
        seed: of everything.
    """
    random = np.random.default_rng(seed)
    planted = Planted(folder)
    names = sorted(pictures)
    classes = sorted({label for _, label, _ in pictures.values()})
    order = [names[place] for place in random.permutation(len(names))]
    side = {name: "val" if place < len(order) // 5 else "train" for place, name in enumerate(order)}
    chosen = iter(random.permutation(order))
    few, some, one = (max(1, round(share * len(names))) for share in (0.03, 0.05, 0.01))
    copied, changed = [next(chosen) for _ in range(few)], [next(chosen) for _ in range(max(few, len(CHANGES)))]
    wrong = {next(chosen) for _ in range(some)}

    def write(name, content, label, where, suffix, of=None):
        path = f"{where}/{label}/{name}{suffix}"
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)
        if of is not None:
            planted.root[path] = of
        return path

    at = {}
    for name in names:
        content, label, suffix = pictures[name]
        if name in wrong:
            label = str(random.choice([other for other in classes if other != label]))
        at[name] = write(name, content, label, side[name], suffix, of=name)
        if name in wrong:
            planted.moved.append(at[name])
    other = {"train": "val", "val": "train"}
    for name in copied:
        content, label, suffix = pictures[name]
        planted.exact.append((at[name], write(f"{name}-copy", content, label, other[side[name]], suffix, of=name)))
    for number, name in enumerate(changed):
        content, label, _ = pictures[name]
        kind = list(CHANGES)[number % len(CHANGES)]
        made = CHANGES[kind](Image.open(io.BytesIO(content)).convert("RGB"), random)
        path = write(f"{name}-near", made, label, other[side[name]], ".jpg", of=name)
        planted.near.append((at[name], path, kind))
    for kind, (suffix, make) in BROKEN.items():
        for number in range(one):
            content, label, _ = pictures[str(random.choice(names))]
            planted.broken[
                write(f"broken-{kind.replace(' ', '-')}-{number}", make(content), label, "train", suffix)
            ] = kind
    return planted


def judge(planted: Planted, found) -> dict[str, float | int]:
    """What a `greffon.Check` found of what was planted."""
    manifest = found.manifest
    quarantined = set(manifest.filter(pl.col("severity") == "quarantine")["path"])
    exact = _pairs(found, "exact copies")
    near = _pairs(found, "near-copies")
    wanted_near = {frozenset(pair[:2]) for pair in planted.near}
    right = {pair for pair in near if len({planted.root[path] for path in pair}) == 1}
    labels = {path for each in found.of_kind("likely label errors") for path in each.paths}
    hit = labels & set(planted.moved)
    return {
        "exact planted": len(planted.exact),
        "exact found": sum(frozenset(pair) in exact for pair in planted.exact),
        "near planted": len(planted.near),
        "near found": len(wanted_near & near),
        "near told": len(near),
        "near told rightly": len(right),
        "wrong labels": len(planted.moved),
        "labels found": len(hit),
        "labels told": len(labels),
        "broken": len(planted.broken),
        "broken found": len(set(planted.broken) & quarantined),
        "good in quarantine": len(planted.good & quarantined),
        **after_split(planted, found, near, seed=0),
    }


def after_split(planted: Planted, found, near, *, seed: int) -> dict[str, int]:
    """Pairs on both sides of a new split that keeps together what the check found alike."""
    from greffon.pictures.split import split

    catalog = replace(found.catalog, frame=found.catalog.frame.with_columns(split=pl.lit("")))
    hashes = dict(catalog.ok.select("path", "hash").iter_rows())
    together = [[hashes[path] for path in pair] for pair in near]
    sides = dict(split(catalog, seed=seed, together=together).ok.select("path", "split").iter_rows())

    def torn(pairs):
        return sum(len({sides[path] for path in pair}) > 1 for pair in pairs)

    planted_near = [frozenset(pair[:2]) for pair in planted.near]
    return {
        "exact on both sides": torn(planted.exact),
        "detected on both sides": torn(near),
        "undetected": sum(pair not in near for pair in planted_near),
        "undetected on both sides": torn(pair for pair in planted_near if pair not in near),
    }


def _pairs(found, kind):
    """Pairs of paths in the groups of copies of a kind; exact copies are no near-copies."""
    hashes = dict(found.catalog.ok.select("path", "hash").iter_rows())
    pairs = set()
    for each in found.findings:
        if each.kind.startswith(kind):
            paths = each.paths
            pairs |= {frozenset((one, two)) for place, one in enumerate(paths) for two in paths[place + 1 :]}
    if kind == "near-copies":
        pairs = {pair for pair in pairs if len({hashes[path] for path in pair}) > 1}
    return pairs


def photographs(folder: Path) -> dict[str, tuple[bytes, str, str]]:
    """The pictures of a folder of class folders."""
    files = sorted(file for file in folder.glob("*/*") if file.suffix.lower() in SUFFIXES)
    return {f"{file.parent.name}-{file.stem}": (file.read_bytes(), file.parent.name, file.suffix) for file in files}


def fashion(folder: Path, count: int) -> dict[str, tuple[bytes, str, str]]:
    """The first test pictures of Fashion-MNIST."""
    with gzip.open(folder / "t10k-images-idx3-ubyte.gz") as stream:
        pixels = np.frombuffer(stream.read(), np.uint8, offset=16).reshape(-1, 28, 28)
    with gzip.open(folder / "t10k-labels-idx1-ubyte.gz") as stream:
        labels = np.frombuffer(stream.read(), np.uint8, offset=8)
    found = {}
    for place in range(min(count, len(pixels))):
        stream = io.BytesIO()
        Image.fromarray(pixels[place]).save(stream, "PNG")
        found[f"{place:05}"] = (stream.getvalue(), NAMES[labels[place]], ".png")
    return found


def measure(pictures, seeds, *, weights="thin", image_size=224, said=None) -> list[dict[str, float | int]]:
    """Plant and check, once for each seed."""
    from greffon.checking.check import check
    from greffon.training.progress import Reporter

    rows = []
    for seed in seeds:
        folder = Path(tempfile.mkdtemp(prefix="greffon-faults-"))
        try:
            planted = plant(pictures, folder, seed)
            found = check(folder, weights=weights, image_size=image_size, seed=seed, reporter=Reporter())
            rows.append({"seed": seed, **judge(planted, found)})
            rows[-1]["missed"] = Counter(
                kind for *pair, kind in planted.near if frozenset(pair) not in _pairs(found, "near-copies")
            )
            if said is not None:
                said(json.dumps(rows[-1]))
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    return rows


def summary(rows) -> dict[str, float]:
    """Shares over all seeds; of wrong labels the mean of the seeds'."""

    def total(name):
        return sum(row[name] for row in rows)

    return {
        "exact recall": total("exact found") / total("exact planted"),
        "near recall": total("near found") / total("near planted"),
        "near precision": total("near told rightly") / max(1, total("near told")),
        "label recall": float(np.mean([row["labels found"] / row["wrong labels"] for row in rows])),
        "label precision": float(np.mean([row["labels found"] / max(1, row["labels told"]) for row in rows])),
        "broken recall": total("broken found") / total("broken"),
        "good in quarantine": total("good in quarantine"),
        "exact on both sides": total("exact on both sides"),
        "detected on both sides": total("detected on both sides"),
        "undetected": total("undetected"),
        "undetected on both sides": total("undetected on both sides"),
    }


def curve(pictures, *, weights="thin", image_size=224, seed=0) -> list[tuple[float, float, float, int]]:
    """Near-copies by the least correlation asked for: it, recall, precision, pairs told."""
    from greffon.checking.features import build_network, features_of
    from greffon.pictures.decode import decode
    from greffon.pictures.near import THUMBNAIL, near_duplicates
    from greffon.pictures.sources.choose import catalog_of
    from greffon.training.progress import Reporter
    from greffon.training.start import find_start

    with tempfile.TemporaryDirectory(prefix="greffon-faults-") as name:
        planted = plant(pictures, Path(name), seed)
        catalog = catalog_of(name, to="evaluate")
        network = build_network(find_start(weights), image_size)
        features = features_of(network, catalog, image_size, network.resize, Reporter())
        frame = catalog.ok.with_row_index("row").unique("hash", keep="first", maintain_order=True)
        rows = frame["row"].to_list()
        locators, paths = catalog.locators(frame), frame["path"].to_list()

        def thumbnail(row):
            return np.asarray(Image.fromarray(decode(locators[row], THUMBNAIL, "stretch")).convert("L"))

        pairs = near_duplicates(features[rows], thumbnail, least_correlation=min(CURVE))
    wanted = {frozenset((planted.root[one], two)) for one, two, _ in planted.near}
    points = []
    for least in CURVE:
        told = [(paths[pair.first], paths[pair.second]) for pair in pairs if pair.correlation >= least]
        right = [pair for pair in told if planted.root[pair[0]] == planted.root[pair[1]]]
        found = {frozenset((planted.root[one], path)) for one, two in right for path in (one, two)}
        points.append((least, len(wanted & found) / len(wanted), len(right) / max(1, len(told)), len(told)))
    return points


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", type=Path, default=PHOTOS)
    parser.add_argument("--fashion", type=Path, default=FASHION)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--pictures", type=int, default=2000, help="of Fashion-MNIST")
    parser.add_argument("--weights", default="thin")
    parser.add_argument("--image-size", type=int, default=224)
    given = parser.parse_args()
    options = {"weights": given.weights, "image_size": given.image_size}
    for name, folder in (("photographs", given.photos), ("Fashion-MNIST", given.fashion)):
        if not folder.is_dir():
            print(f"{name}: {folder} is not there")
            continue
        pictures = photographs(folder) if name == "photographs" else fashion(folder, given.pictures)
        rows = measure(pictures, range(given.seeds), said=print, **options)
        print(f"\n{name}: {len(pictures)} pictures, {given.seeds} seeds")
        for what, value in summary(rows).items():
            print(f"  {what:26} {value:.3f}" if isinstance(value, float) else f"  {what:26} {value}")
        print("  least correlation, recall, precision and pairs of near-copies, seed 0")
        for point in curve(pictures, **options):
            print("  {:.2f}  {:.3f}  {:.3f}  {}".format(*point))


if __name__ == "__main__":
    main()
