"""Pictures that the embedded weights tell apart easily or hardly, and runs on them with a fault planted."""

from __future__ import annotations

import numpy as np

SIDE = 64
NAMES = ("circle", "frame", "ladder", "wedge")


def drawn(kind, random, noise, contrast):
    """One picture of a kind, uint8 (SIDE, SIDE, 3): noise of so many grey levels, the figure so strong, 0..1."""
    from PIL import Image, ImageDraw

    # Every ground is another one, so that no two pictures are taken for copies.
    ground = Image.fromarray(random.integers(0, 150, (5, 5, 3), np.uint8))
    ground = ground.resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    image = ground.copy()
    pen = ImageDraw.Draw(image)
    x, y, size = (int(it) for it in (*random.integers(4, 20, 2), random.integers(28, 40)))
    ink = tuple(int(it) for it in random.integers(190, 255, 3))
    if kind == 0:
        pen.ellipse((x, y, x + size, y + size), fill=ink)
    elif kind == 1:
        pen.rectangle((x, y, x + size, y + size), outline=ink, width=5)
    elif kind == 2:
        for step in range(0, size, 8):
            pen.line((x, y + step, x + size, y + step), fill=ink, width=3)
    else:
        pen.polygon(((x, y + size), (x + size // 2, y), (x + size, y + size)), fill=ink)
    pixels = np.asarray(Image.blend(ground, image, contrast), np.float32) + random.normal(0, noise, (SIDE, SIDE, 3))
    return np.clip(pixels, 0, 255).astype(np.uint8)


def render(folder, counts, *, noise=8.0, contrast=1.0, seed=0, names=NAMES):
    """A folder of class folders."""
    from PIL import Image

    random = np.random.default_rng(seed)
    for kind, (name, count) in enumerate(zip(names, counts, strict=True)):
        (folder / name).mkdir(parents=True)
        for number in range(count):
            Image.fromarray(drawn(kind, random, noise, contrast)).save(folder / name / f"{number:03}.png")
    return folder


def labels_of(folder):
    """Paths and labels as a table has them, in an order that says nothing."""
    paths = sorted(folder.rglob("*.png"))
    order = np.random.default_rng(1).permutation(len(paths))
    return [str(paths[place]) for place in order], [paths[place].parent.name for place in order]


def train(data, out, *stages, head=None, **options):
    """A run, trained as small as it can be."""
    import greffon
    from greffon.training.progress import Reporter

    stages = stages or (greffon.Stage(name="probe", optimizer="lbfgs"),)
    split = options.pop("split", None)
    options = {"near_copies": "ignore", "validation": 0.3} | options
    recipe = greffon.Recipe(
        weights="thin", image_size=SIDE, head=head or greffon.Head(pool="avg"), stages=stages, **options
    )
    return greffon.train(data, out=out, recipe=recipe, split=split, reporter=Reporter()).path


def rewritten(run, out, *, class_names=None, change=None, split=None):
    """A copy of a run with other names for its outputs, or with a model that was changed."""
    from greffon.bundle.read import read_bundle
    from greffon.bundle.write import BundleContents, write_bundle

    bundle = read_bundle(run)
    model = bundle.model()
    if change is not None:
        change(model)
    names = list(class_names or bundle.class_names)
    table = bundle.table
    if class_names is not None:
        from greffon.evaluation.table import prediction_table, probabilities_of

        table = prediction_table(
            table["path"].to_list(), table["hash"].to_list(), table["label"].to_list(), probabilities_of(table), names
        )
    record = {key: value for key, value in bundle.record.items() if key in {"root", "stages", "pool"}}
    contents = BundleContents(
        model=model, class_names=names, image_size=SIDE, resize=bundle.preprocessing.resize, recipe=bundle.recipe,
        split=bundle.split if split is None else split, history=bundle.history, validation=table, record=record,
    )  # fmt: skip
    return write_bundle(out, contents)
