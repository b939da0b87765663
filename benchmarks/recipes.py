"""What recipes are worth: accuracy, loss and calibration on pictures that no side has seen, over several seeds.

    python benchmarks/recipes.py [--photos FOLDER] [--sets photos,fashion200] [--sides default,tutorial] [--seeds 5]
    python benchmarks/recipes.py --table        # writes the tables of docs/recipes.md from benchmarks/recipes.json

Fashion-MNIST comes from Debian's package `dataset-fashion-mnist` or a folder given by `--fashion`: of every class 10,
60 or 200 pictures are drawn by the seed, and 2,000 fixed pictures of its test set judge. Of photographs a fifth judges,
another one for every seed. Every side learns from the same pictures, split the same way into those to learn from and
those held out; weights `thin`, 224 pixels. What is measured already is kept and not measured again.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
from recipes_table import write_tables

FILE = Path(__file__).parent / "recipes.json"
FASHION = Path("/usr/share/datasets/fashion-mnist")
SETS = ("photos", "fashion10", "fashion60", "fashion200")
JUDGES = 2000
WEIGHTS = "thin"


def sides():
    """Every recipe that is compared, by name. Those with `+` are the default with one thing changed."""
    import greffon
    from greffon.recipe import RECIPES

    default = greffon.Recipe(weights=WEIGHTS)
    probe, block = default.stages
    named = {
        "default": default,
        "tutorial": RECIPES["tutorial"].replace(weights=WEIGHTS),
        "probe": default.replace(stages=(probe,)),
        "block always": default.replace(stages=(probe, block.replace(only_if_better=False))),
    }
    for name, change in HEADS.items():
        named[f"+ {name}"] = default.replace(head=default.head.replace(**change))
    for name, change in BLOCKS.items():
        named[f"+ {name}"] = default.replace(stages=(probe, block.replace(**change)))
    for base, unfreeze in BASES.items():
        stage = block.replace(unfreeze=unfreeze, only_if_better=False)
        plain = default.replace(head=default.head.replace(pool="avg"), stages=(probe, stage))
        named[f"{base}: plain"] = plain
        for name, change in PRACTICE[base].items():
            named[f"{base}: {name}"] = plain.replace(stages=(probe, stage.replace(**change)))
    return named


BASES = {"last-block": "conv5_block3", "conv5": "conv5"}
"""What good practice is tried on: average features, the solved head, then this unfrozen and kept whatever comes out, so
that an option's worth is not hidden by a stage that is taken back."""

PRACTICE = {
    "last-block": {
        "schedule: cosine": {"schedule": "cosine"},
        "schedule: one-cycle": {"schedule": "one-cycle"},
        "warmup: 1": {"warmup": 1.0},
        "optimizer: adamw (weight_decay 0.1)": {"optimizer": "adamw", "weight_decay": 0.1},
        "optimizer: sgd (momentum 0.9)": {"optimizer": "sgd", "momentum": 0.9, "nesterov": True},
        "l2_sp: 10": {"l2_sp": 10.0},
        "label_smoothing: 0.1": {"label_smoothing": 0.1},
        "mixup: 0.2": {"mixup": 0.2},
        "cutmix: 1.0": {"cutmix": 1.0},
        "ema: 0.99": {"ema": 0.99},
        "soup: 5": {"soup": 5},
    },
    "conv5": {
        "group_decay: 0.4": {"group_decay": 0.4},
        "gradual: block": {"gradual": "block", "epochs": 4},
        "l2_sp: 10": {"l2_sp": 10.0},
        "batch_norm: train": {"batch_norm": "train"},
    },
}
"""Options of the fine-tuned stage, each tried alone; `gradual` has a third of the epochs in each of its steps."""

HEADS = {
    "avg": {"pool": "avg"},
    "grid2": {"pool": "grid2"},
    "grid3": {"pool": "grid3"},
    "blocks": {"pool": "blocks"},
    "blocks2": {"pool": "blocks2"},
}
"""Options of the head, each tried alone."""

BLOCKS = {
    "soup 5": {"soup": 5},
    "soup 5, mixup 0.2": {"soup": 5, "mixup": 0.2},
    "ema 0.99": {"ema": 0.99},
}
"""Options of the last block's stage, each tried in the default recipe as it is otherwise."""


# --- pictures -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Drawn:
    """What one seed learns from, as a folder, and the files and labels that judge."""

    folder: Path
    judges: list[Path]
    labels: list[str]


def drawn(name, seed, folder, *, photos, fashion):
    """The pictures of a data set for one seed, written as files where they are not there yet."""
    if name == "photos":
        return _photos(photos, seed, folder / f"photos-{seed}")
    return _fashion(fashion, int(name.removeprefix("fashion")), seed, folder)


def _photos(root, seed, folder):
    """A fifth of each class judges, another fifth for each seed; the rest is copied."""
    judges, labels = [], []
    for kind in sorted(path for path in root.iterdir() if path.is_dir()):
        files = sorted(kind.iterdir())
        np.random.default_rng(0).shuffle(files)
        for place, file in enumerate(files):
            if place % 5 == seed % 5:
                judges.append(file)
                labels.append(kind.name)
                continue
            target = folder / kind.name / file.name
            target.parent.mkdir(parents=True, exist_ok=True)
            if not target.exists():
                shutil.copyfile(file, target)
    return Drawn(folder, judges, labels)


def _fashion(root, per_class, seed, folder):
    train = folder / f"fashion{per_class}-{seed}"
    pictures, labels = _idx(root, "train")
    # The pictures of 10 per class are among those of 200 per class, so that the trunk runs once for all of them.
    order = np.random.default_rng(seed).permutation(len(labels))
    for label in range(10):
        _write(pictures, order[labels[order] == label][:per_class], train / f"class{label}")
    pictures, labels = _idx(root, "t10k")
    chosen = np.sort(np.random.default_rng(0).permutation(len(labels))[:JUDGES])
    judges = _write(pictures, chosen, folder / "fashion-judges")
    return Drawn(train, judges, [f"class{label}" for label in labels[chosen]])


def _idx(root, side):
    with gzip.open(root / f"{side}-images-idx3-ubyte.gz") as file:
        pictures = np.frombuffer(file.read(), np.uint8, offset=16).reshape(-1, 28, 28)
    with gzip.open(root / f"{side}-labels-idx1-ubyte.gz") as file:
        return pictures, np.frombuffer(file.read(), np.uint8, offset=8)


def _write(pictures, chosen, folder):
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / f"{number:05}.png" for number in chosen]
    for number, file in zip(chosen, files, strict=True):
        if not file.exists():
            Image.fromarray(pictures[number]).convert("RGB").save(file)
    return files


# --- sides ----------------------------------------------------------------------------------------------------------


def measure_recipe(recipe, pictures, seed, out):
    """Train a recipe and judge it: accuracy, log loss and calibration error before and after temperature scaling."""
    import greffon
    from greffon.training.progress import Reporter

    start = time.perf_counter()
    run = greffon.train(pictures.folder, out=out, recipe=recipe.replace(seed=seed), reporter=Reporter(), overwrite=True)
    seconds = time.perf_counter() - start
    predictor = run.load()
    plain = _answers(predictor, pictures.judges)
    calibration = predictor.bundle.calibration
    calibrated = calibration.apply(plain) if calibration else plain
    places = np.array([predictor.class_names.index(label) for label in pictures.labels])
    change = _losses(calibrated, places) - _losses(plain, places)
    record = predictor.bundle.record
    kept = [stage.get("kept") for stage in record["stages"] if stage.get("kept") is not None]
    return {
        **_scores(calibrated, places),
        "before": _scores(plain, places),
        "loss_change_error": float(change.std() / np.sqrt(len(change))),
        "temperature": calibration.temperature if calibration else 1.0,
        "pool": (record.get("pool") or {}).get("chosen"),
        "kept": kept[0] if kept else None,
        "validation_accuracy": run.measures.accuracy,
        "seconds": round(seconds, 2),
        "trunk_seconds": record["trunk_seconds"],
    }


def _answers(predictor, files):
    """Uncalibrated probabilities (n, classes) of the run's own model, its frozen part taken from the store."""
    import greffon
    from greffon.frozen.cut import find_cut
    from greffon.frozen.store import ActivationStore
    from greffon.frozen.trunks import Trunks
    from greffon.pictures.decode import decode_many
    from greffon.training.int8 import probabilities

    bundle = predictor.bundle
    decoded = dict(decode_many(files, bundle.preprocessing.size, bundle.preprocessing.resize))
    x = np.stack([decoded[place] for place in range(len(files))])
    model = predictor.keras()
    greffon.freeze(model, "conv5_block3")
    cut = find_cut(model)
    with ActivationStore() as store:
        trunks = Trunks(cut, store, dtype="float16", label="judges", widened=lambda: None)
        source = trunks.rows([x])
        return probabilities(cut, [source], np.arange(len(files)))[0]


def measure_logistic(pictures, seed):
    """scikit-learn's logistic regression, penalty searched, on average features of the same pictures to learn from."""
    from sklearn.linear_model import LogisticRegressionCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    import greffon
    from greffon.pictures.sources.choose import catalog_of
    from greffon.pictures.split import split

    start = time.perf_counter()
    catalog = split(catalog_of(pictures.folder), validation=greffon.Recipe().validation, seed=seed)
    train = catalog.side("train")
    features = _features([catalog.root / path for path in train["path"]])
    search = LogisticRegressionCV(
        Cs=np.logspace(-4, 0, 9), cv=5, scoring="neg_log_loss", max_iter=2000, random_state=seed, n_jobs=1,
        use_legacy_attributes=False, l1_ratios=(0.0,),
    )  # fmt: skip
    solved = make_pipeline(StandardScaler(), search).fit(features, train["label"].to_list())
    names = [str(name) for name in solved.classes_]
    answers = solved.predict_proba(_features(pictures.judges))
    scores = _scores(answers, np.array([names.index(label) for label in pictures.labels]))
    return scores | {"C": float(np.ravel(search.C_)[0]), "seconds": round(time.perf_counter() - start, 2)}


def _features(files):
    """Average features of the backbone: float32 (n, channels)."""
    import greffon
    from greffon.frozen.cut import find_cut
    from greffon.frozen.store import ActivationStore
    from greffon.frozen.trunks import Trunks
    from greffon.pictures.decode import decode_many

    model = greffon.graft(greffon.resnet50(WEIGHTS, input_shape=(224, 224, 3)), 2)
    greffon.freeze(model, "none")
    decoded = dict(decode_many(files, 224, "crop"))
    x = np.stack([decoded[place] for place in range(len(files))])
    with ActivationStore() as store:
        source = Trunks(find_cut(model), store, dtype="float16", label="judges", widened=lambda: None).rows([x])
        return np.asarray(source.gather(np.arange(len(files)))[0], np.float32)


def _scores(answers, places):
    from greffon.evaluation.scores import Answers, calibration_error

    judged = Answers.of(answers, np.eye(answers.shape[1])[places])
    return {
        "accuracy": float(judged.correct.mean()),
        "log_loss": float(_losses(answers, places).mean()),
        "ece": float(calibration_error(judged)),
    }


def _losses(answers, places):
    return -np.log(np.clip(answers[np.arange(len(places)), places].astype(np.float64), 1e-7, 1))


# --- the whole ------------------------------------------------------------------------------------------------------


def measure(options, results):
    """Everything that is asked for and not measured yet, written down one by one."""
    known = sides()
    wanted = options.sides or ["logistic", *known]
    strangers = [name for name in wanted if name not in known and name != "logistic"]
    if strangers:
        sys.exit(f"no such sides: {strangers}; there are logistic, {', '.join(known)}")
    for seed in range(options.seeds):
        for name in options.sets:
            pictures = None
            for side in wanted:
                key = f"{name}/{side}/{seed}"
                if key in results and not options.again:
                    continue
                pictures = pictures or drawn(name, seed, options.folder, photos=options.photos, fashion=options.fashion)
                if side == "logistic":
                    results[key] = measure_logistic(pictures, seed)
                else:
                    results[key] = measure_recipe(known[side], pictures, seed, options.folder / "run")
                FILE.write_text(json.dumps(results, indent=1, sort_keys=True) + "\n", encoding="utf-8")
                print(key, {k: v for k, v in results[key].items() if k != "before"}, flush=True)


def main():
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, help="folder of photographs, one folder per kind")
    parser.add_argument("--fashion", type=Path, default=FASHION, help="the four files of Fashion-MNIST")
    parser.add_argument("--folder", type=Path, default=Path("recipes-data"), help="where pictures and runs are written")
    parser.add_argument("--sets", type=lambda text: text.split(","), default=list(SETS))
    parser.add_argument("--sides", type=lambda text: text.split(","), help="by default all")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--again", action="store_true", help="measure what is measured already")
    parser.add_argument("--table", action="store_true", help="only write the tables")
    options = parser.parse_args()
    if options.photos is None:
        options.sets = [name for name in options.sets if name != "photos"]
    results = json.loads(FILE.read_text(encoding="utf-8")) if FILE.exists() else {}
    if not options.table:
        measure(options, results)
    write_tables(results)


if __name__ == "__main__":
    main()
